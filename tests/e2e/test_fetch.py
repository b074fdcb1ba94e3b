"""Channels whose source a daemon fetches: real senders, real roles, and the pictures that viewers get."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.clips import decode_errors, make_clip, probe, probe_bytes
from tests.conftest import program
from tests.e2e.two_daemons import both_daemons
from tests.fakes.senders import RtspServer, free_port, sending
from tests.harness import PASSWORD, Cluster, cluster, eventually, read_all, read_for, watching

VIDEO = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-b:v", "300k")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 s, a keyframe each second."""
    return make_clip(tmp_path_factory.mktemp("sent") / "clip.ts", size="320x180", video=VIDEO)


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("fetching"), coordinator_flags=("--idle-linger", "0.5")) as running:
        running.start_daemon("one")
        yield running


@pytest.fixture(autouse=True)
def _quiet(fetching: Cluster) -> None:
    eventually(lambda: not fetching.relays(), "the last test's relay has ended")


def source_of(running: Cluster, slug: str) -> dict[str, Any]:
    (relay,) = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
    return dict(relay["source"])


def steps(times: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(times)]


async def read_to_its_end(running: Cluster, slug: str) -> bytes:
    """What a viewer gets until the sender is gone; the stream itself goes on for a minute, should it come back."""
    data = bytearray()
    async with watching(running.stream_url(slug)) as response:
        assert response.status == 200, await response.text()
        reading = asyncio.create_task(_read(response, data))
        await asyncio.to_thread(eventually, lambda: source_of(running, slug)["state"] == "reconnecting", "the end")
        await asyncio.sleep(0.2)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return bytes(data)


@pytest.mark.parametrize("name", ["tcp", "srt-secret", "rtmp"])
async def test_every_picture_of_a_sender_reaches_the_viewer(
    fetching: Cluster, clip: Path, tmp_path: Path, name: str
) -> None:
    with sending(name, clip) as url:
        slug = fetching.add_channel(f"From {name}", url)
        got = probe_bytes(await read_to_its_end(fetching, slug), tmp_path)
    missing = 5 if name.startswith("srt") else 0  # FFmpeg's sender does not wait for what is on its way
    assert 200 - missing <= len(got.pts("video")) <= 200
    assert all(3500 < step < 3700 for step in steps(got.dts("video"))), steps(got.dts("video"))
    assert got.codecs() == ["h264", "aac"]
    assert decode_errors(tmp_path / "received.ts") == []
    assert "sesame" not in fetching.roles["coordinator"].text() + fetching.roles["one"].text()


async def test_matroska_over_http_is_fetched_to_its_end(fetching: Cluster, clip: Path, tmp_path: Path) -> None:
    """The coordinator sees what it is, leaves the connection, and has a daemon connect."""
    file, agents = tmp_path / "a.mkv", list[str]()
    command = ["-v", "error", "-i", str(clip), "-c:v", "copy", "-c:a", "aac", str(file)]
    await (await asyncio.create_subprocess_exec(program("ffmpeg"), *command)).wait()

    async def answer(request: web.Request) -> web.StreamResponse:
        agents.append(request.headers["User-Agent"] + request.headers.get("X-Key", ""))
        return web.FileResponse(file)

    async with http_server(answer) as base:
        headers = {"X-Key": "it's"}
        slug = fetching.add_channel("MKV", f"{base}/a.mkv", pace="fast", user_agent="tv/1", headers=headers)
        got = probe_bytes(await read_all(fetching.stream_url(slug)), tmp_path)
    assert len(got.pts("video")) == 200
    assert agents == ["tv/1it's"] * 2


async def test_a_file_that_is_fetched_faster_than_it_is_read_comes_to_its_last_picture(
    fetching: Cluster, tmp_path: Path
) -> None:
    """The daemon has sent all of it long before the coordinator, which keeps to real time, takes the rest."""
    file = tmp_path / "a.mkv"
    pictures = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=20", "-preset", "ultrafast", "-qp", "5", "-g", "50"]
    command = ["-v", "error", *pictures, "-c:v", "libx264", str(file)]  # more than is on its way at one moment
    await (await asyncio.create_subprocess_exec(program("ffmpeg"), *command)).wait()

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(file)

    async with http_server(answer) as base:
        slug = fetching.add_channel("Slow MKV", f"{base}/a.mkv")
        got = probe_bytes(await read_all(fetching.stream_url(slug)), tmp_path)
    assert len(got.pts("video")) == len(probe(file).pts("video"))


