"""tvarr: a distributed live transcoder."""

__version__ = "0.1.0"
