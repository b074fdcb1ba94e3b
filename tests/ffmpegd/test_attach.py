"""A daemon's tie to its coordinator, against the real server shell on loopback."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import until
from tvarr.cluster.model import Capabilities, Encoder, Family, JobSpec
from tvarr.errors import ErrorCode, JobError, WireError
from tvarr.ffmpegd import describe
from tvarr.ffmpegd.attach import LONGEST_RETRY_S, Attachment, retry_delay_s
from tvarr.ffmpegd.capacity import Capacity
from tvarr.ffmpegd.work import Jobs, ObservedStream
from tvarr.hwaccel.stats import StatsReader
from tvarr.media.model import Codec
from tvarr.wire import convert, messages
from tvarr.wire.protocol import Endpoint
from tvarr.wire.server import AttachStream, JobStream, serve_coordinator

TOKEN = "a-token-of-this-test"
HOST = Capabilities(encoders=(Encoder("libx264", Codec.H264, Family.SOFTWARE),), max_jobs=1)


@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_retries_are_spread_and_bounded(attempt: int, seed: int) -> None:
    assert 0.5 <= retry_delay_s(attempt, random.Random(seed)) <= LONGEST_RETRY_S


def test_retries_grow_with_full_jitter() -> None:
    rng = random.Random(7)
    for attempt, limit in enumerate([1.0, 2.0, 4.0, 8.0, 15.0, 15.0]):
        delays = [retry_delay_s(attempt, rng) for _ in range(2_000)]
        assert min(delays) < 0.5 + 0.05 * limit
        assert limit * 0.95 < max(delays) <= limit


@dataclass
class Coordinator:
    """The coordinator's end in a test: every registration and message, and a way to answer."""

    interval_s: float = 0.2
    registered: asyncio.Queue[messages.Register] = field(default_factory=asyncio.Queue)
    received: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    stream: AttachStream | None = None

    async def attach(self, register: messages.Register, peer: str, stream: AttachStream) -> None:
        await stream.send(messages.Registered(daemon_id="its-id", heartbeat_interval_s=self.interval_s, version="9"))
        self.stream = stream
        self.registered.put_nowait(register)
        while (item := await stream.receive()) is not None:
            self.received.put_nowait(item)
        self.received.put_nowait("goodbye")

    async def work(self, opened: messages.WorkOpen, stream: JobStream) -> None:
        raise AssertionError("no job is started in these tests")

    async def next(self, kind: type) -> object:
        while not isinstance(item := await self.received.get(), kind):
            pass
        return item


async def no_job(spec: JobSpec, stream: ObservedStream) -> None:
    raise AssertionError("no job is started in these tests")


@asynccontextmanager
async def attached(endpoint: Endpoint, jobs: Jobs | None = None) -> AsyncIterator[Attachment]:
    jobs = jobs or Jobs(Capacity(HOST), no_job)
    reader = StatsReader()

    def register() -> messages.Register:
        return describe.register(
            daemon_id="d1",
            instance_id="i1",
            name="box",
            capabilities=jobs.capacity.capabilities,
            jobs=jobs.active(),
        )

    async def heartbeat(sequence: int) -> messages.Heartbeat:
        return describe.heartbeat(reader.read(), jobs.active(), sequence)

    attachment = Attachment(endpoint, jobs, register, heartbeat, random.Random(1))
    task = asyncio.create_task(attachment.run())
    try:
        yield attachment
    finally:
        task.cancel()
        await asyncio.wait({task})
        reader.close()


@pytest.fixture(autouse=True)
async def limit() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


async def test_it_registers_beats_and_says_goodbye() -> None:
    coordinator = Coordinator()
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN)) as attachment:
        register = await coordinator.registered.get()
        assert (register.daemon_id, register.name) == ("d1", "box")
        assert convert.capabilities_from_wire(register.capabilities) == (HOST, [])
        beats = [await coordinator.next(messages.Heartbeat) for _ in range(3)]
        assert [b.sequence for b in beats if isinstance(b, messages.Heartbeat)] == [0, 1, 2]
        await attachment.leave("the end")
        assert await coordinator.next(messages.Draining) == messages.Draining(reason="the end")
    assert await coordinator.next(str) == "goodbye"
    await server.stop()


