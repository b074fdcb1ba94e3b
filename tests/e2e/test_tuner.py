"""The tuner as a media server uses it: from its address to a picture, and the same again after a restart."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from tests.clips import probe_bytes
from tests.conftest import program
from tests.harness import Cluster, cluster, eventually, watching


async def walk(address: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """discover.json, the channel scan, and the lineup where it says it is; each answer as a client takes it."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.get(f"{address}/discover.json") as answer:
            device = await answer.json()
        async with session.post(f"{device['BaseURL']}/lineup.post", params={"scan": "start", "source": "Cable"}):
            pass
        async with session.get(f"{device['BaseURL']}/lineup_status.json") as answer:
            assert (await answer.json())["ScanInProgress"] == 0
        async with session.get(device["LineupURL"]) as answer:
            return device, await answer.json()


def mpv_plays(url: str) -> str:
    """The first second of a playlist, without a screen; what mpv says of it."""
    command = [program("mpv"), "--no-config", "--vo=null", "--ao=null", "--frames=25", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_from_the_address_to_a_picture_and_the_same_after_a_restart(tmp_path: Path, clips: Path) -> None:
    def again(running: Cluster) -> None:
        running.roles["coordinator"].stop()
        running.start_coordinator()

    flags = ("--stream-key", "secret", "--tuner-count", "2")
    with cluster(tmp_path, media_dir=clips, coordinator_flags=flags) as running:
        for name, number in (("One", ""), ("Two", "2.1")):
            await asyncio.to_thread(running.add_channel, name, "file:clip.ts", tvg_chno=number)
        device, lineup = await walk(f"{running.url}/hdhr/secret")
        assert device["TunerCount"] == 2
        assert [(entry["GuideName"], entry["GuideNumber"]) for entry in lineup] == [("Two", "2.1"), ("One", "1001")]
        async with watching(lineup[0]["URL"]) as answer:
            assert (answer.status, answer.content_type) == (200, "video/mp2t")
            data = await answer.content.readexactly(188 * 600)
        assert probe_bytes(data, tmp_path).codecs() == ["h264", "aac"]
        seen = await asyncio.to_thread(mpv_plays, f"{running.url}/playlist.m3u?key=secret")
        assert f"Playing: {running.url}/stream/one.ts?key=secret" in seen
        await asyncio.to_thread(again, running)
        await asyncio.to_thread(eventually, lambda: running.get("/api/v1/channels"), "the coordinator is back")
        assert await walk(f"{running.url}/hdhr/secret") == (device, lineup)
