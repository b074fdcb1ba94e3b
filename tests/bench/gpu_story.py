"""`python -m tests.bench.gpu_story [COLUMNS]`: seven viewers on two hosts with few GPU sessions, by `tvarr status`.

One driver allows three sessions and the other two. Five viewers get hardware, the sixth software, and the seventh asks
for a profile that waits: it begins when the first one leaves.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.viewing import first_keyframe, swallow
from tests.clips import make_clip
from tests.fakes.gpu_host import GpuHost
from tests.harness import PASSWORD, Cluster, cluster, eventually, watching

CHANNELS = ("News", "Sport", "Films", "Children", "Music", "Weather", "Regional")


class Viewer:
    """Watches until it leaves."""

    def __init__(self, url: str) -> None:
        self.has_picture = asyncio.Event()
        self._stack = AsyncExitStack()
        self._task = asyncio.create_task(self._watch(url))

    async def _watch(self, url: str) -> None:
        answer = await self._stack.enter_async_context(watching(url, timeout_s=600))
        assert answer.status == 200, await answer.text()
        await first_keyframe(answer)
        self.has_picture.set()
        await swallow(answer)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._stack.aclose()


async def show(running: Cluster, title: str, columns: str) -> None:
    """What an operator sees now."""
    print(f"\n===== {title}\n")
    arguments = ("status", "--url", running.url)
    role = running.run("status", *arguments, TVARR_ADMIN_PASSWORD=PASSWORD, COLUMNS=columns, NO_COLOR="1")
    await asyncio.to_thread(role.process.wait, 30)
    print(role.text(), flush=True)


def jobs(running: Cluster) -> list[dict[str, object]]:
    return [variant["job"] for relay in running.relays() for variant in relay["variants"] if variant["job"]]


def settled(running: Cluster, count: int) -> bool:
    """So many jobs have a speed to tell."""
    return sum(bool(job["speed"]) for job in jobs(running)) >= count


async def main(columns: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "small.ts", size="320x180", seconds=10)
        hosts = {"attic": GpuHost(folder / "attic", 3), "cellar": GpuHost(folder / "cellar", 2)}
        flags = ("--idle-linger", "1", "--heartbeat-interval", "1", "--queue-timeout", "300")
        with cluster(folder, media_dir=folder, coordinator_flags=flags) as running:
            for daemon, host in hosts.items():
                await asyncio.to_thread(host.start_daemon, running, daemon)
            fields = {"name": "patient", "video_codec": "h264", "height": 144, "exhausted_policy": "queue"}
            assert running.request("POST", "/api/v1/profiles", fields)[0] == 201
            slugs = [running.add_channel(channel, "file:small.ts", loop=True) for channel in CHANNELS]
            viewers = []
            for slug in slugs[:-1]:
                viewers.append(Viewer(running.stream_url(slug, "h264")))
                await viewers[-1].has_picture.wait()
            viewers.append(Viewer(running.stream_url(slugs[-1], "patient")))
            await asyncio.to_thread(eventually, lambda: any(j["queue_position"] for j in jobs(running)), "one waits")
            await asyncio.to_thread(eventually, lambda: settled(running, 6), "six are at speed")
            await show(running, "seven viewers: five in hardware, one in software, one waits", columns)
            await viewers[0].leave()
            await viewers[-1].has_picture.wait()
            await asyncio.to_thread(eventually, lambda: len(running.relays()) == 6, "the first relay is over")
            await asyncio.to_thread(eventually, lambda: settled(running, 6), "six are at speed")
            await show(running, "the first one has left: the one that waited has its session", columns)
            await viewers[1].leave()
            await viewers[2].leave()
            await asyncio.to_thread(eventually, lambda: len(running.relays()) == 4, "their relays are over")
            await asyncio.sleep(3)
            await show(running, "two more have left: what ran in software can run in hardware", columns)
            for viewer in viewers:
                await viewer.leave()
            print("session-limit errors:", sum(len(host.refusals()) for host in hosts.values()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "140"))
