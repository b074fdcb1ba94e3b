"""What tests of jobs share: sources, the other end of a job's stream, and jobs that run."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import subprocess
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil

from tests.ffmpeg.support import wait_until
from tvarr.cluster.model import Capabilities, Encoder, Family, JobSpec, Target
from tvarr.ffmpeg.families import AUDIO
from tvarr.ffmpeg.locate import FfmpegBinary, parse_version
from tvarr.ffmpegd.job import Job
from tvarr.media.model import Codec, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.timeline import Timeline
from tvarr.wire import messages
from tvarr.wire.codec import (
    Batch,
    JobInputItem,
    JobOutputItem,
    decode_job_output,
    encode_job_input,
)
from tvarr.wire.streams import JobInputs, connection_lost

ItemT = TypeVar("ItemT")

SOFTWARE = (
    Encoder("libx264", Codec.H264, Family.SOFTWARE),
    Encoder("libx265", Codec.HEVC, Family.SOFTWARE),
    Encoder("mpeg2video", Codec.MPEG2VIDEO, Family.SOFTWARE),
    Encoder("libaom-av1", Codec.AV1, Family.SOFTWARE),
    Encoder("libvpx-vp9", Codec.VP9, Family.SOFTWARE),
    *(Encoder(flags.encoder, codec, Family.SOFTWARE) for codec, flags in AUDIO.items()),
)


VIDEO = Track(300, Codec.MPEG2VIDEO)
PICTURE = bytes.fromhex("000001b3 14000b13 ffffe018 000001b8 00080000 00000100 000fffff")
SPEC = JobSpec("job", (Target(VIDEO, Codec.MPEG2VIDEO, bitrate_kbps=500),))
NVENC = Encoder("h264_nvenc", Codec.H264, Family.NVENC, "GPU-1")

COPY = "while d := os.read(0, 1 << 16):\n    os.write(1, d)\n"  # an ffmpeg that changes nothing


def capabilities(*encoders: Encoder) -> Capabilities:
    return Capabilities(encoders=(*encoders, *SOFTWARE))


def binary(path: str) -> FfmpegBinary:
    """An ffmpeg, or a stand-in for one, which is taken for 5.1."""
    banner = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    version, release = parse_version(banner.stdout) or ("stand-in", (5, 1, 0))
    return FfmpegBinary(path, version, release, "test")


def pictures(count: int, size: int = 1000, first: int = 10**9) -> list[Sample]:
    noise = random.Random(7).randbytes(size).replace(b"\0", b"\1")
    return [Sample(VIDEO.id, first + n * 3600, first + n * 3600, PICTURE + noise, True) for n in range(count)]


def batches(samples: list[Sample], size: int = 5) -> list[list[Sample]]:
    return [samples[n : n + size] for n in range(0, len(samples), size)]


@dataclass(frozen=True)
class Source:
    """Samples on a timeline, and the tracks that they belong to."""

    tracks: tuple[Track, ...]
    samples: list[Sample]

    def of(self, kind: Kind) -> list[Sample]:
        ids = {track.id for track in self.tracks if track.kind is kind}
        return [sample for sample in self.samples if sample.track in ids]

    def track(self, kind: Kind) -> Track:
        return next(track for track in self.tracks if track.kind is kind)

    def batches(self, size: int = 20) -> list[list[Sample]]:
        return [self.samples[n : n + size] for n in range(0, len(self.samples), size)]


def make_ts(ffmpeg: str, path: Path, *arguments: str) -> Path:
    subprocess.run(
        [ffmpeg, "-hide_banner", "-nostdin", "-v", "error", "-y", *arguments, str(path)], check=True, timeout=60
    )
    return path


def read_ts(path: Path, shift_ticks: int = 0) -> Source:
    """A file's video and audio on a relay's timeline, which begins at `shift_ticks`."""
    demuxer, timeline, tracks, samples = Demuxer(), Timeline(), Tracks(()), []
    for event in [*demuxer.feed(path.read_bytes()), *demuxer.flush()]:
        if isinstance(event, Tracks):
            tracks = event
            timeline.set_tracks(event)
        elif (sample := timeline.map(event)) is not None:
            samples.append(sample)
    start = min(sample.dts_ticks for sample in samples)
    moved = [
        s._replace(pts_ticks=s.pts_ticks - start + shift_ticks, dts_ticks=s.dts_ticks - start + shift_ticks)
        for s in samples
    ]
    playable = tuple(track for track in tracks.tracks if track.kind in (Kind.VIDEO, Kind.AUDIO))
    return Source(playable, [sample for sample in moved if sample.track in {track.id for track in playable}])


@dataclass
class Pipe:
    """The bytes of a gRPC call, without the network. `room` says how many messages the other side takes ahead."""

    room: int = 1000
    inbox: asyncio.Queue[bytes | object] = field(default_factory=lambda: asyncio.Queue(4))
    outbox: asyncio.Queue[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.outbox = asyncio.Queue(self.room)

    async def read(self) -> Any:
        return await self.inbox.get()

    async def write(self, message: bytes) -> None:
        await self.outbox.put(message)


class Client:
    """The other end of a job's stream: what it sends, and all that came back."""

    def __init__(self, room: int = 1000) -> None:
        self.pipe = Pipe(room)
        self.stream = JobInputs(self.pipe, lambda _: connection_lost("test"))
        self.sent = 0
        self.received: list[JobOutputItem] = []

    async def send(self, item: JobInputItem) -> None:
        await self.pipe.inbox.put(encode_job_input(item))

    async def send_samples(self, samples: list[Sample]) -> None:
        await self.send(Batch(samples, self.sent))
        self.sent += len(samples)

    async def send_all(self, batches: Iterable[list[Sample]], *, complete: bool = True) -> None:
        for samples in batches:
            await self.send_samples(samples)
        if complete:
            await self.send(messages.InputComplete())

    async def hang_up(self) -> None:
        await self.pipe.inbox.put(grpc.aio.EOF)

    async def collect(self) -> None:
        """Takes what comes back until it is cancelled."""
        while True:
            item = decode_job_output(await self.pipe.outbox.get())
            assert item is not None
            self.received.append(item)

    def drain(self) -> None:
        """Takes what has come back already."""
        while not self.pipe.outbox.empty():
            item = decode_job_output(self.pipe.outbox.get_nowait())
            assert item is not None
            self.received.append(item)

    def all_of(self, kind: type[ItemT]) -> list[ItemT]:
        return [item for item in self.received if isinstance(item, kind)]

    def samples(self) -> list[Sample]:
        """All that came back, checked for gaps in their sequence."""
        expected, samples = 0, list[Sample]()
        for batch in self.all_of(Batch):
            assert batch.sequence == expected
            samples += batch.samples
            expected += len(batch.samples)
        return samples

    def samples_of(self, track: Track) -> list[Sample]:
        return [sample for sample in self.samples() if sample.track == track.id]


