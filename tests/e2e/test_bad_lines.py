"""Workers behind bad lines, a worker whose address changes, and name servers that are slow or dead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clips import probe_bytes
from tests.conftest import program
from tests.fakes.line import Line, line
from tests.harness import Cluster, cluster, eventually, read_for, recorded, watching

SILENT = "127.0.53.1"  # where a name server listens that does not answer
PICTURE_TICKS = 3600


def longest_step(pts: list[int]) -> int:
    return max(b - a for a, b in pairwise(pts))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[tuple[Cluster, Line]]:
    """A coordinator here, and one worker at the far end of a line."""
    with (
        line() as there,
        cluster(tmp_path_factory.mktemp("far"), media_dir=clips, host="0.0.0.0") as running,
    ):
        running.host = "127.0.0.1"
        running.start_daemon("far", prefix=there.prefix, TVARR_COORDINATOR_URL=f"{there.here}:{running.grpc_port}")
        yield running, there


@pytest.mark.parametrize(("loss", "delay_s"), [(0.01, 0.005), (0.05, 0.005), (0.0, 0.2)])
async def test_every_picture_comes_over_a_bad_line(
    far: tuple[Cluster, Line], tmp_path: Path, loss: float, delay_s: float
) -> None:
    running, bad = far
    bad.loss, bad.delay_s = loss, delay_s
    before = bad.lost
    slug = running.add_channel("clip", "file:clip.ts", loop=True)
    try:
        data = await read_for(running.stream_url(slug, "h264-low"), 4.0)
        (relay,) = running.relays()
    finally:
        running.request("DELETE", f"/api/v1/channels/{slug}")
        bad.loss = bad.delay_s = 0.0
    assert (bad.lost > before) == (loss > 0)
    pts = (await asyncio.to_thread(probe_bytes, data, tmp_path)).pts("video")
    assert len(pts) > 50
    assert longest_step(pts) < 2 * PICTURE_TICKS
    assert relay["variants"][0]["takeovers"] == 0


async def test_a_worker_whose_address_changes_comes_back(far: tuple[Cluster, Line], tmp_path: Path) -> None:
    running, there = far
    slug = running.add_channel("clip", "file:clip.ts", loop=True)
    async with recorded(running.stream_url(slug, "h264-low")) as data:
        await asyncio.to_thread(eventually, lambda: len(data) > 50_000, "the far worker's pictures come")
        running.start_daemon("near")
        head, _, last = there.there.rpartition(".")
        there.move(f"{head}.{int(last) + 1}")

        def address() -> str:
            return str(next(t["address"] for t in running.get("/api/v1/transcoders") if t["name"] == "far"))

        await asyncio.to_thread(eventually, lambda: there.there in address(), "the far worker is back", 40.0)
        assert running.daemon_state("far") == "connected"
        seen = len(data)
        await asyncio.to_thread(eventually, lambda: len(data) > seen + 50_000, "pictures come on")
    pts = (await asyncio.to_thread(probe_bytes, bytes(data), tmp_path)).pts("video")
    assert longest_step(pts) < 2 * PICTURE_TICKS


@contextlib.asynccontextmanager
async def without_names(folder: Path, clips: Path) -> AsyncIterator[Cluster]:
    """A coordinator whose only name server takes questions and never answers."""
    resolv = folder / "resolv.conf"
    resolv.write_text(f"nameserver {SILENT}\n")
    in_its_place = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    prefix = (program("unshare"), "--mount", "sh", "-c", in_its_place, str(resolv))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SILENT, 53))
        with cluster(folder, media_dir=clips, prefix=prefix) as running:
            yield running


async def test_a_dead_name_server_holds_up_nobody_else(tmp_path: Path, clips: Path) -> None:
    async with without_names(tmp_path, clips) as running:
        lost = [running.add_channel(f"lost {n}", f"http://tv{n}.example/live.ts") for n in range(40)]
        clip = running.add_channel("clip", "file:clip.ts", loop=True)
        waiting = [asyncio.create_task(status_of(running.stream_url(slug))) for slug in lost]
        data = await read_for(running.stream_url(clip), 3.0)
        assert len((await asyncio.to_thread(probe_bytes, data, tmp_path)).pts("video")) > 50
        assert not any(task.done() for task in waiting)  # a source that is not there is known in time by another test
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def status_of(url: str) -> int:
    async with watching(url) as response:
        return response.status
