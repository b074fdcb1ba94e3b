"""Daemons, jobs and pools with their figures kept up to date: what `policy.choose` reads and `Ledger` changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from weakref import WeakValueDictionary

from tvarr.cluster.fit import Make, ShapeKey, anonymous
from tvarr.cluster.load import corrected
from tvarr.cluster.model import Capabilities, Family, MoveKind, Need, Placement
from tvarr.cluster.offers import Shape
from tvarr.cluster.pools import Held, Pool
from tvarr.cluster.standing import Standing, Standings

PoolKey = tuple[str, str]  # host, pool
NEVER = float("inf")
CHUNK = 32  # standings kept together


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator may set of placement. Times in seconds."""

    ack_within_s: float = 40.0  # from placement to the daemon's ack
    close_within_s: float = 10.0  # after a cancel or a loss a session is taken as closed
    queue_timeout_s: float = 30.0
    relearn_after_s: float = 600.0  # a learned limit is tried upward again, one session at a time
    promote: bool = True  # fallback jobs go to hardware when a session frees
    move_pause_s: float = 30.0  # between two tries to move one job, where nothing became free meanwhile
    lonely_s: float = 5.0  # a job waits so long for somebody who could do it to come back
    backoff_s: float = 0.5  # after the first failure of a job on a daemon; doubles with each
    max_backoff_s: float = 60.0
    went_well_after_s: float = 5.0  # a job that ran so long there before it failed makes the backoff short again
    aside_failures: int = 3  # different jobs in a row that set a daemon aside
    aside_s: float = 30.0  # the first time; doubles with each
    max_aside_s: float = 600.0
    healthy_after_s: float = 10.0  # a job that ran this long is a success of its daemon
    retry_after_s: float = 10.0  # told to who is refused, where nothing better is known
    max_cpu_load: float = 1.25  # estimated load per processor up to which software jobs are placed


class DaemonState(StrEnum):
    CONNECTED = "connected"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"  # its stream is open and its heartbeats stay away
    DISCONNECTED = "disconnected"


@dataclass(slots=True)
class Daemon:
    """One daemon. The figures from `jobs_held` on are the cluster's to change."""

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
    in_a_hurry: bool = False  # it drains because it ends soon
    unhealthy: bool = False
    sequence: int = -1  # of its latest heartbeat on this stream
    last_used: int = 0  # serial of the latest placement
    tightened: int = 0  # serial of the event that last changed its capabilities or brought it back
    failed_works: set[str] = field(default_factory=set)  # since the last success
    times_aside: int = 0
    aside_until: float | None = None
    aside_reason: str = ""
    broke_off: tuple[str, str] | None = None  # work and reason of a job whose stream ended without a word
    cost_factor: float = 1.0  # what its work really costs, over the table
    slowest_speed: float | None = None  # of its jobs in the latest heartbeat; None: not known
    jobs_held: int = 0
    cpu_jobs_held: int = 0
    load_cores: float = 0.0  # by the table; times `cost_factor` it is the estimate
    gpu_sessions: Counter[str] = field(default_factory=Counter)  # our encodes, by `Gpu.id`
    gpu_decodes: Counter[str] = field(default_factory=Counter)  # our decodes, by `Gpu.id`
    pools: dict[str, Pool] = field(default_factory=dict)  # by `Gpu.pool`
    departed: dict[str, Job] = field(default_factory=dict)  # lost with its stream, and maybe still there
    make: Make = field(init=False)  # by `Cluster.set_capabilities`
    standing: Standing | None = None  # None: it has changed since the last one was made

    @property
    def state(self) -> DaemonState:
        if not self.connected:
            return DaemonState.DISCONNECTED
        if self.unhealthy:
            return DaemonState.UNHEALTHY
        return DaemonState.DRAINING if self.draining else DaemonState.CONNECTED

    @property
    def load(self) -> float:
        """Processors that its jobs are estimated to keep busy."""
        return self.load_cores * self.cost_factor


@dataclass(frozen=True, slots=True)
class Succession:
    """What a job that shall replace another was asked for, and what is to know of the other's place."""

    kind: MoveKind
    replaces: str  # the other's id
    serial: int  # of the other's placement: ids may come again
    daemon_id: str  # the other's
    rank: int  # of the other's way (`tvarr.cluster.fit`)
    to: str = ""  # the only daemon that will do


