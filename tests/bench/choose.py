"""How long a choice takes: `python -m tests.bench.choose`. 1,000 daemons, hardware and software, some busy.

Warm: between two choices one job starts and one ends. Cold: every daemon sent news in between, so that nothing of what
daemons remembered holds any more; a coordinator of 1,000 daemons with heartbeats every 5 s is near the first.
"""

from __future__ import annotations

import random
import time

from tests.cluster.build import attached, capabilities, need
from tvarr.cluster.events import HeartbeatCame, JobAcked, JobEnded, JobSeen, JobWanted, PoolSeen, Start
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Need
from tvarr.cluster.policy import choose
from tvarr.media.model import Codec, Track

DAEMONS = 1_000
ROUNDS = 1_000
JOBS = 1_500


def cluster(seed: int = 1) -> tuple[Ledger, list[str]]:
    """1,000 daemons, a third without a GPU, with jobs of many sources and three shapes."""
    rng, ledger = random.Random(seed), Ledger()
    for i in range(DAEMONS):
        sessions = rng.choice([None, 3, 5, 8, 12])
        gpus = tuple(f"GPU-{i}-{n}" for n in range(rng.choice([1, 1, 2])))
        caps = capabilities(sessions=sessions, gpus=gpus, cpu_count=rng.choice([4, 8, 32]), max_cpu_jobs=8, max_jobs=24)
        ledger.handle(attached(f"daemon {i}", caps), 0.0)
    running = []
    for i in range(JOBS):
        for instruction in ledger.handle(JobWanted(f"job {i}", shape(rng, i)), 1.0):
            if isinstance(instruction, Start):
                ledger.handle(JobAcked(instruction.job_id), 1.0)
                running.append(instruction.job_id)
    return ledger, running


def shape(rng: random.Random, source: int) -> Need:
    width, height = rng.choice([(1920, 1080), (1280, 720), (720, 576)])
    return need(track=Track(1, Codec.H264, width=width, height=height, fps=25.0), source=f"channel {source % 300}")


def milliseconds(ledger: Ledger, running: list[str], *, cold: bool, seed: int = 2) -> list[float]:
    """Of each choice."""
    rng, took = random.Random(seed), []
    for i in range(ROUNDS):
        if cold:
            for daemon in ledger.daemons.values():
                ledger.cluster.touch(daemon)
        else:
            ledger.handle(JobEnded(running.pop(rng.randrange(len(running)))), 2.0)
            name = f"new {i}"
            ledger.handle(JobWanted(name, shape(rng, i)), 2.0)
            running.append(name)
        wanted = shape(rng, i)
        started = time.perf_counter()
        choose(ledger.cluster, wanted, 3.0)
        took.append((time.perf_counter() - started) * 1_000)
    return sorted(took)


def heartbeat_us(ledger: Ledger) -> float:
    """Microseconds that one heartbeat costs, the mean over two from each daemon."""
    beats = []
    for sequence in (1, 2):
        for daemon in ledger.daemons.values():
            pools = tuple(PoolSeen(p.id, p.held + sequence % 2, p.held) for p in daemon.pools.values())
            jobs = tuple(JobSeen(job.id, 1.0, 20.0) for job in ledger.jobs_on(daemon.id))
            beats.append(HeartbeatCame(daemon.id, sequence, pools, jobs))
    started = time.perf_counter()
    for beat in beats:
        ledger.handle(beat, 20.0)
    return (time.perf_counter() - started) / len(beats) * 1e6


def main() -> None:
    ledger, running = cluster()
    print(f"choose among {DAEMONS} daemons with {len(ledger.jobs)} jobs, {ROUNDS} choices (aim: 99 % within 5 ms)")
    for name, cold in (("warm", False), ("cold", True)):
        took = milliseconds(ledger, running, cold=cold)
        median, late = took[len(took) // 2], took[len(took) * 99 // 100]
        print(f"  {name}: median {median:.2f} ms, 99 % {late:.2f}, max {took[-1]:.2f}")
    print(f"  a heartbeat: {heartbeat_us(ledger):.0f} us")
    ledger.validate()


if __name__ == "__main__":
    main()
