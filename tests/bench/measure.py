"""What is measured of processes, and what is said of many values."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import psutil


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed (nearest rank).

    It is always one that was measured: of fewer than 20 values, the 95th percentile is the largest.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else 0.0


def growth(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """What one more costs, and how flat that is, of three or more (count, cost) in order of the count.

    One more: the slope between the smallest and the largest count, so that what is there once (a source, an idle
    process) does not count. Flat: the slope of the last step over that of all steps before it; 1 where each costs as
    much as those before, above 1 where a crowd makes each dearer, infinite where nothing was seen of those before.
    Cost by count would fall with the count whatever happens, as it shares out what is there once.
    """
    first, before_last, last = points[0], points[-2], points[-1]
    earlier = _slope(first, before_last)
    return _slope(first, last), _slope(before_last, last) / earlier if earlier > 0 else math.inf


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, without its children's, in nanoseconds' steps (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


class CpuMeter:
    """The share of a core that processes take from here on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._before = {name: (pid, cpu_s(pid)) for name, pid in pids.items()}
        self._began = time.monotonic()

    def percent(self) -> dict[str, float]:
        wall = time.monotonic() - self._began
        return {name: 100 * (cpu_s(pid) - before) / wall for name, (pid, before) in self._before.items()}


def own_memory_mb(pid: int) -> float:
    """What would be free if the process ended (USS), MB."""
    return float(psutil.Process(pid).memory_full_info().uss) / 1e6


def resident_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6
