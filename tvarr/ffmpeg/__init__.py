"""FFmpeg: where it is, how it is called, what it says."""
