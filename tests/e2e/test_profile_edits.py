"""A profile is edited while it is watched: viewers get every picture once, from a keyframe on by the new settings."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clips import decode_errors, probe_bytes, up_to_the_last_frame
from tests.conftest import program
from tests.e2e.test_changes import widths
from tests.e2e.test_moves import LONGEST_PAUSE_S, Watcher
from tests.e2e.two_daemons import PICTURE_TICKS, assert_nothing_lost, variant
from tests.fakes.gpu_host import GpuHost
from tests.harness import Cluster, cluster, eventually, read_all, watching

FIELDS: dict[str, Any] = {"video_codec": "h264", "audio_codec": "aac", "preset": "ultrafast", "gop_s": 1}
SMALLER = {"width": 160, "height": 90, "video_bitrate_kbps": 200}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A coordinator and one daemon."""
    with cluster(tmp_path_factory.mktemp("edits"), media_dir=clips) as running:
        running.start_daemon("worker")
        yield running


def make(running: Cluster, name: str, **fields: Any) -> tuple[str, str]:
    """A channel and a profile of this name."""
    status, value = running.request("POST", "/api/v1/profiles", {"name": name, **FIELDS, **fields})
    assert status == 201, value
    return running.add_channel(name, "file:clip.ts", loop=True), name


def edit(running: Cluster, profile: str, **fields: Any) -> None:
    status, value = running.request("PATCH", f"/api/v1/profiles/{profile}", fields)
    assert status == 200, value


async def watched_over_an_edit(
    running: Cluster, slug: str, profile: str, suffix: str = "ts", **fields: Any
) -> tuple[Watcher, dict[str, Any]]:
    """A viewer before and after; what the variant became."""
    async with watching(f"{running.url}/stream/{slug}.{suffix}?profile={profile}") as answer:
        assert answer.status == 200, await answer.text()
        watcher = Watcher(answer)
        await watcher.until(lambda: variant(running, slug)["job"]["state"] == "running", "it runs", then_s=1.0)
        before = variant(running, slug)["job"]["id"]
        await asyncio.to_thread(edit, running, profile, **fields)
        watcher.longest_s = 0.0

        def other_job() -> bool:
            job = variant(running, slug)["job"]
            return job["id"] != before and job["state"] == "running"

        await watcher.until(other_job, "another job does it", then_s=2.0)
        return watcher, variant(running, slug)


@pytest.mark.parametrize("suffix", ["ts", "mp4"])
async def test_viewers_notice_nothing_but_the_new_settings(one: Cluster, tmp_path: Path, suffix: str) -> None:
    slug, profile = make(one, f"smaller-{suffix}")
    watcher, after = await watched_over_an_edit(one, slug, profile, suffix, **SMALLER)
    assert (after["moves"], after["takeovers"], after["lost_pictures"], after["successor"]) == (1, 0, 0, None)
    (ending,) = after["endings"]
    assert ending["code"] == "moved"
    assert ending["reason"].endswith("the profile was changed")
    assert watcher.longest_s < LONGEST_PAUSE_S
    path = tmp_path / f"received.{suffix}"
    data = up_to_the_last_frame(watcher.data) if suffix == "ts" else bytes(watcher.data)
    path.write_bytes(data)
    assert [width for width, _ in widths(path)] == [320, 160]
    if suffix == "ts":
        assert_nothing_lost(probe_bytes(data, tmp_path), 2.0)
        assert decode_errors(path) == []
    else:
        assert sum(count for _, count in widths(path)) >= 75


