"""Workers behind bad lines, a worker whose address changes, and name servers that are slow or dead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clips import probe_bytes
from tests.fakes.line import Line, line
from tests.fakes.names import name_server
from tests.fakes.sources import ScriptedServer, answer
from tests.harness import Cluster, cluster, eventually, read_all, read_for, recorded, watching

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


async def status_of(url: str) -> int:
    async with watching(url) as response:
        return response.status


async def test_slow_and_dead_names_hold_up_nobody_else(tmp_path: Path, clips: Path) -> None:
    delays = {"quick": 0.0, "slow": 3.0, "slower": 7.0}  # seconds; of other names: for ever
    async with (
        name_server(tmp_path, lambda name: delays.get(name.partition(".")[0])) as prefix,
        ScriptedServer(answer((clips / "clip.ts").read_bytes())) as server,
    ):
        with cluster(tmp_path, media_dir=clips, prefix=prefix) as running:

            def url(name: str) -> str:
                slug = running.add_channel(name, f"http://{name}.example:{server.port}/live.ts", pace="fast")
                return running.stream_url(slug)

            dead = [asyncio.create_task(status_of(url(f"dead-{number}"))) for number in range(40)]
            late = [asyncio.create_task(status_of(url(name))) for name in ("slow", "slower")]
            await asyncio.sleep(0)
            data = await read_all(url("quick"))
            assert not any(task.done() for task in (*dead, *late))
            assert len((await asyncio.to_thread(probe_bytes, data, tmp_path)).pts("video")) == 200
            assert await asyncio.gather(*late) == [200, 200]
            assert set(await asyncio.gather(*dead)) == {502}
            again = asyncio.create_task(status_of(url("dead-again")))
            role = running.roles["coordinator"]
            await asyncio.to_thread(
                eventually, lambda: "dead-again: the relay starts" in role.text(), "it is looked up"
            )
            assert await asyncio.to_thread(role.stop) == 0
            await asyncio.gather(again, return_exceptions=True)
