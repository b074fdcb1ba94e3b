"""The one place that knows which daemons there are and what each has been given.

`handle(event, now)` takes what happened and returns what is to be done; the shell does it. Placement asks
`policy.choose`; whoever changes capacity does it here and nowhere else. What an event frees is given away again before
`handle` returns: to jobs that wait first, then to those of draining daemons, then to jobs that fell back to software.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvarr.cluster.events import (
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
    JobWanted,
    SessionRefused,
    TimePassed,
)
from tvarr.cluster.invariants import validate
from tvarr.cluster.moves import Moves
from tvarr.cluster.placing import Placing
from tvarr.cluster.pools import Held
from tvarr.cluster.presence import FORGET_AFTER_S, Presence
from tvarr.cluster.state import NEVER, Cluster, Daemon, Job, Settings
from tvarr.cluster.trust import Trust
from tvarr.cluster.waiting import Waiting


@dataclass(slots=True)
class Ledger:
    """Daemons, the jobs placed on them and the jobs that wait.

    `unhealthy_after_s`: silence after which a daemon gets no jobs and loses those it has.
    """

    unhealthy_after_s: float = 30.0
    settings: Settings = field(default_factory=Settings)
    cluster: Cluster = field(init=False)
    _trust: Trust = field(init=False)
    _presence: Presence = field(init=False)
    _moves: Moves = field(init=False)
    _placing: Placing = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.settings)
        self._trust = Trust(self.cluster)
        self._presence = Presence(self.cluster, self._trust, self.unhealthy_after_s)
        self._moves = Moves(self.cluster)
        self._placing = Placing(self.cluster, self._trust, self._moves)

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
        return tuple(self._placing.waiting)

    def waiting_for(self, job_id: str) -> Waiting | None:
        """What is known of a job that waits; None where it does not."""
        return self._placing.waiting.get(job_id)

    def position(self, job_id: str) -> int:
        """In the queue; 1 is next, 0 does not wait."""
        return self._placing.waiting.position(job_id)

    def deadline(self) -> float | None:
        """When `TimePassed` is due. It may have nothing to do then: deadlines that moved away are not taken back."""
        return None if self.cluster.due == NEVER else self.cluster.due

    def free_id(self, wanted: str, instance: str) -> bool:
        """Whether a daemon process may use this id: nobody else alive has it."""
        daemon = self.daemons.get(wanted)
        return daemon is None or not daemon.connected or daemon.instance == instance

    def validate(self) -> None:
        """Asserts what must hold after every event (`tvarr.cluster.invariants`)."""
        validate(self.cluster)
        self._moves.validate()
        self._placing.waiting.validate()
        assert not any(entry.job_id in self.jobs for entry in self._placing.waiting), "a job waits and runs"
        assert not self.cluster.improved, "something is free and was offered to nobody"

    # --------------------------------------------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Takes one event at time `now` (seconds, monotonic) and returns what follows from it, in order."""
        self.cluster.serial += 1
        instructions = self._take(event, now)
        self._moves.settle(now)
        if self.cluster.improved:
            self.cluster.improved = False
            instructions += self._placing.serve_queue(now)
            instructions += self._moves.offer(now)
        return instructions

    def _take(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case HeartbeatCame():
                return self._presence.hear(event, now)
            case JobWanted():
                return [self._placing.want(event, now)]
            case JobAcked(job_id):
                self._placing.ack(job_id, now)
            case JobEnded(job_id):
                self._placing.end(job_id, now)
            case JobCancelled(job_id, reason):
                return self._placing.cancel(job_id, reason, now)
            case JobFailed():
                return self._placing.fail(event, now)
            case SessionRefused(job_id):
                return self._placing.session_refused(job_id, now)
            case DaemonAttached():
                return self._presence.attach(event, now)
            case DaemonDetached():
                return self._presence.detach(event, now)
            case CapabilitiesCame(daemon_id, capabilities):
                if daemon := self.daemons.get(daemon_id):
                    self.cluster.set_capabilities(daemon, capabilities)
            case DrainAsked(daemon_id, draining, hurry):
                if daemon := self.daemons.get(daemon_id):
                    self.cluster.drain(daemon, draining=draining, hurry=hurry)
            case TimePassed():
                return self._look_at_the_clock(now)
        return []

    def _look_at_the_clock(self, now: float) -> list[Instruction]:
        cluster = self.cluster
        instructions = self._presence.look_at_the_clock(now) + self._placing.look_at_the_clock(now)
        self._moves.look_at_the_clock(now)
        self._trust.take_back(now)
        cluster.doubt_limits(now)
        self._trust.forget_backoffs(now - FORGET_AFTER_S)
        parts = (self._presence, self._placing, self._moves, self._trust, cluster)
        cluster.due = min((moment for part in parts for moment in part.deadlines()), default=NEVER)
        return instructions
