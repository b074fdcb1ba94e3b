"""Why something ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MAX_ENDINGS = 20  # remembered for people
STDERR_LINES = 40  # of one job's ffmpeg

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


@dataclass(frozen=True, slots=True)
class PastJob:
    """A job that a daemon had, and how it ended there."""

    job_id: str
    name: str  # the channel's slug and the profile: "news/h264"
    encoder: str
    began_at: float  # wall clock
    took_s: float
    ending: Ending
    frames: int
    command: str
    stderr: tuple[str, ...]  # ffmpeg's last lines, at most `STDERR_LINES`
