"""Encoder sessions that the GPUs of one host draw from: what is reserved, what is seen, and what is learned.

In use is what we reserved and, on top of it, what was seen of others: a heartbeat changes the second figure only, so
however late or old it is, it never frees a session that was promised to a job. A heartbeat that is older than the
latest one of its daemon is not looked at at all (`Ledger` compares their sequence numbers).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from tvarr.cluster.model import LimitSource, SessionPool
from tvarr.cluster.standing import PoolStanding

RECENT_S = 10.0  # a heartbeat may still count a session of ours that ended this long ago: two intervals
MAX_RECENT = 64  # endings remembered for one daemon; beyond it the oldest are forgotten
SESSIONS_OF_UNLIMITED = 8  # of a pool without a limit, for the comparison of how full it is


class Held(StrEnum):
    """The life of a reservation."""

    RESERVED = "reserved"  # placed; the daemon has not said yet that it runs
    CONFIRMED = "confirmed"  # it runs
    CLOSING = "closing"  # nobody wants it any more; its session may still be open


@dataclass(slots=True)
class Member:
    """One daemon's part in a pool."""

    report: SessionPool | None = None  # None: it does not report the pool any more and only ends its sessions
    connected: bool = True
    held: dict[Held, int] = field(default_factory=lambda: dict.fromkeys(Held, 0))
    own_seen: int = 0  # its own sessions at its latest heartbeat
    strange: int = 0  # sessions that are no daemon's, as it sees them
    foreign: int = 0  # those, and its own that we know nothing of
    released: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RECENT))

    @property
    def sessions(self) -> int:
        return sum(self.held.values())

    @property
    def running(self) -> int:
        return self.held[Held.CONFIRMED] + self.held[Held.CLOSING]


