"""Since when something is, whatever becomes of the machine's clock meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Since:
    """A moment: `at` by the wall clock, for people; what is reckoned from it goes by a clock that nobody sets."""

    at: float = field(default_factory=time.time)  # Unix time, seconds
    _began: float = field(default_factory=time.monotonic)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def now_s(self) -> float:
        """Unix time as it would be, had the clock not been set since."""
        return self.at + self.age_s
