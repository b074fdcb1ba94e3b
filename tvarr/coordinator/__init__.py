"""The coordinator: sources in, jobs out to daemons, streams to viewers."""
