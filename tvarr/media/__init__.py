"""Containers, codecs, time and buffers. Pure: bytes in, samples out, and back."""
