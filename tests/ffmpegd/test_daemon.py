"""The real daemon process, driven over the wire as a coordinator and as a third-party client would."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import program
from tvarr.cluster.model import JobSpec, Target
from tvarr.errors import ErrorCode, JobError, Refused
from tvarr.ffmpegd.app import LEAVE_WITHIN_S
from tvarr.media.model import Codec, Sample, Track
from tvarr.wire import codec, convert, messages
from tvarr.wire.protocol import PROTOCOL_VERSION
from tvarr.wire.server import AttachStream, JobStream, serve_coordinator
from tvarr.wire.streams import connection_lost
from tvarr.wire.v1 import ffmpegd_pb2

TOKEN = "a-token-of-this-test"
FRAME_TICKS = 3_600
FRAMES = 100
WITHIN_S = 30.0
_ACCESS_UNIT = re.compile(rb"\x00\x00\x00\x01\x09.*?(?=\x00\x00\x00\x01\x09|$)", re.DOTALL)


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    """100 pictures of H.264, a keyframe each second, from an hour into a timeline."""
    stream = subprocess.run(
        [
            *(program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=25"),
            *("-frames:v", str(FRAMES)),
            *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25"),
            *("-bsf:v", "h264_metadata=aud=insert", "-f", "h264", "-"),
        ],
        capture_output=True,
        check=True,
    ).stdout
    units = _ACCESS_UNIT.findall(stream)
    assert len(units) == FRAMES
    times = [324_000_000 + n * FRAME_TICKS for n in range(FRAMES)]
    return [Sample(256, t, t, unit, n % 25 == 0) for n, (t, unit) in enumerate(zip(times, units, strict=True))]


VIDEO = Track(256, Codec.H264, width=320, height=180, fps=25.0)


def job(job_id: str = "j1") -> JobSpec:
    target = Target(VIDEO, Codec.H264, bitrate_kbps=500, preset="ultrafast")
    return JobSpec(job_id, (target,), encoder="libx264", full_speed=True)


@dataclass
class Coordinator:
    """The coordinator's end in a test."""

    attached: asyncio.Queue[tuple[messages.Register, AttachStream]] = field(default_factory=asyncio.Queue)
    works: asyncio.Queue[JobStream] = field(default_factory=asyncio.Queue)
    answers: asyncio.Queue[messages.JobAccepted | messages.JobRefused] = field(default_factory=asyncio.Queue)
    beats: asyncio.Queue[messages.Heartbeat] = field(default_factory=asyncio.Queue)
    said: list[str] = field(default_factory=list)
    refusal: Refused | None = None  # of the next registration
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def attach(self, register: messages.Register, peer: str, stream: AttachStream) -> None:
        if self.refusal is not None:
            raise self.refusal
        await stream.send(messages.Registered(daemon_id=register.daemon_id, heartbeat_interval_s=0.2))
        self.attached.put_nowait((register, stream))
        while (item := await stream.receive()) is not None:
            if isinstance(item, messages.JobAccepted | messages.JobRefused):
                self.answers.put_nowait(item)
            elif isinstance(item, messages.Heartbeat):
                self.beats.put_nowait(item)
            else:
                self.said.append(type(item).__name__)
        self.said.append("goodbye")

    async def work(self, opened: messages.WorkOpen, stream: JobStream) -> None:
        self.works.put_nowait(stream)
        await self.done.wait()


async def begin(coordinator: Coordinator, attach: AttachStream, spec: JobSpec) -> JobStream:
    """Starts a job and returns its stream once ffmpeg's ack has come."""
    await attach.send(messages.StartJob(job_id=spec.job_id, encoder=spec.encoder, device=spec.device))
    assert await coordinator.answers.get() == messages.JobAccepted(job_id=spec.job_id)
    stream = await coordinator.works.get()
    await stream.send(convert.start_to_wire(spec))
    return stream


async def until(stream: JobStream, kind: type) -> object:
    while not isinstance(item := await stream.receive(), kind):
        assert item is not None
    return item


def ffmpegs(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with_name = process.name()
        if "ffmpeg" in with_name and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


async def gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=5)
    assert not alive


