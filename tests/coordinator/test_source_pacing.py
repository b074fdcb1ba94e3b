"""Media at the speed of a clock: examples, then what holds for any stream and any sleeper."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.pacing import JUMP_S, LATE_S, Pacer
from tvarr.media.model import Codec, Event, Sample, Track, Tracks

VIDEO, AUDIO, SUBTITLE = 256, 257, 258
TRACKS = Tracks((Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC), Track(SUBTITLE, Codec.DVB_SUBTITLE)))


SLICE_S = 0.05


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
    pacer = Pacer(1.0, SLICE_S)
    pacer.push([TRACKS, *(sample(10 + i * 0.5) for i in range(7))])
    times = [at for at, event in delivered(pacer, start=100.0) if event is not TRACKS]
    assert times == pytest.approx([100, 100, 100, 100.5, 101, 101.5, 102])


def test_subtitles_go_with_what_stands_before_them() -> None:
    pacer = Pacer(0.0, SLICE_S)
    early, late = sample(0, SUBTITLE), sample(900, SUBTITLE)
    pacer.push([TRACKS, sample(50), early, late, sample(50.5)])
    assert [at for at, _ in delivered(pacer, start=7.0)] == pytest.approx([7, 7, 7, 7, 7.5])


def test_nothing_wakes_up_more_often_than_the_slice() -> None:
    pacer = Pacer(0.0, SLICE_S)
    pacer.push([TRACKS, *(sample(i * 0.001) for i in range(1000))])
    wakes = sorted({at for at, _ in delivered(pacer, start=0.0)})
    assert min(b - a for a, b in pairwise(wakes)) >= SLICE_S - 1e-9
    assert len(wakes) <= 1 / SLICE_S + 2


def test_after_a_suspension_time_is_let_go() -> None:
    pacer = Pacer(1.0, SLICE_S)
    pacer.push([TRACKS, *(sample(float(i)) for i in range(100))])
    before = delivered(pacer, start=0.0, until=5.0)
    woken = pacer.take(3600.0)
    assert len(before) + len(woken) <= 10, "an hour asleep must not become a burst"
    after = [at for at, _ in delivered(pacer, start=3600.0)]
    assert after[-1] == pytest.approx(3600 + 100 - len(before) - len(woken), abs=1.5)


def test_a_jump_of_time_stamps_holds_nothing_up() -> None:
    pacer = Pacer(0.0, SLICE_S)
    pacer.push([TRACKS, sample(0), sample(1), sample(50_000), sample(50_001)])
    assert [at for at, _ in delivered(pacer, start=0.0)][1:] == pytest.approx([0, 1, 1, 2], abs=SLICE_S + 1e-9)


def test_an_empty_pacer_has_no_deadline() -> None:
    pacer = Pacer()
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
    at_s, events = 0.0, [TRACKS]
    for track, step_s in steps:
        at_s += step_s if track != SUBTITLE else 0.0
        events.append(sample(100 + at_s, track))
    pacer, now, nap = Pacer(preroll_s, SLICE_S), 50.0, iter(naps)
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
