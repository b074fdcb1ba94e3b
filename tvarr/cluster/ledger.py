"""The one place that knows which daemons there are and what each has been given.

`handle(event, now)` takes what happened and returns what is to be done; the shell does it. Placement asks
`policy.choose`; whoever changes capacity does it here and nowhere else. What an event frees is given away again before
`handle` returns: to jobs that wait first, then to jobs that fell back to software.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tvarr.cluster.events import (
    Cancel,
    CapabilitiesCame,
    DaemonAttached,
    DaemonDetached,
    DrainAsked,
    Event,
    HeartbeatCame,
    Instruction,
    JobAcked,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobSeen,
    JobWanted,
    Lost,
    PoolSeen,
    Promote,
    Queued,
    QueueTimedOut,
    Refuse,
    SessionRefused,
    Start,
    TimePassed,
)
from tvarr.cluster.fit import need_key
from tvarr.cluster.model import Considered, Family, Placement, Refusal, RefusalKind, Wait
from tvarr.cluster.policy import choose
from tvarr.cluster.pools import Held
from tvarr.cluster.state import Cluster, Daemon, DaemonState, Job, PoolKey, Settings
from tvarr.cluster.waiting import MAX_WAITING, Waiting, WaitingList
from tvarr.errors import ErrorCode

__all__ = [
    "Cancel",
    "CapabilitiesCame",
    "Daemon",
    "DaemonAttached",
    "DaemonDetached",
    "DaemonState",
    "DrainAsked",
    "Event",
    "HeartbeatCame",
    "Instruction",
    "Job",
    "JobAcked",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobSeen",
    "JobWanted",
    "Ledger",
    "Lost",
    "PoolSeen",
    "Promote",
    "QueueTimedOut",
    "Queued",
    "Refuse",
    "SessionRefused",
    "Settings",
    "Start",
    "TimePassed",
    "words",
]

FORGET_AFTER_S = 600.0  # a disconnected daemon is shown this long, and a failed try remembered
MAX_DAEMONS = 10_000  # remembered; the longest gone are forgotten first

_NEVER = float("inf")

NO_BACKOFF = frozenset({ErrorCode.BAD_INPUT, ErrorCode.BAD_REQUEST, ErrorCode.CANCELLED, ErrorCode.SESSION_LIMIT})
"""Errors after which the daemon is as good for the job as any other."""

BLAMED = frozenset(
    {
        ErrorCode.GPU_UNAVAILABLE,
        ErrorCode.DRIVER_TOO_OLD,
        ErrorCode.PERMISSION,
        ErrorCode.OUT_OF_MEMORY,
        ErrorCode.STALLED,
        ErrorCode.FFMPEG_EXITED,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.INTERNAL,
    }
)
"""Errors that may be the daemon's fault; those of the input, the job or a limit are not."""


