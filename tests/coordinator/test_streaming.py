"""Endless answers that go wrong: viewers that take nothing, handlers that fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.coordinator.web_server import serving
from tvarr.coordinator import streaming
from tvarr.coordinator.outputs import ViewerTooSlow


async def test_who_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STUCK_S", 0.2)
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await streaming.write(response, bytes(1 << 20))
        except ViewerTooSlow as error:
            ended.set_result(str(error))
        return response

    application = web.Application()
    application.router.add_get("/", stream)
    async with TestServer(application) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 10)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert await ended == "took nothing for 0.2 s"
        writer.transport.abort()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
async def test_an_answer_that_fails_half_way_is_cut(tmp_path: Path, error: type[Exception]) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the beginning")
        raise error

    async with (
        serving(tmp_path, extra_routes=[web.get("/stream/x.ts", stream)]) as (client, _),
        client.get("/stream/x.ts") as answer,
        asyncio.timeout(10),
    ):
        assert await answer.content.readexactly(13) == b"the beginning"
        with pytest.raises(aiohttp.ClientError):
            await answer.content.read()
