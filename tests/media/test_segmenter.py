"""Where segments are cut, and what goes into them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media import segmenter
from tvarr.media.model import Codec, Event, Sample, Track, Tracks
from tvarr.media.segmenter import Cut, Segmenter

VIDEO, AUDIO, OTHER = Track(1, Codec.H264), Track(2, Codec.AAC), Track(3, Codec.AAC)
BOTH = Tracks((VIDEO, AUDIO))
SECOND = 90_000
FRAME, SOUND = 3600, 1920


def pictures(first: int, count: int, gop: int = 25, frame: int = FRAME, start: int = SECOND) -> list[Sample]:
    """Pictures number `first` and on; each `gop`th is a keyframe."""
    times = [start + n * frame for n in range(first, first + count)]
    return [Sample(1, t, t, b"p", n % gop == 0) for n, t in enumerate(times, start=first)]


def sounds(start: int, end: int, track: int = 2) -> list[Sample]:
    return [Sample(track, t, t, b"s", True) for t in range(start, end, SOUND)]


def mixed(*lists: list[Sample], behind_ticks: int = 0) -> list[Event]:
    """Interleaved by DTS, sound `behind_ticks` later than pictures."""
    samples = [sample for one in lists for sample in one]
    return sorted(samples, key=lambda s: s.dts_ticks + behind_ticks * (s.track != 1))  # type: ignore[return-value]


def cuts_of(*events: Event, made: Segmenter | None = None) -> list[Cut]:
    made = made or Segmenter()
    return [*made.push(events), *made.end()]


def lengths(cuts: list[Cut]) -> list[float]:
    return [(cut.end_ticks - cut.start_ticks) / SECOND for cut in cuts]


@pytest.mark.parametrize(
    ("gop", "frame", "seconds", "expected"),
    [
        pytest.param(50, 3600, 6, [2, 2, 2], id="a keyframe each 2 s"),
        pytest.param(25, 3600, 6, [2, 2, 2], id="a keyframe each second"),
        pytest.param(12, 3600, 6, [2.4, 2.4, 1.2], id="a keyframe each 0.48 s"),
        pytest.param(48, 3753.75, 6.006, [2.002, 2.002, 2.002], id="23.976 Hz"),
        pytest.param(250, 3600, 20, [10, 10], id="a keyframe each 10 s"),
    ],
)
def test_segments_end_at_the_first_keyframe_after_two_seconds(
    gop: int, frame: float, seconds: float, expected: list[float]
) -> None:
    count = round(seconds * SECOND / frame)
    events = [replace_time(sample, SECOND + round(n * frame)) for n, sample in enumerate(pictures(0, count, gop))]
    cuts = cuts_of(Tracks((VIDEO,)), *events)
    assert lengths(cuts) == pytest.approx(expected, abs=0.0006)
    assert all(cut.samples[0].keyframe and cut.samples[0].pts_ticks == cut.start_ticks for cut in cuts)
    assert all(earlier.end_ticks == later.start_ticks for earlier, later in pairwise(cuts))


def replace_time(sample: Sample, ticks: int) -> Sample:
    return sample._replace(pts_ticks=ticks, dts_ticks=ticks)


def test_a_keyframe_less_than_half_a_frame_too_early_will_do() -> None:
    first, second = pictures(0, 50, 50), pictures(50, 51, 50)
    early = [replace_time(sample, sample.pts_ticks - 1000) for sample in second]
    assert lengths(cuts_of(Tracks((VIDEO,)), *first, *early))[0] == pytest.approx(2 - 1000 / SECOND)


@pytest.mark.parametrize("behind_s", [0.0, 0.7, -0.3])
def test_sound_belongs_where_it_sounds_however_the_multiplex_mixes_it(behind_s: float) -> None:
    events = mixed(pictures(0, 200), sounds(SECOND, 9 * SECOND), behind_ticks=round(behind_s * SECOND))
    cuts = cuts_of(BOTH, *events)
    assert lengths(cuts) == [2, 2, 2, 2]
    for cut in cuts:
        heard = [sample.pts_ticks for sample in cut.samples if sample.track == 2]
        assert heard
        assert all(cut.start_ticks <= time < cut.end_ticks for time in heard)
    for cut, after in pairwise(cuts):
        for track in (1, 2):
            assert cut.following[track] == next(s for s in after.samples if s.track == track)
    assert sorted(s for cut in cuts for s in cut.samples) == sorted(events)  # type: ignore[type-var]


def test_sound_that_comes_too_late_is_in_the_next_segment() -> None:
    events = mixed(pictures(0, 200), sounds(SECOND, 9 * SECOND), behind_ticks=round(1.5 * SECOND))
    cuts = cuts_of(BOTH, *events)
    assert sorted(s for cut in cuts for s in cut.samples) == sorted(events)  # type: ignore[type-var]


def test_a_segment_does_not_wait_for_sound_that_has_ended() -> None:
    made = Segmenter()
    made.push([BOTH, *mixed(pictures(0, 100), sounds(SECOND, 2 * SECOND))])
    assert made.push(pictures(100, 1))


def test_radio_is_cut_by_time() -> None:
    cuts = cuts_of(Tracks((AUDIO,)), *sounds(0, 7 * SECOND))
    assert lengths(cuts)[:3] == pytest.approx([2, 2, 2], abs=SOUND / SECOND)
    assert all(cut.start_ticks == cut.samples[0].pts_ticks for cut in cuts)


def test_sound_that_waits_in_vain_for_pictures_is_shown_alone_until_they_come() -> None:
    alone = sounds(0, 5 * SECOND)
    cuts = cuts_of(BOTH, *alone, *mixed(pictures(0, 100, start=5 * SECOND), sounds(5 * SECOND, 9 * SECOND)))
    with_pictures = [cut for cut in cuts if any(s.track == 1 for s in cut.samples)]
    assert cuts[0].start_ticks == 0
    assert [cut.start_ticks / SECOND for cut in with_pictures] == [5, 7]
    assert sum(len(cut.samples) for cut in cuts) == 100 + len(alone) + len(sounds(5 * SECOND, 9 * SECOND))


@pytest.mark.parametrize("gop", [1, 2])
@pytest.mark.parametrize(("behind_s", "leading"), [(1.5, 1), (3.0, 2)], ids=["pictures lead", "sound leads"])
def test_a_picture_a_second_that_comes_behind_its_sound_makes_no_empty_segments(
    behind_s: float, leading: int, gop: int
) -> None:
    """A radio station with a still: an encoder gives each picture when the next one or two have come."""
    events = mixed(pictures(0, 20, gop, SECOND), sounds(SECOND, 21 * SECOND), behind_ticks=-round(behind_s * SECOND))
    cuts = cuts_of(BOTH, *events)
    assert min(lengths(cuts)) > 0.9
    assert lengths(cuts)[2:9] == pytest.approx([2] * 7, abs=SOUND / SECOND)
    assert all(any(s.track == leading and s.pts_ticks == cut.start_ticks for s in cut.samples) for cut in cuts[2:9])
    assert sorted(s for cut in cuts for s in cut.samples) == sorted(events)  # type: ignore[type-var]


def test_pictures_before_the_first_keyframe_are_left_out() -> None:
    cuts = cuts_of(BOTH, *mixed(pictures(5, 70), sounds(SECOND, 4 * SECOND)))
    seen = [sample for cut in cuts for sample in cut.samples if sample.track == 1]
    assert seen == pictures(25, 50)


@pytest.mark.parametrize("first_s", [0, 2], ids=["with the sound", "behind it"])
def test_pictures_that_come_are_left_out_until_their_first_keyframe(first_s: int) -> None:
    """Decoders can't show what is before it. Sound is kept."""
    shown = pictures(25 * first_s + 1, 300 - 25 * first_s, gop=125)
    cuts = cuts_of(BOTH, *mixed(shown, sounds(SECOND, 13 * SECOND)))
    seen = [sample for cut in cuts for sample in cut.samples if sample.track == 1]
    assert seen[0].keyframe
    assert seen[0].pts_ticks == 125 * FRAME + SECOND
    assert seen == shown[-len(seen) :]
    assert [sample for cut in cuts for sample in cut.samples if sample.track == 2] == sounds(SECOND, 13 * SECOND)
    with_pictures = [cut for cut in cuts if any(sample.track == 1 for sample in cut.samples)]
    assert with_pictures[0].start_ticks == seen[0].pts_ticks
    assert len(cuts) - len(with_pictures) == 1 + first_s // 2, "who waits for pictures counts segments without"


