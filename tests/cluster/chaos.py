"""Random daemons, needs and events: as strategies for hypothesis, and seeded for long runs."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import strategies as st

from tests.cluster.build import attached
from tvarr.cluster.events import (
    CapabilitiesCame,
    DaemonAttached,
    DaemonDetached,
    DrainAsked,
    Event,
    HeartbeatCame,
    Instruction,
    JobAcked,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobSeen,
    JobWanted,
    Move,
    PoolSeen,
    SessionRefused,
    TimePassed,
)
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, LimitSource, MoveKind, Need, SessionPool, Target
from tvarr.errors import ErrorCode
from tvarr.media.model import Codec, Track

NAMES = ["a", "b", "c", "d", "e"]
MACHINES = ["m1", "m2", ""]
JOBS = [f"j{i}" for i in range(24)]
POOLS = ["nvidia-host", "GPU-1"]
VIDEO = [Codec.H264, Codec.HEVC, Codec.AV1]
FAMILIES = {Family.NVENC: "nvenc", Family.VAAPI: "vaapi"}


def random_capabilities(rng: Random) -> Capabilities:
    """A few encoders, some broken, on up to two GPUs that draw from one pool, two, or none."""
    gpus = tuple(
        Gpu(f"GPU-{n}", "", "nvidia", driver=rng.choice(["550.54", "470.1"]), pool=rng.choice([*POOLS, ""]), engines=n)
        for n in range(rng.randrange(3))
    )
    encoders = [Encoder("aac", Codec.AAC, Family.SOFTWARE)] if rng.random() < 0.9 else []
    for codec in VIDEO:
        if rng.random() < 0.7:
            encoders.append(Encoder(f"soft {codec}", codec, Family.SOFTWARE, usable=rng.random() < 0.8))
        for gpu in gpus:
            family = rng.choice(list(FAMILIES))
            name = f"{codec}_{FAMILIES[family]}"
            if rng.random() < 0.7:
                encoders.append(Encoder(name, codec, family, gpu.id, usable=rng.random() < 0.8))
    rng.shuffle(encoders)
    drawn = {gpu.pool for gpu in gpus if gpu.pool}
    pools = tuple(
        SessionPool(name, rng.choice([None, 0, 1, 2, 3, 5]), rng.choice(list(LimitSource))) for name in sorted(drawn)
    )
    return Capabilities(
        encoders=tuple(encoders),
        decoders=rng.choice([frozenset(), frozenset({"h264", "mp2"})]),
        hwaccels=rng.choice([(), ("cuda",)]),
        gpus=gpus,
        pools=pools,
        max_jobs=rng.choice([0, 0, 1, 3, 8]),
        max_cpu_jobs=rng.choice([0, 0, 1, 2]),
        cpu_count=rng.choice([0, 1, 4]),
    )


def random_need(rng: Random) -> Need:
    targets: tuple[Target, ...] = ()
    if rng.random() < 0.9:
        width, height = rng.choice([(0, 0), (1280, 720), (120, 48)])
        track = Track(1, rng.choice(VIDEO), width=width, height=height, fps=rng.choice([0.0, 25.0]))
        targets = (Target(track, rng.choice(VIDEO), preset=rng.choice(["", "slow"])),)
    if not targets or rng.random() < 0.4:
        targets += (Target(Track(2, Codec.MP2), Codec.AAC),)
    return Need(
        targets,
        rng.choice(["auto", "auto", "auto", "none", "nvenc", "vaapi"]),
        rng.choice(["fallback", "queue", "reject"]),
        rng.choice(["", "x", "y"]),
        rng.choice([0, 0, 1]),
    )


def random_attach(rng: Random) -> DaemonAttached:
    return attached(
        rng.choice(NAMES),
        random_capabilities(rng),
        instance=rng.choice("12"),
        machine=rng.choice(MACHINES),
        jobs=frozenset(rng.sample(JOBS, rng.randrange(6))),
    )


def random_event(rng: Random, ledger: Ledger) -> Event:
    """Any event about a few names; most jobs are heard of often enough to live through all states."""
    name = rng.choice(NAMES)
    job = rng.choice(list(ledger.jobs) or JOBS) if rng.random() < 0.7 else rng.choice(JOBS)
    kind = rng.random()
    if kind < 0.28:
        job = rng.choice(JOBS)
        if job in ledger.jobs or ledger.position(job):
            return JobEnded(job)
        avoid = frozenset(rng.sample(NAMES, 1)) if rng.random() < 0.1 else frozenset()
        work = rng.choice(["", "w1", "w2", "w3"])
        if rng.random() < 0.7:
            return JobWanted(job, random_need(rng), avoid, work)
        replaced = rng.choice(list(ledger.jobs) or JOBS)
        to = rng.choice(NAMES) if rng.random() < 0.3 else ""
        return JobWanted(job, random_need(rng), avoid, work, replaced, rng.choice(list(MoveKind)), to)
    if kind < 0.44:
        return JobAcked(rng.choice([j.id for j in ledger.jobs.values() if not j.acked] or JOBS))
    if kind < 0.66:
        seen = rng.choice([None, tuple(JobSeen(j, rng.random() * 2, rng.random() * 30) for j in rng.sample(JOBS, 8))])
        pools = tuple(PoolSeen(pool, rng.randrange(7), rng.randrange(5)) for pool in POOLS if rng.random() < 0.6)
        return HeartbeatCame(name, rng.choice([None, rng.randrange(1_000)]), pools, seen)
    if kind < 0.70:
        return JobCancelled(job, "nobody watches")
    if kind < 0.76:
        return JobFailed(job, rng.choice(list(ErrorCode)), "it broke", rng.random() < 0.3, rng.random() < 0.7)
    if kind < 0.80:
        return SessionRefused(job)
    if kind < 0.85:
        return JobEnded(job)
    if kind < 0.89:
        return random_attach(rng)
    if kind < 0.90:
        return DaemonDetached(name, rng.choice("12"), "gone")
    if kind < 0.94:
        return DrainAsked(name, rng.random() < 0.5)
    if kind < 0.95:
        return CapabilitiesCame(name, random_capabilities(rng))
    return TimePassed()


def random_clusters(seed: int, count: int) -> Iterator[tuple[Ledger, Need]]:
    """So many needs, each before a cluster of up to five daemons with up to eight jobs; five needs share a cluster."""
    rng = Random(seed)
    while count > 0:
        ledger = Ledger()
        for _ in range(rng.randrange(6)):
            ledger.handle(random_attach(rng), 0.0)
        for job in rng.sample(JOBS, rng.randrange(9)):
            ledger.handle(JobWanted(job, random_need(rng)), 0.0)
        for _ in range(min(5, count)):
            count -= 1
            yield ledger, random_need(rng)


def answer(rng: Random, ledger: Ledger, asked: list[Move]) -> Event | None:
    """Mostly what a move asks for; None where it is left undone, or the job is gone."""
    move = asked.pop(rng.randrange(len(asked)))
    job, free = ledger.jobs.get(move.job_id), [j for j in JOBS if j not in ledger.jobs and not ledger.position(j)]
    if job is None or not free or rng.random() < 0.2:
        return None
    return JobWanted(rng.choice(free), job.need, job.avoid, job.work, move.job_id, move.kind)


def random_history(
    seed: int, count: int, *, every: int = 1
) -> Iterator[tuple[Ledger, Event, list[Instruction], float, set[str]]]:
    """So many events, and what the ledger answered; invariants are looked at after every so many. The set has the jobs
    before the event.
    """
    rng, ledger, now = Random(seed), Ledger(), 0.0
    asked: list[Move] = []
    for i in range(count):
        now += rng.expovariate(1 / (0.5 if rng.random() < 0.98 else 60.0))
        event = (answer(rng, ledger, asked) if asked and rng.random() < 0.5 else None) or random_event(rng, ledger)
        before = set(ledger.jobs)
        instructions = ledger.handle(event, now)
        asked += [i for i in instructions if isinstance(i, Move)]
        if i % every == 0:
            ledger.validate()
        yield ledger, event, instructions, now, before


def daemons() -> st.SearchStrategy[DaemonAttached]:
    return st.integers(0, 2**32).map(lambda seed: random_attach(Random(seed)))


def needs() -> st.SearchStrategy[Need]:
    return st.integers(0, 2**32).map(lambda seed: random_need(Random(seed)))
