"""The Python API for programs that use a daemon directly (`tvarr ffmpegd --listen`).

    async with connect("grpc://TOKEN@127.0.0.1:9091") as daemon:
        print(daemon.name, [encoder.name for encoder in daemon.capabilities.encoders if encoder.usable])
        with open("in.ts", "rb") as file:
            tracks, samples = read_ts(file)
            (video, *_), (sound, *_) = tracks.of_kind(Kind.VIDEO), tracks.of_kind(Kind.AUDIO)
            targets = [Target(video, Codec.H264, height=720, bitrate_kbps=2000), copy(sound)]
            async for sample in daemon.transcode(samples, targets):
                print(sample.track, sample.pts_ticks / TICKS_PER_SECOND, len(sample.data))

Shapes and units are those of `Sample` and `Track`: time stamps in ticks of 90 kHz, on one timeline for all tracks, that
never jump; `data` is one access unit (Annex B for H.264 and HEVC, ADTS for AAC). `proto/README.md` describes what
travels. Everything that goes wrong is a `TvarrError`: `ConfigError` for an address that can't be used, `Refused` for a
wrong token or another protocol version, `InvalidRequest` for what the daemon can't read, and `JobError`, with a code,
for a job that failed and for a connection that broke.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tvarr import __version__
from tvarr.cluster.model import Capabilities, Encoder, JobSpec, Source, Target
from tvarr.errors import ConfigError, ErrorCode, InvalidRequest, JobError, MediaError, Refused, TvarrError
from tvarr.media.batching import Batcher
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.mpegts.mux import Muxer
from tvarr.media.timeline import Timeline
from tvarr.tls import trust
from tvarr.wire import convert, messages
from tvarr.wire.client import Calls, dial_transcode
from tvarr.wire.codec import Batch, JobInputItem
from tvarr.wire.messages import Heartbeat, TranscodeAck, TranscodeStats
from tvarr.wire.protocol import Endpoint, parse_endpoint
from tvarr.wire.streams import JobOutputs

__all__ = [
    "TICKS_PER_SECOND",
    "Capabilities",
    "Codec",
    "ConfigError",
    "Daemon",
    "Encoder",
    "ErrorCode",
    "Heartbeat",
    "InvalidRequest",
    "JobError",
    "Kind",
    "MediaError",
    "Refused",
    "Sample",
    "Target",
    "Track",
    "Tracks",
    "Transcode",
    "TranscodeAck",
    "TranscodeStats",
    "TsWriter",
    "TvarrError",
    "connect",
    "copy",
    "read_ts",
]

READ_BYTES = 256 * 1024
STOP_WITHIN_S = 1.0  # a job that is left early has this long to hear of it


@asynccontextmanager
async def connect(address: str, *, client_name: str = "", tls_ca: Path | None = None) -> AsyncIterator[Daemon]:
    """A daemon at `grpc://TOKEN@host:port`, or `grpcs://` for TLS; says hello and learns what it can do.

    `tls_ca` is a PEM file with the authorities to trust, or the daemon's own certificate; None: the machine's.

    Raises `ConfigError`, `Refused`, and `JobError` with `CONNECTION_LOST` where nobody answers.
    """
    endpoint = parse_endpoint(address, what="the daemon's address")
    if endpoint.tls is not None:
        endpoint = replace(endpoint, tls=trust(tls_ca))
    calls = Calls(endpoint)
    try:
        reply = await calls.register(client_name or f"tvarr.client/{__version__}")
        yield Daemon(endpoint, calls, reply)
    finally:
        await calls.close()


class Daemon:
    """A daemon that answers. `id` is a UUID, `name` is for people, `version` is that of its software."""

    def __init__(self, endpoint: Endpoint, calls: Calls, reply: messages.RegisterReply) -> None:
        self._endpoint = endpoint
        self._calls = calls
        self.id = reply.daemon_id
        self.name = convert.clean(reply.name)
        self.version = convert.clean(reply.version)
        self.capabilities: Capabilities = convert.capabilities_from_wire(reply.capabilities)[0]

    async def stats(self) -> Heartbeat:
        """What it does now: host, GPUs, session pools, jobs. Units are in the names of the fields."""
        return await self._calls.get_stats()

    async def probe(self, max_age_s: float = 0.0) -> Capabilities:
        """Tries its encoders again, which takes seconds; not where the last trial is younger than `max_age_s`."""
        answer = await self._calls.probe(max_age_s)
        self.capabilities = convert.capabilities_from_wire(answer)[0]
        return self.capabilities

    def transcode(
        self,
        samples: Iterable[Sample] | AsyncIterable[Sample],
        targets: Sequence[Target],
        *,
        encoder: str = "",
        device: str = "",
        hw_accel: str = "auto",
        first_keyframe_ticks: int | None = None,
        full_speed: bool | None = None,
        job_id: str = "",
    ) -> Transcode:
        """A job, which runs while it is iterated over: `async for sample in daemon.transcode(...)`.

        `samples` are in decode order within each track and interleaved by time; those of tracks without a target are
        dropped by the daemon. `targets` says what becomes of each track: `Target(track, Codec.HEVC, ...)`, or
        `copy(track)`. `encoder` is FFmpeg's name of the video encoder and `device` its `Gpu.id`; where they are empty
        the daemon chooses by `hw_accel`: "auto", "none", or a family like "nvenc". A keyframe is forced at the first
        picture at or after `first_keyframe_ticks`. `full_speed`: samples come as fast as they are taken; None: they do
        where they come from a plain iterable, such as a file's.
        """
        spec = JobSpec(
            job_id,
            tuple(targets),
            encoder=encoder,
            device=device,
            hw_accel=hw_accel,
            first_keyframe_ticks=first_keyframe_ticks,
            full_speed=not isinstance(samples, AsyncIterable) if full_speed is None else full_speed,
        )
        return Transcode(self._endpoint, spec, samples)

    def fetch(
        self, url: str, *, user_agent: str = "", headers: Sequence[tuple[str, str]] = (), program: int | None = None
    ) -> Transcode:
        """A source that the daemon reads over the network, as it is: `async for sample in daemon.fetch("srt://...")`.

        `capabilities.protocols` has the schemes of URLs that the daemon reads. `headers` and `user_agent` are for HTTP;
        `program` is an MPEG-TS program number, None the first that can be played. Samples are put on a timeline that
        never jumps; `tracks` are known when the first of them is here, and may change.
        """
        source = Source(url, user_agent, tuple(headers), program)
        return Transcode(self._endpoint, JobSpec("", (), fetch=source), None)


class Transcode:
    """One job. Iterating over it runs it: once, to its end, or until the loop is left, which stops it.

    Samples come in decode order within each track, on the input's timeline and under its track ids. Iterating raises
    `JobError` where the job fails, and whatever the input raises.
    """

    def __init__(
        self, endpoint: Endpoint, spec: JobSpec, samples: Iterable[Sample] | AsyncIterable[Sample] | None
    ) -> None:
        """`samples`: None where the daemon fetches its input."""
        self.ack: TranscodeAck | None = None  # what encodes and decodes; from the first sample on
        self.tracks: tuple[Track, ...] = ()  # of the output, as far as they are known
        self.stats: TranscodeStats | None = None  # the latest, about one a second
        self._endpoint = endpoint
        self._spec = spec
        self._input = samples
        self._timeline = None if samples is not None else Timeline()
        self._failure: Exception | None = None  # of the input

    async def __aiter__(self) -> AsyncGenerator[Sample]:
        async with dial_transcode(self._endpoint) as stream:
            feeding = asyncio.create_task(self._feed(stream), name="input of a transcode")
            complete = False
            try:
                while (item := await stream.receive()) is not None:
                    match item:
                        case Batch():
                            for sample in self._placed(item.samples):
                                yield sample
                        case TranscodeAck():
                            self.ack = item
                            self._set_tracks(convert.tracks_from_wire(item.tracks))
                        case messages.TracksChanged():
                            self._set_tracks(convert.tracks_from_wire(item.tracks))
                        case TranscodeStats():
                            self.stats = item
                        case messages.TranscodeError():
                            complete = True
                            raise self._failure or convert.error_from_wire(item)
                        case messages.OutputComplete():
                            complete = True
            finally:
                feeding.cancel()
                await asyncio.wait({feeding})
                if not complete:
                    with suppress(TvarrError, TimeoutError):
                        async with asyncio.timeout(STOP_WITHIN_S):
                            await stream.send(messages.TranscodeStop(reason="the client wants no more"))

    def _set_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        if self._timeline is not None:
            self._timeline.set_tracks(Tracks(tracks))

    def _placed(self, samples: list[Sample]) -> Iterable[Sample]:
        """A fetched source has its own clock; all other output is on the input's timeline already."""
        timeline = self._timeline
        return samples if timeline is None else filter(None, map(timeline.map, samples))

    async def _feed(self, stream: JobOutputs) -> None:
        """Sends the input. Where that fails, the job is stopped, and whoever iterates gets the reason."""
        try:
            if not await self._sent(stream, convert.start_to_wire(self._spec)) or self._input is None:
                return
            number = 0
            async for samples in _batches(self._input, self._spec):
                if not await self._sent(stream, Batch(samples, number)):
                    return
                number += len(samples)
            await self._sent(stream, messages.InputComplete())
        except Exception as error:  # noqa: BLE001 - the root of a task, and told to whoever iterates
            self._failure = error
            await self._sent(stream, messages.TranscodeStop(reason="the client's input failed"))

    async def _sent(self, stream: JobOutputs, item: JobInputItem) -> bool:
        """False where the stream is over, which its reader hears of. Raises `JobError` for what can't be written."""
        try:
            await stream.send(item)
        except TvarrError:
            if stream.failure is None and not stream.ended:
                raise
            return False
        return True


