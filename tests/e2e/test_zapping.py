"""A viewer who zaps: the transcode that nobody watches any more gives way before its linger is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Cluster, cluster, eventually, metrics, watching

WITHIN_S = 10.0  # of a linger that is far longer


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A daemon with room for one picture in software, and a coordinator that keeps jobs for viewers who come back."""
    flags = ("--idle-linger", "300", "--queue-timeout", "60")
    with cluster(tmp_path_factory.mktemp("zapping"), media_dir=clips, coordinator_flags=flags) as running:
        running.start_daemon("small", "--max-jobs", "4", "--max-cpu-jobs", "1")
        for policy in ("queue", "fallback", "reject"):
            fields = {"name": policy, "video_codec": "h264", "preset": "ultrafast", "exhausted_policy": policy}
            status, answer = running.request("POST", "/api/v1/profiles", fields)
            assert status == 201, answer
        yield running


def refusals(running: Cluster) -> float:
    """Jobs that were refused because all was taken."""
    return metrics(running.url).get('tvarr_exhaustion_total{policy="reject"}', 0.0)


async def is_served(url: str) -> None:
    async with asyncio.timeout(WITHIN_S), watching(url) as answer:
        assert answer.status == 200, await answer.text()
        assert await answer.content.readany()


@pytest.mark.parametrize("policy", ["queue", "fallback", "reject"])
async def test_the_next_channel_has_the_place_of_the_one_before(one_slot: Cluster, policy: str) -> None:
    before = refusals(one_slot)
    for name in ("First", "Second", "First"):
        slug = one_slot.add_channel(f"{name} {policy}", "file:clip.ts", loop=True)
        await is_served(one_slot.stream_url(slug, policy))
    assert refusals(one_slot) == before, "who found a place was not refused"


async def test_another_profile_of_the_channel_has_it_too(one_slot: Cluster) -> None:
    slug = one_slot.add_channel("Profiles", "file:clip.ts", loop=True)
    for profile in ("reject", "h264-low", "reject"):
        await is_served(one_slot.stream_url(slug, profile))


async def test_who_waits_is_served_when_the_other_viewer_leaves(one_slot: Cluster) -> None:
    first, second = (one_slot.add_channel(f"{name} waits", "file:clip.ts", loop=True) for name in ("First", "Second"))

    def jobs() -> list[str]:
        return [v["job"]["state"] for r in one_slot.relays() for v in r["variants"] if v["job"]]

    async with watching(one_slot.stream_url(first, "queue")) as answer:
        assert await answer.content.readany()
        waiting = asyncio.create_task(is_served(one_slot.stream_url(second, "queue")))
        await asyncio.to_thread(eventually, lambda: "queued" in jobs(), "the second viewer waits")
        assert await answer.content.readany()
    await waiting


async def test_a_place_that_is_watched_is_kept(one_slot: Cluster) -> None:
    first, second = (one_slot.add_channel(f"{name} kept", "file:clip.ts", loop=True) for name in ("First", "Second"))
    before = refusals(one_slot)
    async with watching(one_slot.stream_url(first, "reject")) as kept:
        assert await kept.content.readany()
        async with watching(one_slot.stream_url(second, "reject")) as refused:
            assert refused.status == 503
        assert await kept.content.readany()
    assert refusals(one_slot) == before + 1
