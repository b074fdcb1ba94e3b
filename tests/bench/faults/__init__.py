"""What viewers lose when daemons, their ffmpeg or their network fail in mid-stream: nothing, as measured here."""
