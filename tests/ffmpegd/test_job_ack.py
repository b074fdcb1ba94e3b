"""When a job says that it runs: once its encoders are open, not sooner, and before anything else."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.ffmpeg.support import FFMPEGS, require, wait_until
from tests.ffmpegd.job_support import (
    NVENC,
    SPEC,
    Client,
    Source,
    batches,
    binary,
    capabilities,
    children,
    make_ts,
    pictures,
    read_ts,
    running,
    transcode,
)
from tvarr.cluster.model import JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpegd import job as job_module
from tvarr.ffmpegd.job import Job
from tvarr.media.model import Codec, Kind
from tvarr.wire import messages

PROGRESS = "progress = int(sys.argv[sys.argv.index('-progress') + 1].partition(':')[2])\n"


@pytest.fixture(params=FFMPEGS)
def ffmpeg(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=3", "-f", "lavfi", "-i", "sine=f=440:r=48000:d=3"]
    codecs = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "50", "-c:a", "aac"]
    made = make_ts(require(FFMPEGS[0].values[0]), tmp_path_factory.mktemp("ack") / "source.ts", *inputs, *codecs)
    return read_ts(made, 900_000)


def acks(client: Client) -> list[messages.TranscodeAck]:
    client.drain()
    return client.all_of(messages.TranscodeAck)


@pytest.mark.parametrize("kinds", [(Kind.VIDEO,), (Kind.AUDIO,), (Kind.VIDEO, Kind.AUDIO)])
async def test_it_comes_first_and_once_with_the_command_that_runs(
    ffmpeg: str, source: Source, kinds: tuple[Kind, ...]
) -> None:
    """The source stops a second after it began: what is open by then is acknowledged all the same."""
    codecs = {Kind.VIDEO: Codec.H264, Kind.AUDIO: Codec.AC3}
    spec = JobSpec("job", tuple(Target(source.track(kind), codecs[kind]) for kind in kinds))
    client = Client()
    async with running(Job(spec, client.stream, binary(ffmpeg), capabilities()), client) as task:
        begin = [s for s in source.samples if s.dts_ticks < source.samples[0].dts_ticks + 90_000]
        await client.send_all(batches(begin), complete=False)
        await wait_until(lambda: bool(acks(client)), 10)
        (child,) = children()
        assert shlex.split(client.all_of(messages.TranscodeAck)[0].command) == psutil.Process(child).cmdline()
        await client.send_all(batches(source.samples[len(begin) :]))
        await asyncio.wait_for(task, 20)
    (ack,) = acks(client)
    assert client.received[0] is ack
    assert (ack.encoder, ack.decoder) == ("libx264" if Kind.VIDEO in kinds else "", "software")
    assert [track.id for track in ack.tracks] == [target.track.id for target in spec.targets]


async def test_an_encoder_that_can_not_be_opened_is_never_acknowledged(ffmpeg: str, source: Source) -> None:
    """Neither where decoding falls back to software: the encoder is the same."""
    spec = JobSpec("job", (Target(source.track(Kind.VIDEO), Codec.H264),), encoder="h264_nvenc", device="GPU-1")
    client = Client()
    job = Job(spec, client.stream, binary(ffmpeg), capabilities(NVENC))
    async with running(job, client) as task:
        feeding = asyncio.create_task(client.send_all(batches(source.samples)))
        with pytest.raises(JobError) as raised:
            await asyncio.wait_for(task, 20)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert raised.value.code in {ErrorCode.GPU_UNAVAILABLE, ErrorCode.DRIVER_TOO_OLD, ErrorCode.UNSUPPORTED}
    assert acks(client) == []


async def test_an_encoder_that_takes_its_time(
    stand_in: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ffmpeg runs and takes input, and says nothing until it has opened it; nor do we, statistics included."""
    monkeypatch.setattr(job_module, "STATS_S", 0.02)
    opened, took = tmp_path / "opened", tmp_path / "took"
    body = (
        "os.read(0, 188)\n" + f"open({str(took)!r}, 'w')\nwhile not os.path.exists({str(opened)!r}): time.sleep(0.01)\n"
    )
    body += "while d := os.read(0, 1 << 16): os.write(1, d)\n"
    client = Client()
    async with running(Job(SPEC, client.stream, binary(stand_in(body)), capabilities()), client):
        await client.send_samples(pictures(10))
        await wait_until(took.exists)
        await asyncio.sleep(0.2)
        client.drain()
        assert client.received == []
        opened.touch()
        await wait_until(lambda: bool(acks(client)))
        assert client.received[0] == acks(client)[0]


async def test_an_encoder_that_holds_pictures_back_is_open_when_progress_says_so(
    stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "STATS_S", 0.02)
    body = PROGRESS + "os.read(0, 188)\nos.write(progress, b'frame=0\\nprogress=continue\\n')\ntime.sleep(600)"
    client = Client()
    async with running(Job(SPEC, client.stream, binary(stand_in(body)), capabilities()), client):
        await client.send_samples(pictures(10))
        await wait_until(lambda: bool(acks(client)))


@pytest.mark.parametrize("last", ["end", "continue"])
async def test_progress_that_proves_nothing(
    stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """FFmpeg 9's last block comes where opening failed, too; and another way of decoding opens the encoder again."""
    monkeypatch.setattr(job_module, "STATS_S", 0.02)
    body = PROGRESS + f"os.write(progress, b'frame=0\\nprogress={last}\\n')\ntime.sleep(0.3)\nsys.exit(1)"
    encoders, spec = [], SPEC
    if last == "continue":
        encoders = [NVENC]
        spec = JobSpec("job", (Target(SPEC.targets[0].track, Codec.H264),), encoder="h264_nvenc", device="GPU-1")
        body = PROGRESS + (
            "if '-hwaccel' in sys.argv:\n"
            "    os.write(progress, b'frame=0\\nprogress=continue\\n')\n"
            "    time.sleep(0.3)\n"
            "sys.exit(1)"
        )
    client = Client()
    async with running(Job(spec, client.stream, binary(stand_in(body)), capabilities(*encoders)), client) as task:
        await client.send_samples(pictures(10))
        with pytest.raises(JobError):
            await asyncio.wait_for(task, 10)
    assert acks(client) == []


async def test_input_that_ends_before_it_began_needs_no_encoder(stand_in: Callable[[str], str]) -> None:
    client = await transcode(stand_in("sys.exit(1)"), SPEC, [])
    assert client.received == [messages.OutputComplete(samples=0)]
