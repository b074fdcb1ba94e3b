"""The shell round the ledger: daemons' streams in, its instructions out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from tvarr import __version__
from tvarr.cluster import ledger as events
from tvarr.cluster.ledger import Ledger, words
from tvarr.cluster.model import Need, Placement
from tvarr.errors import ErrorCode, JobError, NoPlacement, NotFound
from tvarr.wire import convert, messages
from tvarr.wire.streams import DaemonMessages, JobOutputs

log = logging.getLogger(__name__)

WORK_WITHIN_S = 10.0  # a daemon that was told to start a job dials `Work` in this time, or loses the job
MAX_QUEUED = 1_000  # messages to one daemon; a daemon that does not read them is cut off
MAX_RECENT_JOBS = 20  # ended jobs remembered for each daemon


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
    outbox: asyncio.Queue[events.Instruction | None] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED))
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_RECENT_JOBS))
    cut: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class JobSlot:
    """A placed job on its way to its stream, and later the stream's keeper."""

    id: str
    placement: Placement
    stream: asyncio.Future[JobOutputs]
    lost: asyncio.Future[JobError]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Daemons:
    """Keeps every daemon's stream, places jobs, and hands out their streams."""

    def __init__(self, *, heartbeat_interval_s: float, unhealthy_after_s: float) -> None:
        self.ledger = Ledger(unhealthy_after_s=unhealthy_after_s)
        self.links: dict[str, DaemonLink] = {}
        self._heartbeat_interval_s = heartbeat_interval_s
        self._slots: dict[str, JobSlot] = {}
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ the daemons' side

    async def attach(self, register: messages.Register, peer: str, stream: DaemonMessages) -> None:
        """Serves one daemon until its stream ends."""
        capabilities, complaints = convert.capabilities_from_wire(register.capabilities)
        for complaint in complaints:
            log.warning("daemon %s reports nonsense: %s", register.name, complaint)
        daemon_id, name = self._identify(register)
        if old := self.links.get(daemon_id):
            old.cut.set()
        wall = time.time()
        link = self.links[daemon_id] = DaemonLink(daemon_id, name, peer, register, connected_at=wall, heard_at=wall)
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
            )
        )
        await stream.send(
            messages.Registered(
                daemon_id=daemon_id, heartbeat_interval_s=self._heartbeat_interval_s, version=__version__
            )
        )
        reason = "its stream ended"
        writer = asyncio.create_task(self._write(link, stream))
        reader = asyncio.create_task(self._read(link, stream))
        cut = asyncio.create_task(link.cut.wait())
        try:
            await asyncio.wait({writer, reader, cut}, return_when=asyncio.FIRST_COMPLETED)
            if link.cut.is_set():
                reason = "replaced by a newer stream"
        finally:
            for task in (writer, reader, cut):
                task.cancel()
            await asyncio.gather(writer, reader, cut, return_exceptions=True)
            if self.links.get(daemon_id) is link:
                log.info("daemon %s disconnected: %s", name, reason)
                self._handle(events.DaemonDetached(daemon_id, register.instance_id, reason))

    async def work(self, opened: messages.WorkOpen, stream: JobOutputs) -> None:
        """Hands a job's stream to whoever started the job and keeps it open until the job is done."""
        slot = self._slots.get(opened.job_id)
        if slot is None or slot.stream.done():
            raise NotFound(f"no job {opened.job_id} is waiting for a daemon")
        slot.stream.set_result(stream)
        await slot.done.wait()

    def _identify(self, register: messages.Register) -> tuple[str, str]:
        """The id and name to keep the daemon under: another id where its own is taken by a process that is alive."""
        wanted, name = register.daemon_id or register.instance_id, register.name or "unnamed"
        if self.ledger.free_id(wanted, register.instance_id):
            return wanted, name
        other = str(uuid5(NAMESPACE_OID, wanted + register.instance_id))
        name = f"{name}-{other[:4]}"
        log.warning("two daemons call themselves %s on one host: the second is %s here", register.name, name)
        return other, name

    async def _read(self, link: DaemonLink, stream: DaemonMessages) -> None:
        while (message := await stream.receive()) is not None:
            link.heard_at = time.time()
            match message:
                case messages.Heartbeat():
                    link.heartbeat = message
                    self._handle(events.HeartbeatCame(link.id))
                case messages.JobRefused():
                    error = convert.error_from_wire(message.error)
                    self._lose(message.job_id, error)
                case messages.CapabilitiesChanged():
                    capabilities, complaints = convert.capabilities_from_wire(message.capabilities)
                    for complaint in complaints:
                        log.warning("daemon %s reports nonsense: %s", link.name, complaint)
                    link.register.capabilities = message.capabilities
                    self._handle(events.CapabilitiesCame(link.id, capabilities))
                case messages.Draining():
                    log.info("daemon %s drains: %s", link.name, message.reason)
                    self._handle(events.DrainAsked(link.id, draining=True))

    async def _write(self, link: DaemonLink, stream: DaemonMessages) -> None:
        while (instruction := await link.outbox.get()) is not None:
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

    # ------------------------------------------------------------------------------------------ the relays' side

    def place(self, job_id: str, need: Need, avoid: frozenset[str]) -> JobSlot:
        """Reserves a place for a job and tells the daemon. Raises `NoPlacement` with every daemon's reason."""
        instructions = self.ledger.handle(events.JobWanted(job_id, need, avoid), time.monotonic())
        for instruction in instructions:
            match instruction:
                case events.Start(_, placement):
                    loop = asyncio.get_running_loop()
                    slot = JobSlot(job_id, placement, loop.create_future(), loop.create_future())
                    self._slots[job_id] = slot
                    self._post(placement.daemon_id, instruction)
                    return slot
                case events.Refuse(_, refusal):
                    raise NoPlacement(refusal.reason, words(refusal.considered))
        raise AssertionError("the ledger neither placed nor refused")

    async def open(self, slot: JobSlot) -> JobOutputs:
        """The job's stream, once the daemon has dialled in. Raises `JobError`."""
        either: set[asyncio.Future[Any]] = {slot.stream, slot.lost}
        done, _ = await asyncio.wait(either, timeout=WORK_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if slot.lost in done:
            raise slot.lost.result()
        if slot.stream not in done:
            name = self.name_of(slot.placement.daemon_id)
            raise JobError(ErrorCode.STALLED, f"{name} did not start the job within {WORK_WITHIN_S:g} s")
        self._handle(events.JobAcked(slot.id))
        return slot.stream.result()

    def release(self, slot: JobSlot, *, failed: bool, cancel: str = "") -> None:
        """The job is over: its capacity is free. `cancel` tells the daemon so, with this reason."""
        slot.done.set()
        if not slot.stream.done():
            slot.stream.cancel()
        if slot.lost.done():
            slot.lost.exception()
        self._slots.pop(slot.id, None)
        self._handle(events.JobEnded(slot.id))
        if link := self.links.get(slot.placement.daemon_id):
            link.jobs_failed += failed
            link.jobs_done += not failed
        if cancel:
            self._post(slot.placement.daemon_id, events.Cancel(slot.placement.daemon_id, slot.id, cancel))

    def name_of(self, daemon_id: str) -> str:
        link = self.links.get(daemon_id)
        return link.name if link else daemon_id

    def drain(self, daemon_id: str, *, draining: bool) -> None:
        """Gives a daemon no new jobs, or jobs again. Raises `NotFound`."""
        if daemon_id not in self.ledger.daemons:
            raise NotFound(f"no daemon {daemon_id}")
        self._handle(events.DrainAsked(daemon_id, draining))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for link in self.links.values():
            link.cut.set()

    # ------------------------------------------------------------------------------------------ carrying out

    def _handle(self, event: events.Event) -> None:
        for instruction in self.ledger.handle(event, time.monotonic()):
            match instruction:
                case events.Lost(job_id, code, reason):
                    self._lose(job_id, JobError(code, reason))
                case events.Cancel(daemon_id):
                    self._post(daemon_id, instruction)
        self.links = {key: link for key, link in self.links.items() if key in self.ledger.daemons}
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self.ledger.deadline()) is not None:
            delay = max(0.0, deadline - time.monotonic()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._handle, events.TimePassed())

    def _lose(self, job_id: str, error: JobError) -> None:
        if (slot := self._slots.get(job_id)) and not slot.lost.done():
            slot.lost.set_result(error)

    def _post(self, daemon_id: str, instruction: events.Instruction) -> None:
        link = self.links.get(daemon_id)
        if link is None:
            return
        try:
            link.outbox.put_nowait(instruction)
        except asyncio.QueueFull:
            log.error("daemon %s does not read its messages: cut off", link.name)
            link.cut.set()