@dataclass(slots=True)
class Pool:
    """One session pool of one host; daemons of that host share it.

    `held` is the number of our reservations, `foreign` that of other programs' sessions. `tightened` is the serial of
    the event that last made the pool smaller or fuller by something else than a reservation.
    """

    host: str
    id: str
    base: SessionPool
    driver: str = ""
    learned: int | None = None
    try_more_at: float | None = None  # when a learned limit is doubted again
    trying: bool = False  # the learned limit was raised by one and nobody refused yet
    held: int = 0
    foreign: int = 0
    tightened: int = 0
    members: dict[str, Member] = field(default_factory=dict)  # by the daemon's id
    standing: PoolStanding = field(init=False)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def limit(self) -> int | None:
        """Sessions that the driver allows as far as we know; None: no limit."""
        return self.learned if self.learned is not None else self.base.limit

    @property
    def source(self) -> LimitSource:
        return self.standing.source

    @property
    def detail(self) -> str:
        return self.standing.detail

    @property
    def free(self) -> int | None:
        """Sessions that may be reserved; None: as many as wanted."""
        return self.standing.free

    @property
    def in_use(self) -> int:
        return self.held + self.foreign

    def refresh(self) -> None:
        """Works out how it stands; every method that changes anything ends with it."""
        limit, free = self.limit, None
        if limit is None:
            share = max(0.0, 1 - self.held / SESSIONS_OF_UNLIMITED)
        else:
            free = max(0, limit - self.in_use)
            share = free / limit if limit else 0.0
        self.standing = PoolStanding(free, share, self.in_use, self.foreign, self.base, self.learned)

    # -------------------------------------------------------------------------------------------------- reports

    def report(self, daemon_id: str, pool: SessionPool, driver: str) -> None:
        """A daemon of the host says what the pool's limit is. What was learned from another driver is forgotten."""
        member = self.members.setdefault(daemon_id, Member())
        member.report, member.connected = pool, True
        if driver and self.driver and driver != self.driver:
            self.forget_learned()
        self.driver = driver or self.driver
        self._settle()
        self.refresh()

    def leave(self, daemon_id: str, *, forgotten: bool) -> None:
        """A daemon is gone, or reports the pool no more (`forgotten`); what it holds stays held until released."""
        member = self.members.get(daemon_id)
        if member is None:
            return
        member.connected = False
        member.own_seen = member.foreign = member.strange = 0
        if forgotten:
            member.report = None
            if not member.sessions:
                del self.members[daemon_id]
        self.foreign = self._most_foreign()
        self._settle()
        self.refresh()

    def _settle(self) -> None:
        """The limit of several reports: the lowest that somebody set, else the lowest."""
        reports = [m.report for m in self.members.values() if m.connected and m.report]
        reports = reports or [m.report for m in self.members.values() if m.report]
        if not reports:
            return
        chosen = [r for r in reports if r.source is LimitSource.OVERRIDE] or reports
        base = min(chosen, key=lambda r: float("inf") if r.limit is None else r.limit)
        if base.limit is not None and base.limit < 0:
            base = SessionPool(base.id, 0, base.source, base.detail)
        if (base.limit, base.source) != (self.base.limit, self.base.source):
            self.forget_learned()
        self.base = base

    # ------------------------------------------------------------------------------------------------- sessions

    def take(self, daemon_id: str) -> None:
        self.members.setdefault(daemon_id, Member()).held[Held.RESERVED] += 1
        self.held += 1
        self.refresh()

    def change(self, daemon_id: str, before: Held, after: Held) -> None:
        held = self.members[daemon_id].held
        held[before] -= 1
        held[after] += 1

    def release(self, daemon_id: str, state: Held, now: float) -> None:
        member = self.members[daemon_id]
        member.held[state] -= 1
        self.held -= 1
        self.refresh()
        if state is not Held.RESERVED:
            member.released.append(now)
            member.own_seen = max(0, member.own_seen - 1)
        if member.report is None and not member.sessions:
            del self.members[daemon_id]

    def running(self) -> int:
        """Our sessions that are open, or were a moment ago."""
        return sum(member.running for member in self.members.values())

    # --------------------------------------------------------------------------------------------- observations

    def observe(self, daemon_id: str, active: int, own: int, now: float) -> None:
        """One daemon's latest heartbeat: `active` sessions by the driver's count, of which `own` are its jobs'.

        Foreign is what remains of `active` without its own sessions and without those of the other daemons of the host
        (as they say, or as we know, whichever is more), and what it calls its own beyond what we gave it, a moment ago
        or now (clients that it serves directly). A reserved session of another daemon may be open already or not: what
        was foreign before decides between the two.
        """
        member = self.members.get(daemon_id)
        if member is None:
            return
        own = max(0, own)
        active = max(active, own)
        siblings = [m for key, m in self.members.items() if key != daemon_id]
        others = active - own
        least = max(0, others - sum(max(m.own_seen, m.sessions) for m in siblings))
        most = max(0, others - sum(max(m.own_seen, m.held[Held.CONFIRMED]) for m in siblings))
        recent = sum(1 for at in member.released if now - at <= RECENT_S)
        member.own_seen = own
        member.strange = min(max(member.strange, least), most)
        member.foreign = member.strange + max(0, own - member.sessions - recent)
        self.foreign = self._most_foreign()
        if self.learned is not None and active > self.learned:
            self._raise_to(active)
        self.refresh()

    def _most_foreign(self) -> int:
        return max((m.foreign for m in self.members.values() if m.connected), default=0)

    # ------------------------------------------------------------------------------------------------- learning

    def refused(self, now: float, doubt_after_s: float) -> int:
        """The driver refused a session (which is released already): the limit is what runs now. Returns that."""
        ran = self.running() + self.foreign
        self.learned, self.try_more_at, self.trying = ran, now + doubt_after_s, False
        if self.base.limit is not None and ran >= self.base.limit:  # nothing new: foreign sessions came just now
            self.forget_learned()
        self.refresh()
        return ran

    def confirmed(self) -> None:
        """One more session runs, which may prove more than the learned limit."""
        if self.learned is None:
            return
        running = self.running()
        if running > self.learned or (self.trying and running == self.learned):
            self._raise_to(max(running, self.learned + self.trying))
            self.refresh()

    def doubt(self, now: float, doubt_after_s: float) -> bool:
        """Tries one session more than learned where its time has come; True where the limit is another now."""
        if self.learned is None or self.try_more_at is None or now < self.try_more_at:
            return False
        self.try_more_at = now + doubt_after_s
        if self.base.limit is None:
            self.forget_learned()
        else:
            self._raise_to(self.learned + 1)
            self.trying = self.learned is not None
        self.refresh()
        return True

    def forget_learned(self) -> None:
        self.learned, self.try_more_at, self.trying = None, None, False

    def _raise_to(self, limit: int) -> None:
        if self.base.limit is not None and limit >= self.base.limit:
            self.forget_learned()
        else:
            self.learned = limit

    def validate(self) -> None:
        """Asserts that the figures agree with each other."""
        name = f"pool {self.id} of {self.host}"
        assert self.held == sum(m.sessions for m in self.members.values()), f"{name}: held does not add up"
        assert all(count >= 0 for m in self.members.values() for count in m.held.values()), f"{name}: below zero"
        assert self.foreign == self._most_foreign(), f"{name}: foreign is stale"
        before = self.standing
        self.refresh()
        assert self.standing == before, f"{name}: it stands as {before} and not as {self.standing}"
        if self.learned is not None:
            assert 0 <= self.learned < (self.base.limit or float("inf")), (
                f"{name}: learned {self.learned}, known before {self.base.limit}"
            )
