"""Examples first, then the properties that must hold for any input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec, Sample, Track, Tracks
from tvarr.media.timeline import MAX_GAP_TICKS, TOLERANCE_TICKS, Timeline

VIDEO, AUDIO, TEXT = 256, 257, 258
TRACKS = Tracks((Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC), Track(TEXT, Codec.DVB_TELETEXT)))
PICTURE, FRAME = 3600, 1920  # 25 Hz; AAC at 48 kHz
SECOND = TICKS_PER_SECOND


def timeline() -> Timeline:
    line = Timeline()
    line.set_tracks(TRACKS)
    return line


def raw(track: int, dts: int, reorder: int = 0) -> Sample:
    """A sample as a demuxer gives it: 33 bits."""
    return Sample(track, (dts + reorder) % TICKS_33BIT, dts % TICKS_33BIT, b"x", True)


def programme(start: int, seconds: float, audio_late: int = SECOND // 2) -> list[Sample]:
    """Video and audio from `start` on; audio comes as late in the stream as it does from real multiplexers."""
    video = [(start + n * PICTURE, raw(VIDEO, start + n * PICTURE, 2 * PICTURE)) for n in range(int(seconds * 25))]
    frames = int(seconds * SECOND) // FRAME
    audio = [(start + n * FRAME + audio_late, raw(AUDIO, start + n * FRAME)) for n in range(frames)]
    return [sample for _, sample in sorted(video + audio, key=lambda entry: entry[0])]


def mapped(line: Timeline, samples: Iterable[Sample]) -> list[Sample]:
    return [out for sample in samples if (out := line.map(sample)) is not None]


def dts_of(samples: Iterable[Sample], track: int) -> list[int]:
    return [s.dts_ticks for s in samples if s.track == track]


def steps(values: list[int]) -> set[int]:
    return {b - a for a, b in pairwise(values)}


def test_the_timeline_starts_as_the_sources_clock() -> None:
    samples = programme(123_456_789, 3)
    line = timeline()
    assert mapped(line, samples) == samples
    assert line.stats == timeline().stats, "nothing to count"


@pytest.mark.parametrize("start", [TICKS_33BIT - SECOND, TICKS_33BIT - 1, 5 * SECOND])
def test_the_wrap_is_undone(start: int) -> None:
    out = mapped(timeline(), programme(start, 4))
    assert out[0].dts_ticks == start
    assert steps(dts_of(out, VIDEO)) == {PICTURE}
    assert steps(dts_of(out, AUDIO)) == {FRAME}
    assert all(s.pts_ticks - s.dts_ticks == (2 * PICTURE if s.track == VIDEO else 0) for s in out)


def test_what_lies_before_a_wrap_that_just_was_is_negative() -> None:
    line = timeline()
    assert line.map(raw(VIDEO, 10)) == raw(VIDEO, 10)
    assert [line.map(raw(AUDIO, n)) for n in (-5, 1915)] == [Sample(AUDIO, n, n, b"x", True) for n in (-5, 1915)]


@pytest.mark.parametrize("jump", [-5_000 * SECOND, -7 * SECOND, -SECOND, 11 * SECOND, 4_000 * SECOND, TICKS_33BIT // 2])
def test_a_jump_is_absorbed_without_gap_in_any_track(jump: int) -> None:
    start = 10_000 * SECOND
    samples = programme(start, 12)
    line, cut = timeline(), 6 * SECOND
    shifted = [
        raw(s.track, s.dts_ticks + jump, s.pts_ticks - s.dts_ticks) if s.dts_ticks - start >= cut else s
        for s in samples
    ]
    assert mapped(line, shifted) == samples
    assert (line.stats.jumps, line.stats.damaged, line.stats.repeated) == (1, 0, 0)


def test_a_hole_of_a_few_seconds_stays_a_hole() -> None:
    before, after = programme(0, 4), programme(9 * SECOND, 4)
    line = timeline()
    out = mapped(line, before + after)
    assert line.stats.gaps >= 1
    assert line.stats.jumps == 0
    assert out[-1] == after[-1]
    moved = [(got, sent) for got, sent in zip(out, before + after, strict=True) if got != sent]
    assert len(moved) <= 2, "the first of each track is shown where it was expected"


def test_a_silent_source_whose_clock_ran_on_has_no_hole() -> None:
    out = mapped(line := timeline(), programme(0, 2) + programme(60 * SECOND, 2))
    assert line.stats.jumps == 1
    assert steps(dts_of(out, VIDEO)) == {PICTURE}


@pytest.mark.parametrize("off", [2**15, 2**16, 2**20, 2**25, 2**31, -(2**17), -(2**26)])
@pytest.mark.parametrize("track", [VIDEO, AUDIO])
def test_one_damaged_time_stamp_moves_nothing(track: int, off: int) -> None:
    samples = programme(100_000 * SECOND % TICKS_33BIT, 6)
    at = next(n for n, s in enumerate(samples) if s.track == track and n > 100)
    bad = samples[at]._replace(
        dts_ticks=(samples[at].dts_ticks + off) % TICKS_33BIT, pts_ticks=(samples[at].pts_ticks + off) % TICKS_33BIT
    )
    line = timeline()
    out = mapped(line, [*samples[:at], bad, *samples[at + 1 :]])
    assert line.stats.jumps == 0
    assert out[-50:] == samples[-50:]
    if abs(off) > TOLERANCE_TICKS:
        assert out == samples, "it is shown where it was expected"
        assert line.stats.damaged == 1


def test_a_damaged_pts_alone_is_replaced() -> None:
    samples = programme(SECOND, 2)
    bad = [s._replace(pts_ticks=s.pts_ticks + 2**24) if n == 20 else s for n, s in enumerate(samples)]
    assert samples[20].track == VIDEO
    assert mapped(timeline(), bad) == samples


def test_a_dts_above_pts_gives_way() -> None:
    (out,) = mapped(timeline(), [raw(VIDEO, 1000, -10)])
    assert (out.pts_ticks, out.dts_ticks) == (990, 990)


def test_a_repeated_piece_is_dropped_exactly() -> None:
    samples = programme(0, 4, audio_late=0)
    line = timeline()
    out = mapped(line, samples[:100] + samples[80:])
    assert out == samples
    assert line.stats.repeated == 20


def test_a_wobbling_dts_drops_no_picture_that_is_shown_later() -> None:
    line = timeline()
    out = mapped(line, [raw(VIDEO, 0), raw(VIDEO, PICTURE), raw(VIDEO, PICTURE, PICTURE), raw(VIDEO, 3 * PICTURE)])
    assert [s.dts_ticks for s in out] == [0, PICTURE, PICTURE + 1, 3 * PICTURE]
    assert [s.pts_ticks for s in out] == [0, PICTURE, 2 * PICTURE, 3 * PICTURE]


def test_audio_that_lies_elsewhere_altogether_is_brought_beside_the_video() -> None:
    video = [raw(VIDEO, n * PICTURE) for n in range(300)]
    audio = [raw(AUDIO, 77_777 * SECOND + n * PICTURE) for n in range(300)]
    out = mapped(timeline(), [s for pair in zip(video, audio, strict=True) for s in pair])
    assert dts_of(out, VIDEO) == dts_of(video, VIDEO)
    assert steps(dts_of(out, AUDIO)) == {PICTURE}
    assert abs(dts_of(out, AUDIO)[-1] - dts_of(out, VIDEO)[-1]) < SECOND


def test_a_track_that_was_silent_comes_back_in_its_place() -> None:
    video = [raw(VIDEO, n * PICTURE) for n in range(25 * 60)]
    line = timeline()
    mapped(line, [raw(AUDIO, 0), raw(AUDIO, FRAME), *video])
    (out,) = mapped(line, [raw(AUDIO, 59 * SECOND)])
    assert out.dts_ticks == 59 * SECOND


def test_very_slow_pictures_are_not_taken_for_damage() -> None:
    slow = [raw(VIDEO, n * PICTURE) for n in range(10)] + [raw(VIDEO, SECOND + n * 2 * SECOND) for n in range(20)]
    out = mapped(timeline(), slow)
    assert out[-15:] == slow[-15:]


def test_subtitles_follow_and_never_lead() -> None:
    line = timeline()
    assert line.map(raw(TEXT, 500)) == raw(TEXT, 500), "ahead of the first picture"
    mapped(line, programme(1000 * SECOND, 2))
    for n in range(10):
        line.map(raw(TEXT, 5000 * SECOND + n))
    mapped(line, programme(1002 * SECOND, 1))
    assert line.stats.jumps == 0
    twice = [line.map(raw(TEXT, 1003 * SECOND)) for _ in range(2)]
    assert [s and (s.pts_ticks - 1003 * SECOND, s.dts_ticks - 1003 * SECOND) for s in twice] == [(0, 0), (1, 1)]


def test_subtitles_with_a_clock_of_their_own_are_shown_when_they_come() -> None:
    line = timeline()
    out = []
    for n, sample in enumerate(programme(1000 * SECOND, 4)):
        last = line.map(sample)
        if n % 10 == 0:
            out.append((last, line.map(raw(TEXT, 70 * SECOND + n))))
    assert line.stats.strays == len(out)
    assert all(a and b and 0 <= b.dts_ticks - a.dts_ticks < SECOND for a, b in out)


def test_subtitles_follow_over_a_jump() -> None:
    line = timeline()
    mapped(line, programme(1000 * SECOND, 2))
    mapped(line, programme(50 * SECOND, 2))
    assert line.map(raw(TEXT, 51 * SECOND)) == Sample(TEXT, 1003 * SECOND, 1003 * SECOND, b"x", True)


@pytest.mark.parametrize("start", [0, 126_000, TICKS_33BIT - SECOND])
def test_a_looped_file_joins_to_the_tick(start: int) -> None:
    lap = programme(start, 4.8)  # 120 pictures and 225 audio frames are equally long
    assert len(dts_of(lap, VIDEO)) * PICTURE == len(dts_of(lap, AUDIO)) * FRAME
    line = timeline()
    out: list[Sample] = []
    for _ in range(3):
        out += mapped(line, lap)
        line.restart()
    assert len(out) == 3 * len(lap)
    assert steps(dts_of(out, VIDEO)) == {PICTURE}
    assert steps(dts_of(out, AUDIO)) == {FRAME}


def test_a_looped_file_of_unequal_tracks_keeps_them_together() -> None:
    lap = [s for s in programme(0, 4) if s.track == VIDEO or s.dts_ticks < 3 * SECOND]
    line = timeline()
    first = mapped(line, lap)
    line.restart()
    second = mapped(line, lap)
    assert [b.dts_ticks - a.dts_ticks for a, b in zip(first, second, strict=True)] == [4 * SECOND] * len(lap)


def test_a_looped_file_in_which_a_track_is_silent_for_long_is_joined_to_the_tick() -> None:
    lap = [s for s in programme(0, 11) if s.dts_ticks < 10 * SECOND or s.track == AUDIO]
    lap = [s for s in lap if s.track == VIDEO or not 2 * SECOND < s.dts_ticks < 9 * SECOND]
    line = timeline()
    first = mapped(line, lap)
    line.restart()
    second = mapped(line, lap)
    assert first == lap
    shifts = {b.dts_ticks - a.dts_ticks for a, b in zip(first, second, strict=True)}
    assert shifts == {max(dts_of(lap, AUDIO)) + FRAME}


@pytest.mark.parametrize("again", [0, 500 * SECOND, 2**32])
def test_a_reconnected_source_goes_on_behind_what_was(again: int) -> None:
    line = timeline()
    first = mapped(line, programme(300 * SECOND, 4))
    line.restart()
    line.restart()  # a connection that gave nothing
    second = mapped(line, programme(again, 4, audio_late=-SECOND // 2))
    assert line.stats.restarts == 1
    end = max(s.dts_ticks for s in first)
    assert 0 < second[0].dts_ticks - end <= PICTURE
    assert len(dts_of(second, VIDEO)) == 100, "no picture is dropped"
    assert len(second) + line.stats.repeated == len(programme(again, 4))


def test_unannounced_samples_are_dropped() -> None:
    line = timeline()
    assert line.map(raw(999, 0)) is None
    line.set_tracks(Tracks(()))
    assert line.map(raw(VIDEO, 0)) is None
    assert line.stats.unannounced == 2


def test_a_track_that_was_away_goes_on() -> None:
    line = timeline()
    mapped(line, programme(0, 2))
    line.set_tracks(Tracks((Track(AUDIO, Codec.AAC),)))
    mapped(line, [raw(AUDIO, 2 * SECOND + n * FRAME) for n in range(500)])
    line.set_tracks(TRACKS)
    (out,) = mapped(line, [raw(VIDEO, 12 * SECOND)])
    assert out.dts_ticks == 12 * SECOND


def reordered(start: int, count: int) -> list[Sample]:
    """Pictures I P B B P B B in decode order, and audio beside them."""
    shown = [0, *(n + (2 if n % 3 == 1 else -1) for n in range(1, count))]
    video = [
        (start + n * PICTURE, raw(VIDEO, start + n * PICTURE, (at + 1 - n) * PICTURE)) for n, at in enumerate(shown)
    ]
    audio = [(at, raw(AUDIO, at)) for at in range(start, start + count * PICTURE, FRAME)]
    return [sample for _, sample in sorted(video + audio, key=lambda entry: entry[0])]


@pytest.mark.parametrize("again", [300 * SECOND, 50 * SECOND], ids=["the same", "another clock"])
@pytest.mark.parametrize("sound_first", [False, True])
@pytest.mark.parametrize("cut", range(20, 24))
def test_what_a_reconnected_source_shows_comes_behind_what_it_showed(again: int, sound_first: bool, cut: int) -> None:
    """Also where it broke off behind a picture that was decoded before others are shown."""
    old = [s for s in reordered(300 * SECOND, 30) if s.dts_ticks < 300 * SECOND + cut * PICTURE]
    new, still = reordered(again, 30), programme(again, 1.2)
    if sound_first:
        new, still = ([s for s in them if s.track == AUDIO or s.dts_ticks > again + 9000] for them in (new, still))
    for lap in (new, [s._replace(pts_ticks=s.dts_ticks) for s in still]):  # with and without reordered pictures
        line = timeline()
        first = mapped(line, old)
        line.restart()
        second = mapped(line, lap)
        before, after = ([s.pts_ticks for s in out if s.track == VIDEO] for out in (first, second))
        assert len(after) == len(dts_of(lap, VIDEO))
        assert 0 < min(after) - max(before) <= 6 * PICTURE


anything = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([VIDEO, AUDIO, TEXT]), st.integers(0, TICKS_33BIT - 1), st.integers(0, TICKS_33BIT - 1)
        ),
        st.tuples(st.sampled_from([VIDEO, AUDIO, TEXT]), st.integers(0, 20 * SECOND), st.integers(0, 20 * SECOND)),
        st.none(),
    ),
    max_size=80,
)


@given(anything)
def test_dts_grows_and_is_never_above_pts_whatever_comes(stream: list[tuple[int, int, int] | None]) -> None:
    line, last = timeline(), dict.fromkeys((VIDEO, AUDIO, TEXT), -TICKS_33BIT)
    dropped = 0
    for item in stream:
        if item is None:
            line.restart()
            continue
        track, pts, dts = item
        out = line.map(Sample(track, pts, dts, b""))
        if out is None:
            dropped += 1
            continue
        assert last[track] < out.dts_ticks <= out.pts_ticks
        last[track] = out.dts_ticks
    stats = line.stats
    assert dropped == stats.repeated + stats.unannounced


@given(
    start=st.one_of(st.integers(0, TICKS_33BIT - 1), st.integers(TICKS_33BIT - SECOND, TICKS_33BIT - 1)),
    increments=st.lists(st.integers(1, TOLERANCE_TICKS // 2), min_size=1, max_size=50),
    reorder=st.integers(0, SECOND),
)
def test_a_continuous_source_keeps_its_differences(start: int, increments: list[int], reorder: int) -> None:
    clocks = [start + sum(increments[:n]) for n in range(len(increments))]
    out = mapped(timeline(), [raw(VIDEO if n % 2 else AUDIO, at, reorder) for n, at in enumerate(clocks)])
    assert [s.dts_ticks for s in out] == clocks
    assert all(s.pts_ticks - s.dts_ticks == reorder for s in out)


def jumps() -> Iterator[st.SearchStrategy[int]]:
    yield st.integers(-(2**32) + 60 * SECOND, -4 * SECOND)
    yield st.integers(MAX_GAP_TICKS + SECOND, 2**32 - 60 * SECOND)


@given(
    start=st.integers(0, TICKS_33BIT - 1),
    jump=st.one_of(*jumps()),
    late=st.integers(0, 2 * SECOND),
    cut=st.integers(3, 8),
)
def test_audio_and_video_stay_together_over_a_jump(start: int, jump: int, late: int, cut: int) -> None:
    samples = programme(start, 11, audio_late=late)
    joint = [
        raw(s.track, s.dts_ticks + jump, _reorder(s)) if (s.dts_ticks - start) % TICKS_33BIT >= cut * SECOND else s
        for s in samples
    ]
    line = timeline()
    out = mapped(line, joint)
    assert (line.stats.jumps, len(out)) == (1, len(samples))
    straight = mapped(timeline(), samples)
    assert {a.dts_ticks - b.dts_ticks for a, b in zip(out, straight, strict=True)} == {0}


def _reorder(sample: Sample) -> int:
    return (sample.pts_ticks - sample.dts_ticks) % TICKS_33BIT


@given(anything, st.integers(0, TICKS_33BIT - 1))
def test_it_recovers_from_anything(stream: list[tuple[int, int, int] | None], start: int) -> None:
    line = timeline()
    mapped(line, [Sample(*item, b"") for item in stream if item is not None])
    mapped(line, programme(start, 30))
    tail = mapped(line, programme(start + 30 * SECOND, 2))
    assert len(tail) == len(programme(0, 2))
    assert steps(dts_of(tail, VIDEO)) == {PICTURE}
    assert steps(dts_of(tail, AUDIO)) == {FRAME}
    assert dts_of(tail, VIDEO)[0] == dts_of(tail, AUDIO)[0], "audio and video are together"
