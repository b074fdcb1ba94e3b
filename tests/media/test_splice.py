"""Two jobs' output joined: viewers get every picture once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.model import Kind, Sample
from tvarr.media.splice import MAX_HELD_PICTURES, Splice

AAC = 1920


def video(pts: int, dts: int | None = None, keyframe: bool = False) -> Sample:
    return Sample(1, pts, pts if dts is None else dts, b"v", keyframe)


def audio(pts: int) -> Sample:
    return Sample(2, pts, pts, b"a", True)


def taken(splice: Splice, samples: list[Sample]) -> list[Sample]:
    kinds = {1: Kind.VIDEO, 2: Kind.AUDIO}
    return [out for s in samples for out in splice.take(s, kinds[s.track])]


def pts_of(splice: Splice, sample: Sample) -> list[int]:
    return [out.pts_ticks for out in splice.take(sample, Kind.VIDEO)]


def test_the_first_job_passes_as_it_is() -> None:
    samples = [video(0, keyframe=True), audio(0), video(3600), audio(AAC), video(7200)]
    assert taken(Splice(), samples) == samples


def test_pictures_leave_in_closed_groups() -> None:
    splice = Splice()
    assert pts_of(splice, video(7200, 0, True)) == []
    assert pts_of(splice, video(18000, 3600)) == []  # a P picture before the B pictures that refer to it
    assert pts_of(splice, video(10800, 7200)) == [7200]
    assert pts_of(splice, video(14400, 10800)) == []
    assert splice.resume_ticks({1: Kind.VIDEO}) == 7201
    assert pts_of(splice, video(28800, 14400)) == []
    assert pts_of(splice, video(21600, 18000)) == [18000, 10800, 14400]
    assert splice.resume_ticks({1: Kind.VIDEO}) == 18001
    assert [s.pts_ticks for s in splice.finish()] == [28800, 21600]
    assert splice.finish() == []


def test_what_was_held_back_of_a_lost_job_comes_from_the_next_one() -> None:
    splice = Splice()
    first = [video(7200, 0, True), video(18000, 3600), video(10800, 7200), video(14400, 10800)]
    assert [s.pts_ticks for s in taken(splice, first)] == [7200]
    splice.restart()
    then = [video(7200, 0, True), video(10800, 3600, True), video(14400, 14400), video(18000, 18000)]
    assert [s.pts_ticks for s in taken(splice, then)] == [10800, 14400, 18000]
    assert (splice.missing, splice.repeated) == (0, 1)


@given(st.data())
def test_at_every_moment_all_that_is_shown_before_the_frontier_was_released(data: st.DataObject) -> None:
    """Any order of decoding with DTS that grow and lie at or below PTS; whatever the depth of reordering."""
    depth = data.draw(st.integers(0, 5))
    count = data.draw(st.integers(1, 40))
    order = sorted(range(count), key=lambda n: n + data.draw(st.integers(0, depth)) - depth * (n == 0))
    samples = [video(3600 * (n + depth), 3600 * at, keyframe=n == 0) for at, n in enumerate(order)]
    if any(s.pts_ticks < s.dts_ticks for s in samples):
        return
    splice = Splice()
    released: list[Sample] = []
    for sample in samples:
        released += splice.take(sample, Kind.VIDEO)
        assert released == samples[: len(released)]
        shown = [s.pts_ticks for s in released]
        assert all(later.pts_ticks > max(shown, default=-1) for later in samples[len(released) :])
    assert released + splice.finish() == samples


def test_more_than_a_decoder_may_hold_is_passed_on() -> None:
    splice = Splice()
    samples = [video(10**9 - n, n, keyframe=not n) for n in range(MAX_HELD_PICTURES + 1)]
    assert taken(splice, samples) == samples


def test_pictures_that_nobody_kept_are_counted() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True), video(3600)])
    splice.restart(gap=True)
    assert [s.pts_ticks for s in taken(splice, [video(18000, keyframe=True), video(21600)])] == [18000, 21600]
    assert splice.missing == 3


def test_the_next_job_repeats_nothing_and_goes_on_with_a_keyframe() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True), video(3600), video(7200)])
    assert splice.resume_ticks({1: Kind.VIDEO}) == 7201
    splice.restart()
    out = taken(splice, [video(0, keyframe=True), video(3600), video(7200), video(10800, keyframe=True), video(14400)])
    assert [s.pts_ticks for s in out] == [10800, 14400]
    assert (splice.missing, splice.repeated) == (0, 3)


def test_a_hole_in_the_source_is_no_picture_that_is_missing() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True), video(3600)])
    splice.restart()
    taken(splice, [video(18000, keyframe=True)])
    assert splice.missing == 0


def test_pictures_before_the_keyframe_are_counted_as_missing() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True)])
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [video(3600), video(7200, keyframe=True)])] == [7200]
    assert splice.missing == 1


def test_decode_times_never_step_back() -> None:
    splice = Splice()
    taken(splice, [video(0, -100, True), video(3600, 3500), video(7200, 7100)])
    splice.restart()
    out = taken(splice, [video(7200, 0, True), video(10800, 3502), video(14400, 14400)])
    assert [s.dts_ticks for s in out] == [3501, 3502, 14400]


@pytest.mark.parametrize("frame", [AAC, 2160, 2880, 360], ids=["AAC", "MP2", "AC-3", "Opus of 4 ms"])
def test_sound_goes_on_where_it_stopped(frame: int) -> None:
    splice = Splice()
    taken(splice, [audio(0), audio(frame)])
    splice.restart()
    late = frame // 3  # less than half a frame
    out = taken(splice, [audio(n * frame + late) for n in range(4)])
    assert [s.pts_ticks for s in out] == [2 * frame, 3 * frame]
    assert splice.resume_ticks({2: Kind.AUDIO}) == 3 * frame + 1


def test_a_hole_in_the_sound_stays_a_hole() -> None:
    splice = Splice()
    taken(splice, [audio(0), audio(AAC)])
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [audio(90_000)])] == [90_000]


def test_sound_behind_a_hole_is_where_its_own_job_has_it() -> None:
    """Not moved by as much as that of the job before was."""
    splice = Splice()
    taken(splice, [audio(0), audio(AAC)])
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [audio(2 * AAC + 700)])] == [2 * AAC]
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [audio(90_000)])] == [90_000]