def copy(track: Track) -> Target:
    """The target of a track whose samples pass as they are."""
    return Target(track, track.codec, copy=True)


async def _batches(samples: Iterable[Sample] | AsyncIterable[Sample], spec: JobSpec) -> AsyncIterator[list[Sample]]:
    """Batches of at most `spec.batch_bytes`, or one sample. Those of an async iterable wait at most `batch_age_s`."""
    batcher = Batcher(spec.batch_bytes, spec.batch_age_s)
    if not isinstance(samples, AsyncIterable):
        for sample in samples:
            for batch in batcher.push(sample, 0.0):
                yield batch
    else:
        iterator = aiter(samples)
        coming = asyncio.ensure_future(anext(iterator, None))
        try:
            while True:
                deadline = batcher.deadline()
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait({coming}, timeout=left)
                if not done:
                    for batch in batcher.poll(time.monotonic()):
                        yield batch
                    continue
                if (coming_sample := coming.result()) is None:
                    break
                for batch in batcher.push(coming_sample, time.monotonic()):
                    yield batch
                coming = asyncio.ensure_future(anext(iterator, None))
        finally:
            coming.cancel()
    if rest := batcher.flush():
        yield rest


def read_ts(file: BinaryIO) -> tuple[Tracks, Iterator[Sample]]:
    """The tracks of an MPEG-TS file's first program, and its samples on a timeline that never jumps.

    Read bit by bit while the samples are taken. Raises `MediaError` where it is no MPEG-TS, or nothing is in it.
    """
    events = _events(file)
    tracks = next((event for event in events if isinstance(event, Tracks)), None)
    if tracks is None:
        raise MediaError("there is no program in this MPEG-TS")
    return tracks, _on_timeline(chain([tracks], events))


def _events(file: BinaryIO) -> Iterator[Event]:
    demuxer = Demuxer()
    while data := file.read(READ_BYTES):
        yield from demuxer.feed(data)
    yield from demuxer.flush()


def _on_timeline(events: Iterable[Event]) -> Iterator[Sample]:
    timeline = Timeline()
    for event in events:
        if isinstance(event, Tracks):
            timeline.set_tracks(event)
        elif (sample := timeline.map(event)) is not None:
            yield sample


class TsWriter:
    """Writes samples as MPEG-TS. `tracks` are those of the output: `Transcode.tracks`, once its first sample is here.

    Raises `CannotCarry`, a `MediaError`, for a track that MPEG-TS can't carry.
    """

    def __init__(self, file: BinaryIO, tracks: Sequence[Track]) -> None:
        self._file = file
        self._muxer = Muxer()
        self._muxer.set_tracks(Tracks(tuple(tracks)))

    def write(self, *samples: Sample) -> None:
        for chunk in self._muxer.mux(samples):
            self._file.write(chunk.data)