async def test_it_refuses_what_exceeds_its_limits_and_obeys_drain() -> None:
    coordinator = Coordinator()
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    jobs = Jobs(Capacity(HOST), no_job)
    jobs.capacity.claim("held", "libx264", "")
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN), jobs):
        await coordinator.registered.get()
        assert coordinator.stream
        await coordinator.stream.send(messages.StartJob(job_id="j1", encoder="libx264"))
        refused = await coordinator.next(messages.JobRefused)
        assert isinstance(refused, messages.JobRefused)
        assert str(convert.error_from_wire(refused.error)) == "all of its 1 job slots are taken"
        jobs.capacity.release("held")
        await coordinator.stream.send(messages.Drain(reason="maintenance"))
        await coordinator.stream.send(messages.StartJob(job_id="j2", encoder="libx264"))
        refused = await coordinator.next(messages.JobRefused)
        assert isinstance(refused, messages.JobRefused)
        assert refused.job_id == "j2"
        assert refused.error
        assert refused.error.code == messages.TranscodeErrorCode.CAPACITY
        await coordinator.stream.send(messages.Activate())
        await coordinator.stream.send(messages.StartJob(job_id="j3", encoder="h264_nvenc", device="GPU-a"))
        refused = await coordinator.next(messages.JobRefused)
        assert isinstance(refused, messages.JobRefused)
        assert refused.error
        assert refused.error.code == messages.TranscodeErrorCode.UNSUPPORTED
    await server.stop()


async def refusal(coordinator: Coordinator, job_id: str) -> str:
    """What the daemon says to a job that it has no encoder for, or that it refuses sooner."""
    assert coordinator.stream
    await coordinator.stream.send(messages.StartJob(job_id=job_id, encoder="h264_nvenc", device="GPU-a"))
    refused = await coordinator.next(messages.JobRefused)
    assert isinstance(refused, messages.JobRefused)
    assert refused.job_id == job_id
    return str(convert.error_from_wire(refused.error))


async def test_after_a_reconnection_it_takes_jobs_until_it_is_told_again_not_to() -> None:
    """It may be another coordinator, or one that has lost its memory; one that remembers says `Drain` again."""
    coordinator = Coordinator()
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN)):
        for _ in range(2):
            await coordinator.registered.get()
            assert coordinator.stream
            assert "no encoder" in await refusal(coordinator, "j1")
            await coordinator.stream.send(messages.Drain(reason="maintenance"))
            assert "it is draining" in await refusal(coordinator, "j2")
            coordinator.stream.lose(WireError("test"))
        await coordinator.registered.get()
        assert coordinator.stream
        await coordinator.stream.send(messages.Drain(reason="maintenance"))
        await coordinator.stream.send(messages.Activate())
        assert "no encoder" in await refusal(coordinator, "j3")
        coordinator.stream.lose(WireError("test"))
        await coordinator.registered.get()
        assert "no encoder" in await refusal(coordinator, "j4")
    await server.stop()


async def test_one_that_leaves_says_so_to_every_coordinator_and_nothing_changes_its_mind() -> None:
    coordinator = Coordinator()
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    jobs = Jobs(Capacity(HOST), no_job)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN), jobs) as attachment:
        await coordinator.registered.get()
        await coordinator.next(messages.Heartbeat)
        jobs.refuse(JobError(ErrorCode.SHUTTING_DOWN, "the end"))
        assert await attachment.leave("the end")
        for _ in range(2):
            assert await coordinator.next(messages.Draining) == messages.Draining(reason="the end")
            assert coordinator.stream
            await coordinator.stream.send(messages.Activate())
            assert await refusal(coordinator, "j1") == "the end"
            coordinator.stream.lose(WireError("test"))
            await coordinator.registered.get()
    await server.stop()


async def test_nobody_hears_one_that_leaves_while_it_is_not_attached() -> None:
    async with attached(Endpoint("127.0.0.1", 1, TOKEN)) as attachment:
        assert not await attachment.leave("the end")


