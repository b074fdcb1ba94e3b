"""Sources that can't be watched: the player gets 502 with the cause, and the coordinator lives on."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.harness import Cluster, read_for, watching

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture
async def origin(clips: Path) -> AsyncIterator[str]:
    """A server with a bad answer for each path; returns its URL."""
    clip = (clips / "clip.ts").read_bytes()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        while await reader.readline() not in (b"\r\n", b""):
            pass
        ok = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
        try:
            match path:
                case "/404":
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                case "/html":
                    writer.write(ok + b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)
                case "/empty":
                    writer.write(ok + b"Content-Length: 0\r\n\r\n")
                case "/playlist":
                    writer.write(ok + b"\r\n#EXTM3U\n#EXTINF:-1,One\nhttp://127.0.0.1/1.ts\n")
                case "/garbage":
                    writer.write(ok + b"\r\n")
                    while True:
                        writer.write(os.urandom(1 << 16).replace(b"\x47", b"\x48"))
                        await writer.drain()
                case "/silent":
                    writer.write(ok + b"Content-Type: video/mp2t\r\n\r\n")
                    await reader.read()
                case "/clip":
                    writer.write(ok + b"Content-Length: %d\r\n\r\n" % len(clip) + clip)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/404", "404"),
        ("/html", "web page"),
        ("/empty", "nothing"),
        ("/playlist", "an M3U playlist of channels"),
        ("/garbage", "not MPEG-TS"),
    ],
)
async def test_the_player_is_told_the_cause(tvarr: Cluster, origin: str, path: str, words: str) -> None:
    slug = tvarr.add_channel(f"Bad {path}", origin + path)
    async with watching(tvarr.stream_url(slug)) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 502, problem
        assert answer.content_type == "application/problem+json"
        assert words in json.dumps(problem)


async def test_the_cause_is_shown_afterwards(tvarr: Cluster, origin: str) -> None:
    slug = tvarr.add_channel("Denied", origin + "/404")
    urls = (tvarr.stream_url(slug), f"{tvarr.url}/stream/{slug}/index.m3u8", tvarr.stream_url(slug))
    for url in urls:
        async with watching(url) as answer:
            assert answer.status == 502
    failures = [failure for failure in tvarr.get("/api/v1/failures") if failure["channel"] == slug]
    assert [(f["container"], f["status"], f["count"]) for f in failures] == [("ts", 502, 2), ("hls", 502, 1)]
    assert "404" in failures[0]["reason"]
    assert f" WARNING coordinator.relay: {slug}: {failures[0]['reason']}" in tvarr.roles["coordinator"].text()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        pytest.param("http://no-such-host.invalid/x.ts", "no-such-host.invalid", id="unknown host"),
        pytest.param(f"http://127.0.0.1:{unused_port()}/x.ts", "refuses the connection", id="refused"),
        pytest.param("file:no-such-file.ts", "no-such-file.ts", id="no such file"),
    ],
)
async def test_a_source_that_is_not_there(tvarr: Cluster, url: str, words: str) -> None:
    slug = tvarr.add_channel(f"Absent {words}", url)
    async with watching(tvarr.stream_url(slug, "h264")) as answer:
        assert answer.status == 502
        assert words in json.dumps(await answer.json(content_type=None))


async def test_a_source_that_says_nothing_is_given_up_within_the_limit(tvarr: Cluster, origin: str) -> None:
    slug = tvarr.add_channel("Silent", origin + "/silent")
    async with watching(tvarr.stream_url(slug), timeout_s=25) as answer:
        assert answer.status == 502


async def test_garbage_does_not_grow_the_coordinator(tvarr: Cluster, origin: str) -> None:
    process = psutil.Process(tvarr.roles["coordinator"].process.pid)
    slug = tvarr.add_channel("Garbage again", origin + "/garbage")
    before = process.memory_info().rss
    for _ in range(3):
        async with watching(tvarr.stream_url(slug)) as answer:
            assert answer.status == 502
    assert process.memory_info().rss - before < 64 << 20
    good = tvarr.add_channel("Good", origin + "/clip")
    assert len(await read_for(tvarr.stream_url(good), 1.0)) > 100_000


@pytest.mark.parametrize("url", ["gopher://host/x", "file:/etc/passwd", "nonsense", "http://"])
async def test_a_url_that_nobody_reads_is_refused_when_it_is_added(tvarr: Cluster, url: str) -> None:
    status, problem = tvarr.request("POST", "/api/v1/channels", {"name": "No", "url": url})
    assert status == 400, problem
    assert "url" in json.dumps(problem)
