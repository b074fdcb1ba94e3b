"""A running job is moved: its successor starts first, and not even a pause shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clips import decode_errors, probe_bytes, up_to_the_last_frame
from tests.e2e.two_daemons import assert_nothing_lost, variant
from tests.fakes.gpu_host import GpuHost
from tests.harness import Cluster, cluster, eventually, watching

LONGEST_PAUSE_S = 1.0  # between two reads; batches come every 40 ms, and this machine has other things to do


class Watcher:
    """Reads a stream and notes the longest pause between two reads."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.data = bytearray()
        self.longest_s = 0.0
        self._answer = answer

    async def until(self, condition: Callable[[], bool], what: str, then_s: float = 0.0) -> None:
        """Reads until the condition holds (looked at in a thread), and for so long after it."""
        deadline = time.monotonic() + 30
        held_at: float | None = None
        asked = asyncio.create_task(asyncio.to_thread(condition))
        while held_at is None or time.monotonic() < held_at + then_s:
            assert time.monotonic() < deadline, what
            before = time.monotonic()
            chunk = await self._answer.content.readany()
            assert chunk, "the stream ended"
            self.longest_s = max(self.longest_s, time.monotonic() - before)
            self.data += chunk
            if held_at is None and asked.done():
                if asked.result():
                    held_at = time.monotonic()
                else:
                    asked = asyncio.create_task(asyncio.to_thread(condition))


def daemon_id(running: Cluster, name: str) -> str:
    return next(str(t["id"]) for t in running.get("/api/v1/transcoders") if t["name"] == name)


def drain(running: Cluster, slug: str, name: str) -> None:
    status, _ = running.request("POST", f"/api/v1/transcoders/{daemon_id(running, name)}/drain")
    assert status == 200


def move(running: Cluster, slug: str, name: str) -> None:
    (relay,) = [r for r in running.relays() if r["channel"]["slug"] == slug]
    other = ({"one", "two"} - {name}).pop()
    status, answer = running.request("POST", f"/api/v1/relays/{relay['id']}/move", {"profile": "h264", "to": other})
    assert status == 202, answer


def terminate(running: Cluster, slug: str, name: str) -> None:
    running.roles[name].process.terminate()


@pytest.mark.parametrize(
    ("leave", "clip", "reason"),
    [
        pytest.param(drain, "clip.ts", "drain", id="drained"),
        pytest.param(move, "clip.ts", "operator", id="moved by the operator"),
        pytest.param(drain, "mp2.ts", "drain", id="drained, sound encoded"),
        pytest.param(terminate, "clip.ts", "drain", id="daemon stopped"),
    ],
)
async def test_viewers_notice_nothing(
    two: Cluster, tmp_path: Path, leave: Callable[[Cluster, str, str], None], clip: str, reason: str
) -> None:
    slug = two.add_channel(f"Moved {leave.__name__} {clip}", f"file:{clip}", loop=True)
    async with watching(two.stream_url(slug, "h264")) as answer:
        assert answer.status == 200, await answer.text()
        watcher = Watcher(answer)
        await watcher.until(lambda: variant(two, slug)["job"]["state"] == "running", "it runs", then_s=1.0)
        first: dict[str, Any] = variant(two, slug)["job"]
        await asyncio.to_thread(leave, two, slug, first["daemon_name"])
        watcher.longest_s = 0.0
        await watcher.until(lambda: bool(variant(two, slug)["moves"]), "it has moved", then_s=2.0)
        after = variant(two, slug)
    assert (after["moves"], after["takeovers"], after["lost_pictures"], after["successor"]) == (1, 0, 0, None)
    assert after["job"]["daemon_name"] == ({"one", "two"} - {first["daemon_name"]}).pop()
    (ending,) = after["endings"]
    assert (ending["code"], ending["daemon_name"], ending["job_id"]) == ("moved", first["daemon_name"], first["id"])
    assert reason in ending["reason"]
    assert watcher.longest_s < LONGEST_PAUSE_S
    assert_nothing_lost(probe_bytes(up_to_the_last_frame(watcher.data), tmp_path), 2.0)
    assert decode_errors(tmp_path / "received.ts") == []
    if leave is drain:
        two.request("POST", f"/api/v1/transcoders/{first['daemon_id']}/activate")
        assert two.daemon_state(first["daemon_name"]) == "connected"
    if leave is terminate:
        assert two.roles[first["daemon_name"]].process.wait(timeout=10) == 0


