"""What the parsers of audio formats have in common."""

from __future__ import annotations

from typing import NamedTuple

from tvarr.media.model import Codec


class AudioFrame(NamedTuple):
    """The header of one audio frame."""

    codec: Codec
    size_bytes: int  # with the header
    samples: int  # per channel, at `sample_rate`
    sample_rate: int  # Hz
    channels: int  # 0 where the header leaves it to the payload
    dependent: bool = False  # belongs to the frame before it (E-AC-3 substreams), which lasts as long
