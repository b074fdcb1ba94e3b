"""Jobs that go wrong or are stopped: stand-ins for ffmpeg that crash, hang, babble or refuse."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.fakes.ffmpeg_trial import TEXTS
from tests.ffmpeg.support import FFMPEGS, require, wait_until
from tests.ffmpegd.job_support import (
    COPY,
    NVENC,
    PICTURE,
    SPEC,
    VIDEO,
    Client,
    batches,
    binary,
    capabilities,
    children,
    pictures,
    running,
    transcode,
)
from tvarr.cluster.model import Gpu, JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.pipes import FIRST_ID
from tvarr.ffmpegd import job as job_module
from tvarr.ffmpegd import stall
from tvarr.ffmpegd.job import Job
from tvarr.media.model import Codec, Sample, Track
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch


async def failure(path: str, *, spec: JobSpec = SPEC, samples: list[Sample] | None = None, **more: object) -> JobError:
    with pytest.raises(JobError) as raised:
        await transcode(path, spec, batches(samples or pictures(20)), **more)  # type: ignore[arg-type]
    return raised.value


async def test_the_stand_in_that_copies_is_a_transcoder(stand_in: Callable[[str], str]) -> None:
    """So that the tests below fail for the reason they name."""
    sent = pictures(50)
    client = await transcode(stand_in(COPY), SPEC, batches(sent))
    assert client.samples() == sent
    assert client.received[-1] == messages.OutputComplete(samples=50)


@pytest.mark.parametrize("full_speed", [True, False])
async def test_pipes_that_the_kernel_keeps_small(
    full_speed: bool, stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with 16 jobs gets no larger ones (pipe(7), pipe-user-pages-soft). That they fill sooner costs no time."""
    granted = fcntl.fcntl

    def refused(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ and argument > 4096:
            raise PermissionError("Operation not permitted")
        return granted(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    sent = pictures(2000, 10_000)  # 300 times what a pipe holds
    spec = replace(SPEC, full_speed=full_speed, batch_age_s=0.5)
    client = await transcode(stand_in(COPY), spec, batches(sent), limit_s=15)
    assert client.samples() == sent


async def test_a_crash(stand_in: Callable[[str], str]) -> None:
    error = await failure(stand_in("os.read(0, 100)\nos.kill(os.getpid(), signal.SIGSEGV)"))
    assert (error.code, error.retry_elsewhere) == (ErrorCode.FFMPEG_EXITED, True)
    assert "SIGSEGV" in str(error)


async def test_the_last_words_are_kept(stand_in: Callable[[str], str]) -> None:
    words = "for n in range(99): print('line', n, file=sys.stderr)\n"
    words += "print(\"Unknown encoder 'mpeg2video'\", file=sys.stderr)\nsys.exit(8)"
    error = await failure(stand_in(words))
    assert error.code is ErrorCode.UNSUPPORTED
    assert len(error.stderr) == 40
    assert error.stderr[-1] == "Unknown encoder 'mpeg2video'"


async def test_what_came_before_a_crash_is_delivered(stand_in: Callable[[str], str]) -> None:
    body = "n = 0\nwhile n < 188 * 200:\n    d = os.read(0, 188)\n    n += len(d)\n    os.write(1, d)\nsys.exit(3)"
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(body)), capabilities())
    async with running(job, client) as task:
        collecting = asyncio.create_task(client.collect())
        feeding = asyncio.create_task(client.send_all(batches(pictures(500))))
        with pytest.raises(JobError, match="exit code 3"):
            await task
        feeding.cancel()
        collecting.cancel()
        await asyncio.gather(collecting, feeding, return_exceptions=True)
        client.drain()
    assert len(client.samples()) > 10


async def test_garbage_instead_of_output(stand_in: Callable[[str], str]) -> None:
    body = "import random\nwhile True: os.write(1, random.randbytes(65536))"
    error = await failure(stand_in(body))
    assert error.code is ErrorCode.FFMPEG_EXITED
    assert "MPEG-TS" in str(error)


