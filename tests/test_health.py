"""`tvarr health` against real servers: the roles themselves, and what is none."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.harness import Cluster, cluster, eventually
from tvarr import health
from tvarr.errors import ConfigError

BIN = Path(sys.executable).parent


async def answering(status: int, words: str = "ok\n") -> TestServer:
    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=words)

    application = web.Application()
    application.router.add_get("/readyz", readyz)
    server = TestServer(application)
    await server.start_server()
    return server


def command(**environ: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TVARR_")}
    done = subprocess.run(
        [BIN / "tvarr", "health"], env=clean | environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_both_roles(tmp_path: Path) -> None:
    metrics = str(free_port())
    with cluster(tmp_path) as running:
        where = {"TVARR_HTTP_PORT": str(running.http_port), "TVARR_METRICS_LISTEN": f"127.0.0.1:{metrics}"}
        assert health.ask(("127.0.0.1", running.http_port)) == ""
        worker(running, metrics)
        assert command(**where) == (0, "")
        running.roles["coordinator"].stop()
        code, said = command(**where)
        assert code == 1
        first, second = said.splitlines()
        assert first == f"coordinator at 127.0.0.1:{running.http_port}: Connection refused"
        assert second == f"ffmpegd at 127.0.0.1:{metrics}: 503 not attached to a coordinator"


def worker(running: Cluster, metrics_port: str) -> None:
    running.start_daemon("worker", "--metrics-listen", f"127.0.0.1:{metrics_port}", "--max-jobs", "1")
    eventually(lambda: running.daemon_state("worker") == "connected", "the worker is connected")


def test_the_file_of_run_roles_says_whom_to_ask(tmp_path: Path) -> None:
    roles = tmp_path / "roles"
    roles.write_text(" ffmpegd\n")
    code, said = command(TVARR_ROLES_FILE=str(roles), TVARR_ROLE="all", TVARR_METRICS_LISTEN=f":{free_port()}")
    assert code == 1
    assert said.startswith("ffmpegd at 127.0.0.1:")
    assert said.count("\n") == 1
    roles.unlink()
    assert command(TVARR_ROLES_FILE=str(roles), TVARR_ROLE="coordinator", TVARR_HTTP_PORT=str(free_port()))[0] == 1


@pytest.mark.parametrize(
    ("status", "words", "trouble"),
    [
        (200, "ok", ""),
        (503, '{"title": "the coordinator\n is starting"}', '503 {"title": "the coordinator is starting"}'),
        (500, "", "500"),
        (404, "x" * 1000, "404 " + "x" * health.MAX_WORDS),
    ],
)
async def test_what_an_answer_means(status: int, words: str, trouble: str) -> None:
    server = await answering(status, words)
    assert await asyncio.to_thread(health.ask, ("127.0.0.1", server.port or 0)) == trouble
    await server.close()


async def raw(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def test_what_is_no_http_server() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        writer.close()

    async with await raw(greet) as server:
        address = server.sockets[0].getsockname()
        assert await asyncio.to_thread(health.ask, address) == "what answers is no HTTP server"


async def test_who_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await asyncio.to_thread(health.ask, silent.getsockname()) == "timed out"


@pytest.mark.parametrize(
    ("roles", "ffmpegd", "asked"),
    [
        ("all", ("127.0.0.1", 9097), {"coordinator": ("127.0.0.1", 8080), "ffmpegd": ("127.0.0.1", 9097)}),
        ("all", None, {"coordinator": ("127.0.0.1", 8080)}),
        ("", None, {"coordinator": ("127.0.0.1", 8080)}),
        ("coordinator", ("127.0.0.1", 9097), {"coordinator": ("127.0.0.1", 8080)}),
        ("ffmpegd", ("0.0.0.0", 9097), {"ffmpegd": ("127.0.0.1", 9097)}),
        ("ffmpegd coordinator", ("[::]", 1), {"coordinator": ("127.0.0.1", 8080), "ffmpegd": ("::1", 1)}),
    ],
)
def test_who_is_asked(roles: str, ffmpegd: tuple[str, int] | None, asked: dict[str, tuple[str, int]]) -> None:
    assert health.addresses(roles, ("0.0.0.0", 8080), ffmpegd) == asked


@pytest.mark.parametrize(
    ("roles", "http_port", "ffmpegd", "words"),
    [
        ("viewer", 8080, None, "--role takes all, coordinator or ffmpegd, not 'viewer'"),
        ("ffmpegd", 8080, None, "--metrics-listen is where a daemon tells its health, and is not set"),
        ("coordinator", 0, None, "a port that the system chose can't be asked"),
    ],
)
def test_what_cannot_be_asked(roles: str, http_port: int, ffmpegd: tuple[str, int] | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        health.addresses(roles, ("0.0.0.0", http_port), ffmpegd)
