"""A rolling upgrade: each of three daemons in turn leaves and comes back under six watched relays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.bench.faults.rounds import AFTER_S, Case, Round, Tally, go_on, running_job
from tests.bench.faults.stage import Stage, stage
from tests.bench.faults.strikes import STRIKES
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import watched

DAEMONS = ("one", "two", "three")
RELAYS = 6
EMPTY_WITHIN_S = 30.0
CASES = (
    Case("terminate", 1, words="SIGTERM of each of three daemons, six relays", most_above_s=0.5),
    Case("drain", 1, words="drain and activate each of three daemons, six relays", most_above_s=0.5),
)


async def drain(folder: Path, clips: Path) -> list[Tally]:
    """A tally of each way to leave, with one round for each relay."""
    tallies = []
    for case in CASES:
        place = folder / f"rolling-{case.strike}"
        place.mkdir(exist_ok=True)
        with stage(place, clips, daemons=DAEMONS) as made:
            tallies.append(await _roll(made, case, place))
    return tallies


async def _roll(made: Stage, case: Case, folder: Path) -> Tally:
    strike = STRIKES[case.strike]
    assert strike.undo
    await asyncio.to_thread(made.start_missing)
    await asyncio.to_thread(made.all_connected)
    began = asyncio.get_running_loop().time()
    async with watched(made.running, [made.new_channel() for _ in range(RELAYS)], case.profile) as them:
        for one in them:
            await running_job(one, made)
        await go_on(them, AFTER_S)
        struck_at = asyncio.get_running_loop().time()
        troubles = []
        for name in made.names:
            jobs = len(await asyncio.to_thread(_jobs_of, made, name))
            await asyncio.to_thread(strike.do, made, name)
            if not await _empty(made, name):
                troubles.append(f"{name} still has jobs after {EMPTY_WITHIN_S:g} s")
            await asyncio.to_thread(strike.undo, made, name)
            await asyncio.to_thread(made.start_missing)
            await asyncio.to_thread(made.all_connected)
            await go_on(them, AFTER_S)
            print(f"{case.strike} {name}: {jobs} jobs went elsewhere", flush=True)
        variants = [await asyncio.to_thread(one.variant, made.running) for one in them]
    tally = Tally(case)
    for one, variant in zip(them, variants, strict=True):
        trouble = one.trouble or "; ".join(troubles)
        verdict = await asyncio.to_thread(
            judge, one.transcode.received, one.source.received, folder, struck_at=[struck_at], trouble=trouble
        )
        codes = [str(ending["code"]) for ending in variant.get("endings", ())]
        tally.rounds.append(Round(struck_at - began, verdict, True, codes))
        print(f"{one.slug}: {verdict.pictures} pictures, {verdict.words()}, {verdict.pause_s:.2f} s without output")
    return tally


def _jobs_of(made: Stage, name: str) -> list[dict[str, Any]]:
    return [job for t in made.running.get("/api/v1/transcoders") if t["name"] == name for job in t["jobs"]]


async def _empty(made: Stage, name: str) -> bool:
    """Whether a daemon has no job any more, in time."""
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while await asyncio.to_thread(_jobs_of, made, name):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
