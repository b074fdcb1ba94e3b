"""Channels count connections at their providers: one, whatever is watched and by how many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.clips import probe_bytes
from tests.harness import Cluster, cluster, eventually, read_on, watching

CLIP_S = 8.0  # clip.ts
SLICE_S = 0.1


@dataclass
class Origin:
    """An HTTP server that sends a clip over and over, at the clip's own speed, to whoever connects."""

    clip: bytes
    url: str = ""
    requests: int = 0
    open: dict[asyncio.Task[None], web.Request] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        response = web.StreamResponse(headers={"Content-Type": "video/mp2t"})
        await response.prepare(request)
        sending = asyncio.create_task(self._send(response))
        self.open[sending] = request
        try:
            await asyncio.wait({sending})
        finally:
            sending.cancel()
            del self.open[sending]
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        size = round(len(self.clip) * SLICE_S / CLIP_S / 188) * 188
        due, at = time.monotonic(), 0
        while True:
            await response.write(self.clip[at : at + size])
            at = at + size if at + size < len(self.clip) else 0
            due += SLICE_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def end(self) -> None:
        """Ends every answer in mid-stream, in good order."""
        for sending in self.open:
            sending.cancel()

    def cut(self) -> None:
        """Breaks every connection."""
        for request in self.open.values():
            assert request.transport is not None
            request.transport.abort()


@pytest.fixture
async def origin(clips: Path) -> AsyncIterator[Origin]:
    made = Origin(await asyncio.to_thread((clips / "clip.ts").read_bytes))
    application = web.Application()
    application.router.add_get("/live.ts", made.answer)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/live.ts"
    yield made
    await runner.cleanup()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("tvarr"), coordinator_flags=("--idle-linger", "0.5")) as made:
        made.start_daemon("worker")
        yield made


async def until(look: Callable[[], bool], what: str) -> None:
    """As `eventually`, beside the origin, which lives in this loop."""
    await asyncio.to_thread(eventually, look, what)


def relay_of(running: Cluster, slug: str) -> dict[str, Any]:
    (relay,) = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
    return dict(relay)


async def test_many_viewers_and_profiles_are_one_connection(running: Cluster, origin: Origin) -> None:
    slug = await asyncio.to_thread(running.add_channel, "Provider", origin.url)
    async with AsyncExitStack() as stack:
        for profile in ("passthrough", "h264", "h264-low"):
            url = running.stream_url(slug, profile)
            answers = [await stack.enter_async_context(watching(url)) for _ in range(3)]
            assert [answer.status for answer in answers] == [200] * 3
            await asyncio.gather(*(read_on(answer, 0.2) for answer in answers))
        relay = await asyncio.to_thread(relay_of, running, slug)
        assert sorted(len(variant["viewers"]) for variant in relay["variants"]) == [3, 3, 3]
        assert (origin.requests, len(origin.open)) == (1, 1)
    left_at = time.monotonic()
    await until(lambda: not origin.open, "the connection is closed")
    assert 0.4 < time.monotonic() - left_at < 5.0
    assert origin.requests == 1


async def test_a_viewer_who_comes_back_in_time_finds_the_connection_open(running: Cluster, origin: Origin) -> None:
    slug = await asyncio.to_thread(running.add_channel, "Zapped", origin.url)
    for _ in range(3):
        async with watching(running.stream_url(slug)) as answer:
            await read_on(answer, 0.1)
    assert origin.requests == 1


@pytest.mark.parametrize(("profile", "leave"), [("passthrough", Origin.end), ("h264", Origin.cut)])
async def test_a_stream_goes_on_when_the_source_connects_again(
    running: Cluster, origin: Origin, tmp_path: Path, profile: str, leave: Callable[[Origin], None]
) -> None:
    slug = await asyncio.to_thread(running.add_channel, f"Flaky {profile}", origin.url)
    async with watching(running.stream_url(slug, profile)) as answer:
        data = await read_on(answer, 1.5)
        leave(origin)
        await until(lambda: origin.requests == 2, "the source is connected to again")
        data += await read_on(answer, 3.0)
        relay = await asyncio.to_thread(relay_of, running, slug)
        assert relay["source"]["reconnections"] == 1
        assert relay["source"]["state"] == "running"
        assert len(origin.open) == 1
    got = probe_bytes(data, tmp_path)
    for kind, usual in (("video", 3600), ("audio", 1920)):
        dts = got.dts(kind)
        steps = [later - earlier for earlier, later in pairwise(dts)]
        assert min(steps) > 0
        holes = [step for step in steps if step > usual]  # what was lost, or the sound's way behind the picture
        assert len(holes) <= 1, holes
        assert sum(holes) < 45_000, holes
        assert dts[-1] - dts[0] > 3.5 * 90_000
