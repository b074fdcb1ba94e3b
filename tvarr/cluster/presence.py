"""Daemons that come, go, fall silent and say what they run, and what that means for their jobs."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.cluster.events import (
    Cancel,
    DaemonAttached,
    DaemonDetached,
    HeartbeatCame,
    Instruction,
    JobSeen,
    Lost,
)
from tvarr.cluster.pools import Held
from tvarr.cluster.state import Cluster, Daemon, Job
from tvarr.cluster.trust import Trust
from tvarr.errors import ErrorCode

FORGET_AFTER_S = 600.0  # a disconnected daemon is shown this long, and a failed try remembered
MAX_DAEMONS = 10_000  # remembered; the longest gone are forgotten first


@dataclass(slots=True)
class Presence:
    """`unhealthy_after_s`: silence after which a daemon gets no jobs and loses those it has."""

    cluster: Cluster
    trust: Trust
    unhealthy_after_s: float

    def attach(self, event: DaemonAttached, now: float) -> list[Instruction]:
        cluster, before = self.cluster, self.cluster.daemons.get(event.id)
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
            draining=event.draining,
        )
        if before is not None:
            daemon.last_used = before.last_used
        if before is not None and before.instance == event.instance:
            daemon.draining, daemon.in_a_hurry = before.draining, before.in_a_hurry
            daemon.cost_factor = before.cost_factor
            daemon.failed_works, daemon.times_aside = before.failed_works, before.times_aside
            daemon.aside_until, daemon.aside_reason = before.aside_until, before.aside_reason
            departed = [
                job for job in before.departed.values() if job.id in event.jobs and job.id not in self.cluster.jobs
            ]
        else:
            cluster.aside.discard(event.id)
        held = cluster.held_by(event.id)
        cluster.add(daemon)
        self.cluster.wake(now + self.unhealthy_after_s)
        self._forget_the_longest_gone()
        instructions: list[Instruction] = []
        cancelled: list[Instruction] = []
        for job in held:
            instructions += self._recognise(job, daemon, event.jobs, now)
        for job in departed:
            cluster.hold_again(job)
            self.cluster.close_soon(job, now)
        known = {job.id for job in cluster.held_by(event.id) if job.instance == event.instance}
        closing = {job.id for job in cluster.held_by(event.id) if job.state is Held.CLOSING}
        for job_id in sorted(event.jobs):
            if job_id not in known:
                cancelled.append(Cancel(event.id, job_id, "the coordinator does not know this job"))
            elif job_id in closing and job_id not in self.cluster.jobs:
                cancelled.append(Cancel(event.id, job_id, "nobody wants it any more"))
        return instructions + cancelled

    def _recognise(self, job: Job, daemon: Daemon, running: frozenset[str], now: float) -> list[Instruction]:
        """What becomes of a job that a daemon held, now that it is back and says what it runs."""
        same = job.instance == daemon.instance
        if same and job.id in running:
            job.sequence_seen = daemon.sequence
            if job.state is Held.CLOSING:
                self.cluster.close_soon(job, now)
            return []
        lost = job.state is not Held.CLOSING
        if same:  # it would know
            self.cluster.release(job, now)
        elif lost or job.close_by is None:  # its process is gone, its sessions may outlive it for a moment
            self.cluster.close_soon(job, now)
        if not lost:
            return []
        return [Lost(job.id, ErrorCode.CONNECTION_LOST, f"{daemon.name} came back without the job")]

    def _forget_the_longest_gone(self) -> None:
        while len(self.cluster.daemons) > MAX_DAEMONS:
            gone = next((d for d in self.cluster.daemons.values() if not d.connected), None)
            if gone is None:
                break
            self.cluster.forget(gone)

    def detach(self, event: DaemonDetached, now: float) -> list[Instruction]:
        daemon = self.cluster.daemons.get(event.id)
        if daemon is None or daemon.instance != event.instance or not daemon.connected:
            return []
        daemon.heard_at = now
        self.cluster.wake(now + FORGET_AFTER_S)
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
                self.cluster.close(job)
                lost.append(Lost(job.id, code, reason))
            if daemon.connected:
                job.close_by = None
            elif job.close_by is None:
                self.cluster.close_soon(job, now)
        return lost

    # ----------------------------------------------------------------------------------------------- heartbeats

    def hear(self, event: HeartbeatCame, now: float) -> list[Instruction]:
        daemon = self.cluster.daemons.get(event.id)
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
        if daemon.broke_off is not None:  # it is alive: no cut cable took the job's stream
            (work, reason), daemon.broke_off = daemon.broke_off, None
            self.trust.blame(daemon, work, f"{reason}, though the daemon is there", now, at_once=True)
        for pool in event.pools:
            self.cluster.observe(daemon, pool.id, pool.active, pool.own, now)
        if event.jobs is not None:
            self._hear_of_jobs(daemon, {job.job_id: job for job in event.jobs}, now)
        return instructions

    def _heal(self, daemon: Daemon, now: float) -> list[Instruction]:
        daemon.unhealthy = False
        self.cluster.wake(now + self.unhealthy_after_s)
        self.cluster.touch(daemon)
        self.cluster.improved = True
        cancelled: list[Instruction] = []
        for job in self.cluster.held_by(daemon.id):
            if job.state is Held.CLOSING and job.close_by is None:
                self.cluster.close_soon(job, now)
                if job.instance == daemon.instance:
                    cancelled.append(Cancel(daemon.id, job.id, "it was given away while the daemon was silent"))
        return cancelled

    def _hear_of_jobs(self, daemon: Daemon, running: dict[str, JobSeen], now: float) -> None:
        """A closing job that an earlier heartbeat had and this one has not is over. One that no heartbeat had yet may
        be younger than this one, so nothing follows from its absence.
        """
        speeds: list[tuple[float, float]] = []  # with the cost by the table
        long_enough = self.cluster.settings.healthy_after_s
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
                self.trust.praise(daemon)
                if seen.age_s >= long_enough and seen.speed > 0 and job.state is Held.CONFIRMED:
                    speeds.append((seen.speed, job.placement.cost_cores))
        daemon.slowest_speed = min((speed for speed, _ in speeds), default=None)
        self.cluster.correct(daemon, speeds)

    # ------------------------------------------------------------------------------------------------ the clock

    def look_at_the_clock(self, now: float) -> list[Instruction]:
        """Daemons that fell silent, and those that are gone for so long that they are forgotten."""
        instructions: list[Instruction] = []
        for daemon in list(self.cluster.daemons.values()):
            if not daemon.connected:
                if daemon.heard_at + FORGET_AFTER_S <= now:
                    self.cluster.forget(daemon)
            elif not daemon.unhealthy and daemon.heard_at + self.unhealthy_after_s <= now:
                daemon.unhealthy = True
                self.cluster.touch(daemon)
                self.cluster.improved = True  # who waits for it alone is told
                reason = f"{daemon.name} has sent no heartbeat for {self.unhealthy_after_s:g} s"
                instructions += self._lose_all(daemon, ErrorCode.STALLED, reason, now)
        return instructions

    def deadlines(self) -> list[float]:
        return [
            d.heard_at + (self.unhealthy_after_s if d.connected else FORGET_AFTER_S)
            for d in self.cluster.daemons.values()
            if not (d.connected and d.unhealthy)
        ]
