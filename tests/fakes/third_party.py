"""A daemon by somebody else: it speaks the wire protocol over plain gRPC, and treats its jobs as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import grpc
import grpc.aio

from tvarr.wire import messages
from tvarr.wire.codec import (
    Batch,
    DaemonItem,
    JobInputItem,
    JobOutputItem,
    decode_coordinator,
    decode_job_input,
    encode_daemon,
    encode_job_output,
)
from tvarr.wire.protocol import COORDINATOR_SERVICE, PROTOCOL_VERSION

NO_LIMITS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass
class Work:
    """One job's stream. `start` is what was ordered."""

    call: grpc.aio.StreamStreamCall
    start: messages.TranscodeStart

    async def receive(self) -> JobInputItem | None:
        """The next message; None at the end of the stream."""
        data = await self.call.read()
        return None if data is grpc.aio.EOF else decode_job_input(data)

    async def send(self, item: JobOutputItem) -> None:
        await self.call.write(encode_job_output(item))

    async def acknowledge(self) -> None:
        await self.send(messages.TranscodeAck(encoder=self.start.encoder, family=messages.Family.SOFTWARE))

    async def batches(self) -> Any:
        """The samples as they come, to the end of the input."""
        while isinstance(item := await self.receive(), Batch):
            yield item


Treat = Callable[[Work], Awaitable[None]]


@dataclass
class ThirdParty:
    """Attached to a coordinator while its block runs. `treat` gets each job; what it raises ends that job's stream."""

    target: str  # host:port
    token: str
    name: str
    treat: Treat
    jobs: list[str] = field(default_factory=list)  # ids of the jobs that it was given
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one message of a call at a time

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self.target, options=NO_LIMITS)
        self._attach = self._call("Attach")
        await self._tell(self._register())
        registered = decode_coordinator(await self._attach.read())
        assert isinstance(registered, messages.Registered), registered
        self._id = registered.daemon_id
        self._begin(self._beat(registered.heartbeat_interval_s))
        self._begin(self._obey())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._attach.cancel()
        await self._channel.close()

    def _call(self, method: str) -> grpc.aio.StreamStreamCall:
        metadata = (("authorization", f"Bearer {self.token}"),)
        return self._channel.stream_stream(f"/{COORDINATOR_SERVICE}/{method}")(metadata=metadata)

    def _begin(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, item: DaemonItem) -> None:
        async with self._telling:
            await self._attach.write(encode_daemon(item))

    def _register(self) -> messages.Register:
        encoders = [
            messages.Encoder(name=name, codec=codec, family=messages.Family.SOFTWARE, usable=True, verified=True)
            for name, codec in (("libx264", "h264"), ("aac", "aac"))
        ]
        return messages.Register(
            protocol_version=PROTOCOL_VERSION,
            daemon_id=str(uuid4()),
            instance_id=str(uuid4()),
            name=self.name,
            version="other/1",
            machine_id=uuid4().hex,
            capabilities=messages.Capabilities(
                ffmpeg_version="7",
                encoders=encoders,
                decoders=["h264", "mp2"],
                max_jobs=16,
                max_cpu_jobs=16,
                cpu_count=16,
            ),
        )

    async def _beat(self, interval_s: float) -> None:
        sequence = 0
        while True:
            await self._tell(messages.Heartbeat(system=messages.SystemStats(cpu_percent=1.0), sequence=sequence))
            sequence += 1
            await asyncio.sleep(interval_s)

    async def _obey(self) -> None:
        while (data := await self._attach.read()) is not grpc.aio.EOF:
            order = decode_coordinator(data)
            if isinstance(order, messages.StartJob):
                self.jobs.append(order.job_id)
                await self._tell(messages.JobAccepted(job_id=order.job_id))
                self._begin(self._work(order.job_id))

    async def _work(self, job_id: str) -> None:
        call = self._call("Work")
        try:
            opened = messages.WorkOpen(job_id=job_id, daemon_id=self._id, protocol_version=PROTOCOL_VERSION)
            await call.write(encode_job_output(opened))
            start = decode_job_input(await call.read())
            assert isinstance(start, messages.TranscodeStart), start
            with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the coordinator has had enough of it
                await self.treat(Work(call, start))
                await call.done_writing()  # a cancelled call takes back what it has sent last
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await call.code()
        finally:
            call.cancel()
