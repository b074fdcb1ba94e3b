"""Why something ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MAX_ENDINGS = 20  # remembered for people

_AS_WANTED = frozenset({"finished", "moved", "closed"})


@dataclass(frozen=True, slots=True)
class Ending:
    """Why something ended; every ending has a reason."""

    code: str
    reason: str
    at: float = field(default_factory=time.time)
    job_id: str = ""
    daemon_name: str = ""

    @property
    def is_failure(self) -> bool:
        return self.code not in _AS_WANTED
