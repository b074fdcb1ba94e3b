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
from itertools import chain

from tvarr.cluster.fit import FULL_HARDWARE, names_hardware, need_key
from tvarr.cluster.model import ExhaustedPolicy, MoveKind, Need, Placement, Refusal, RefusalKind, Wait
from tvarr.cluster.offers import Offer, Verdict, Verdicts, verdicts_of
from tvarr.cluster.reasons import Reasons, Special
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
    ends, and where only they are left, or daemons that were set aside, the answer is `Wait` with a time, if that comes
    before the queue's time limit. `avoid` holds ids of daemons that are taken only where nobody else can do it.
    `succession`: the job is to replace another, which bars some daemons (`objection`); waiting is no answer then.
    """
    key = need_key(need)
    verdicts = verdicts_of(cluster, need, key)
    special = _special(cluster, work, avoid, now)
    if succession is not None:
        special |= _barred(cluster, verdicts, succession)
    first = _decide(cluster, need, now, verdicts, special, avoid, succession)
    if isinstance(first, Placement) or not avoid:
        return first
    second = _decide(cluster, need, now, verdicts, special, frozenset(), succession)
    return second if isinstance(second, Placement) else first


def _special(cluster: Cluster, work: str, avoid: frozenset[str], now: float) -> dict[str, Special]:
    special = {daemon_id: Special("failed this job before", now) for daemon_id in avoid}
    for daemon_id, backoff in cluster.backoffs.get(work, {}).items():
        words = f"failed this job ({backoff.reason})"
        if backoff.until > now:
            words += f"; not tried again for {backoff.until - now:.1f} s"
        special[daemon_id] = Special(words, backoff.until, backoff.hardware_only)
    for daemon_id in cluster.aside:
        daemon = cluster.daemons[daemon_id]
        special[daemon_id] = Special(daemon.aside_reason, daemon.aside_until or now)
    return special


def _barred(cluster: Cluster, verdicts: Verdicts, succession: Succession) -> dict[str, Special]:
    return {
        verdict.daemon_id: Special(words, None)
        for verdict in chain.from_iterable(verdicts)
        if (words := objection(succession, cluster.daemons[verdict.daemon_id], verdict))
    }


@dataclass(slots=True)
class _Best:
    """The best of the offers so far."""

    cluster: Cluster
    near: Container[str]  # daemons that get the same source already
    verdict: Verdict | None = None
    offer: Offer | None = None
    ties: tuple[bool, int] = (True, 0)

    def take(self, verdict: Verdict, offer: Offer) -> None:
        if self.offer is not None and offer.score > self.offer.score:
            return
        ties = (verdict.daemon_id not in self.near, self.cluster.daemons[verdict.daemon_id].last_used)
        if self.offer is None or (offer.score, ties) < (self.offer.score, self.ties):
            self.verdict, self.offer, self.ties = verdict, offer, ties


def _decide(
    cluster: Cluster,
    need: Need,
    now: float,
    verdicts: Verdicts,
    special: dict[str, Special],
    avoid: frozenset[str],
    succession: Succession | None,
) -> Placement | Wait | Refusal:
    hardware_only = succession is not None and succession.kind is MoveKind.PROMOTION
    strict = hardware_only or names_hardware(need)
    near: Container[str] = frozenset(cluster.sources.get(need.source, ())) if need.source else frozenset()
    hard, soft = _Best(cluster, near), _Best(cluster, near)
    hardware_busy = software_busy = hardware_failed = False
    until: float | None = None  # when somebody who is left out now may be asked
    for verdict in chain.from_iterable(verdicts):
        reason = special.get(verdict.daemon_id) if special else None
        if reason is not None and reason.until is None:
            continue
        if reason is not None and reason.until is not None and reason.until > now:
            if not reason.hardware_only:
                if verdict.capable(strict=strict):
                    until = reason.until if until is None else min(until, reason.until)
                continue
            hardware_failed = True
            if strict:
                until = reason.until if until is None else min(until, reason.until)
        elif reason is not None and verdict.daemon_id in avoid:
            continue
        else:
            if verdict.hardware is not None:
                hard.take(verdict, verdict.hardware)
            hardware_busy = hardware_busy or verdict.hardware_busy
        if verdict.software is not None and hard.offer is None:
            soft.take(verdict, verdict.software)
        software_busy = software_busy or verdict.software_busy
    if hardware_only or (strict and not hardware_busy and not hardware_failed):
        soft, software_busy = _Best(cluster, near), False
    if hard.offer is not None:
        return _placement(verdicts, special, hard, fallback=False)
    fallback = need.policy == ExhaustedPolicy.FALLBACK
    if soft.offer is not None and (fallback if hardware_busy or strict else True):
        return _placement(verdicts, special, soft, fallback=hardware_busy)
    considered = Reasons(verdicts, special)
    settings = cluster.settings
    if until is not None and succession is None and until - now <= settings.queue_timeout_s:
        return Wait("every daemon that could do this job failed lately", considered, until)
    if not verdicts:
        return Refusal("no daemon is connected", considered, RefusalKind.NO_DAEMON, settings.retry_after_s)
    busy = hardware_busy or software_busy or soft.offer is not None
    if not busy and until is None:
        words = "no daemon can do this job" if succession is None else "no daemon can take over this job"
        return Refusal(words, considered, RefusalKind.UNSUPPORTED, settings.retry_after_s)
    words = "every daemon that could do this job failed lately"
    if busy:
        words = "all hardware sessions are taken" if hardware_busy else "all daemons are busy"
    if busy and need.policy == ExhaustedPolicy.QUEUE and succession is None:
        return Wait(words, considered, until)
    retry_after_s = settings.retry_after_s if until is None else max(1.0, until - now)
    return Refusal(words, considered, RefusalKind.EXHAUSTED, retry_after_s)


def _placement(verdicts: Verdicts, special: dict[str, Special], best: _Best, *, fallback: bool) -> Placement:
    assert best.offer is not None
    assert best.verdict is not None
    offer, way = best.offer, best.offer.way
    reason = f"{offer.words}; all hardware sessions are taken" if fallback else offer.words
    return Placement(
        best.verdict.daemon_id,
        way.encoder,
        reason,
        Reasons(verdicts, special, best.verdict, offer, reason, best.near),
        hw_decode=way.rank == FULL_HARDWARE and way.encoder is not None,
        pool=way.pool.id if way.pool is not None else "",
        fallback=fallback,
        cost_cores=way.cost_cores,
    )
