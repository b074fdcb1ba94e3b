"""One transcode: samples from a stream into ffmpeg, and its output back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tvarr.cluster.fit import encoder_for
from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, JobSpec
from tvarr.errors import ErrorCode, JobError, MediaError
from tvarr.ffmpeg.command import Start, build, check, decoders, environment
from tvarr.ffmpeg.errors import Failure, classify
from tvarr.ffmpeg.locate import FfmpegBinary
from tvarr.ffmpeg.nap import Nap
from tvarr.ffmpeg.process import FfmpegProcess
from tvarr.ffmpegd.feed import Opening, Outlet, output_tracks
from tvarr.ffmpegd.run import Run
from tvarr.ffmpegd.stall import STALL_S, StallWatch
from tvarr.media.batching import QUICK_S, Batcher, Rhythm
from tvarr.media.model import Kind, Sample, Track, Tracks
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch, JobInputItem, JobOutputItem

log = logging.getLogger(__name__)

STATS_S = 1.0
FULL_SPEED_PAUSE_S = 0.250  # at most between two reads of ffmpeg's output, in which it gathers; live: see `_gather`
_WITH_ANY_DECODER = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.SESSION_LIMIT})
"""Errors that decoding in another way does not help. The session that the driver refused is the encoder's."""


class JobStream(Protocol):
    """A job's stream as the daemon sees it, whoever dialled it."""

    async def receive(self) -> JobInputItem | None: ...

    async def send(self, item: JobOutputItem) -> None: ...


class _Stopped(Exception):
    """The other side wants nothing more."""


@dataclass(slots=True)
class _Counts:
    input_samples: int = 0
    input_bytes: int = 0
    output_samples: int = 0
    output_bytes: int = 0
    first_output_s: float = 0.0


