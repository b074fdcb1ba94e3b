"""A bad network between daemons and a coordinator: it delays, loses and reorders heartbeats, and nothing else.

It is a gRPC proxy that passes bytes on. It reads the daemons' messages only to know a heartbeat when one comes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tvarr.wire import messages
from tvarr.wire.codec import decode_daemon
from tvarr.wire.protocol import CHANNEL_OPTIONS, COORDINATOR_SERVICE, SERVER_OPTIONS


@dataclass
class BadNetwork:
    """`lost` is the share of heartbeats that never arrive; of the others `late` come after up to `delay_s`."""

    target: str  # the coordinator's host:port
    rng: random.Random
    lost: float = 0.3
    late: float = 0.5
    delay_s: float = 3.0
    heartbeats: int = 0
    heartbeats_lost: int = 0
    heartbeats_overtaken: int = 0  # by a younger one
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    async def attach(self, _: object, context: Any) -> None:
        newest = -1

        async def arrive(data: bytes, number: int, write: Callable[[bytes], Awaitable[None]]) -> None:
            nonlocal newest
            await asyncio.sleep(self.rng.uniform(0.0, self.delay_s) if self.rng.random() < self.late else 0.0)
            self.heartbeats_overtaken += number < newest
            newest = max(newest, number)
            await write(data)

        async def send(data: bytes, write: Callable[[bytes], Awaitable[None]]) -> None:
            if not isinstance(decode_daemon(data), messages.Heartbeat):
                await write(data)
                return
            self.heartbeats += 1
            if self.rng.random() < self.lost:
                self.heartbeats_lost += 1
                return
            task = asyncio.create_task(arrive(data, self.heartbeats, write))
            self._late.add(task)
            task.add_done_callback(self._arrived)

        await self._pass_on("Attach", context, send)

    async def work(self, _: object, context: Any) -> None:
        async def send(data: bytes, write: Callable[[bytes], Awaitable[None]]) -> None:
            await write(data)

        await self._pass_on("Work", context, send)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # the stream may have ended meanwhile

    async def _pass_on(
        self, method: str, context: Any, send: Callable[[bytes, Callable[[bytes], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        writing = asyncio.Lock()
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            call = channel.stream_stream(f"/{COORDINATOR_SERVICE}/{method}")(metadata=context.invocation_metadata())

            async def write(data: bytes) -> None:
                async with writing:
                    await call.write(data)

            async def up() -> None:
                while (data := await context.read()) is not grpc.aio.EOF:
                    await send(data, write)
                await call.done_writing()

            async def down() -> None:
                while (data := await call.read()) is not grpc.aio.EOF:
                    await context.write(data)

            upward, downward = asyncio.create_task(up()), asyncio.create_task(down())
            try:
                await asyncio.wait({downward})
                if not downward.cancelled() and downward.exception():
                    call.cancel()
                code = await call.code()
            finally:
                call.cancel()
                for task in (upward, downward):
                    task.cancel()
                await asyncio.gather(upward, downward, return_exceptions=True)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, await call.details())


@asynccontextmanager
async def bad_network(target: str, rng: random.Random, **how: float) -> AsyncIterator[tuple[BadNetwork, int]]:
    """Serves until the block ends: the network and its port on loopback, which daemons dial."""
    network = BadNetwork(target, rng, **how)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    methods = {
        "Attach": grpc.stream_stream_rpc_method_handler(network.attach),
        "Work": grpc.stream_stream_rpc_method_handler(network.work),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(COORDINATOR_SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield network, port
    finally:
        await server.stop(grace=1.0)
