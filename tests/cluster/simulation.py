"""A small world round the ledger: hosts whose drivers count sessions, daemons that open and close them, slow links.

The driver is the judge: it refuses a session above its limit, whatever the ledger believes. Heartbeats are a snapshot
of their moment and arrive late, in another order, or never; ends of jobs may get lost, streams break and come back.
Pure and seeded: `run(...)` gives the same story for the same arguments.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.cluster.build import attached, capabilities, need
from tvarr.cluster.events import (
    Cancel,
    DaemonDetached,
    DrainAsked,
    Event,
    HeartbeatCame,
    Instruction,
    JobAcked,
    JobCancelled,
    JobEnded,
    JobSeen,
    JobWanted,
    Lost,
    Move,
    PoolSeen,
    QueueTimedOut,
    Refuse,
    SessionRefused,
    Start,
    TimePassed,
)
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import MoveKind

POOL = "nvidia-host"
HEARTBEAT_S = 5.0


@dataclass(slots=True)
class Host:
    """One machine with a GeForce and its driver."""

    limit: int
    foreign: int = 0
    sessions: dict[tuple[str, str], str] = field(default_factory=dict)  # open ones of ours, by daemon and job

    @property
    def active(self) -> int:
        return len(self.sessions) + self.foreign


@dataclass(slots=True)
class World:
    """`foreign`: another program takes and gives back sessions. `breaks`: streams of daemons break and come back."""

    random: Random
    hosts: dict[str, Host]
    host_of: dict[str, str]  # daemon's to host's name
    foreign: bool
    breaks: bool
    policy: str
    check: bool = True
    ledger: Ledger = field(default_factory=Ledger)
    now: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wanted: set[str] = field(default_factory=set)  # jobs that somebody watches
    placed: dict[str, str] = field(default_factory=dict)  # a job's daemon
    arrivals: dict[str, float] = field(default_factory=dict)  # of the latest message to a daemon
    replaces: dict[str, str] = field(default_factory=dict)  # a job to the one that it replaces
    kinds: dict[str, MoveKind] = field(default_factory=dict)  # of successors
    running: dict[str, set[str]] = field(default_factory=dict)  # a daemon's jobs, in software too
    connected: set[str] = field(default_factory=set)
    draining: set[str] = field(default_factory=set)
    sequences: Counter[str] = field(default_factory=Counter)
    epochs: Counter[str] = field(default_factory=Counter)
    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _ticket: int = 0

    def later(self, delay: float, act: Callable[[], None]) -> None:
        self._ticket += 1
        heapq.heappush(self._heap, (self.now + delay, self._ticket, act))

    def link(self) -> float:
        """Seconds that a message takes."""
        return self.random.uniform(0.001, 0.05) if self.random.random() < 0.95 else self.random.uniform(0.05, 1.0)

    def order(self, daemon_id: str, act: Callable[[], None]) -> None:
        """A message to a daemon: one stream, so none overtakes another."""
        arrival = max(self.now + self.link(), self.arrivals.get(daemon_id, 0.0))
        self.arrivals[daemon_id] = arrival
        self.later(arrival - self.now, act)

    def tell(self, event: Event) -> None:
        for instruction in self.ledger.handle(event, self.now):
            self.obey(event, instruction)
        if self.check:
            self.ledger.validate()

    def run(self, until: Callable[[], bool]) -> None:
        while self._heap and not until():
            due = self.ledger.deadline()
            if due is not None and due <= self._heap[0][0]:
                self.now = max(self.now, due)
                self.tell(TimePassed())
                continue
            self.now, _, act = heapq.heappop(self._heap)
            act()

    # --------------------------------------------------------------------------------------------- coordinator

    def obey(self, event: Event, instruction: Instruction) -> None:
        self.counts[type(instruction).__name__] += 1
        match instruction:
            case Start(job_id, placement):
                if placement.pool:
                    self.counts["hardware starts"] += 1
                daemon_id = self.placed[job_id] = placement.daemon_id
                self.order(daemon_id, lambda: self.begin(daemon_id, job_id, hardware=bool(placement.pool)))
            case Cancel(daemon_id, job_id):
                self.order(daemon_id, lambda: self.finish(daemon_id, job_id))
            case Lost(job_id):
                self.wanted.discard(job_id)
                if (daemon_id := self.placed.get(job_id)) is not None:  # the job's stream ends with it
                    self.order(daemon_id, lambda: self.finish(daemon_id, job_id))
            case Refuse(job_id) | QueueTimedOut(job_id):
                self.wanted.discard(job_id)
                if not self.connected - self.draining:
                    self.counts["nobody was there"] += 1
                elif job_id not in self.replaces:  # the old one goes on
                    self.counts["seen by a viewer"] += 1
            case Move(job_id, kind):
                self.succeed(job_id, kind)
        if isinstance(event, SessionRefused):
            self.counts[f"answered by {type(instruction).__name__}"] += 1

    def succeed(self, job_id: str, kind: MoveKind) -> None:
        self._ticket += 1
        new = f"{job_id} {kind} {self._ticket}"
        self.replaces[new], self.kinds[new] = job_id, kind
        self.later(0.0, lambda: self.want(new))

    def want(self, job_id: str) -> None:
        replaced = self.replaces.get(job_id, "")
        if replaced and replaced not in self.wanted:
            return
        self.wanted.add(job_id)
        self.later(self.random.expovariate(1 / 30), lambda: self.stop(job_id))
        self.tell(JobWanted(job_id, need(policy=self.policy), replaces=replaced, move=self.kinds.get(job_id)))

    def stop(self, job_id: str) -> None:
        """The last viewer goes, or another job does its work."""
        if job_id in self.wanted:
            self.wanted.discard(job_id)
            self.tell(JobCancelled(job_id, "nobody watches any more"))

    def acked(self, job_id: str) -> None:
        self.tell(JobAcked(job_id))
        if (replaced := self.replaces.get(job_id)) is not None and job_id in self.wanted:
            self.counts[f"moved: {self.kinds[job_id]}"] += 1
            self.stop(replaced)

    # -------------------------------------------------------------------------------------------------- daemons

    def begin(self, daemon_id: str, job_id: str, *, hardware: bool) -> None:
        if daemon_id not in self.connected or self.random.random() < 0.005:
            return  # the message is lost with the stream
        self.running[daemon_id].add(job_id)
        self.later(self.random.uniform(0.02, 0.6), lambda: self.open(daemon_id, job_id, hardware=hardware))

    def open(self, daemon_id: str, job_id: str, *, hardware: bool) -> None:
        if job_id not in self.running[daemon_id]:
            return  # cancelled before ffmpeg was up
        if hardware:
            host = self.hosts[self.host_of[daemon_id]]
            if host.active >= host.limit:
                self.counts["refused by the driver"] += 1
                self.running[daemon_id].discard(job_id)
                self.later(self.link(), lambda: self.tell(SessionRefused(job_id)))
                return
            host.sessions[daemon_id, job_id] = job_id
        self.later(self.link(), lambda: self.acked(job_id))
        if self.random.random() < 0.1:  # it breaks by itself
            self.later(self.random.uniform(1, 120), lambda: self.finish(daemon_id, job_id))

    def finish(self, daemon_id: str, job_id: str) -> None:
        self.later(self.random.uniform(0.01, 1.5), lambda: self.closed(daemon_id, job_id))

    def closed(self, daemon_id: str, job_id: str) -> None:
        if job_id not in self.running[daemon_id]:
            return
        self.running[daemon_id].discard(job_id)
        self.hosts[self.host_of[daemon_id]].sessions.pop((daemon_id, job_id), None)
        if self.random.random() < 0.9 or job_id in self.wanted:
            self.later(self.link(), lambda: self.ended(job_id))

    def ended(self, job_id: str) -> None:
        self.wanted.discard(job_id)
        self.tell(JobEnded(job_id))

    def attach(self, daemon_id: str) -> None:
        host = self.hosts[self.host_of[daemon_id]]
        self.connected.add(daemon_id)
        self.epochs[daemon_id] += 1
        self.sequences[daemon_id] = 0
        self.tell(
            attached(
                daemon_id,
                capabilities(sessions=host.limit),
                machine=self.host_of[daemon_id],
                jobs=frozenset(self.running[daemon_id]),
            )
        )
        self.beat(daemon_id, self.epochs[daemon_id])

    def beat(self, daemon_id: str, epoch: int) -> None:
        if self.epochs[daemon_id] != epoch or daemon_id not in self.connected:
            return
        self.sequences[daemon_id] += 1
        host = self.hosts[self.host_of[daemon_id]]
        own = sum(1 for owner, _ in host.sessions if owner == daemon_id)
        message = HeartbeatCame(
            daemon_id,
            self.sequences[daemon_id],
            (PoolSeen(POOL, host.active, own),),
            tuple(JobSeen(job_id, 1.0, 5.0) for job_id in sorted(self.running[daemon_id])),
        )
        if self.random.random() < 0.8:
            delay = self.link() if self.random.random() < 0.5 else self.random.uniform(0.0, 12.0)
            self.later(delay, lambda: self.heard(message, epoch))
        self.later(HEARTBEAT_S, lambda: self.beat(daemon_id, epoch))

    def heard(self, message: HeartbeatCame, epoch: int) -> None:
        if self.epochs[message.id] == epoch and message.id in self.connected:
            self.tell(message)

    def break_stream(self, daemon_id: str) -> None:
        if daemon_id in self.connected:
            self.connected.discard(daemon_id)
            self.counts["broken streams"] += 1
            self.tell(DaemonDetached(daemon_id, "1", "its stream ended"))
            for job_id in sorted(self.running[daemon_id]):
                self.later(self.random.uniform(0, 7.0), lambda job=job_id: self.finish(daemon_id, job))
            self.later(self.random.uniform(0.1, 40.0), lambda: self.attach(daemon_id))
        self.later(self.random.uniform(60, 600), lambda: self.break_stream(daemon_id))

    def move_one(self) -> None:
        """An operator, a job that does not keep up, or a profile that was edited."""
        if running := sorted(self.ledger.jobs):
            self.succeed(
                self.random.choice(running), self.random.choice([MoveKind.ASKED, MoveKind.SLOW, MoveKind.CHANGED])
            )
        self.later(self.random.uniform(1.0, 5.0), self.move_one)

    def drain(self, turn: int) -> None:
        """One daemon after another lets its jobs go, and is active again."""
        daemon_id = sorted(self.host_of)[turn % len(self.host_of)]
        self.draining.add(daemon_id)
        self.tell(DrainAsked(daemon_id, draining=True, hurry=self.random.random() < 0.3))
        self.later(60.0, lambda: self.activate(daemon_id, turn))

    def activate(self, daemon_id: str, turn: int) -> None:
        self.counts["drained"] += 1
        self.counts["left on a drained daemon"] += len(self.ledger.jobs_on(daemon_id))
        self.draining.discard(daemon_id)
        self.tell(DrainAsked(daemon_id, draining=False))
        self.later(self.random.uniform(1.0, 20.0), lambda: self.drain(turn + 1))

    def other_program(self, host: Host) -> None:
        if host.foreign and self.random.random() < 0.5:
            host.foreign -= 1
        elif host.active < host.limit:
            host.foreign += 1
        self.later(self.random.uniform(0.5, 30.0), lambda: self.other_program(host))


def run(
    *,
    seed: int,
    starts: int = 1_000,
    limits: tuple[int, ...] = (3, 5, 8),
    daemons_per_host: int = 1,
    foreign: bool = False,
    breaks: bool = False,
    moves: bool = False,
    policy: str = "fallback",
    check: bool = True,
) -> World:
    """Starts and stops so many jobs at random and returns what came of it. `moves`: drains and an operator too."""
    random = Random(seed)
    hosts = {f"host {i}": Host(limit) for i, limit in enumerate(limits)}
    host_of = {f"{name} daemon {i}": name for name in hosts for i in range(daemons_per_host)}
    world = World(random, hosts, host_of, foreign, breaks, policy, check, running={d: set() for d in host_of})
    for daemon_id in host_of:
        world.attach(daemon_id)
        if breaks:
            world.later(random.uniform(30, 600), lambda d=daemon_id: world.break_stream(d))
    if foreign:
        for host in hosts.values():
            world.later(random.uniform(0, 20), lambda h=host: world.other_program(h))
    if moves:
        world.later(10.0, lambda: world.drain(0))
        world.move_one()
    left = [starts]

    def arrive() -> None:
        if not left[0]:
            return
        left[0] -= 1
        job_id = f"job {starts - left[0]}"
        world.want(job_id)
        world.later(random.expovariate(sum(limits) / 30), arrive)

    arrive()
    world.run(lambda: not left[0] and not world.wanted)
    return world