@pytest.mark.parametrize("tracks", [BOTH, Tracks((VIDEO,))], ids=["with sound", "alone"])
def test_pictures_that_never_have_a_keyframe_are_shown_as_they_are_some_time(tracks: Tracks) -> None:
    heard = sounds(SECOND, 25 * SECOND) if tracks is BOTH else []
    cuts = cuts_of(tracks, *mixed(pictures(1, 25 * 24, gop=100_000), heard))
    seen = [sample for cut in cuts for sample in cut.samples if sample.track == 1]
    assert len(seen) == pytest.approx(25 * 14, abs=2)
    assert seen == pictures(1, 25 * 24, gop=100_000)[-len(seen) :]
    assert [sample for cut in cuts for sample in cut.samples if sample.track == 2] == heard


def test_without_a_keyframe_a_segment_ends_some_time() -> None:
    cuts = cuts_of(Tracks((VIDEO,)), *pictures(0, 25 * 45, gop=100_000))
    assert lengths(cuts) == [20, 20, 5]
    assert [cut.independent for cut in cuts] == [True, False, False]


def test_without_a_keyframe_a_segment_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "MAX_SEGMENT_BYTES", 100)
    cuts = cuts_of(Tracks((VIDEO,)), *pictures(0, 250, gop=100_000))
    assert [len(cut.samples) for cut in cuts] == [100, 100, 50]


