"""A coordinator that may have no more memory ends, so that it is started anew: it does not stay and serve nobody."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.harness import Cluster, cluster, eventually, watching

ABORTED = -6  # how gRPC's core ends a process that has no memory


async def how_it_ends(running: Cluster, slug: str) -> str:
    """What a slow viewer gets in the end: a status, or the end of the connection."""
    try:
        async with watching(running.stream_url(slug), timeout_s=60) as response:
            if response.status != 200:
                return str(response.status)
            async for _ in response.content.iter_any():
                await asyncio.sleep(0.05)
            return "ended well"
    except aiohttp.ClientError:
        return "cut"


@pytest.mark.parametrize("more_mib", [8, 40])  # than it has when idle: no room for a thread's stack, or for rings
async def test_a_coordinator_without_memory_ends_and_cuts_its_viewers(
    tmp_path: Path, clips: Path, more_mib: int
) -> None:
    with cluster(tmp_path, media_dir=clips) as running:
        role = running.roles["coordinator"]
        slugs = [running.add_channel(f"clip {n}", "file:clip.ts", loop=True, pace="fast") for n in range(6)]
        process = psutil.Process(role.process.pid)
        most = process.memory_info().data + (more_mib << 20)
        process.rlimit(resource.RLIMIT_DATA, (most, most))
        viewers = [asyncio.create_task(how_it_ends(running, slug)) for slug in slugs]
        await asyncio.to_thread(eventually, lambda: role.process.poll() is not None, "the coordinator has ended", 40.0)
        assert role.process.poll() in {1, ABORTED}
        assert role.process.poll() == ABORTED or "there is no memory left" in role.text()
        assert set(await asyncio.gather(*viewers)) <= {"cut", "503"}
