"""Five minutes of a daemon's figures, and the line that is drawn of them."""

from __future__ import annotations

import re

import pytest

from tvarr.coordinator.history import STEP_S, STEPS, History
from tvarr.coordinator.web.words import last_known, spark
from tvarr.wire.messages import SystemStats


def stats(cpu: float, received: int = 0, sent: int = 0) -> SystemStats:
    return SystemStats(
        cpu_percent=cpu,
        load_average=[cpu / 50],
        memory_used_bytes=1,
        memory_total_bytes=4,
        network_received_bytes=received,
        network_sent_bytes=sent,
        io_pressure_percent=2.0,
        memory_pressure_percent=7.0,
    )


def test_figures_stand_where_their_time_is() -> None:
    history = History()
    history.add(1000.0, stats(10, 0, 0))
    history.add(1002.0, stats(20, 250_000, 125_000))  # of the same step
    history.add(1010.0, stats(30, 250_000, 125_000))
    series = history.series(1014.0)
    assert {len(values) for values in series.values()} == {STEPS}
    assert series["cpu_percent"][-3:] == [20.0, None, 30.0]
    assert series["memory_percent"][-1] == 25.0
    assert series["load"][-1] == 0.6
    assert series["pressure_percent"][-1] == 7.0
    assert series["received_kbps"][-3:] == [1000.0, None, 0.0]
    assert series["sent_kbps"][-3] == 500.0


def test_it_forgets_what_is_older_than_five_minutes() -> None:
    history = History()
    for number in range(500):
        history.add(number * STEP_S, stats(float(number)))
    assert history.series(499 * STEP_S)["cpu_percent"][0] == 500 - STEPS
    assert set(history.series(2000 * STEP_S)["cpu_percent"]) == {None}


@pytest.mark.parametrize("later", [(1020.0, 500), (1005.0, 50)])
def test_no_rate_over_a_gap_or_a_restart(later: tuple[float, int]) -> None:
    history = History()
    history.add(1000.0, stats(0, received=100))
    history.add(later[0], stats(0, received=later[1]))
    assert set(history.series(later[0])["received_kbps"]) == {None}


def test_a_line_is_broken_where_nothing_is_known() -> None:
    (path,) = re.findall(r'd="([^"]*)"', spark([0, 50, None, 100, None], 100))
    assert path == "M0 23.0h.01L1 12.0M3 1.0h.01"
    assert 'd=""' in spark([None])
    assert spark([float("1e300"), -5.0], 1).count("L") == 1  # whatever a daemon says, it stays inside


def test_the_step_that_has_just_begun_shows_the_one_before() -> None:
    assert last_known([1.0, 2.0, None]) == 2.0
    assert last_known([1.0, None, None]) is None
    assert last_known([]) is None
