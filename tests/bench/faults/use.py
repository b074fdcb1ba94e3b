"""What the processes of a stage use over time, and whether that stays level."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import linear_regression, median
from typing import Any, NamedTuple

import psutil

from tests.bench.faults.stage import Stage

COORDINATOR = "coordinator"
MOST_WARM_S = 600.0  # caches and pools fill meanwhile: growth is judged after it, or after a third of a shorter run
MAY_GROW = 1.05  # memory, from the first to the last quarter of the time after that
COUNTED = ("fds", "threads", "tasks")
MOST_MORE = 3  # of each of these, from the first to the last quarter
MOST_MORE_IDLE = {
    "fds": 3,
    "threads": 12,
    "tasks": 3,
}  # threads come with the first work, and stay


class Sample(NamedTuple):
    """What a process used at one moment."""

    at_s: float
    rss_bytes: int
    fds: int
    threads: int
    tasks: int  # of its event loop
    ffmpegs: int  # processes that it has started; the coordinator's: those of all daemons, also of dead ones


def sample(made: Stage, name: str, at_s: float) -> Sample:
    """Raises `psutil.NoSuchProcess`, OSError or LookupError where the process is not there, or has only just begun."""
    process = psutil.Process(made.running.roles[name].process.pid)
    metrics = made.running.metrics() if name == COORDINATOR else made.metrics_of(name)
    return Sample(
        at_s=round(at_s, 1),
        rss_bytes=process.memory_info().rss,
        fds=process.num_fds(),
        threads=process.num_threads(),
        tasks=int(metrics["tvarr_event_loop_tasks"]),
        ffmpegs=len(made.all_ffmpeg() if name == COORDINATOR else made.ffmpeg_of(name)),
    )


@dataclass(slots=True)
class Use:
    """What one process used, from its start to the end of it all.

    It is level where its memory is, and where the median of what is counted in ones grows by `MOST_MORE` at most. A
    daemon has more of these with more jobs: what a job takes is estimated from all samples and taken off first.
    """

    name: str
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None  # when nobody was there yet
    after: Sample | None = None  # when everybody had left

    def warm(self) -> list[Sample]:
        """What was seen when growth is no longer a process's warming up."""
        end_s = self.samples[-1].at_s if self.samples else 0.0
        return [one for one in self.samples if one.at_s >= min(MOST_WARM_S, end_s / 3)]

    def quarters(self, what: str) -> tuple[float, float]:
        """Medians of the first and the last quarter of these."""
        warm = self.warm()
        values = [float(getattr(one, what)) for one in warm]
        if what in COUNTED and len({one.ffmpegs for one in warm}) > 1:
            a_job = linear_regression([one.ffmpegs for one in warm], values).slope
            mean = sum(one.ffmpegs for one in warm) / len(warm)
            values = [value - a_job * (one.ffmpegs - mean) for value, one in zip(values, warm, strict=True)]
        quarter = max(1, len(values) // 4)
        return median(values[:quarter]), median(values[-quarter:])

    def growth(self) -> list[str]:
        """Complaints; none where all is level."""
        complaints = []
        if self.samples:
            first, last = self.quarters("rss_bytes")
            if last > first * MAY_GROW:
                complaints.append(f"memory of {self.name} grew from {first / 1e6:.1f} to {last / 1e6:.1f} MB")
            for what in COUNTED:
                first, last = self.quarters(what)
                if last > first + MOST_MORE:
                    complaints.append(f"{what} of {self.name} grew from {first:.1f} to {last:.1f}")
        return complaints + self.left_behind()

    def left_behind(self) -> list[str]:
        """What is there with nobody watching that was not there before anybody did, as complaints."""
        if self.before is None or self.after is None:
            return []
        changes = ((what, getattr(self.before, what), getattr(self.after, what)) for what in COUNTED)
        return [
            f"{what} of {self.name} without viewers: {before} before, {after} after it all"
            for what, before, after in changes
            if after > before + MOST_MORE_IDLE[what]
        ]

    def figures(self) -> dict[str, Any]:
        """As plain JSON values."""
        shown = {what: self.quarters(what) for what in ("rss_bytes", *COUNTED)} if self.samples else {}
        idle = {name: one._asdict() for name, one in (("before", self.before), ("after", self.after)) if one}
        return {**shown, **idle, "samples": [one._asdict() for one in self.samples]}

    def now(self) -> str:
        s = self.samples[-1]
        words = f"{self.name} {s.rss_bytes / 1e6:.0f} MB, {s.fds} descriptors, {s.threads} threads, {s.tasks} tasks"
        return f"{words}, {s.ffmpegs} ffmpegs"
