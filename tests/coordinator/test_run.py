"""What people see of a job, whatever its daemon says."""

from __future__ import annotations

import json
from math import inf, nan

from tvarr.coordinator import views
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.run import Run
from tvarr.wire import messages


async def test_figures_that_are_no_numbers_leave_a_job_that_can_be_shown() -> None:
    run = Run("news/source", Daemons(heartbeat_interval_s=5, unhealthy_after_s=30))
    run.reported(messages.TranscodeStats(speed=inf, fps=nan, cpu_percent=-inf, frames=3))
    shown = json.loads(json.dumps(views.job(run), allow_nan=False))
    assert (shown["speed"], shown["fps"], shown["cpu_percent"], shown["frames"]) == (0.0, 0.0, 0.0, 3)
