"""Pictures that a source did not keep until its job took them, counted by the times of those around them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


class Missed:
    """What a job lacks behind the picture with this DTS. It may come to lack more before two pictures in a row tell."""

    def __init__(self, after_ticks: int) -> None:
        self._after_ticks = after_ticks
        self._given = 0  # between what it lacks
        self._times: list[int] = []  # of the pictures since

    def again(self) -> None:
        """More is missing."""
        self._given += len(self._times)
        self._times.clear()

    def count(self, times: Iterable[int]) -> int | None:
        """How many are missing, now that pictures with these DTS have come; None where that can't be told yet."""
        self._times += times
        step = min((b - a for a, b in pairwise(self._times) if b > a), default=0)
        if not step:
            return None
        return max(0, round((self._times[0] - self._after_ticks) / step) - 1 - self._given)
