"""Where a job goes: every daemon is considered, and each verdict has a reason in words.

A daemon makes an offer or says why not. Offers are compared by these, each only where the ones before are equal:

1. the way: decoding and encoding on one GPU, hardware encoding alone, software;
2. the free share of the session pool;
3. the processors' estimated load with the job, in tenths;
4. whether the daemon has a job of the same source already;
5. how long ago it was used.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from tvarr.cluster.fit import FULL_HARDWARE, MAX_SHAPES, NONE, Way, names_hardware, shape_key
from tvarr.cluster.model import ExhaustedPolicy, MoveKind, Need, Placement, Refusal, RefusalKind, Wait
from tvarr.cluster.offers import HARDWARE_BUSY, SOFTWARE_BUSY, Score, Shape, Verdict, offer_words, way_of
from tvarr.cluster.reasons import Chosen, Reasons, Special
from tvarr.cluster.standing import Standing
from tvarr.cluster.state import Cluster, Succession
from tvarr.cluster.succession import objection


def choose(
    cluster: Cluster,
    need: Need,
    now: float,
    *,
    work: str = "",
    avoid: frozenset[str] = frozenset(),
    succession: Succession | None = None,
) -> Placement | Wait | Refusal:
    """The best place for a job.

    `work` names what the job does over all its tries: daemons that failed it lately are left out until their backoff
    ends, and where only they are left, the answer is `Wait` with a time, if that comes before the queue's time limit.
    Daemons that were set aside get the job only where no other could ever do it; `avoid` holds ids of daemons that are
    taken only where no other can now.
    `succession`: the job is to replace another, which bars some daemons (`objection`); waiting is no answer then.
    """
    shape, standings = _shape(cluster, need), cluster.look_round()
    verdicts = shape.verdicts(standings, cluster.settings.max_cpu_load)
    special = _special(cluster, work, avoid, now)
    barred = _barred(cluster, shape, standings, verdicts, succession) if succession is not None else {}
    everything = special | _aside(cluster, now) | barred
    question = _Question(cluster, need, now, shape, standings, verdicts, everything, succession)
    if cluster.aside and not question.has_others():
        question.special = special | barred
    first = question.decide(avoid)
    if isinstance(first, Placement) or not avoid:
        return first
    second = question.decide(frozenset())
    return second if isinstance(second, Placement) else first


def _shape(cluster: Cluster, need: Need) -> Shape:
    key = shape_key(need)
    shape = cluster.shapes.get(key)
    if shape is None:
        if len(cluster.shapes) >= MAX_SHAPES:
            del cluster.shapes[next(iter(cluster.shapes))]
        shape = cluster.shapes[key] = Shape(need, key)
    return shape


def _special(cluster: Cluster, work: str, avoid: frozenset[str], now: float) -> dict[str, Special]:
    special = {daemon_id: Special("failed this job before", now) for daemon_id in avoid}
    for daemon_id, backoff in cluster.backoffs.get(work, {}).items():
        words = f"failed this job ({backoff.reason})"
        if backoff.until > now:
            words += f"; not tried again for {backoff.until - now:.1f} s"
        special[daemon_id] = Special(words, backoff.until, backoff.hardware_only)
    return special


def _aside(cluster: Cluster, now: float) -> dict[str, Special]:
    aside = (cluster.daemons[daemon_id] for daemon_id in cluster.aside)
    return {daemon.id: Special(daemon.aside_reason, daemon.aside_until or now) for daemon in aside}


def _barred(
    cluster: Cluster, shape: Shape, standings: list[Standing], verdicts: list[Verdict], succession: Succession
) -> dict[str, Special]:
    return {
        standing.id: Special(words, None)
        for standing, verdict in zip(standings, verdicts, strict=True)
        if (words := objection(succession, cluster.daemons[standing.id], way_of(shape.fit(standing), verdict)))
    }


@dataclass(slots=True)
class _Best:
    """The best of the offers so far."""

    near: Container[str]  # daemons that get the same source already
    standing: Standing | None = None
    score: Score | None = None
    position: int = NONE  # of the way
    ties: tuple[bool, int] = (True, 0)

    def take(self, standing: Standing, score: Score, position: int) -> None:
        if self.score is not None and score > self.score:
            return
        ties = (standing.id not in self.near, standing.last_used)
        if self.score is None or (score, ties) < (self.score, self.ties):
            self.standing, self.score, self.position, self.ties = standing, score, position, ties


@dataclass(slots=True)
class _Question:
    """One need, and what everybody says to it."""

    cluster: Cluster
    need: Need
    now: float
    shape: Shape
    standings: list[Standing]
    verdicts: list[Verdict]
    special: dict[str, Special]
    succession: Succession | None

    def has_others(self) -> bool:
        """Whether a daemon that is not set aside could do the job at some time."""
        strict = self.succession is not None and self.succession.kind is MoveKind.PROMOTION
        strict = strict or names_hardware(self.need)
        return any(
            _capable(verdict, strict=strict)
            for standing, verdict in zip(self.standings, self.verdicts, strict=True)
            if standing.id not in self.cluster.aside and not self._is_barred(standing.id)
        )

    def _is_barred(self, daemon_id: str) -> bool:
        special = self.special.get(daemon_id)
        return special is not None and special.until is None

    def decide(self, avoid: frozenset[str]) -> Placement | Wait | Refusal:
        hardware_only = self.succession is not None and self.succession.kind is MoveKind.PROMOTION
        strict = hardware_only or names_hardware(self.need)
        near = frozenset(self.cluster.sources.get(self.need.source, ())) if self.need.source else frozenset()
        hard, soft = _Best(near), _Best(near)
        busy, hardware_failed = 0, False
        until: float | None = None  # when somebody who is left out now may be asked
        for standing, verdict in zip(self.standings, self.verdicts, strict=True):
            hard_score, position, soft_score, verdict_busy = verdict
            reason = self.special.get(standing.id) if self.special else None
            if reason is None:
                if hard_score is not None:
                    hard.take(standing, hard_score, position)
            elif reason.until is None or (reason.until <= self.now and standing.id in avoid):
                continue
            elif reason.until > self.now and not reason.hardware_only:
                if _capable(verdict, strict=strict):
                    until = reason.until if until is None else min(until, reason.until)
                continue
            elif reason.until > self.now:
                hardware_failed, verdict_busy = True, verdict_busy & SOFTWARE_BUSY
                if strict:
                    until = reason.until if until is None else min(until, reason.until)
            elif hard_score is not None:
                hard.take(standing, hard_score, position)
            busy |= verdict_busy
            if soft_score is not None and hard.score is None:
                soft.take(standing, soft_score, NONE)
        hardware_busy = bool(busy & HARDWARE_BUSY)
        if hardware_only or (strict and not hardware_busy and not hardware_failed):
            soft, busy = _Best(near), busy & HARDWARE_BUSY
        if hard.score is not None:
            return self._placement(hard, fallback=False)
        fallback = self.need.policy == ExhaustedPolicy.FALLBACK
        if soft.score is not None and (fallback if hardware_busy or strict else True):
            return self._placement(soft, fallback=hardware_busy)
        return self._nowhere(until, hardware_busy=hardware_busy, busy=bool(busy) or soft.score is not None)

    def _nowhere(self, until: float | None, *, hardware_busy: bool, busy: bool) -> Wait | Refusal:
        settings, considered = self.cluster.settings, self._reasons()
        lately = "every daemon that could do this job failed lately"
        may_wait = self.succession is None
        if until is not None and may_wait and until - self.now <= settings.queue_timeout_s:
            return Wait(lately, considered, until)
        if not self.standings:
            return Refusal("no daemon is connected", considered, RefusalKind.NO_DAEMON, settings.retry_after_s)
        if not busy and until is None:
            words = "no daemon can do this job" if may_wait else "no daemon can take over this job"
            if self.need.protocol:
                words = f"no daemon reads {self.need.protocol}: sources"
            return Refusal(words, considered, RefusalKind.UNSUPPORTED, settings.retry_after_s)
        words = lately
        if busy:
            words = "all hardware sessions are taken" if hardware_busy else "all daemons are busy"
        if busy and self.need.policy == ExhaustedPolicy.QUEUE and may_wait:
            return Wait(words, considered, until, busy)
        retry_after_s = settings.retry_after_s if until is None else max(1.0, until - self.now)
        return Refusal(words, considered, RefusalKind.EXHAUSTED, retry_after_s, busy)

    def _placement(self, best: _Best, *, fallback: bool) -> Placement:
        standing, score = best.standing, best.score
        assert standing is not None
        assert score is not None
        way = self._way(standing, best.position)
        words = offer_words(standing, way, self.need)
        reason = f"{words}; all hardware sessions are taken" if fallback else words
        caps = standing.capabilities
        return Placement(
            standing.id,
            caps.encoders[way.encoder] if way.encoder != NONE else None,
            reason,
            self._reasons(Chosen(standing, score, reason, best.near)),
            hw_decode=way.rank == FULL_HARDWARE and way.encoder != NONE,
            pool=caps.pools[way.pool].id if way.pool != NONE else "",
            fallback=fallback,
            cost_cores=way.cost_cores,
        )

    def _way(self, standing: Standing, position: int) -> Way:
        fit = self.shape.fit(standing)
        if position != NONE:
            return fit.hardware[position]
        assert fit.software is not None
        return fit.software

    def _reasons(self, chosen: Chosen | None = None) -> Reasons:
        cluster = self.cluster
        return Reasons(cluster.standings, self.shape, cluster.settings.max_cpu_load, self.special, chosen)


def _capable(verdict: Verdict, *, strict: bool) -> bool:
    """Whether a daemon could do the job at some time; `strict`: in hardware."""
    hard_score, _, soft_score, busy = verdict
    if hard_score is not None or busy & HARDWARE_BUSY:
        return True
    return not strict and (soft_score is not None or bool(busy & SOFTWARE_BUSY))
