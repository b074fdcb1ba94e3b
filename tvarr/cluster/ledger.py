"""The one place that knows which daemons there are and what each has been given.

`handle(event, now)` takes what happened and returns what is to be done; the shell does it. Placement asks
`policy.choose`; whoever changes capacity does it here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tvarr.cluster.model import Capabilities, Considered, Family, Need, Placement, Refusal
from tvarr.cluster.policy import Candidate, choose
from tvarr.errors import ErrorCode

FORGET_AFTER_S = 600.0  # a disconnected daemon is shown this long
MAX_DAEMONS = 10_000  # remembered; the longest gone are forgotten first


class DaemonState(StrEnum):
    CONNECTED = "connected"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"  # its stream is open and its heartbeats stay away
    DISCONNECTED = "disconnected"


@dataclass(slots=True)
class Daemon:
    id: str
    instance: str
    name: str
    machine: str
    version: str
    capabilities: Capabilities
    connected_at: float
    heard_at: float
    connected: bool = True
    draining: bool = False
    unhealthy: bool = False

    @property
    def state(self) -> DaemonState:
        if not self.connected:
            return DaemonState.DISCONNECTED
        if self.unhealthy:
            return DaemonState.UNHEALTHY
        return DaemonState.DRAINING if self.draining else DaemonState.CONNECTED


@dataclass(slots=True)
class Job:
    """A placement that holds capacity, from `JobWanted` to `JobEnded` or the loss of its daemon."""

    id: str
    daemon_id: str
    placement: Placement
    placed_at: float
    acked: bool = False

    @property
    def in_software(self) -> bool:
        encoder = self.placement.encoder
        return encoder is not None and encoder.family is Family.SOFTWARE


# ------------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class DaemonAttached:
    id: str
    instance: str
    name: str
    machine: str
    version: str
    capabilities: Capabilities
    jobs: frozenset[str] = frozenset()  # that it says it still runs


@dataclass(frozen=True, slots=True)
class DaemonDetached:
    id: str
    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class HeartbeatCame:
    id: str


@dataclass(frozen=True, slots=True)
class CapabilitiesCame:
    id: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class DrainAsked:
    id: str
    draining: bool  # False: takes jobs again


@dataclass(frozen=True, slots=True)
class JobWanted:
    job_id: str
    need: Need
    avoid: frozenset[str] = frozenset()  # daemons that failed this job


@dataclass(frozen=True, slots=True)
class JobAcked:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    job_id: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`Ledger.deadline()` has come."""


Event = (
    DaemonAttached
    | DaemonDetached
    | HeartbeatCame
    | CapabilitiesCame
    | DrainAsked
    | JobWanted
    | JobAcked
    | JobEnded
    | TimePassed
)

# ------------------------------------------------------------------------------------------------ instructions


