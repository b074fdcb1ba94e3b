"""What the bytes of coded formats say about themselves: headers and parameter sets, never the coded pictures."""