def test_a_hole_is_not_bridged() -> None:
    events = [*pictures(0, 60), *pictures(25 * 30, 60)]
    cuts = cuts_of(Tracks((VIDEO,)), *events)
    assert [cut.start_ticks / SECOND for cut in cuts] == pytest.approx([1, 3, 31, 33])
    assert lengths(cuts)[1] == pytest.approx(10 * FRAME / SECOND)


def test_other_tracks_begin_at_the_next_keyframe_with_all_that_came_before_it() -> None:
    more = Tracks((VIDEO, AUDIO, OTHER))
    first = mixed(pictures(0, 30), sounds(SECOND, SECOND * 22 // 10))
    rest = mixed(pictures(30, 70), sounds(SECOND * 22 // 10, 5 * SECOND), sounds(SECOND * 22 // 10, 5 * SECOND, 3))
    cuts = cuts_of(BOTH, *first, more, *rest)
    assert lengths(cuts) == [2, 2]
    assert [cut.discontinuity for cut in cuts] == [False, True]
    assert [cut.tracks for cut in cuts] == [BOTH, more]
    assert {s.track for s in cuts[0].samples} == {1, 2}
    assert sorted(s for cut in cuts for s in cut.samples) == sorted([*first, *rest])  # type: ignore[type-var]


def test_another_codec_begins_at_once() -> None:
    recast = Tracks((VIDEO, replace(AUDIO, codec=Codec.AC3)))
    cuts = cuts_of(BOTH, *mixed(pictures(0, 30), sounds(SECOND, 2 * SECOND)), recast, *pictures(30, 45))
    assert [(cut.tracks, cut.independent, cut.discontinuity) for cut in cuts] == [
        (BOTH, True, False),
        (recast, False, True),
        (recast, True, False),
    ]
    assert sum(s.track == 1 for cut in cuts for s in cut.samples) == 75


def test_what_only_becomes_known_changes_nothing() -> None:
    known = Tracks((replace(VIDEO, width=640, height=360), replace(AUDIO, sample_rate=48_000)))
    cuts = cuts_of(BOTH, *pictures(0, 30), known, *pictures(30, 70))
    assert lengths(cuts) == [2, 2]
    assert not any(cut.discontinuity for cut in cuts)
    larger = Tracks((replace(VIDEO, width=1280, height=720), replace(AUDIO, sample_rate=48_000)))
    cuts = cuts_of(known, *pictures(0, 25), larger, *pictures(25, 75))
    assert [cut.discontinuity for cut in cuts] == [False, True, False]
    assert lengths(cuts) == [1, 2, 1]


def test_another_configuration_begins_a_segment() -> None:
    made = Segmenter(lambda track, data: data)
    other = [sample._replace(data=b"q") for sample in pictures(25, 75)]
    cuts = cuts_of(Tracks((VIDEO,)), *pictures(0, 25), *other, made=made)
    assert lengths(cuts) == [1, 2, 1]
    assert [cut.discontinuity for cut in cuts] == [False, True, False]


@pytest.mark.parametrize(
    ("gop", "expected"),
    [
        pytest.param(50, [2, 2, 1.28, 0.72, 2, 2], id="a keyframe each 2 s"),
        pytest.param(25, [2, 2, 1.28, 1.72, 2, 1], id="a keyframe each second"),
        pytest.param(125, [5, 5, 1.28, 3.72, 5, 5], id="a keyframe each 5 s"),
    ],
)
def test_a_job_that_takes_over_in_mid_group_makes_no_segment_longer(gop: int, expected: list[float]) -> None:
    """It begins with a keyframe there and makes the others where the job before made them."""
    made = Segmenter(lambda track, data: data)
    lost_at = round(25 * sum(expected[:3]))
    shown = pictures(0, round(25 * sum(expected)), gop)
    shown[lost_at] = shown[lost_at]._replace(keyframe=True)
    cuts = cuts_of(Tracks((VIDEO,)), *shown[:lost_at], *(s._replace(data=b"q") for s in shown[lost_at:]), made=made)
    assert lengths(cuts) == expected
    assert [cut.discontinuity for cut in cuts] == [n == 3 for n in range(len(cuts))]


@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=12),
    st.integers(-40_000, 60_000),
    st.sampled_from([1501, 1800, 3003, 3600, 3750]),
)
def test_no_sample_is_lost_and_segments_adjoin(gops: list[int], behind: int, frame: int) -> None:
    keys = {sum(gops[:n]) for n in range(len(gops))}
    times = [SECOND + n * frame for n in range(sum(gops))]
    shown = [Sample(1, time, time, b"p", n in keys) for n, time in enumerate(times)]
    events = mixed(shown, sounds(SECOND, times[-1] + frame), behind_ticks=behind)
    cuts = cuts_of(BOTH, *events)
    assert sorted(s for cut in cuts for s in cut.samples) == sorted(events)  # type: ignore[type-var]
    assert all(earlier.end_ticks == later.start_ticks for earlier, later in pairwise(cuts))
    assert all(length >= 2 - frame / SECOND for length in lengths(cuts)[:-1])
    assert cuts[-1].end_ticks == times[-1] + frame or len(times) == 1
