"""Examples first, then the properties that must hold for any input."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.batching import RAMP_S, SETTLE_S, Batcher, Rhythm
from tvarr.media.model import Sample


def sample(size: int, track: int = 0) -> Sample:
    return Sample(track=track, pts_ticks=0, dts_ticks=0, data=bytes(size))


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        pytest.param([10, 10], [], id="small ones wait"),
        pytest.param([60, 40], [[60, 40]], id="a full batch leaves at once"),
        pytest.param([60, 50], [[60]], id="one that does not fit pushes the others out"),
        pytest.param([10, 500], [[10], [500]], id="an oversized one travels alone"),
    ],
)
def test_size_decides(sizes: list[int], batches: list[list[int]]) -> None:
    batcher = Batcher(max_bytes=100)
    sent = [batch for size in sizes for batch in batcher.push(sample(size), now=0.0)]
    assert [[len(s.data) for s in batch] for batch in sent] == batches


def test_age_decides() -> None:
    batcher = Batcher(max_age_s=0.040)
    assert batcher.deadline() is None
    batcher.push(sample(1), now=5.0)
    assert batcher.deadline() == pytest.approx(5.040)
    assert batcher.poll(now=5.039) == []
    assert len(batcher.poll(now=5.041)[0]) == 1
    assert batcher.deadline() is None


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 300), st.floats(0, 0.1))),
    max_bytes=st.integers(1, 200),
)
def test_nothing_is_lost_reordered_or_late(arrivals: list[tuple[int, float]], max_bytes: int) -> None:
    batcher, now = Batcher(max_bytes=max_bytes), 0.0
    pushed: list[tuple[Sample, float]] = []
    sent: list[tuple[list[Sample], float]] = []
    for size, pause in arrivals:
        if (deadline := batcher.deadline()) is not None and deadline <= now + pause:
            sent += [(batch, deadline) for batch in batcher.poll(deadline)]  # what the shell's one timer does
        now += pause
        pushed.append((sample(size, track=len(pushed)), now))
        sent += [(batch, now) for batch in batcher.push(pushed[-1][0], now)]
    sent.append((batcher.flush(), now))

    delivered = [(s, at) for batch, at in sent for s in batch]
    assert [s for s, _ in delivered] == [s for s, _ in pushed]
    assert all(left - came <= batcher.max_age_s + 1e-9 for (_, left), (_, came) in zip(delivered, pushed, strict=True))
    assert all(len(batch) <= 1 or sum(len(s.data) for s in batch) <= max_bytes for batch, _ in sent)
    assert batcher.deadline() is None


def test_what_is_young_goes_on_quickly() -> None:
    rhythm = Rhythm(0.04, 0.5)
    assert rhythm.pause_s(100.0) == 0.04
    assert rhythm.pause_s(100.0 + SETTLE_S - 0.1) == 0.04
    assert rhythm.pause_s(100.0 + SETTLE_S + RAMP_S) == 0.5
    assert rhythm.pause_s(1_000.0) == 0.5


def test_pauses_grow_by_a_little_each_time() -> None:
    """From one slice to the next a viewer's buffer loses what the pause has grown by."""
    rhythm, now, pauses = Rhythm(0.04, 0.5), 0.0, list[float]()
    while now < SETTLE_S + RAMP_S + 2.0:
        pauses.append(rhythm.pause_s(now))
        now += pauses[-1]
    steps = [after - before for before, after in pairwise(pauses)]
    assert pauses[-1] == 0.5
    assert all(0.0 <= step < 0.1 for step in steps)


def test_what_is_old_never_goes_on_more_often_than_what_is_young() -> None:
    rhythm = Rhythm(0.08, 0.04)
    assert [rhythm.pause_s(0.0), rhythm.pause_s(10 * SETTLE_S)] == [0.08, 0.08]
