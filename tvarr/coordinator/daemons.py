"""The shell round the ledger: daemons' streams in, its instructions out."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from tvarr import __version__
from tvarr.cluster import events
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, MoveKind, Need, Placement, RefusalKind
from tvarr.cluster.reasons import lines_of
from tvarr.cluster.state import Settings
from tvarr.cluster.waiting import Waiting
from tvarr.coordinator import metrics
from tvarr.coordinator.endings import MAX_ENDINGS, PastJob
from tvarr.coordinator.history import History
from tvarr.coordinator.signals import Signal
from tvarr.errors import ErrorCode, JobError, NoPlacement, NotFound, QueueTimeout, TvarrError
from tvarr.wire import convert, messages
from tvarr.wire.streams import DaemonMessages, JobOutputs

log = logging.getLogger(__name__)

WORK_WITHIN_S = 10.0  # a daemon that was told to start a job dials `Work` in this time, or loses the job
WATCHED_PACE_S, WATCHED_BEATS_PER_S = 2.0, 50  # heartbeats while somebody looks: so often, and so many of all daemons
MAX_DRAINED = 1_000  # remembered over a restart
MAX_QUEUED = 1_000  # messages to one daemon; a daemon that does not read them is cut off

ToDaemon = events.Instruction | messages.Drain | messages.Activate | messages.SetPace


@dataclass(slots=True)
class DaemonLink:
    """One daemon's stream and what it last said. `heartbeat` and `register` are the messages as they came."""

    id: str
    name: str
    peer: str
    register: messages.Register
    connected_at: float  # wall clock
    heard_at: float  # wall clock
    heartbeat: messages.Heartbeat | None = None
    jobs_done: int = 0
    jobs_failed: int = 0
    past_jobs: deque[PastJob] = field(default_factory=lambda: deque(maxlen=MAX_ENDINGS))
    history: History = field(default_factory=History)
    shown: tuple[Capabilities, dict[str, Any]] | None = None  # what was made of them for people
    outbox: asyncio.Queue[ToDaemon] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED))
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    cut_reason: str = "replaced by a newer stream"

    def inherit(self, old: DaemonLink) -> None:
        """Goes on with what people know of the daemon from its stream before this one."""
        self.jobs_done, self.jobs_failed = old.jobs_done, old.jobs_failed
        self.past_jobs, self.history = old.past_jobs, old.history


@dataclass(slots=True)
class JobSlot:
    """A placed job on its way to its stream, and later the stream's keeper."""

    id: str
    placement: Placement
    waited_s: float  # in the queue
    stream: asyncio.Future[JobOutputs]
    lost: asyncio.Future[JobError]
    done: asyncio.Event = field(default_factory=asyncio.Event)  # its owner wants no more of it
    on_move: Callable[[MoveKind, str], None] | None = None  # the job should be somewhere else
    said: bool = False  # the daemon has said the last word about it: nothing of it is left there
    gone: bool = False  # the ledger took it away


