from __future__ import annotations

import pytest

from tvarr.ffmpegd.stall import PAUSE_S, StallWatch

STALL_S = 10.0


def fed(until_s: float, step_s: float = 0.5, *, since_s: float = 0.0) -> StallWatch:
    """A job that was given something at each step, and of which nothing came out."""
    watch = StallWatch(STALL_S)
    feed(watch, since_s, until_s, step_s)
    return watch


def feed(watch: StallWatch, since_s: float, until_s: float, step_s: float = 0.5) -> None:
    for step in range(int((until_s - since_s) / step_s) + 1):
        watch.input_came(since_s + step * step_s)
        watch.input_taken(since_s + step * step_s)


def test_input_that_flows_without_output_is_a_stall_after_its_time() -> None:
    watch = fed(STALL_S)
    assert not watch.stalled(STALL_S - 0.1, input_blocked=False)
    assert watch.stalled(STALL_S, input_blocked=False)


def test_what_was_given_nothing_does_not_stall() -> None:
    assert not StallWatch(STALL_S).stalled(1000.0, input_blocked=True)


def test_output_ends_the_waiting_and_the_next_input_begins_it() -> None:
    watch = fed(9.0)
    watch.output_went(9.0)
    assert not watch.stalled(100.0, input_blocked=True)
    feed(watch, 9.5, 25.0)
    assert not watch.stalled(19.4, input_blocked=False)
    assert watch.stalled(19.5, input_blocked=False)


@pytest.mark.parametrize(("blocked", "stalls"), [(False, False), (True, True)])
def test_a_source_that_pauses_is_no_stall_unless_ffmpeg_takes_nothing(blocked: bool, stalls: bool) -> None:
    """What does not come can't come out; but a full pipe holds the input back, however long nothing was taken."""
    watch = fed(5.0)
    assert watch.stalled(5.0 + PAUSE_S + 10.0, input_blocked=blocked) is stalls


def test_after_a_pause_the_time_counts_anew() -> None:
    watch = fed(5.0)
    feed(watch, 5.0 + PAUSE_S + 0.5, 30.0)
    assert not watch.stalled(5.0 + PAUSE_S + STALL_S, input_blocked=False)
    assert watch.stalled(5.0 + PAUSE_S + 0.5 + STALL_S, input_blocked=False)


def test_input_that_took_long_to_be_taken_was_no_pause() -> None:
    watch = StallWatch(STALL_S)
    watch.input_came(0.0)
    watch.input_taken(8.0)
    watch.input_came(9.0)
    assert watch.stalled(STALL_S, input_blocked=False)


def test_whoever_takes_no_output_is_waited_for() -> None:
    watch = fed(STALL_S)
    watch.output_blocked = True
    assert not watch.stalled(1000.0, input_blocked=True)
    watch.output_went(1000.0)
    assert not watch.output_blocked


@pytest.mark.parametrize("last_output", [None, 3.0])
def test_behind_the_end_of_the_input_output_has_to_go_on(last_output: float | None) -> None:
    """There is no pause of the source any more: what is still in ffmpeg has to come."""
    watch = StallWatch(STALL_S)
    watch.input_came(0.0)
    watch.input_ended(1.0)
    since = 1.0
    if last_output is not None:
        watch.output_went(since := last_output)
    assert not watch.stalled(since + STALL_S - 0.1, input_blocked=False)
    assert watch.stalled(since + STALL_S, input_blocked=False)
