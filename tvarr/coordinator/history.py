"""What a daemon's host did in the last five minutes, for people to see at a glance."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields

from tvarr.wire.messages import SystemStats

STEP_S = 5.0
STEPS = 60  # five minutes
FRESH_S = 15.0  # two counts of bytes further apart than this make no rate


@dataclass(frozen=True, slots=True)
class Point:
    """One step's figures; None: not known. Pressure is the greatest of CPU, memory and I/O (Linux PSI, `some`)."""

    cpu_percent: float | None = None
    memory_percent: float | None = None
    load: float | None = None  # of one minute
    pressure_percent: float | None = None
    received_kbps: float | None = None
    sent_kbps: float | None = None


NAMES = tuple(field.name for field in fields(Point))
NOTHING = Point()


class History:
    """The latest figures of each step. Times are seconds of any clock that only grows.

    Bound: `STEPS` points; the oldest go.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[int, Point]] = deque(maxlen=STEPS)
        self._counted: tuple[float, int, int] | None = None  # when, bytes received, bytes sent

    @property
    def latest(self) -> Point:
        return self._points[-1][1] if self._points else NOTHING

    def add(self, now: float, stats: SystemStats) -> None:
        """Takes what a heartbeat says; later ones of the same step replace earlier ones."""
        received, sent = self._rates(now, stats)
        total = stats.memory_total_bytes
        pressures = (stats.cpu_pressure_percent, stats.memory_pressure_percent, stats.io_pressure_percent)
        point = Point(
            cpu_percent=stats.cpu_percent,
            memory_percent=100 * stats.memory_used_bytes / total if total else None,
            load=stats.load_average[0] if stats.load_average else None,
            pressure_percent=max((p for p in pressures if p is not None), default=None),
            received_kbps=received,
            sent_kbps=sent,
        )
        step = int(now // STEP_S)
        if self._points and self._points[-1][0] == step:
            self._points[-1] = (step, point)
        else:
            self._points.append((step, point))

    def _rates(self, now: float, stats: SystemStats) -> tuple[float | None, float | None]:
        before, self._counted = self._counted, (now, stats.network_received_bytes, stats.network_sent_bytes)
        if before is None or not 0 < now - before[0] <= FRESH_S:
            return None, None
        received, sent = stats.network_received_bytes - before[1], stats.network_sent_bytes - before[2]
        if received < 0 or sent < 0:  # the host was started anew
            return None, None
        return received * 0.008 / (now - before[0]), sent * 0.008 / (now - before[0])

    def series(self, now: float) -> dict[str, list[float | None]]:
        """`STEPS` values of each figure, the oldest first, the present step last; None where nothing is known."""
        newest = int(now // STEP_S)
        by_step = {step: point for step, point in self._points if newest - step < STEPS}
        points = [by_step.get(step, NOTHING) for step in range(newest - STEPS + 1, newest + 1)]
        return {name: [_rounded(getattr(point, name)) for point in points] for name in NAMES}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