class Daemons:
    """Keeps every daemon's stream, places jobs, and hands out their streams.

    The life of a job here: `place`, which may wait, `open`, `acked`, and then one of `finished`, `failed`, `cancel` and
    `place_again`. A job that nobody watches any more gives way to one that finds no room (`make_room`).
    """

    def __init__(
        self,
        *,
        heartbeat_interval_s: float,
        unhealthy_after_s: float,
        settings: Settings | None = None,
        drained: Iterable[str] = (),
    ) -> None:
        """`drained`: what the attribute of that name was when the coordinator ended."""
        self.ledger = Ledger(unhealthy_after_s=unhealthy_after_s, settings=settings or Settings())
        self.links: dict[str, DaemonLink] = {}
        self.drained = list(drained)  # by the operator: instances of daemons, those of the latest last
        self._heartbeat_interval_s = heartbeat_interval_s
        self._watched = False
        self._slots: dict[str, JobSlot] = {}
        self._wanted: dict[str, asyncio.Future[JobSlot]] = {}  # jobs whose owners wait in `place`
        self._timer: asyncio.TimerHandle | None = None
        self.make_room: Callable[[], Awaitable[Collection[str]]] = _nobody
        """Begins the end of what nobody has watched for longest: the ids of its jobs, none where all are watched."""
        self._room_maker: asyncio.Task[None] | None = None  # for those that wait
        self._may_make_room = Signal()  # a job waits, or is watched no more
        self._handled = Signal()  # an event

    # ------------------------------------------------------------------------------------------ the daemons' side

    async def attach(self, register: messages.Register, peer: str, stream: DaemonMessages) -> None:
        """Serves one daemon until its stream ends."""
        capabilities, complaints = convert.capabilities_from_wire(register.capabilities)
        for complaint in complaints:
            log.warning("daemon %s reports nonsense: %s", register.name, complaint)
        daemon_id, name = self._identify(register)
        old = self.links.get(daemon_id)
        wall = time.time()
        register.capabilities = None  # the ledger has them, in a tenth of the room
        link = self.links[daemon_id] = DaemonLink(daemon_id, name, peer, register, connected_at=wall, heard_at=wall)
        if old is not None:
            old.cut.set()
            link.inherit(old)
        log.info("daemon %s (%s) connected from %s", name, daemon_id, peer)
        self._handle(
            events.DaemonAttached(
                daemon_id,
                register.instance_id,
                name,
                register.machine_id,
                register.version,
                capabilities,
                frozenset(job.job_id for job in register.jobs),
                draining=register.instance_id in self.drained,
            )
        )
        await stream.send(
            messages.Registered(
                daemon_id=daemon_id, heartbeat_interval_s=self._heartbeat_interval_s, version=__version__
            )
        )
        if self.ledger.daemons[daemon_id].draining:
            self._post(daemon_id, messages.Drain(reason="asked before it came back"))
        if self._watched:
            self._post(daemon_id, messages.SetPace(heartbeat_interval_s=self.pace_s))
        reason, level = "its stream ended", logging.INFO
        writer = asyncio.create_task(self._write(link, stream))
        reader = asyncio.create_task(self._read(link, stream))
        cut = asyncio.create_task(link.cut.wait())
        try:
            await asyncio.wait({writer, reader, cut}, return_when=asyncio.FIRST_COMPLETED)
            if link.cut.is_set():
                reason = link.cut_reason
            if not self.ledger.daemons[daemon_id].draining:
                level = logging.WARNING
        finally:
            for task in (writer, reader, cut):
                task.cancel()
            await asyncio.gather(writer, reader, cut, return_exceptions=True)
            if self.links.get(daemon_id) is link:
                log.log(level, "daemon %s disconnected: %s", name, reason)
                self._handle(events.DaemonDetached(daemon_id, register.instance_id, reason))

    async def work(self, opened: messages.WorkOpen, stream: JobOutputs) -> None:
        """Hands a job's stream to whoever started the job and keeps it open until nothing of the job is left."""
        slot = self._slots.get(opened.job_id)
        if slot is None or slot.stream.done() or opened.daemon_id != slot.placement.daemon_id:
            self._turned_away(opened.job_id, opened.daemon_id)
            raise NotFound(f"no job {opened.job_id} is waiting for a daemon")
        slot.stream.set_result(stream)
        await slot.done.wait()
        if not slot.said:
            await self._until_it_ends(slot, stream)

    async def _until_it_ends(self, slot: JobSlot, stream: JobOutputs) -> None:
        """Reads a cancelled job's stream to the daemon's last word: then what the job held is free."""
        with suppress(TvarrError, TimeoutError):
            async with asyncio.timeout(self.ledger.settings.close_within_s):
                while (item := await stream.receive()) is not None:
                    if isinstance(item, messages.TranscodeError | messages.OutputComplete):
                        self._handle(events.JobEnded(slot.id))
                        return

    def _turned_away(self, job_id: str, daemon_id: str) -> None:
        """A daemon begins, or refuses to begin, a job that was cancelled meanwhile: it holds nothing there."""
        closing = [job for job in self.ledger.cluster.held_by(daemon_id) if job.id == job_id]
        if closing and job_id not in self.ledger.jobs:
            self._handle(events.JobEnded(job_id))

    def _identify(self, register: messages.Register) -> tuple[str, str]:
        """The id and name to keep the daemon under: another id where its own is taken by a process that is alive."""
        wanted, name = register.daemon_id or register.instance_id, convert.clean(register.name) or "unnamed"
        if self.ledger.free_id(wanted, register.instance_id):
            return wanted, name
        other = str(uuid5(NAMESPACE_OID, wanted + register.instance_id))
        name = f"{name}-{other[:4]}"
        log.warning("two daemons call themselves %s on one host: the second is %s here", register.name, name)
        return other, name

    async def _read(self, link: DaemonLink, stream: DaemonMessages) -> None:
        while (message := await stream.receive()) is not None and not link.cut.is_set():
            link.heard_at = time.time()
            match message:
                case messages.Heartbeat():
                    convert.finite(message)
                    link.heartbeat = message
                    if message.system is not None:
                        link.history.add(time.monotonic(), message.system)
                    self._handle(_seen(link.id, message))
                case messages.JobRefused(job_id=job_id):
                    self._refused(job_id, link.id, convert.error_from_wire(message.error))
                case messages.CapabilitiesChanged():
                    capabilities, complaints = convert.capabilities_from_wire(message.capabilities)
                    for complaint in complaints:
                        log.warning("daemon %s reports nonsense: %s", link.name, complaint)
                    self._handle(events.CapabilitiesCame(link.id, capabilities))
                case messages.Draining():
                    log.info("daemon %s drains: %s", link.name, message.reason)
                    self._handle(events.DrainAsked(link.id, draining=True, hurry=True))

    async def _write(self, link: DaemonLink, stream: DaemonMessages) -> None:
        while True:
            instruction = await link.outbox.get()
            match instruction:
                case events.Start(job_id, placement):
                    encoder = placement.encoder
                    await stream.send(
                        messages.StartJob(
                            job_id=job_id,
                            encoder=encoder.name if encoder else "",
                            device=encoder.device if encoder else "",
                        )
                    )
                case events.Cancel(_, job_id, reason):
                    await stream.send(messages.CancelJob(job_id=job_id, reason=reason))
                case messages.Drain() | messages.Activate() | messages.SetPace():
                    await stream.send(instruction)

    # ------------------------------------------------------------------------------------------ the relays' side

    async def place(
        self,
        job_id: str,
        need: Need,
        work: str,
        *,
        avoid: frozenset[str] = frozenset(),
        replaces: str = "",
        move: MoveKind | None = None,
        to: str = "",
    ) -> JobSlot:
        """Reserves a place for a job, waiting for one where the ledger says so, and tells the daemon.

        `work` names what the job does over all its tries; the rest is that of `JobWanted`.
        Raises `NoPlacement` and `QueueTimeout` with every daemon's reason.
        """
        wanted = events.JobWanted(job_id, need, avoid, work, replaces, move, to)
        while True:
            try:
                return await self._placed(job_id, wanted)
            except NoPlacement as error:
                if replaces or not error.busy or not await self._room_is_made():
                    raise

    async def place_again(self, slot: JobSlot, error: JobError) -> JobSlot:
        """Another place for a job whose session the driver refused, as `place`. Raises `error` where it is lost."""
        self._close(slot)
        return await self._placed(slot.id, events.SessionRefused(slot.id), error)

    def watched_no_more(self) -> None:
        """A job has lost its last viewer: `make_room` may find it."""
        self._may_make_room.set()

    def waiting(self, job_id: str) -> Waiting | None:
        """What a job waits for; None where it does not wait."""
        return self.ledger.waiting_for(job_id)

    async def open(self, slot: JobSlot) -> JobOutputs:
        """The job's stream, once the daemon has dialled in. Raises `JobError`."""
        either: set[asyncio.Future[Any]] = {slot.stream, slot.lost}
        done, _ = await asyncio.wait(either, timeout=WORK_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if slot.lost in done:
            raise slot.lost.result()
        if slot.stream not in done:
            name = self.name_of(slot.placement.daemon_id)
            raise JobError(ErrorCode.STALLED, f"{name} did not start the job within {WORK_WITHIN_S:g} s")
        return slot.stream.result()

    def acked(self, slot: JobSlot) -> None:
        """The daemon says that the job runs."""
        self._handle(events.JobAcked(slot.id))

    def finished(self, slot: JobSlot) -> None:
        """The daemon has given all output and said so."""
        self._close(slot)
        if link := self.links.get(slot.placement.daemon_id):
            link.jobs_done += 1
        self._handle(events.JobEnded(slot.id))

    def failed(self, slot: JobSlot, error: JobError) -> None:
        """The daemon said an error, or the job was lost."""
        self._close(slot)
        if link := self.links.get(slot.placement.daemon_id):
            link.jobs_failed += 1
        if slot.said or not slot.gone:
            self._handle(events.JobFailed(slot.id, error.code, str(error), error.retry_in_software, ended=slot.said))

    def cancel(self, slot: JobSlot, reason: str) -> None:
        """Nobody wants the job any more. What it holds is free when the daemon says that it has ended."""
        self._close(slot)
        if link := self.links.get(slot.placement.daemon_id):
            link.jobs_done += 1
        self._handle(events.JobEnded(slot.id) if slot.said else events.JobCancelled(slot.id, reason))

    def remember(self, slot: JobSlot, job: PastJob) -> None:
        """Keeps how a job ended for people to see."""
        if link := self.links.get(slot.placement.daemon_id):
            link.past_jobs.append(job)

    async def _placed(self, job_id: str, event: events.Event, lost: JobError | None = None) -> JobSlot:
        """Hands in an event that asks for a place, and waits for the answer, which may come with a later one."""
        answer: asyncio.Future[JobSlot] = asyncio.get_running_loop().create_future()
        self._wanted[job_id] = answer
        try:
            self._handle(event)
            if lost is not None and not answer.done() and self.waiting(job_id) is None:
                raise lost
            return await answer
        except asyncio.CancelledError:
            if slot := self._slots.get(job_id):
                self._close(slot)
            self._handle(events.JobCancelled(job_id, "nobody waits for it any more"))
            raise
        finally:
            del self._wanted[job_id]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # it may have come at the same moment as a cancellation

    async def _room_is_made(self) -> bool:
        """Ends a job that nobody watches, where there is one, and returns when nothing of it is left."""
        ended = await self.make_room()
        while any(job.id in ended for job in self.ledger.cluster.closing.values()):
            await self._handled.wait()
        return bool(ended)

    async def _make_room_for_the_queue(self) -> None:
        while True:
            wanted = any(entry.busy for entry in self.ledger.waiting())
            if not wanted or not await self._room_is_made():
                await self._may_make_room.wait()

    def _close(self, slot: JobSlot) -> None:
        """The slot's owner is through with it."""
        slot.done.set()
        if not slot.stream.done():
            slot.stream.cancel()
        if self._slots.get(slot.id) is slot:
            del self._slots[slot.id]

    def name_of(self, daemon_id: str) -> str:
        link = self.links.get(daemon_id)
        return link.name if link else daemon_id

    def drain(self, daemon_id: str, *, draining: bool) -> None:
        """Gives a daemon no new jobs and moves those that it has, or gives it jobs again. Raises `NotFound`."""
        if daemon_id not in self.ledger.daemons:
            raise NotFound(f"no daemon {daemon_id}")
        log.info("daemon %s %s", self.name_of(daemon_id), "drains" if draining else "takes jobs again")
        self._post(daemon_id, messages.Drain(reason="asked by the operator") if draining else messages.Activate())
        self._handle(events.DrainAsked(daemon_id, draining))
        instance = self.ledger.daemons[daemon_id].instance
        others = [other for other in self.drained if other != instance]
        self.drained = [*others, instance][-MAX_DRAINED:] if draining else others

    @property
    def pace_s(self) -> float:
        """Between heartbeats: while somebody looks at the figures they come more often, as far as we can keep up."""
        if not self._watched:
            return self._heartbeat_interval_s
        return min(self._heartbeat_interval_s, max(WATCHED_PACE_S, len(self.links) / WATCHED_BEATS_PER_S))

    def watch(self, watched: bool) -> None:
        """Somebody looks at the daemons' figures, or nobody any more."""
        if watched is not self._watched:
            self._watched = watched
            for daemon_id in self.links:
                self._post(daemon_id, messages.SetPace(heartbeat_interval_s=self.pace_s))

    def cut_off(self) -> None:
        """Ends every daemon's stream: they come back with the token, those that have it."""
        for link in self.links.values():
            link.cut_reason = "the token was renewed"
            link.cut.set()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._room_maker is not None:
            self._room_maker.cancel()
        for link in self.links.values():
            link.cut.set()

    # ------------------------------------------------------------------------------------------ carrying out

    def _handle(self, event: events.Event) -> None:
        """Hands an event to the ledger and carries out all that follows, for whichever job.

        Where everything is logged, the ledger is recounted after each event.
        """
        instructions = self.ledger.handle(event, time.monotonic())
        if log.isEnabledFor(logging.DEBUG):
            self._recount(event)
        for instruction in instructions:
            self._carry_out(instruction)
        if len(self.links) != len(self.ledger.daemons):
            self.links = {key: link for key, link in self.links.items() if key in self.ledger.daemons}
        self._arm()
        self._handled.set()

    def _recount(self, event: events.Event) -> None:
        try:
            self.ledger.validate()
        except AssertionError as error:
            log.error("the ledger is inconsistent after %s: %s", event, error)

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Start(job_id, placement, waited_s):
                self._start(instruction)
                if placement.fallback:
                    metrics.EXHAUSTION.labels("fallback").inc()
                    log.warning("a job falls back to software: %s", placement.reason, extra={"job_id": job_id})
                elif waited_s:
                    log.info("a job starts after %.1f s in the queue", waited_s, extra={"job_id": job_id})
            case events.Queued(job_id, position, reason):
                metrics.EXHAUSTION.labels("queue").inc()
                log.info("a job waits at position %d: %s", position, reason, extra={"job_id": job_id})
                self._may_make_room.set()
                if self._room_maker is None:
                    self._room_maker = asyncio.create_task(self._make_room_for_the_queue(), name="room for the queue")
            case events.QueueTimedOut(job_id, waited_s, reason, considered):
                words = f"no daemon was free for this job within {waited_s:.0f} s: {reason}"
                self._refuse(job_id, QueueTimeout(words, lines_of(considered)))
            case events.Refuse(job_id, refusal):
                words, reasons = refusal.reason, lines_of(refusal.considered)
                exhausted = refusal.kind is RefusalKind.EXHAUSTED
                error = NoPlacement(words, reasons, refusal.retry_after_s, busy=refusal.busy, exhausted=exhausted)
                self._refuse(job_id, error)
            case events.Lost(job_id, code, reason):
                if slot := self._slots.get(job_id):
                    slot.gone = True
                    _lose(slot, JobError(code, reason))
            case events.Cancel(daemon_id):
                self._post(daemon_id, instruction)
            case events.Move(job_id, kind, reason):
                slot = self._slots.get(job_id)
                if slot is not None and slot.on_move is not None:
                    slot.on_move(kind, reason)

    def _start(self, start: events.Start) -> None:
        loop = asyncio.get_running_loop()
        slot = JobSlot(start.job_id, start.placement, start.waited_s, loop.create_future(), loop.create_future())
        self._slots[slot.id] = slot
        if not (answer := self._wanted[slot.id]).done():  # a cancelled owner finds the slot and gives it back
            answer.set_result(slot)
        self._post(slot.placement.daemon_id, start)

    def _refuse(self, job_id: str, error: TvarrError) -> None:
        answer = self._wanted[job_id]
        if not answer.done():
            answer.set_exception(error)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self.ledger.deadline()) is not None:
            delay = max(0.0, deadline - time.monotonic()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._handle, events.TimePassed())

    def _refused(self, job_id: str, daemon_id: str, error: JobError) -> None:
        """A daemon can't begin a job that it was told to start."""
        slot = self._slots.get(job_id)
        if slot is None or slot.placement.daemon_id != daemon_id or slot.stream.done():
            self._turned_away(job_id, daemon_id)
            return
        slot.said = True
        _lose(slot, error)

    def _post(self, daemon_id: str, instruction: ToDaemon) -> None:
        link = self.links.get(daemon_id)
        if link is None:
            return
        try:
            link.outbox.put_nowait(instruction)
        except asyncio.QueueFull:
            log.error("daemon %s does not read its messages: cut off", link.name)
            link.cut.set()


async def _nobody() -> Collection[str]:
    return ()


def _lose(slot: JobSlot, error: JobError) -> None:
    if not slot.lost.done():
        slot.lost.set_result(error)


def _seen(daemon_id: str, beat: messages.Heartbeat) -> events.HeartbeatCame:
    """What the ledger has of a heartbeat; figures that can't be are left out."""
    return events.HeartbeatCame(
        daemon_id,
        beat.sequence,
        tuple(events.PoolSeen(pool.id, pool.active, pool.own) for pool in beat.pools),
        tuple(events.JobSeen(job.job_id, _finite(job.speed), _finite(job.age_s)) for job in beat.jobs),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0
