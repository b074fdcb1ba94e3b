"""Daemons whose GPUs take few encoder sessions: who runs where, who waits, and that no job hits the driver's limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from tests.bench.gpu_queue import begun_at
from tests.bench.gpu_sessions import storm, three_hosts
from tests.clips import make_clip
from tests.fakes.gpu_host import GpuHost, end_of
from tests.harness import PASSWORD, Cluster, cluster, eventually, watching
from tvarr.media.model import Kind, Sample, Tracks
from tvarr.media.mpegts.demux import Demuxer

POLICIES = ("fallback", "queue", "reject")
STARTS_WITHIN_S = 1.0
"""From the end of a session to the begin of the job that waited for it: 0.2 s is what we want, and
`tests.bench.gpu_queue` measures it on a machine that does nothing else."""


@contextmanager
def coordinator(folder: Path) -> Iterator[Cluster]:
    """A coordinator without daemons, and a profile for each policy."""
    make_clip(folder / "small.ts", size="192x108", seconds=6)
    flags = ("--idle-linger", "0.3", "--heartbeat-interval", "1")
    with cluster(folder, media_dir=folder, coordinator_flags=flags) as running:
        for policy in POLICIES:
            fields = {"name": policy, "video_codec": "h264", "preset": "ultrafast", "exhausted_policy": policy}
            status, answer = running.request("POST", "/api/v1/profiles", fields)
            assert status == 201, answer
        yield running


@pytest.fixture(scope="module")
def tvarr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with coordinator(tmp_path_factory.mktemp("gpu")) as running:
        yield running


@dataclass(frozen=True)
class Three:
    """A cluster of one daemon, `three`, whose host's driver allows three sessions."""

    cluster: Cluster
    host: GpuHost


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("three")
    with coordinator(folder) as running:
        host = GpuHost(folder / "host", 3)
        host.start_daemon(running, "three")
        yield Three(running, host)


@pytest.fixture
def three(started: Three) -> Three:
    """With all of its sessions free, whatever the test before did."""

    def free() -> bool:
        return not started.host.open_sessions() and not pool(started.cluster, "three")["in_use"]

    eventually(free, "the sessions of the last test have ended")
    return started


@asynccontextmanager
async def daemons(running: Cluster, *places: tuple[str, GpuHost]) -> AsyncIterator[None]:
    """Daemons by name on their hosts, alone on the coordinator until the block ends."""
    roles = [host.start_daemon(running, name, wait=False) for name, host in places]
    try:
        for name, _ in places:
            await asyncio.to_thread(eventually, lambda name=name: ready(running, name), f"{name} is ready")
        yield
    finally:
        for role in roles:
            await asyncio.to_thread(role.stop)


def ready(running: Cluster, name: str) -> bool:
    """Connected, and its latest heartbeat counts no session of another daemon of its host as somebody else's."""
    return running.daemon_state(name) == "connected" and not pool(running, name)["foreign"]


async def picture(answer: aiohttp.ClientResponse) -> None:
    """Reads until a whole picture has come."""
    assert answer.status == 200, await answer.text()
    demuxer, video = Demuxer(), -1
    async with asyncio.timeout(15):
        while data := await answer.content.readany():
            for event in demuxer.feed(data):
                if isinstance(event, Tracks):
                    video = next((track.id for track in event.of_kind(Kind.VIDEO)), -1)
                elif isinstance(event, Sample) and event.track == video and event.keyframe:
                    return
    raise AssertionError("the stream ended without a picture")


class Viewers:
    """Each watches a channel of its own; `leave` ends one."""

    def __init__(self, running: Cluster) -> None:
        self._running = running
        self._open: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for slug in self._open:
            await self.leave(slug)

    def channel(self) -> str:
        count = len(self._running.get("/api/v1/channels"))
        return self._running.add_channel(f"Channel {count}", "file:small.ts", loop=True)

    async def join(self, profile: str) -> str:
        """A new channel's slug, once there is a picture of it."""
        return await self.watch(await asyncio.to_thread(self.channel), profile)

    async def watch(self, slug: str, profile: str) -> str:
        mine = self._open[slug] = AsyncExitStack()
        await picture(await mine.enter_async_context(watching(self._running.stream_url(slug, profile))))
        return slug

    async def leave(self, slug: str) -> None:
        await self._open[slug].aclose()


