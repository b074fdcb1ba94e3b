"""Viewers of endless streams that take nothing."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

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
