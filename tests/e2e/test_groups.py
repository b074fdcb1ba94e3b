"""Limits on a channel group's connections and on all channels: who gets one, who is refused, when one is free again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.test_one_connection import Origin
from tests.harness import Cluster, cluster, eventually, read_all, read_on, watching

GROUP = "Pay TV"
PATH = "/api/v1/groups/Pay%20TV"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """Relays that nobody watches linger for longer than any test here."""
    flags = ("--idle-linger", "60")
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=clips, coordinator_flags=flags) as made:
        yield made


class Provider(Origin):
    """Counts what is open at once, and has a channel that ends as well."""

    most_open = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.most_open = max(self.most_open, len(self.open) + 1)
        return await super().answer(request)

    async def short(self, _: web.Request) -> web.Response:
        return web.Response(body=self.clip, content_type="video/mp2t")


@pytest.fixture
async def provider(clips: Path, running: Cluster) -> AsyncIterator[Provider]:
    made = Provider(await asyncio.to_thread((clips / "clip.ts").read_bytes))
    application = web.Application()
    application.router.add_get("/{name}.ts", made.answer)
    application.router.add_get("/short", made.short)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    for relay in await asyncio.to_thread(running.relays):
        await asyncio.to_thread(running.request, "DELETE", f"/api/v1/relays/{relay['id']}")
    await runner.cleanup()


@pytest.fixture
def small(tmp_path: Path, clips: Path) -> Iterator[Cluster]:
    """May run two channels at once."""
    flags = ("--idle-linger", "60", "--max-relays", "2")
    with cluster(tmp_path, media_dir=clips, coordinator_flags=flags) as made:
        yield made


async def limit(running: Cluster, most: int) -> dict[str, Any]:
    status, group = await asyncio.to_thread(running.request, "PUT", PATH, {"max_connections": most})
    assert status == 200
    return dict(group)


async def add(running: Cluster, provider: Provider, name: str, **fields: Any) -> str:
    """The address of a new channel in the group."""
    url = f"{provider.url}/{fields.pop('path', name.replace(' ', '-') + '.ts')}"
    slug = await asyncio.to_thread(running.add_channel, name, url, group=GROUP, **fields)
    return running.stream_url(slug)


async def nobody_watches(running: Cluster) -> None:
    def look() -> bool:
        return not any(variant["viewers"] for relay in running.relays() for variant in relay["variants"])

    await asyncio.to_thread(eventually, look, "the viewers have left")


async def test_at_the_limit_one_more_channel_is_refused_in_words(running: Cluster, provider: Provider) -> None:
    one, two = await add(running, provider, "One HD"), await add(running, provider, "Two HD")
    await limit(running, 1)
    async with watching(one) as first, watching(one) as second, watching(two) as refused:
        await asyncio.gather(read_on(first, 0.1), read_on(second, 0.1))  # of one channel, as many as like to
        assert refused.status == 503
        assert refused.content_type == "application/problem+json"
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["X-HDHomeRun-Error"].startswith("805 ")
        problem = await refused.json()
        assert problem["detail"] == "the group 'Pay TV' may have 1 connection to its provider, in use by One HD"
        assert problem["reasons"] == ["One HD: 2 viewers, for 0 min"]
        for path in ("index.m3u8", "manifest.mpd"):
            async with watching(two.replace(".ts", f"/{path}")) as also:
                assert also.status == 503
        group = await asyncio.to_thread(running.get, PATH)
        assert (group["connections"], group["max_connections"]) == (1, 1)
        async with watching(f"{running.url}/metrics") as answer:
            measured = (await answer.text()).splitlines()
        assert f'tvarr_connections{{group="{GROUP}"}} 1.0' in measured
        assert "tvarr_connections_refused_total 3.0" in measured

        await limit(running, 2)
        async with watching(two) as admitted:
            await read_on(admitted, 0.1)
            assert len(provider.open) == 2
    assert provider.most_open == 2


async def test_a_relay_that_nobody_watches_gives_way(running: Cluster, provider: Provider) -> None:
    urls = [await add(running, provider, f"Zap {n}") for n in range(3)]
    await limit(running, 1)
    for url in (*urls, urls[0]):
        async with watching(url) as answer:
            await read_on(answer, 0.1)
        await nobody_watches(running)
        assert len(provider.open) == 1  # it lingers
    assert (provider.requests, provider.most_open) == (4, 1)
    async with watching(urls[0]) as back:
        await read_on(back, 0.1)
    assert provider.requests == 4  # who zaps back in time finds it open


async def test_many_who_come_at_once_get_no_more_than_there_are(running: Cluster, provider: Provider) -> None:
    urls = [await add(running, provider, f"Rush {n}") for n in range(6)]
    await limit(running, 2)
    async with watching(urls[0]) as answer:
        await read_on(answer, 0.1)
    await nobody_watches(running)
    provider.most_open = 0

    async def ask(url: str) -> int:
        async with watching(url) as answer:
            if answer.status == 200:
                await read_on(answer, 1.0)
            return answer.status

    statuses = await asyncio.gather(*(ask(url) for url in urls[1:]))
    assert sorted(statuses) == [200, 200, 503, 503, 503]
    assert provider.most_open <= 2


async def test_a_source_that_has_ended_and_a_file_are_no_connections(running: Cluster, provider: Provider) -> None:
    short = await add(running, provider, "Short", path="short", pace="fast")
    live = await add(running, provider, "Live")
    slug = await asyncio.to_thread(running.add_channel, "File", "file:clip.ts", group=GROUP)
    await limit(running, 1)
    assert len(await read_all(short)) > len(provider.clip) // 2
    async with watching(live) as answer, watching(running.stream_url(slug)) as of_file:
        assert (answer.status, of_file.status) == (200, 200)
        await asyncio.gather(read_on(answer, 0.1), read_on(of_file, 0.1))
        group = await asyncio.to_thread(running.get, PATH)
        assert group["connections"] == 1


async def test_another_address_of_a_channel_takes_no_second_connection(running: Cluster, provider: Provider) -> None:
    url = await add(running, provider, "Moving")
    await limit(running, 1)
    async with watching(url) as answer:
        await read_on(answer, 0.1)
        change = {"url": f"{provider.url}/elsewhere.ts"}
        status, _ = await asyncio.to_thread(running.request, "PATCH", "/api/v1/channels/moving", change)
        assert status == 200
        async with watching(url) as again:
            assert again.status == 200
            await read_on(again, 0.1)
    assert (provider.requests, provider.most_open) == (2, 1)


async def test_no_more_channels_run_than_the_coordinator_may(small: Cluster) -> None:
    slugs = [await asyncio.to_thread(small.add_channel, f"File {n}", "file:clip.ts", loop=True) for n in range(3)]
    one, two, three = (small.stream_url(slug) for slug in slugs)
    async with watching(one) as first, watching(two) as second, watching(one) as also, watching(three) as refused:
        await asyncio.gather(read_on(first, 0.1), read_on(second, 0.1), read_on(also, 0.1))
        problem = await refused.json()
        assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)
        assert problem["detail"] == "this coordinator may run 2 channels at once, in use by File 0, File 1"
        assert sorted(problem["reasons"]) == ["File 0: 2 viewers, for 0 min", "File 1: 1 viewer, for 0 min"]
    await nobody_watches(small)
    async with watching(three) as admitted:
        await read_on(admitted, 0.1)
        running = await asyncio.to_thread(small.relays)
        assert (admitted.status, len(running)) == (200, 2)


async def test_a_channel_whose_source_fails_keeps_no_place(small: Cluster) -> None:
    dead = await asyncio.to_thread(small.add_channel, "Dead", "http://127.0.0.1:9/dead.ts")
    slugs = [await asyncio.to_thread(small.add_channel, f"File {n}", "file:clip.ts", loop=True) for n in range(2)]
    async with watching(small.stream_url(dead)) as failed:
        assert failed.status == 502
    async with watching(small.stream_url(slugs[0])) as one, watching(small.stream_url(slugs[1])) as two:
        assert (one.status, two.status) == (200, 200)
