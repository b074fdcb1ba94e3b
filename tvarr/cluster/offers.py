"""What daemons offer for a need now: the ways that are free, or why there is none.

An offer depends on the daemon's state and on the shape of the need only, so daemons remember theirs until something of
them changes (`Cluster.touch`); what concerns one job alone (who failed it) is added when choosing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.cluster.fit import FULL_HARDWARE, SOFTWARE, NeedKey, Way, fit_of
from tvarr.cluster.model import Need
from tvarr.cluster.pools import Pool
from tvarr.cluster.state import Cluster, Daemon

MAX_REMEMBERED = 64  # shapes of needs for which a daemon remembers what it offers; beyond it all are forgotten

Score = tuple[int, float, int]  # rank, minus the free share, tenths of load


@dataclass(slots=True)
class Offer:
    """A way that is free now; `free` of `limit` sessions at that moment, -1 where there is no limit."""

    way: Way
    score: Score
    device: str = ""  # for people
    free: int = -1
    limit: int = -1

    @property
    def words(self) -> str:
        way = self.way
        if way.encoder is None:
            return "has the audio encoder"
        if way.rank == SOFTWARE:
            return f"encodes in software with {way.encoder.name}"
        what = "decodes and encodes" if way.rank == FULL_HARDWARE else "encodes"
        sessions = "" if self.limit < 0 else f", {self.free} of {self.limit} sessions free"
        return f"{what} on {self.device} with {way.encoder.name}{sessions}"


@dataclass(slots=True, eq=False)
class Verdict:
    """What a daemon says to a need now. It is never changed, so that reasons can be read from it later."""

    daemon_id: str
    name: str
    hardware: Offer | None = None
    software: Offer | None = None
    hardware_busy: bool = False  # could, and all that it needs is taken
    software_busy: bool = False
    words: str = ""  # what is missing or taken

    def capable(self, *, strict: bool) -> bool:
        """Whether it could do the job at some time; `strict`: in hardware."""
        return bool(self.hardware or self.hardware_busy or (not strict and (self.software or self.software_busy)))


CHUNK = 32
Verdicts = tuple[tuple[Verdict, ...], ...]  # in the order in which the daemons joined; all but the last have `CHUNK`


def verdicts_of(cluster: Cluster, need: Need, key: NeedKey) -> Verdicts:
    """What each daemon that is not gone says now; remembered until something of it changes.

    They come in chunks, of which one in which nothing changed is the same object as the last time: every placement
    keeps them for its reasons, and 1,000 references each would burden the garbage collector.
    """
    verdicts: list[Verdict] = []
    max_cpu_load = cluster.settings.max_cpu_load
    for daemon in cluster.daemons.values():
        if not daemon.connected:
            continue
        verdict = daemon.verdicts.get(key)
        if verdict is None:
            if len(daemon.verdicts) >= MAX_REMEMBERED:
                daemon.verdicts.clear()
            verdict = daemon.verdicts[key] = _verdict(daemon, need, key, max_cpu_load)
        verdicts.append(verdict)
    before = cluster.chunks.get(key, ())
    chunks = [tuple(verdicts[i : i + CHUNK]) for i in range(0, len(verdicts), CHUNK)]
    for i in range(min(len(chunks), len(before))):
        if chunks[i] == before[i]:
            chunks[i] = before[i]
    if len(cluster.chunks) >= MAX_REMEMBERED:
        cluster.chunks.clear()
    cluster.chunks[key] = tuple(chunks)
    return cluster.chunks[key]


def _verdict(daemon: Daemon, need: Need, key: NeedKey, max_cpu_load: float) -> Verdict:
    if daemon.unhealthy or daemon.draining:
        return Verdict(daemon.id, daemon.name, words=f"it is {daemon.state}")
    fit = daemon.fits.get(key)
    if fit is None:
        if len(daemon.fits) >= MAX_REMEMBERED:
            daemon.fits.clear()
        fit = daemon.fits[key] = fit_of(daemon, need)
    verdict = Verdict(daemon.id, daemon.name, words=fit.words)
    if not fit.hardware and fit.software is None:
        return verdict
    most = daemon.capabilities.max_jobs
    if 0 < most <= daemon.jobs_held:
        verdict.hardware_busy = any(_possible(way) for way in fit.hardware)
        verdict.software_busy = fit.software is not None
        verdict.words = f"all of its {most} job slots are taken"
        return verdict
    if fit.hardware:
        _offer_hardware(daemon, fit.hardware, verdict)
    if fit.software is not None:
        _offer_software(daemon, fit.software, max_cpu_load, verdict)
    return verdict


def _possible(way: Way) -> bool:
    """A pool whose limit was set to nothing will never have a session."""
    return way.pool is None or way.pool.base.limit is None or way.pool.base.limit > 0


def _offer_hardware(daemon: Daemon, ways: tuple[Way, ...], verdict: Verdict) -> None:
    """The best of the ways that are free; where none is, whether one is worth waiting for, and words."""
    best: tuple[int, float, float] | None = None
    chosen: Way | None = None
    for way in ways:
        pool = way.pool
        if pool is not None and pool.free == 0:
            continue
        share = 1.0 if pool is None else pool.share
        used = daemon.gpu_sessions[way.device] / way.engines if daemon.gpu_sessions and len(ways) > 1 else 0.0
        if best is None or (way.rank, -share, used) < best:
            best, chosen = (way.rank, -share, used), way
    if best is None or chosen is None:
        verdict.hardware_busy = any(_possible(way) for way in ways)
        verdict.words = _joined(verdict.words, _full_words(ways[0].pool))
        return
    offer = Offer(chosen, (best[0], best[1], _tenths(daemon, chosen)), chosen.place)
    if chosen.pool is not None and chosen.pool.free is not None:
        offer.free, offer.limit = chosen.pool.free, chosen.pool.limit or 0
    verdict.hardware = offer


def _full_words(pool: Pool | None) -> str:
    if pool is None:
        return ""
    if not pool.limit and pool.learned is None:
        return f"it may open no hardware sessions ({pool.detail})"
    foreign = f", {pool.foreign} of them by other programs" if pool.foreign else ""
    return f"{pool.in_use} of {pool.limit} hardware sessions are taken{foreign} ({pool.source}: {pool.detail})"


def _offer_software(daemon: Daemon, way: Way, max_cpu_load: float, verdict: Verdict) -> None:
    """The software way where the processors have room for it, or words why not.

    A number of software jobs that is another than the automatic one, which is that of the processors, was set by the
    daemon's operator, who knows better than the estimate.
    """
    if way.encoder is None:
        verdict.software = Offer(way, (FULL_HARDWARE, 0.0, _tenths(daemon, way)))
        return
    caps, taken = daemon.capabilities, ""
    if 0 < caps.max_cpu_jobs <= daemon.cpu_jobs_held:
        taken = f"all of its {caps.max_cpu_jobs} software job slots are taken"
    elif caps.max_cpu_jobs in (0, caps.cpu_count) and caps.cpu_count > 0 and daemon.cpu_jobs_held:
        load = (daemon.load_cores + way.cost_cores) * daemon.cost_factor
        if load > caps.cpu_count * max_cpu_load:
            taken = f"its processors are busy: the job would make {load:.1f} of {caps.cpu_count}, by estimate"
    if taken:
        verdict.software_busy = True
        verdict.words = _joined(verdict.words, taken)
    else:
        verdict.software = Offer(way, (SOFTWARE, 0.0, _tenths(daemon, way)))


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def _tenths(daemon: Daemon, way: Way) -> int:
    load = (daemon.load_cores + way.cost_cores) * daemon.cost_factor
    return int(10 * load / (daemon.capabilities.cpu_count or 1))
