"""Both shells on loopback: what travels, what is refused, and what a broken connection looks like."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tvarr.errors import ErrorCode, JobError, NotFound, Refused, StartError, WireError
from tvarr.media.model import Sample
from tvarr.wire import client, codec, server
from tvarr.wire import messages as m
from tvarr.wire.client import dial_attach, dial_work
from tvarr.wire.protocol import CHANNEL_OPTIONS, PROTOCOL_VERSION, SERVER_OPTIONS, Endpoint
from tvarr.wire.v1 import ffmpegd_pb2

TOKEN = "a-token-of-this-test"
LIMIT_S = 10.0

Attach = Callable[[m.Register, str, server.AttachStream], Awaitable[None]]
Work = Callable[[m.WorkOpen, server.JobStream], Awaitable[None]]


@dataclass
class Application:
    """The coordinator of a test: what it does with a stream is given."""

    on_attach: Attach | None = None
    on_work: Work | None = None
    ended: asyncio.Queue[BaseException | None] = field(default_factory=asyncio.Queue)

    async def attach(self, register: m.Register, peer: str, stream: server.AttachStream) -> None:
        assert self.on_attach
        await self._noted(self.on_attach(register, peer, stream))

    async def work(self, opened: m.WorkOpen, stream: server.JobStream) -> None:
        assert self.on_work
        await self._noted(self.on_work(opened, stream))

    async def _noted(self, running: Awaitable[None]) -> None:
        try:
            await running
        except BaseException as error:
            self.ended.put_nowait(error)
            raise
        self.ended.put_nowait(None)


@asynccontextmanager
async def serving(application: Application, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
    running = await server.serve_coordinator(application, host, port, TOKEN)
    try:
        yield Endpoint(host, running.port, TOKEN)
    finally:
        await running.stop()


@pytest.fixture(autouse=True)
async def limit() -> AsyncIterator[None]:
    async with asyncio.timeout(LIMIT_S * 3):
        yield


REGISTER = m.Register(protocol_version=PROTOCOL_VERSION, daemon_id="d1", name="box")
OPEN = m.WorkOpen(job_id="j1", daemon_id="d1", protocol_version=PROTOCOL_VERSION)


def batch(sequence: int, count: int = 3, size: int = 1_000) -> codec.Batch:
    return codec.Batch([Sample(256, 90_000 + n, 86_400 + n, bytes([n]) * size) for n in range(count)], sequence)


async def echo(register: m.Register, peer: str, stream: server.AttachStream) -> None:
    await stream.send(m.Registered(daemon_id=register.daemon_id, version=peer))
    while (item := await stream.receive()) is not None:
        assert isinstance(item, m.Heartbeat)
        await stream.send(m.CancelJob(job_id=str(item.sequence)))


async def test_attach_both_ways_and_a_goodbye() -> None:
    application = Application(on_attach=echo)
    async with serving(application) as endpoint:
        async with dial_attach(endpoint) as stream:
            await stream.send(REGISTER)
            registered = await stream.receive()
            assert isinstance(registered, m.Registered)
            assert registered.daemon_id == "d1"
            assert registered.version.startswith("127.0.0.1:")
            for sequence in (7, 8):
                await stream.send(m.Heartbeat(sequence=sequence))
                assert await stream.receive() == m.CancelJob(job_id=str(sequence))
        assert await application.ended.get() is None


async def test_a_job_both_ways() -> None:
    received: list[codec.JobOutputItem] = []

    async def work(opened: m.WorkOpen, stream: server.JobStream) -> None:
        await stream.send(m.TranscodeStart(job_id=opened.job_id))
        for n in range(20):
            await stream.send(batch(n * 3))
        await stream.send(m.InputComplete())
        while (item := await stream.receive()) is not None:
            received.append(item)

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with dial_work(endpoint) as stream:
            await stream.send(OPEN)
            assert await stream.receive() == m.TranscodeStart(job_id="j1")
            await stream.send(m.TranscodeAck(encoder="libx264"))
            while isinstance(item := await stream.receive(), codec.Batch):
                await stream.send(item)
            assert item == m.InputComplete()
            await stream.send(m.OutputComplete(samples=60))
        assert await application.ended.get() is None
        assert received == [
            m.TranscodeAck(encoder="libx264"),
            *(batch(n * 3) for n in range(20)),
            m.OutputComplete(samples=60),
        ]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN.upper()])
async def test_a_wrong_token_is_refused_before_anything_runs(token: str, caplog: pytest.LogCaptureFixture) -> None:
    application = Application()
    async with serving(application) as endpoint:
        for _ in range(2):
            async with dial_attach(replace(endpoint, token=token)) as stream:
                words = f"127.0.0.1:{endpoint.port}: it does not take the token; .*auth-token"
                with pytest.raises(Refused, match=words):
                    await stream.receive()
        async with dial_work(replace(endpoint, token=token)) as job:
            with pytest.raises(JobError) as caught:
                await job.receive()
            assert caught.value.code is ErrorCode.CONNECTION_LOST
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused a gRPC call from 127.0.0.1" in warnings[0]


async def a_web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_a_wrong_port_is_told_in_words() -> None:
    async with await asyncio.start_server(a_web_server, "127.0.0.1", 0) as there:
        port = there.sockets[0].getsockname()[1]
        async with dial_attach(Endpoint("127.0.0.1", port, TOKEN)) as stream:
            with pytest.raises(JobError, match=rf"127.0.0.1:{port}: a web server answers there; .*--grpc-port"):
                await stream.receive()
    async with dial_attach(Endpoint("127.0.0.1", port, TOKEN)) as stream:
        with pytest.raises(JobError, match=rf"127.0.0.1:{port}: nothing listens there \(connection refused\)$"):
            await stream.receive()


async def test_an_unknown_host_is_told_in_words() -> None:
    async with dial_attach(Endpoint("coordinator.invalid", 9090, TOKEN)) as stream:
        with pytest.raises(JobError, match=r"coordinator.invalid:9090: the host is unknown$"):
            await stream.receive()


@asynccontextmanager
async def plain_channel(endpoint: Endpoint) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(endpoint.target) as channel:
        yield channel


async def test_every_call_needs_the_token() -> None:
    async with serving(Application()) as endpoint, plain_channel(endpoint) as channel:
        calls = [
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            channel.unary_unary("/tvarr.v1.Coordinator/Nonsense")(b""),
            channel.unary_unary("/tvarr.v1.Coordinator/Attach")(b"", metadata=(("authorization", TOKEN),)),
            channel.unary_unary("/tvarr.v1.Coordinator/Attach")(
                b"", metadata=(("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}"))
            ),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_standard_tools_can_look() -> None:
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    async with serving(Application()) as endpoint, plain_channel(endpoint) as channel:
        for service in ("", "tvarr.v1.Coordinator"):
            request = health_pb2.HealthCheckRequest(service=service)
            reply = await health_pb2_grpc.HealthStub(channel).Check(request, metadata=metadata)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="tvarr.v1.Coordinator"),
        ]
        services, file = [r async for r in stub.ServerReflectionInfo(iter(requests), metadata=metadata)]
        assert "tvarr.v1.Coordinator" in {s.name for s in services.list_services_response.service}
        assert file.file_descriptor_response.file_descriptor_proto == [ffmpegd_pb2.DESCRIPTOR.serialized_pb]


@pytest.mark.parametrize("version", [0, 2, 4_294_967_295])
async def test_another_protocol_version_is_refused_with_words(version: int) -> None:
    async with serving(Application()) as endpoint:
        async with dial_attach(endpoint) as stream:
            await stream.send(replace(REGISTER, protocol_version=version))
            with pytest.raises(Refused, match=f"protocol version {version} is not spoken here, only 1"):
                await stream.receive()
        async with dial_work(endpoint) as job:
            await job.send(replace(OPEN, protocol_version=version))
            with pytest.raises(JobError, match=f"protocol version {version}"):
                await job.receive()


async def test_the_first_message_must_be_the_first() -> None:
    async with serving(Application()) as endpoint, dial_attach(endpoint) as stream:
        await stream.send(m.Heartbeat())
        with pytest.raises(WireError, match="the first message must be Register, not Heartbeat"):
            await stream.receive()


async def test_bytes_that_are_no_message_are_refused() -> None:
    async with serving(Application(on_attach=echo)) as endpoint, plain_channel(endpoint) as channel:
        call = channel.stream_stream("/tvarr.v1.Coordinator/Attach")(metadata=(("authorization", f"Bearer {TOKEN}"),))
        await call.write(codec.encode_daemon(REGISTER))
        await call.read()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="not a DaemonMessage") as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_job_that_nobody_wants() -> None:
    async def work(opened: m.WorkOpen, stream: server.JobStream) -> None:
        raise NotFound(f"no job {opened.job_id}")

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as job:
        await job.send(OPEN)
        with pytest.raises(JobError, match="no job j1") as caught:
            await job.receive()
        assert caught.value.code is ErrorCode.CANCELLED


async def test_a_defect_is_logged_and_kept_from_the_other_side(caplog: pytest.LogCaptureFixture) -> None:
    async def work(opened: m.WorkOpen, stream: server.JobStream) -> None:
        raise ZeroDivisionError("the secret of the house")

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as job:
        await job.send(OPEN)
        with pytest.raises(JobError, match="internal error"):
            await job.receive()
    assert "the secret of the house" in caplog.text


async def until_lost(stream: server.JobStream) -> None:
    while await stream.receive() is not None:
        pass


async def test_a_daemon_that_vanishes_is_a_lost_connection_after_what_it_sent() -> None:
    received: list[Any] = []
    first = asyncio.Event()

    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        await stream.send(m.TranscodeStart())
        while True:
            received.append(await stream.receive())
            first.set()

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with plain_channel(endpoint) as channel:
            call = channel.stream_stream("/tvarr.v1.Coordinator/Work")(metadata=(("authorization", f"Bearer {TOKEN}"),))
            await call.write(codec.encode_job_output(OPEN))
            await call.read()
            await call.write(codec.encode_job_output(batch(0)))
            await first.wait()
        error = await application.ended.get()
        assert isinstance(error, JobError)
        assert error.code is ErrorCode.CONNECTION_LOST
        assert received == [batch(0)]


async def test_a_daemon_that_vanishes_has_not_said_goodbye() -> None:
    application = Application(on_attach=echo)
    async with serving(application) as endpoint:
        async with plain_channel(endpoint) as channel:
            call = channel.stream_stream("/tvarr.v1.Coordinator/Attach")(
                metadata=(("authorization", f"Bearer {TOKEN}"),)
            )
            await call.write(codec.encode_daemon(REGISTER))
            await call.read()
        error = await application.ended.get()
        assert isinstance(error, JobError)
        assert (error.code, str(error)) == (ErrorCode.CONNECTION_LOST, "the connection was lost")


def hurried(options: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """The same with a tenth of every time."""
    return [(name, value // 10 if name.endswith("_ms") else value) for name, value in options]


@asynccontextmanager
async def through_a_cable(endpoint: Endpoint) -> AsyncIterator[tuple[Endpoint, asyncio.Event]]:
    """An address that leads to `endpoint` until the event is set; then nothing comes through, and nothing ends."""
    cut = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not cut.is_set():
                writer.write(data)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        tasks.update(asyncio.create_task(carry(*pair)) for pair in ((reader, far_writer), (far_reader, writer)))

    cable = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield replace(endpoint, port=cable.sockets[0].getsockname()[1]), cut
    finally:
        cable.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_both_sides_notice_a_silent_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvarr.wire.server.SERVER_OPTIONS", hurried(SERVER_OPTIONS))
    monkeypatch.setattr("tvarr.wire.client.CHANNEL_OPTIONS", hurried(CHANNEL_OPTIONS))
    application = Application(on_attach=echo)
    async with (
        serving(application) as endpoint,
        through_a_cable(endpoint) as (outside, cut),
        dial_attach(outside) as stream,
    ):
        await stream.send(REGISTER)
        assert isinstance(await stream.receive(), m.Registered)
        with pytest.raises(TimeoutError):  # pings keep a quiet stream alive, and nobody calls them too many
            await asyncio.wait_for(stream.receive(), 3.0)
        cut.set()
        with pytest.raises(JobError) as caught:
            await asyncio.wait_for(stream.receive(), 4.0)
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        error = await asyncio.wait_for(application.ended.get(), 4.0)
        assert isinstance(error, JobError)
        assert error.code is ErrorCode.CONNECTION_LOST


async def test_a_job_that_ends_in_the_middle_is_lost_for_the_coordinator() -> None:
    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        await until_lost(stream)

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with dial_work(endpoint) as job:
            await job.send(OPEN)
            await job.send(batch(0))
        error = await application.ended.get()
        assert isinstance(error, JobError)
        assert (error.code, str(error)) == (ErrorCode.CONNECTION_LOST, "the stream ended in the middle of the job")


async def test_a_coordinator_that_leaves_a_job_is_lost_for_the_daemon() -> None:
    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        await stream.send(m.TranscodeStart())
        await stream.send(batch(0))

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as job:
        await job.send(OPEN)
        assert await job.receive() == m.TranscodeStart()
        assert await job.receive() == batch(0)
        for _ in range(2):
            with pytest.raises(JobError, match="in the middle of the job") as caught:
                await job.receive()
            assert caught.value.code is ErrorCode.CONNECTION_LOST


async def test_a_server_that_stops_is_lost_for_both_sides() -> None:
    async def attach(register: m.Register, _: str, stream: server.AttachStream) -> None:
        await stream.send(m.Registered())
        await stream.receive()

    application = Application(on_attach=attach)
    running = await server.serve_coordinator(application, "127.0.0.1", 0, TOKEN)
    async with dial_attach(Endpoint("127.0.0.1", running.port, TOKEN)) as stream:
        await stream.send(REGISTER)
        assert await stream.receive() == m.Registered()
        await running.stop()
        error = await application.ended.get()
        assert isinstance(error, JobError)
        with pytest.raises(JobError) as caught:
            await stream.receive()
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        with pytest.raises(JobError):
            await stream.send(m.Heartbeat())


async def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", unused.getsockname()[1], TOKEN)
        async with dial_attach(endpoint) as stream:
            with pytest.raises(JobError, match=f"127.0.0.1:{endpoint.port}: ") as caught:
                await stream.receive()
            assert caught.value.code is ErrorCode.CONNECTION_LOST


async def test_a_web_server_is_no_coordinator() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", web.sockets[0].getsockname()[1], TOKEN)
    async with dial_attach(endpoint) as stream:
        with pytest.raises(JobError):
            await stream.receive()
    web.close()


async def test_a_port_in_use_and_a_host_that_is_not_ours() -> None:
    async with serving(Application()) as endpoint:
        with pytest.raises(StartError, match=f"gRPC port {endpoint.port} of 127.0.0.1 is in use"):
            await server.serve_coordinator(Application(), "127.0.0.1", endpoint.port, TOKEN)
    with pytest.raises(StartError, match=r"can't listen on 192\.0\.2\.1 port"):
        await server.serve_coordinator(Application(), "192.0.2.1", 0, TOKEN)


async def test_the_same_port_serves_again_at_once() -> None:
    application = Application(on_attach=echo)
    async with serving(application) as endpoint, dial_attach(endpoint) as stream:
        await stream.send(REGISTER)
        await stream.receive()
    async with serving(application, endpoint.port), dial_attach(endpoint) as stream:
        await stream.send(REGISTER)
        assert isinstance(await stream.receive(), m.Registered)


async def test_a_reader_that_does_not_take_holds_the_writer_and_nobody_else() -> None:
    sent = 0

    async def work(opened: m.WorkOpen, stream: server.JobStream) -> None:
        nonlocal sent
        await stream.send(m.TranscodeStart())
        if opened.job_id == "slow":
            for n in range(100):
                await stream.send(batch(n, count=1, size=1_000_000))
                sent = n + 1
        await stream.send(m.InputComplete())
        await until_lost(stream)

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as slow:
        await slow.send(replace(OPEN, job_id="slow"))
        assert await slow.receive() == m.TranscodeStart()
        last = -1
        while sent != last:
            last = sent
            await asyncio.sleep(0.2)
        assert 1 <= sent < 60
        async with dial_work(endpoint) as quick:
            await quick.send(OPEN)
            assert await quick.receive() == m.TranscodeStart()
            assert await quick.receive() == m.InputComplete()
            await quick.send(m.OutputComplete())
        count = 0
        while isinstance(await slow.receive(), codec.Batch):
            count += 1
        assert count == 100
        await slow.send(m.OutputComplete())


async def test_a_daemon_that_takes_no_more_input_is_soon_gone() -> None:
    """The other side's status waits behind what it has written already."""

    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        async def send() -> None:
            for n in range(100):
                await stream.send(batch(n, count=1, size=1_000_000))

        sending = asyncio.create_task(send())
        assert await stream.receive() == m.TranscodeError(message="stuck")
        sending.cancel()

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with dial_work(endpoint) as job:
            await job.send(OPEN)
            await asyncio.sleep(0.5)
            await job.send(m.TranscodeError(message="stuck"))
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < client.GOODBYE_S * 0.8
        assert await application.ended.get() is None