class Job:
    """Runs one transcode. `run` is called once.

    Bounds: what is held is at most `feed.OPENING_BYTES` before ffmpeg starts, `run.REPLAY_BYTES` before its first
    output, and then one batch each way beside the pipes. While ffmpeg's stdin is full nothing is received, and while
    the other side does not take output nothing is read: flow control reaches from end to end.
    """

    def __init__(
        self,
        spec: JobSpec,
        stream: JobStream,
        ffmpeg: FfmpegBinary,
        capabilities: Capabilities,
        *,
        stall_s: float = STALL_S,
    ) -> None:
        self.spec = spec
        self._stream = stream
        self._ffmpeg = ffmpeg
        self._capabilities = capabilities
        self._stall_s = stall_s
        self._counts = _Counts()
        self._started_at = time.monotonic()
        self._watch = StallWatch(stall_s)
        self._opening = Opening(spec)
        self._run: Run | None = None
        self._fed = asyncio.Event()  # input came
        self._begun = asyncio.Event()  # there is a run, or never will be
        self._missing: set[int] = set()  # tracks that ffmpeg was started without
        self._complete = False  # the input is
        self._tracks: tuple[Track, ...] = ()  # as the other side knows them
        self._acknowledged = False
        self._encoder: Encoder | None = None
        self._gpu: Gpu | None = None
        self._decoders: deque[str] = deque()  # that can be tried still, the present one first
        self._replay: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Runs to the end of the input, or until the other side stops it.

        Raises `JobError` with ffmpeg's last lines where it fails; the caller tells the other side. ffmpeg has ended
        when this returns, is cancelled or raises.
        """
        self._encoder, self._gpu = _encoder(self.spec, self._capabilities)
        check(self.spec, self._encoder)
        self._decoders.extend(decoders(self.spec, self._encoder))
        tasks = [
            asyncio.create_task(self._receive(), name=f"input of job {self.spec.job_id}"),
            asyncio.create_task(self._drain(), name=f"output of job {self.spec.job_id}"),
            asyncio.create_task(self._report(), name=f"statistics of job {self.spec.job_id}"),
        ]
        try:
            await self._first_end(tasks)
        except _Stopped:
            pass
        except JobError as error:
            raise self._with_stderr(error) from error
        finally:
            ending = [*tasks, self._replay] if self._replay else tasks
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            if self._run is not None:
                await self._run.process.stop()

    async def _first_end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Until the output is through, or the first of the tasks fails."""
        pending = set(tasks)
        while not tasks[1].done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _with_stderr(self, error: JobError) -> JobError:
        if error.stderr or self._run is None:
            return error
        return JobError(
            error.code,
            str(error),
            stderr=tuple(self._run.process.stderr.last),
            retry_elsewhere=error.retry_elsewhere,
            retry_in_software=error.retry_in_software,
        )

    # ------------------------------------------------------------------------------------------------ input

    async def _receive(self) -> None:
        while True:
            item = await self._stream.receive()
            match item:
                case Batch():
                    await self._take(item.samples)
                case messages.TracksChanged():
                    await self._change_tracks(convert.tracks_from_wire(item.tracks))
                case messages.InputComplete():
                    await self._finish()
                case messages.TranscodeStop():
                    raise _Stopped
                case None if self._complete:
                    return
                case None:
                    raise JobError(ErrorCode.CONNECTION_LOST, "the other side left in the middle of the job")
                case _:
                    raise JobError(ErrorCode.BAD_REQUEST, f"{type(item).__name__} came in the middle of the job")

    async def _take(self, samples: list[Sample]) -> None:
        if self._complete:
            raise JobError(ErrorCode.BAD_REQUEST, "samples came after InputComplete", retry_elsewhere=False)
        self._counts.input_samples += len(samples)
        self._counts.input_bytes += sum([len(sample.data) for sample in samples])
        if self._run is not None:
            self._watch.input_came(time.monotonic())
            if self._missing and (late := self._missing & {sample.track for sample in samples}):
                raise _changed(f"track {min(late)} began after the job had started without it")
            await self._run.give(samples)
            self._watch.input_taken(time.monotonic())
            self._fed.set()
            return
        self._opening.push(samples)
        if self._opening.ready:
            await self._begin()

    async def _finish(self) -> None:
        self._complete = True
        if self._run is None and self._opening.held:
            await self._begin()
        if self._run is not None:
            self._watch.input_ended(time.monotonic())
            await self._run.give(None)
        self._begun.set()
        self._fed.set()

    async def _change_tracks(self, tracks: Sequence[Track]) -> None:
        """A change that ffmpeg can follow by itself is passed on; any other ends the job, to be started anew."""
        news = {track.id: track for track in tracks}
        for target in self.spec.targets:
            track = news.get(target.track.id, target.track)
            if track.codec is not target.track.codec:
                raise _changed(f"track {track.id} changed from {target.track.codec} to {track.codec}")
            if target.deinterlace == "auto" and track.interlaced and not target.track.interlaced:
                raise _changed(f"the picture of track {track.id} is interlaced now")
        self.spec = replace(
            self.spec,
            targets=tuple(replace(t, track=news.get(t.track.id, t.track)) for t in self.spec.targets),
        )
        if self._run is not None:
            await self._run.give(tuple(target.track for target in self.spec.targets))

    async def _begin(self) -> None:
        spec, start = self._opening.begin()
        run = self._run = await self._start(spec, start)
        held, self._opening.held = self._opening.held, []
        self._missing = {t.track.id for t in self.spec.targets} - {t.track.id for t in spec.targets}
        if self._missing:
            log.warning("job starts without tracks %s: nothing came", sorted(self._missing))
        self._watch.input_came(time.monotonic())
        self._begun.set()
        await run.give(held)

    async def _start(self, spec: JobSpec, start: Start) -> Run:
        """Starts ffmpeg with the first of the decoders that are left."""
        decoder = self._decoders[0]
        process = await FfmpegProcess.start(
            lambda progress_fd: build(
                self._ffmpeg.path,
                spec,
                start,
                encoder=self._encoder,
                gpu=self._gpu,
                decoder=decoder,
                progress_fd=progress_fd,
            ),
            environment(self._encoder),
        )
        log.debug("ffmpeg is process %d", process.pid)
        return Run(process, spec, start, decoder, keeps=len(self._decoders) > 1)

    async def _acknowledge(self, run: Run) -> None:
        """Says once that the encoders are open; nothing else is said before it."""
        if self._acknowledged:
            return
        self._acknowledged = True  # whoever sends now waits behind it
        self._tracks = output_tracks(run.spec.targets)
        encoder = self._encoder
        await self._stream.send(
            messages.TranscodeAck(
                encoder=encoder.name if encoder else "",
                family=convert.family_to_wire(encoder.family) if encoder else messages.Family(0),
                device=encoder.device if encoder else "",
                decoder=run.decoder,
                command=shlex.join(run.process.command),
                tracks=[convert.track_to_wire(track) for track in self._tracks],
            )
        )

    # ------------------------------------------------------------------------------------------------ output

    async def _drain(self) -> None:
        """Sends what comes out, until everything did."""
        await self._begun.wait()
        while (run := self._run) is not None:
            await self._drain_process(run)
            code = await run.process.wait()
            if code == 0 and self._complete and (self._counts.output_samples or not self._counts.input_samples):
                break
            failure = self._failure(list(run.process.stderr.last), code)
            if not run.keeps or failure.code in _WITH_ANY_DECODER:
                raise failure.as_error(list(run.process.stderr.last))
            await self._fall_back(run, failure.message)
        await self._stream.send(messages.OutputComplete(samples=self._counts.output_samples))

    def _failure(self, stderr: list[str], code: int) -> Failure:
        if code != 0:
            return classify(stderr, code)
        if self._complete:
            return Failure(ErrorCode.BAD_INPUT, "nothing in the input could be decoded", False, False)
        return Failure(ErrorCode.FFMPEG_EXITED, "ffmpeg ended before its input", True, True)

    async def _fall_back(self, run: Run, reason: str) -> None:
        """Decoding on the device failed before anything came out: the same input goes through the next decoder."""
        failed = self._decoders.popleft()
        log.warning("decoding by %s failed (%s), trying %s", failed, reason, self._decoders[0])
        await run.process.stop()
        successor = await self._start(run.spec, run.start)
        successor.take_over(run)
        self._run = successor
        self._watch.input_came(time.monotonic())
        self._replay = asyncio.create_task(successor.pump(), name=f"replay of job {self.spec.job_id}")

    async def _drain_process(self, run: Run) -> None:
        """Sends what comes out of one process, until its end.

        What was read is sent at once, and then nothing is read for a while: output gathers in the pipe instead of
        here. Reading each of ffmpeg's writes would wake this process far more often, and it is wake-ups that a live
        stream costs. The more of the pipe that fills, the sooner it is read again: ffmpeg is not to wait.
        """
        outlet, batcher = Outlet(run.spec, run.start), Batcher(max_bytes=self.spec.batch_bytes)
        rhythm = Rhythm(QUICK_S, self.spec.batch_age_s)
        nap = Nap(QUICK_S, FULL_SPEED_PAUSE_S if self.spec.full_speed else self.spec.batch_age_s)
        data, gathered = b"-", False
        while data:
            data = await run.process.read()
            if gathered:
                nap.flowed(len(data) / run.process.stdout_bytes)
            if data:
                run.forget()
                await self._acknowledge(run)
            try:
                events = outlet.feed(data) if data else outlet.flush()
            except MediaError as error:
                raise JobError(ErrorCode.FFMPEG_EXITED, f"ffmpeg wrote something else than MPEG-TS: {error}") from error
            for event in events:
                if isinstance(event, Sample):
                    await self._send_all(batcher.push(event, 0.0))
                else:
                    await self._send_all([batcher.flush()])
                    await self._announce(event)
            await self._send_all([batcher.flush()])
            gathered = self._counts.output_samples > 0
            if gathered and data:
                await self._gather(nap.s, rhythm)

    async def _gather(self, nap_s: float, rhythm: Rhythm) -> None:
        """Waits, live for the next input: what came of the last one is then taken in the same wake-up."""
        if self.spec.full_speed:
            await asyncio.sleep(min(nap_s, QUICK_S) if self._complete else nap_s)
            return
        self._fed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(nap_s, rhythm.pause_s(time.monotonic()))):
                await self._fed.wait()

    async def _announce(self, tracks: Tracks) -> None:
        """Tells the tracks' real parameters, once they are known to be others than announced."""
        if tracks.tracks == self._tracks or not tracks.tracks:
            return
        self._tracks = tracks.tracks
        await self._stream.send(messages.TracksChanged(tracks=[convert.track_to_wire(t) for t in tracks.tracks]))

    async def _send_all(self, batches: Sequence[list[Sample]]) -> None:
        counts = self._counts
        for samples in batches:
            if not samples:
                continue
            if not counts.output_samples:
                counts.first_output_s = time.monotonic() - self._started_at
            self._watch.output_blocked = True
            await self._stream.send(Batch(samples, counts.output_samples))
            counts.output_samples += len(samples)
            counts.output_bytes += sum([len(sample.data) for sample in samples])
            self._watch.output_went(time.monotonic())

    # ------------------------------------------------------------------------------------------------ watching

    async def _report(self) -> None:
        """Statistics once a second, and an eye on whether anything moves."""
        while True:
            await asyncio.sleep(STATS_S)
            run = self._run
            if run is None:
                continue
            if run.process.encoders_open and not run.keeps:  # another way of decoding would open them again
                await self._acknowledge(run)
            if self._watch.stalled(time.monotonic(), input_blocked=run.blocked):
                words = f"input flows, and nothing came out for {self._stall_s:g} s"
                raise JobError(ErrorCode.STALLED, words, retry_in_software=self._in_hardware)
            if self._acknowledged:
                await self._stream.send(self._statistics(run.process))

    @property
    def _in_hardware(self) -> bool:
        return self._encoder is not None and self._encoder.family is not Family.SOFTWARE

    def _statistics(self, process: FfmpegProcess) -> messages.TranscodeStats:
        cpu_percent, memory_bytes = process.usage()
        counts, progress = self._counts, process.progress
        return messages.TranscodeStats(
            frames=progress.frames,
            fps=progress.fps,
            speed=progress.speed,
            cpu_percent=cpu_percent,
            memory_bytes=memory_bytes,
            input_bytes=counts.input_bytes,
            output_bytes=counts.output_bytes,
            input_samples=counts.input_samples,
            output_samples=counts.output_samples,
            first_output_s=counts.first_output_s,
            warnings=process.stderr.take_new(),
        )


def _changed(words: str) -> JobError:
    """The input is not any more what ffmpeg was started for; another start, here or elsewhere, can do it."""
    return JobError(ErrorCode.BAD_INPUT, words, retry_elsewhere=True)


def _encoder(spec: JobSpec, capabilities: Capabilities) -> tuple[Encoder | None, Gpu | None]:
    """The encoder of the picture and its GPU: the one that is named, else the best by `hw_accel`; None without video.

    Raises `JobError` where there is none, for the picture or for a sound.
    """
    chosen: Encoder | None = None
    for target in spec.targets:
        found = encoder_for(target, spec.hw_accel, capabilities)
        if target.track.kind is Kind.VIDEO and spec.encoder:
            named = (e for e in capabilities.encoders if (e.name, e.device) == (spec.encoder, spec.device))
            found = next(named, f"there is no encoder {spec.encoder} on {spec.device or 'this host'}")
        if isinstance(found, str):
            raise JobError(ErrorCode.UNSUPPORTED, found)
        if target.track.kind is Kind.VIDEO:
            chosen = found
    device = chosen.device if chosen else ""
    return chosen, next((gpu for gpu in capabilities.gpus if device and gpu.id == device), None)
