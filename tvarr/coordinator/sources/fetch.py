"""Sources that a daemon fetches: a job that gives samples and takes none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from tvarr.background import log_ids
from tvarr.cluster.model import JobSpec, MoveKind, Need, Source
from tvarr.coordinator.daemons import Daemons, JobSlot
from tvarr.coordinator.run import LARGEST_SAMPLE_BYTES, Run
from tvarr.coordinator.source import SourceFailure, SourceSpec
from tvarr.errors import ErrorCode, JobError, NoPlacement, QueueTimeout
from tvarr.media.batching import QUICK_S
from tvarr.media.model import Event, Tracks
from tvarr.media.mpegts.receive import DemuxStats
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch, JobOutputItem
from tvarr.wire.streams import JobOutputs

log = logging.getLogger(__name__)

_OF_THE_SOURCE = frozenset({ErrorCode.SOURCE_DENIED, ErrorCode.BAD_INPUT, ErrorCode.FFMPEG_EXITED})
_OF_THE_JOB = frozenset({ErrorCode.UNSUPPORTED, ErrorCode.BAD_REQUEST})


class FetchedSource:
    """One connection of a daemon's: a `Media` for the intake."""

    def __init__(
        self, run: Run, daemons: Daemons, slot: JobSlot, stream: JobOutputs, on_bytes: Callable[[int], None]
    ) -> None:
        self._run = run
        self._daemons = daemons
        self._slot = slot
        self._stream = stream
        self._on_bytes = on_bytes
        self._bytes = 0
        self._tracks: Tracks | None = None
        self._moved: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._next: asyncio.Task[JobOutputItem | None] | None = None
        slot.on_move = self._move

    @property
    def stats(self) -> DemuxStats:
        """The daemon demuxes: what is known here is how much came."""
        return DemuxStats(bytes=self._bytes, packets=self._tracks is not None)

    def flush(self) -> list[Event]:
        return []

    async def read(self) -> list[Event] | None:
        """The next events; None at the end. Raises `JobError` where the job is lost, and `SourceFailure` where it must
        leave its daemon.
        """
        while True:
            item = await self._receive()
            match item:
                case Batch():
                    return self._samples(item)
                case messages.TracksChanged():
                    self._tracks = Tracks(convert.tracks_from_wire(item.tracks), item.program)
                    return [self._tracks]
                case messages.TranscodeAck():
                    self._run.ack, self._run.state = item, "running"
                    self._daemons.acked(self._slot)
                case messages.TranscodeStats():
                    self._run.reported(item)
                case messages.TranscodeError():
                    self._slot.said = True
                    raise convert.error_from_wire(item)
                case messages.OutputComplete():
                    self._slot.said = True
                    return None
                case _:
                    raise JobError(ErrorCode.CONNECTION_LOST, f"{self._run.daemon_name} closed the job's stream")

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    def _samples(self, batch: Batch) -> list[Event]:
        known = {track.id for track in self._tracks.tracks} if self._tracks is not None else set()
        size = 0
        for sample in batch.samples:
            if sample.track not in known or len(sample.data) > LARGEST_SAMPLE_BYTES:
                words = f"{self._run.daemon_name} sent a sample of no track, or of {len(sample.data) >> 20} MiB"
                raise JobError(ErrorCode.BAD_OUTPUT, words)
            size += len(sample.data)
        self._bytes += size
        self._on_bytes(size)
        return list(batch.samples)

    async def _receive(self) -> JobOutputItem | None:
        """What comes next; a cancelled call loses nothing."""
        if self._next is None:
            self._next = asyncio.create_task(self._stream.receive(), name=f"output of job {self._run.id}")
        waited: set[asyncio.Future[Any]] = {self._next, self._slot.lost, self._moved}
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._next in done:
            task, self._next = self._next, None
            return task.result()
        if self._slot.lost in done:
            raise self._slot.lost.result()
        raise SourceFailure(self._moved.result(), passing=True, at_once=True)

    def _move(self, kind: MoveKind, reason: str) -> None:
        """A live source can't be had twice: it is left here and connected to from elsewhere."""
        if kind is MoveKind.DRAIN and not self._moved.done():
            self._moved.set_result(f"it is fetched from elsewhere: {reason}")


