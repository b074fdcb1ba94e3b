"""Rounds: viewers watch, something fails at a random moment, and what came is judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.faults.stage import GOP_S, Stage
from tests.bench.faults.strikes import STRIKES
from tests.bench.faults.verdict import Verdict, judge
from tests.bench.faults.viewers import Watched, watched

SETTLE_S = 0.5  # a stream runs for so long at least before something happens to it
GOES_ON_WITHIN_S = 45.0
AFTER_S = 2.0  # of media that is watched after another job has taken over
AFTER_UNDO_S = 1.5  # and after the fault was taken back


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the bench's table."""

    strike: str
    rounds: int
    profile: str = "h264"
    relays: int = 1
    reorders: bool = False
    words: str = ""
    most_median_s: float = 0.0  # aims for the time without output; 0: none
    most_p95_s: float = 0.0
    most_s: float = 0.0
    most_above_s: float = 0.0  # beyond what the source's own viewer waited at most, which is what media gather for

    @property
    def name(self) -> str:
        return self.words or STRIKES[self.strike].words


CASES = {
    "kill-daemon": Case("kill-daemon", 100, most_median_s=0.5, most_p95_s=1.0),
    "kill-ffmpeg": Case("kill-ffmpeg", 20, most_s=4.0),
    "stop-ffmpeg": Case("stop-ffmpeg", 10, most_s=4.0),
    "stop-daemon": Case("stop-daemon", 10, most_s=4.0),
    "cut-network": Case("cut-network", 10, most_s=4.0),
    "b-frames": Case("kill-daemon", 20, reorders=True, words="kill -9 of the daemon, B-frames", most_s=4.0),
    "hevc": Case("kill-daemon", 20, profile="hevc", words="kill -9 of the daemon, HEVC", most_s=4.0),
    "two-relays": Case("kill-daemon", 20, relays=2, words="kill -9 of the daemon, two relays", most_s=4.0),
    "terminate": Case("terminate", 10, most_above_s=0.5),
    "drain": Case("drain", 10, most_above_s=0.5),
    "drain-b-frames": Case("drain", 10, reorders=True, words="drain by the API, B-frames", most_above_s=0.5),
}


@dataclass(slots=True)
class Round:
    """What became of one relay in one round."""

    delay_s: float
    verdict: Verdict
    moved: bool  # another job took over
    codes: list[str] = field(default_factory=list)  # why the jobs before it ended


def moments(count: int, rng: random.Random) -> Iterator[float]:
    """When something happens, seconds after the stream runs: spread evenly over a group of pictures, in any order."""
    slots = list(range(count))
    rng.shuffle(slots)
    for slot in slots:
        yield SETTLE_S + GOP_S * (slot + rng.random()) / count


async def one_round(stage: Stage, case: Case, delay_s: float, folder: Path) -> list[Round]:
    """One fault under `case.relays` relays, all of whose jobs run on the daemon that it happens to."""
    strike = STRIKES[case.strike]
    running = stage.running
    await asyncio.to_thread(stage.start_missing)
    await asyncio.to_thread(stage.all_connected)
    victim, *others = random.Random(delay_s).sample(stage.names, len(stage.names))
    for name in others:  # what starts now starts on the victim
        await asyncio.to_thread(stage.order, name, "drain")
    slugs = [stage.new_channel() for _ in range(case.relays)]
    try:
        async with watched(running, slugs, case.profile) as them:
            for name in others:
                await asyncio.to_thread(stage.order, name, "activate")
            before = [await running_job(one, stage) for one in them]
            assert {job["daemon_name"] for job in before} == {victim}, before
            await asyncio.sleep(delay_s)
            struck_at = asyncio.get_running_loop().time()
            await asyncio.to_thread(strike.do, stage, victim)
            moved = [await moved_on(one, stage, str(job["id"])) for one, job in zip(them, before, strict=True)]
            await go_on(them, AFTER_S)
            if strike.undo:
                await asyncio.to_thread(strike.undo, stage, victim)
                await go_on(them, AFTER_UNDO_S)
            variants = [await asyncio.to_thread(one.variant, running) for one in them]
    finally:
        if case.strike not in {"drain", "kill-ffmpeg"}:
            await asyncio.to_thread(stage.remove, victim)
    rounds = []
    for one, changed, variant in zip(them, moved, variants, strict=True):
        trouble = one.trouble or ("" if changed else "no other job took over")
        verdict = await asyncio.to_thread(
            judge, one.transcode.received, one.source.received, folder, struck_at=[struck_at], trouble=trouble
        )
        if case.reorders and not verdict.reordered:
            verdict.trouble = verdict.trouble or "the encoder made no B-frames: the case says nothing"
        codes = [f"{ending['code']}" for ending in variant.get("endings", ())]
        rounds.append(Round(delay_s, verdict, changed, codes))
    return rounds


async def running_job(one: Watched, stage: Stage) -> dict[str, Any]:
    """The relay's job once it gives output."""
    deadline = time.monotonic() + GOES_ON_WITHIN_S
    while True:
        job = (await asyncio.to_thread(one.variant, stage.running)).get("job") or {}
        if job.get("state") == "running":
            return dict(job)
        assert not one.trouble, one.trouble
        assert time.monotonic() < deadline, f"{one.slug} has no running job"
        await asyncio.sleep(0.05)


async def moved_on(one: Watched, stage: Stage, old_job: str) -> bool:
    """Whether another job than `old_job` gives the relay's output, in time."""
    deadline = time.monotonic() + GOES_ON_WITHIN_S
    while time.monotonic() < deadline and not one.trouble:
        job = (await asyncio.to_thread(one.variant, stage.running)).get("job") or {}
        if job.get("state") == "running" and job["id"] != old_job:
            return True
        await asyncio.sleep(0.1)
    return False


async def go_on(them: list[Watched], seconds: float) -> None:
    """Watches until each transcode has come so far beyond what its source shows now."""
    aims = [one.source.newest_ticks + int(seconds * 90_000) for one in them]
    for one, ticks in zip(them, aims, strict=True):
        if not await one.until_ticks(ticks, GOES_ON_WITHIN_S) and not one.transcode.ended:
            one.transcode.ended = "its pictures did not go on"


@dataclass(slots=True)
class Tally:
    """All rounds of a case."""

    case: Case
    rounds: list[Round] = field(default_factory=list)

    def sum_of(self, name: str) -> int:
        values = [getattr(r.verdict, name) for r in self.rounds]
        return sum(value if isinstance(value, int) else len(value) for value in values)

    @property
    def pauses_s(self) -> list[float]:
        return sorted(r.verdict.pause_s for r in self.rounds)

    @property
    def lost(self) -> bool:
        return any(r.verdict.lost for r in self.rounds)

    @property
    def codes(self) -> Counter[str]:
        return Counter(code for r in self.rounds for code in r.codes)
