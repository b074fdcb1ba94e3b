"""The jobs of one daemon: admitted, run, counted, ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tvarr import memory
from tvarr.background import log_ids
from tvarr.cluster.model import JobSpec
from tvarr.errors import ErrorCode, JobError, TvarrError
from tvarr.ffmpegd import metrics
from tvarr.ffmpegd.capacity import Capacity
from tvarr.wire import convert, messages
from tvarr.wire.client import dial_work
from tvarr.wire.codec import JobInputItem, JobOutputItem
from tvarr.wire.protocol import FIRST_MESSAGE_WITHIN_S, PROTOCOL_VERSION, Endpoint
from tvarr.wire.streams import JobInputs

log = logging.getLogger(__name__)

END_WITHIN_S = 2.0  # jobs that are ended have this long to end their ffmpeg and to say so
LAST_WORDS_WITHIN_S = 1.0  # a job that failed has this long to say so
_ASKED_FOR = frozenset({ErrorCode.CANCELLED, ErrorCode.SHUTTING_DOWN})


class ObservedStream:
    """A job's stream that remembers what heartbeats tell of what went out.

    `on_end` is called before the last word leaves: ffmpeg has ended by then, and who hears the word may at once ask
    for what the job held.
    """

    def __init__(
        self, stream: JobInputs, on_ack: Callable[[messages.TranscodeAck], None], on_end: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._on_ack = on_ack
        self._on_end = on_end
        self.stats: messages.TranscodeStats | None = None
        self.ended = False  # whether the last word was said
        self._counter = metrics.StatsCounter()

    async def receive(self) -> JobInputItem | None:
        return await self._stream.receive()

    async def send(self, item: JobOutputItem) -> None:
        if isinstance(item, messages.TranscodeStats):
            self.stats = item
            self._counter.take(item)
        elif isinstance(item, messages.TranscodeAck):
            self._on_ack(item)
        elif isinstance(item, messages.TranscodeError | messages.OutputComplete):
            self.ended = True
            self._on_end()
            await self._stream.send_last(item)
            return
        await self._stream.send(item)


RunJob = Callable[[JobSpec, ObservedStream], Awaitable[None]]
"""Runs one job to its end. Raises `JobError` where it fails; ends its ffmpeg when it is cancelled."""


@dataclass(slots=True)
class RunningJob:
    """One job from its admission to its end."""

    id: str
    encoder: str
    device: str
    task: asyncio.Task[None]
    client: bool = False  # of a client that dialled us, not of the coordinator
    started_at: float = field(default_factory=time.monotonic)
    stream: ObservedStream | None = None
    ending: JobError | None = None  # why it was ended from here

    def message(self, now: float) -> messages.ActiveJob:
        stats = self.stream.stats if self.stream else None
        return messages.ActiveJob(
            job_id=self.id,
            encoder=self.encoder,
            device=self.device,
            speed=stats.speed if stats else 0.0,
            fps=stats.fps if stats else 0.0,
            age_s=now - self.started_at,
        )


class Jobs:
    """Runs jobs, each in a task of its own; the count is bounded by `Capacity`."""

    def __init__(self, capacity: Capacity, run_job: RunJob) -> None:
        self.capacity = capacity
        self._run_job = run_job
        self.freed = asyncio.Event()  # set when a job has ended; whoever tells about it clears it
        self._running: dict[str, RunningJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of running jobs, and of those that say their last word
        self._closing: JobError | None = None

    def active(self) -> list[messages.ActiveJob]:
        """Every job that runs, clients' included."""
        now = time.monotonic()
        return [job.message(now) for job in self._running.values()]

    def ordered(self) -> list[messages.ActiveJob]:
        """Those that the coordinator ordered: it ends what it does not know."""
        now = time.monotonic()
        return [job.message(now) for job in self._running.values() if not job.client]

    def start(self, start: messages.StartJob, endpoint: Endpoint, daemon_id: str) -> None:
        """Admits a job of the coordinator and dials `Work` for it. Raises `JobError` where a limit forbids it."""
        if self._closing:
            raise self._closing
        self.capacity.claim(start.job_id, start.encoder, start.device)
        task = asyncio.create_task(self._work(start.job_id, endpoint, daemon_id), name=f"job {start.job_id}")
        self._add(RunningJob(start.job_id, start.encoder, start.device, task))

    async def serve(self, spec: JobSpec, stream: JobInputs) -> None:
        """Runs a job of a client that dialled us, to its end. Raises `JobError` where a limit forbids it."""
        if self._closing:
            raise self._closing
        spec = self.capacity.claim_for(spec)
        with log_ids(job_id=spec.job_id):
            task = asyncio.create_task(self._run(spec, stream), name=f"job {spec.job_id}")
        self._add(RunningJob(spec.job_id, spec.encoder, spec.device, task, client=True))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            self.cancel(spec.job_id, JobError(ErrorCode.CONNECTION_LOST, "the client is gone"))
            await asyncio.wait({task}, timeout=END_WITHIN_S)
            raise

    def cancel_ordered(self, job_id: str, error: JobError) -> None:
        """As `cancel`, for the coordinator, whose word ends no client's job."""
        if (job := self._running.get(job_id)) and not job.client:
            self.cancel(job_id, error)

    def cancel(self, job_id: str, error: JobError) -> None:
        """Ends a job, which says `error` as its last word; nothing where it has ended already."""
        job = self._running.get(job_id)
        if job is not None and job.ending is None:
            job.ending = error
            job.task.cancel()

    def refuse(self, error: JobError) -> None:
        """Takes no more jobs: whoever asks gets `error`."""
        self._closing = error

    async def ended(self, within_s: float | None, *, moved: bool) -> None:
        """Waits until the jobs that are here have ended, or the time is over; None: however long it takes.

        `moved`: the coordinator takes its jobs elsewhere; else only those of clients are waited for.
        """
        if tasks := [job.task for job in self._running.values() if moved or job.client]:
            limit = "" if within_s is None else f", or in {within_s:g} s"
            log.info("leaving when %d jobs have ended%s", len(tasks), limit)
            await asyncio.wait(tasks, timeout=within_s)

    async def close(self, error: JobError) -> None:
        """Ends every job and waits until their ffmpeg processes are gone."""
        self.refuse(error)
        tasks = list(self._tasks)
        for job_id in list(self._running):
            self.cancel(job_id, error)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_WITHIN_S)
            running = {job.task for job in self._running.values()}
            for task in late:
                task.cancel()  # most have said their last word, and the coordinator has not taken it
                if task in running:
                    log.error("%s did not end in time", task.get_name())

    def _add(self, job: RunningJob) -> None:
        self._running[job.id] = job
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)
        job.task.add_done_callback(lambda task: self._ended(job))

    def _ended(self, job: RunningJob) -> None:
        """The job holds nothing any more; another of its id may be here already."""
        if self._running.get(job.id) is job:
            del self._running[job.id]
            self.capacity.release(job.id)
            self.freed.set()

    def _note_decoder(self, job: RunningJob, ack: messages.TranscodeAck) -> None:
        if ack.device and ack.decoder not in {"", "software"}:
            self.capacity.decodes_on(job.id, ack.device)

    async def _work(self, job_id: str, endpoint: Endpoint, daemon_id: str) -> None:
        """One job of the coordinator, on a connection that is dialled for it."""
        with log_ids(job_id=job_id):
            try:
                async with dial_work(endpoint) as stream:
                    await stream.send(
                        messages.WorkOpen(job_id=job_id, daemon_id=daemon_id, protocol_version=PROTOCOL_VERSION)
                    )
                    spec = await self._first(job_id, stream)
                    await self._run(spec, stream)
            except TvarrError as error:
                log.warning("job did not start: %s", error)
            except Exception:
                log.exception("job failed by a defect")

    async def _first(self, job_id: str, stream: JobInputs) -> JobSpec:
        """What the job is; a job that makes no sense is answered with an error."""
        try:
            async with asyncio.timeout(FIRST_MESSAGE_WITHIN_S):
                start = await stream.receive()
        except TimeoutError:
            raise JobError(ErrorCode.STALLED, f"no TranscodeStart within {FIRST_MESSAGE_WITHIN_S:g} s") from None
        try:
            if not isinstance(start, messages.TranscodeStart):
                raise JobError(ErrorCode.BAD_REQUEST, f"{type(start).__name__} came instead of TranscodeStart")
            spec = convert.start_from_wire(start)
            job = self._running[job_id]
            if (spec.job_id, spec.encoder, spec.device) != (job.id, job.encoder, job.device):
                raise JobError(ErrorCode.BAD_REQUEST, "TranscodeStart names another job or encoder than StartJob did")
        except JobError as error:
            await stream.send(convert.error_to_wire(error))
            raise
        return spec

    async def _run(self, spec: JobSpec, stream: JobInputs) -> None:
        """Runs one job and says its last word, whatever ends it."""
        job = self._running[spec.job_id]
        job.stream = observed = ObservedStream(
            stream, lambda ack: self._note_decoder(job, ack), lambda: self._ended(job)
        )
        if spec.fetch is not None:
            log.info("job fetches a source by %s:", spec.fetch.scheme)
        else:
            log.info("job starts with %s", spec.encoder or "no video encoder")
        try:
            await self._run_job(spec, observed)
            if observed.ended:
                log.info("job ended: all of its output was sent")
                metrics.JOBS.labels("completed").inc()
                return
            reason = JobError(ErrorCode.CANCELLED, "stopped by the other side")
        except JobError as error:
            reason = error
        except asyncio.CancelledError:
            if job.ending is None:
                raise
            reason = job.ending
        except Exception as error:  # noqa: BLE001 - the root of a job, and told
            reason = _how_it_failed(error)
        metrics.JOBS.labels(reason.code.value).inc()
        level = logging.INFO if reason.code in _ASKED_FOR else logging.WARNING
        log.log(level, "job ended: %s (%s)", reason, reason.code.value)
        if not observed.ended:
            with suppress(TvarrError, TimeoutError):
                async with asyncio.timeout(LAST_WORDS_WITHIN_S):
                    await observed.send(convert.error_to_wire(reason))


def _how_it_failed(error: Exception) -> JobError:
    if memory.is_short(error):
        return JobError(ErrorCode.OUT_OF_MEMORY, f"the daemon has no {memory.what_lacks(error)} left for it")
    log.error("job failed by a defect", exc_info=error)
    return JobError(ErrorCode.INTERNAL, f"{type(error).__name__} in the daemon: {error}")
