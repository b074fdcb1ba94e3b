"""CPU that our own Python takes for live streams of 8 Mb/s: `python -m tests.bench cpu`. ffmpeg's is not ours.

A core that sleeps between two pieces of one stream wakes with cold caches, which in a virtual machine can double what
the same work costs; where it does is seen beside the same stream with cores that never sleep, and how quick the machine
was meanwhile by a fixed piece of Python beside it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from pathlib import Path

import psutil

from tests.bench.bench import SETTLED_S, Bench, cluster
from tests.bench.cost import each_round
from tests.bench.measure import CpuMeter
from tests.bench.reference import WORDS, reference
from tests.bench.report import ROOT, Aim, at_most
from tests.bench.viewing import swallow
from tests.conftest import media_is_compiled
from tests.harness import Cluster, eventually, watching

AIM_PERCENT = 1.5  # of a core
ROUNDS = 3  # in the full form: each shape once in each of them, and the least counts
WINDOW_S = 10.0, 13.0  # quick, full
SEVERAL = 3  # at once; ffmpeg keeps up with so many on two cores
REFERENCE = "reference"  # beside our processes' names


def run(bench: Bench) -> None:
    with channels(bench) as (running, slugs):
        asyncio.run(measure(bench, running, slugs))
    if media_is_compiled():
        with from_source(), channels(bench) as (running, slugs):
            urls = [running.stream_url(slug, "h264-low") for slug in slugs]
            seconds = bench.pick(*WINDOW_S)
            rounds = [asyncio.run(busy(pids_of(running), urls, seconds)) for _ in range(bench.pick(1, ROUNDS))]
        tell(bench, f"each of {SEVERAL} transcoded, tvarr.media as source", rounds)


@contextmanager
def channels(bench: Bench) -> Iterator[tuple[Cluster, Sequence[str]]]:
    """A coordinator, a daemon, and as many channels."""
    clip = bench.camera()
    with (
        tempfile.TemporaryDirectory() as name,
        cluster(Path(name), media_dir=clip.parent, coordinator_flags=("--idle-linger", "0")) as running,
    ):
        running.start_daemon("daemon", "--max-cpu-jobs", str(SEVERAL))
        yield running, [running.add_channel(f"HD live {n}", f"file:{clip.name}", loop=True) for n in range(SEVERAL)]


@contextmanager
def from_source() -> Iterator[None]:
    """What is started in it imports no compiled module."""
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = before


def pids_of(running: Cluster) -> dict[str, int]:
    return {name: running.roles[name].process.pid for name in ("coordinator", "daemon")}


async def measure(bench: Bench, running: Cluster, slugs: Sequence[str]) -> None:
    pids = pids_of(running)
    idle = CpuMeter(pids)
    await asyncio.sleep(bench.pick(3.0, 10.0))
    resting = idle.percent()
    seconds = bench.pick(*WINDOW_S)
    shapes = {
        "one stream passed through": ("passthrough", 1, nullcontext, None),
        "one stream transcoded": ("h264-low", 1, nullcontext, at_most(AIM_PERCENT)),
        "one stream transcoded, cores kept awake": ("h264-low", 1, kept_awake, at_most(AIM_PERCENT)),
        f"each of {SEVERAL} transcoded": ("h264-low", SEVERAL, nullcontext, at_most(AIM_PERCENT)),
    }
    rounds: dict[str, list[dict[str, float]]] = {what: [] for what in shapes}
    for _ in range(bench.pick(1, ROUNDS)):
        for what, (profile, count, around, _) in shapes.items():
            await asyncio.to_thread(eventually, lambda: not running.relays(), "the relays before are over")
            with around():
                urls = [running.stream_url(slug, profile) for slug in slugs[:count]]
                rounds[what].append(await busy(pids, urls, seconds))
    for what, (_, _, _, aim) in shapes.items():
        percent = quietest(rounds[what])
        for name in pids:
            idle_words = f"idle: {resting[name]:.2f} %"
            bench.report.add(f"{what}: {name}'s CPU", percent[name], "% of a core", against=idle_words)
        tell(bench, what, rounds[what], aim)


def tell(bench: Bench, what: str, rounds: Sequence[Mapping[str, float]], aim: Aim | None = None) -> None:
    least = quietest(rounds)
    against, more = (WORDS, least[REFERENCE]), each_round([own(percent) for percent in rounds])
    bench.report.add(f"{what}: own CPU together", own(least), "% of a core", against=against, aim=aim, more=more)


def quietest(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The round in which all together took least: what else the machine does only adds."""
    return min(rounds, key=own)


def own(percent: Mapping[str, float]) -> float:
    return sum(value for name, value in percent.items() if name != REFERENCE)


async def busy(pids: Mapping[str, int], urls: Sequence[str], seconds: float) -> dict[str, float]:
    """The CPU of each process for each of these, with one viewer each, once they have settled, and the reference's."""
    async with AsyncExitStack() as stack:
        beside = stack.enter_context(reference())
        responses = [await stack.enter_async_context(watching(url, timeout_s=300)) for url in urls]
        readers = [asyncio.create_task(swallow(response)) for response in responses]
        await asyncio.sleep(SETTLED_S)
        meter = CpuMeter({**pids, REFERENCE: beside})
        await asyncio.sleep(seconds)
        percent = meter.percent()
        assert not any(reader.done() for reader in readers), "a stream ended"
        for reader in readers:
            reader.cancel()
    return {name: value if name == REFERENCE else value / len(urls) for name, value in percent.items()}


@contextmanager
def kept_awake() -> Iterator[None]:
    """No core sleeps: each runs a loop that anything else goes before (SCHED_IDLE, sched(7))."""
    loop = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(psutil.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()