@pytest.mark.parametrize("output", ["/index.m3u8", "/index.m3u8?container=fmp4", "/manifest.mpd"])
async def test_a_player_of_segments_decodes_every_picture(one: Cluster, output: str) -> None:
    """FFmpeg's, which reads one initialization segment, whatever the playlist says later."""
    kind = "".join(filter(str.isalnum, output))
    slug, profile = make(one, f"segments-{kind}")
    url = f"{one.url}/stream/{slug}{output}{'&' if '?' in output else '?'}profile={profile}"
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", url, "-t", "12", "-vf", "scale=64:36"]
    command += ["-fps_mode", "passthrough", "-enc_time_base", "1:90000"]
    player = await asyncio.create_subprocess_exec(*command, "-an", "-f", "framecrc", "-", stdout=PIPE, stderr=PIPE)
    try:
        await asyncio.to_thread(eventually, lambda: _state(one, slug) == "running", "it runs")
        await asyncio.to_thread(edit, one, profile, **SMALLER)
        await asyncio.to_thread(eventually, lambda: variant(one, slug)["moves"] == 1, "another job does it")
        text, errors = await asyncio.wait_for(player.communicate(), 60)
    finally:
        if player.returncode is None:
            player.kill()
            await player.wait()
    assert errors == b""
    times = sorted({int(line.split(",")[2]) for line in text.decode().splitlines() if line.startswith("0,")})
    assert len(times) > 250  # some segments of DASH it reads twice
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert [s for s in steps if not PICTURE_TICKS <= s < 2 * PICTURE_TICKS] == []  # the loop's seam is up to a frame


async def test_where_there_is_no_room_for_both_jobs_one_follows_the_other(tmp_path: Path, clips: Path) -> None:
    with cluster(tmp_path, media_dir=clips) as running:
        running.start_daemon("small", "--max-jobs", "1", "--max-cpu-jobs", "1")
        slug, profile = make(running, "crowded")
        watcher, after = await watched_over_an_edit(running, slug, profile, **SMALLER)
    assert (after["takeovers"], after["lost_pictures"]) == (0, 0)
    data = up_to_the_last_frame(watcher.data)
    assert_nothing_lost(probe_bytes(data, tmp_path), 2.0)
    assert [width for width, _ in widths(tmp_path / "received.ts")] == [320, 160]


async def test_a_job_that_waits_in_the_queue_is_asked_for_anew(tmp_path: Path, clips: Path) -> None:
    """Hardware is taken; the operator, who sees it wait, lets the profile use software."""
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster", media_dir=clips) as running, ExitStack() as taken:
        host = GpuHost(tmp_path / "host", 2)
        host.start_daemon(running, "gpu")
        taken.enter_context(host.foreign(2))
        eventually(lambda: running.get("/api/v1/transcoders")[0]["pools"][0]["foreign"] == 2, "it is counted")
        slug, profile = make(running, "patient", hw_accel="nvenc", exhausted_policy="queue")
        viewer = asyncio.create_task(read_some(running.stream_url(slug, profile)))
        await asyncio.to_thread(eventually, lambda: _state(running, slug) == "queued", "it waits")
        await asyncio.to_thread(edit, running, profile, hw_accel="none")
        assert await asyncio.wait_for(viewer, 20)
        assert variant(running, slug)["job"]["encoder"] == "libx264"


async def read_some(url: str) -> bytes:
    async with watching(url) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.content.readexactly(188 * 100)


def _state(running: Cluster, slug: str) -> str:
    found = [relay["variants"] for relay in running.relays() if relay["channel"]["slug"] == slug]
    jobs = [variant["job"] for variants in found for variant in variants if variant["job"]]
    return str(jobs[0]["state"]) if jobs else ""


async def test_streams_end_where_they_would_get_another_codec(one: Cluster) -> None:
    slug, profile = make(one, "another-codec")
    url = one.stream_url(slug, profile)
    viewer = asyncio.create_task(read_all(url))
    await asyncio.to_thread(eventually, lambda: _state(one, slug) == "running", "it runs")
    await asyncio.to_thread(edit, one, profile, audio_codec="ac3")
    assert await asyncio.wait_for(viewer, 10)
    async with watching(url) as answer:
        assert answer.status == 200
        assert variant(one, slug)["endings"] == []