def variant(running: Cluster, slug: str) -> dict[str, Any]:
    found = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
    return dict(found[0]["variants"][0]) if found and found[0]["variants"] else {}


def job(running: Cluster, slug: str) -> dict[str, Any]:
    return dict(variant(running, slug).get("job") or {})


def pool(running: Cluster, daemon: str) -> dict[str, Any]:
    (only,) = [t["pools"][0] for t in running.get("/api/v1/transcoders") if t["name"] == daemon]
    return dict(only)


def reasons(running: Cluster, slug: str) -> dict[str, str]:
    """By daemon, why it was chosen or not."""
    return {c["daemon_name"]: c["reason"] for c in variant(running, slug)["placement"]["considered"]}


async def all_taken(three: Three, viewers: Viewers, policy: str) -> list[str]:
    """The channels of three viewers whose jobs hold all sessions."""
    on_gpu = [await viewers.join(policy) for _ in range(3)]
    assert [job(three.cluster, slug)["encoder"] for slug in on_gpu] == ["h264_nvenc"] * 3
    assert three.host.open_sessions() == 3
    return on_gpu


async def test_fallback_goes_to_software(three: Three) -> None:
    async with Viewers(three.cluster) as viewers:
        await all_taken(three, viewers, "fallback")
        for _ in range(2):
            slug = await viewers.join("fallback")
            assert job(three.cluster, slug)["encoder"] == "libx264"
            assert variant(three.cluster, slug)["placement"]["fallback"]
        assert three.host.open_sessions() == 3
    assert not three.host.refusals()
    assert three.cluster.roles["coordinator"].text().count("falls back to software") >= 2


async def test_rejected_with_the_reason(three: Three) -> None:
    async with Viewers(three.cluster) as viewers:
        await all_taken(three, viewers, "reject")
        for _ in range(2):
            slug = await asyncio.to_thread(viewers.channel)
            async with watching(three.cluster.stream_url(slug, "reject")) as answer:
                problem = await answer.json(content_type=None)
                assert answer.status == 503, problem
                assert int(answer.headers["Retry-After"]) > 0
            (reason,) = problem["reasons"]
            assert reason.startswith("three: ")
            assert "3 of 3 hardware sessions are taken" in reason
        assert three.host.open_sessions() == 3
    assert not three.host.refusals()


async def test_queued_jobs_start_when_a_session_frees(three: Three) -> None:
    async with Viewers(three.cluster) as viewers:
        on_gpu = await all_taken(three, viewers, "queue")
        pids = [record.pid for record in three.host.records()[-3:]]
        waiting = [await asyncio.to_thread(viewers.channel) for _ in range(2)]
        requests = []
        for position, slug in enumerate(waiting, 1):
            requests.append(asyncio.create_task(viewers.watch(slug, "queue")))
            await asyncio.to_thread(eventually, partial(waits, three.cluster, slug, position), f"{slug} waits")
        for request, slug, pid in zip(requests, on_gpu, pids, strict=False):
            end = asyncio.create_task(asyncio.to_thread(end_of, pid))
            await viewers.leave(slug)
            ended_at = await end
            await request
            assert begun_at(three.cluster.roles["three"]) - ended_at < STARTS_WITHIN_S
            assert three.host.records()[-1].at > ended_at
        assert {job(three.cluster, slug)["encoder"] for slug in waiting} == {"h264_nvenc"}
    assert not three.host.refusals()


def waits(running: Cluster, slug: str, position: int) -> bool:
    return bool(job(running, slug).get("queue_position") == position)


