"""Clients that take their time: to ask, and to say all of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.coordinator.web_server import PASSWORD, serving
from tvarr.coordinator.web import patience
from tvarr.coordinator.web.patience import MAX_OPEN_BODY_BYTES, REQUEST_WITHIN_S, SILENCE, Silence, within_limit


class Connected:
    def __init__(self) -> None:
        self.closed = False

    def force_close(self) -> None:
        self.closed = True


def test_a_connection_without_a_request_is_ended_after_a_while() -> None:
    silence, first, second = Silence(), Connected(), Connected()
    assert silence.look([first], 0.0) == 0
    assert silence.look([first, second], REQUEST_WITHIN_S - 0.1) == 0
    assert silence.look([first, second], REQUEST_WITHIN_S) == 1
    assert (first.closed, second.closed) == (True, False)
    assert silence.look([second], 2 * REQUEST_WITHIN_S) == 1


async def send(port: int, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.writelines(parts)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("said", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
async def test_the_slow_are_told_from_those_that_asked(tmp_path: Path, said: bytes) -> None:
    async with serving(tmp_path) as (client, _):
        server = client.server.runner.server  # type: ignore[attr-defined]
        silence, port = client.app[SILENCE], client.port
        assert port is not None
        asked, asking = await send(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asked.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        slow, speaking = await send(port, said)
        async with client.get("/livez"):
            pass  # so what was sent before has come
        assert len(server.connections) == 3
        silence.look(server.connections, 0.0)
        assert silence.look(server.connections, REQUEST_WITHIN_S) == 1
        with contextlib.suppress(ConnectionResetError):
            assert await slow.read() == b""
        asking.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        while not (await asked.readline()).startswith(b"HTTP/1.1 200"):
            pass
        asking.close()
        speaking.close()


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_never_ends_is_not_waited_for(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BODY_WITHIN_S", 0.2)
    path = "/api/v1/channels" if kind.endswith("json") else "/login"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}; boundary=b\r\n"
        f"Authorization: Bearer {PASSWORD}\r\nContent-Length: 100\r\n\r\n"
    )
    async with serving(tmp_path) as (client, _):
        assert client.port is not None
        reader, writer = await send(client.port, head.encode(), b"--b\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_strangers_can_not_send_much(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for data in (b"password=" + bytes(MAX_OPEN_BODY_BYTES), chunks()):
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            async with client.post("/login", data=data, headers=headers) as answer:
                assert answer.status == 413


async def chunks() -> AsyncIterator[bytes]:
    yield b"password=x"


async def test_a_full_house_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as (client, _):
        server = client.server.runner.server  # type: ignore[attr-defined]
        monkeypatch.setattr(patience, "OWN_FILES", 0)
        with monkeypatch.context() as few:
            few.setattr(resource, "getrlimit", lambda _which: (len(os.listdir("/proc/self/fd")) + 1, 0))
            gate = within_limit(server)
        listening = await asyncio.get_running_loop().create_server(gate, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        first, asking = await send(port, ask)
        assert (await first.readline()).startswith(b"HTTP/1.1 200")
        alive, _ = await send(port, ask)
        assert (await alive.read()).startswith(b"HTTP/1.1 200"), "who looks after the process would end it"
        silent = [await send(port) for _ in range(12)]
        asks_more = await send(port, ask.replace(b"livez", b"readyz"))
        for turned_away, _ in (*silent, asks_more):
            assert (await turned_away.read()).startswith(b"HTTP/1.1 503")
        (line,) = [record.getMessage() for record in caplog.records if record.name == patience.__name__]
        assert line.startswith("all 1 connections that `ulimit -n`")
        asking.close()
        listening.close()
