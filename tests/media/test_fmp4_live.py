"""Endless MP4: where fragments end, and which tracks are waited for."""

from __future__ import annotations

from dataclasses import replace

from tests.media.test_fmp4_mux import AUDIO, VIDEO, frame, picture, runs
from tvarr.media.fmp4.live import Fragment, Fragmenter
from tvarr.media.model import Sample, Tracks

BOTH = Tracks((VIDEO, AUDIO))
SECOND = 90_000


def pictures(first: int, count: int) -> list[Sample]:
    return [picture(n * 3600, key=n % 50 == 0) for n in range(first, first + count)]


def sounds(start: int, end: int) -> list[Sample]:
    return [frame(ticks) for ticks in range(start, end, 2090)]


def mixed(*lists: list[Sample]) -> list[Sample]:
    return sorted((sample for one in lists for sample in one), key=lambda s: s.dts_ticks)


def made(tracks: Tracks, samples: list[Sample]) -> list[Fragment]:
    fragmenter = Fragmenter()
    return [*fragmenter.set_tracks(tracks), *fragmenter.push(samples), *fragmenter.flush()]


def tracks_of(init: bytes) -> int:
    return init.count(b"trak")


def test_fragments_end_after_half_a_second_and_before_keyframes() -> None:
    fragments = made(Tracks((VIDEO,)), pictures(0, 101))
    assert [fragment.keyframe for fragment in fragments] == [True, False, False, False] * 2 + [True]
    assert [fragment.dts_ticks // 3600 for fragment in fragments] == [12, 25, 38, 49, 62, 75, 88, 99, 100]
    assert len({fragment.init for fragment in fragments}) == 1
    assert all(fragment.data[4:8] == b"moof" for fragment in fragments)


def test_both_tracks_are_waited_for() -> None:
    fragmenter = Fragmenter()
    fragmenter.set_tracks(BOTH)
    assert fragmenter.push(pictures(0, 20)) == []
    (first, *_) = fragmenter.push(mixed(pictures(20, 20), sounds(20 * 3600, 40 * 3600)))
    assert tracks_of(first.init) == 2
    assert first.keyframe


def test_nothing_is_waited_for_where_all_tracks_are_there() -> None:
    fragmenter = Fragmenter()
    fragmenter.set_tracks(BOTH)
    assert len(fragmenter.push(mixed(pictures(0, 15), sounds(0, 15 * 3600)))) == 1


def test_a_track_that_does_not_come_is_left_out_until_it_does() -> None:
    fragments = made(BOTH, mixed(pictures(0, 150), sounds(3 * SECOND, 6 * SECOND)))
    assert [tracks_of(fragment.init) for fragment in fragments[:3]] == [1, 1, 1]
    assert tracks_of(fragments[-1].init) == 2
    assert len({fragment.init for fragment in fragments}) == 2
    assert [fragment.data.count(b"traf") for fragment in fragments[::10]] == [1, 2]
    heard = [run for fragment in fragments for run in runs(fragment.data) if run.track == AUDIO.id]
    assert heard[0].decode_time == 3 * 44_100, "from its first frame on"
    assert sum(len(run.payloads) for run in heard) == len(sounds(3 * SECOND, 6 * SECOND))


def test_pictures_are_waited_for_longer_as_they_begin_with_a_keyframe() -> None:
    first, *_ = made(BOTH, mixed(sounds(0, 9 * SECOND), pictures(30, 20), pictures(50, 175)))
    assert tracks_of(first.init) == 2
    assert sum(fragment.keyframe for fragment in made(BOTH, sounds(0, 12 * SECOND))) == 24


def test_heavy_pictures_that_nobody_can_decode_do_not_end_the_wait_for_a_keyframe() -> None:
    heavy = [s._replace(data=s.data + bytes(1 << 20)) for s in pictures(30, 20)]
    fragments = made(BOTH, mixed(sounds(SECOND, 4 * SECOND), heavy, pictures(50, 50)))
    assert {tracks_of(fragment.init) for fragment in fragments} == {2}
    shown = [run for fragment in fragments for run in runs(fragment.data) if run.track == VIDEO.id]
    assert 50 <= sum(len(run.payloads) for run in shown) < 50 + 17, "what fits, and all from the keyframe on"


def test_samples_of_no_track_and_what_nothing_describes_are_left_out() -> None:
    assert made(Tracks((AUDIO,)), pictures(0, 100)) == []
    assert made(Tracks((replace(VIDEO, init=b""),)), [picture(n * 3600) for n in range(1, 100)]) == []


def test_sound_alone_can_be_joined_anywhere() -> None:
    fragments = made(Tracks((AUDIO,)), sounds(0, 3 * SECOND))
    assert len(fragments) == 6
    assert all(fragment.keyframe for fragment in fragments)


def test_fragments_are_numbered_on_when_the_tracks_change() -> None:
    fragmenter = Fragmenter()
    fragmenter.set_tracks(Tracks((VIDEO,)))
    first = fragmenter.push(pictures(0, 100))
    rest = [*fragmenter.set_tracks(BOTH), *fragmenter.push(mixed(pictures(100, 60), sounds(4 * SECOND, 6 * SECOND)))]
    numbers = [int.from_bytes(fragment.data[20:24], "big") for fragment in [*first, *rest]]
    assert numbers == list(range(1, len(numbers) + 1))
