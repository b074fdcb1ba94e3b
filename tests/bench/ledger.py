"""The long runs of the ledger: `python -m tests.bench.ledger`. Ends with an AssertionError where something is wrong.

200,000 random needs before random clusters, 1,000,000 random events with every invariant after each, and worlds of
1,000 starts on 3 hosts with limits 3, 5 and 8 under bad heartbeats. The suite does the same with smaller numbers.
"""

from __future__ import annotations

import time
from collections import Counter

from tests.cluster.chaos import random_clusters, random_history
from tests.cluster.simulation import run
from tests.cluster.test_policy import check
from tvarr.cluster.model import MoveKind

NEEDS = 200_000
EVENTS = 1_000_000
WORLDS = 10


def main() -> None:
    started = time.perf_counter()
    placed = sum(check(ledger, need) for ledger, need in random_clusters(seed=3, count=NEEDS))
    print(f"{NEEDS} random needs: {placed} placed, each where its encoder is ({time.perf_counter() - started:.0f} s)")

    started = time.perf_counter()
    answers: Counter[str] = Counter()
    for _, _, instructions, _, _ in random_history(seed=3, count=EVENTS):
        answers.update(type(i).__name__ for i in instructions)
    print(f"{EVENTS} random events, all invariants after each ({time.perf_counter() - started:.0f} s): {dict(answers)}")

    for foreign, moves in ((False, False), (True, False), (False, True)):
        total: Counter[str] = Counter()
        for seed in range(WORLDS):
            more, breaks = 1 + seed % 3 // 2, seed % 2 == 1
            total += run(seed=seed, foreign=foreign, moves=moves, breaks=breaks, daemons_per_host=more).counts
        refused, seen = total["refused by the driver"], total["seen by a viewer"]
        assert foreign or not refused, f"{refused} sessions were refused"
        assert not seen, f"{seen} viewers saw it"
        moved = {kind.value: total[f"moved: {kind}"] for kind in MoveKind}
        print(
            f"{WORLDS} worlds of 1,000 starts {'with' if foreign else 'without'} a foreign encoder"
            f"{', with drains and moves' if moves else ''}: {total['hardware starts']} sessions, {refused} refused by "
            f"the driver, {seen} seen by a viewer, moved {moved}"
        )


if __name__ == "__main__":
    main()
