"""CPU time of a choice among 1,000 daemons: `python -m tests.bench choose`. The machine may be busy with other things.

The daemons are of 20 kinds of machine, a fifth without a GPU, each with GPU ids of its own, and run 1,500 jobs.

* warm: between two choices one job ends and one starts;
* after news: all daemons changed in between, so that nothing of what they offered holds any more;
* new need: of a shape that nobody asked for before;
* new need, all different: the same where no two machines are alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.bench.bench import Bench
from tests.bench.measure import quantile
from tests.bench.report import Aim, at_most
from tests.cluster.build import attached, capabilities, need
from tvarr.cluster.events import HeartbeatCame, JobAcked, JobEnded, JobSeen, JobWanted, PoolSeen, Start
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, Need
from tvarr.cluster.policy import choose
from tvarr.media.model import Codec, Track

DAEMONS = 1_000
KINDS = 20
JOBS = 1_500


def machine(kind: int, serial: int) -> Capabilities:
    """`kind`: how it is built; `serial`: which GPUs are in it."""
    rng = random.Random(kind)
    sessions = rng.choice([None, 3, 5, 8, 12])
    gpus = tuple(f"GPU-{serial}-{n}" for n in range(rng.choice([1, 1, 2])))
    driver = f"550.{kind}"
    hwaccels = ("cuda", f"kind {kind}")
    cpus = rng.choice([4, 8, 32])
    return capabilities(
        sessions=sessions, gpus=gpus, driver=driver, hwaccels=hwaccels, cpu_count=cpus, max_cpu_jobs=8, max_jobs=24
    )


def cluster(*, kinds: int = KINDS) -> tuple[Ledger, list[str]]:
    """1,000 daemons with jobs of many sources and three shapes; the ids of the jobs."""
    rng, ledger = random.Random(1), Ledger()
    for i in range(DAEMONS):
        ledger.handle(attached(f"daemon {i}", machine(i % kinds, i)), 0.0)
    running = []
    for i in range(JOBS):
        for instruction in ledger.handle(JobWanted(f"job {i}", common_need(rng, i)), 1.0):
            if isinstance(instruction, Start):
                ledger.handle(JobAcked(instruction.job_id), 1.0)
                running.append(instruction.job_id)
    return ledger, running


def common_need(rng: random.Random, source: int) -> Need:
    width, height = rng.choice([(1920, 1080), (1280, 720), (720, 576)])
    return need(track=Track(1, Codec.H264, width=width, height=height, fps=25.0), source=f"channel {source % 300}")


def new_need(source: int) -> Need:
    """Of a shape of its own."""
    return need(track=Track(1, Codec.H264, width=640 + source, height=720, fps=25.0), source=f"channel {source % 300}")


def milliseconds(
    ledger: Ledger, needs: Callable[[int], Need], between: Callable[[int], None], rounds: int
) -> list[float]:
    """Of each choice."""
    took = []
    for i in range(rounds):
        between(i)
        wanted = needs(i)
        started = time.thread_time()
        choose(ledger.cluster, wanted, 3.0)
        took.append((time.thread_time() - started) * 1_000)
    return took


def heartbeat_us(ledger: Ledger) -> float:
    """Microseconds that one heartbeat costs, the mean over two from each daemon."""
    beats = []
    for sequence in (1, 2):
        for daemon in ledger.daemons.values():
            pools = tuple(PoolSeen(p.id, p.held + sequence % 2, p.held) for p in daemon.pools.values())
            jobs = tuple(JobSeen(job.id, 1.0, 20.0) for job in ledger.jobs_on(daemon.id))
            beats.append(HeartbeatCame(daemon.id, sequence, pools, jobs))
    started = time.thread_time()
    for beat in beats:
        ledger.handle(beat, 20.0)
    return (time.thread_time() - started) / len(beats) * 1e6


def run(bench: Bench) -> None:
    ledger, running = cluster()
    rng, rounds = random.Random(2), bench.pick(200, 1_000)

    def nothing(i: int) -> None:
        pass

    def one_ends_and_one_starts(i: int) -> None:
        ledger.handle(JobEnded(running.pop(rng.randrange(len(running)))), 2.0)
        ledger.handle(JobWanted(f"new {i}", common_need(rng, i)), 2.0)
        running.append(f"new {i}")

    def news_of_all(i: int) -> None:
        for daemon in ledger.daemons.values():
            ledger.cluster.touch(daemon)

    def common(i: int) -> Need:
        return common_need(rng, i)

    def add(name: str, took: list[float], aim: Aim | None = None) -> None:
        more = f"median {quantile(took, 0.5):.2f}, slowest {max(took):.2f}"
        late = quantile(took, 0.99)
        bench.report.add(f"choice among {DAEMONS:,} daemons, {name}, p99", late, "ms", aim=aim, more=more)

    add("warm", milliseconds(ledger, common, one_ends_and_one_starts, rounds), at_most(5))
    add("new need", milliseconds(ledger, new_need, nothing, rounds), at_most(5))
    add("after news", milliseconds(ledger, common, news_of_all, rounds))
    bench.report.add(f"a heartbeat in the ledger, {DAEMONS:,} daemons", heartbeat_us(ledger), "us")
    ledger.validate()
    ledger, running = cluster(kinds=DAEMONS)
    add("new need, all different", milliseconds(ledger, new_need, nothing, rounds))
