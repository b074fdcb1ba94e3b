"""Files written box by box, then what the muxer writes, then real ones; FFmpeg says what is in them. Then damage."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import program
from tests.media.mp4_writer import Table, progressive, rows, with_box
from tvarr.errors import MediaError, MoovBehind
from tvarr.media.codecs import opus
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4 import demux as demuxing
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.fmp4.entries import SampleEntry, describe
from tvarr.media.fmp4.mux import Muxer
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event, Sample, Track, Tracks

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


# Progressive files


def test_a_file_of_two_tracks() -> None:
    events, demuxer = demuxed(progressive([video_table(), audio_table()]))
    (announced,) = tracks(events)
    assert announced == events[0]
    video, audio = announced.tracks
    assert (video.codec, video.init, video.width, video.height, video.fps) == (Codec.H264, VIDEO.init, 640, 360, 30.0)
    assert (audio.codec, audio.language, audio.sample_rate, audio.channels) == (Codec.AAC, "deu", 48_000, 2)
    found = samples(events)
    assert [s.dts_ticks for s in found if s.track == 1] == [3600 * n for n in range(6)]
    assert [s.pts_ticks for s in found if s.track == 2] == [1920 * n for n in range(11)]
    assert [s.dts_ticks for s in found] == sorted(s.dts_ticks for s in found)
    assert (demuxer.stats.samples, demuxer.stats.out_of_order, demuxer.stats.missing) == (17, 0, 0)


def test_keyframes_have_parameter_sets_behind_the_delimiter() -> None:
    found = samples(demuxed(progressive([video_table()]))[0])
    assert found[0].data == joined([AUD, SPS, PPS, IDR])
    assert found[1].data == joined([AUD, SLICE])
    assert [s.keyframe for s in found] == [True, False, False, False, True, False]


def test_parameter_sets_that_are_there_stay_alone() -> None:
    table = replace(video_table(1), chunks=[[lengths(SPS, PPS, IDR)]])
    assert samples(demuxed(progressive([table]))[0])[0].data == joined([SPS, PPS, IDR])


def test_aac_gets_its_header() -> None:
    found = samples(demuxed(progressive([audio_table(1)]))[0])
    assert found[0].data == bytes.fromhex("fff14c80033ffc") + b"\xfc\x00" * 9
    assert found[0].keyframe


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param(video_table(2), [(0, 0), (3600, 3600)], id="none"),
        pytest.param(video_table(2, edits=[(0, 512)]), [(-3600, -3600), (0, 0)], id="starts later in the media"),
        pytest.param(video_table(2, edits=[(500, -1), (0, 0)]), [(45000, 45000), (48600, 48600)], id="starts later"),
        pytest.param(video_table(2, edits=[(500, -1), (0, 512)], wide=True), [(41400,) * 2, (45000,) * 2], id="both"),
        pytest.param(video_table(2, compositions=[1024, 512]), [(7200, 0), (7200, 3600)], id="reordered"),
        pytest.param(video_table(2, compositions=[0, -512]), [(0, -3600), (0, 0)], id="by negative offsets"),
    ],
)
def test_times(table: Table, expected: list[tuple[int, int]]) -> None:
    assert [(s.pts_ticks, s.dts_ticks) for s in samples(demuxed(progressive([table]))[0])] == expected


def test_sizes_in_other_tables() -> None:
    same = replace(audio_table(4), chunks=[[b"\xfc\x01\x02"] * 4])
    for sized in (
        same,
        with_box(same, b"stsz", struct.pack(">III", 0, 3, 4)),
        with_box(replace(same, boxes={b"stsz": b""}), b"stz2", struct.pack(">III4B", 0, 8, 4, 3, 3, 3, 3)),
        with_box(replace(same, boxes={b"stsz": b""}), b"stz2", struct.pack(">III4H", 0, 16, 4, 3, 3, 3, 3)),
    ):
        assert [s.data[7:] for s in samples(demuxed(progressive([sized]))[0])] == [b"\xfc\x01\x02"] * 4


def test_an_index_behind_the_media_is_said() -> None:
    data = progressive([video_table(), audio_table()], moov_first=False)
    demuxer = Demuxer()
    with pytest.raises(MoovBehind) as raised:
        demuxer.feed(data[:60])
    at = raised.value.moov_at
    assert data[at + 4 : at + 8] == b"moov"
    with pytest.raises(MoovBehind):
        demuxer.feed(data[60:])
    events, second = demuxed(data, moov=data[at:])
    assert second.stats.missing == second.stats.unreachable == 0
    in_front = demuxed(progressive([video_table(), audio_table()]))[0]
    assert events == in_front


def test_tracks_lie_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All video, then all audio: in order as long as memory lasts."""
    data = progressive([video_table(), audio_table()], order=[0] * 6 + [1] * 4)
    events, demuxer = demuxed(data)
    assert [s.dts_ticks for s in samples(events)] == sorted(s.dts_ticks for s in samples(events))
    assert demuxer.stats.out_of_order == 0
    monkeypatch.setattr(demuxing, "MAX_HELD_BYTES", 60)
    events, demuxer = demuxed(data)
    assert len(samples(events)) == 17
    assert demuxer.stats.out_of_order > 0
    for track in (1, 2):
        dts = [s.dts_ticks for s in samples(events) if s.track == track]
        assert dts == sorted(dts)
    by_turns = replace(audio_table(60), chunks=[[bytes(18)]] * 60, durations=[1920] * 60)
    _, demuxer = demuxed(progressive([video_table(60), by_turns], order=[1, 0] * 60))
    assert demuxer.stats.out_of_order == 0, "what went out is not held any more"


