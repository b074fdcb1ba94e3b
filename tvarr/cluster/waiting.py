"""Jobs that wait for capacity: first in, first out within a priority."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tvarr.cluster.model import Considered, Need
from tvarr.cluster.state import NEVER, Succession

MAX_WAITING = 10_000  # jobs; more are refused


@dataclass(slots=True, eq=False)
class Waiting:
    """One job that wants a place, and mostly waits for it."""

    job_id: str
    need: Need
    avoid: frozenset[str]
    work: str
    serial: int  # of the event that first wanted it
    since: float
    deadline: float
    succession: Succession | None = None  # then it never waits
    reason: str = ""
    considered: Sequence[Considered] = ()
    until: float | None = None  # when a daemon may be tried again
    busy: bool = False  # the end of another job would help
    lonely_at: float | None = None  # when it is refused unless somebody comes who could do it

    @property
    def wakes_at(self) -> float:
        """When it is to be looked at though nothing became free."""
        return min(NEVER if self.until is None else self.until, NEVER if self.lonely_at is None else self.lonely_at)

    @property
    def order(self) -> tuple[int, int]:
        return (-self.need.priority, self.serial)


@dataclass(slots=True)
class WaitingList:
    """The queue, in order."""

    _order: list[Waiting] = field(default_factory=list)
    _by_id: dict[str, Waiting] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._order))

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._by_id

    def get(self, job_id: str) -> Waiting | None:
        return self._by_id.get(job_id)

    def add(self, entry: Waiting) -> None:
        insort(self._order, entry, key=lambda e: e.order)
        self._by_id[entry.job_id] = entry

    def remove(self, job_id: str) -> None:
        entry = self._by_id.pop(job_id, None)
        if entry is not None:
            self._order.remove(entry)

    def position(self, job_id: str) -> int:
        """1 is next; 0 does not wait."""
        entry = self._by_id.get(job_id)
        return 0 if entry is None else 1 + next(i for i, e in enumerate(self._order) if e is entry)

    def validate(self) -> None:
        orders = [e.order for e in self._order]
        assert orders == sorted(orders), "the queue is out of order"
        assert len(self._by_id) == len(self._order) == len({e.job_id for e in self._order}), "a job waits twice"
        assert len(self._order) <= MAX_WAITING, "too many jobs wait"