async def test_an_end_before_the_input_has_ended(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in("sys.exit(0)")), capabilities())
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        with pytest.raises(JobError, match="before its input"):
            await asyncio.wait_for(task, 10)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("time.sleep(600)", id="reads nothing"),
        pytest.param("while os.read(0, 65536): pass\ntime.sleep(600)", id="reads all and says nothing"),
        pytest.param("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)", id="does not heed SIGTERM"),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
async def test_a_hang_is_noticed(
    stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, body: str, complete: bool
) -> None:
    monkeypatch.setattr(job_module, "STATS_S", 0.05)
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(body)), capabilities(), stall_s=0.4)
    async with running(job, client) as task:

        async def feed() -> None:
            for samples in batches(pictures(10_000, 100), 2):
                await client.send_samples(samples)
                await asyncio.sleep(0.01)

        feeding = asyncio.create_task(client.send_all([pictures(5)]) if complete else feed())
        with pytest.raises(JobError) as raised:
            await asyncio.wait_for(task, 10)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert raised.value.code is ErrorCode.STALLED


async def test_a_source_that_pauses_is_no_hang(stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "STATS_S", 0.02)
    monkeypatch.setattr(stall, "PAUSE_S", 0.1)
    body = "n = 0\nwhile d := os.read(0, 65536):\n    n += len(d)\n    if n > 200_000: os.write(1, d)\n"
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(body)), capabilities(), stall_s=0.3)
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        done, _ = await asyncio.wait({task}, timeout=0.8)
        assert not done, task


