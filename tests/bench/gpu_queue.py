"""`python -m tests.bench.gpu_queue [TIMES]`: how soon a job that waits has the session that another one frees.

One host whose driver allows two sessions; two viewers take them, a third waits. One of the two leaves. From the moment
in which its ffmpeg is gone it is measured how long it takes until the daemon begins the third one's job, until that
job's ffmpeg opens its session, and until the third viewer has a picture.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import deque
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import aiohttp

from tests.bench.bench import cluster
from tests.bench.report import machine
from tests.bench.viewing import first_keyframe
from tests.clips import make_clip
from tests.fakes.gpu_host import GpuHost, end_of
from tests.harness import Cluster, Role, eventually, watching

SESSIONS = 2
AIM_S = 0.2


async def measure(running: Cluster, host: GpuHost, times: int) -> dict[str, list[float]]:
    """Seconds from the end of a session, by what comes after it."""
    seconds: dict[str, list[float]] = {"to the next job": [], "to its session": [], "to its viewer's picture": []}
    channels = [running.add_channel(f"Channel {n}", "file:small.ts", loop=True) for n in range(SESSIONS + 1)]
    watched = deque([(channel, await _watch(running, channel)) for channel in channels[:-1]])  # the oldest first
    waiting = channels[-1]
    for _ in range(times):
        records = host.records()
        waiter = asyncio.create_task(_watch(running, waiting))
        await asyncio.to_thread(eventually, lambda: _queued(running), "the third one waits")
        end = asyncio.create_task(asyncio.to_thread(end_of, records[-SESSIONS].pid))
        oldest, viewer = watched.popleft()
        await viewer.aclose()
        ended_at = await end
        watched.append((waiting, await waiter))
        picture_at = time.monotonic()
        ends = (begun_at(running.roles["gpu"]), host.records()[len(records)].at, picture_at)
        for found, at in zip(seconds.values(), ends, strict=True):
            found.append(at - ended_at)
        await asyncio.to_thread(eventually, lambda: len(running.relays()) == SESSIONS, "the first one's relay is over")
        waiting = oldest
    for _, viewer in watched:
        await viewer.aclose()
    assert not host.refusals()
    return seconds


def begun_at(daemon: Role) -> float:
    """When a daemon began its latest job, by its log; `time.monotonic`."""
    line = [line for line in daemon.text().splitlines() if "job starts with" in line][-1]
    return datetime.fromisoformat(line.split()[0]).timestamp() - time.time() + time.monotonic()


async def _watch(running: Cluster, channel: str) -> AsyncExitStack:
    """A viewer that has its picture; it leaves when the stack is closed."""
    stack = AsyncExitStack()
    url = running.stream_url(channel, "queue")
    answer: aiohttp.ClientResponse = await stack.enter_async_context(watching(url, timeout_s=600))
    await first_keyframe(answer)
    return stack


def _queued(running: Cluster) -> bool:
    return any((v["job"] or {}).get("queue_position") for relay in running.relays() for v in relay["variants"])


async def main(times: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "small.ts", size="160x120", seconds=8)
        with cluster(folder, media_dir=folder, coordinator_flags=("--idle-linger", "0")) as running:
            fields = {"name": "queue", "video_codec": "h264", "preset": "ultrafast", "exhausted_policy": "queue"}
            assert running.request("POST", "/api/v1/profiles", fields)[0] == 201
            host = GpuHost(folder / "host", SESSIONS)
            await asyncio.to_thread(host.start_daemon, running, "gpu")
            measured = await measure(running, host, times)
    print(f"{machine()}: a queued job, {times} times, from the end of the session that frees")
    for what, seconds in measured.items():
        seconds.sort()
        print(f"  {what}: median {1000 * seconds[len(seconds) // 2]:.0f} ms, longest {1000 * seconds[-1]:.0f} ms")
    print(f"  aim: at most {1000 * AIM_S:.0f} ms to the next job")
    return int(measured["to the next job"][-1] > AIM_S)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)))
