"""Jobs that are to run elsewhere: those of draining daemons, and those that fell back to software.

A `Move` asks for a successor and promises nothing, but no free session is offered to two jobs at once. From then on the
move is remembered until the job is over: while nobody answers, and while the successor gets ready. A successor that
ends too early lets its job rest for a while, and the next one of the daemon has its turn; one whose daemon went away
says nothing of the job, which soon tries another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tvarr.cluster.events import Instruction, Move
from tvarr.cluster.fit import shape_key
from tvarr.cluster.model import MoveKind, Placement
from tvarr.cluster.policy import choose
from tvarr.cluster.pools import Held
from tvarr.cluster.state import NEVER, Cluster, Daemon, Job, PoolKey, Succession
from tvarr.cluster.succession import succession_of

MOVES_AT_ONCE = 2  # away from one draining daemon
MOVES_IN_A_HURRY = 3  # the same where the daemon waits a few seconds and ends; more would slow each other down
GONE_PAUSE_S = 1.0  # from the loss of a successor's daemon to the next try: by then everybody knows of it


def at_once(daemon: Daemon) -> int:
    """How many jobs leave a draining daemon at the same time."""
    return MOVES_IN_A_HURRY if daemon.in_a_hurry else MOVES_AT_ONCE


@dataclass(slots=True, eq=False)
class _Asked:
    """A move that was asked for."""

    job: Job
    kind: MoveKind
    until: float  # when it is forgotten, unless a successor is on its way
    promised: PoolKey | None  # the pool in which a session was free for it; None from the answer on
    to: str = ""  # the daemon on which its successor has, or had, a place
    under_way: bool = False  # its successor has a place
    failed: bool = False  # its successor ended before it


@dataclass(slots=True)
class Moves:
    """What is to be moved, and what is being moved."""

    cluster: Cluster
    _fallbacks: dict[int, Job] = field(default_factory=dict)  # by serial
    _asked: dict[int, _Asked] = field(default_factory=dict)  # by serial
    _look_again_at: float = NEVER  # at the jobs that found no place

    # ----------------------------------------------------------------------------------------- what became of them

    def placed(self, job: Job) -> None:
        """A job has got its place."""
        if job.placement.fallback:
            self._fallbacks[job.serial] = job
        asked = self._asked_for(job.succession)
        if asked is not None and asked.failed:  # somebody else tries again
            del self._asked[asked.job.serial]
        elif asked is not None:
            asked.under_way, asked.promised, asked.to = True, None, job.daemon_id
            self.cluster.improved = True  # what was promised to it may do for another

    def refused(self, succession: Succession, now: float) -> None:
        """A successor found no place."""
        asked = self._asked_for(succession)
        if asked is not None and not asked.under_way and not asked.failed:
            del self._asked[asked.job.serial]
            self._look_again(now)

    def settle(self, now: float) -> None:
        """To be called after every event: which moves are over, and which failed."""
        for serial, asked in list(self._asked.items()):
            job = asked.job
            if self.cluster.jobs.get(job.id) is not job:
                if serial not in self.cluster.closing:
                    del self._asked[serial]
            elif asked.under_way and job.id not in self.cluster.successors:
                asked.under_way, asked.failed = False, True
                asked.until = now + (GONE_PAUSE_S if self._is_gone(asked.to) else self.cluster.settings.move_pause_s)
                self.cluster.wake(asked.until)
                self.cluster.improved = True  # it is another's turn

    def _is_gone(self, daemon_id: str) -> bool:
        daemon = self.cluster.daemons.get(daemon_id)
        return daemon is None or not daemon.connected or daemon.unhealthy

    def _asked_for(self, succession: Succession | None) -> _Asked | None:
        replaced = self.cluster.replaced_by(succession)
        return self._asked.get(replaced.serial) if replaced is not None else None

    def _look_again(self, now: float) -> None:
        self._look_again_at = min(self._look_again_at, now + self.cluster.settings.move_pause_s)
        self.cluster.wake(self._look_again_at)

    # ----------------------------------------------------------------------------------------------------- asking

    def offer(self, now: float) -> list[Instruction]:
        """Asks for the moves that can be made now."""
        asked: list[Instruction] = []
        hopeless: set[tuple[object, ...]] = set()
        for daemon in self.cluster.draining.values():
            free = at_once(daemon) - self._leaving(daemon.id)
            for job in self.cluster.held_by(daemon.id) if free > 0 else ():
                if self._movable(job) and self._ask(job, MoveKind.DRAIN, now, hopeless):
                    asked.append(Move(job.id, MoveKind.DRAIN, f"{daemon.name} drains"))
                    free -= 1
                    if not free:
                        break
        if self.cluster.settings.promote and self._fallbacks:
            self._fallbacks = {s: job for s, job in self._fallbacks.items() if self.cluster.jobs.get(job.id) is job}
            asked += [
                Move(job.id, MoveKind.PROMOTION, "a hardware session is free")
                for job in self._fallbacks.values()
                if self._movable(job) and self._ask(job, MoveKind.PROMOTION, now, hopeless)
            ]
        return asked

    def _leaving(self, daemon_id: str) -> int:
        """Moves away from a draining daemon whose jobs have not ended."""
        asked = self._asked.values()
        return sum(a.kind is MoveKind.DRAIN and not a.failed and a.job.daemon_id == daemon_id for a in asked)

    def _movable(self, job: Job) -> bool:
        """Whether the job runs and neither replaces one that runs nor is being replaced."""
        if job.state is not Held.CONFIRMED or job.serial in self._asked:
            return False
        return job.id not in self.cluster.successors and not self.cluster.replaces(job)

    def _ask(self, job: Job, kind: MoveKind, now: float, hopeless: set[tuple[object, ...]]) -> bool:
        """Whether there is a place for the job's successor now, which is then taken as asked for.

        `hopeless`: what found none already; jobs that need just the same won't either.
        """
        cluster = self.cluster
        plain = not job.avoid and job.work not in cluster.backoffs
        shape = (kind, shape_key(job.need), job.need.policy)
        if plain and shape in hopeless:
            return False
        succession = succession_of(job, kind)
        verdict = choose(cluster, job.need, now, work=job.work, avoid=job.avoid, succession=succession)
        if not isinstance(verdict, Placement):
            if plain:
                hopeless.add(shape)
            self._look_again(now)
            return False
        pool = cluster.daemons[verdict.daemon_id].pools.get(verdict.pool)
        key = None if pool is None else (pool.host, pool.id)
        if pool is not None and pool.free is not None and pool.free <= self._promised()[key]:
            return False
        until = now + cluster.settings.move_pause_s
        self._asked[job.serial] = _Asked(job, kind, until, key)
        cluster.wake(until)
        return True

    def _promised(self) -> Counter[PoolKey | None]:
        return Counter(asked.promised for asked in self._asked.values())

    # -------------------------------------------------------------------------------------------------- the clock

    def look_at_the_clock(self, now: float) -> None:
        """Moves that nobody answered, or that failed, may be asked for again."""
        for serial, asked in list(self._asked.items()):
            if not asked.under_way and asked.until <= now:
                del self._asked[serial]
                self.cluster.improved = True
        if self._look_again_at <= now:
            self._look_again_at = NEVER
            self.cluster.improved = True

    def deadlines(self) -> list[float]:
        moments = [asked.until for asked in self._asked.values() if not asked.under_way]
        return [*moments, self._look_again_at]

    def validate(self) -> None:
        """Asserts what must hold after every event."""
        cluster = self.cluster
        for serial, asked in self._asked.items():
            job = asked.job
            alive = cluster.jobs.get(job.id) is job
            assert job.serial == serial, f"a move of {job.id} is filed under another serial"
            assert alive or serial in cluster.closing, f"a move of {job.id}, which is over"
            assert not alive or asked.under_way <= (job.id in cluster.successors), f"{job.id} is moved by nobody"
            assert not (asked.under_way and asked.promised), f"{job.id} has a promise beside its successor"
            assert not (asked.under_way and asked.failed), f"the move of {job.id} failed and goes on"
        for daemon_id in cluster.daemons:
            assert self._leaving(daemon_id) <= MOVES_IN_A_HURRY, f"too many jobs leave {daemon_id} at once"
