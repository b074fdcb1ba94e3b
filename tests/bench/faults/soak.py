"""Random faults for a long time: viewers lose nothing, and nothing is left behind in memory, descriptors, processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.bench.faults.rounds import go_on
from tests.bench.faults.stage import Stage, stage
from tests.bench.faults.strikes import STRIKES
from tests.bench.faults.use import COORDINATOR, Use, sample
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import Watched, watched
from tests.harness import eventually

DAEMONS = ("one", "two", "steady")
STEADY = "steady"  # loses its ffmpeg and its jobs, never itself: what it keeps shows
LIVE_THROUGH = (COORDINATOR, STEADY)  # these are judged; the others begin anew again and again
SPARES_THE_DAEMON = ("kill-ffmpeg", "stop-ffmpeg", "drain")
ALL = ("kill-daemon", "stop-daemon", "terminate", *SPARES_THE_DAEMON)
RELAYS = 8
PAUSE_S = (2.0, 8.0)  # between a recovery and the next fault
FLAGS = ("--max-takeovers", "1000000")
DAEMON_FLAGS = ("--metrics-listen", "127.0.0.1:0")
WATCHED_EVERY_S = 10.0
BAD_WORDS = ("Traceback (most recent call last)", "by a defect", "ledger is inconsistent")


@dataclass(slots=True)
class _Seen:
    """What a run showed so far."""

    uses: dict[str, Use] = field(default_factory=lambda: {name: Use(name) for name in (COORDINATOR, *DAEMONS)})
    faults: Counter[str] = field(default_factory=Counter)
    struck_at: list[float] = field(default_factory=list)
    most_ffmpeg: int = 0
    complaints: list[str] = field(default_factory=list)

    def look(self, made: Stage, at_s: float) -> None:
        """Samples every process that is there."""
        for name, use in self.uses.items():
            with contextlib.suppress(*(() if name in LIVE_THROUGH else (psutil.NoSuchProcess, OSError, LookupError))):
                use.samples.append(sample(made, name, at_s))
        self.most_ffmpeg = max(self.most_ffmpeg, self.uses[COORDINATOR].samples[-1].ffmpegs)

    def now(self) -> str:
        return "; ".join(self.uses[name].now() for name in LIVE_THROUGH)


async def soak(folder: Path, clips: Path, minutes: float, seed: int, relays: int = RELAYS) -> dict[str, Any]:
    """Runs it and returns what was found as JSON values; `complaints` is empty where all is well."""
    place = folder / "soak"
    place.mkdir(exist_ok=True)
    rng = random.Random(seed)
    seen = _Seen()
    with stage(place, clips, daemons=DAEMONS, flags=FLAGS, daemon_flags=DAEMON_FLAGS) as made:
        await asyncio.to_thread(made.start_missing)
        await asyncio.to_thread(made.all_connected)
        for name in LIVE_THROUGH:
            seen.uses[name].before = await asyncio.to_thread(sample, made, name, 0.0)
        slugs = [made.new_channel() for _ in range(relays)]
        async with watched(made.running, slugs, "h264") as them:
            await _strike_on(made, them, rng, minutes * 60, seen)
        seen.complaints += [f"{one.slug}: {one.trouble}" for one in them if one.trouble]
        await asyncio.to_thread(_afterwards, made, seen)
        verdicts = [
            await asyncio.to_thread(
                judge, one.transcode.received, one.source.received, place, struck_at=seen.struck_at, trouble=one.trouble
            )
            for one in them
        ]
    seen.complaints += [f"{one.slug}: {v.words()}" for one, v in zip(them, verdicts, strict=True) if v.lost]
    for name in LIVE_THROUGH:
        seen.complaints += seen.uses[name].growth()
    for log in sorted(place.glob("*.log")):
        text = log.read_text(errors="replace")
        seen.complaints += [f"{log.name} says {words!r}" for words in BAD_WORDS if words in text]
    return {
        "minutes": minutes,
        "relays": relays,
        "seed": seed,
        "faults": dict(seen.faults),
        "pictures": sum(v.pictures for v in verdicts),
        "missing": sum(len(v.missing) for v in verdicts),
        "repeated": sum(len(v.repeated) for v in verdicts),
        "audio_gaps": sum(v.audio_gaps for v in verdicts),
        "most_ffmpeg_processes": seen.most_ffmpeg,
        "longest_without_output_s": round(max(v.pause_s for v in verdicts), 3),
        "judged": LIVE_THROUGH,
        "use": {name: use.figures() for name, use in seen.uses.items()},
        "complaints": seen.complaints,
    }


async def _strike_on(made: Stage, them: list[Watched], rng: random.Random, seconds: float, seen: _Seen) -> None:
    """Fault after fault, for so long or until a viewer is lost."""
    began = looked = time.monotonic()
    while time.monotonic() - began < seconds and not any(one.trouble for one in them):
        await asyncio.sleep(rng.uniform(*PAUSE_S))
        seen.struck_at.append(asyncio.get_running_loop().time())
        seen.faults[await _strike(made, them, rng)] += 1
        if time.monotonic() - looked > WATCHED_EVERY_S:
            looked = time.monotonic()
            await asyncio.to_thread(seen.look, made, looked - began)
            print(f"{looked - began:.0f} s: {seen.faults.total()} faults, {seen.now()}", flush=True)


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


def _afterwards(made: Stage, seen: _Seen) -> None:
    """Everybody has left: what was there for them goes."""

    def level() -> bool:
        for name in LIVE_THROUGH:
            seen.uses[name].after = sample(made, name, 0.0)
        return not any(seen.uses[name].left_behind() for name in LIVE_THROUGH)

    try:
        eventually(lambda: not made.all_ffmpeg() and not made.running.relays(), "neither ffmpeg nor relay is left")
    except AssertionError as error:
        seen.complaints.append(str(error))
    with contextlib.suppress(AssertionError):  # `growth` says what is left
        eventually(level, "descriptors, threads and tasks are as before")
