"""The lives of jobs, from the wish to the end, and the queue of those that wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvarr.cluster.events import (
    Cancel,
    Instruction,
    JobFailed,
    JobWanted,
    Lost,
    Queued,
    QueueTimedOut,
    Refuse,
    Start,
)
from tvarr.cluster.fit import shape_key
from tvarr.cluster.model import Family, Placement, Refusal, RefusalKind, Wait
from tvarr.cluster.moves import Moves
from tvarr.cluster.policy import choose
from tvarr.cluster.pools import Held
from tvarr.cluster.state import Cluster, Job
from tvarr.cluster.succession import succession_of
from tvarr.cluster.trust import Trust
from tvarr.cluster.waiting import MAX_WAITING, Waiting, WaitingList
from tvarr.errors import ErrorCode

NO_BACKOFF = frozenset(
    {
        ErrorCode.BAD_INPUT,
        ErrorCode.BAD_REQUEST,
        ErrorCode.CANCELLED,
        ErrorCode.SESSION_LIMIT,
        ErrorCode.SOURCE_UNREACHABLE,
        ErrorCode.SOURCE_GONE,
        ErrorCode.SOURCE_DENIED,
    }
)
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
        ErrorCode.BAD_OUTPUT,
    }
)
"""Errors that may be the daemon's fault; those of the input, the job or a limit are not."""