@dataclass(slots=True)
class Ledger:
    """Daemons, the jobs placed on them and the jobs that wait.

    `unhealthy_after_s`: silence after which a daemon gets no jobs and loses those it has.
    """

    unhealthy_after_s: float = 30.0
    settings: Settings = field(default_factory=Settings)
    cluster: Cluster = field(init=False)
    _waiting: WaitingList = field(default_factory=WaitingList, init=False)
    _fallbacks: dict[int, Job] = field(default_factory=dict, init=False)  # by serial
    _due: float = field(default=_NEVER, init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.settings)

    # -------------------------------------------------------------------------------------------------- to read

    @property
    def daemons(self) -> dict[str, Daemon]:
        return self.cluster.daemons

    @property
    def jobs(self) -> dict[str, Job]:
        return self.cluster.jobs

    def jobs_on(self, daemon_id: str) -> list[Job]:
        """A daemon's jobs that are wanted, oldest first."""
        return [job for job in self.cluster.held_by(daemon_id) if job.state is not Held.CLOSING]

    def waiting(self) -> tuple[Waiting, ...]:
        """The jobs that wait, next one first: its index and 1 is a job's position."""
        return tuple(self._waiting)

    def waiting_for(self, job_id: str) -> Waiting | None:
        """What is known of a job that waits; None where it does not."""
        return self._waiting.get(job_id)

    def position(self, job_id: str) -> int:
        """In the queue; 1 is next, 0 does not wait."""
        return self._waiting.position(job_id)

    def deadline(self) -> float | None:
        """When `TimePassed` is due. It may have nothing to do then: deadlines that moved away are not taken back."""
        return None if self._due == _NEVER else self._due

    def free_id(self, wanted: str, instance: str) -> bool:
        """Whether a daemon process may use this id: nobody else alive has it."""
        daemon = self.daemons.get(wanted)
        return daemon is None or not daemon.connected or daemon.instance == instance

    def validate(self) -> None:
        """Asserts what must hold after every event (`Cluster.validate`)."""
        self.cluster.validate()
        self._waiting.validate()
        assert not any(entry.job_id in self.jobs for entry in self._waiting), "a job waits and runs"
        assert not self.cluster.improved, "something is free and was offered to nobody"

    # --------------------------------------------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Takes one event at time `now` (seconds, monotonic) and returns what follows from it, in order."""
        self.cluster.serial += 1
        instructions = self._take(event, now)
        if self.cluster.improved:
            self.cluster.improved = False
            instructions += self._serve_queue(now)
            instructions += self._promote(now)
        return instructions

    def _take(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case HeartbeatCame():
                return self._hear(event, now)
            case JobWanted():
                return [self._want(event, now)]
            case JobAcked(job_id):
                self._ack(job_id, now)
            case JobEnded(job_id):
                self._end(job_id, now)
            case JobCancelled(job_id, reason):
                return self._cancel(job_id, reason, now)
            case JobFailed():
                return self._fail(event, now)
            case SessionRefused(job_id):
                return self._refused_by_driver(job_id, now)
            case DaemonAttached():
                return self._attach(event, now)
            case DaemonDetached():
                return self._detach(event, now)
            case CapabilitiesCame(daemon_id, capabilities):
                if daemon := self.daemons.get(daemon_id):
                    self.cluster.set_capabilities(daemon, capabilities)
            case DrainAsked(daemon_id, draining):
                if daemon := self.daemons.get(daemon_id):
                    daemon.draining = draining
                    self.cluster.touch(daemon)
                    self.cluster.improved |= not draining
            case TimePassed():
                return self._look_at_the_clock(now)
        return []

    def _wake(self, at: float) -> None:
        self._due = min(self._due, at)

    # -------------------------------------------------------------------------------------------------- daemons

    def _attach(self, event: DaemonAttached, now: float) -> list[Instruction]:
        cluster, before = self.cluster, self.daemons.get(event.id)
        departed: list[Job] = []
        daemon = Daemon(
            event.id,
            event.instance,
            event.name,
            event.machine,
            event.version,
            event.capabilities,
            connected_at=now,
            heard_at=now,
        )
        if before is not None:
            daemon.last_used = before.last_used
        if before is not None and before.instance == event.instance:
            daemon.draining, daemon.cost_factor = before.draining, before.cost_factor
            daemon.failed_works, daemon.times_aside = before.failed_works, before.times_aside
            daemon.aside_until, daemon.aside_reason = before.aside_until, before.aside_reason
            departed = [job for job in before.departed.values() if job.id in event.jobs and job.id not in self.jobs]
        else:
            cluster.aside.discard(event.id)
        held = cluster.held_by(event.id)
        cluster.add(daemon)
        self._wake(now + self.unhealthy_after_s)
        self._forget_the_longest_gone()
        instructions: list[Instruction] = []
        cancelled: list[Instruction] = []
        for job in held:
            instructions += self._recognise(job, daemon, event.jobs, now)
        for job in departed:
            cluster.hold_again(job)
            self._close_by(job, now)
        known = {job.id for job in cluster.held_by(event.id) if job.instance == event.instance}
        closing = {job.id for job in cluster.held_by(event.id) if job.state is Held.CLOSING}
        for job_id in sorted(event.jobs):
            if job_id not in known:
                cancelled.append(Cancel(event.id, job_id, "the coordinator does not know this job"))
            elif job_id in closing and job_id not in self.jobs:
                cancelled.append(Cancel(event.id, job_id, "nobody wants it any more"))
        return instructions + cancelled

    def _recognise(self, job: Job, daemon: Daemon, running: frozenset[str], now: float) -> list[Instruction]:
        """What becomes of a job that a daemon held, now that it is back and says what it runs."""
        same = job.instance == daemon.instance
        if same and job.id in running:
            job.sequence_seen = daemon.sequence
            if job.state is Held.CLOSING:
                self._close_by(job, now)
            return []
        lost = job.state is not Held.CLOSING
        if same:  # it would know
            self.cluster.release(job, now)
        elif lost or job.close_by is None:  # its process is gone, its sessions may outlive it for a moment
            if lost:
                self.cluster.close(job, None)
            self._close_by(job, now)
        if not lost:
            return []
        return [Lost(job.id, ErrorCode.CONNECTION_LOST, f"{daemon.name} came back without the job")]

    def _forget_the_longest_gone(self) -> None:
        while len(self.daemons) > MAX_DAEMONS:
            gone = next((d for d in self.daemons.values() if not d.connected), None)
            if gone is None:
                break
            self.cluster.forget(gone)

    def _detach(self, event: DaemonDetached, now: float) -> list[Instruction]:
        daemon = self.daemons.get(event.id)
        if daemon is None or daemon.instance != event.instance or not daemon.connected:
            return []
        daemon.heard_at = now
        self._wake(now + FORGET_AFTER_S)
        self.cluster.disconnect(daemon)
        reason = f"{daemon.name}: {event.reason}"
        return self._lose_all(daemon, ErrorCode.CONNECTION_LOST, reason, now)

    def _lose_all(self, daemon: Daemon, code: ErrorCode, reason: str, now: float) -> list[Instruction]:
        """The daemon is gone or silent. What it runs may go on for a while: sessions stay held until a time limit, or
        as long as it is connected and silent, when nobody can end them.
        """
        lost: list[Instruction] = []
        for job in self.cluster.held_by(daemon.id):
            if job.state is not Held.CLOSING:
                self.cluster.close(job, None)
                lost.append(Lost(job.id, code, reason))
            if daemon.connected:
                job.close_by = None
            elif job.close_by is None:
                self._close_by(job, now)
        return lost

    def _close_by(self, job: Job, now: float) -> None:
        job.close_by = now + self.settings.close_within_s
        self._wake(job.close_by)

    # ----------------------------------------------------------------------------------------------- heartbeats

    def _hear(self, event: HeartbeatCame, now: float) -> list[Instruction]:
        daemon = self.daemons.get(event.id)
        if daemon is None or not daemon.connected:
            return []
        daemon.heard_at = now
        instructions: list[Instruction] = []
        if daemon.unhealthy:
            instructions = self._heal(daemon, now)
        sequence = daemon.sequence + 1 if event.sequence is None else event.sequence
        if sequence <= daemon.sequence:
            return instructions
        daemon.sequence = sequence
        for pool in event.pools:
            self.cluster.observe(daemon, pool.id, pool.active, pool.own, now)
        if event.jobs is not None:
            self._hear_of_jobs(daemon, {job.job_id: job for job in event.jobs}, now)
        return instructions

    def _heal(self, daemon: Daemon, now: float) -> list[Instruction]:
        daemon.unhealthy = False
        self._wake(now + self.unhealthy_after_s)
        self.cluster.touch(daemon)
        self.cluster.improved = True
        cancelled: list[Instruction] = []
        for job in self.cluster.held_by(daemon.id):
            if job.state is Held.CLOSING and job.close_by is None:
                self._close_by(job, now)
                if job.instance == daemon.instance:
                    cancelled.append(Cancel(daemon.id, job.id, "it was given away while the daemon was silent"))
        return cancelled

    def _hear_of_jobs(self, daemon: Daemon, running: dict[str, JobSeen], now: float) -> None:
        """A closing job that an earlier heartbeat had and this one has not is over. One that no heartbeat had yet may
        be younger than this one, so nothing follows from its absence.
        """
        speeds: list[tuple[float, float]] = []
        long_enough = self.settings.healthy_after_s
        for job in self.cluster.held_by(daemon.id):
            if job.instance != daemon.instance:
                continue
            seen = running.get(job.id)
            if seen is None:
                if job.state is Held.CLOSING and job.sequence_seen is not None:
                    self.cluster.release(job, now)
                continue
            job.sequence_seen = daemon.sequence
            if job.confirmed_at is not None and now - job.confirmed_at >= long_enough:
                self.cluster.praise(daemon)
                if seen.age_s >= long_enough and seen.speed > 0 and job.state is Held.CONFIRMED:
                    speeds.append((seen.speed, job.placement.cost_cores))
        self.cluster.correct(daemon, speeds)

    # ----------------------------------------------------------------------------------------------------- jobs

    def _want(self, event: JobWanted, now: float) -> Instruction:
        assert event.job_id not in self.jobs, f"{event.job_id} is placed already"
        assert event.job_id not in self._waiting, f"{event.job_id} waits already"
        request = Waiting(
            event.job_id,
            event.need,
            event.avoid,
            event.work or event.job_id,
            self.cluster.serial,
            now,
            now + self.settings.queue_timeout_s,
            event.promotes,
        )
        return self._place(request, now)

    def _place(self, request: Waiting, now: float) -> Instruction:
        verdict = choose(
            self.cluster,
            request.need,
            now,
            work=request.work,
            avoid=request.avoid,
            hardware_only=bool(request.promotes),
        )
        match verdict:
            case Placement():
                return self._start(request, verdict, now)
            case Refusal():
                return Refuse(request.job_id, verdict)
        if len(self._waiting) >= MAX_WAITING:
            retry_after_s = self.settings.retry_after_s
            full = Refusal("the queue is full", verdict.considered, RefusalKind.EXHAUSTED, retry_after_s)
            return Refuse(request.job_id, full)
        self._note(request, verdict)
        self._waiting.add(request)
        self._wake(request.deadline)
        return Queued(request.job_id, self._waiting.position(request.job_id), verdict.reason, verdict.considered)

    def _note(self, request: Waiting, verdict: Wait | Refusal) -> None:
        request.reason, request.considered = verdict.reason, verdict.considered
        request.until = verdict.until if isinstance(verdict, Wait) else None
        if request.until is not None:
            self._wake(request.until)

    def _start(self, request: Waiting, placement: Placement, now: float) -> Start:
        job = Job(
            request.job_id,
            placement.daemon_id,
            placement,
            now,
            request.need,
            request.work,
            request.since,
            request.serial,
            self.daemons[placement.daemon_id].instance,
            avoid=request.avoid,
            promotes=request.promotes,
        )
        self.cluster.place(job)
        self._wake(now + self.settings.ack_within_s)
        if placement.fallback:
            self._fallbacks[job.serial] = job
        return Start(job.id, placement, now - request.since)

    def _ack(self, job_id: str, now: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            return
        self.cluster.confirm(job, now)
        self.cluster.improved |= job.placement.fallback  # hardware may have become free since it was placed

    def _end(self, job_id: str, now: float) -> None:
        self._waiting.remove(job_id)
        for job in self._find(job_id):
            daemon = self.daemons.get(job.daemon_id)
            if daemon and job.confirmed_at is not None and now - job.confirmed_at >= self.settings.healthy_after_s:
                self.cluster.praise(daemon)
            self.cluster.release(job, now)

    def _find(self, job_id: str) -> list[Job]:
        """The job of this id, or the closing ones."""
        job = self.jobs.get(job_id)
        return [job] if job is not None else [j for j in self.cluster.closing.values() if j.id == job_id]

    def _cancel(self, job_id: str, reason: str, now: float) -> list[Instruction]:
        self._waiting.remove(job_id)
        job = self.jobs.get(job_id)
        if job is None:
            return []
        self.cluster.close(job, None)
        self._close_by(job, now)
        return [Cancel(job.daemon_id, job_id, reason)]

    def _fail(self, event: JobFailed, now: float) -> list[Instruction]:
        self._waiting.remove(event.job_id)
        cancelled: list[Instruction] = []
        for job in self._find(event.job_id):
            wanted = job.state is not Held.CLOSING
            if event.ended:
                self.cluster.release(job, now)
            elif wanted:
                self.cluster.close(job, None)
                self._close_by(job, now)
                cancelled.append(Cancel(job.daemon_id, job.id, event.reason))
            if event.code is ErrorCode.SESSION_LIMIT and event.ended:
                self._learn(job, event.reason, now)
            elif wanted and event.code not in NO_BACKOFF:
                self._remember_failure(job, event.code, event.reason, now, in_software=event.retry_in_software)
        return cancelled

    def _remember_failure(self, job: Job, code: ErrorCode, reason: str, now: float, *, in_software: bool) -> None:
        encoder = job.placement.encoder
        hardware = encoder is not None and encoder.family is not Family.SOFTWARE
        self.cluster.back_off(job, f"{code.value}: {reason}", now, hardware_only=hardware and in_software)
        daemon = self.daemons.get(job.daemon_id)
        if daemon is not None and code in BLAMED:
            self.cluster.blame(daemon, job.work, reason, now)
            if daemon.aside_until is not None:
                self._wake(daemon.aside_until)

    def _refused_by_driver(self, job_id: str, now: float) -> list[Instruction]:
        wanted = job_id in self.jobs
        for job in self._find(job_id):
            self.cluster.release(job, now)
            self._learn(job, "the driver refused a session", now)
            if not wanted:
                return []
            request = Waiting(
                job.id,
                job.need,
                job.avoid,
                job.work,
                job.wanted_serial,
                job.wanted_at,
                job.wanted_at + self.settings.queue_timeout_s,
                job.promotes,
            )
            return [self._place(request, now)]
        return []

    def _learn(self, job: Job, reason: str, now: float) -> None:
        """What a refused session says of its pool; where there is none, of the daemon's hardware for this job."""
        pool = self.cluster.pools.get(job.pool) if job.pool is not None else None
        if pool is None:
            self.cluster.back_off(job, reason, now, hardware_only=not job.in_software)
            return
        self.cluster.session_refused(pool, now)
        if pool.try_more_at is not None:
            self._wake(pool.try_more_at)

    # ------------------------------------------------------------------------------------ what becomes free

    def _serve_queue(self, now: float) -> list[Instruction]:
        """Starts what can start, in order. One that can't holds up only those that need just the same."""
        started: list[Instruction] = []
        hopeless: set[tuple[object, ...]] = set()
        for entry in self._waiting:
            plain = not entry.avoid and entry.work not in self.cluster.backoffs
            kind = (need_key(entry.need), entry.need.policy)
            if plain and kind in hopeless:
                continue
            verdict = choose(self.cluster, entry.need, now, work=entry.work, avoid=entry.avoid)
            if isinstance(verdict, Placement):
                self._waiting.remove(entry.job_id)
                started.append(self._start(entry, verdict, now))
                continue
            self._note(entry, verdict)
            if plain:
                hopeless.add(kind)
        return started

    def _promote(self, now: float) -> list[Instruction]:
        """Offers free sessions to jobs that fell back to software, oldest first, no session to two of them."""
        if not self.settings.promote or not self._fallbacks:
            return []
        self._fallbacks = {s: job for s, job in self._fallbacks.items() if self.jobs.get(job.id) is job}
        promised = Counter(job.promised for job in self._fallbacks.values() if job.promote_at is not None)
        promoted: list[Instruction] = []
        hopeless: set[tuple[object, ...]] = set()
        for job in self._fallbacks.values():
            kind = need_key(job.need)
            if job.promote_at is not None or job.state is not Held.CONFIRMED or kind in hopeless:
                continue
            verdict = choose(self.cluster, job.need, now, work=job.work, avoid=job.avoid, hardware_only=True)
            if not isinstance(verdict, Placement):
                hopeless.add(kind)
                continue
            key = self._pool_key(verdict)
            free = self.cluster.pools[key].free if key is not None else None
            if free is not None and promised[key] >= free:
                continue
            promised[key] += 1
            job.promised, job.promote_at = key, now + self.settings.promote_pause_s
            self._wake(job.promote_at)
            promoted.append(Promote(job.id))
        return promoted

    def _pool_key(self, placement: Placement) -> PoolKey | None:
        pool = self.daemons[placement.daemon_id].pools.get(placement.pool)
        return None if pool is None else (pool.host, pool.id)

    # -------------------------------------------------------------------------------------------------- the clock

    def _look_at_the_clock(self, now: float) -> list[Instruction]:
        cluster = self.cluster
        instructions: list[Instruction] = []
        for daemon in list(self.daemons.values()):
            if not daemon.connected:
                if daemon.heard_at + FORGET_AFTER_S <= now:
                    cluster.forget(daemon)
            elif not daemon.unhealthy and daemon.heard_at + self.unhealthy_after_s <= now:
                daemon.unhealthy = True
                cluster.touch(daemon)
                reason = f"{daemon.name} has sent no heartbeat for {self.unhealthy_after_s:g} s"
                instructions += self._lose_all(daemon, ErrorCode.STALLED, reason, now)
        instructions += self._expire_jobs(now)
        for entry in self._waiting:
            if entry.deadline <= now:
                self._waiting.remove(entry.job_id)
                waited_s = now - entry.since
                instructions.append(QueueTimedOut(entry.job_id, waited_s, entry.reason, entry.considered))
            elif entry.until is not None and entry.until <= now:
                cluster.improved = True
        for fallback in self._fallbacks.values():
            if fallback.promote_at is not None and fallback.promote_at <= now:
                fallback.promote_at = None
                cluster.improved = True
        cluster.take_back(now)
        cluster.doubt_limits(now)
        cluster.forget_backoffs(now - FORGET_AFTER_S)
        self._due = self._next_deadline(now)
        return instructions

    def _expire_jobs(self, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        limit_s = self.settings.ack_within_s
        for job in list(self.jobs.values()):
            if job.state is Held.RESERVED and job.placed_at + limit_s <= now:
                reason = f"{self.daemons[job.daemon_id].name} did not start the job within {limit_s:g} s"
                self.cluster.close(job, None)
                self._close_by(job, now)
                self._remember_failure(job, ErrorCode.STALLED, reason, now, in_software=False)
                instructions += [Cancel(job.daemon_id, job.id, reason), Lost(job.id, ErrorCode.STALLED, reason)]
        for job in list(self.cluster.closing.values()):
            if job.close_by is not None and job.close_by <= now:
                self.cluster.release(job, now)
                daemon = self.daemons[job.daemon_id]
                if not daemon.connected and daemon.instance == job.instance:
                    daemon.departed[job.id] = job
        return instructions

    def _next_deadline(self, now: float) -> float:
        settings = self.settings
        moments = [
            d.heard_at + (self.unhealthy_after_s if d.connected else FORGET_AFTER_S)
            for d in self.daemons.values()
            if not (d.connected and d.unhealthy)
        ]
        moments += [self.daemons[d].aside_until or now for d in self.cluster.aside]
        moments += [j.placed_at + settings.ack_within_s for j in self.jobs.values() if j.state is Held.RESERVED]
        moments += [j.close_by for j in self.cluster.closing.values() if j.close_by is not None]
        moments += [p.try_more_at for p in self.cluster.pools.values() if p.try_more_at is not None]
        moments += [j.promote_at for j in self._fallbacks.values() if j.promote_at is not None]
        for entry in self._waiting:
            moments.append(entry.deadline if entry.until is None else min(entry.deadline, entry.until))
        return min(moments, default=_NEVER)


def words(considered: Sequence[Considered]) -> tuple[str, ...]:
    """One line for each daemon that was considered."""
    return tuple(f"{c.daemon_name}: {c.reason}" for c in considered)