def test_a_sample_of_another_entry_makes_another_track() -> None:
    """And one of an entry that there is not is left out."""
    low = entry(VIDEO, in_band=False).box
    high = entry(replace(VIDEO, init=joined([HIGHER, PPS])), in_band=False).box
    described = with_box(video_table(6), b"stsd", struct.pack(">II", 0, 2) + low + high)
    table = with_box(
        described, b"stsc", struct.pack(">II", 0, 4) + struct.pack(">12I", 1, 1, 1, 3, 1, 0, 4, 1, 3, 5, 1, 2)
    )
    events, demuxer = demuxed(progressive([table]))
    assert [type(event) for event in events] == [Tracks, Sample, Sample, Tracks, Sample, Sample]
    assert [found.tracks[0].init for found in tracks(events)] == [VIDEO.init, joined([HIGHER, PPS])]
    assert samples(events)[2].data == joined([AUD, HIGHER, PPS, IDR])
    assert demuxer.stats.damaged == 2


def test_scrambled_tracks_say_so() -> None:
    inner = entry(VIDEO, in_band=False).box[8:]
    scrambled = box(b"encv", inner, box(b"sinf", box(b"frma", b"avc1")))
    events, demuxer = demuxed(progressive([replace(video_table(), entry=scrambled), audio_table()]))
    assert [(t.codec, t.scrambled) for t in tracks(events)[0].tracks] == [(Codec.H264, True), (Codec.AAC, False)]
    assert demuxer.stats.scrambled == 6
    assert {s.track for s in samples(events)} == {2}


def test_what_can_not_be_read_is_left_out() -> None:
    text = Table(3, b"text", box(b"tx3g", bytes(60)), 1000, [[b"words"]], [1000])
    events, demuxer = demuxed(progressive([video_table(), text]))
    assert [t.id for t in tracks(events)[0].tracks] == [1]
    assert demuxer.stats.left_out == ["tx3g"]
    with pytest.raises(MediaError, match="tx3g"):
        demuxed(progressive([text]))


# What the muxer writes


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


