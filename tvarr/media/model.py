"""What crosses every boundary: tracks and samples.

Time stamps are in ticks of the 90 kHz MPEG system clock's base (ISO/IEC 13818-1, 2.4.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

TICKS_PER_SECOND = 90_000
TICKS_33BIT = 1 << 33  # where PTS and DTS wrap in MPEG-TS: after 26.5 hours


def signed_33(ticks: int) -> int:
    """A difference of two 33-bit times, the shorter way around."""
    return (ticks + TICKS_33BIT // 2) % TICKS_33BIT - TICKS_33BIT // 2


class Kind(StrEnum):
    VIDEO = "video"
    AUDIO = "audio"
    SUBTITLE = "subtitle"
    DATA = "data"


class Codec(StrEnum):
    """Coded formats by the names that FFmpeg gives them."""

    H264 = "h264"
    HEVC = "hevc"
    MPEG1VIDEO = "mpeg1video"
    MPEG2VIDEO = "mpeg2video"
    AV1 = "av1"
    VP9 = "vp9"
    AAC = "aac"
    AAC_LATM = "aac_latm"
    MP1 = "mp1"
    MP2 = "mp2"
    MP3 = "mp3"
    AC3 = "ac3"
    EAC3 = "eac3"
    DTS = "dts"
    OPUS = "opus"
    DVB_SUBTITLE = "dvb_subtitle"
    DVB_TELETEXT = "dvb_teletext"
    SCTE_35 = "scte_35"
    TIMED_ID3 = "timed_id3"
    PRIVATE = "private"  # anything else: carried, never looked into

    @property
    def kind(self) -> Kind:
        return _KINDS.get(self, Kind.DATA)


_KINDS = {
    **dict.fromkeys((Codec.H264, Codec.HEVC, Codec.MPEG1VIDEO, Codec.MPEG2VIDEO, Codec.AV1, Codec.VP9), Kind.VIDEO),
    **dict.fromkeys((Codec.AAC, Codec.AAC_LATM, Codec.MP1, Codec.MP2, Codec.MP3), Kind.AUDIO),
    **dict.fromkeys((Codec.AC3, Codec.EAC3, Codec.DTS, Codec.OPUS), Kind.AUDIO),
    **dict.fromkeys((Codec.DVB_SUBTITLE, Codec.DVB_TELETEXT), Kind.SUBTITLE),
}


class Sample(NamedTuple):
    """One coded frame of one track, the unit that crosses every boundary.

    A NamedTuple, because thousands are made per second: it costs half of a frozen dataclass.
    """

    track: int
    pts_ticks: int  # presentation time; on a relay's timeline unwrapped to 64 bits, straight from a demuxer 33 bits
    dts_ticks: int  # decode time; never above pts_ticks; strictly growing within a track on a timeline
    data: bytes  # one access unit: Annex B for H.264 and HEVC, ADTS for AAC, sections as they are for SCTE-35
    keyframe: bool = False  # decoding can start here; True for every audio frame


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream. Zero and empty mean not known."""

    id: int  # unique in its relay; from MPEG-TS: the PID
    codec: Codec
    language: str = ""  # ISO 639-2, three letters
    width: int = 0  # coded picture size after cropping, pixels
    height: int = 0
    fps: float = 0.0  # frames (not fields) per second as the stream states it
    interlaced: bool = False
    sample_rate: int = 0  # Hz
    channels: int = 0
    init: bytes = b""  # parameter sets as in band: VPS/SPS/PPS in Annex B, the sequence header of MPEG-2, OpusHead
    stream_type: int = 0  # MPEG-TS stream_type (13818-1, table 2-34), kept for private streams
    descriptors: bytes = b""  # the PMT's descriptors of this stream, as they came
    scrambled: bool = False  # transport_scrambling_control was set: its samples can't be read

    @property
    def kind(self) -> Kind:
        return self.codec.kind


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks from here on; the samples that follow belong to these. Comes first, and again on each change."""

    tracks: tuple[Track, ...]
    program: int = 0  # MPEG-TS program number

    def get(self, track_id: int) -> Track | None:
        return next((t for t in self.tracks if t.id == track_id), None)

    def of_kind(self, kind: Kind) -> tuple[Track, ...]:
        return tuple(t for t in self.tracks if t.kind is kind)


Event = Sample | Tracks
"""What a demuxer returns and a ring holds, in stream order."""
