"""How daemons stand at one moment: figures that never change, so that reasons can be read from them later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tvarr.cluster.fit import Make
from tvarr.cluster.model import Capabilities, LimitSource, SessionPool


class PoolStanding(NamedTuple):
    """A session pool as it stood."""

    free: int | None  # sessions that may be reserved; None: as many as wanted
    share: float  # what part is free, 0 to 1
    in_use: int
    foreign: int
    base: SessionPool  # the limit without what was learned
    learned: int | None

    @property
    def limit(self) -> int | None:
        """Sessions that the driver allows as far as we know; None: no limit."""
        return self.learned if self.learned is not None else self.base.limit

    @property
    def source(self) -> LimitSource:
        return LimitSource.LEARNED if self.learned is not None else self.base.source

    @property
    def detail(self) -> str:
        if self.learned is None:
            return self.base.detail
        before = "no limit" if self.base.limit is None else str(self.base.limit)
        return f"the driver refused a session beside {self.learned}; before: {before} ({self.base.detail})"

    @property
    def possible(self) -> bool:
        """A pool whose limit was set to nothing will never have a session."""
        return self.base.limit is None or self.base.limit > 0


@dataclass(slots=True, eq=False)
class Standing:
    """A daemon as it stood. Never changed once it is made."""

    id: str
    name: str
    closed: str  # why it takes no jobs, in words; empty: it does
    capabilities: Capabilities
    make: Make
    last_used: int  # serial of the latest placement
    jobs_held: int
    cpu_jobs_held: int
    load_cores: float  # by the table
    cost_factor: float
    sessions: tuple[int, ...]  # our encodes by the position of their GPU; empty: none at all
    pools: tuple[PoolStanding, ...]  # in the order of the capabilities

    def load_with(self, cost_cores: float) -> float:
        """Processors kept busy, by estimate, with a job of this cost."""
        return (self.load_cores + cost_cores) * self.cost_factor


Standings = tuple[tuple[Standing, ...], ...]
"""Those of all connected daemons in the order in which they joined, in chunks of which all but the last are full.

A chunk in which nothing changed is the same object as before: every placement keeps them for its reasons.
"""