@settings(max_examples=25)
@given(
    codec=st.sampled_from(sorted(VIDEOS)),
    sound=st.sampled_from(sorted(AUDIOS)),
    in_band=st.booleans(),
    start=st.integers(0, 1 << 45),
    steps=st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 4)), min_size=1, max_size=30),
    gop=st.integers(1, 12),
    per_fragment=st.integers(1, 40),
    chunk=st.integers(1, 5000),
)
def test_what_is_written_is_read(
    codec: Codec,
    sound: str,
    in_band: bool,
    start: int,
    steps: list[tuple[int, int]],
    gop: int,
    per_fragment: int,
    chunk: int,
) -> None:
    video, key, other = VIDEOS[codec]
    audio, frame, frame_samples, rate = AUDIOS[sound]
    content, dts = [], start
    for number, (step, reorder) in enumerate(steps):
        units = key if number % gop == 0 else other
        content.append(Sample(1, dts + reorder * 3600, dts, joined([*units]), number % gop == 0))
        dts += step
    for number in range((dts - start) * rate // TICKS_PER_SECOND // frame_samples + 1):
        ticks = start + round(number * frame_samples * TICKS_PER_SECOND / rate)
        content.append(Sample(2, ticks, ticks, frame, True))
    init, media = fragmented([video, audio], content, per_fragment, in_band=in_band)
    events, demuxer = demuxed(init + media, [chunk])
    assert demuxer.stats.missing == demuxer.stats.damaged == demuxer.stats.unreachable == 0
    read = samples(events)
    assert [s for s in read if s.track == 1] == [s for s in content if s.track == 1]
    heard = [s for s in content if s.track == 2]
    assert [s.data for s in read if s.track == 2] == [s.data for s in heard]
    off = [abs(s.pts_ticks - t.pts_ticks) for s, t in zip((s for s in read if s.track == 2), heard, strict=True)]
    assert max(off, default=0) <= 2  # a unit of 1/44100 s is 2.04 ticks
    (announced,) = tracks(events)
    assert (announced.tracks[0].codec, announced.tracks[0].init) == (codec, video.init)
    assert (announced.tracks[1].codec, announced.tracks[1].sample_rate) == (audio.codec, rate)
    assert announced.tracks[1].channels == 2


def test_another_initialization_segment_in_the_middle() -> None:
    picture = Sample(1, 0, 0, joined([SPS, PPS, IDR]), True)
    init, media = fragmented([VIDEO], [picture], 1)
    other, _ = fragmented([replace(VIDEO, language="fra")], [picture], 1)
    events, _ = demuxed(init + media + init + media + other + media)
    assert [type(event) for event in events] == [Tracks, Sample, Sample, Tracks, Sample]
    assert [found.tracks[0].language for found in tracks(events)] == ["", "fra"]
    made = init.index(b"mvhd") + 8
    later = init[:made] + b"\x01" + init[made + 1 :]
    events, _ = demuxed(init + media + later + media)
    assert [type(event) for event in events] == [Tracks, Sample, Sample], "the same tracks, made at another time"


def test_other_parameter_sets_in_band_make_another_track() -> None:
    sets = [(SPS, PPS), (SPS, b"\x68\xee\x3c\xb0"), (HIGHER, PPS), ()]
    content = [Sample(1, n * 3600, n * 3600, joined([*units, IDR]), True) for n, units in enumerate(sets)]
    init, media = fragmented([VIDEO], content[:1], 4)
    _, changed = fragmented([VIDEO], content[1:], 4)
    events, _ = demuxed(init + media + changed)
    assert [type(event) for event in events] == [Tracks, Sample, Sample, Tracks, Sample, Sample]
    assert [found.tracks[0].init for found in tracks(events)] == [VIDEO.init, joined([HIGHER, PPS])]


def test_tracks_change_behind_what_waits_for_the_sound() -> None:
    pictures = [
        Sample(1, n * 3600, n * 3600, joined([sps, PPS, IDR]), True) for n, sps in enumerate((SPS, SPS, HIGHER))
    ]
    sound = [Sample(2, n * 1920, n * 1920, AUDIOS["aac at 48 kHz"][1], True) for n in range(6)]
    init, _ = fragmented([VIDEO, AUDIO], [pictures[0], *sound], 9)
    _, media = fragmented([VIDEO, AUDIO], [*pictures, *sound], 9)
    events, _ = demuxed(init + media)
    assert [type(event) for event in events[:4]] == [Tracks, Sample, Sample, Tracks]
    assert events[1:3] == pictures[:2]
    assert len(samples(events)) == 9


# Fragments written box by box


def traf(track: int, *runs: bytes, base: int | None = None, time: int | None = None, flags: int = 0) -> bytes:
    """A track fragment whose samples last 512 units and are no keyframes; `base` as an offset in the file."""
    stated = struct.pack(">Q", base) if base is not None else b""
    head = struct.pack(">I", track) + stated + struct.pack(">II", 512, 0x10000)
    header = full_box(b"tfhd", 0, flags | 0x28 | (base is not None), head)
    return box(b"traf", header, full_box(b"tfdt", 1, 0, struct.pack(">Q", time)) if time is not None else b"", *runs)


def trun(*samples_: tuple[int, int], offset: int | None = None) -> bytes:
    """A run of samples of these sizes and composition offsets."""
    head = struct.pack(">I", len(samples_)) + (struct.pack(">i", offset) if offset is not None else b"")
    return full_box(b"trun", 1, 0xA00 | (offset is not None), head, *(struct.pack(">Ii", *one) for one in samples_))


def placed(*trafs: bytes) -> tuple[bytes, int]:
    """A moof, and where the content of the mdat behind it begins."""
    moof = box(b"moof", full_box(b"mfhd", 0, 0, struct.pack(">I", 1)), *trafs)
    return moof, len(moof) + 8


FRAMES = [bytes((0xFC, n)) * 9 for n in range(8)]
SLICES = [lengths(SLICE + bytes((n,))) for n in range(1, 9)]


def both_inits() -> bytes:
    content = [Sample(1, 0, 0, joined([SPS, PPS, IDR]), True), Sample(2, 0, 0, AUDIOS["aac at 48 kHz"][1], True)]
    return fragmented([VIDEO, AUDIO], content, 2)[0]


def test_data_lies_behind_what_came_before_it() -> None:
    """Runs without an offset go on behind the run before, track fragments without a base behind the one before."""
    init = both_inits()
    nine, eighteen = (len(SLICES[0]), 0), (len(FRAMES[0]), 0)

    def trafs(at: int) -> tuple[bytes, ...]:
        video = traf(1, trun(nine, nine), trun(nine), base=len(init) + at, time=0)
        return video, traf(2, trun(eighteen), trun(eighteen), time=0), traf(1, trun(nine))

    moof, at = placed(*trafs(placed(*trafs(0))[1]))
    events, demuxer = demuxed(init + moof + box(b"mdat", *SLICES[:3], *FRAMES[:2], SLICES[3]))
    assert len(init + moof) + 8 == len(init) + at
    found = samples(events)
    assert [s.data[4:] for s in found if s.track == 1] == [unit[4:] for unit in SLICES[:4]]
    assert [s.data[7:] for s in found if s.track == 2] == FRAMES[:2]
    assert [s.dts_ticks for s in found if s.track == 1] == [512 * n for n in range(4)]
    assert (demuxer.stats.missing, demuxer.stats.fragments) == (0, 1)
    assert demuxed(init + moof)[1].stats.missing == 6


def test_without_decode_times_fragments_follow_each_other() -> None:
    """Decode times stay as early as any composition offset made them."""
    init, size = both_inits(), len(SLICES[0])
    parts = []
    for n, compositions in enumerate([(-512, 512), (0, 0), (0, 0)]):
        rows_ = [(size, composition) for composition in compositions]
        at = placed(traf(1, trun(*rows_, offset=0), flags=0x020000))[1]
        moof, _ = placed(traf(1, trun(*rows_, offset=at), flags=0x020000))
        parts.append(moof + box(b"mdat", *SLICES[2 * n : 2 * n + 2]))
    found = samples(demuxed(init + b"".join(parts))[0])
    assert [s.dts_ticks for s in found] == [512 * n - 512 for n in range(6)]
    assert [s.pts_ticks for s in found] == [-512, 1024, 1024, 1536, 2048, 2560]


def test_what_waits_comes_before_another_initialization_segment() -> None:
    """It waits for sound that is not where the fragment says."""
    init, size = both_inits(), len(SLICES[0])

    def moof_at(at: int) -> tuple[bytes, int]:
        picture = traf(1, trun((size, 0), offset=at), time=512, flags=0x020000)
        return placed(traf(2, trun((9, 0), offset=1 << 20), time=0, flags=0x020000), picture)

    moof, _ = moof_at(moof_at(0)[1])
    other, _ = fragmented([replace(VIDEO, language="fra")], [Sample(1, 0, 0, joined([SPS, PPS, IDR]), True)], 1)
    events, demuxer = demuxed(init + moof + box(b"mdat", SLICES[0]) + other)
    assert [type(event) for event in events] == [Tracks, Sample, Tracks]
    assert demuxer.stats.missing == 1


def test_a_sample_does_not_reach_into_another_box() -> None:
    """What is left of it in one mdat is no beginning of what the next one holds."""
    init, size = both_inits(), len(FRAMES[0])
    at = placed(traf(2, trun((size, 0), offset=0), trun((size, 0), offset=0), time=0, flags=0x020000))[1]
    runs = trun((size, 0), offset=at), trun((size, 0), offset=at + 5 + 8)
    moof, _ = placed(traf(2, *runs, time=0, flags=0x020000))
    events, demuxer = demuxed(init + moof + box(b"mdat", FRAMES[0][:5]) + box(b"mdat", FRAMES[1]))
    assert [s.data[7:] for s in samples(events)] == [FRAMES[1]]
    assert demuxer.stats.unreachable == 1


def test_boxes_of_others_are_passed_over() -> None:
    init, media = fragmented([VIDEO], [Sample(1, 0, 0, joined([SPS, PPS, IDR]), True)], 1)
    others = [box(b"sidx", bytes(40)), full_box(b"emsg", 1, 0, bytes(60)), box(b"free"), box(b"\xa9xyz", b"?")]
    large = struct.pack(">I4sQ", 1, b"uuid", 16 + 9) + bytes(9)
    assert len(samples(demuxed(init + b"".join(others) + large + media)[0])) == 1


# What others write


def probe(path: Path) -> tuple[list[Fraction], list[list[int]]]:
    """Time bases and the PTS of all packets of each stream, as ffprobe finds them."""
    command = [program("ffprobe"), "-v", "error", "-of", "json"]
    command += ["-show_entries", "packet=stream_index,pts:stream=time_base", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    bases = [Fraction(stream["time_base"]) for stream in found["streams"]]
    times: list[list[int]] = [[] for _ in bases]
    for packet in found["packets"]:
        times[packet["stream_index"]].append(packet["pts"])
    return bases, times


def assert_like_ffprobe(path: Path) -> list[Event]:
    events, demuxer = demuxed(path.read_bytes())
    bases, times = probe(path)
    for track, base, expected in zip(tracks(events)[0].tracks, bases, times, strict=True):
        found = [s.pts_ticks for s in samples(events) if s.track == track.id]
        assert len(found) == len(expected)
        off = [abs(pts * base * TICKS_PER_SECOND - ticks) for pts, ticks in zip(expected, found, strict=True)]
        assert max(off) <= Fraction(1, 2), track
    stats = demuxer.stats
    assert (stats.damaged, stats.missing, stats.unreachable, stats.out_of_order) == (0, 0, 0, 0)
    by_track = [[s for s in samples(events) if s.track == t.id] for t in tracks(events)[0].tracks]
    for found in by_track:
        assert all(a.dts_ticks < b.dts_ticks for a, b in pairwise(found))
        assert all(s.dts_ticks <= s.pts_ticks for s in found)
        assert found[0].keyframe
    return events


CODECS = {"offline_av1.mp4": Codec.AV1, "offline_h264.mp4": Codec.H264, "offline_h265.mp4": Codec.HEVC}


@pytest.mark.parametrize("name", [*CODECS, "offline_vp9.mp4"])
def test_small_files(name: str, media_dir: Path) -> None:
    events = assert_like_ffprobe(media_dir / "mp4_small" / name)
    (track,) = tracks(events)[0].tracks
    assert (track.codec, track.width, track.height) == (CODECS.get(name, Codec.VP9), 1920, 1080)
    assert len(samples(events)) == 30
    init, media = fragmented([track], samples(events), 7)
    again = demuxed(init + media)[0]
    assert samples(again) == samples(events)
    (found,) = tracks(again)[0].tracks
    assert found == replace(track, fps=found.fps, init=found.init)  # that of AV1 differs from the one in the samples
    assert found.init == track.init or track.codec is Codec.AV1


@pytest.mark.parametrize(("kind", "count"), [("video", 90), ("audio", 131)])
def test_cmaf_segments(kind: str, count: int, media_dir: Path, tmp_path: Path) -> None:
    folder = media_dir / "hls_cmaf_fmp4"
    segments = sorted(folder.glob(f"{kind}_*.m4s"), key=lambda path: int(re.sub(r"\D", "", path.stem)))
    path = tmp_path / "all.mp4"
    path.write_bytes(b"".join(p.read_bytes() for p in [folder / f"{kind}_init.mp4", *segments]))
    assert len(samples(assert_like_ffprobe(path))) == count


def made(folder: Path, *options: str) -> bytes:
    """A second of a test picture and a tone, made by ffmpeg with these options."""
    path = folder / "made.mp4"
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=1.2"]
    command += ["-f", "lavfi", "-i", "sine=r=44100:d=1.2", "-threads", "1", *options, "-f", "mp4", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.read_bytes()


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-b_strategy", "0", "-g", "12", "-c:a", "aac")
FRAGMENTS = "frag_keyframe+empty_moov"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((*H264, "-movflags", "+faststart"), id="progressive"),
        pytest.param((*H264, "-movflags", FRAGMENTS), id="fragments, base offsets"),
        pytest.param((*H264, "-movflags", FRAGMENTS + "+default_base_moof"), id="fragments"),
        pytest.param((*H264, "-movflags", FRAGMENTS + "+separate_moof"), id="a moof for each track"),
        pytest.param((*H264, "-movflags", "frag_keyframe+delay_moov"), id="with edit lists"),
        pytest.param((*H264, "-movflags", "dash+global_sidx"), id="with a segment index"),
        pytest.param(("-c:v", "mpeg2video", "-c:a", "ac3", "-movflags", "+faststart"), id="MPEG-2 and AC-3"),
        pytest.param(("-vn", "-c:a", "eac3", "-ac", "6", "-movflags", "+faststart"), id="E-AC-3"),
        pytest.param(("-vn", "-c:a", "libopus", "-movflags", FRAGMENTS), id="Opus"),
        pytest.param(("-vn", "-c:a", "libmp3lame", "-movflags", "+faststart"), id="MP3"),
    ],
)
def test_what_ffmpeg_writes(options: tuple[str, ...], tmp_path: Path) -> None:
    data = made(tmp_path, *options)
    events = assert_like_ffprobe(tmp_path / "made.mp4")
    assert demuxed(data, [1, 7, 1000, 33])[0] == events


def test_negative_offsets_by_ffmpeg(tmp_path: Path) -> None:
    """They put the first picture at 0, as it was. FFmpeg 5.1 reads it one picture late: it takes the least from all."""
    events, _ = demuxed(made(tmp_path, *H264, "-movflags", FRAGMENTS + "+negative_cts_offsets"))
    (base, _), (times, _) = probe(tmp_path / "made.mp4")
    pictures = [s for s in samples(events) if s.track == 1]
    assert [s.pts_ticks for s in pictures] == [(pts - times[0]) * base * TICKS_PER_SECOND for pts in times]
    assert (pictures[0].pts_ticks, pictures[0].dts_ticks) == (0, -3600)


def test_a_track_that_is_left_out_takes_its_room(tmp_path: Path) -> None:
    """The data of a track fragment without a base lies behind that of the one before, whoever reads it."""
    flac = ("-map", "0:v", "-map", "1:a", "-map", "1:a", *H264, "-c:a:0", "flac", "-strict", "-2", "-movflags")
    stated, demuxer = demuxed(made(tmp_path, *flac, FRAGMENTS))
    assert demuxer.stats.left_out == ["fLaC"]
    assert demuxed(made(tmp_path, *flac, FRAGMENTS + "+omit_tfhd_offset"))[0] == stated


def decoded(path: Path, stream: str) -> bytes:
    """A hash of every decoded picture or of all sound, without times."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-ignore_editlist", "1"]
    command += ["-i", str(path), "-map", f"0:{stream}"]
    command += ["-fps_mode", "passthrough"] if stream == "v" else []
    done = subprocess.run([*command, "-f", "streamhash", "-"], check=True, capture_output=True, timeout=60)
    assert done.stderr == b""
    return done.stdout.partition(b"=")[2]


HEVC = ("-an", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "bframes=3:pools=1:log-level=none")


@pytest.mark.parametrize(
    ("source", "stream", "codecs"),
    [
        pytest.param("offline_av1.mp4", "v", "av01.0.08M.08", id="AV1"),
        pytest.param("offline_h264.mp4", "v", "avc3.42c028", id="H.264"),
        pytest.param("offline_h264.mp4", "v", "avc1.42c028", id="H.264, sets out of band"),
        pytest.param("offline_h265.mp4", "v", "hev1.1.6.L120.90", id="HEVC"),
        pytest.param("offline_vp9.mp4", "v", "vp09.00.40.08", id="VP9"),
        pytest.param((*HEVC, "-movflags", "+faststart"), "v", "hvc1.1.6.L30.90", id="HEVC, sets out of band"),
        pytest.param(("-vn", "-c:a", "aac", "-movflags", FRAGMENTS), "a", "mp4a.40.2", id="AAC"),
        pytest.param(("-vn", "-c:a", "ac3", "-ac", "6", "-movflags", "+faststart"), "a", "ac-3", id="AC-3"),
        pytest.param(("-vn", "-c:a", "eac3", "-movflags", "+faststart"), "a", "ec-3", id="E-AC-3"),
        pytest.param(("-vn", "-c:a", "libopus", "-movflags", FRAGMENTS), "a", "opus", id="Opus"),
    ],
)
def test_written_again_it_decodes_to_the_same(
    source: str | tuple[str, ...], stream: str, codecs: str, media_dir: Path, tmp_path: Path
) -> None:
    path, in_band = tmp_path / "made.mp4", not codecs.startswith(("avc1", "hvc1"))
    if isinstance(source, str):
        path = media_dir / "mp4_small" / source
    else:
        made(tmp_path, *source)
    events = demuxed(path.read_bytes())[0]
    listed = tracks(events)[0].tracks
    second = TICKS_PER_SECOND  # later: what is before 0 can't be written
    content = [s._replace(pts_ticks=s.pts_ticks + second, dts_ticks=s.dts_ticks + second) for s in samples(events)]
    again = tmp_path / "again.mp4"
    again.write_bytes(b"".join(fragmented(listed, content, 9, in_band=in_band)))
    assert decoded(again, stream) == decoded(path, stream)
    (base,), (times,) = probe(again)
    found = [round(pts * base * TICKS_PER_SECOND) for pts in times]
    assert max(abs(a - b.pts_ticks) for a, b in zip(found, content, strict=True)) <= (stream == "a")
    writer = Muxer(listed, in_band=in_band)
    writer.learn(content[0])
    assert writer.codecs() == codecs


def test_encrypted_by_ffmpeg(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    options = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key)
    events, demuxer = demuxed(made(tmp_path, *H264, *options, "-movflags", "+faststart"))
    assert [(t.codec, t.scrambled) for t in tracks(events)[0].tracks] == [(Codec.H264, True), (Codec.AAC, True)]
    assert demuxer.stats.scrambled > 70
    assert not samples(events)


def test_ffmpeg_writes_its_index_behind(tmp_path: Path) -> None:
    data = made(tmp_path, *H264)
    with pytest.raises(MoovBehind) as raised:
        demuxed(data)
    events, _ = demuxed(data, moov=data[raised.value.moov_at :])
    assert len(samples(events)) == sum(map(len, probe(tmp_path / "made.mp4")[1]))


# Damage


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
