"""The role `tvarr ffmpegd`: finds its ffmpeg, learns what it can do, and works for a coordinator or for anybody."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from tvarr.cluster.model import Capabilities, JobSpec
from tvarr.errors import ConfigError, ErrorCode, JobError
from tvarr.ffmpeg.locate import FfmpegBinary, find_ffmpeg
from tvarr.ffmpegd import describe
from tvarr.ffmpegd.attach import Attachment
from tvarr.ffmpegd.capacity import Capacity
from tvarr.ffmpegd.copying import run_with_copies
from tvarr.ffmpegd.fetch import FetchJob
from tvarr.ffmpegd.job import Job, JobStream
from tvarr.ffmpegd.listen import ListenService
from tvarr.ffmpegd.work import Jobs, ObservedStream
from tvarr.hwaccel.capabilities import detect
from tvarr.hwaccel.stats import StatsReader
from tvarr.tls import ServerCertificate, server_certificate, trust
from tvarr.wire import convert, messages
from tvarr.wire.protocol import Endpoint, parse_endpoint
from tvarr.wire.server import Server, serve_ffmpegd

log = logging.getLogger(__name__)

LEAVE_WITHIN_S = 5.5
"""From SIGTERM on, jobs have this long to be moved or to end by themselves. With what ending the others takes
(`work.END_WITHIN_S`) and a goodbye it is less than `background.STOP_LIMIT_S`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FfmpegdOptions:
    """What the role needs of its configuration. Empty text: not set; None: decided by the machine."""

    coordinator_url: str  # as `tvarr.wire.protocol.parse_endpoint` takes it
    auth_token: str
    name: str
    max_jobs: int | None
    max_cpu_jobs: int | None
    gpu_max_sessions: int | Mapping[str, int] | None
    listen: tuple[str, int] | None  # host and port
    metrics_listen: tuple[str, int] | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    ffmpeg: str
    work_dir: Path


async def run(options: FfmpegdOptions, *, token_now: Callable[[], str] | None = None) -> int:
    """Works until it is cancelled, then takes its leave; returns the exit code where it ends itself.

    It leaves when none of its jobs is left: the coordinator moves its own away, clients' may end by themselves. After
    `LEAVE_WITHIN_S`, and at once where nobody moves them, those that are left are ended with SHUTTING_DOWN.

    `token_now` reads the token again where it stands in a file: after a refusal it may be another.

    SIGUSR1 retires it: the same without the hurry. It ends with code 0 when its last job was moved or has ended.

    Raises `ConfigError` for an address or token that can't be used and `StartError` without a usable ffmpeg or where
    the port is taken.
    """
    retired = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, retired.set)
    endpoint = _endpoint(options)
    if options.listen and not options.auth_token:
        raise ConfigError("--listen needs --auth-token, which its clients then show")
    certificate = server_certificate(options.tls_cert, options.tls_key)
    ffmpeg = await asyncio.to_thread(find_ffmpeg, options.ffmpeg or None)
    log.info("using ffmpeg %s at %s (%s)", ffmpeg.version, ffmpeg.path, ffmpeg.found)
    async with AsyncExitStack() as stack:
        daemon = Daemon(options, ffmpeg, await _capabilities(options, ffmpeg, cached=True))
        stack.callback(daemon.close)
        if options.metrics_listen:
            await daemon.monitor(stack, *options.metrics_listen)
        if options.listen:
            await daemon.listen(stack, *options.listen, certificate)
        attached = daemon.attach(stack, endpoint, token_now) if endpoint else None
        stack.push_async_callback(daemon.leave)
        if attached is None and not options.listen:
            log.warning("connected to nothing: give --coordinator-url, or --listen to serve clients directly")
        asked = asyncio.create_task(retired.wait(), name="wait for SIGUSR1")
        stack.callback(asked.cancel)
        await asyncio.wait({asked} if attached is None else {asked, attached}, return_when=asyncio.FIRST_COMPLETED)
        if attached is not None and attached.done():
            attached.result()  # ended by a defect, which then ends the role
        await daemon.retire()
    return 0


def _endpoint(options: FfmpegdOptions) -> Endpoint | None:
    if not options.coordinator_url:
        return None
    endpoint = parse_endpoint(options.coordinator_url)
    believed = trust(options.tls_ca) if endpoint.tls is not None else None
    endpoint = replace(endpoint, token=options.auth_token or endpoint.token, tls=believed)
    if not endpoint.token:
        raise ConfigError("--coordinator-url takes grpc://TOKEN@host:port, or host:port beside --auth-token")
    return endpoint


async def _capabilities(options: FfmpegdOptions, ffmpeg: FfmpegBinary, *, cached: bool) -> Capabilities:
    capabilities = await detect(
        ffmpeg,
        gpu_max_sessions=options.gpu_max_sessions,
        max_jobs=options.max_jobs,
        max_cpu_jobs=options.max_cpu_jobs,
        cache_dir=options.work_dir if cached else None,
    )
    usable = sum(encoder.usable for encoder in capabilities.encoders)
    log.info("%d of %d encoders work, %d GPUs", usable, len(capabilities.encoders), len(capabilities.gpus))
    return describe.without_software(capabilities) if options.max_cpu_jobs == 0 else capabilities