async def test_a_receive_that_is_cancelled_loses_nothing_and_the_stream_lives() -> None:
    async with serving(Application(on_attach=echo)) as endpoint, dial_attach(endpoint) as stream:
        await stream.send(REGISTER)
        await stream.receive()
        for sequence in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.receive()
            await stream.send(m.Heartbeat(sequence=sequence))
            assert await stream.receive() == m.CancelJob(job_id=str(sequence))


async def test_a_send_that_is_cancelled_goes_out_and_the_stream_lives() -> None:
    go_on = asyncio.Event()
    received: list[codec.JobOutputItem] = []

    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        await stream.send(m.TranscodeStart())
        await go_on.wait()
        while (item := await stream.receive()) is not None:
            received.append(item)

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with dial_work(endpoint) as job:
            await job.send(OPEN)
            assert await job.receive() == m.TranscodeStart()
            sequence = 0

            async def send_on() -> None:
                nonlocal sequence
                while True:
                    await job.send(batch(sequence, count=1, size=4_000_000))
                    sequence += 1

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send_on(), 1.0)
            go_on.set()
            await job.send(m.TranscodeError(message="enough"))
        assert await application.ended.get() is None
    assert [item.sequence for item in received if isinstance(item, codec.Batch)] == list(range(sequence + 1))
    assert received[-1] == m.TranscodeError(message="enough")