@contextlib.asynccontextmanager
async def http_server(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{name}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_one_connection_feeds_every_viewer_and_profile(fetching: Cluster, clip: Path, tmp_path: Path) -> None:
    server = RtspServer(clip, credentials="Basic YWRtaW46c2VzYW1l")
    async with server.serving() as url:
        slug = fetching.add_channel("Camera", url.replace("//", "//admin:sesame@"))
        one, two, three = await asyncio.gather(
            read_for(fetching.stream_url(slug), 4),
            read_for(fetching.stream_url(slug), 4),
            asyncio.wait_for(_transcoded(fetching, slug), 30),
        )
        assert server.most_open == 1
    for data in (one, two):
        got = probe_bytes(data, tmp_path)
        assert len(got.pts("video")) > 60
        assert set(steps(got.pts("video")[:-3])) <= {3600}
    assert three["source"]["url"].startswith("rtsp://***@")
    job = three["source"]["job"]
    assert (job["daemon_name"], job["state"]) == ("one", "running")
    assert three["source"]["placement"]["reason"] == "reads rtsp:"
    assert three["variants"][-1]["job"]["daemon_name"] == "one"


async def _transcoded(running: Cluster, slug: str) -> dict[str, Any]:
    """Watches the channel transcoded, until the job runs; the relay as it is then."""
    async with watching(running.stream_url(slug, "h264-low")) as response:
        assert response.status == 200, await response.text()
        await response.content.readexactly(188 * 100)
        (relay,) = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
        jobs = running.get("/api/v1/transcoders")[0]["jobs"]
        assert sorted(job["profile"] for job in jobs) == ["h264-low", "source"]
        status = running.run("status", "status", "--url", running.url, TVARR_ADMIN_PASSWORD=PASSWORD, COLUMNS="140")
        assert await asyncio.to_thread(status.wait, 20) == 0
        assert "fetches" in status.text()
        assert "reads rtsp:" in status.text()
        headers = {"Authorization": f"Bearer {PASSWORD}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{running.url}/relays") as page:
            assert page.status == 200
            assert "Fetched by" in await page.text()
    return dict(relay)


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("rtsp://127.0.0.1:{p}/cam", 502, "refuses the connection"),
        ("rtmp://nowhere.invalid/live/sesame", 502, "host name is not known"),
        ("rtmpe://127.0.0.1:{p}/live/sesame", 503, "no daemon reads rtmpe: sources"),
    ],
)
async def test_what_viewers_are_told(fetching: Cluster, url: str, status: int, words: str) -> None:
    slug = fetching.add_channel(f"Told {words}", url.format(p=free_port()))
    async with watching(fetching.stream_url(slug)) as response:
        problem = await response.json()
        assert (response.status, words in problem["detail"]) == (status, True), problem
        assert ("Retry-After" in response.headers) == (status == 503)
        assert status != 503 or problem["reasons"] == ["one: its ffmpeg does not read rtmpe:"]


async def test_a_source_that_comes_back_goes_on_in_the_same_stream(fetching: Cluster, clip: Path) -> None:
    port, data = free_port(), bytearray()
    with sending("tcp", clip, loops=-1, port=port) as url:
        slug = fetching.add_channel("Comes back", url)
        stack = contextlib.AsyncExitStack()
        response = await stack.enter_async_context(watching(fetching.stream_url(slug, "h264-low")))
        reading = asyncio.create_task(_read(response, data))
        await asyncio.to_thread(eventually, lambda: len(data) > 50_000, "the viewer gets pictures")
        job = fetching.relays()[0]["variants"][0]["job"]["id"]
    async with stack:
        await asyncio.to_thread(
            eventually, lambda: source_of(fetching, slug)["state"] == "reconnecting", "the loss is noticed"
        )
        with sending("tcp", clip, loops=-1, port=port):
            await asyncio.to_thread(
                eventually, lambda: source_of(fetching, slug)["state"] == "running", "it is connected to again"
            )
            length = len(data)
            await asyncio.to_thread(eventually, lambda: len(data) > length + 50_000, "the viewer gets more")
            assert fetching.relays()[0]["variants"][0]["job"]["id"] == job
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.fixture
def both(fetching: Cluster) -> None:
    """Two daemons."""
    both_daemons(fetching)


@pytest.mark.usefixtures("both")
async def test_a_daemon_that_drains_leaves_the_source_to_another(fetching: Cluster, clip: Path) -> None:
    server, data = RtspServer(clip), bytearray()
    async with server.serving() as url:
        slug = fetching.add_channel("Drains", url)
        async with watching(fetching.stream_url(slug)) as response:
            assert response.status == 200, await response.text()
            await response.content.readexactly(188 * 200)
            job = source_of(fetching, slug)["job"]
            fetching.request("POST", f"/api/v1/transcoders/{job['daemon_id']}/drain")

            def elsewhere() -> bool:
                source = source_of(fetching, slug)
                return source["state"] == "running" and source["job"]["daemon_name"] not in {"", job["daemon_name"]}

            reading = asyncio.create_task(_read(response, data))
            await asyncio.to_thread(eventually, elsewhere, "another daemon fetches")
            length = len(data)
            await asyncio.to_thread(eventually, lambda: len(data) > length + 50_000, "the viewer gets more")
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        fetching.request("POST", f"/api/v1/transcoders/{job['daemon_id']}/activate")
        assert server.most_open == 1


@pytest.mark.usefixtures("both")
async def test_another_daemon_goes_on_when_one_dies(fetching: Cluster, clip: Path, tmp_path: Path) -> None:
    server = RtspServer(clip)
    async with server.serving() as url:
        slug = fetching.add_channel("Moves", url)
        async with watching(fetching.stream_url(slug, "h264-low")) as response:
            assert response.status == 200, await response.text()
            data = bytearray(await response.content.readexactly(188 * 200))
            first = source_of(fetching, slug)["job"]["daemon_name"]
            fetching.roles[first].stop(signal.SIGKILL)

            def elsewhere() -> bool:
                source = source_of(fetching, slug)
                return source["state"] == "running" and source["job"]["daemon_name"] not in {"", first}

            reading = asyncio.create_task(_read(response, data))
            await asyncio.to_thread(eventually, elsewhere, "another daemon fetches")
            length = len(data)
            await asyncio.to_thread(eventually, lambda: len(data) > length + 150_000, "the viewer gets more")
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert server.most_open == 1
    got = probe_bytes(bytes(data), tmp_path)
    assert all(step > 0 for step in steps(got.dts("video")))


async def _read(response: Any, data: bytearray) -> None:
    while chunk := await response.content.readany():
        data += chunk
