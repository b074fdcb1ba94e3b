"""What relays and live jobs cost our own processes, up to 32 of them: `python -m tests.bench relays`.

Each relay with one viewer in another process:

* passed through: the coordinator alone;
* with new sound: the picture goes around the daemon, whose ffmpeg makes the sound; ffmpeg's CPU is not counted;
* transcoded, in the full form: the daemon makes a smaller picture;
* copy jobs: every track goes through the daemon and comes back to `tvarr.client`; a coordinator never asks for that.

Sources have 1 Mb/s: 32 of 8 would be too much for two cores. Rings may still grow in the seconds that this takes, so
memory is that of young relays.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tests.bench.bench import Bench, cluster
from tests.bench.cost import Cost, Counted, add_growth
from tests.bench.measure import CpuMeter, own_memory_mb, resident_mb
from tests.bench.viewers import crowd
from tests.harness import Cluster, eventually
from tests.listening import listening
from tvarr.client import TICKS_PER_SECOND, Sample, Tracks, connect, copy, read_ts

KBPS = 1000
SMALL = {"name": "small", "video_codec": "h264", "width": 160, "height": 90, "preset": "ultrafast"}
SOUND = {"name": "sound", "video_codec": "copy", "audio_codec": "aac", "audio_bitrate_kbps": 64}
MOST_TRANSCODED = 16
WARM_UP_S = 3.0
STEP_S = 0.02  # in which a source's samples come
FLAGS = ("--max-jobs", "64", "--max-cpu-jobs", "64")


def run(bench: Bench) -> None:
    counts, seconds = bench.pick((1, 4, 16), (1, 4, 16, 32)), bench.pick(4.0, 15.0)
    clip = bench.stuffed(KBPS - 130, seconds=60)
    settings = {"media_dir": clip.parent, "coordinator_flags": ("--idle-linger", "0")}
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), **settings) as running:
        running.start_daemon("daemon", *FLAGS)
        for fields in (SOUND, SMALL):
            assert running.request("POST", "/api/v1/profiles", fields)[0] == 201
        slugs = [running.add_channel(f"Relay {n}", f"file:{clip.name}", loop=True) for n in range(counts[-1])]
        for how, profile, names, most in (
            (" passed through", "passthrough", ("coordinator",), counts[-1]),
            (" with new sound", "sound", ("coordinator", "daemon"), counts[-1]),
            *bench.pick((), ((" transcoded", "small", ("coordinator", "daemon"), MOST_TRANSCODED),)),
        ):
            pids = {name: running.roles[name].process.pid for name in names}
            paths = [f"/stream/{slug}.ts?profile={profile}" for slug in slugs]
            found = [relays(running, pids, paths[:count], seconds) for count in counts if count <= most]
            for who in names:
                tell(bench, Counted("relay", who, how), [cost[who] for cost in found])
    with tempfile.TemporaryDirectory() as name, listening(Path(name), *FLAGS) as box, clip.open("rb") as file:
        tracks, samples = read_ts(file)
        everything, pid = list(samples), box.role.process.pid
        copied = [asyncio.run(jobs(box.url, pid, tracks, everything, count, seconds)) for count in counts]
    tell(bench, Counted("copy job", "daemon"), copied)


def tell(bench: Bench, counted: Counted, costs: Sequence[Cost]) -> None:
    for cost in costs:
        bench.report.add(counted.name(cost.count), cost.percent, "% of a core")
    add_growth(bench.report, counted, costs)


def relays(running: Cluster, pids: Mapping[str, int], paths: list[str], seconds: float) -> dict[str, Cost]:
    eventually(lambda: not running.relays(), "the relays before are over")
    with crowd(running.http_port, paths, 1, seconds + 1.0) as said:
        found = costs(pids, len(paths), seconds)
        said.readline()
    return found


def costs(pids: Mapping[str, int], count: int, seconds: float) -> dict[str, Cost]:
    """Of each process, over so many seconds from now on."""
    meter = CpuMeter(pids)
    time.sleep(seconds)
    percent = meter.percent()
    return {name: Cost(count, percent[name], own_memory_mb(pid), resident_mb(pid)) for name, pid in pids.items()}


async def jobs(url: str, pid: int, tracks: Tracks, samples: Sequence[Sample], count: int, seconds: float) -> Cost:
    """So many at once over one connection each, at the pace of the samples' clock."""

    async def copied() -> None:
        async with connect(url) as daemon:
            async for _ in daemon.transcode(paced(samples), [copy(track) for track in tracks.tracks]):
                pass

    tasks = [asyncio.create_task(copied()) for _ in range(count)]
    await asyncio.sleep(WARM_UP_S)
    found = await asyncio.to_thread(costs, {"daemon": pid}, count, seconds)
    assert not any(task.done() for task in tasks), "a job ended"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found["daemon"]


async def paced(samples: Sequence[Sample]) -> AsyncIterator[Sample]:
    began = time.monotonic()
    for sample in samples:
        ahead_s = (sample.dts_ticks - samples[0].dts_ticks) / TICKS_PER_SECOND - (time.monotonic() - began)
        if ahead_s > STEP_S:
            await asyncio.sleep(ahead_s)
        yield sample