class Fetcher:
    """Has daemons fetch one relay's source, by one job at a time."""

    def __init__(
        self, daemons: Daemons, *, name: str, source_id: str, policy: str, batch_age_s: float = QUICK_S
    ) -> None:
        """`name`: the channel's, for people. `policy`: an `ExhaustedPolicy` for when all daemons are busy.

        `batch_age_s`: for so long what comes may be gathered, once the source runs.
        """
        self.run: Run | None = None  # the present one, or the last
        self._name = f"{name}/source"
        self._daemons = daemons
        self._source_id = source_id
        self._policy = policy
        self._batch_age_s = batch_age_s
        self._work = uuid4().hex[:12]
        self._avoid: frozenset[str] = frozenset()  # who could not reach the source: others are asked first

    @asynccontextmanager
    async def open(
        self, spec: SourceSpec, *, full_speed: bool, on_bytes: Callable[[int], None]
    ) -> AsyncIterator[FetchedSource]:
        """One connection, by whichever daemon can, from here to the end of the block.

        `on_bytes` is told the size of what comes. Raises `SourceFailure`, also for a `JobError` of the block.
        """
        run = self.run = Run(self._name, self._daemons)
        need = Need((), policy=self._policy, source=self._source_id, protocol=spec.scheme)
        with log_ids(job_id=run.id):
            try:
                slot = await self._daemons.place(run.id, need, self._work, avoid=self._avoid)
            except (NoPlacement, QueueTimeout) as error:
                run.state = "ended"
                raise SourceFailure(f"no daemon fetches the source: {error}", answer=error) from error
            run.placed(slot)
            run.state = "starting"
            source: FetchedSource | None = None
            try:
                stream = await self._daemons.open(slot)
                await stream.send(convert.start_to_wire(_job(run.id, spec, full_speed, self._batch_age_s)))
                source = FetchedSource(run, self._daemons, slot, stream, on_bytes)
                yield source
            except JobError as error:
                run.remember(slot, error.code, str(error), error.stderr)
                self._daemons.failed(slot, error)
                self._avoid = frozenset()
                if error.code is ErrorCode.SOURCE_UNREACHABLE:
                    self._avoid = frozenset({slot.placement.daemon_id})
                raise failure_of(error, run.daemon_name) from error
            except BaseException as error:
                moved = isinstance(error, SourceFailure) and error.at_once
                reason = str(error) if isinstance(error, SourceFailure) else "nobody watches any more"
                run.remember(slot, "moved" if moved else "closed", reason)
                self._daemons.cancel(slot, reason)
                raise
            else:
                run.remember(slot, "finished", "the source ended")
                self._daemons.finished(slot)
                self._avoid = frozenset()
            finally:
                run.state = "ended"
                if source is not None:
                    await source.close()


def failure_of(error: JobError, daemon_name: str) -> SourceFailure:
    """What a job's end means for the source: whether to try again, and what viewers are told."""
    match error.code:
        case ErrorCode.SOURCE_GONE:
            return SourceFailure(str(error), gone=True)
        case ErrorCode.SOURCE_UNREACHABLE:
            return SourceFailure(str(error), passing=True)
        case code if code in _OF_THE_SOURCE:
            return SourceFailure(str(error))
        case code if code in _OF_THE_JOB:
            return SourceFailure(f"{daemon_name} can't fetch the source: {error}", answer=error)
    return SourceFailure(f"{daemon_name} fetches the source no more: {error}", passing=True, answer=error)


def _job(job_id: str, spec: SourceSpec, full_speed: bool, batch_age_s: float) -> JobSpec:
    url = spec.url.partition("#")[0]
    headers: Mapping[str, str] = spec.headers
    return JobSpec(
        job_id,
        (),
        full_speed=full_speed,
        batch_age_s=batch_age_s,
        fetch=Source(url, spec.user_agent, tuple(headers.items()), spec.program),
    )
