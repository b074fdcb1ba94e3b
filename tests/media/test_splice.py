"""Two jobs' output joined: viewers get every picture once."""

from __future__ import annotations

from tvarr.media.model import Kind, Sample
from tvarr.media.splice import Splice

AAC = 1920


def video(pts: int, dts: int | None = None, keyframe: bool = False) -> Sample:
    return Sample(1, pts, pts if dts is None else dts, b"v", keyframe)


def audio(pts: int) -> Sample:
    return Sample(2, pts, pts, b"a", True)


def taken(splice: Splice, samples: list[Sample]) -> list[Sample]:
    kinds = {1: Kind.VIDEO, 2: Kind.AUDIO}
    return [out for s in samples if (out := splice.take(s, kinds[s.track])) is not None]


def test_the_first_job_passes_as_it_is() -> None:
    samples = [video(0, -3600, True), video(10800, 0), video(3600, 3600), audio(0), audio(AAC)]
    assert taken(Splice(), samples) == samples


def test_the_next_job_repeats_nothing_and_goes_on_with_a_keyframe() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True), video(3600), video(7200)])
    assert splice.resume_ticks({1: Kind.VIDEO}) == 7201
    splice.restart()
    out = taken(splice, [video(0, keyframe=True), video(3600), video(7200), video(10800, keyframe=True), video(14400)])
    assert [s.pts_ticks for s in out] == [10800, 14400]
    assert (splice.missing, splice.repeated) == (0, 3)


def test_pictures_before_the_keyframe_are_counted_as_missing() -> None:
    splice = Splice()
    taken(splice, [video(0, keyframe=True)])
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [video(3600), video(7200, keyframe=True)])] == [7200]
    assert splice.missing == 1


def test_decode_times_never_step_back() -> None:
    splice = Splice()
    taken(splice, [video(0, -100, True), video(3600, 3500)])
    splice.restart()
    out = taken(splice, [video(7200, 0, True), video(10800, 3500), video(14400, 7200)])
    assert [s.dts_ticks for s in out] == [3501, 3502, 7200]


def test_sound_goes_on_where_it_stopped() -> None:
    splice = Splice()
    taken(splice, [audio(0), audio(AAC)])
    splice.restart()
    late = 700  # less than half a frame
    out = taken(splice, [audio(late), audio(AAC + late), audio(2 * AAC + late), audio(3 * AAC + late)])
    assert [s.pts_ticks for s in out] == [2 * AAC, 3 * AAC]
    assert splice.resume_ticks({2: Kind.AUDIO}) == 3 * AAC + 1


def test_a_hole_in_the_sound_stays_a_hole() -> None:
    splice = Splice()
    taken(splice, [audio(0), audio(AAC)])
    splice.restart()
    assert [s.pts_ticks for s in taken(splice, [audio(90_000)])] == [90_000]
