"""The containers in which media goes into ffmpeg and comes out of it. Pure.

In both the nth track of a job has the id `FIRST_ID + n`, because a relay's track ids need not be usable ones.

**In**: MPEG-TS, or fragmented MP4 where a codec is one that ffmpeg does not know in MPEG-TS.

**Out**: always MPEG-TS. What has no mapping there (AV1, VP9) comes as private data, a packet of the encoder in each PES
packet as it is, which is all that a job wants: PID and time are there, and the job knows what it has asked for (FFmpeg
5.1 and 9.0, tried; it warns that others may not recognize it). ffmpeg's fragmented MP4 is of no use here. A fragment
that a packet of another track ends takes its last duration from the interleaver's queue or from a guess, and where
that is longer than the truth, the next picture gets a time stamp of the muxer's own ("Packet duration: -3003 / dts is
out of range"): of 150 pictures at 29.97 beside sound at 44.1 kHz, 35 were moved (5.1 and 9.0, tried). It also writes a
picture only when the next one has come.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from tvarr.media.fmp4 import entries
from tvarr.media.model import Codec

FIRST_ID = 0x100

PRIVATE_IN_TS = frozenset({Codec.AV1, Codec.VP9})
"""What comes out of ffmpeg as private data."""

OUTPUT = (
    *("-muxdelay", "0", "-muxpreload", "0"),
    *("-pes_payload_size", "0", "-omit_video_pes_length", "0", "-flush_packets", "1", "-f", "mpegts", "pipe:1"),
)
"""Without delay: one frame in a PES packet of known length, so that its end is seen as it comes."""


class Pipe(StrEnum):
    """What goes into ffmpeg, by its name of the format."""

    TS = "mpegts"
    MP4 = "mp4"


def pipe_for(codecs: Iterable[Codec]) -> Pipe:
    """The container for tracks of these codecs."""
    return Pipe.MP4 if any(codec in PRIVATE_IN_TS for codec in codecs) else Pipe.TS


def not_carried(codecs: Iterable[Codec]) -> list[Codec]:
    """Those of the codecs that the container for all of them has no place for."""
    codecs = list(codecs)
    return [codec for codec in codecs if not entries.carries(codec)] if pipe_for(codecs) is Pipe.MP4 else []
