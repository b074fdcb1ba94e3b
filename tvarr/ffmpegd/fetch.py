"""One fetch: a source that ffmpeg reads over the network, and its samples to whoever asked."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress

from tvarr.cluster.model import Capabilities, JobSpec, Source
from tvarr.errors import ErrorCode, JobError, MediaError
from tvarr.ffmpeg.fetch import (
    UNDATED_SCHEMES,
    Stream,
    Way,
    build,
    check,
    first_way,
    hide,
    parse_stream,
    script,
    way_for,
)
from tvarr.ffmpeg.fetch_errors import classify_fetch
from tvarr.ffmpeg.locate import FfmpegBinary
from tvarr.ffmpeg.nap import Nap
from tvarr.ffmpeg.process import FfmpegProcess
from tvarr.ffmpegd.job import FULL_SPEED_PAUSE_S, STATS_S, JobStream
from tvarr.media.batching import QUICK_S, Batcher, Rhythm
from tvarr.media.decode_times import DecodeTimes
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Tracks, signed_33
from tvarr.media.mpegts.demux import Demuxer
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch

log = logging.getLogger(__name__)

SILENCE_S = 10.0  # a source that sends nothing for so long, at first or later, is given up
FIRST_SAMPLE_S = 15.0  # and one that sends only what can't be read for so long
REPORT_WITHIN_S = 2.0  # from ffmpeg's first output to what it says of the input, which it wrote before
MAX_STREAMS = 64  # of ffmpeg's report
MAX_REORDER_TICKS = 10 * TICKS_PER_SECOND  # a PTS further above its DTS is damaged, and the DTS is taken for it


class FetchJob:
    """Fetches one source over one connection at a time. `run` is called once.

    While the other side does not take what came, nothing is read from ffmpeg, and ffmpeg reads nothing from the source:
    what is held is one batch beside the pipes.
    """

    def __init__(
        self,
        spec: JobSpec,
        stream: JobStream,
        ffmpeg: FfmpegBinary,
        capabilities: Capabilities,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`spec.fetch` is the source."""
        assert spec.fetch is not None
        self.source: Source = spec.fetch
        self._spec = spec
        self._stream = stream
        self._ffmpeg = ffmpeg
        self._capabilities = capabilities
        self._silence_s = silence_s
        self._started_at = time.monotonic()
        self._process: FfmpegProcess | None = None
        self._tracks = Tracks(())
        self._acknowledged = False
        self._bytes = self._samples = self._sample_bytes = 0
        self._first_output_s = 0.0
        self._undated = self.source.scheme in UNDATED_SCHEMES
        self._times: dict[int, DecodeTimes] = {}  # by track, of one connection

    async def run(self) -> None:
        """Runs until the source has ended, or the other side stops it.

        Raises `JobError` with ffmpeg's last lines where the source can't be reached or read. ffmpeg has ended when this
        returns, is cancelled or raises.
        """
        check(self.source, self._capabilities.protocols)
        fetch = asyncio.create_task(self._fetch(), name=f"fetch of job {self._spec.job_id}")
        receive = asyncio.create_task(self._receive(), name=f"input of job {self._spec.job_id}")
        report = asyncio.create_task(self._report(), name=f"statistics of job {self._spec.job_id}")
        tasks = {fetch, receive, report}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end_process()

    async def _receive(self) -> None:
        """Returns when the other side wants nothing more."""
        while True:
            match item := await self._stream.receive():
                case messages.TranscodeStop():
                    return
                case messages.InputComplete():
                    continue
                case None:
                    raise JobError(ErrorCode.CONNECTION_LOST, "the other side left in the middle of the job")
                case _:
                    words = f"{type(item).__name__} came for a job that fetches its input"
                    raise JobError(ErrorCode.BAD_REQUEST, words, retry_elsewhere=False)

    # --------------------------------------------------------------------------------------------- fetching

    async def _fetch(self) -> None:
        """One way after the other, until one has brought the source to its end."""
        way: Way | None = first_way(self.source)
        while way is not None:
            way = await self._connection(way)
        await self._stream.send(messages.OutputComplete(samples=self._samples))

    async def _connection(self, way: Way) -> Way | None:
        """One connection to its end, or the way that fits the source better than this one."""
        self._times = {}
        reported: list[Stream] = []
        complete = asyncio.Event()
        process = await self._start(way, reported, complete)
        demuxer, batcher = Demuxer(program=self.source.program), Batcher(max_bytes=self._spec.batch_bytes)
        began_at = time.monotonic()
        rhythm = Rhythm(QUICK_S, self._spec.batch_age_s)
        nap = Nap(QUICK_S, FULL_SPEED_PAUSE_S if self._spec.full_speed else self._spec.batch_age_s)
        gathered = False
        while data := await self._read(process):
            if gathered:
                nap.flowed(len(data) / process.stdout_bytes)
            self._bytes += len(data)
            if not way.raw and not complete.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(complete.wait(), REPORT_WITHIN_S)
            if not way.raw and not way.streams and (better := way_for(reported)) != way:
                log.info("a codec of the source is encoded: %s", ", ".join(sorted({s.codec for s in better.streams})))
                await self._end_process()
                return better
            try:
                events = demuxer.feed(data)
            except MediaError as error:
                if not way.raw or self._samples:
                    raise JobError(ErrorCode.BAD_INPUT, f"what the source sends can't be read: {error}") from error
                log.info("the source sends no MPEG-TS (%s): ffmpeg looks for another format", error)
                await self._end_process()
                return Way()
            await self._send(events, batcher)
            if not self._samples and time.monotonic() - began_at > FIRST_SAMPLE_S:
                raise self._without_samples(demuxer)
            if gathered := self._samples > 0:
                rhythm_s = rhythm.pause_s(time.monotonic())
                await asyncio.sleep(nap.s if self._spec.full_speed else min(nap.s, rhythm_s))
        await self._send(demuxer.flush(), batcher)
        for times in self._times.values():
            await self._send_batches([times.flush()])
        code = await process.wait()
        if code != 0 or not self._samples:
            raise self._failure(process, code)
        await self._end_process()
        return None

    async def _start(self, way: Way, reported: list[Stream], complete: asyncio.Event) -> FfmpegProcess:
        def on_line(line: str) -> None:
            if complete.is_set():
                return
            if "Output #0" in line or "Stream mapping" in line:
                complete.set()
            elif (stream := parse_stream(line)) is not None and len(reported) < MAX_STREAMS:
                reported.append(stream)

        process = self._process = await FfmpegProcess.start(
            lambda fd: build(self._ffmpeg.path, self.source, way, encoder=self._encoder(), progress_fd=fd),
            on_line=on_line,
        )
        log.debug("ffmpeg is process %d", process.pid)
        await process.write(script(self.source, way))
        process.close_stdin()
        return process

    def _encoder(self) -> str:
        usable = {encoder.name for encoder in self._capabilities.encoders if encoder.usable}
        return next((name for name in ("libx264", "mpeg2video") if name in usable), "mpeg2video")

    async def _read(self, process: FfmpegProcess) -> bytes:
        try:
            async with asyncio.timeout(self._silence_s):
                return await process.read()
        except TimeoutError:
            began = "sent nothing" if self._bytes else "did not answer, or sent nothing,"
            words = f"the source {began} for {self._silence_s:g} s"
            raise JobError(ErrorCode.SOURCE_UNREACHABLE, words, stderr=self._lines(process)) from None

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    # --------------------------------------------------------------------------------------------- failures

    def _failure(self, process: FfmpegProcess, code: int) -> JobError:
        lines = self._lines(process)
        failure = classify_fetch(lines, code)
        if code == 0 and failure.code is ErrorCode.FFMPEG_EXITED:
            words = "the source ended before anything could be shown" if self._bytes else "the source sent nothing"
            return JobError(ErrorCode.SOURCE_GONE, words, stderr=lines)
        return failure.as_error(lines)

    def _without_samples(self, demuxer: Demuxer) -> JobError:
        words = "the source sends no table of programs (PAT, PMT): it can't be told what is in it"
        if demuxer.stats.scrambled:
            words = "the source is scrambled (DVB-CSA/CA); it needs a descrambler"
        elif self.source.program is not None:
            words = f"the source has no program {self.source.program}, or sends nothing of it"
        return JobError(ErrorCode.BAD_INPUT, words, retry_elsewhere=False)

    def _lines(self, process: FfmpegProcess) -> list[str]:
        return [hide(line, self.source) for line in process.stderr.last if "[info]" not in line]

    # --------------------------------------------------------------------------------------------- output

    async def _send(self, events: Sequence[Event], batcher: Batcher) -> None:
        for event in self._dated(events) if self._undated else events:
            if isinstance(event, Sample):
                await self._send_batches(batcher.push(_fit(event), 0.0))
            else:
                await self._send_batches([batcher.flush()])
                await self._announce(event)
        await self._send_batches([batcher.flush()])

    def _dated(self, events: Sequence[Event]) -> list[Event]:
        """The same with decode times for pictures."""
        dated: list[Event] = []
        for event in events:
            if isinstance(event, Tracks):
                video = {track.id for track in event.of_kind(Kind.VIDEO)}
                self._times = {track: self._times.get(track) or DecodeTimes() for track in video}
                dated.append(event)
            elif event.track in self._times:
                dated += self._times[event.track].push(event)
            else:
                dated.append(event)
        return dated

    async def _announce(self, tracks: Tracks) -> None:
        if tracks == self._tracks:
            return
        self._tracks = tracks
        wire = [convert.track_to_wire(track) for track in tracks.tracks]
        await self._acknowledge(wire)
        await self._stream.send(messages.TracksChanged(tracks=wire, program=tracks.program))

    async def _acknowledge(self, tracks: list[messages.Track]) -> None:
        if self._acknowledged or self._process is None:
            return
        self._acknowledged = True
        command = shlex.join(self._process.command)
        await self._stream.send(messages.TranscodeAck(command=command, tracks=tracks))

    async def _send_batches(self, batches: Sequence[list[Sample]]) -> None:
        for samples in batches:
            if not samples:
                continue
            if not self._samples:
                self._first_output_s = time.monotonic() - self._started_at
            await self._stream.send(Batch(samples, self._samples))
            self._samples += len(samples)
            self._sample_bytes += sum([len(sample.data) for sample in samples])

    async def _report(self) -> None:
        """Statistics, once a second."""
        while True:
            await asyncio.sleep(STATS_S)
            if (process := self._process) is None or not self._acknowledged:
                continue
            cpu_percent, memory_bytes = process.usage()
            warnings = [hide(line, self.source) for line in process.stderr.take_new() if "[info]" not in line]
            await self._stream.send(
                messages.TranscodeStats(
                    cpu_percent=cpu_percent,
                    memory_bytes=memory_bytes,
                    input_bytes=self._bytes,
                    output_bytes=self._sample_bytes,
                    output_samples=self._samples,
                    first_output_s=self._first_output_s,
                    warnings=warnings,
                )
            )


def _fit(sample: Sample) -> Sample:
    """A sample of 33-bit time stamps as it can travel: its decode time is not after the time at which it is shown."""
    reorder = signed_33(sample.pts_ticks - sample.dts_ticks)
    if not 0 <= reorder <= MAX_REORDER_TICKS:
        return sample._replace(pts_ticks=sample.dts_ticks)
    return sample._replace(dts_ticks=sample.pts_ticks - reorder)