async def test_a_receiver_that_takes_nothing_stops_the_sender(
    stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flow control reaches through: what is under way is bounded, whatever is offered, and it is no hang of ffmpeg."""
    monkeypatch.setattr(job_module, "STATS_S", 0.05)
    client = Client(room=3)
    job = Job(SPEC, client.stream, binary(stand_in(COPY)), capabilities(), stall_s=1.5)
    offered = pictures(4000, 20_000)  # 80 MB
    async with running(job, client) as task:
        feeding = asyncio.create_task(client.send_all(batches(offered)))
        await wait_until(client.pipe.outbox.full)
        sent = -1
        while sent != client.sent:
            sent = client.sent
            await asyncio.sleep(0.3)
        assert not feeding.done()
        assert client.sent * 20_000 < 12 * 1024 * 1024
        done, _ = await asyncio.wait({task}, timeout=2.0)
        assert not done, task

        collecting = asyncio.create_task(client.collect())
        await asyncio.wait_for(task, 30)
        collecting.cancel()
        await asyncio.gather(feeding, collecting, return_exceptions=True)
        client.drain()
    assert client.samples() == offered


async def test_stop_ends_it_at_once_without_an_error(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in("time.sleep(600)")), capabilities())
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        await wait_until(lambda: bool(children()))
        await client.send(messages.TranscodeStop(reason="enough"))
        await asyncio.wait_for(task, 5)


async def test_an_other_end_that_leaves(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(COPY)), capabilities())
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        await client.hang_up()
        with pytest.raises(JobError) as raised:
            await asyncio.wait_for(task, 5)
    assert raised.value.code is ErrorCode.CONNECTION_LOST


async def test_an_other_end_that_half_closes_after_its_input_gets_everything(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in("time.sleep(0.2)\n" + COPY)), capabilities())
    async with running(job, client) as task:
        await client.send_all([pictures(5)])
        await client.hang_up()
        await asyncio.wait_for(task, 5)
        client.drain()
    assert client.samples() == pictures(5)


async def test_a_job_that_is_cancelled_leaves_no_process(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in("time.sleep(600)")), capabilities())
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        await wait_until(lambda: bool(children()))
        (child,) = children()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not psutil.pid_exists(child)


async def test_samples_after_the_end_of_the_input(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in("time.sleep(600)")), capabilities())
    async with running(job, client) as task:
        await client.send_all([pictures(5)])
        await client.send_samples(pictures(1))
        with pytest.raises(JobError, match="after InputComplete"):
            await asyncio.wait_for(task, 5)


async def test_nothing_that_can_be_decoded() -> None:
    path = require(FFMPEGS[0].values[0])
    samples = [s._replace(data=s.data[len(PICTURE) :]) for s in pictures(60, 4000)]
    error = await failure(path, samples=samples)
    assert error.code is ErrorCode.BAD_INPUT
    assert not error.retry_in_software


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (replace(SPEC, encoder="h264_none"), ErrorCode.UNSUPPORTED),
        (replace(SPEC, hw_accel="nvenc"), ErrorCode.UNSUPPORTED),
        (JobSpec("job", (Target(VIDEO, Codec.MPEG1VIDEO),)), ErrorCode.UNSUPPORTED),
        (JobSpec("job", (SPEC.targets[0], Target(Track(5, Codec.H264), Codec.H264))), ErrorCode.BAD_REQUEST),
    ],
)
async def test_what_can_not_be_done_is_said_before_anything_runs(
    stand_in: Callable[[str], str], spec: JobSpec, code: ErrorCode
) -> None:
    assert (await failure(stand_in(COPY), spec=spec)).code is code


async def test_decoding_falls_back_to_software_with_the_same_input(stand_in: Callable[[str], str]) -> None:
    """The device's decoder fails after it read some input: nothing of that is lost."""
    body = (
        "if '-hwaccel' in sys.argv:\n"
        "    os.read(0, 5000)\n"
        "    print('[mpeg2video @ 0x1] No decoder surfaces left', file=sys.stderr)\n"
        "    sys.exit(1)\n" + COPY
    )
    spec = JobSpec("job", (Target(VIDEO, Codec.H264),), encoder="h264_nvenc", device="GPU-1")
    sent = pictures(200)
    client = await transcode(stand_in(body), spec, batches(sent), encoders=[NVENC])
    # The stand-in copies MPEG-2, whatever was asked for, and its time stamps are what counts.
    assert client.samples() == sent
    acks = client.all_of(messages.TranscodeAck)
    assert [(a.encoder, a.device, a.decoder) for a in acks] == [("h264_nvenc", "GPU-1", "software")]


async def test_a_refused_session_is_told_at_once(stand_in: Callable[[str], str], tmp_path: Path) -> None:
    """Decoding in another way would ask the driver for the same session once more."""
    starts = tmp_path / "starts"
    body = f"open({str(starts)!r}, 'a').write('x')\nsys.stderr.write({TEXTS['nvenc full (new driver)']!r})\nsys.exit(1)"
    spec = JobSpec("job", (Target(VIDEO, Codec.H264),), encoder="h264_nvenc", device="GPU-1")
    error = await failure(stand_in(body), spec=spec, encoders=[NVENC])
    assert (error.code, error.retry_elsewhere, error.retry_in_software) == (ErrorCode.SESSION_LIMIT, True, True)
    assert starts.read_text() == "x"


async def test_falling_back_is_over_after_the_first_output(stand_in: Callable[[str], str]) -> None:
    body = "d = b''\nwhile len(d) < 30_000: d += os.read(0, 1 << 16)\nos.write(1, d)\ntime.sleep(0.3)\nsys.exit(1)"
    spec = JobSpec("job", (Target(VIDEO, Codec.H264),), encoder="h264_nvenc", device="GPU-1")
    error = await failure(stand_in(body), spec=spec, samples=pictures(200), encoders=[NVENC])
    assert "exit code 1" in str(error)


async def test_a_gpu_is_found_by_its_id(stand_in: Callable[[str], str]) -> None:
    body = "print('VISIBLE', os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr)\nsys.exit(1)"
    spec = JobSpec("job", (Target(VIDEO, Codec.H264),), encoder="h264_nvenc", device="GPU-1")
    client = Client()
    caps = replace(capabilities(NVENC), gpus=(Gpu("GPU-1", "a GPU", "nvidia"),))
    async with running(Job(spec, client.stream, binary(stand_in(body)), caps), client) as task:
        await client.send_samples(pictures(5))
        with pytest.raises(JobError) as raised:
            await asyncio.wait_for(task, 10)
    assert "VISIBLE GPU-1" in raised.value.stderr


async def test_tracks_that_change_before_the_start(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(COPY)), capabilities())
    async with running(job, client) as task:
        await client.send(messages.TracksChanged(tracks=[convert.track_to_wire(replace(VIDEO, width=720))]))
        await client.send_all([pictures(5)])
        await asyncio.wait_for(task, 10)
        client.drain()
    assert client.samples() == pictures(5)