@dataclass(slots=True)
class Job:
    """A placement that holds capacity, from `JobWanted` to its end."""

    id: str
    daemon_id: str
    placement: Placement
    placed_at: float
    need: Need
    work: str
    wanted_at: float
    wanted_serial: int  # of the event that first wanted it
    instance: str  # of the daemon that it was placed on
    serial: int = 0  # of the placement
    pool: PoolKey | None = None
    state: Held = Held.RESERVED
    confirmed_at: float | None = None
    sequence_seen: int | None = None  # of the latest heartbeat that had it
    close_by: float | None = None  # None: when its daemon is heard again
    avoid: frozenset[str] = frozenset()
    succession: Succession | None = None  # it was placed to replace another job

    @property
    def acked(self) -> bool:
        return self.confirmed_at is not None

    @property
    def in_software(self) -> bool:
        encoder = self.placement.encoder
        return encoder is not None and encoder.family is Family.SOFTWARE


@dataclass(slots=True)
class Backoff:
    """A daemon that failed a job is not tried again for it so soon."""

    until: float
    failures: int
    reason: str
    hardware_only: bool  # its software encoders may be tried at once


@dataclass(slots=True)
class Cluster:
    """The state. `closing` has jobs that nobody wants and whose sessions may still be open, by their serial.

    `improved`: something became free or possible since the flag was last taken down.
    """

    settings: Settings = field(default_factory=Settings)
    daemons: dict[str, Daemon] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    closing: dict[int, Job] = field(default_factory=dict)
    pools: dict[PoolKey, Pool] = field(default_factory=dict)
    backoffs: dict[str, dict[str, Backoff]] = field(default_factory=dict)  # by work, then daemon
    aside: set[str] = field(default_factory=set)  # daemons that are set aside
    draining: dict[str, Daemon] = field(default_factory=dict)
    successors: dict[str, Job] = field(default_factory=dict)  # jobs by the id of the running job that each replaces
    sources: dict[str, Counter[str]] = field(default_factory=dict)  # daemons with jobs of a source
    held: dict[str, dict[int, Job]] = field(default_factory=dict)  # by daemon and serial: jobs and closing ones
    shapes: dict[ShapeKey, Shape] = field(default_factory=dict)  # remembered by the policy
    makes: WeakValueDictionary[Capabilities, Make] = field(default_factory=WeakValueDictionary)  # of the daemons
    standings: Standings = ()  # of the latest choice
    serial: int = 0
    improved: bool = False
    due: float = NEVER  # when the clock has to be looked at; that may be too early, and never too late

    # -------------------------------------------------------------------------------------------------- daemons

    def add(self, daemon: Daemon) -> None:
        """A daemon is here, in place of one with its id. Jobs that it holds as the same process count again."""
        before = self.daemons.pop(daemon.id, None)
        self.daemons[daemon.id] = daemon
        self.drain(daemon, draining=daemon.draining, hurry=daemon.in_a_hurry)
        if before is not None:
            daemon.pools = before.pools
        self.set_capabilities(daemon, daemon.capabilities)
        for job in self.held_by(daemon.id):
            if job.instance == daemon.instance:
                self._count(job, 1)

    def set_capabilities(self, daemon: Daemon, capabilities: Capabilities) -> None:
        make = Make(anonymous(capabilities))
        daemon.make = self.makes.setdefault(make.capabilities, make)
        decoders = daemon.make.capabilities.decoders  # hundreds of names, the same for the whole make
        daemon.capabilities = capabilities = replace(capabilities, decoders=decoders)
        daemon.tightened = self.serial
        drivers = {gpu.pool: gpu.driver for gpu in capabilities.gpus if gpu.pool and gpu.driver}
        host = daemon.machine or daemon.id
        before, daemon.pools = daemon.pools, {}
        for report in capabilities.pools:
            pool = self.pools.get((host, report.id))
            if pool is None:
                pool = self.pools[host, report.id] = Pool(host, report.id, report)
            pool.report(daemon.id, report, drivers.get(report.id, ""))
            pool.tightened = self.serial
            daemon.pools[report.id] = pool
            self.touch_pool(pool)
        for pool in before.values():
            if daemon.pools.get(pool.id) is not pool:
                self._leave(pool, daemon.id, forgotten=True)
        self.touch(daemon)
        self.improved = True

    def drain(self, daemon: Daemon, *, draining: bool, hurry: bool) -> None:
        daemon.draining, daemon.in_a_hurry = draining, draining and hurry
        if draining:
            self.draining[daemon.id] = daemon
        else:
            self.draining.pop(daemon.id, None)
        self.touch(daemon)
        self.improved = True  # its jobs may go, or others come

    def disconnect(self, daemon: Daemon) -> None:
        daemon.connected = False
        for pool in daemon.pools.values():
            self._leave(pool, daemon.id, forgotten=False)
        self.touch(daemon)
        self.improved = True  # what it saw of other programs counts no more

    def forget(self, daemon: Daemon) -> None:
        del self.daemons[daemon.id]
        self.aside.discard(daemon.id)
        self.draining.pop(daemon.id, None)
        for job in self.held_by(daemon.id):
            self.release(job, daemon.heard_at)
        for pool in daemon.pools.values():
            self._leave(pool, daemon.id, forgotten=True)

    def _leave(self, pool: Pool, daemon_id: str, *, forgotten: bool) -> None:
        pool.leave(daemon_id, forgotten=forgotten)
        pool.tightened = self.serial
        self.touch_pool(pool)
        self._drop_unused(pool)

    def _drop_unused(self, pool: Pool) -> None:
        if not pool.members:
            self.pools.pop((pool.host, pool.id), None)

    def touch(self, daemon: Daemon) -> None:
        """What the policy remembers of the daemon is out of date."""
        daemon.standing = None

    def touch_pool(self, pool: Pool) -> None:
        for daemon_id in pool.members:
            if daemon := self.daemons.get(daemon_id):
                self.touch(daemon)

    def look_round(self) -> list[Standing]:
        """How the connected daemons stand, in the order in which they joined; `standings` has the same in chunks."""
        now = [d.standing or self._stands(d) for d in self.daemons.values() if d.connected]
        chunks = [tuple(now[i : i + CHUNK]) for i in range(0, len(now), CHUNK)]
        for i, before in enumerate(self.standings[: len(chunks)]):
            if chunks[i] == before:
                chunks[i] = before
        self.standings = tuple(chunks)
        return now

    def _stands(self, daemon: Daemon) -> Standing:
        caps = daemon.capabilities
        standing = daemon.standing = Standing(
            daemon.id,
            daemon.name,
            f"it is {daemon.state}" if daemon.unhealthy or daemon.draining else "",
            caps,
            daemon.make,
            daemon.last_used,
            daemon.jobs_held,
            daemon.cpu_jobs_held,
            daemon.load_cores,
            daemon.cost_factor,
            tuple([daemon.gpu_sessions[gpu.id] for gpu in caps.gpus]) if daemon.jobs_held and caps.gpus else (),
            tuple([daemon.pools[pool.id].standing for pool in caps.pools]) if caps.pools else (),
        )
        return standing

    # ----------------------------------------------------------------------------------------------------- jobs

    def held_by(self, daemon_id: str) -> list[Job]:
        """Jobs and closing ones of a daemon, oldest first."""
        return list(self.held.get(daemon_id, {}).values())

    def place(self, job: Job) -> None:
        """Reserves what a placement needs, and numbers the job."""
        self.jobs[job.id] = job
        if replaced := self.replaced_by(job.succession):
            self.successors[replaced.id] = job
        self._hold(job)
        daemon = self.daemons[job.daemon_id]
        daemon.last_used = job.serial
        self.touch(daemon)

    def hold_again(self, job: Job) -> None:
        """A job that was taken as over is still there, and nobody wants it."""
        job.state = Held.RESERVED
        self._hold(job)
        self._change(job, Held.CLOSING)
        self.closing[job.serial] = job
        daemon = self.daemons[job.daemon_id]
        daemon.tightened = self.serial
        if job.pool is not None:
            self.pools[job.pool].tightened = self.serial

    def _hold(self, job: Job) -> None:
        self.serial += 1
        job.serial = self.serial
        daemon = self.daemons[job.daemon_id]
        self.held.setdefault(job.daemon_id, {})[job.serial] = job
        self.sources.setdefault(job.need.source, Counter())[job.daemon_id] += 1
        job.pool = None
        pool = daemon.pools.get(job.placement.pool)
        if pool is not None:
            job.pool = (pool.host, pool.id)
            pool.take(job.daemon_id)
            self.touch_pool(pool)
        self._count(job, 1)

    def confirm(self, job: Job, now: float) -> None:
        if job.state is not Held.RESERVED:
            return
        job.confirmed_at = now
        self._change(job, Held.CONFIRMED)
        if job.pool is not None:
            pool = self.pools[job.pool]
            before = pool.limit
            pool.confirmed()
            self._after_limit(pool, before)

    def close(self, job: Job) -> None:
        """Nobody wants the job any more: its slot and session are free when the daemon has ended it."""
        self._unlist(job)
        self._change(job, Held.CLOSING)
        job.close_by = None
        self.closing[job.serial] = job

    def close_soon(self, job: Job, now: float) -> None:
        """As `close`, and after a time limit what the job held is taken as free anyway."""
        if job.state is not Held.CLOSING:
            self.close(job)
        job.close_by = now + self.settings.close_within_s
        self.wake(job.close_by)

    def wake(self, at: float) -> None:
        self.due = min(self.due, at)

    def release(self, job: Job, now: float) -> None:
        """What the job held is free."""
        if self.closing.pop(job.serial, None) is None:
            self._unlist(job)
        held = self.held[job.daemon_id]
        del held[job.serial]
        if not held:
            del self.held[job.daemon_id]
        source = self.sources[job.need.source]
        source[job.daemon_id] -= 1
        if not source[job.daemon_id]:
            del source[job.daemon_id]
            if not source:
                del self.sources[job.need.source]
        if job.pool is not None:
            pool = self.pools[job.pool]
            pool.release(job.daemon_id, job.state, now)
            self.touch_pool(pool)
            self._drop_unused(pool)
        self._count(job, -1)
        self.improved = True

    def _unlist(self, job: Job) -> None:
        """A job is wanted no more: what it replaces has no successor, and its own is a job like any other."""
        del self.jobs[job.id]
        if self.successors.pop(job.id, None) is not None:
            self.improved = True
        if job.succession is not None and self.replaces(job):
            del self.successors[job.succession.replaces]

    def replaced_by(self, succession: Succession | None) -> Job | None:
        """The job that a successor was asked for, while it runs."""
        job = self.jobs.get(succession.replaces) if succession is not None else None
        return job if job is not None and succession is not None and job.serial == succession.serial else None

    def replaces(self, job: Job) -> bool:
        """Whether the job that it was placed for to replace still runs."""
        return job.succession is not None and self.successors.get(job.succession.replaces) is job

    def _change(self, job: Job, state: Held) -> None:
        if job.pool is not None:
            self.pools[job.pool].change(job.daemon_id, job.state, state)
        job.state = state

    def _count(self, job: Job, sign: int) -> None:
        """A job of a process that was replaced takes no slot of the new one."""
        daemon = self.daemons.get(job.daemon_id)
        if daemon is None or daemon.instance != job.instance:
            return
        encoder = job.placement.encoder
        daemon.jobs_held += sign
        daemon.cpu_jobs_held += sign * job.in_software
        daemon.load_cores += sign * job.placement.cost_cores
        if not daemon.jobs_held:
            daemon.load_cores = 0.0  # no remainder of rounding
        if encoder is not None and encoder.device:
            daemon.gpu_sessions[encoder.device] += sign
            daemon.gpu_decodes[encoder.device] += sign * job.placement.hw_decode
        self.touch(daemon)

    # ------------------------------------------------------------------------------------------- what is heard

    def observe(self, daemon: Daemon, pool_id: str, active: int, own: int, now: float) -> None:
        """Sessions of one pool in a heartbeat that is the daemon's latest."""
        pool = daemon.pools.get(pool_id)
        if pool is None:
            return
        foreign, limit = pool.foreign, pool.limit
        pool.observe(daemon.id, active, own, now)
        if pool.foreign > foreign:
            pool.tightened = self.serial
        if pool.foreign != foreign:
            self.touch_pool(pool)
            self.improved |= pool.foreign < foreign
        self._after_limit(pool, limit)

    def session_refused(self, pool: Pool, now: float) -> int:
        """The driver said no to a job that was released just now."""
        limit = pool.refused(now, self.settings.relearn_after_s)
        pool.tightened = self.serial
        self.touch_pool(pool)
        return limit

    def doubt_limits(self, now: float) -> None:
        """Learned limits whose time has come are raised."""
        for pool in self.pools.values():
            before = pool.limit
            if pool.doubt(now, self.settings.relearn_after_s):
                self._after_limit(pool, before)

    def _after_limit(self, pool: Pool, before: int | None) -> None:
        if pool.limit != before:
            self.touch_pool(pool)
            self.improved = True

    def correct(self, daemon: Daemon, speeds: list[tuple[float, float]]) -> None:
        """`speeds`: of jobs that run long enough, with their cost by the table."""
        factor = corrected(daemon.cost_factor, daemon.capabilities.cpu_count, daemon.load_cores, speeds)
        if abs(factor - daemon.cost_factor) > 0.02 * daemon.cost_factor or factor == 1.0:
            self.improved |= factor < daemon.cost_factor
            if factor != daemon.cost_factor:
                daemon.cost_factor = factor
                self.touch(daemon)

    def deadlines(self) -> list[float]:
        """When limits are doubted."""
        return [pool.try_more_at for pool in self.pools.values() if pool.try_more_at is not None]
