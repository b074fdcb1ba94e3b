"""The schemes of sources that a daemon's ffmpeg may fetch: the allow list of coordinator and daemons alike.

Each names what an ffmpeg needs for it: an input protocol (`ffmpeg -protocols`), and where the protocol alone is no
format, a demuxer (`ffmpeg -demuxers`).
"""

from __future__ import annotations

from collections.abc import Mapping

NEEDS: Mapping[str, tuple[str, str]] = {
    # scheme: (protocol, demuxer)
    "rtsp": ("tcp", "rtsp"),
    "rtsps": ("tls", "rtsp"),
    "rtmp": ("rtmp", "flv"),
    "rtmps": ("rtmps", "flv"),
    "rtmpe": ("rtmpe", "flv"),
    "rtmpt": ("rtmpt", "flv"),
    "rtmpts": ("rtmpts", "flv"),
    "srt": ("srt", ""),
    "rist": ("rist", ""),
    "udp": ("udp", ""),
    "rtp": ("rtp", "rtp"),
    "tcp": ("tcp", ""),
    "mmsh": ("mmsh", "asf"),
    "mmst": ("mmst", "asf"),
    "ftp": ("ftp", ""),
    "http": ("http", ""),
    "https": ("https", ""),
}

FETCHED_SCHEMES = frozenset(NEEDS) - {"http", "https"}
"""What the coordinator never reads by itself; HTTP it hands on where the container is one that it does not know."""

LISTENING_SCHEMES = frozenset({"udp", "rtp", "srt", "rist", "tcp"})
"""A URL of these may name a port alone, on which the daemon then waits for the sender."""
