"""Media at the speed of a clock: examples, then what holds for any stream and any sleeper."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.pacing import CLOCK_TOLERANCE, HOLE_S, JUMP_S, LATE_S, Pacer, Smoother, Throttle
from tvarr.media.batching import Rhythm
from tvarr.media.model import Codec, Event, Sample, Track, Tracks

VIDEO, AUDIO, SUBTITLE = 256, 257, 258
TRACKS = Tracks((Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC), Track(SUBTITLE, Codec.DVB_SUBTITLE)))


SLICE_S = 0.05


def slices() -> Rhythm:
    return Rhythm(SLICE_S, SLICE_S)


def sample(at_s: float, track: int = VIDEO) -> Sample:
    ticks = round(at_s * 90_000)
    return Sample(track, ticks, ticks, b"x")


def delivered(pacer: Pacer, start: float, until: float = 1e9) -> list[tuple[float, Event]]:
    """What a shell with exact sleeps delivers, and when."""
    out: list[tuple[float, Event]] = []
    now = start
    while (deadline := pacer.deadline()) is not None and deadline <= until:
        now = max(now, deadline)
        out += [(now, event) for event in pacer.take(now)]
    return out


def test_the_preroll_comes_at_once_and_the_rest_when_due() -> None:
    pacer = Pacer(1.0, slices())
    pacer.push([TRACKS, *(sample(10 + i * 0.5) for i in range(7))])
    times = [at for at, event in delivered(pacer, start=100.0) if event is not TRACKS]
    assert times == pytest.approx([100, 100, 100, 100.5, 101, 101.5, 102])


def test_subtitles_go_with_what_stands_before_them() -> None:
    pacer = Pacer(0.0, slices())
    early, late = sample(0, SUBTITLE), sample(900, SUBTITLE)
    pacer.push([TRACKS, sample(50), early, late, sample(50.5)])
    assert [at for at, _ in delivered(pacer, start=7.0)] == pytest.approx([7, 7, 7, 7, 7.5])


def test_nothing_wakes_up_more_often_than_the_slice() -> None:
    pacer = Pacer(0.0, slices())
    pacer.push([TRACKS, *(sample(i * 0.001) for i in range(1000))])
    wakes = sorted({at for at, _ in delivered(pacer, start=0.0)})
    assert min(b - a for a, b in pairwise(wakes)) >= SLICE_S - 1e-9
    assert len(wakes) <= 1 / SLICE_S + 2


@pytest.mark.parametrize("make", [lambda r: Pacer(0.0, r), lambda r: Smoother(0.0, r)])
def test_media_that_come_in_small_reads_keep_up_with_the_clock(make: Callable[[Rhythm], Pacer]) -> None:
    """A read of a file at 80 Mb/s is a tenth of a second, and slices of a settled stream are half a second."""
    pacer, now = make(Rhythm(0.5, 0.5)), 0.0
    pacer.push([TRACKS])
    wakes: set[float] = set()
    for read in range(100):
        pacer.push([sample((read * 5 + n) * 0.02) for n in range(5)])
        for at, _ in delivered(pacer, now):
            now = at
            wakes.add(at)
    assert now == pytest.approx(10.0, abs=0.6)
    assert len(wakes) <= 10.0 / 0.5 + 2


def test_after_a_suspension_time_is_let_go() -> None:
    pacer = Pacer(1.0, slices())
    pacer.push([TRACKS, *(sample(float(i)) for i in range(100))])
    before = delivered(pacer, start=0.0, until=5.0)
    woken = pacer.take(3600.0)
    assert len(before) + len(woken) <= 10, "an hour asleep must not become a burst"
    after = [at for at, _ in delivered(pacer, start=3600.0)]
    assert after[-1] == pytest.approx(3600 + 100 - len(before) - len(woken), abs=1.5)


def test_a_jump_of_time_stamps_holds_nothing_up() -> None:
    pacer = Pacer(0.0, slices())
    pacer.push([TRACKS, sample(0), sample(1), sample(50_000), sample(50_001)])
    assert [at for at, _ in delivered(pacer, start=0.0)][1:] == pytest.approx([0, 1, 1, 2], abs=SLICE_S + 1e-9)


def test_an_empty_pacer_has_no_deadline() -> None:
    pacer = Pacer(1.0, slices())
    assert pacer.deadline() is None
    assert pacer.take(5.0) == []


@given(
    steps=st.lists(st.tuples(st.sampled_from([VIDEO, AUDIO, SUBTITLE]), st.floats(-1.0, JUMP_S - 0.1)), max_size=60),
    naps=st.lists(st.floats(0.0, 8.0), max_size=40),
    preroll_s=st.floats(0.0, 2.0),
    cut=st.integers(0, 60),
)
def test_nothing_is_lost_reordered_early_or_burst(
    steps: list[tuple[int, float]], naps: list[float], preroll_s: float, cut: int
) -> None:
    at_s = 0.0
    events: list[Event] = [TRACKS]
    for track, step_s in steps:
        at_s += step_s if track != SUBTITLE else 0.0
        events.append(sample(100 + at_s, track))
    pacer, now, nap = Pacer(preroll_s, slices()), 50.0, iter(naps)
    out: list[tuple[float, Event]] = []
    for part in (events[:cut], events[cut:]):  # two reads of a source
        pacer.push(part)
        while (deadline := pacer.deadline()) is not None:
            now = max(now, deadline) + next(nap, 0.0)  # a shell that oversleeps
            out += [(now, event) for event in pacer.take(now)]

    assert [event for _, event in out] == events
    high, clocked = None, []
    for at, event in out:
        if isinstance(event, Sample) and event.track != SUBTITLE:
            high = max(event.dts_ticks / 90_000, high if high is not None else -1e9)
            clocked.append((at, high))
    for i, (began, first_s) in enumerate(clocked):
        for at, media_s in clocked[i:]:
            # Over any span, media run ahead of the clock by the preroll and what may be caught up, and no more.
            assert media_s - first_s <= at - began + preroll_s + LATE_S + 1e-6


class TestThrottle:
    def test_what_comes_at_once_goes_on_at_real_time(self) -> None:
        throttle = Throttle(15.0, slices())
        throttle.push([TRACKS, *(sample(500 + i * 0.5) for i in range(61))])
        times = [at for at, event in delivered(throttle, start=100.0) if event is not TRACKS]
        assert times[:31] == [100.0] * 31
        assert times[31:] == pytest.approx([100 + i * 0.5 for i in range(1, 31)], abs=SLICE_S)

    def test_a_stall_earns_no_credit(self) -> None:
        throttle = Throttle(15.0, slices())
        throttle.push([TRACKS, sample(0.0)])
        assert len(throttle.take(0.0)) == 2
        throttle.push(sample(i * 0.5) for i in range(1, 241))
        assert len(throttle.take(1000.0)) == 31

    def test_a_live_source_with_a_fast_clock_is_never_held_up(self) -> None:
        throttle = Throttle(0.5, slices())
        throttle.push([TRACKS])
        for i in range(100_000):
            throttle.push([sample(i * (1 + 50e-6))])
            throttle.take(float(i))
            assert not len(throttle)

    def test_holes_hold_nothing_up(self) -> None:
        throttle = Throttle(2.0, slices())
        throttle.push([TRACKS, *(sample(i * (HOLE_S + 0.1)) for i in range(20_000))])
        assert len(throttle.take(5.0)) == 20_001

    @given(
        reads=st.lists(
            st.tuples(
                st.floats(0.0, 6.0),
                st.lists(
                    st.tuples(st.sampled_from([VIDEO, AUDIO, SUBTITLE]), st.floats(-0.5, HOLE_S - 0.1)), max_size=9
                ),
            ),
            max_size=15,
        ),
        ahead_s=st.floats(0.2, 5.0),
    )
    def test_it_holds_no_more_and_no_longer_than_it_must(
        self, reads: list[tuple[float, list[tuple[int, float]]]], ahead_s: float
    ) -> None:
        throttle, now, at_s = Throttle(ahead_s, slices()), 50.0, 100.0
        given_events: list[Event] = [TRACKS]
        out: list[tuple[float, float, Event]] = []  # when it came, when it went
        throttle.push([TRACKS])
        assert throttle.take(now) == [TRACKS]
        for wait_s, steps in reads:
            now += wait_s
            arrived, events = now, []
            for track, step_s in steps:
                at_s += step_s if track != SUBTITLE else 0.0
                events.append(sample(at_s, track))
            given_events += events
            throttle.push(events)
            out += [(arrived, now, event) for event in throttle.take(now)]
            late = delivered(throttle, now)
            out += [(arrived, at, event) for at, event in late]
            now = late[-1][0] if late else now
        assert [TRACKS, *(event for _, _, event in out)] == given_events

        high, passed = -1e9, []
        for arrived, went, event in out:
            assert isinstance(event, Sample)
            if event.track != SUBTITLE:
                high = max(event.dts_ticks / 90_000, high)
            if high > 0.0:  # a subtitle goes with what stands before it
                passed.append((arrived, went, high))
        for i, (arrived, went, media_s) in enumerate(passed):
            limits = [before + (media_s - from_s - ahead_s) / (1 + CLOCK_TOLERANCE) for _, before, from_s in passed[:i]]
            assert went >= max(limits, default=went) - 1e-6, "more passed than the bucket holds"
            assert went <= max([arrived, *limits]) + SLICE_S + 1e-6, "held up for nothing"


def test_bursts_are_spread_over_the_time_that_they_last() -> None:
    pacer = Smoother(1.0, slices())
    times: list[float] = []
    for burst in range(5):
        pacer.push([TRACKS, *(sample(burst * 4 + i * 0.04) for i in range(100))])
        times += [at for at, event in delivered(pacer, start=1000.0 + max(0, burst * 4 - 3)) if event is not TRACKS]
    assert times[24] == pytest.approx(1000.0), "the preroll"
    assert max(b - a for a, b in pairwise(times[25:])) < SLICE_S + 0.05
    assert times[-1] == pytest.approx(1000.0 + 20.0 - 0.04 - 1.0, abs=SLICE_S)


def test_a_clock_that_is_fast_within_the_standard_does_not_get_ahead() -> None:
    pacer = Smoother(1.0, slices())
    day_s = 86400
    pacer.push([TRACKS, *(sample(at * (1 + 30e-6)) for at in range(0, day_s, 5))])
    at = delivered(pacer, start=0.0)[-1][0]
    assert at < day_s - 5 + 1