def test_a_drained_daemon_stays_so_when_the_coordinator_starts_again(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        running.start_daemon("one")
        for what, state in (("drain", "draining"), ("activate", "connected")):
            path = f"/api/v1/transcoders/{daemon_id(running, 'one')}/{what}"
            assert running.request("POST", path)[0] == 200
            running.roles["coordinator"].stop()
            running.start_coordinator()
            eventually(lambda: running.daemon_state("one"), "the daemon is back")
            assert running.daemon_state("one") == state


def encoder(running: Cluster, slug: str) -> str:
    return str(variant(running, slug)["job"]["encoder"])


async def test_a_job_that_fell_back_goes_to_hardware_when_a_session_frees(tmp_path: Path, clips: Path) -> None:
    flags = ("--idle-linger", "0.3", "--heartbeat-interval", "1")
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster", media_dir=clips, coordinator_flags=flags) as running, ExitStack() as taken:
        host = GpuHost(tmp_path / "host", 2)
        host.start_daemon(running, "gpu")
        slugs = [running.add_channel(name, "file:clip.ts", loop=True) for name in ("First", "Second")]
        taken.enter_context(host.foreign(1))
        eventually(lambda: running.get("/api/v1/transcoders")[0]["pools"][0]["foreign"] == 1, "it is counted")
        async with AsyncExitStack() as first:
            await first.enter_async_context(watching(running.stream_url(slugs[0], "h264")))
            await asyncio.to_thread(eventually, lambda: encoder(running, slugs[0]) == "h264_nvenc", "a session")
            async with watching(running.stream_url(slugs[1], "h264")) as answer:
                watcher = Watcher(answer)
                await watcher.until(lambda: variant(running, slugs[1])["job"]["state"] == "running", "it runs")
                assert encoder(running, slugs[1]) == "libx264"
                await first.aclose()
                watcher.longest_s = 0.0
                await watcher.until(lambda: bool(variant(running, slugs[1])["moves"]), "it was promoted", then_s=1.0)
                after = variant(running, slugs[1])
        assert (after["job"]["encoder"], after["takeovers"]) == ("h264_nvenc", 0)
        assert "hardware" in after["endings"][0]["reason"]
        assert watcher.longest_s < LONGEST_PAUSE_S
        assert host.refusals() == []
    assert_nothing_lost(probe_bytes(up_to_the_last_frame(watcher.data), tmp_path), 2.0)
    assert decode_errors(tmp_path / "received.ts") == []


async def test_a_job_that_nobody_else_can_do_stays(two: Cluster) -> None:
    slug = two.add_channel("Stays", "file:clip.ts", loop=True)
    async with watching(two.stream_url(slug, "h264")) as answer:
        watcher = Watcher(answer)
        await watcher.until(lambda: variant(two, slug)["job"]["state"] == "running", "it runs")
        here = variant(two, slug)["job"]["daemon_name"]
        other = ({"one", "two"} - {here}).pop()
        await asyncio.to_thread(drain, two, slug, other)
        try:
            (relay,) = two.relays()
            status, _ = two.request("POST", f"/api/v1/relays/{relay['id']}/move", {"profile": "h264"})
            assert status == 202
            before = len(watcher.data)
            await watcher.until(lambda: len(watcher.data) > before + 100_000, "it goes on")
            stays = variant(two, slug)
            assert (stays["moves"], stays["successor"], stays["endings"]) == (0, None, [])
            assert "no daemon can take over this job" in stays["move_refused"]
        finally:
            two.request("POST", f"/api/v1/transcoders/{daemon_id(two, other)}/activate")
