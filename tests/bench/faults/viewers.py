"""Two viewers of each relay: one of a transcode, one of the source's own pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.bench.faults.received import Received
from tests.harness import Cluster

FIRST_WITHIN_S = 30.0


@dataclass(slots=True)
class Viewer:
    """Somebody who watches one stream until the block ends."""

    url: str
    received: Received = field(default_factory=Received)
    ended: str = ""  # why the stream was over before that

    async def watch(self, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with session.get(self.url) as answer:
                if answer.status != 200:
                    self.ended = f"status {answer.status}: {await answer.text()}"
                    return
                while chunk := await answer.content.readany():
                    self.received.feed(chunk, loop.time())
            self.ended = "the stream ended"
        except aiohttp.ClientError as error:
            self.ended = f"the stream broke off: {error}"

    @property
    def newest_ticks(self) -> int:
        """Greatest PTS of video so far; -1: none."""
        return max((pes.pts for pes in self.received.video[-8:]), default=-1)


@dataclass(slots=True)
class Watched:
    """One relay and its two viewers."""

    slug: str
    profile: str
    transcode: Viewer
    source: Viewer

    @property
    def trouble(self) -> str:
        return self.transcode.ended or (self.source.ended and f"passthrough: {self.source.ended}")

    def variant(self, cluster: Cluster) -> dict[str, Any]:
        """The transcode as the API shows it; empty where there is none."""
        relays = [relay for relay in cluster.relays() if relay["channel"]["slug"] == self.slug]
        variants = [v for relay in relays for v in relay["variants"] if v["profile"] == self.profile]
        return variants[0] if variants else {}

    async def until_ticks(self, ticks: int, within_s: float) -> bool:
        """Whether the transcode came to this PTS in time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.transcode.newest_ticks < ticks:
            if self.trouble or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


@asynccontextmanager
async def watched(cluster: Cluster, slugs: Sequence[str], profile: str) -> AsyncIterator[list[Watched]]:
    """Every relay with both viewers, each of which has pictures."""
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, connector=connector))
        them = [
            Watched(slug, profile, Viewer(cluster.stream_url(slug, profile)), Viewer(cluster.stream_url(slug)))
            for slug in slugs
        ]
        tasks = [asyncio.create_task(viewer.watch(session)) for one in them for viewer in (one.transcode, one.source)]
        try:
            async with asyncio.timeout(FIRST_WITHIN_S):
                while any(min(one.transcode.newest_ticks, one.source.newest_ticks) < 0 for one in them):
                    assert not any(one.trouble for one in them), [one.trouble for one in them]
                    await asyncio.sleep(0.02)
            yield them
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
