"""Fragments: what the muxer writes, then some written box by box."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.mp4_subjects import (
    AUDIO,
    AUDIOS,
    HIGHER,
    IDR,
    PPS,
    SLICE,
    SPS,
    VIDEO,
    VIDEOS,
    demuxed,
    fragmented,
    lengths,
    samples,
    tracks,
)
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.model import TICKS_PER_SECOND, Codec, Sample, Tracks


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


# Written box by box


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