@dataclass
class Daemon:
    process: asyncio.subprocess.Process
    stderr: list[str] = field(default_factory=list)
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def listen(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            async with self.heard:
                self.stderr.append(line.decode())
                self.heard.notify_all()

    async def says(self, pattern: str) -> re.Match[str]:
        async with self.heard:
            while not (found := next((m for line in self.stderr if (m := re.search(pattern, line))), None)):
                await self.heard.wait()
        return found


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: trial encodes are remembered there."""
    program("ffmpeg")
    return tmp_path_factory.mktemp("work")


@asynccontextmanager
async def daemon(work_dir: Path, *flags: str) -> AsyncIterator[Daemon]:
    arguments = ["-m", "tvarr", "ffmpegd", "--work-dir", str(work_dir), "--name", "box", *flags]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.PIPE)
    running = Daemon(process)
    listening = asyncio.create_task(running.listen())
    try:
        async with asyncio.timeout(WITHIN_S):
            yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening
        assert not [line for line in running.stderr if "Traceback" in line], "".join(running.stderr)


@asynccontextmanager
async def pair(work_dir: Path, *flags: str) -> AsyncIterator[tuple[Coordinator, Daemon, AttachStream]]:
    """A daemon that is attached to the test's coordinator."""
    coordinator = Coordinator()
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    try:
        url = f"grpc://{TOKEN}@127.0.0.1:{server.port}"
        async with daemon(work_dir, "--coordinator-url", url, *flags) as running:
            register, stream = await coordinator.attached.get()
            capabilities, complaints = convert.capabilities_from_wire(register.capabilities)
            assert complaints == []
            assert any(e.name == "libx264" and e.verified for e in capabilities.encoders)
            yield coordinator, running, stream
    finally:
        coordinator.done.set()
        await server.stop()


async def test_a_job_from_its_start_to_its_last_picture(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await begin(coordinator, attach, job())
        for start in range(0, FRAMES, 10):
            await stream.send(codec.Batch(pictures[start : start + 10], start))
        await stream.send(messages.InputComplete())
        received: list[Sample] = []
        items: list[object] = []
        while (item := await stream.receive()) is not None:
            items.append(item)
            if isinstance(item, codec.Batch):
                assert item.sequence == len(received)
                received += item.samples
        assert isinstance(items[0], messages.TranscodeAck)
        assert items[0].encoder == "libx264"
        assert items[-1] == messages.OutputComplete(samples=len(received))
        assert sorted(s.pts_ticks for s in received) == [s.pts_ticks for s in pictures]
        assert received[0].keyframe
        assert {s.track for s in received} == {256}
        while (await coordinator.beats.get()).jobs:
            pass
        assert ffmpegs(running.process.pid) == []


async def test_metrics_of_a_job_that_runs_and_of_one_that_ended(work_dir: Path, pictures: list[Sample]) -> None:
    async with (
        pair(work_dir, "--metrics-listen", "127.0.0.1:0") as (coordinator, running, attach),
        ClientSession() as http,
    ):
        port = (await running.says(r"metrics on port (\d+)"))[1]

        async def metrics() -> dict[tuple[str, ...], float]:
            async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                families = list(text_string_to_metric_families(await answer.text()))
            return {(s.name, *sorted(s.labels.values())): s.value for f in families for s in f.samples}

        stream = await running_job(coordinator, attach, pictures)
        await until(stream, messages.TranscodeStats)
        async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200  # not before its registration was answered
        seen = await metrics()
        assert seen["tvarr_worker_up",] == seen["tvarr_worker_jobs",] == 1
        assert ("tvarr_job_speed_ratio", "j1", "libx264") in seen
        assert seen["tvarr_job_samples_total", "in"] == 50
        assert seen["tvarr_job_bytes_total", "in"] == sum(len(sample.data) for sample in pictures[:50])
        await stream.send(messages.TranscodeStop())
        await until(stream, messages.TranscodeError)
        while (await metrics()).get(("tvarr_jobs_total", "cancelled")) != 1:
            pass
        assert (await metrics())["tvarr_worker_jobs",] == 0


async def test_a_daemon_without_a_coordinator_lives_and_is_not_ready(work_dir: Path) -> None:
    async with daemon(work_dir, "--metrics-listen", "127.0.0.1:0") as running, ClientSession() as http:
        port = (await running.says(r"metrics on port (\d+)"))[1]
        for path, status in (("livez", 200), ("readyz", 503)):
            async with http.get(f"http://127.0.0.1:{port}/{path}") as answer:
                assert answer.status == status


async def test_a_port_for_metrics_that_is_taken(work_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with daemon(work_dir, "--metrics-listen", f"127.0.0.1:{port}") as running:
            assert await running.process.wait() == 1
            await running.says(rf"^tvarr: --metrics-listen 127.0.0.1:{port} can't be used: ")


async def running_job(coordinator: Coordinator, attach: AttachStream, pictures: list[Sample]) -> JobStream:
    """A job that has given its first output and is in a heartbeat; it has half of its input."""
    stream = await begin(coordinator, attach, job())
    await stream.send(codec.Batch(pictures[:50], 0))
    await until(stream, codec.Batch)
    while not (await coordinator.beats.get()).jobs:
        pass
    return stream


def leave(running: Daemon) -> float:
    running.process.send_signal(signal.SIGTERM)
    return time.monotonic()


async def gone_since(running: Daemon, began: float) -> float:
    """Seconds from SIGTERM to the end of the daemon, which was a clean one."""
    assert await running.process.wait() == 0
    return time.monotonic() - began


async def shut_down(stream: JobStream) -> None:
    error = await until(stream, messages.TranscodeError)
    assert isinstance(error, messages.TranscodeError)
    assert convert.error_from_wire(error).code is ErrorCode.SHUTTING_DOWN


async def test_sigterm_lets_the_coordinator_move_the_jobs(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await running_job(coordinator, attach, pictures)
        children = ffmpegs(running.process.pid)
        began = leave(running)
        await running.says("leaving when 1 jobs have ended")
        await attach.send(messages.StartJob(job_id="j2", encoder="libx264"))
        refused = await coordinator.answers.get()
        assert isinstance(refused, messages.JobRefused)
        assert convert.error_from_wire(refused.error).code is ErrorCode.SHUTTING_DOWN
        while not coordinator.beats.empty():
            coordinator.beats.get_nowait()
        assert [j.job_id for j in (await coordinator.beats.get()).jobs] == ["j1"]
        await stream.send(codec.Batch(pictures[50:], 50))
        newest = 0
        while newest <= pictures[50].pts_ticks:
            item = await until(stream, codec.Batch)
            assert isinstance(item, codec.Batch)
            newest = max(sample.pts_ticks for sample in item.samples)
        assert running.process.returncode is None
        moved = time.monotonic()
        await attach.send(messages.CancelJob(job_id="j1", reason="moved"))
        await until(stream, messages.TranscodeError)
        coordinator.done.set()
        assert await gone_since(running, moved) < LEAVE_WITHIN_S
        assert time.monotonic() - began < LEAVE_WITHIN_S
        await gone(children)
        assert coordinator.said == ["Draining", "goodbye"]


async def test_sigterm_ends_what_nobody_moved_with_a_reason(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await running_job(coordinator, attach, pictures)
        children = ffmpegs(running.process.pid)
        began = leave(running)
        await shut_down(stream)
        coordinator.done.set()
        assert LEAVE_WITHIN_S <= await gone_since(running, began) < LEAVE_WITHIN_S + 2.0
        await gone(children)
        assert coordinator.said == ["Draining", "goodbye"]


async def test_sigterm_waits_for_nobody_where_nobody_moves_jobs(work_dir: Path, pictures: list[Sample]) -> None:
    """The job's own stream still stands, but the daemon's does not come back."""
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await running_job(coordinator, attach, pictures)
        coordinator.refusal = Refused("not any more")
        attach.lose(connection_lost("test"))
        await running.says("the coordinator refuses this daemon: .*not any more")
        began = leave(running)
        await shut_down(stream)
        coordinator.done.set()
        assert await gone_since(running, began) < LEAVE_WITHIN_S


async def test_sigterm_without_a_job_is_the_end(work_dir: Path) -> None:
    async with pair(work_dir) as (coordinator, running, _):
        await coordinator.beats.get()
        assert await gone_since(running, leave(running)) < LEAVE_WITHIN_S
        assert coordinator.said == ["Draining", "goodbye"]


async def test_usr1_ends_it_with_its_last_job(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await running_job(coordinator, attach, pictures)
        running.process.send_signal(signal.SIGUSR1)
        await running.says("leaving when 1 jobs have ended$")  # and no word of a limit
        await attach.send(messages.StartJob(job_id="j2", encoder="libx264"))
        assert isinstance(await coordinator.answers.get(), messages.JobRefused)
        await stream.send(codec.Batch(pictures[50:], 50))
        await until(stream, codec.Batch)
        assert running.process.returncode is None
        moved = time.monotonic()
        await attach.send(messages.CancelJob(job_id="j1", reason="moved"))
        coordinator.done.set()
        assert await gone_since(running, moved) < LEAVE_WITHIN_S
        assert coordinator.said[-1] == "goodbye"


async def test_term_ends_one_that_waits_for_its_last_job(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await running_job(coordinator, attach, pictures)
        running.process.send_signal(signal.SIGUSR1)
        await running.says("leaving when 1 jobs have ended$")
        began = leave(running)
        await shut_down(stream)
        coordinator.done.set()
        assert await gone_since(running, began) < LEAVE_WITHIN_S + 2.0


async def test_kill_9_leaves_no_ffmpeg(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await begin(coordinator, attach, job())
        await stream.send(codec.Batch(pictures, 0))
        await until(stream, codec.Batch)
        children = ffmpegs(running.process.pid)
        assert len(children) == 1
        running.process.kill()
        with pytest.raises(JobError) as caught:
            await until(stream, messages.TranscodeError)
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        await gone(children)


async def test_a_cancelled_job_ends_and_its_place_is_free(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        for job_id in ("j1", "j2"):
            stream = await begin(coordinator, attach, job(job_id))
            await stream.send(codec.Batch(pictures, 0))
            await until(stream, codec.Batch)
            children = ffmpegs(running.process.pid)
            await attach.send(messages.CancelJob(job_id=job_id, reason="nobody watches"))
            error = await until(stream, messages.TranscodeError)
            assert isinstance(error, messages.TranscodeError)
            assert (error.code, error.message) == (messages.TranscodeErrorCode.CANCELLED, "nobody watches")
            assert await stream.receive() is None
            await gone(children)


async def test_a_job_ends_with_its_stream_and_the_daemon_lives(work_dir: Path, pictures: list[Sample]) -> None:
    async with pair(work_dir) as (coordinator, running, attach):
        stream = await begin(coordinator, attach, job())
        await stream.send(codec.Batch(pictures, 0))
        await until(stream, codec.Batch)
        children = ffmpegs(running.process.pid)
        assert len(children) == 1
        coordinator.done.set()
        await gone(children)
        while (await coordinator.beats.get()).jobs:
            pass


async def test_a_job_that_is_not_what_was_announced_is_refused(work_dir: Path) -> None:
    async with pair(work_dir) as (coordinator, _, attach):
        await attach.send(messages.StartJob(job_id="j1"))
        await coordinator.answers.get()
        stream = await coordinator.works.get()
        await stream.send(convert.start_to_wire(job()))
        error = await until(stream, messages.TranscodeError)
        assert isinstance(error, messages.TranscodeError)
        assert error.code == messages.TranscodeErrorCode.BAD_REQUEST


async def test_a_daemon_without_a_master_warns_and_stays_up(work_dir: Path) -> None:
    async with daemon(work_dir) as running:
        await running.says("WARNING .*connected to nothing")
        assert running.process.returncode is None
        running.process.send_signal(signal.SIGINT)
        assert await running.process.wait() == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (
            ("--coordinator-url", "127.0.0.1:9"),
            2,
            "--coordinator-url takes grpc://TOKEN@host:port, or host:port beside",
        ),
        (("--listen", "127.0.0.1:0"), 2, "--listen needs --auth-token"),
        (("--listen", "192.0.2.1:1", "--auth-token", "t"), 1, "can't listen on 192.0.2.1 port 1"),
        (("--ffmpeg", "/nowhere/ffmpeg"), 1, "/nowhere/ffmpeg does not exist"),
    ],
)
async def test_what_keeps_it_from_starting_is_one_line(
    work_dir: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    async with daemon(work_dir, *flags) as running:
        assert await running.process.wait() == code
    assert words in running.stderr[-1]
    assert all(" INFO " in line for line in running.stderr[:-1])


def start_input() -> ffmpegd_pb2.JobInput:
    """A client's `TranscodeStart`, the encoder left to the daemon."""
    item = ffmpegd_pb2.JobInput()
    item.start.protocol_version = PROTOCOL_VERSION
    item.start.tracks.add(id=256, codec="h264", width=320, height=180, fps=25)
    item.start.targets.add(track_id=256, codec="h264", preset="ultrafast")
    item.start.hw_accel = "none"
    item.start.full_speed = True
    return item


def batch_input(samples: list[Sample], first: int = 0) -> ffmpegd_pb2.JobInput:
    item = ffmpegd_pb2.JobInput()
    for number, s in enumerate(samples, first):
        item.batch.samples.add(track=256, pts=s.pts_ticks, data=s.data, keyframe=s.keyframe, sequence=number)
    return item


def complete_input() -> ffmpegd_pb2.JobInput:
    item = ffmpegd_pb2.JobInput()
    item.complete.SetInParent()
    return item


async def test_sigterm_lets_clients_finish_and_takes_no_more_jobs(work_dir: Path, pictures: list[Sample]) -> None:
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    async with daemon(work_dir, "--listen", "127.0.0.1:0", "--auth-token", TOKEN) as running:
        port = (await running.says(r"serving clients on port (\d+)"))[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            transcode = channel.stream_stream("/tvarr.v1.Ffmpegd/Transcode")
            call = transcode(metadata=metadata)

            async def output() -> ffmpegd_pb2.JobOutput:
                return ffmpegd_pb2.JobOutput.FromString(await call.read())

            await call.write(start_input().SerializeToString())
            await call.write(batch_input(pictures[:50]).SerializeToString())
            assert (await output()).ack.encoder == "libx264"
            began = leave(running)
            await running.says("leaving when 1 jobs have ended")
            late = transcode(iter([start_input().SerializeToString()]), metadata=metadata)
            (refusal,) = [ffmpegd_pb2.JobOutput.FromString(data) async for data in late]
            assert refusal.error.code == ffmpegd_pb2.TranscodeError.CODE_SHUTTING_DOWN
            await call.write(batch_input(pictures[50:], 50).SerializeToString())
            await call.write(complete_input().SerializeToString())
            while not (item := await output()).HasField("complete"):
                pass
            assert item.complete.samples == FRAMES
            assert await gone_since(running, began) < LEAVE_WITHIN_S


async def test_clients_may_dial_a_daemon_that_listens(work_dir: Path, pictures: list[Sample]) -> None:
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    async with daemon(work_dir, "--listen", "127.0.0.1:0", "--auth-token", TOKEN) as running:
        port = (await running.says(r"serving clients on port (\d+)"))[1]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

            async def ask(method: str, request: bytes, token: tuple[tuple[str, str], ...] = metadata) -> bytes:
                answer: bytes = await channel.unary_unary(f"/tvarr.v1.Ffmpegd/{method}")(request, metadata=token)
                return answer

            hello = ffmpegd_pb2.RegisterRequest(protocol_version=PROTOCOL_VERSION, client_name="test")
            for request, token in ((hello, ()), (ffmpegd_pb2.RegisterRequest(protocol_version=7), metadata)):
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask("Register", request.SerializeToString(), token)
            reply = ffmpegd_pb2.RegisterReply.FromString(await ask("Register", hello.SerializeToString()))
            assert reply.name == "box"
            assert "libx264" in {e.name for e in reply.capabilities.encoders}
            stats = ffmpegd_pb2.Heartbeat.FromString(await ask("GetStats", b""))
            assert stats.system.memory_total_bytes > 0
            recent = ffmpegd_pb2.ProbeRequest(max_age_s=3_600).SerializeToString()
            assert ffmpegd_pb2.Capabilities.FromString(await ask("Probe", recent)) == reply.capabilities

            inputs = iter([m.SerializeToString() for m in (start_input(), batch_input(pictures), complete_input())])
            call = channel.stream_stream("/tvarr.v1.Ffmpegd/Transcode")(inputs, metadata=metadata)
            outputs = [ffmpegd_pb2.JobOutput.FromString(data) async for data in call]
            assert outputs[0].ack.encoder == "libx264"
            times = sorted(s.pts for o in outputs if o.WhichOneof("kind") == "batch" for s in o.batch.samples)
            assert times == [s.pts_ticks for s in pictures]
            assert outputs[-1].complete.samples == FRAMES

            nonsense = ffmpegd_pb2.JobInput()
            nonsense.start.protocol_version = PROTOCOL_VERSION
            call = channel.stream_stream("/tvarr.v1.Ffmpegd/Transcode")(
                iter([nonsense.SerializeToString()]), metadata=metadata
            )
            (refusal,) = [ffmpegd_pb2.JobOutput.FromString(data) async for data in call]
            assert refusal.error.code == ffmpegd_pb2.TranscodeError.CODE_BAD_REQUEST
            assert "0 tracks and 0 targets" in refusal.error.message
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0
