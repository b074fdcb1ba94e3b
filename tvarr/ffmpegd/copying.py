"""Tracks that a job only copies: their samples go around ffmpeg, and where nothing else is to do there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from tvarr.cluster.model import JobSpec
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpegd.job import STATS_S, JobStream
from tvarr.media.interleave import Interleaver
from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample, Track
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch, JobInputItem, JobOutputItem

Work = Callable[[JobSpec, JobStream], Awaitable[None]]


async def run_with_copies(spec: JobSpec, stream: JobStream, work: Work) -> None:
    """Runs a job, of which `work` does what is not copied. Raises `JobError` where it fails."""
    worked_on = tuple(target for target in spec.targets if not target.copy)
    if len(worked_on) == len(spec.targets):
        await work(spec, stream)
    elif worked_on:
        await work(replace(spec, targets=worked_on), Bypass(spec, stream))
    else:
        await _Copy(spec, stream).run()


@dataclass(slots=True)
class _Counts:
    samples: int = 0
    bytes: int = 0

    def add(self, samples: Iterable[Sample]) -> None:
        sizes = [len(sample.data) for sample in samples]
        self.samples += len(sizes)
        self.bytes += sum(sizes)


class Bypass:
    """A job's stream without its copied tracks, which join the output again by decode time.

    At most the interleaver's 16 MiB of them are held; over it the oldest leave early.
    """

    def __init__(self, spec: JobSpec, stream: JobStream) -> None:
        self._stream = stream
        self._copied: dict[int, Track] = {t.track.id: t.track for t in spec.targets if t.copy}
        self._interleaver = Interleaver(t.track.id for t in spec.targets if not t.copy)
        self._sending = asyncio.Lock()  # numbers are given in the order in which batches leave
        self._acknowledged = False
        self._copies = _Counts()
        self._sent = _Counts()

    async def receive(self) -> JobInputItem | None:
        """The next item with something for ffmpeg in it."""
        while True:
            item = await self._stream.receive()
            if isinstance(item, messages.TracksChanged):
                self._copied |= {t.id: t for t in convert.tracks_from_wire(item.tracks) if t.id in self._copied}
            if not isinstance(item, Batch):
                return item
            copied = [sample for sample in item.samples if sample.track in self._copied]
            if copied:
                self._copies.add(copied)
                await self._send([free for sample in copied for free in self._interleaver.push(sample)])
            if len(copied) < len(item.samples):
                return Batch([s for s in item.samples if s.track not in self._copied], item.sequence)

    async def send(self, item: JobOutputItem) -> None:
        match item:
            case Batch():
                await self._send([free for sample in item.samples for free in self._interleaver.push(sample)])
                return
            case messages.TranscodeAck():
                self._acknowledged = True
                item = replace(item, tracks=[*item.tracks, *self._copied_tracks()])
            case messages.TracksChanged():
                item = replace(item, tracks=[*item.tracks, *self._copied_tracks()])
            case messages.TranscodeStats():
                item = replace(
                    item,
                    input_samples=item.input_samples + self._copies.samples,
                    input_bytes=item.input_bytes + self._copies.bytes,
                    output_samples=self._sent.samples,
                    output_bytes=self._sent.bytes,
                )
            case messages.OutputComplete():
                await self._send(self._interleaver.flush())
                item = messages.OutputComplete(samples=self._sent.samples)
        await self._stream.send(item)

    async def _send(self, samples: list[Sample]) -> None:
        if not samples:
            return
        if not self._acknowledged:
            words = f"{self._interleaver.max_bytes} bytes of copied tracks came, and nothing to encode"
            raise JobError(ErrorCode.BAD_INPUT, words)
        async with self._sending:
            first = self._sent.samples
            self._sent.add(samples)
            await self._stream.send(Batch(samples, first))

    def _copied_tracks(self) -> list[messages.Track]:
        return [convert.track_to_wire(track) for track in self._copied.values()]


class _Copy:
    """A job that changes nothing: each batch goes back as it came, and nothing is held."""

    def __init__(self, spec: JobSpec, stream: JobStream) -> None:
        self._stream = stream
        self._tracks = {target.track.id: target.track for target in spec.targets}
        self._video = {number for number, track in self._tracks.items() if track.kind is Kind.VIDEO}
        self._began = self._told = time.monotonic()
        self._first_dts: int | None = None
        self._reached_ticks = 0  # of media time since the first sample
        self._first_output_s = 0.0
        self._counts = _Counts()
        self._frames = 0

    async def run(self) -> None:
        """To the end of the input, or until the other side stops it. Raises `JobError` where it fails."""
        while True:
            item = await self._stream.receive()
            match item:
                case Batch():
                    await self._pass_on([sample for sample in item.samples if sample.track in self._tracks])
                case messages.TracksChanged():
                    news = [track for track in convert.tracks_from_wire(item.tracks) if track.id in self._tracks]
                    self._tracks |= {track.id: track for track in news}
                    if self._counts.samples:
                        await self._stream.send(messages.TracksChanged(tracks=self._wire_tracks()))
                case messages.InputComplete():
                    await self._stream.send(messages.OutputComplete(samples=self._counts.samples))
                    return
                case messages.TranscodeStop():
                    return
                case None:
                    raise JobError(ErrorCode.CONNECTION_LOST, "the other side left in the middle of the job")
                case _:
                    raise JobError(ErrorCode.BAD_REQUEST, f"{type(item).__name__} came in the middle of the job")

    async def _pass_on(self, samples: list[Sample]) -> None:
        if not samples:
            return
        if self._first_dts is None:
            self._first_dts = samples[0].dts_ticks
            await self._stream.send(messages.TranscodeAck(tracks=self._wire_tracks()))
            self._first_output_s = time.monotonic() - self._began
        await self._stream.send(Batch(samples, self._counts.samples))
        self._counts.add(samples)
        self._frames += sum([sample.track in self._video for sample in samples])
        self._reached_ticks = max(self._reached_ticks, samples[-1].dts_ticks - self._first_dts)
        now = time.monotonic()
        if now - self._told >= STATS_S:
            self._told = now
            await self._stream.send(self._statistics(now - self._began))

    def _statistics(self, wall_s: float) -> messages.TranscodeStats:
        counts = self._counts
        return messages.TranscodeStats(
            frames=self._frames,
            fps=self._frames / wall_s,
            speed=self._reached_ticks / TICKS_PER_SECOND / wall_s,
            input_bytes=counts.bytes,
            output_bytes=counts.bytes,
            input_samples=counts.samples,
            output_samples=counts.samples,
            first_output_s=self._first_output_s,
        )

    def _wire_tracks(self) -> list[messages.Track]:
        return [convert.track_to_wire(track) for track in self._tracks.values()]
