"""What players got instead of a stream: what is noted, what is counted, what is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tvarr.coordinator import failures
from tvarr.coordinator.failures import Failures
from tvarr.coordinator.web.problems import problems, status_of
from tvarr.errors import InvalidRequest, NoPlacement, NotFound, SourceError, TvarrError


@dataclass
class Served:
    """Addresses as streams have them, all of which answer with `error`."""

    client: TestClient[web.Request, web.Application]
    failures: Failures
    error: TvarrError

    async def ask(self, path: str, agent: str = "mpv") -> int:
        async with self.client.get(path, headers={"User-Agent": agent}) as answer:
            return answer.status


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async def fail(_request: web.Request) -> web.StreamResponse:
        raise both.error

    noted = Failures(status_of)
    application = web.Application(middlewares=[problems])
    for path in (
        "/stream/{channel}.{container:ts|mp4}",
        "/stream/{channel}/index.m3u8",
        "/stream/{channel}/manifest.mpd",
        "/stream/{channel}/hls/{profile}/{container:ts|fmp4}/{session}/{file}",
        "/stream/{channel}/dash/{profile}/{session}/{file}",
    ):
        application.router.add_get(path, noted.noting(fail))
    async with TestClient(TestServer(application)) as client:
        both = Served(client, noted, SourceError("the source answered 403 Forbidden"))
        yield both


@pytest.mark.parametrize(
    ("path", "profile", "container"),
    [
        ("/stream/news.ts", "", "ts"),
        ("/stream/news.mp4?profile=h264", "h264", "mp4"),
        ("/stream/news/index.m3u8?profile=h264&container=fmp4", "h264", "hls"),
        ("/stream/news/manifest.mpd", "", "dash"),
        ("/stream/news/hls/h264/fmp4/0123456789/v0.m3u8", "h264", "hls"),
        ("/stream/news/dash/h264/0123456789/v0-1.m4s", "h264", "dash"),
    ],
)
async def test_what_is_told_of_one(served: Served, path: str, profile: str, container: str) -> None:
    assert await served.ask(path) == 502
    (one,) = served.failures.latest
    assert (one.channel, one.profile, one.container, one.status) == ("news", profile, container, 502)
    assert (one.reason, one.address, one.user_agent) == ("the source answered 403 Forbidden", "127.0.0.1", "mpv")
    assert one.count == 1


async def test_the_same_again_counts_up_and_comes_last(served: Served) -> None:
    await served.ask("/stream/news.ts")
    await served.ask("/stream/sport.ts")
    await served.ask("/stream/news.ts", "VLC")
    assert [(one.channel, one.count, one.user_agent) for one in served.failures.latest] == [
        ("sport", 1, "mpv"),
        ("news", 2, "VLC"),
    ]
    served.error = NoPlacement("no daemon can do this job", ["attic: its ffmpeg has no encoder for h264"])
    assert await served.ask("/stream/news.ts") == 503
    assert served.failures.latest[-1].reasons == ("attic: its ffmpeg has no encoder for h264",)
    assert [(one.status, one.count) for one in served.failures.latest] == [(502, 1), (502, 2), (503, 1)]


@pytest.mark.parametrize("error", [NotFound("there is no channel 'news'"), InvalidRequest("container: takes ts")])
async def test_an_address_that_names_nothing_is_none(served: Served, error: TvarrError) -> None:
    served.error = error
    assert await served.ask("/stream/news.ts") in {400, 404}
    assert served.failures.latest == []


async def test_the_oldest_are_forgotten(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_FAILURES", 3)
    for number in range(5):
        await served.ask(f"/stream/{number}.ts")
    assert [one.channel for one in served.failures.latest] == ["2", "3", "4"]
