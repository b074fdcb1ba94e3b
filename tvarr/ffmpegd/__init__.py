"""The daemon: takes jobs, runs FFmpeg, sends samples back."""
