"""What must hold of a cluster after every event, recounted from nothing."""

from __future__ import annotations

from collections import Counter

from tvarr.cluster.pools import Held, Pool
from tvarr.cluster.state import Cluster, Daemon, Job


def validate(cluster: Cluster) -> None:
    """Asserts what must hold after every event; recounts everything.

    Limits hold for what was placed since they last became tighter: a daemon that comes back with fewer slots, or a
    driver that allows less than was known, does not end jobs that run.
    """
    everything = [*cluster.jobs.values(), *cluster.closing.values()]
    for job_id, job in cluster.jobs.items():
        assert job.id == job_id, f"{job.id} is filed under another id"
        assert job.state is not Held.CLOSING, f"{job.id} is closing and still wanted"
        assert cluster.daemons[job.daemon_id].connected, f"{job.id} is placed on {job.daemon_id}, which is gone"
        assert cluster.daemons[job.daemon_id].instance == job.instance, f"{job.id} is placed on another process"
    assert all(job.state is Held.CLOSING for job in cluster.closing.values()), "a closing job is not closing"
    held = {serial: job for of_daemon in cluster.held.values() for serial, job in of_daemon.items()}
    assert held == {job.serial: job for job in everything}, "what daemons hold does not add up"
    assert all(cluster.held.values()), "an empty entry of held jobs"
    sources: dict[str, Counter[str]] = {}
    for job in everything:
        sources.setdefault(job.need.source, Counter())[job.daemon_id] += 1
    assert sources == cluster.sources, "sources do not add up"
    assert cluster.aside <= cluster.daemons.keys(), "a daemon that is forgotten is set aside"
    draining = {d.id: d for d in cluster.daemons.values() if d.draining}
    assert cluster.draining == draining, "draining daemons do not add up"
    _validate_successors(cluster)
    for daemon in cluster.daemons.values():
        _validate_daemon(cluster, daemon)
    for pool in cluster.pools.values():
        _validate_pool(pool, everything)


def _validate_successors(cluster: Cluster) -> None:
    """Each replaces one running job, and no job has two, nor a successor one of its own."""
    for replaced, job in cluster.successors.items():
        assert replaced in cluster.jobs, f"{job.id} replaces {replaced}, which is gone"
        assert cluster.jobs.get(job.id) is job, f"{replaced} has a successor that is gone"
        assert job.succession is not None, f"{job.id} replaces {replaced} and was not asked to"
        assert job.succession.replaces == replaced, f"{job.id} replaces another job than {replaced}"
        assert job.id not in cluster.successors, f"{job.id} replaces {replaced} and has a successor itself"


def _validate_daemon(cluster: Cluster, daemon: Daemon) -> None:
    name = daemon.name
    jobs = [job for job in cluster.held_by(daemon.id) if job.instance == daemon.instance]
    assert daemon.jobs_held == len(jobs), f"{name}: {daemon.jobs_held} jobs counted, {len(jobs)} there"
    assert daemon.cpu_jobs_held == sum(job.in_software for job in jobs), f"{name}: software jobs do not add up"
    load = sum(job.placement.cost_cores for job in jobs)
    assert abs(daemon.load_cores - load) < 1e-6, f"{name}: load does not add up"
    devices = Counter(job.placement.encoder.device for job in jobs if job.placement.encoder is not None)
    del devices[""]
    assert +daemon.gpu_sessions == devices, f"{name}: sessions of its GPUs do not add up"
    assert daemon.gpu_decodes <= daemon.gpu_sessions, f"{name}: more decodes than encodes"
    for pool in daemon.pools.values():
        assert cluster.pools.get((pool.host, pool.id)) is pool, f"{name} draws from a pool that is gone"
        assert daemon.id in pool.members, f"{name} is no member of its pool {pool.id}"
    assert (daemon.id in cluster.aside) == (daemon.aside_until is not None), f"{name}: set aside or not"
    if all(job.serial <= daemon.tightened for job in jobs):
        return
    caps = daemon.capabilities
    assert not caps.max_jobs or len(jobs) <= caps.max_jobs, f"{name} has more jobs than slots"
    cpu_jobs = daemon.cpu_jobs_held
    newest = max((job.serial for job in jobs if job.in_software), default=0)
    assert newest <= daemon.tightened or not caps.max_cpu_jobs or cpu_jobs <= caps.max_cpu_jobs, (
        f"{name} has too many software jobs"
    )


def _validate_pool(pool: Pool, everything: list[Job]) -> None:
    pool.validate()
    key = (pool.host, pool.id)
    jobs = [job for job in everything if job.pool == key]
    counted = Counter((job.daemon_id, job.state) for job in jobs)
    stated = Counter({(m, state): count for m, part in pool.members.items() for state, count in part.held.items()})
    assert counted == +stated, f"pool {pool.id} of {pool.host}: reservations do not add up"
    assert pool.members, f"pool {pool.id} of {pool.host} is nobody's"
    newest = max((job.serial for job in jobs), default=0)
    if pool.limit is not None and newest > pool.tightened:
        words = f"pool {pool.id} of {pool.host}: {pool.held} + {pool.foreign} of {pool.limit}"
        assert pool.in_use <= pool.limit, words