class Daemon:
    """One running daemon: its jobs, and whom it works for."""

    def __init__(self, options: FfmpegdOptions, ffmpeg: FfmpegBinary, capabilities: Capabilities) -> None:
        self._options = options
        self._ffmpeg = ffmpeg
        self._id = describe.daemon_id(options.name, options.work_dir)
        self._instance_id = str(uuid4())
        self._jobs = Jobs(Capacity(capabilities), self._run_job)
        self._stats = StatsReader(capabilities.gpus, capabilities.pools)
        self._reading = asyncio.Lock()
        self._attachment: Attachment | None = None
        self._server: Server | None = None

    def attach(
        self, stack: AsyncExitStack, endpoint: Endpoint, token_now: Callable[[], str] | None = None
    ) -> asyncio.Task[None]:
        """Works for a coordinator until the stack is left."""
        self._attachment = Attachment(endpoint, self._jobs, self._register, self._heartbeat, token_now=token_now)
        task = asyncio.create_task(self._attachment.run(), name="attachment to the coordinator")
        stack.push_async_callback(_cancelled, task)
        return task

    async def listen(self, stack: AsyncExitStack, host: str, port: int, certificate: ServerCertificate | None) -> None:
        """Serves clients until the stack is left. Raises `StartError` where the port can't be had."""
        service = ListenService(
            self._jobs, daemon_id=self._id, name=self._options.name, heartbeat=self._heartbeat, probe=self._probe
        )
        self._server = await serve_ffmpegd(service, host, port, self._options.auth_token, certificate)
        stack.push_async_callback(self._server.stop)
        log.info("serving clients on port %d", self._server.port)

    async def monitor(self, stack: AsyncExitStack, host: str, port: int) -> None:
        """Serves metrics and health until the stack is left. Raises `StartError` where the port can't be had."""
        from tvarr.ffmpegd import monitor  # with its HTTP server it is a fifth of what starting takes

        port = await monitor.serve(
            stack,
            self._jobs,
            host,
            port,
            attached=self._attached,
            ready=lambda: bool(self._options.listen) or self._attached(),
        )
        log.info("metrics on port %d", port)

    def _attached(self) -> bool:
        return self._attachment is not None and self._attachment.attached

    async def retire(self) -> None:
        """Takes no more jobs, and waits until all that are here were moved or have ended, however long that takes."""
        await self._take_leave(JobError(ErrorCode.SHUTTING_DOWN, "the daemon retires"))
        await self._jobs.ended(None, moved=True)

    async def leave(self) -> None:
        """Waits for the jobs to end, as far as anybody ends them, and ends the others."""
        reason = JobError(ErrorCode.SHUTTING_DOWN, "the daemon shuts down")
        told = await self._take_leave(reason)
        await self._jobs.ended(LEAVE_WITHIN_S, moved=told)
        await self._jobs.close(reason)

    async def _take_leave(self, reason: JobError) -> bool:
        """Refuses jobs from now on; returns whether a coordinator was told to move those that are here."""
        self._jobs.refuse(reason)
        if self._server is not None:
            await self._server.leave()
        return self._attachment is not None and await self._attachment.leave(str(reason))

    def close(self) -> None:
        self._stats.close()

    async def _run_job(self, spec: JobSpec, stream: ObservedStream) -> None:
        async def work(worked_on: JobSpec, inner: JobStream) -> None:
            await Job(worked_on, inner, self._ffmpeg, self._jobs.capacity.capabilities).run()

        if spec.fetch is not None:
            await FetchJob(spec, stream, self._ffmpeg, self._jobs.capacity.capabilities).run()
        else:
            await run_with_copies(spec, stream, work)

    def _register(self) -> messages.Register:
        return describe.register(
            daemon_id=self._id,
            instance_id=self._instance_id,
            name=self._options.name,
            capabilities=self._jobs.capacity.capabilities,
            jobs=self._jobs.ordered(),
        )

    async def _heartbeat(self, sequence: int) -> messages.Heartbeat:
        async with self._reading:
            stats = await asyncio.to_thread(self._stats.read, self._jobs.capacity.own_sessions())
        return describe.heartbeat(stats, self._jobs.active(), sequence)

    async def _probe(self) -> Capabilities:
        """Tries every encoder again and tells the coordinator where something has changed."""
        capacity = self._jobs.capacity
        found = await _capabilities(self._options, self._ffmpeg, cached=False)
        known, capacity.capabilities = capacity.capabilities, found
        if (found.gpus, found.pools) != (known.gpus, known.pools):
            async with self._reading:
                self._stats.close()
                self._stats = StatsReader(found.gpus, found.pools)
        if found != known and self._attachment:
            await self._attachment.changed(convert.capabilities_to_wire(found))
        return found


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
