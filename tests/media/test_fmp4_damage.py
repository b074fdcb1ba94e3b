"""Files and fragments that are damaged, or that lie."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.mp4_subjects import (
    AUDIO,
    AUDIOS,
    FTYP,
    IDR,
    PPS,
    SLICE,
    SPS,
    VIDEO,
    audio_table,
    demuxed,
    fragmented,
    lengths,
    samples,
    video_table,
)
from tests.media.mp4_writer import progressive, rows, with_box
from tvarr.errors import MediaError
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4 import demux as demuxing
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.model import Sample


def table_of(rows_: int, *, size: int = 1) -> bytes:
    """A file whose tables speak of 10^9 samples and more in a few bytes."""
    table = replace(audio_table(1), chunks=[[b"\xfc\x00\x00"]])
    table = with_box(table, b"stsz", struct.pack(">III", 0, size, rows_))
    table = replace(table, boxes={**table.boxes, b"stts": rows(b"stts", "II", [(rows_, 1)])})
    return progressive([replace(table, boxes={**table.boxes, b"stsc": rows(b"stsc", "III", [(1, rows_, 1)])})])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", "no MP4", id="text"),
        pytest.param(b"\x47" * 188, "no MP4", id="a transport stream"),
        pytest.param(FTYP + struct.pack(">I4s", 4, b"free"), "byte 16", id="smaller than its header"),
        pytest.param(FTYP + struct.pack(">I4s", 100, b"\x00\x01\x02\x03"), "byte 16", id="no kind"),
        pytest.param(FTYP + struct.pack(">I4s", 0xFFFFFFF0, b"moov"), "moov of 4294967280", id="an endless index"),
        pytest.param(FTYP + struct.pack(">I4sQ", 1, b"moov", 1 << 60), "moov of", id="an index of 2^60 bytes"),
        pytest.param(FTYP + struct.pack(">I4s", 0, b"moov"), "moov of 0", id="an index without end"),
        pytest.param(FTYP + box(b"moov"), "without a track", id="an empty index"),
        pytest.param(FTYP + box(b"moov", struct.pack(">I4s", 500, b"trak")), "trak of 500", id="a lying box"),
        pytest.param(FTYP + box(b"moov", box(b"free") * 10_001), "more than 10000", id="a box of many"),
        pytest.param(FTYP + box(b"moof", box(b"mfhd", bytes(8))), "what it holds", id="a fragment alone"),
        pytest.param(FTYP, "ends before its index", id="nothing behind"),
        pytest.param(FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(99), "in front", id="media without end"),
        pytest.param(
            progressive([with_box(audio_table(1), b"stco", struct.pack(">II", 0, 1 << 30))]), "stco", id="lying rows"
        ),
        pytest.param(table_of(10**9, size=1 << 25), "where its index says", id="10^9 samples too large"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    for sizes in ([], [1]):
        with pytest.raises(MediaError, match=message):
            demuxed(data, sizes)


def test_what_came_before_the_damage_comes_out_first() -> None:
    data = progressive([video_table()]) + b"\x00\x00\x00\x02free"
    demuxer = Demuxer()
    assert len(samples(demuxer.feed(data))) == 6
    for call in (lambda: demuxer.feed(b"more"), demuxer.flush, demuxer.flush):
        with pytest.raises(MediaError, match="no MP4 box"):
            call()


def test_a_billion_samples_in_twenty_bytes() -> None:
    events, demuxer = demuxed(table_of(10**9))
    assert len(samples(events)) == 3
    assert demuxer.stats.missing == 10**9 - 3
    init, _ = fragmented([VIDEO], [], 1)
    header = full_box(b"tfhd", 0, 0x020000, struct.pack(">I", 1))
    empty = box(b"moof", box(b"traf", header, full_box(b"trun", 0, 0, struct.pack(">I", 10**9))))
    with pytest.raises(MediaError, match="where its index says"):
        demuxed(init + empty + box(b"mdat", b"1"))
    inside = full_box(b"trun", 0, 1, struct.pack(">Ii", 10**9, len(empty) + 4 + 8))
    with pytest.raises(MediaError, match="where its index says"):
        demuxed(init + box(b"moof", box(b"traf", header, inside)) + box(b"mdat", b"1"))


def test_a_fragment_that_lies() -> None:
    init, media = fragmented([VIDEO], [Sample(1, 0, 0, joined([SPS, PPS, IDR]), True)], 1)
    run = media.index(b"trun") + 8
    huge = media[:run] + struct.pack(">I", 1 << 31) + media[run + 4 :]
    with pytest.raises(MediaError, match="trun with more rows"):
        demuxed(init + huge)
    for flags in (0x01, 0x04, 0x05):
        short = full_box(b"trun", 0, flags, struct.pack(">I", 0) + b"\x00" * (4 * (flags == 0x05)))
        fragment = box(b"moof", box(b"traf", full_box(b"tfhd", 0, 0x020000, struct.pack(">I", 1)), short))
        with pytest.raises(MediaError, match="trun that is cut off"):
            demuxed(init + fragment + box(b"mdat", b"1"))
    away = media[: run + 4] + struct.pack(">i", 1 << 30) + media[run + 8 :]
    events, demuxer = demuxed(init + away + media)
    assert (len(samples(events)), demuxer.stats.missing) == (1, 1)


def test_a_sample_that_lies_is_dropped() -> None:
    table = replace(video_table(2), chunks=[[b"\x00\x00\x10\x00" + IDR], [lengths(SLICE)]])
    events, demuxer = demuxed(progressive([table]))
    assert (len(samples(events)), demuxer.stats.damaged) == (1, 1)


def test_what_is_too_large_or_too_late_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    init, media = fragmented([VIDEO], [Sample(1, 0, 0, joined([SPS, PPS, IDR]), True)], 1)
    when = media.index(b"tfdt") + 8
    for time, count in ((1 << 60, 1), ((1 << 60) + 1, 0)):
        late = media[:when] + struct.pack(">Q", time) + media[when + 8 :]
        events, demuxer = demuxed(init + late)
        assert (len(samples(events)), demuxer.stats.damaged) == (count, 1 - count)
    monkeypatch.setattr(demuxing, "MAX_SAMPLE_BYTES", 18)
    table = replace(audio_table(3), chunks=[[bytes(18), bytes(19), bytes(18)]])
    events, demuxer = demuxed(progressive([table]))
    assert [s.dts_ticks for s in samples(events)] == [0, 3840]
    assert (demuxer.stats.oversized, demuxer.stats.unreachable) == (1, 0)


def test_a_file_that_ends_early() -> None:
    data = progressive([video_table(), audio_table()])
    events, demuxer = demuxed(data[:-40])
    assert len(samples(events)) + demuxer.stats.missing == 17
    assert demuxer.stats.missing == 3
    assert demuxed(b"")[0] == []


@cache
def subjects() -> tuple[bytes, ...]:
    pictures = [
        Sample(1, n * 3600 + 7200, n * 3600, joined([SPS, PPS, IDR] if n % 4 == 0 else [SLICE]), n % 4 == 0)
        for n in range(12)
    ]
    sound = [Sample(2, n * 1920, n * 1920, AUDIOS["aac at 48 kHz"][1], True) for n in range(20)]
    init, media = fragmented([VIDEO, AUDIO], [*pictures, *sound], 9)
    return (
        init + media,
        progressive([video_table(edits=[(500, -1), (0, 512)], compositions=[512] * 6), audio_table()]),
        progressive([video_table(wide=True)]),
    )


@settings(max_examples=300)
@given(
    subject=st.integers(0, 2),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.tuples(st.integers(0, 4000), st.integers(0, 30)),
    chunk=st.integers(1, 3000),
)
def test_damage_is_counted_or_said(
    subject: int, changes: list[tuple[int, bytes]], cut: tuple[int, int], chunk: int
) -> None:
    data = bytearray(subjects()[subject])
    for at, replacement in changes:
        at %= len(data)
        data[at : at + len(replacement)] = replacement
    del data[cut[0] : cut[0] + cut[1]]
    outcomes = []
    for size in (len(data), chunk):
        demuxer, events, failure, at = Demuxer(), [], "", 0
        try:
            while at < len(data):
                events += demuxer.feed(bytes(data[at : at + size]))
                at += size
            events += demuxer.flush()
        except MediaError as error:
            failure = str(error)
        outcomes.append((events, failure))
        for sample in samples(events):
            assert sample.dts_ticks <= sample.pts_ticks
            assert abs(sample.pts_ticks) <= demuxing.MAX_TICKS
        assert sum(len(sample.data) for sample in samples(events)) < 100 * len(data)
    assert outcomes[0] == outcomes[1]


def test_real_files_damaged(media_dir: Path) -> None:
    chance = random.Random(5)
    for path in sorted((media_dir / "mp4_small").glob("*.mp4")):
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(chance.randrange(1, 20)):
                data[chance.randrange(min(len(data), 3000))] = chance.randrange(256)
            with suppress(MediaError):
                demuxed(bytes(data), [chance.choice([100, 5000, 100_000])])
