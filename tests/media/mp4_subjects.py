"""Files of MP4 to read, of tables written box by box or made by the muxer, and what comes out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tests.media.mp4_writer import Table
from tvarr.media.codecs import opus
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4.boxes import box
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.fmp4.entries import SampleEntry, describe
from tvarr.media.fmp4.mux import Muxer
from tvarr.media.model import Codec, Event, Sample, Track, Tracks

SPS, PPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96"), bytes.fromhex("68ebecb22c")
HIGHER = b"\x67\x64\x00\x1f" + SPS[4:]  # of another level
AUD, IDR, SLICE = b"\x09\xf0", b"\x65\x88\x84\x00\x33\xff", b"\x41\x9a\x24\x6c"
VIDEO = Track(1, Codec.H264, init=joined([SPS, PPS]))
AUDIO = Track(2, Codec.AAC, sample_rate=48_000, channels=2)
FTYP = box(b"ftyp", b"isom", bytes(4))


def entry(track: Track, data: bytes = b"", *, in_band: bool = True) -> SampleEntry:
    found = describe(track, data, in_band=in_band)
    assert found is not None
    return found


def lengths(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def demuxed(data: bytes, sizes: Iterable[int] = (), **options: Any) -> tuple[list[Event], Demuxer]:
    """Everything in chunks of these sizes, the last of them as often as it takes."""
    demuxer, events, at, size = Demuxer(**options), [], 0, len(data) or 1
    chunks = iter(sizes)
    while at < len(data):
        size = next(chunks, size)
        events += demuxer.feed(data[at : at + size])
        at += size
    return events + demuxer.flush(), demuxer


def samples(events: Iterable[Event]) -> list[Sample]:
    return [event for event in events if isinstance(event, Sample)]


def tracks(events: Iterable[Event]) -> list[Tracks]:
    return [event for event in events if isinstance(event, Tracks)]


def video_table(count: int = 6, **changes: Any) -> Table:
    """25 Hz in a timescale of 12800, a keyframe each four pictures, one chunk a picture."""
    pictures = [lengths(AUD, IDR if n % 4 == 0 else SLICE) for n in range(count)]
    plain = Table(1, b"vide", entry(VIDEO, in_band=False).box, 12_800, [[p] for p in pictures], [512] * count)
    return replace(plain, keyframes=[n + 1 for n in range(count) if n % 4 == 0], **changes)


def audio_table(count: int = 11, **changes: Any) -> Table:
    frames = [bytes((0xFC, n)) * 9 for n in range(count)]
    chunks = [frames[n : n + 3] for n in range(0, count, 3)]
    plain = Table(2, b"soun", entry(AUDIO).box, 48_000, chunks, [1024] * count, language="deu")
    return replace(plain, **changes)


def fragmented(
    listed: Sequence[Track], content: Sequence[Sample], per_fragment: int, *, in_band: bool = True
) -> tuple[bytes, bytes]:
    """Initialization segment and fragments."""
    writer = Muxer(listed, in_band=in_band)
    for sample in content:
        if writer.differs(sample):
            writer.learn(sample)
    ordered = sorted(content, key=lambda s: s.dts_ticks)
    parts = [writer.fragment(n + 1, ordered[n : n + per_fragment]) for n in range(0, len(ordered), per_fragment)]
    return writer.init_segment(), b"".join(parts)


HEVC_SETS = (
    bytes.fromhex("40010c01ffff01600000030090000003000003001e959809"),
    bytes.fromhex("42010101600000030090000003000003001ea00281404165965666924caf016808000003000800000300c840"),
    bytes.fromhex("4401c172b46240"),
)
AC3 = bytes.fromhex("0b77000014404b") + bytes(121)
VIDEOS = {
    Codec.H264: (Track(1, Codec.H264, init=joined([SPS, PPS])), [SPS, PPS, IDR], [SLICE]),
    Codec.HEVC: (Track(1, Codec.HEVC, init=joined([*HEVC_SETS])), [*HEVC_SETS, b"\x26\x01\xaf\x09"], [b"\x02\x01\xd0"]),
}
AUDIOS = {
    "aac at 48 kHz": (Track(2, Codec.AAC), bytes.fromhex("fff14c80011ffc") + b"\xaa", 1024, 48_000),
    "aac at 44.1 kHz": (Track(2, Codec.AAC), bytes.fromhex("fff15080011ffc") + b"\xaa", 1024, 44_100),
    "ac3": (Track(2, Codec.AC3), AC3, 1536, 48_000),
    "opus": (Track(2, Codec.OPUS, init=opus.head(2)), b"\xfc\x01\x02\x03", 960, 48_000),
}
