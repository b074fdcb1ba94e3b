"""The machines' clocks are set by hours and days while a channel runs: nothing is timed by them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from tests.clips import probe_bytes
from tests.fakes.clock import WallClock
from tests.harness import PASSWORD, Cluster, eventually, recorded
from tests.hls import get

PICTURE_TICKS = 3600


def live_edge_s(manifest: str) -> float:
    """Where a player that heeds UTCTiming takes the live edge to be, in the presentation's time."""
    begin = re.search(r'availabilityStartTime="([^"]+)"', manifest)
    now = re.search(r'<UTCTiming [^>]*value="([^"]+)"', manifest)
    assert begin is not None
    assert now is not None
    return (datetime.fromisoformat(now[1]) - datetime.fromisoformat(begin[1])).total_seconds()


def newest_s(manifest: str) -> float:
    begin, length = re.findall(r'<S t="(\d+)" d="(\d+)"/>', manifest)[-1]
    return (int(begin) + int(length)) / 90_000


def start_worker(running: Cluster, clock: WallClock) -> None:
    """Until one runs. In libfaketime a sleep until a time that has just passed is EINVAL, and so sleeps the
    `subprocess.run` with a timeout by which a worker looks at its FFmpeg.
    """
    while True:
        process = running.start_daemon(wait=False, **clock.environment).process

        def known(process: subprocess.Popen[bytes] = process) -> bool:
            return process.poll() is not None or running.daemon_state("worker") == "connected"

        eventually(known, "the worker has come up or ended")
        if process.poll() is None:
            return
        assert "Invalid argument" in running.roles["worker"].text()


async def test_a_clock_that_is_set_disturbs_nothing(tmp_path: Path, clips: Path) -> None:
    clock = WallClock(tmp_path / "offset")
    clock.set("+0")
    running = Cluster(tmp_path, media_dir=clips)
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        await asyncio.to_thread(running.start_coordinator, **clock.environment)
        await asyncio.to_thread(start_worker, running, clock)
        slug = running.add_channel("clip", "file:clip.ts", loop=True)
        address = f"{running.url}/stream/{slug}/manifest.mpd?profile=h264-low"
        async with (
            recorded(running.stream_url(slug, "h264-low")) as data,
            aiohttp.ClientSession(cookie_jar=jar) as browser,
        ):
            async with browser.post(f"{running.url}/login", data={"password": PASSWORD}) as answer:
                assert answer.status == 200
            for offset, seconds in (("+1h", 3600), ("-1d", -86_400)):
                clock.set(offset)
                seen = len(data)
                await asyncio.to_thread(
                    eventually, lambda seen=seen: len(data) > seen + 60_000, f"pictures at {offset}"
                )
                manifest = (await get(browser, address))[1].decode()
                assert -0.5 < live_edge_s(manifest) - newest_s(manifest) < 5.0
                async with browser.get(f"{running.url}/api/v1/relays") as answer:
                    (relay,) = await answer.json()
                    set_by = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
                assert set_by == pytest.approx(seconds, abs=10)
                (variant,) = relay["variants"]
                assert 0.0 < variant["job"]["age_s"] < 120.0
                assert (variant["takeovers"], relay["source"]["reconnections"]) == (0, 0)
                assert await asyncio.to_thread(running.daemon_state, "worker") == "connected"
    finally:
        await asyncio.to_thread(running.stop)
    pts = (await asyncio.to_thread(probe_bytes, bytes(data), tmp_path)).pts("video")
    assert max(b - a for a, b in pairwise(pts)) < 2 * PICTURE_TICKS