async def test_many_may_send_at_once() -> None:
    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        await asyncio.gather(*(stream.send(batch(n)) for n in range(50)))
        await stream.send(m.TranscodeStop())

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as job:
        await job.send(OPEN)
        items = [await job.receive() for _ in range(51)]
        assert sorted(item.sequence for item in items if isinstance(item, codec.Batch)) == list(range(50))
        assert items[-1] == m.TranscodeStop()


async def test_nothing_follows_the_last_word() -> None:
    """A daemon's figures of each second may be about to go out when its job ends."""
    received: list[codec.JobOutputItem] = []

    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        while (item := await stream.receive()) is not None:
            received.append(item)

    application = Application(on_work=work)
    async with serving(application) as endpoint:
        async with dial_work(endpoint) as job:
            await job.send(OPEN)
            figures = m.TranscodeStats(output_samples=1)
            await asyncio.gather(job.send(figures), job.send_last(m.OutputComplete(samples=1)), job.send(figures))
        assert await application.ended.get() is None
    assert received == [figures, m.OutputComplete(samples=1)]


async def test_sizes_up_to_the_limit_pass_and_beyond_are_refused_here() -> None:
    async def work(_: m.WorkOpen, stream: server.JobStream) -> None:
        with pytest.raises(WireError, match="16777216 are allowed"):
            await stream.send(batch(0, count=1, size=16 * 1024 * 1024))
        await stream.send(batch(0, count=1, size=16 * 1024 * 1024 - 100))
        await stream.send(m.TranscodeStop())

    async with serving(Application(on_work=work)) as endpoint, dial_work(endpoint) as job:
        await job.send(OPEN)
        item = await job.receive()
        assert isinstance(item, codec.Batch)
        assert len(item.samples[0].data) == 16 * 1024 * 1024 - 100
        assert await job.receive() == m.TranscodeStop()