@asynccontextmanager
async def running(job: Job, client: Client) -> AsyncIterator[asyncio.Task[None]]:
    """The job in a task; afterwards it has ended, and so has every ffmpeg."""
    before = set(children())
    task = asyncio.create_task(job.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.stream.close()
    await wait_until(lambda: set(children()) <= before)


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


async def transcode(
    ffmpeg: str,
    spec: JobSpec,
    batches: Sequence[list[Sample]],
    *,
    encoders: Sequence[Encoder] = (),
    limit_s: float = 60,
) -> Client:
    """Runs a whole job and returns what came back. Raises what the job raises."""
    client = Client()
    job = Job(spec, client.stream, binary(ffmpeg), capabilities(*encoders))
    async with running(job, client) as task:
        collecting = asyncio.create_task(client.collect())
        feeding = asyncio.create_task(client.send_all(batches))
        try:
            async with asyncio.timeout(limit_s):
                await task
        finally:
            feeding.cancel()
            collecting.cancel()
            await asyncio.gather(feeding, collecting, return_exceptions=True)
            client.drain()
    return client


def without_reorder_hint(sample: Sample) -> Sample:
    """The H.264 picture as broadcasters write it: the SPS does not say how many pictures are reordered.

    Cuts bitstream_restriction (ITU-T H.264, E.1.1), the last thing in x264's SPS, off it. Filler makes the picture as
    large as a broadcaster's, so that ffmpeg's short analysis sees no other.
    """
    units = sample.data.split(b"\x00\x00\x01")
    filler = b"\x00\x00\x01\x0c" + b"\xff" * 100_000 + b"\x80"
    return sample._replace(data=b"\x00\x00\x01".join(_cut(u) if u[:1] == b"\x67" else u for u in units) + filler)


def _cut(unit: bytes) -> bytes:
    payload = unit.rstrip(b"\x00")
    zeros = unit[len(payload) :]
    bits = "".join(f"{byte:08b}" for byte in payload.replace(b"\x00\x00\x03", b"\x00\x00")).rstrip("0")[:-1]

    def ue(value: int) -> str:
        code = f"{value + 1:b}"
        return "0" * (len(code) - 1) + code

    for vector, reorder, buffering in itertools.product(range(17), range(1, 5), range(1, 17)):
        restriction = "1" + "1" + ue(0) + ue(0) + ue(vector) + ue(vector) + ue(reorder) + ue(buffering)
        if bits.endswith(restriction):
            short = bits[: -len(restriction)] + "0" + "1"
            short += "0" * (-len(short) % 8)
            raw = bytes(int(short[n : n + 8], 2) for n in range(0, len(short), 8))
            return re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", raw) + zeros
    raise AssertionError("no bitstream_restriction at the end of the SPS")