async def test_tracks_that_change(stand_in: Callable[[str], str]) -> None:
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(COPY)), capabilities())
    async with running(job, client) as task:
        await client.send_samples(pictures(5))
        same = replace(VIDEO, width=720, height=576)
        await client.send(messages.TracksChanged(tracks=[convert.track_to_wire(same)]))
        await client.send_samples(pictures(5, first=10**9 + 5 * 3600))
        await wait_until(lambda: sum(len(b.samples) for b in drained(client)) >= 9)
        await client.send(messages.TracksChanged(tracks=[convert.track_to_wire(replace(VIDEO, codec=Codec.H264))]))
        with pytest.raises(JobError) as raised:
            await asyncio.wait_for(task, 5)
    assert raised.value.code is ErrorCode.BAD_INPUT
    assert "changed from mpeg2video to h264" in str(raised.value)


def drained(client: Client) -> list[Batch]:
    client.drain()
    return client.all_of(Batch)


async def test_sound_that_never_comes_holds_nothing_up(stand_in: Callable[[str], str]) -> None:
    body = "print('MAPS', sys.argv.count('-map'), file=sys.stderr)\n" + COPY + "sys.exit(1)"
    spec = JobSpec("job", (*SPEC.targets, Target(Track(301, Codec.MP2), Codec.AAC)))
    error = await failure(stand_in(body), spec=spec, samples=pictures(60))
    assert error.stderr[0] == "MAPS 1"


async def test_sound_that_begins_late_asks_for_another_start(stand_in: Callable[[str], str]) -> None:
    spec = JobSpec("job", (*SPEC.targets, Target(Track(301, Codec.MP2), Codec.AAC)))
    sent = pictures(60)
    late = Sample(301, sent[-1].pts_ticks, sent[-1].pts_ticks, b"x", True)
    error = await failure(stand_in(COPY), spec=spec, samples=[*sent, late])
    assert (error.code, error.retry_elsewhere) == (ErrorCode.BAD_INPUT, True)
    assert "track 301" in str(error)


async def test_statistics(stand_in: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "STATS_S", 0.05)
    body = (
        "fd = int(sys.argv[sys.argv.index('-progress') + 1].partition(':')[2])\n"
        "os.write(fd, b'frame=7\\nfps=25.0\\nspeed=1.5x\\nprogress=continue\\n')\n"
        "print('careful', file=sys.stderr, flush=True)\n" + COPY
    )
    client = Client()
    job = Job(SPEC, client.stream, binary(stand_in(body)), capabilities())
    async with running(job, client):
        await client.send_samples(pictures(20))

        def told() -> bool:
            client.drain()
            stats = client.all_of(messages.TranscodeStats)
            return bool(stats) and stats[-1].frames == 7 and stats[-1].output_samples > 10

        await wait_until(told)
    stats = client.all_of(messages.TranscodeStats)
    assert (stats[-1].fps, stats[-1].speed, stats[-1].input_samples) == (25.0, 1.5, 20)
    assert stats[-1].memory_bytes > 1_000_000
    assert 0 < stats[-1].first_output_s < 10
    assert [line for s in stats for line in s.warnings] == ["careful"]
    assert f"0:i:{FIRST_ID:#x}" in client.all_of(messages.TranscodeAck)[0].command
