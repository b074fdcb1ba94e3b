"""Clients that mean no good: a viewer beside them gets every picture, and others are served again after them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from tests.clips import probe_bytes
from tests.conftest import program
from tests.harness import Cluster, cluster, eventually, recorded

FILES = 160  # descriptors that the coordinator may have


@pytest.fixture(scope="module")
def few_files(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A coordinator with few descriptors and a daemon."""
    with cluster(
        tmp_path_factory.mktemp("few"), media_dir=clips, prefix=(program("prlimit"), f"--nofile={FILES}:{FILES}")
    ) as running:
        running.start_daemon("worker", prefix=())
        yield running


@contextlib.asynccontextmanager
async def a_viewer_who_gets_all(running: Cluster, folder: Path) -> AsyncIterator[None]:
    """Watches a transcode through all that is done meanwhile, and has every picture of that time."""
    file = (running.media_dir or Path()).joinpath("clip.ts")
    slug = running.add_channel("clip", file.as_uri(), loop=True)
    try:
        async with recorded(running.stream_url(slug, "h264-low")) as data:
            await asyncio.to_thread(eventually, lambda: data, "the viewer sees something")
            yield
    finally:
        running.request("DELETE", f"/api/v1/channels/{slug}")
    pts = (await asyncio.to_thread(probe_bytes, bytes(data), folder)).pts("video")
    assert len(pts) > 25
    assert max(b - a for a, b in pairwise(pts)) < 7200  # where the clip begins anew it is a little more than 3600


async def test_silent_connections_do_not_keep_others_out(few_files: Cluster, tmp_path: Path) -> None:
    async with a_viewer_who_gets_all(few_files, tmp_path):
        silent = []
        for port in (few_files.http_port, few_files.grpc_port):
            for _ in range(FILES):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
                silent.append(one)

        def served() -> bool:
            with contextlib.suppress(OSError):
                return few_files.request("GET", "/api/v1/relays")[0] == 200
            return False

        await asyncio.to_thread(eventually, served, "the coordinator takes connections again", 40.0)
        for one in silent:
            one.close()
    text = few_files.roles["coordinator"].text()
    assert "Traceback" not in text
    assert text.count("WARNING") < 20  # said, and not once for each


async def test_calls_without_the_token_change_nothing(few_files: Cluster, tmp_path: Path) -> None:
    async def knock(channel: grpc.aio.Channel) -> grpc.StatusCode:
        call = channel.stream_stream("/tvarr.v1.Coordinator/Attach")(metadata=(("authorization", "Bearer x"),))
        return await call.code()

    async with a_viewer_who_gets_all(few_files, tmp_path):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{few_files.grpc_port}") as channel:
            for _ in range(10):
                codes = await asyncio.gather(*(knock(channel) for _ in range(100)))
                assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
        assert few_files.daemon_state("worker") == "connected"
    assert few_files.roles["coordinator"].text().count("does not carry the token") < 5


@pytest.mark.parametrize(
    ("headers", "status"), [({"X-Long": "a" * 100_000}, 400), ({f"X-{n}": "a" * 100 for n in range(2000)}, 400)]
)
async def test_headers_without_end_are_refused(few_files: Cluster, headers: dict[str, str], status: int) -> None:
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientOSError):  # it need not read all of it
            async with session.get(few_files.url + "/livez", headers=headers) as answer:
                assert answer.status == status
        async with session.get(few_files.url + "/livez") as answer:
            assert answer.status == 200
    assert "Traceback" not in few_files.roles["coordinator"].text()
