"""When a job counts as stalled, and when as slow."""

from __future__ import annotations

import pytest

from tvarr.coordinator.pace import FULL_SPEED_STALL_S, SLOW_S, STALL_S, START_S, Pace

TICKS = 90_000


def live(now: float = 0.0) -> Pace:
    return Pace(full_speed=False, now=now, newest_ticks=round(now * TICKS), start_ticks=0)


def test_a_live_job_that_falls_silent_while_its_source_goes_on_has_stalled() -> None:
    pace = live()
    pace.output_came(1.0, TICKS, TICKS)
    assert pace.stalled_s(1.0 + STALL_S - 0.1, 4 * TICKS) == 0
    assert pace.stalled_s(1.0 + STALL_S, 4 * TICKS) == STALL_S
    assert pace.look_in_s(1.0) == pytest.approx(2.5)
    assert pace.look_in_s(3.9) == pytest.approx(0.1)


def test_a_silent_source_is_not_the_jobs_fault() -> None:
    pace = live()
    pace.output_came(1.0, TICKS, TICKS)
    assert pace.stalled_s(60.0, TICKS) == 0
    assert pace.stalled_s(60.0, TICKS + TICKS // 2) == 0


def test_the_first_output_may_take_longer() -> None:
    pace = live()
    assert pace.stalled_s(START_S - 0.1, 10 * TICKS) == 0
    assert pace.stalled_s(START_S, 10 * TICKS) == START_S
    assert pace.stalled_s(START_S, TICKS) == 0  # its source gave hardly anything


def test_at_full_speed_only_what_lies_ready_counts() -> None:
    pace = Pace(full_speed=True, now=0.0, newest_ticks=0, start_ticks=0)
    pace.output_came(1.0, TICKS, 2 * TICKS)
    assert pace.stalled_s(1.0 + FULL_SPEED_STALL_S, 3 * TICKS) == 0  # all but what an encoder keeps
    assert pace.stalled_s(1.0 + FULL_SPEED_STALL_S, 9 * TICKS) > 0
    pace.held_up(10.0, 9 * TICKS)
    assert pace.stalled_s(12.0, 9 * TICKS) == 0
    assert pace.slow_at(100.0, 90 * TICKS) is None


def run(pace: Pace, speed: float, seconds: int, source_speed: float = 1.0, well_s: int = 0) -> float | None:
    """What is said in the end of a job at this speed that is looked at each second, and kept up for `well_s`."""
    said = None
    for now in range(1, well_s + seconds + 1):
        newest = round(now * source_speed * TICKS)
        pace.output_came(now, round((min(now, well_s) + max(0, now - well_s) * speed) * TICKS), newest)
        said = pace.slow_at(now, newest)
    return said


def test_a_job_that_falls_behind_for_ten_seconds_is_slow() -> None:
    assert run(live(), 0.8, 12) == pytest.approx(0.8, abs=0.01)
    assert run(live(), 0.8, int(SLOW_S)) is None
    assert run(live(), 0.8, 12, well_s=300) == pytest.approx(0.8, abs=0.01)
    assert run(live(), 0.95, 60) is None
    assert run(live(), 1.0, 60) is None


def test_a_job_with_a_picture_a_second_is_not_slow_before_one_that_comes_a_little_later() -> None:
    pace = live()
    for now in range(2, 12):
        pace.output_came(now, (now - 2) * TICKS, now * TICKS)
        assert pace.slow_at(now, now * TICKS) is None
    assert pace.slow_at(12.04, round(12.04 * TICKS)) is None
    for now in range(13, 60):
        pace.output_came(now, (6 + now // 3) * TICKS, now * TICKS)
    assert pace.slow_at(60.0, 60 * TICKS) is not None


def test_a_source_that_is_slow_itself_makes_no_slow_job() -> None:
    assert run(live(), 0.8, 60, source_speed=0.8) is None


def test_the_lag_is_that_of_the_latest_output() -> None:
    pace = Pace(full_speed=False, now=0.0, newest_ticks=5 * TICKS, start_ticks=3 * TICKS)
    assert pace.lag_ticks == 2 * TICKS  # of what it starts with
    pace.output_came(2.0, 3 * TICKS, 6 * TICKS)
    assert pace.lag_ticks == 3 * TICKS
