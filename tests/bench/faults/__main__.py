"""`python -m tests.bench.faults [rounds|drain|soak|silent]`: real faults under real viewers; exit 1 on any loss."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.faults import report
from tests.bench.faults.drain import drain
from tests.bench.faults.rounds import CASES, Round, Tally, moments, one_round
from tests.bench.faults.silent import silent
from tests.bench.faults.soak import RELAYS, soak
from tests.bench.faults.stage import make_clips, stage
from tests.bench.faults.verdict import Verdict

WHAT = ("rounds", "drain", "soak", "silent")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.faults", description=__doc__)
    parser.add_argument("what", nargs="?", choices=WHAT, help="default: rounds, then drain")
    parser.add_argument("--rounds", type=int, help="of each fault (default: each has its own number)")
    parser.add_argument("--only", action="append", choices=sorted(CASES), help="this fault alone; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs and for streams that lost something")
    parser.add_argument("--minutes", type=float, default=30.0, help="of soak")
    parser.add_argument("--relays", type=int, default=RELAYS, help="of soak")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clips").mkdir(exist_ok=True)
        clips = make_clips(folder / "clips")
        good = True
        if options.what in {None, "rounds"}:
            good &= asyncio.run(rounds(folder, clips, options.only or list(CASES), options.rounds, options.seed))
        if options.what == "drain" or (options.what is None and not options.only):
            tallies = asyncio.run(drain(folder, clips))
            report.show(tallies, "leaving and coming back")
            report.save("drain", {"faults": [report.figures(tally) for tally in tallies]})
            good &= not any(tally.lost or report.missed(tally) for tally in tallies)
        if options.what == "soak":
            found = asyncio.run(soak(folder, clips, options.minutes, options.seed, options.relays))
            report.save("soak", found)
            report.plot(found)
            report.show_soak(found)
            good &= not found["complaints"]
        if options.what == "silent":
            found = asyncio.run(silent(folder, clips))
            report.save("silent", found)
            print(json.dumps(found, indent=2))
            good &= found["good"]
    return 0 if good else 1


def describe(result: Round) -> str:
    verdict = result.verdict
    return (
        f"after {result.delay_s:.2f} s, {verdict.pictures} pictures, {verdict.words()}, "
        f"{verdict.pause_s:.2f} s without output [{', '.join(result.codes)}]"
    )


async def rounds(folder: Path, clips: Path, names: list[str], count: int | None, seed: int) -> bool:
    """Every case in its own cluster; returns whether no viewer lost anything and every aim was reached."""
    tallies: list[Tally] = []
    for name in names:
        case = CASES[name]
        tally = Tally(case)
        tallies.append(tally)
        rng = random.Random(f"{seed} {name}")
        place = folder / name
        place.mkdir(exist_ok=True)
        separate = case.strike == "cut-network"
        with stage(place, clips, reorders=case.reorders, separate_hosts=separate) as made:
            for number, delay_s in enumerate(moments(count or case.rounds, rng), 1):
                began = time.monotonic()
                try:
                    results = await one_round(made, case, delay_s, place)
                except AssertionError as error:
                    await asyncio.to_thread(made.start_over)
                    results = [Round(delay_s, Verdict(trouble=f"the round failed: {error}"), False)]
                for result in results:
                    tally.rounds.append(result)
                    if result.verdict.lost and (place / "received.ts").exists():
                        (place / "received.ts").replace(place / f"lost-{number}.ts")
                    print(f"{name} {number}: {describe(result)} ({time.monotonic() - began:.1f} s)", flush=True)
    report.show(tallies, "faults")
    report.save("rounds", {"seed": seed, "faults": [report.figures(tally) for tally in tallies]})
    return not any(tally.lost or report.missed(tally) for tally in tallies)


if __name__ == "__main__":
    sys.exit(main())
