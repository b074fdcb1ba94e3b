"""How roles end: in time, with exit code 0, and with nothing left behind; and how they find each other again."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.harness import Cluster, Role, cluster, eventually, read_for, watching

STOP_WITHIN_S = 10.0  # promised by the contract


@pytest.fixture
def running(tmp_path: Path, clips: Path) -> Iterator[Cluster]:
    with cluster(tmp_path, media_dir=clips) as made:
        made.start_daemon("worker")
        yield made


@asynccontextmanager
async def viewers(running: Cluster) -> AsyncIterator[list[aiohttp.ClientResponse]]:
    """Two viewers in mid-stream: one of the channel as it is, one of a transcode."""
    slug = running.add_channel("Live", "file:clip.ts", loop=True)
    async with watching(running.stream_url(slug)) as plain, watching(running.stream_url(slug, "h264")) as transcoded:
        for answer in (plain, transcoded):
            assert answer.status == 200
            assert await answer.content.readany()
        yield [plain, transcoded]


def children(role: Role) -> list[psutil.Process]:
    """The role's ffmpeg processes; there is at least one."""
    found = psutil.Process(role.process.pid).children(recursive=True)
    assert any(child.name().startswith("ffmpeg") for child in found)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def stop(role: Role) -> float:
    """Sends SIGTERM, asserts exit code 0, and returns how long the end took."""
    started = time.monotonic()
    assert role.stop() == 0, role.text()
    return time.monotonic() - started


async def to_its_end(answer: aiohttp.ClientResponse) -> None:
    """Reads until the connection is closed, in whichever way."""
    async with asyncio.timeout(STOP_WITHIN_S):
        try:
            while await answer.content.readany():
                pass
        except aiohttp.ClientError:
            pass


async def test_a_coordinator_ends_in_time_and_its_viewers_connections_with_it(running: Cluster) -> None:
    async with viewers(running) as answers:
        stopping = asyncio.create_task(asyncio.to_thread(stop, running.roles["coordinator"]))
        await asyncio.gather(*(to_its_end(answer) for answer in answers))
        assert await stopping < STOP_WITHIN_S
    assert "Traceback" not in running.roles["coordinator"].text()


async def test_a_daemon_ends_in_time_and_its_ffmpeg_with_it(running: Cluster) -> None:
    role = running.roles["worker"]
    async with viewers(running):
        theirs = children(role)
        assert await asyncio.to_thread(stop, role) < STOP_WITHIN_S
        assert gone(theirs)
    await asyncio.to_thread(eventually, lambda: running.daemon_state("worker") == "disconnected", "it is disconnected")
    assert "Traceback" not in role.text()


async def test_no_ffmpeg_outlives_a_daemon_that_is_killed(running: Cluster) -> None:
    role = running.roles["worker"]
    async with viewers(running):
        theirs = children(role)
        role.process.kill()
        await asyncio.to_thread(role.process.wait, STOP_WITHIN_S)
        await asyncio.to_thread(eventually, lambda: gone(theirs), "ffmpeg is gone", 5.0)


async def test_a_second_signal_ends_a_daemon_at_once(running: Cluster) -> None:
    role = running.roles["worker"]
    async with viewers(running):
        theirs = children(role)
        for process in theirs:
            process.suspend()  # it can't end when it is asked to: the daemon waits for it
        role.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: "stopping on SIGTERM" in role.text(), "the first is heard")
        role.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(role.process.wait, 1.0) == -signal.SIGTERM
        await asyncio.to_thread(eventually, lambda: gone(theirs), "ffmpeg is gone", 5.0)


@pytest.mark.parametrize(("flag", "other"), [("--http-port", "--grpc-port"), ("--grpc-port", "--http-port")])
def test_a_port_in_use_is_told_in_one_line(tmp_path: Path, flag: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("--host", "127.0.0.1", "--data-dir", str(tmp_path / "data"))
        role = Cluster(tmp_path).run("coordinator", "coordinator", flag, port, other, "0", *arguments)
        assert role.process.wait(30) == 1
    (line,) = role.text().splitlines()
    assert f"port {port}" in line
    assert line.endswith("in use by another program")
    assert "error" not in line


async def test_a_daemon_comes_back_to_a_coordinator_that_was_started_again(running: Cluster) -> None:
    async with viewers(running):
        await asyncio.to_thread(stop, running.roles["coordinator"])
    await asyncio.to_thread(running.start_coordinator)
    await asyncio.to_thread(eventually, lambda: running.daemon_state("worker") == "connected", "the daemon is back")
    assert running.roles["worker"].process.poll() is None
    assert len(await read_for(running.stream_url("live", "h264"), 1.0)) > 20_000