async def test_two_daemons_of_one_host_share_its_sessions(tvarr: Cluster, tmp_path: Path) -> None:
    """And every daemon's reason is told, by the API and by `tvarr status`."""
    host, away = GpuHost(tmp_path / "host", 3), GpuHost(tmp_path / "away", 2)
    async with daemons(tvarr, ("left", host), ("right", host)), Viewers(tvarr) as viewers:
        on_gpu = [await viewers.join("fallback") for _ in range(3)]
        assert {job(tvarr, slug)["encoder"] for slug in on_gpu} == {"h264_nvenc"}
        assert {job(tvarr, slug)["daemon_name"] for slug in on_gpu} == {"left", "right"}
        last = await viewers.join("fallback")
        assert job(tvarr, last)["encoder"] == "libx264"
        for name in ("left", "right"):
            seen = pool(tvarr, name)
            assert (seen["limit"], seen["limit_source"], seen["in_use"], seen["free"]) == (3, "driver_table", 3, 0)
            assert "hardware sessions are taken" in reasons(tvarr, last)[name]
        async with daemons(tvarr, ("away", away)):
            lucky = await viewers.join("fallback")
            assert job(tvarr, lucky)["daemon_name"] == "away"
            assert set(reasons(tvarr, lucky)) == {"left", "right", "away"}
            shown = " ".join((await asyncio.to_thread(status, tvarr)).split())
            for reason in reasons(tvarr, lucky).values():
                assert reason in shown
    assert not host.refusals()


def status(running: Cluster) -> str:
    """What `tvarr status` prints on a wide terminal."""
    role = running.run(
        "status", "status", "--url", running.url, TVARR_ADMIN_PASSWORD=PASSWORD, COLUMNS="300", NO_COLOR="1"
    )
    assert role.process.wait(20) == 0, role.text()
    return role.text()


async def test_another_program_that_the_driver_shows_is_counted(three: Three) -> None:
    running, host = three.cluster, three.host
    async with Viewers(running) as viewers:
        with host.foreign(2):
            await asyncio.to_thread(eventually, lambda: pool(running, "three")["foreign"] == 2, "a heartbeat tells")
            on_gpu, other = await viewers.join("fallback"), await viewers.join("fallback")
            assert job(running, on_gpu)["encoder"] == "h264_nvenc"
            assert job(running, other)["encoder"] == "libx264"
        await asyncio.to_thread(eventually, lambda: pool(running, "three")["foreign"] == 0, "it has ended")
        assert job(running, await viewers.join("fallback"))["encoder"] == "h264_nvenc"
        assert pool(running, "three")["limit_source"] == "driver_table"
    assert not host.refusals()


async def test_a_limit_is_learned_where_another_program_is_not_seen(tvarr: Cluster, tmp_path: Path) -> None:
    """A container sees its own GPUs only. Viewers get their pictures all the same."""
    host = GpuHost(tmp_path / "host", 3)
    async with daemons(tvarr, ("contained", host)), Viewers(tvarr) as viewers:
        with host.foreign(2, seen=False):
            slugs = [await viewers.join("fallback") for _ in range(3)]
            assert [job(tvarr, slug)["encoder"] for slug in slugs] == ["h264_nvenc", "libx264", "libx264"]
            assert len(host.refusals()) == 1
            seen = pool(tvarr, "contained")
            assert (seen["limit"], seen["limit_source"]) == (1, "learned")
            assert "the driver refused a session" in seen["detail"]
        assert [variant(tvarr, slug)["takeovers"] for slug in slugs] == [0, 0, 0]


async def test_a_job_that_the_driver_refuses_goes_on_elsewhere(tvarr: Cluster, tmp_path: Path) -> None:
    full, free = GpuHost(tmp_path / "full", 8), GpuHost(tmp_path / "free", 2)
    async with daemons(tvarr, ("full", full), ("free", free)), Viewers(tvarr) as viewers:
        with full.foreign(8, seen=False):
            slugs = [await viewers.join("queue") for _ in range(2)]
            assert [job(tvarr, slug)["daemon_name"] for slug in slugs] == ["free", "free"]
            assert {job(tvarr, slug)["encoder"] for slug in slugs} == {"h264_nvenc"}
        assert len(full.refusals()) == 1
        assert not free.refusals()
        assert (pool(tvarr, "full")["limit"], pool(tvarr, "full")["limit_source"]) == (0, "learned")


async def test_viewers_come_and_go_at_random(tmp_path: Path) -> None:
    """On three hosts, while heartbeats are late, lost and reordered; `tests.bench.gpu_sessions` goes on for longer."""
    async with three_hosts(tmp_path, random.Random(3)) as setup:
        alone = await storm(setup, 20)
        assert alone.problems == []
        assert [host.refusals() for host in setup.hosts] == [[], [], []]
        assert alone.outcomes["watched"]
        beside_another = await storm(setup, 8, foreign=True)
        assert beside_another.problems == []
        assert setup.network.heartbeats_lost
        assert setup.network.heartbeats_overtaken
