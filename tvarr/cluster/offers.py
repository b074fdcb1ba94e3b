"""What daemons offer for a need now: the ways that are free, or why there is none.

An offer depends on how the daemon stands and on the shape of the need only, so it is remembered for as long as neither
is another; what concerns one job alone (who failed it) is added when choosing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvarr.cluster.fit import FULL_HARDWARE, NONE, SOFTWARE, Fit, ShapeKey, Way
from tvarr.cluster.model import Need
from tvarr.cluster.standing import PoolStanding, Standing

HARDWARE_BUSY, SOFTWARE_BUSY = 1, 2  # could do it, and all that it needs is taken

Score = tuple[int, float, int]  # rank, minus the free share, tenths of load: the smallest is the best
Verdict = tuple[Score | None, int, Score | None, int]
"""What a daemon says to a need: the score in hardware and the position of that way in `Fit.hardware`, the score in
software, and what is busy. Plain tuples of numbers: the garbage collector does not count them.
"""

NOTHING: Verdict = (None, NONE, None, 0)


@dataclass(slots=True, eq=False)
class Shape:
    """One shape of needs and what daemons said to it, by how they stood."""

    need: Need
    key: ShapeKey
    _verdicts: dict[Standing, Verdict] = field(default_factory=dict)

    def fit(self, standing: Standing) -> Fit:
        return standing.make.fit(self.need, self.key)

    def verdicts(self, standings: list[Standing], max_cpu_load: float) -> list[Verdict]:
        """In the order of the daemons; only who stands otherwise than the last time is asked."""
        known = self._verdicts
        verdicts = [known.get(standing) or self._ask(standing, max_cpu_load) for standing in standings]
        if len(known) > 2 * len(standings):
            self._verdicts = dict(zip(standings, verdicts, strict=True))
        return verdicts

    def _ask(self, standing: Standing, max_cpu_load: float) -> Verdict:
        verdict = self._verdicts[standing] = verdict_of(standing, self.fit(standing), max_cpu_load)
        return verdict


def verdict_of(standing: Standing, fit: Fit, max_cpu_load: float) -> Verdict:
    caps, software = standing.capabilities, fit.software
    if standing.closed or (software is None and not fit.hardware):
        return NOTHING
    if 0 < caps.max_jobs <= standing.jobs_held:
        return None, NONE, None, _hardware_busy(standing, fit) | (software is not None) * SOFTWARE_BUSY
    score, position, busy = None, NONE, 0
    if fit.hardware:
        position = _best_way(standing, fit.hardware)
        if position == NONE:
            busy = _hardware_busy(standing, fit)
        else:
            way = fit.hardware[position]
            share = 1.0 if way.pool == NONE else standing.pools[way.pool].share
            score = (way.rank, -share, _tenths(standing, way))
    if software is None:
        return score, position, None, busy
    if software.rank == SOFTWARE and software_taken(standing, software, max_cpu_load):
        return score, position, None, busy | SOFTWARE_BUSY
    return score, position, (software.rank, 0.0, _tenths(standing, software)), busy


def _best_way(standing: Standing, ways: tuple[Way, ...]) -> int:
    """Of those that are free: the best rank, the larger free share, the emptier GPU."""
    best: tuple[int, float, float] | None = None
    chosen = NONE
    for position, way in enumerate(ways):
        share = 1.0
        if way.pool != NONE:
            pool = standing.pools[way.pool]
            if pool.free == 0:
                continue
            share = pool.share
        used = standing.sessions[way.gpu] / way.engines if standing.sessions and way.gpu != NONE else 0.0
        if best is None or (way.rank, -share, used) < best:
            best, chosen = (way.rank, -share, used), position
    return chosen


def _hardware_busy(standing: Standing, fit: Fit) -> int:
    possible = any(way.pool == NONE or standing.pools[way.pool].possible for way in fit.hardware)
    return HARDWARE_BUSY if possible else 0


def software_taken(standing: Standing, way: Way, max_cpu_load: float) -> str:
    """Words where the daemon has no room for one more video encode in software, else nothing.

    A number of software jobs that is another than the automatic one, which is that of the processors, was set by the
    daemon's operator, who knows better than the estimate.
    """
    caps, jobs = standing.capabilities, standing.cpu_jobs_held
    if 0 < caps.max_cpu_jobs <= jobs:
        return f"all of its {caps.max_cpu_jobs} software job slots are taken"
    if not jobs or not caps.cpu_count or caps.max_cpu_jobs not in (0, caps.cpu_count):
        return ""
    load = standing.load_with(way.cost_cores)
    if load <= caps.cpu_count * max_cpu_load:
        return ""
    return f"its processors are busy: the job would make {load:.1f} of {caps.cpu_count}, by estimate"


def _tenths(standing: Standing, way: Way) -> int:
    return int(10 * standing.load_with(way.cost_cores) / (standing.capabilities.cpu_count or 1))


# -------------------------------------------------------------------------------------------------------- in words


def way_of(fit: Fit, verdict: Verdict) -> Way | None:
    """The best way that is free."""
    if verdict[0] is not None:
        return fit.hardware[verdict[1]]
    return fit.software if verdict[2] is not None else None


def offer_words(standing: Standing, way: Way, need: Need) -> str:
    """A way that is free."""
    if need.protocol and not need.targets:
        return f"reads {need.protocol}:"
    if way.encoder == NONE:
        return "has the audio encoder"
    encoder = standing.capabilities.encoders[way.encoder]
    if way.rank == SOFTWARE:
        return f"encodes in software with {encoder.name}"
    gpu = standing.capabilities.gpus[way.gpu].name if way.gpu != NONE else ""
    words = "decodes and encodes" if way.rank == FULL_HARDWARE else "encodes"
    words += f" on {gpu or encoder.device or 'hardware'} with {encoder.name}"
    pool = standing.pools[way.pool] if way.pool != NONE else None
    if pool is None or pool.free is None:
        return words
    return f"{words}, {pool.free} of {pool.limit} sessions free"


def missing_words(standing: Standing, fit: Fit, verdict: Verdict, max_cpu_load: float) -> str:
    """What is not there or taken."""
    if standing.closed:
        return standing.closed
    if not fit.hardware and fit.software is None:
        return fit.words
    most = standing.capabilities.max_jobs
    if 0 < most <= standing.jobs_held:
        return f"all of its {most} job slots are taken"
    words = [fit.words]
    if fit.hardware and verdict[0] is None:
        words.append(_full_words(standing.pools[fit.hardware[0].pool]))  # a way without a pool is always free
    if fit.software is not None and fit.software.rank == SOFTWARE and verdict[2] is None:
        words.append(software_taken(standing, fit.software, max_cpu_load))
    return "; ".join(filter(None, words))


def _full_words(pool: PoolStanding) -> str:
    if not pool.limit and pool.learned is None:
        return f"it may open no hardware sessions ({pool.detail})"
    foreign = f", {pool.foreign} of them by other programs" if pool.foreign else ""
    source = pool.source.value.replace("_", " ")
    return f"{pool.in_use} of {pool.limit} hardware sessions are taken{foreign} ({source}: {pool.detail})"
