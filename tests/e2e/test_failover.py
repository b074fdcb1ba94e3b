"""A daemon or its ffmpeg is lost in mid-stream: the job goes on elsewhere and viewers see every picture once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.clips import decode_errors, probe_bytes, up_to_the_last_frame
from tests.e2e.two_daemons import assert_nothing_lost, both_daemons, variant
from tests.harness import Cluster, cluster, eventually, read_on, watching

AFTER_S = 5.0  # how long a stream is watched after the loss


def ffmpeg_of(running: Cluster, daemon: str) -> list[psutil.Process]:
    children = psutil.Process(running.roles[daemon].process.pid).children(recursive=True)
    return [child for child in children if child.name().startswith("ffmpeg")]


def kill_daemon(running: Cluster, name: str) -> None:
    running.roles[name].process.kill()


def kill_ffmpeg(running: Cluster, name: str) -> None:
    (process,) = ffmpeg_of(running, name)
    process.kill()


@pytest.mark.parametrize(
    ("lose", "clip", "code", "words", "state"),
    [
        pytest.param(kill_daemon, "clip.ts", "connection_lost", "", "disconnected", id="daemon killed"),
        pytest.param(kill_daemon, "mp2.ts", "connection_lost", "", "disconnected", id="daemon killed, sound encoded"),
        pytest.param(kill_ffmpeg, "clip.ts", "ffmpeg_exited", "SIGKILL", "connected", id="ffmpeg killed"),
    ],
)
async def test_a_viewer_sees_every_picture_once(
    two: Cluster,
    tmp_path: Path,
    lose: Callable[[Cluster, str], None],
    clip: str,
    code: str,
    words: str,
    state: str,
) -> None:
    slug = two.add_channel(f"Live {code} {clip}", f"file:{clip}", loop=True)
    data = bytearray()
    async with watching(two.stream_url(slug, "h264")) as answer:
        assert answer.status == 200, await answer.text()
        data = await read_on(answer, 2.0)
        first = variant(two, slug)["job"]["daemon_name"]
        lose(two, first)
        data += await read_on(answer, AFTER_S)
        after = variant(two, slug)
    assert after["takeovers"] == 1
    assert after["job"]["daemon_name"] == ({"one", "two"} - {first}).pop()
    (ending,) = after["endings"]
    assert (ending["code"], ending["daemon_name"]) == (code, first)
    assert words in ending["reason"]
    await asyncio.to_thread(eventually, lambda: two.daemon_state(first) == state, f"{first} is {state}")
    log = two.roles["coordinator"].text()
    assert f"{slug}/h264: goes on on {after['job']['daemon_name']}" in log
    if state == "disconnected":
        assert f" WARNING coordinator.daemons: daemon {first} disconnected" in log
    assert_nothing_lost(probe_bytes(up_to_the_last_frame(data), tmp_path), 2.0 + AFTER_S - 1.0)
    assert decode_errors(tmp_path / "received.ts") == []


async def test_where_no_takeover_is_allowed_the_connection_is_broken_off(tmp_path: Path, clips: Path) -> None:
    with cluster(tmp_path, media_dir=clips, coordinator_flags=("--max-takeovers", "0")) as running:
        both_daemons(running)
        slug = running.add_channel("Live", "file:clip.ts", loop=True)
        async with watching(running.stream_url(slug, "h264")) as answer:
            await read_on(answer, 0.5)
            kill_daemon(running, variant(running, slug)["job"]["daemon_name"])
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(10):
                    await answer.content.read()
        assert "ended: " in running.roles["coordinator"].text()
        (failure,) = running.get("/api/v1/failures")
        assert (failure["channel"], failure["profile"], failure["status"]) == (slug, "h264", None)
        async with watching(running.stream_url(slug, "h264")) as again:  # what failed is not what others get
            assert again.status == 200
            await read_on(again, 0.5)


async def test_when_every_chance_is_used_up_the_stream_ends_with_the_chain_of_reasons(
    tmp_path: Path, clips: Path
) -> None:
    with cluster(tmp_path, media_dir=clips, coordinator_flags=("--max-takeovers", "1")) as running:
        both_daemons(running)
        slug = running.add_channel("Live", "file:clip.ts", loop=True)
        async with watching(running.stream_url(slug, "h264")) as answer:
            await read_on(answer, 0.5)
            lost = []
            for takeovers in (0, 1):
                await asyncio.to_thread(
                    eventually, lambda n=takeovers: variant(running, slug)["takeovers"] == n, "it was taken over"
                )
                await read_on(answer, 0.5)
                lost.append(variant(running, slug)["job"]["daemon_name"])
                kill_ffmpeg(running, lost[-1])
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(10):
                    await answer.content.read()
        assert lost[0] != lost[1]
        log = running.roles["coordinator"].text()
        given_up = next(line for line in log.splitlines() if "given up after 2 failures in 10 min" in line)
        assert all(f"{name}: " in given_up for name in lost)
