"""What relays and live jobs cost our own processes, up to 32 of them: `python -m tests.bench relays`.

Each relay with one viewer in another process:

* passed through, in the full form: the coordinator alone;
* with new sound: the picture goes around the daemon, whose ffmpeg makes the sound; ffmpeg's CPU is not counted;
* transcoded, in the full form: the daemon makes a smaller picture;
* copy jobs: every track goes through the daemon and comes back to `tvarr.client`; a coordinator never asks for that.

Sources have 1 Mb/s: 32 of 8 would be too much for two cores. In the full form each is the least of several. Rings may
still grow in the seconds that this takes, so memory is that of young relays.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.bench import SETTLED_S, Bench, cluster
from tests.bench.cost import Cost, Counted, add_growth, each_round, least
from tests.bench.measure import CpuMeter, own_memory_mb, resident_mb
from tests.bench.viewers import crowd
from tests.harness import eventually
from tests.listening import listening
from tvarr.client import TICKS_PER_SECOND, Sample, Tracks, connect, copy, read_ts

KBPS = 1000
ROUNDS = 2  # one after the other, each with all counts
COPY_ROUNDS = 3  # of copy jobs: with 16, two rounds of one run gave 4.5 and 7.3 %
STEP_S = 0.02  # in which a source's samples come
FLAGS = ("--max-jobs", "64", "--max-cpu-jobs", "64")


@dataclass(frozen=True, slots=True)
class Shape:
    """What relays do, whose cost counts, and up to how many of them."""

    how: str
    profile: dict[str, Any]
    costs: tuple[str, ...] = ("coordinator", "daemon")
    most: int = 32


PASSED = Shape(" passed through", {"video_codec": "copy"}, ("coordinator",))
WITH_SOUND = Shape(" with new sound", {"audio_codec": "aac", "audio_bitrate_kbps": 64})
TRANSCODED = Shape(" transcoded", {"video_codec": "h264", "width": 160, "height": 90, "preset": "ultrafast"}, most=16)


def run(bench: Bench) -> None:
    counts, seconds = bench.pick((1, 4, 16), (1, 4, 16, 32)), bench.pick(4.0, 8.0)
    rounds = bench.pick(1, ROUNDS)
    clip = bench.stuffed(KBPS - 130, seconds=60)
    shapes = bench.pick((WITH_SOUND,), (PASSED, WITH_SOUND, TRANSCODED))
    for shape in shapes:  # each with a coordinator of its own: what one has freed hides what comes next
        with tempfile.TemporaryDirectory() as name:
            fitting = [count for count in counts if count <= shape.most]
            found = relays(Path(name), clip, shape, fitting, seconds, rounds)
        for who in shape.costs:
            tell(bench, Counted("relay", who, shape.how), [[cost[who] for cost in made] for made in found])
    with tempfile.TemporaryDirectory() as name, listening(Path(name), *FLAGS) as box, clip.open("rb") as file:
        tracks, samples = read_ts(file)
        everything, pid = list(samples), box.role.process.pid
        copied = [
            [asyncio.run(jobs(box.url, pid, tracks, everything, count, seconds)) for count in counts]
            for _ in range(bench.pick(1, COPY_ROUNDS))
        ]
    tell(bench, Counted("copy job", "daemon"), copied)


def tell(bench: Bench, counted: Counted, rounds: Sequence[Sequence[Cost]]) -> None:
    costs = least(rounds)
    for at, cost in enumerate(costs):
        more = each_round([made[at].percent for made in rounds])
        bench.report.add(counted.name(cost.count), cost.percent, "% of a core", more=more)
    add_growth(bench.report, counted, costs)


def relays(
    folder: Path, clip: Path, shape: Shape, counts: Sequence[int], seconds: float, rounds: int
) -> list[list[dict[str, Cost]]]:
    """What so many cost, by role, for each number of them in each round."""
    found: list[list[dict[str, Cost]]] = []
    with cluster(folder, media_dir=clip.parent, coordinator_flags=("--idle-linger", "0")) as running:
        running.start_daemon("daemon", *FLAGS)
        assert running.request("POST", "/api/v1/profiles", {"name": "shape", **shape.profile})[0] == 201
        slugs = [running.add_channel(f"Relay {n}", f"file:{clip.name}", loop=True) for n in range(counts[-1])]
        pids = {name: running.roles[name].process.pid for name in shape.costs}
        for _ in range(rounds):
            found.append([])
            for count in counts:
                eventually(lambda: not running.relays(), "the relays before are over")
                paths = [f"/stream/{slug}.ts?profile=shape" for slug in slugs[:count]]
                with crowd(running.http_port, paths, 1, seconds + 1.0) as said:
                    found[-1].append(costs(pids, count, seconds))
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
    await asyncio.sleep(SETTLED_S)
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
