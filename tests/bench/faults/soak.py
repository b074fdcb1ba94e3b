"""Random faults for a long time: viewers lose nothing, and nothing is left behind in memory, descriptors, processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.bench.faults.rounds import go_on
from tests.bench.faults.stage import Stage, stage
from tests.bench.faults.strikes import STRIKES
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import Watched, watched
from tests.bench.measure import quantile
from tests.harness import eventually

DAEMONS = ("one", "two", "steady")
STEADY = "steady"  # loses its ffmpeg and its jobs, never itself: what it keeps shows
SPARES_THE_DAEMON = ("kill-ffmpeg", "stop-ffmpeg", "drain")
ALL = ("kill-daemon", "stop-daemon", "terminate", *SPARES_THE_DAEMON)
RELAYS = 8
PAUSE_S = (2.0, 8.0)  # between a recovery and the next fault
FLAGS = ("--max-takeovers", "1000000", "--retention-mb", "8")
DAEMON_FLAGS = ("--metrics-listen", "127.0.0.1:0")
WATCHED_EVERY_S = 10.0
WARM_S = 600.0  # rings fill up meanwhile; growth is judged after it only
MAY_GROW = {"rss_bytes": 1.10, "fds": 1.0, "threads": 1.0, "tasks": 1.0}  # from the first to the last quarter after it
MOST_MORE = 3  # of what is counted in ones
BAD_WORDS = ("Traceback (most recent call last)", "by a defect", "ledger is inconsistent")


class Sample(NamedTuple):
    """What a process used at one moment."""

    at_s: float
    rss_bytes: int
    fds: int
    threads: int
    tasks: int  # of its event loop
    ffmpegs: int  # processes that it has started, whatever became of their parents


@dataclass(slots=True)
class Use:
    """What a process used over time."""

    samples: list[Sample] = field(default_factory=list)

    def quarters(self, what: str) -> tuple[float, float]:
        """Medians of the first and the last quarter of what was seen when all was warm."""
        warm = [getattr(sample, what) for sample in self.samples if sample.at_s >= WARM_S]
        warm = warm or [getattr(sample, what) for sample in self.samples[-1:]]
        quarter = max(1, len(warm) // 4)
        return quantile(warm[:quarter], 0.5), quantile(warm[-quarter:], 0.5)


async def soak(folder: Path, clips: Path, minutes: float, seed: int, relays: int = RELAYS) -> dict[str, Any]:
    """Runs it and returns what was found as JSON values; `complaints` is empty where all is well."""
    place = folder / "soak"
    place.mkdir(exist_ok=True)
    rng = random.Random(seed)
    uses = {name: Use() for name in ("coordinator", STEADY)}
    done: Counter[str] = Counter()
    with stage(place, clips, daemons=DAEMONS, flags=FLAGS, daemon_flags=DAEMON_FLAGS) as made:
        await asyncio.to_thread(made.start_missing)
        await asyncio.to_thread(made.all_connected)
        slugs = [made.new_channel() for _ in range(relays)]
        struck: list[float] = []
        most_ffmpeg = 0
        async with watched(made.running, slugs, "h264") as them:
            began = looked = time.monotonic()
            while time.monotonic() - began < minutes * 60 and not any(one.trouble for one in them):
                await asyncio.sleep(rng.uniform(*PAUSE_S))
                struck.append(asyncio.get_running_loop().time())
                done[await _strike(made, them, rng)] += 1
                if time.monotonic() - looked > WATCHED_EVERY_S:
                    looked = time.monotonic()
                    most_ffmpeg = max(most_ffmpeg, len(made.all_ffmpeg()))
                    await asyncio.to_thread(_sample, made, uses, looked - began)
                    print(f"{looked - began:.0f} s: {sum(done.values())} faults, {_now(uses)}", flush=True)
        complaints = [f"{one.slug}: {one.trouble}" for one in them if one.trouble]
        try:
            await asyncio.to_thread(eventually, lambda: not made.all_ffmpeg(), "no ffmpeg is left")
        except AssertionError as error:
            complaints.append(str(error))
        verdicts = [
            await asyncio.to_thread(
                judge, one.transcode.received, one.source.received, place, struck_at=struck, trouble=one.trouble
            )
            for one in them
        ]
    complaints += [f"{one.slug}: {v.words()}" for one, v in zip(them, verdicts, strict=True) if v.lost]
    complaints += _growth(uses)
    for log in sorted(place.glob("*.log")):
        text = log.read_text(errors="replace")
        complaints += [f"{log.name} says {words!r}" for words in BAD_WORDS if words in text]
    return {
        "minutes": minutes,
        "relays": relays,
        "seed": seed,
        "faults": dict(done),
        "pictures": sum(v.pictures for v in verdicts),
        "most_ffmpeg_processes": most_ffmpeg,
        "longest_without_output_s": round(max(v.pause_s for v in verdicts), 3),
        "use": {
            name: {
                **{what: use.quarters(what) for what in MAY_GROW},
                "samples": [sample._asdict() for sample in use.samples],
            }
            for name, use in uses.items()
        },
        "complaints": complaints,
    }


async def _strike(made: Stage, them: list[Watched], rng: random.Random) -> str:
    """One fault, until everybody is served again and all daemons are back; returns its name."""
    name = rng.choice(made.names)
    fault = rng.choice(SPARES_THE_DAEMON if name == STEADY else ALL)
    if fault.endswith("ffmpeg") and not made.ffmpeg_of(name):
        fault = "drain"
    strike = STRIKES[fault]
    await asyncio.to_thread(strike.do, made, name)
    await go_on(them, rng.uniform(0.5, 3.0))
    if strike.undo:
        await asyncio.to_thread(strike.undo, made, name)
    await asyncio.to_thread(made.start_missing)
    with contextlib.suppress(AssertionError):
        await asyncio.to_thread(made.all_connected)
    return fault


def _sample(made: Stage, uses: dict[str, Use], at_s: float) -> None:
    for name, use in uses.items():
        process = psutil.Process(made.running.roles[name].process.pid)
        metrics = made.running.metrics() if name == "coordinator" else made.metrics_of(name)
        use.samples.append(
            Sample(
                at_s=round(at_s, 1),
                rss_bytes=process.memory_info().rss,
                fds=process.num_fds(),
                threads=process.num_threads(),
                tasks=int(metrics["tvarr_event_loop_tasks"]),
                ffmpegs=len(made.all_ffmpeg() if name == "coordinator" else made.ffmpeg_of(name)),
            )
        )


def _now(uses: dict[str, Use]) -> str:
    latest = [(name, use.samples[-1]) for name, use in uses.items()]
    return ", ".join(
        f"{name} {s.rss_bytes / 1e6:.0f} MB, {s.fds} descriptors, {s.threads} threads, {s.tasks} tasks"
        for name, s in latest
    )


def _growth(uses: dict[str, Use]) -> list[str]:
    complaints = []
    for name, use in uses.items():
        for what, factor in MAY_GROW.items() if use.samples else ():
            first, last = use.quarters(what)
            if last > first * factor + MOST_MORE:
                complaints.append(f"{what} of {name} grew from {first:g} to {last:g}")
    return complaints