@dataclass(frozen=True, slots=True)
class Start:
    job_id: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Refuse:
    job_id: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Lost:
    """The job's daemon is gone or silent: it has to be placed again."""

    job_id: str
    code: ErrorCode
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell the daemon to end a job that nobody wants any more."""

    daemon_id: str
    job_id: str
    reason: str


Instruction = Start | Refuse | Lost | Cancel


@dataclass(slots=True)
class Ledger:
    """Daemons and the jobs placed on them.

    `unhealthy_after_s`: silence after which a daemon gets no jobs and loses those it has.
    """

    unhealthy_after_s: float = 30.0
    daemons: dict[str, Daemon] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Takes one event at time `now` (seconds, monotonic) and returns what follows from it, in order."""
        match event:
            case DaemonAttached():
                return self._attach(event, now)
            case DaemonDetached():
                return self._detach(event, now)
            case HeartbeatCame(daemon_id):
                self._hear(daemon_id, now)
            case CapabilitiesCame(daemon_id, capabilities):
                if daemon := self.daemons.get(daemon_id):
                    daemon.capabilities = capabilities
            case DrainAsked(daemon_id, draining):
                if daemon := self.daemons.get(daemon_id):
                    daemon.draining = draining
            case JobWanted():
                return [self._place(event, now)]
            case JobAcked(job_id):
                if job := self.jobs.get(job_id):
                    job.acked = True
            case JobEnded(job_id):
                self.jobs.pop(job_id, None)
            case TimePassed():
                return self._look_at_the_clock(now)
        return []

    def deadline(self) -> float | None:
        """When `TimePassed` next has something to do."""
        silent = [d.heard_at + self.unhealthy_after_s for d in self.daemons.values() if d.connected and not d.unhealthy]
        gone = [d.heard_at + FORGET_AFTER_S for d in self.daemons.values() if not d.connected]
        return min(silent + gone, default=None)

    def free_id(self, wanted: str, instance: str) -> bool:
        """Whether a daemon process may use this id: nobody else alive has it."""
        daemon = self.daemons.get(wanted)
        return daemon is None or not daemon.connected or daemon.instance == instance

    def jobs_on(self, daemon_id: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.daemon_id == daemon_id]

    def candidates(self) -> list[Candidate]:
        """Every daemon that is not gone, in the order in which they joined."""
        return [
            Candidate(
                d.id,
                d.name,
                d.capabilities,
                jobs=len(jobs := self.jobs_on(d.id)),
                cpu_jobs=sum(job.in_software for job in jobs),
                unavailable="" if d.state is DaemonState.CONNECTED else f"it is {d.state}",
            )
            for d in self.daemons.values()
            if d.connected
        ]

    def validate(self) -> None:
        """Asserts what must hold after every event.

        A daemon that comes back with fewer slots keeps the jobs that it still runs, so slots are looked at for jobs
        that were placed since.
        """
        for job in self.jobs.values():
            daemon = self.daemons[job.daemon_id]
            assert daemon.connected, f"{job.id} is placed on {daemon.name}, which is gone"
        for daemon in self.daemons.values():
            jobs, caps = self.jobs_on(daemon.id), daemon.capabilities
            if not any(job.placed_at >= daemon.connected_at for job in jobs):
                continue
            assert not caps.max_jobs or len(jobs) <= caps.max_jobs, f"{daemon.name} has more jobs than slots"
            cpu_jobs = sum(job.in_software for job in jobs)
            assert not caps.max_cpu_jobs or cpu_jobs <= caps.max_cpu_jobs, f"{daemon.name} has too many software jobs"

    # ------------------------------------------------------------------------------------------------- events

    def _attach(self, event: DaemonAttached, now: float) -> list[Instruction]:
        before = self.daemons.pop(event.id, None)
        same_process = before is not None and before.instance == event.instance
        self.daemons[event.id] = Daemon(
            event.id,
            event.instance,
            event.name,
            event.machine,
            event.version,
            event.capabilities,
            connected_at=now,
            heard_at=now,
            draining=before.draining if before is not None and same_process else False,
        )
        while len(self.daemons) > MAX_DAEMONS:
            gone = next((d.id for d in self.daemons.values() if not d.connected), None)
            if gone is None:
                break
            del self.daemons[gone]
        kept = event.jobs if same_process else frozenset()
        instructions: list[Instruction] = [
            self._lose(job, ErrorCode.CONNECTION_LOST, f"{event.name} came back without the job")
            for job in self.jobs_on(event.id)
            if job.id not in kept
        ]
        instructions += [
            Cancel(event.id, job_id, "the coordinator does not know this job")
            for job_id in sorted(event.jobs)
            if job_id not in self.jobs
        ]
        return instructions

    def _detach(self, event: DaemonDetached, now: float) -> list[Instruction]:
        daemon = self.daemons.get(event.id)
        if daemon is None or daemon.instance != event.instance or not daemon.connected:
            return []
        daemon.connected = False
        daemon.heard_at = now
        return [
            self._lose(job, ErrorCode.CONNECTION_LOST, f"{daemon.name}: {event.reason}")
            for job in self.jobs_on(event.id)
        ]

    def _hear(self, daemon_id: str, now: float) -> None:
        if (daemon := self.daemons.get(daemon_id)) and daemon.connected:
            daemon.heard_at = now
            daemon.unhealthy = False

    def _place(self, event: JobWanted, now: float) -> Instruction:
        assert event.job_id not in self.jobs, f"{event.job_id} is placed already"
        verdict = choose(self.candidates(), event.need, event.avoid)
        if isinstance(verdict, Refusal):
            return Refuse(event.job_id, verdict)
        self.jobs[event.job_id] = Job(event.job_id, verdict.daemon_id, verdict, now)
        return Start(event.job_id, verdict)

    def _look_at_the_clock(self, now: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        for daemon in list(self.daemons.values()):
            if not daemon.connected:
                if now - daemon.heard_at >= FORGET_AFTER_S:
                    del self.daemons[daemon.id]
            elif not daemon.unhealthy and now - daemon.heard_at >= self.unhealthy_after_s:
                daemon.unhealthy = True
                reason = f"{daemon.name} has sent no heartbeat for {self.unhealthy_after_s:g} s"
                instructions += [self._lose(job, ErrorCode.STALLED, reason) for job in self.jobs_on(daemon.id)]
        return instructions

    def _lose(self, job: Job, code: ErrorCode, reason: str) -> Lost:
        del self.jobs[job.id]
        return Lost(job.id, code, reason)


def words(considered: tuple[Considered, ...]) -> tuple[str, ...]:
    """One line for each daemon that was considered."""
    return tuple(f"{c.daemon_name}: {c.reason}" for c in considered)