@dataclass(slots=True)
class Placing:
    """Places jobs at once or from the queue, and takes what they held back."""

    cluster: Cluster
    trust: Trust
    moves: Moves
    waiting: WaitingList = field(default_factory=WaitingList)

    def want(self, event: JobWanted, now: float) -> Instruction:
        assert event.job_id not in self.cluster.jobs, f"{event.job_id} is placed already"
        assert event.job_id not in self.waiting, f"{event.job_id} waits already"
        request = Waiting(
            event.job_id,
            event.need,
            event.avoid,
            event.work or event.job_id,
            self.cluster.serial,
            now,
            now + self.cluster.settings.queue_timeout_s,
        )
        if event.replaces:
            assert event.move is not None, f"{event.job_id} replaces {event.replaces} for no reason"
            replaced = self.cluster.jobs.get(event.replaces)
            if replaced is None or (words := self._why_it_stays(replaced)):
                words = "the job that it should replace is gone" if replaced is None else words
                retry_after_s = self.cluster.settings.retry_after_s
                return Refuse(event.job_id, Refusal(words, (), RefusalKind.EXHAUSTED, retry_after_s))
            request.succession = succession_of(replaced, event.move, event.to)
        return self._place(request, now)

    def _why_it_stays(self, job: Job) -> str:
        """Words where the job can't have a successor, else nothing."""
        if job.id in self.cluster.successors:
            return "the job that it should replace is being replaced already"
        if self.cluster.replaces(job):
            return "the job that it should replace is itself about to replace another"
        return ""

    def _place(self, request: Waiting, now: float) -> Instruction:
        verdict = choose(
            self.cluster,
            request.need,
            now,
            work=request.work,
            avoid=request.avoid,
            succession=request.succession,
        )
        match verdict:
            case Placement():
                return self._start(request, verdict, now)
            case Refusal():
                if request.succession is not None:
                    self.moves.refused(request.succession, now)
                return Refuse(request.job_id, verdict)
        if len(self.waiting) >= MAX_WAITING:
            retry_after_s = self.cluster.settings.retry_after_s
            full = Refusal("the queue is full", verdict.considered, RefusalKind.EXHAUSTED, retry_after_s)
            return Refuse(request.job_id, full)
        self._note(request, verdict, now)
        self.waiting.add(request)
        self.cluster.wake(request.deadline)
        return Queued(request.job_id, self.waiting.position(request.job_id), verdict.reason, verdict.considered)

    def _note(self, request: Waiting, verdict: Wait | Refusal, now: float) -> None:
        request.reason, request.considered = verdict.reason, verdict.considered
        request.until = verdict.until if isinstance(verdict, Wait) else None
        request.busy = verdict.busy
        if request.until is not None:
            self.cluster.wake(request.until)
        if isinstance(verdict, Wait) or verdict.kind is RefusalKind.EXHAUSTED:
            request.lonely_at = None
        elif request.lonely_at is None:
            request.lonely_at = now + self.cluster.settings.lonely_s
            self.cluster.wake(request.lonely_at)

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
            self.cluster.daemons[placement.daemon_id].instance,
            avoid=request.avoid,
            succession=request.succession,
        )
        self.cluster.place(job)
        self.cluster.wake(now + self.cluster.settings.ack_within_s)
        self.moves.placed(job)
        return Start(job.id, placement, now - request.since)

    def ack(self, job_id: str, now: float) -> None:
        job = self.cluster.jobs.get(job_id)
        if job is None:
            return
        self.cluster.confirm(job, now)
        if job.placement.fallback or job.daemon_id in self.cluster.draining:
            self.cluster.improved = True  # it may be moved from now on

    def end(self, job_id: str, now: float) -> None:
        self.waiting.remove(job_id)
        for job in self._find(job_id):
            daemon = self.cluster.daemons.get(job.daemon_id)
            if (
                daemon
                and job.confirmed_at is not None
                and now - job.confirmed_at >= self.cluster.settings.healthy_after_s
            ):
                self.trust.praise(daemon)
            self.cluster.release(job, now)

    def _find(self, job_id: str) -> list[Job]:
        """The job of this id, or the closing ones."""
        job = self.cluster.jobs.get(job_id)
        return [job] if job is not None else [j for j in self.cluster.closing.values() if j.id == job_id]

    def cancel(self, job_id: str, reason: str, now: float) -> list[Instruction]:
        self.waiting.remove(job_id)
        job = self.cluster.jobs.get(job_id)
        if job is None:
            return []
        self.cluster.close_soon(job, now)
        return [Cancel(job.daemon_id, job_id, reason)]

    def fail(self, event: JobFailed, now: float) -> list[Instruction]:
        self.waiting.remove(event.job_id)
        cancelled: list[Instruction] = []
        for job in self._find(event.job_id):
            wanted = job.state is not Held.CLOSING
            if event.ended:
                self.cluster.release(job, now)
            elif wanted:
                self.cluster.close_soon(job, now)
                cancelled.append(Cancel(job.daemon_id, job.id, event.reason))
            if event.code is ErrorCode.SESSION_LIMIT and event.ended:
                self._learn(job, event.reason, now)
            elif wanted and event.code not in NO_BACKOFF:
                self._remember_failure(job, event.code, event.reason, now, in_software=event.retry_in_software)
        return cancelled

    def _remember_failure(self, job: Job, code: ErrorCode, reason: str, now: float, *, in_software: bool) -> None:
        encoder = job.placement.encoder
        hardware = encoder is not None and encoder.family is not Family.SOFTWARE
        self.trust.back_off(job, f"{code.value}: {reason}", now, hardware_only=hardware and in_software)
        daemon = self.cluster.daemons.get(job.daemon_id)
        if daemon is not None and code in BLAMED:
            self.trust.blame(daemon, job.work, reason, now, at_once=code is ErrorCode.BAD_OUTPUT)
        if daemon is not None and daemon.connected and code is ErrorCode.CONNECTION_LOST:
            daemon.broke_off = (job.work, reason)

    def session_refused(self, job_id: str, now: float) -> list[Instruction]:
        wanted = job_id in self.cluster.jobs
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
                job.wanted_at + self.cluster.settings.queue_timeout_s,
                job.succession,
            )
            return [self._place(request, now)]
        return []

    def _learn(self, job: Job, reason: str, now: float) -> None:
        """What a refused session says of its pool; where there is none, of the daemon's hardware for this job."""
        pool = self.cluster.pools.get(job.pool) if job.pool is not None else None
        if pool is None:
            self.trust.back_off(job, reason, now, hardware_only=not job.in_software)
            return
        self.cluster.session_refused(pool, now)
        if pool.try_more_at is not None:
            self.cluster.wake(pool.try_more_at)

    # ------------------------------------------------------------------------------------ what becomes free

    def serve_queue(self, now: float) -> list[Instruction]:
        """Starts what can start, in order. One that can't holds up only those that need just the same."""
        answers: list[Instruction] = []
        hopeless: dict[tuple[object, ...], Wait | Refusal] = {}
        for entry in self.waiting:
            plain = not entry.avoid and entry.work not in self.cluster.backoffs
            kind = (shape_key(entry.need), entry.need.policy)
            verdict = (hopeless.get(kind) if plain else None) or choose(
                self.cluster, entry.need, now, work=entry.work, avoid=entry.avoid
            )
            if isinstance(verdict, Placement):
                self.waiting.remove(entry.job_id)
                answers.append(self._start(entry, verdict, now))
                continue
            if plain:
                hopeless[kind] = verdict
            self._note(entry, verdict, now)
            if isinstance(verdict, Refusal) and entry.lonely_at is not None and entry.lonely_at <= now:
                self.waiting.remove(entry.job_id)
                answers.append(Refuse(entry.job_id, verdict))
        return answers

    # ------------------------------------------------------------------------------------------------ the clock

    def look_at_the_clock(self, now: float) -> list[Instruction]:
        """Jobs that were not acked or not ended in time, and those that waited too long."""
        instructions = self._expire(now)
        for entry in self.waiting:
            if entry.deadline <= now:
                self.waiting.remove(entry.job_id)
                waited_s = now - entry.since
                instructions.append(QueueTimedOut(entry.job_id, waited_s, entry.reason, entry.considered))
            elif entry.wakes_at <= now:
                self.cluster.improved = True
        return instructions

    def _expire(self, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        limit_s = self.cluster.settings.ack_within_s
        for job in list(self.cluster.jobs.values()):
            if job.state is Held.RESERVED and job.placed_at + limit_s <= now:
                reason = f"{self.cluster.daemons[job.daemon_id].name} did not start the job within {limit_s:g} s"
                self.cluster.close_soon(job, now)
                self._remember_failure(job, ErrorCode.STALLED, reason, now, in_software=False)
                instructions += [Cancel(job.daemon_id, job.id, reason), Lost(job.id, ErrorCode.STALLED, reason)]
        for job in list(self.cluster.closing.values()):
            if job.close_by is not None and job.close_by <= now:
                self.cluster.release(job, now)
                daemon = self.cluster.daemons[job.daemon_id]
                if not daemon.connected and daemon.instance == job.instance:
                    daemon.departed[job.id] = job
        return instructions

    def deadlines(self) -> list[float]:
        limit_s = self.cluster.settings.ack_within_s
        moments = [j.placed_at + limit_s for j in self.cluster.jobs.values() if j.state is Held.RESERVED]
        moments += [j.close_by for j in self.cluster.closing.values() if j.close_by is not None]
        for entry in self.waiting:
            moments.append(min(entry.deadline, entry.wakes_at))
        return moments
