"""No parser takes longer than its input grows: eight times as much takes about eight times as long, not 64 times."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import pytest

from tests.fuzz.targets import HEADS, Run, channels, packed, sections, source
from tests.media.mp4_writer import Table, progressive
from tests.media.ts_writer import AUD, PPS, SPS, Writer, adts, h264_slice, pes
from tvarr.errors import MediaError
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.fmp4.entries import describe
from tvarr.media.model import Codec, Track
from tvarr.media.mpegts import psi

FACTOR = 8
TOLERATED = 3 * FACTOR  # times as long; a parser that is quadratic takes FACTOR * FACTOR times as long
VIDEO, AUDIO = 0x100, 0x101
STREAMS = (psi.PmtStream(0x1B, VIDEO), psi.PmtStream(0x0F, AUDIO))


def repeated(piece: bytes) -> Callable[[int], bytes]:
    return lambda size: (piece * (size // len(piece) + 1))[:size]


def behind_tables(packets: Callable[[Writer], Iterator[bytes]]) -> Callable[[int], bytes]:
    """A transport stream of a program with H.264 and AAC that goes on so."""

    def make(size: int) -> bytes:
        writer = Writer()
        head = writer.tables(*STREAMS)
        return head + b"".join(islice(packets(writer), size // 188))

    return make


def unit_of(pid: int, payload: bytes) -> Callable[[Writer], Iterator[bytes]]:
    """One PES packet that never ends."""

    def packets(writer: Writer) -> Iterator[bytes]:
        yield from writer.packets(pid, (pes(b"", 0) + payload * 30)[:184])
        while True:
            for packet in writer.packets(pid, (payload * 184)[: 184 * 16]):
                yield packet[:1] + bytes((packet[1] & 0xBF,)) + packet[2:]

    return packets


def tiny_pes(writer: Writer) -> Iterator[bytes]:
    for ticks in range(0, 1 << 30, 10):
        yield from writer.packets(VIDEO, pes(AUD + SPS + PPS + h264_slice(ticks, idr=True, size=10), ticks))


def other_tables(writer: Writer) -> Iterator[bytes]:
    """A PMT with other streams each time."""
    for number in range(1 << 30):
        pmt = psi.Pmt(1, number % 32, psi.NULL_PID, b"", (*STREAMS, psi.PmtStream(0x0F, 0x200 + number % 0x1000)))
        yield from writer.packets(0x1000, b"\0" + psi.build_pmt(pmt))
        yield from writer.packets(0x200 + number % 0x1000, pes(adts(100), number * 1920, stream_id=0xC0, length=True))


def all_pids(writer: Writer) -> Iterator[bytes]:
    while True:
        for pid in range(0x20, 0x1FFE):
            yield from writer.packets(pid, pes(bytes(100), 0))


MOOV = progressive(
    [Table(1, b"vide", describe(Track(1, Codec.VP9), bytes.fromhex("824983420013f00b3600")).box, 1000, [], [])]
)  # type: ignore[union-attr]


def tiny_fragments(size: int) -> bytes:
    entry = box(b"traf", full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 1)))
    return MOOV + repeated(box(b"moof", entry) + box(b"mdat", b"x"))(size)


def one_run_that_lies(size: int) -> bytes:
    """A row for each sample, all where nothing is."""
    count = size // 4
    run = full_box(b"trun", 0, 0x201, struct.pack(">Ii", count, 1 << 30), b"\0\0\0\1" * count)
    traf = box(b"traf", full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 1)), run)
    return MOOV + box(b"moof", traf) + box(b"mdat", bytes(1000))


def many_tracks(size: int) -> bytes:
    trak = box(b"trak", full_box(b"tkhd", 0, 7, bytes(80)))
    return box(b"ftyp", b"isom", bytes(4)) + box(b"moov", repeated(trak)(size // len(trak) * len(trak)))


def entry(codec: Codec) -> Run:
    return partial(describe, Track(1, codec, sample_rate=48_000, channels=2))


CASES: dict[str, tuple[Run, Callable[[int], bytes], int]] = {
    "sync bytes": (source, repeated(b"\x47"), 1 << 16),
    "null packets": (source, repeated(b"\x47\x1f\xff\x10" + bytes(184)), 1 << 17),
    "a packet for each PID": (source, behind_tables(all_pids), 1 << 18),
    "a PES that never ends": (source, behind_tables(unit_of(VIDEO, b"\xaa")), 1 << 17),
    "start codes without end": (source, behind_tables(unit_of(VIDEO, b"\0\0\1")), 1 << 16),
    "slices without end": (source, behind_tables(unit_of(VIDEO, b"\0\0\1\x41\x9a")), 1 << 16),
    "sync words of sound": (source, behind_tables(unit_of(AUDIO, b"\xff\xf1")), 1 << 15),
    "a picture each packet": (source, behind_tables(tiny_pes), 1 << 14),
    "a PMT with each packet": (source, behind_tables(other_tables), 1 << 14),
    "tiny sections": (sections, repeated(b"\1\0" + b"\x02\xb0\x00" * 61), 1 << 15),
    "tiny boxes": (source, lambda size: MOOV + repeated(box(b"free"))(size), 1 << 16),
    "tiny fragments": (source, tiny_fragments, 1 << 15),
    "a run that lies": (source, one_run_that_lies, 1 << 14),
    "many tracks": (source, many_tracks, 1 << 16),
    "NAL units": (entry(Codec.H264), repeated(b"\0\0\1\x67\x64"), 1 << 15),
    "emulation prevention": (entry(Codec.HEVC), lambda size: b"\0\0\1\x42\1" + repeated(b"\0\0\3")(size), 1 << 17),
    "OBUs": (entry(Codec.AV1), repeated(b"\x12\0"), 1 << 16),
    "E-AC-3 frames": (entry(Codec.EAC3), repeated(b"\x0b\x77\x00\x04\x34\x80\x00\x00\x00\x00"), 1 << 15),
    "packed sound": (packed, repeated(b"\xff\xf1"), 1 << 14),
    "packed tags": (packed, repeated(b"ID3\4\0\0\0\0\0\0"), 1 << 14),
    "attributes": (
        channels,
        lambda size: b"#EXTM3U\n" + repeated(b'#EXTINF:-1 a="b" c=d,e\nhttp://h/\n')(size),
        1 << 15,
    ),
    "quotes": (channels, lambda size: b"#EXTM3U\n" + repeated(b"#EXTINF:" + b'a="' * 5000 + b"\nx\n")(size), 1 << 16),
    **{f"head {n}": (parse, repeated(b"\0"), 1 << 17) for n, parse in enumerate(HEADS[:3])},
}


def seconds(run: Run, data: bytes) -> float:
    """Of CPU time, the least of three."""
    took = []
    for _ in range(3):
        began = time.process_time()
        with contextlib.suppress(MediaError):
            run(data)
        took.append(time.process_time() - began)
    return min(took)


@pytest.mark.parametrize("what", CASES)
def test_time_grows_with_the_length_only(what: str) -> None:
    run, make, size = CASES[what]
    once, more = seconds(run, make(size)), seconds(run, make(FACTOR * size))
    assert more < TOLERATED * max(once, 0.001), f"{once:.4f} s, and {more:.4f} s for {FACTOR} times as much"
