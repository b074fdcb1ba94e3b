"""What the ledger is told, and what it answers: events and instructions.

The life of a job: `JobWanted` is answered by `Start`, `Queued` or `Refuse`. A queued job gets its `Start` with any
later event, or `QueueTimedOut`. `JobAcked` when the daemon says that its encoder runs (`TranscodeAck`). It ends with
one of

* `JobEnded`: the daemon's process is over, all that the job held is free;
* `JobCancelled`: nobody wants it any more; it is answered by `Cancel`, and its slot and session stay held until
  `JobEnded`, a heartbeat without it, or a time limit, for the driver counts a session until it is closed;
* `JobFailed`, `SessionRefused`: the daemon said an error; what it held is free (but for a `JobFailed` that nobody
  said: see there);
* the instruction `Lost`: the ledger took it away. Nothing needs to be told about it any more.

A job that runs may be moved: a successor starts beside it, takes over at a splice, and only then the old one is
cancelled. Both hold what they need while both run. The ledger asks for it by `Move` (a daemon drains, hardware became
free) or the shell does so by itself (an operator asked, the job is too slow); either way the successor is a `JobWanted`
that names the job it `replaces`.

Events about jobs and daemons that are not known are ignored: ends cross each other on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvarr.cluster.model import Capabilities, Considered, MoveKind, Need, Placement, Refusal
from tvarr.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class DaemonAttached:
    """A daemon's stream is open. `jobs` are those that it says it still runs.

    `draining`: it was drained before this ledger knew it; one that the ledger knows stays as it is.
    """

    id: str
    instance: str
    name: str
    machine: str
    version: str
    capabilities: Capabilities
    jobs: frozenset[str] = frozenset()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class DaemonDetached:
    id: str
    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """One session pool in a heartbeat: the driver's count of open sessions, and how many the daemon's own jobs hold."""

    id: str
    active: int
    own: int


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One running job in a heartbeat."""

    job_id: str
    speed: float = 0.0  # media time over wall time; 0: not known
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HeartbeatCame:
    """`sequence` grows with each heartbeat of one stream; one that is not above the latest is late and only proves that
    the daemon lives. `jobs` are all that it runs; None: it was not told. Heartbeats of a stream that was replaced must
    not be handed in.
    """

    id: str
    sequence: int | None = None
    pools: tuple[PoolSeen, ...] = ()
    jobs: tuple[JobSeen, ...] | None = None


@dataclass(frozen=True, slots=True)
class CapabilitiesCame:
    id: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """A draining daemon gets no jobs, and those that it has are moved away, a few at a time (`moves.at_once`)."""

    id: str
    draining: bool  # False: takes jobs again, and no more moves are asked
    hurry: bool = False  # the daemon ends in a few seconds, whatever it still runs


@dataclass(frozen=True, slots=True)
class JobWanted:
    """A job wants a place. `job_id` names this try, `work` what it does over all its tries (empty: `job_id`).

    `avoid`: daemons that are taken only where nobody else can do it.

    `replaces`: the id of a running job whose successor this is; `move` says why, and with it where it may go
    (`tvarr.cluster.succession`). `to`: the only daemon that will do. A successor never waits: the answer is `Start` or
    `Refuse`, which leaves the old job as it is. It is `Refuse` also where the old job is gone, or has a successor
    already. Where the driver refuses it a session (`SessionRefused`), it is placed again by the same rule.
    """

    job_id: str
    need: Need
    avoid: frozenset[str] = frozenset()
    work: str = ""
    replaces: str = ""
    move: MoveKind | None = None
    to: str = ""


@dataclass(frozen=True, slots=True)
class JobAcked:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobCancelled:
    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Also for a job that waits: nobody wants it any more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The daemon refused the job or it broke. The daemon is not tried again for the same work during its backoff, or
    only in software where `retry_in_software` says that this may help.

    `ended` False: the daemon did not say so itself, its stream broke or it did nothing. Then the answer is `Cancel`,
    and what the job held stays held as after `JobCancelled`.
    """

    job_id: str
    code: ErrorCode
    reason: str
    retry_in_software: bool = False
    ended: bool = True


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The driver refused a session (`ErrorCode.SESSION_LIMIT`): the pool's limit is lowered, and the same job is placed
    again in the same call, answered as `JobWanted` is.
    """

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
    | JobCancelled
    | JobEnded
    | JobFailed
    | SessionRefused
    | TimePassed
)

# ------------------------------------------------------------------------------------------------ instructions


@dataclass(frozen=True, slots=True)
class Start:
    """Tell the placement's daemon to start the job. Where `placement.fallback` is set, say so in the log."""

    job_id: str
    placement: Placement
    waited_s: float = 0.0  # in the queue


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits. `Ledger.waiting()` has its position from now on. It ends with `Start`, `QueueTimedOut`, or with
    `Refuse` where for `Settings.lonely_s` nobody is left who could ever do it.
    """

    job_id: str
    position: int  # 1: next
    reason: str
    considered: Sequence[Considered] = ()


@dataclass(frozen=True, slots=True)
class QueueTimedOut:
    """The job waited too long and is wanted no more: HTTP 504 with the reasons."""

    job_id: str
    waited_s: float
    reason: str
    considered: Sequence[Considered] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    job_id: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Lost:
    """The job's daemon is gone or silent, or never started it: it has to be placed again."""

    job_id: str
    code: ErrorCode
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell the daemon to end a job that nobody wants any more."""

    daemon_id: str
    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Start a successor by `JobWanted(new id, need, work=…, replaces=job_id, move=kind)`, switch at a splice, then end
    the old job. There is a place for it now, but nothing is reserved by this: where the place is gone by then, the
    answer is `Refuse` and the old job goes on. It is asked again when something became free, and after
    `Settings.move_pause_s` at the latest, as it is where nobody does what it asks or the successor ends too early.
    """

    job_id: str
    kind: MoveKind
    reason: str


Instruction = Start | Queued | QueueTimedOut | Refuse | Lost | Cancel | Move
