"""More is asked for than the daemons can take: the next viewer waits, or is turned away, as the profile says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clips import decode_errors, probe_bytes, up_to_the_last_frame
from tests.harness import Cluster, cluster, eventually, watching

LINGER_S = 0.3
WAIT_S = 5.0  # longer than `transcode.LIVE_AFTER_S`
READ_S = 2.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A daemon with room for one picture in software."""
    flags = ("--idle-linger", str(LINGER_S))
    with cluster(tmp_path_factory.mktemp("small"), media_dir=clips, coordinator_flags=flags) as running:
        running.start_daemon("small", "--max-jobs", "4", "--max-cpu-jobs", "1")
        for policy in ("queue", "reject"):
            fields = {"name": policy, "video_codec": "h264", "preset": "ultrafast", "exhausted_policy": policy}
            status, answer = running.request("POST", "/api/v1/profiles", fields)
            assert status == 201, answer
        yield running


def job_of(running: Cluster, slug: str) -> dict[str, Any] | None:
    relays = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
    jobs = [variant["job"] for relay in relays for variant in relay["variants"] if variant["job"]]
    return dict(jobs[0]) if jobs else None


async def test_a_viewer_waits_for_the_one_before_and_then_sees_what_is_on(small: Cluster, tmp_path: Path) -> None:
    first, second = (small.add_channel(name, "file:clip.ts", loop=True) for name in ("First", "Second"))
    async with watching(small.stream_url(first, "queue")) as answer:
        await answer.content.readany()
        came_at = time.monotonic()
        waiting = asyncio.create_task(look(small.stream_url(second, "queue")))

        def queued() -> bool:
            job = job_of(small, second)
            return job is not None and job["state"] == "queued"

        await asyncio.to_thread(eventually, queued, "the second viewer waits")
        (relay,) = [r for r in small.relays() if r["channel"]["slug"] == second]
        (variant,) = relay["variants"]
        assert variant["job"]["queue_position"] == 1
        assert variant["placement"]["considered"][0]["reason"] == "all of its 1 software job slots are taken"
        async with asyncio.timeout(20):
            while time.monotonic() - came_at < WAIT_S:
                assert await answer.content.readany()
        assert not waiting.done()
    data = await waiting
    job = job_of(small, second)
    assert job is None or job["waited_s"] >= WAIT_S - 1
    got = probe_bytes(up_to_the_last_frame(data), tmp_path)
    assert got.codecs() == ["h264", "aac"]
    assert abs(got.pts("video")[0] - got.pts("audio")[0]) < 90_000
    assert got.pts("video")[-1] - got.pts("video")[0] < 90_000 * WAIT_S  # what was on while it waited is left out
    assert decode_errors(tmp_path / "received.ts") == []


async def look(url: str) -> bytes:
    """What comes in the first seconds after the first byte."""
    data = bytearray()
    async with watching(url) as answer:
        assert answer.status == 200, await answer.text()
        data += await answer.content.readany()
        ends_at = time.monotonic() + READ_S
        while time.monotonic() < ends_at:
            data += await answer.content.readany()
    return bytes(data)


async def test_a_profile_that_rejects_says_why_and_when_to_come_again(small: Cluster) -> None:
    busy, third = (small.add_channel(name, "file:clip.ts", loop=True) for name in ("Busy", "Third"))
    async with watching(small.stream_url(busy, "queue")) as answer:
        await answer.content.readany()
        async with watching(small.stream_url(third, "reject")) as refused:
            problem = await refused.json(content_type=None)
            assert refused.status == 503, problem
            assert int(refused.headers["Retry-After"]) > 0
            assert problem["reasons"] == ["small: all of its 1 software job slots are taken"]