async def test_it_comes_back_to_a_coordinator_that_was_restarted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = Coordinator(), Coordinator()
    server = await serve_coordinator(first, "127.0.0.1", 0, TOKEN)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN)):
        await first.registered.get()
        await server.stop()
        server = await serve_coordinator(second, "127.0.0.1", server.port, TOKEN)
        again = await second.registered.get()
        assert (again.daemon_id, again.instance_id) == ("d1", "i1")
        assert await second.next(messages.Heartbeat)
    await server.stop()
    texts = [record.message for record in caplog.records if record.name == "tvarr.ffmpegd.attach"]
    assert [text.split(":")[0] for text in texts] == [
        "attached to the coordinator 127.0.0.1",
        "not attached to a coordinator",
        "attached to the coordinator 127.0.0.1",
    ]


async def test_the_end_of_a_job_is_told_at_once() -> None:
    coordinator = Coordinator(interval_s=60.0)
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    jobs = Jobs(Capacity(HOST), no_job)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN), jobs):
        await coordinator.next(messages.Heartbeat)
        assert coordinator.stream
        await coordinator.stream.send(messages.StartJob(job_id="j1", encoder="libx264"))
        await coordinator.next(messages.JobAccepted)  # it dials for the job and is hung up on
        started_at = asyncio.get_running_loop().time()
        beat = await coordinator.next(messages.Heartbeat)
        assert isinstance(beat, messages.Heartbeat)
        assert (beat.sequence, beat.jobs) == (1, [])
        assert asyncio.get_running_loop().time() - started_at < 5.0
    await server.stop()


@pytest.mark.parametrize("wrong", ["token", "version"])
async def test_a_refusal_is_said_once_in_words_and_tried_again_slowly(
    wrong: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvarr.ffmpegd.attach.REFUSED_RETRY_S", (0.05, 0.1))
    caplog.set_level(logging.DEBUG, logger="tvarr.ffmpegd.attach")
    server = await serve_coordinator(Coordinator(), "127.0.0.1", 0, TOKEN)
    endpoint = Endpoint("127.0.0.1", server.port, TOKEN)
    if wrong == "token":
        endpoint = replace(endpoint, token="wrong")
    else:
        monkeypatch.setattr("tvarr.ffmpegd.describe.PROTOCOL_VERSION", 2)
    words = {"token": "it does not take the token", "version": "protocol version 2 is not spoken here, only 1"}

    def said(level: int) -> list[str]:
        return [r.message for r in caplog.records if r.levelno == level and r.name == "tvarr.ffmpegd.attach"]

    async with attached(endpoint):
        await until(lambda: len(said(logging.DEBUG)) >= 3)
    assert len(said(logging.WARNING)) == 1
    assert words[wrong] in said(logging.WARNING)[0]
    assert "wrong" not in said(logging.WARNING)[0]
    await server.stop()


async def test_nobody_there_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvarr.ffmpegd.attach.retry_delay_s", lambda attempt, rng: 0.01)
    caplog.set_level(logging.DEBUG, logger="tvarr.ffmpegd.attach")
    async with attached(Endpoint("127.0.0.1", 1, TOKEN)):
        await until(lambda: len(caplog.records) >= 4)
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "127.0.0.1:1: " in warnings[0]


async def beats(coordinator: Coordinator, count: int, within_s: float) -> None:
    for _ in range(count):
        async with asyncio.timeout(within_s):
            await coordinator.next(messages.Heartbeat)


async def test_its_heartbeats_come_at_the_pace_that_is_asked_for() -> None:
    coordinator = Coordinator(interval_s=60.0)
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    async with attached(Endpoint("127.0.0.1", server.port, TOKEN)):
        await coordinator.next(messages.Heartbeat)
        assert coordinator.stream
        await coordinator.stream.send(messages.SetPace(heartbeat_interval_s=0.2))
        for _ in range(3):
            await coordinator.next(messages.Heartbeat)
        await coordinator.stream.send(messages.SetPace(heartbeat_interval_s=60.0))
        with pytest.raises(TimeoutError):
            await beats(coordinator, 3, within_s=0.7)  # some were under way, and it was waiting for one
    await server.stop()
