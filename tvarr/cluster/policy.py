"""Where a job goes: every daemon is considered, and each verdict has a reason in words.

A daemon makes an offer or says why not. Offers are compared by these, each only where the ones before are equal:

1. the way: decoding and encoding on one GPU, hardware encoding alone, software;
2. the free share of the session pool;
3. the processors' estimated load with the job, in tenths;
4. whether the daemon has a job of the same source already;
5. how long ago it was used.

An offer depends on the daemon's state and on the shape of the need only, so daemons remember theirs until something of
them changes (`Cluster.touch`); what concerns one job alone (who failed it) is added when choosing.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from tvarr.cluster.hardware import HARDWARE_DECODING, OTHER_DECODERS, SMALLEST_PICTURE
from tvarr.cluster.load import cost_cores, fitted
from tvarr.cluster.model import (
    Capabilities,
    Considered,
    Encoder,
    ExhaustedPolicy,
    Family,
    Need,
    Placement,
    Refusal,
    RefusalKind,
    Target,
    Wait,
)
from tvarr.cluster.pools import Pool
from tvarr.cluster.state import Cluster, Daemon, DaemonState, pool_of
from tvarr.media.model import Kind

MAX_REMEMBERED = 64  # shapes of needs for which a daemon remembers what it offers; beyond it all are forgotten
FULL_HARDWARE, HARDWARE, SOFTWARE = 0, 1, 2  # ways to do a job, best first; sound alone counts as the first

NO_HARDWARE = frozenset({"none", Family.SOFTWARE.value})  # as `Need.hw_accel`

NeedKey = tuple[object, ...]


def need_key(need: Need) -> NeedKey:
    """Equal for needs that every daemon answers alike."""
    return (
        need.hw_accel,
        *(
            (
                t.track.codec,
                t.track.width,
                t.track.height,
                t.track.fps,
                t.codec,
                t.width,
                t.height,
                t.fps,
                t.preset,
            )
            for t in need.targets
        ),
    )


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a daemon could do a job, were all of it free."""

    rank: int
    encoder: Encoder | None
    pool: Pool | None
    engines: int  # of the GPU
    cost_cores: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a daemon suits a need; `words` say why what is wanted is missing."""

    words: str = ""
    hardware: tuple[Way, ...] = ()
    software: Way | None = None  # or sound alone


Score = tuple[int, float, int]  # rank, minus the free share, tenths of load


@dataclass(frozen=True, slots=True)
class Offer:
    """A way that is free now."""

    way: Way
    score: Score
    words: str


@dataclass(slots=True)
class Verdict:
    """What a daemon says to a need now."""

    name: str
    hardware: Offer | None = None
    software: Offer | None = None
    hardware_busy: bool = False  # could, and all that it needs is taken
    software_busy: bool = False
    words: str = ""  # why there is no offer
    remembered: dict[str, Considered] = field(default_factory=dict)  # by what is added to the words

    def capable(self, *, strict: bool) -> bool:
        """Whether it could do the job at some time; `strict`: in hardware."""
        return bool(self.hardware or self.hardware_busy or (not strict and (self.software or self.software_busy)))


# ----------------------------------------------------------------------------------------------------- choosing


def choose(
    cluster: Cluster,
    need: Need,
    now: float,
    *,
    work: str = "",
    avoid: frozenset[str] = frozenset(),
    hardware_only: bool = False,
) -> Placement | Wait | Refusal:
    """The best place for a job.

    `work` names what the job does over all its tries: daemons that failed it lately are left out until their backoff
    ends, and where only they are left, or daemons that were set aside, the answer is `Wait` with a time, if that comes
    before the queue's time limit. `avoid` holds ids of daemons that are taken only where nobody else can do it.
    `hardware_only` is for a promotion: software is no answer, and neither is waiting.
    """
    key = need_key(need)
    verdicts = [
        (daemon, verdict_of(cluster, daemon, need, key)) for daemon in cluster.daemons.values() if daemon.connected
    ]
    special = _special(cluster, work, avoid, now)
    first = _decide(cluster, need, now, verdicts, special, avoid, hardware_only)
    if isinstance(first, Placement) or not avoid:
        return first
    second = _decide(cluster, need, now, verdicts, special, frozenset(), hardware_only)
    return second if isinstance(second, Placement) else first


@dataclass(frozen=True, slots=True)
class _Special:
    """What keeps one daemon from one job for a time, or only its hardware."""

    words: str
    until: float
    hardware_only: bool = False


def _special(cluster: Cluster, work: str, avoid: frozenset[str], now: float) -> dict[str, _Special]:
    special = {daemon_id: _Special("failed this job before", now) for daemon_id in avoid}
    for daemon_id, backoff in cluster.backoffs.get(work, {}).items():
        words = f"failed this job ({backoff.reason})"
        if backoff.until > now:
            words += f"; not tried again for {backoff.until - now:.1f} s"
        special[daemon_id] = _Special(words, backoff.until, backoff.hardware_only)
    for daemon_id in cluster.aside:
        daemon = cluster.daemons[daemon_id]
        special[daemon_id] = _Special(daemon.aside_reason, daemon.aside_until or now)
    return special


def _decide(
    cluster: Cluster,
    need: Need,
    now: float,
    verdicts: list[tuple[Daemon, Verdict]],
    special: dict[str, _Special],
    avoid: frozenset[str],
    hardware_only: bool,
) -> Placement | Wait | Refusal:
    strict = hardware_only or _names_hardware(need)
    hard: list[tuple[Daemon, Offer]] = []
    soft: list[tuple[Daemon, Offer]] = []
    hardware_busy = software_busy = hardware_failed = False
    until: float | None = None  # when somebody who is left out now may be asked
    for daemon, verdict in verdicts:
        reason = special.get(daemon.id) if special else None
        if reason is not None and reason.until > now:
            if not reason.hardware_only:
                if verdict.capable(strict=strict):
                    until = reason.until if until is None else min(until, reason.until)
                continue
            hardware_failed = True
            if strict:
                until = reason.until if until is None else min(until, reason.until)
        elif reason is not None and daemon.id in avoid:
            continue
        else:
            if verdict.hardware is not None:
                hard.append((daemon, verdict.hardware))
            hardware_busy |= verdict.hardware_busy
        if verdict.software is not None:
            soft.append((daemon, verdict.software))
        software_busy |= verdict.software_busy
    if hardware_only or (strict and not hardware_busy and not hardware_failed):
        soft, software_busy = [], False
    if hard:
        return _placement(cluster, need, verdicts, special, hard, fallback=False)
    fallback = need.policy == ExhaustedPolicy.FALLBACK
    if soft and (fallback if hardware_busy or strict else True):
        return _placement(cluster, need, verdicts, special, soft, fallback=hardware_busy)
    considered = _considered(verdicts, special, cluster, need, None)
    settings = cluster.settings
    if until is not None and not hardware_only and until - now <= settings.queue_timeout_s:
        return Wait("every daemon that could do this job failed lately", considered, until)
    if not verdicts:
        return Refusal("no daemon is connected", considered, RefusalKind.NO_DAEMON, settings.retry_after_s)
    busy = hardware_busy or software_busy or bool(soft)
    if not busy and until is None:
        return Refusal("no daemon can do this job", considered, RefusalKind.UNSUPPORTED, settings.retry_after_s)
    words = _busy_words(hardware_busy) if busy else "every daemon that could do this job failed lately"
    if busy and need.policy == ExhaustedPolicy.QUEUE and not hardware_only:
        return Wait(words, considered, until)
    retry_after_s = settings.retry_after_s if until is None else max(1.0, until - now)
    return Refusal(words, considered, RefusalKind.EXHAUSTED, retry_after_s)


def _busy_words(hardware: bool) -> str:
    return "all hardware sessions are taken" if hardware else "all daemons are busy"


def _near(cluster: Cluster, need: Need) -> Container[str]:
    """Daemons that get the same source already."""
    return cluster.sources.get(need.source, ()) if need.source else ()


def _placement(
    cluster: Cluster,
    need: Need,
    verdicts: list[tuple[Daemon, Verdict]],
    special: dict[str, _Special],
    offers: list[tuple[Daemon, Offer]],
    *,
    fallback: bool,
) -> Placement:
    near = _near(cluster, need)
    daemon, offer = min(offers, key=lambda o: (o[1].score, o[0].id not in near, o[0].last_used))
    reason = f"{offer.words}; all hardware sessions are taken" if fallback else offer.words
    way = offer.way
    return Placement(
        daemon.id,
        way.encoder,
        reason,
        _considered(verdicts, special, cluster, need, (daemon, offer, reason)),
        hw_decode=way.rank == FULL_HARDWARE and way.encoder is not None,
        pool=way.pool.id if way.pool is not None else "",
        fallback=fallback,
        cost_cores=way.cost_cores,
    )


# ------------------------------------------------------------------------------------------------------- reasons

_BETTER = (
    "another does more of it in hardware",
    "another has a larger share of its sessions free",
    "another is less busy",
)
_NEAR = "another has the same source"
_USED = "another was used less recently"


def _considered(
    verdicts: list[tuple[Daemon, Verdict]],
    special: dict[str, _Special],
    cluster: Cluster,
    need: Need,
    chosen: tuple[Daemon, Offer, str] | None,
) -> tuple[Considered, ...]:
    near = _near(cluster, need)
    best, best_near = (chosen[1].score, chosen[0].id in near) if chosen else (None, False)
    out = []
    for daemon, verdict in verdicts:
        if chosen is not None and daemon is chosen[0]:
            out.append(Considered(daemon.id, daemon.name, True, chosen[2]))
            continue
        if special and (reason := special.get(daemon.id)):
            out.append(Considered(daemon.id, daemon.name, False, _joined(verdict, reason.words)))
            continue
        offer = verdict.hardware or verdict.software
        if offer is None:
            more = ""
        elif best is None:
            more = "hardware is wanted"
        else:
            more = _why_not(offer.score, best, best_near and daemon.id not in near)
        found = verdict.remembered.get(more)
        if found is None:
            found = Considered(daemon.id, daemon.name, False, _joined(verdict, more))
            verdict.remembered[more] = found
        out.append(found)
    return tuple(out)


def _joined(verdict: Verdict, more: str) -> str:
    offer = verdict.hardware or verdict.software
    words = offer.words if offer is not None else verdict.words
    if offer is not None and verdict.hardware is None and verdict.words:
        words += f" ({verdict.words})"
    return f"{words}; {more}" if words and more else words or more


def _why_not(score: Score, best: Score, near_decides: bool) -> str:
    """By which of the comparisons it lost."""
    for mine, its, words in zip(score, best, _BETTER, strict=True):
        if mine != its:
            return words
    return _NEAR if near_decides else _USED


# ------------------------------------------------------------------------------------------------------ one daemon


def verdict_of(cluster: Cluster, daemon: Daemon, need: Need, key: NeedKey) -> Verdict:
    """What the daemon says now, remembered until something of it changes."""
    verdict = daemon.verdicts.get(key)
    if verdict is None:
        if len(daemon.verdicts) >= MAX_REMEMBERED:
            daemon.verdicts.clear()
        verdict = daemon.verdicts[key] = _verdict(daemon, need, key, cluster.settings.max_cpu_load)
    return verdict


def _verdict(daemon: Daemon, need: Need, key: NeedKey, max_cpu_load: float) -> Verdict:
    if daemon.state is not DaemonState.CONNECTED:
        return Verdict(daemon.name, words=f"it is {daemon.state}")
    fit = daemon.fits.get(key)
    if fit is None:
        if len(daemon.fits) >= MAX_REMEMBERED:
            daemon.fits.clear()
        fit = daemon.fits[key] = fit_of(daemon, need)
    if not fit.hardware and fit.software is None:
        return Verdict(daemon.name, words=fit.words)
    most = daemon.capabilities.max_jobs
    if 0 < most <= daemon.jobs_held:
        return Verdict(
            daemon.name,
            hardware_busy=any(_possible(way) for way in fit.hardware),
            software_busy=fit.software is not None,
            words=f"all of its {most} job slots are taken",
        )
    hardware, busy, hardware_words = _hardware_offer(daemon, fit.hardware)
    software, software_words = _software_offer(daemon, fit.software, max_cpu_load)
    return Verdict(
        daemon.name,
        hardware=hardware,
        software=software,
        hardware_busy=busy,
        software_busy=bool(software_words),
        words="; ".join(filter(None, (fit.words, hardware_words, software_words))),
    )


def _possible(way: Way) -> bool:
    """A pool whose limit was set to nothing will never have a session."""
    return way.pool is None or way.pool.base.limit is None or way.pool.base.limit > 0


def _hardware_offer(daemon: Daemon, ways: tuple[Way, ...]) -> tuple[Offer | None, bool, str]:
    """The best of the ways that are free; or whether any is worth waiting for; and words."""
    best: tuple[int, float, float] | None = None
    chosen: Way | None = None
    full: Pool | None = None
    possible = False
    for way in ways:
        pool = way.pool
        possible = possible or _possible(way)
        share = 1.0
        if pool is not None:
            if pool.free == 0:
                full = pool
                continue
            share = pool.share
        device = way.encoder.device if way.encoder is not None else ""
        score = (way.rank, -share, daemon.gpu_sessions[device] / max(1, way.engines) if device else 0.0)
        if best is None or score < best:
            best, chosen = score, way
    if chosen is None or best is None:
        return None, possible, _full_words(full) if full is not None else ""
    return Offer(chosen, (best[0], best[1], _tenths(daemon, chosen)), _words_of(daemon, chosen)), False, ""


def _full_words(pool: Pool) -> str:
    if not pool.limit and pool.learned is None:
        return f"it may open no hardware sessions ({pool.detail})"
    foreign = f", {pool.foreign} of them by other programs" if pool.foreign else ""
    return f"{pool.in_use} of {pool.limit} hardware sessions are taken{foreign} ({pool.source}: {pool.detail})"


def _software_offer(daemon: Daemon, way: Way | None, max_cpu_load: float) -> tuple[Offer | None, str]:
    """The software way where the processors have room for it; or words why not."""
    if way is None:
        return None, ""
    if way.encoder is None:
        return Offer(way, (FULL_HARDWARE, 0.0, _tenths(daemon, way)), "has the audio encoder"), ""
    caps = daemon.capabilities
    if 0 < caps.max_cpu_jobs <= daemon.cpu_jobs_held:
        return None, f"all of its {caps.max_cpu_jobs} software job slots are taken"
    load = daemon.load + way.cost_cores * daemon.cost_factor
    if caps.cpu_count > 0 and daemon.cpu_jobs_held and load > caps.cpu_count * max_cpu_load:
        return None, f"its processors are busy: the job would make {load:.1f} of {caps.cpu_count}, by estimate"
    return Offer(way, (SOFTWARE, 0.0, _tenths(daemon, way)), f"encodes in software with {way.encoder.name}"), ""


def _tenths(daemon: Daemon, way: Way) -> int:
    load = daemon.load + way.cost_cores * daemon.cost_factor
    return int(10 * load / max(1, daemon.capabilities.cpu_count))


def _words_of(daemon: Daemon, way: Way) -> str:
    encoder, pool = way.encoder, way.pool
    assert encoder is not None
    gpu = daemon.gpus.get(encoder.device)
    where = gpu.name if gpu is not None and gpu.name else encoder.device or "hardware"
    what = "decodes and encodes" if way.rank == FULL_HARDWARE else "encodes"
    if pool is None or pool.limit is None:
        return f"{what} on {where} with {encoder.name}"
    return f"{what} on {where} with {encoder.name}, {pool.free} of {pool.limit} sessions free"


# ------------------------------------------------------------------------------------------------- what suits


def fit_of(daemon: Daemon, need: Need) -> Fit:
    """Which of a daemon's encoders suit the need, whatever is free.

    Where the need names a family, a software encoder is in it too, for the fallback.
    """
    caps = daemon.capabilities
    video: Target | None = None
    for target in need.targets:
        if missing := missing_decoder(target, caps):
            return Fit(missing)
        if target.track.kind is Kind.VIDEO:
            video = target
        elif missing := _missing_audio(target, caps):
            return Fit(missing)
    if video is None:
        return Fit(software=Way(FULL_HARDWARE, None, None, 0, cost_cores(need, None, hw_decode=False)))
    return _video_fit(daemon, need, video)


def missing_decoder(target: Target, caps: Capabilities) -> str:
    """Words where the daemon can't decode the track, else nothing."""
    name = target.track.codec.value
    if not caps.decoders or name in caps.decoders or caps.decoders & {*OTHER_DECODERS.get(name, ())}:
        return ""
    return f"its ffmpeg has no decoder for {name}"


def _missing_audio(target: Target, caps: Capabilities) -> str:
    found = [e for e in caps.encoders if e.codec is target.codec]
    if not found:
        return f"its ffmpeg has no encoder for {target.codec.value}"
    return "" if any(e.usable for e in found) else f"{target.codec.value}: {found[0].reason or 'not usable'}"


def _video_fit(daemon: Daemon, need: Need, target: Target) -> Fit:
    of_codec = [e for e in daemon.capabilities.encoders if e.codec is target.codec]
    if not of_codec:
        return Fit(f"its ffmpeg has no encoder for {target.codec.value}")
    hardware, words = [], []
    wanted = [e for e in of_codec if _accel_allows(e.family, need.hw_accel)]
    for encoder in wanted:
        if encoder.family is Family.SOFTWARE:
            continue
        if not encoder.usable:
            words.append(f"{encoder.name}: {encoder.reason or 'not usable'}")
        elif too_small := _too_small(encoder, target):
            words.append(too_small)
        else:
            hardware.append(_hardware_way(daemon, need, target, encoder))
    software = [e for e in of_codec if e.family is Family.SOFTWARE]
    usable = next((e for e in software if e.usable), None)
    words += [f"{e.name}: {e.reason or 'not usable'}" for e in software if not e.usable and e in wanted]
    way = Way(SOFTWARE, usable, None, 0, cost_cores(need, usable, hw_decode=False)) if usable is not None else None
    if hardware or (way is not None and not _names_hardware(need)):
        return Fit("", tuple(hardware), way)
    if not wanted:
        words = [f"it has no {need.hw_accel} encoder for {target.codec.value}"]
    return Fit("; ".join(words), software=way)


def _hardware_way(daemon: Daemon, need: Need, target: Target, encoder: Encoder) -> Way:
    hwaccel, codecs = HARDWARE_DECODING.get(encoder.family, ("", frozenset()))
    decodes = bool(hwaccel) and hwaccel in daemon.capabilities.hwaccels and target.track.codec in codecs
    gpu = daemon.gpus.get(encoder.device)
    return Way(
        FULL_HARDWARE if decodes else HARDWARE,
        encoder,
        pool_of(daemon, encoder),
        gpu.engines if gpu is not None else 0,
        cost_cores(need, encoder, hw_decode=decodes),
    )


def _too_small(encoder: Encoder, target: Target) -> str:
    least = SMALLEST_PICTURE.get((encoder.family, encoder.codec))
    width, height = fitted(target)
    if least is None or (width >= least[0] and height >= least[1]):
        return ""
    return f"{encoder.name} takes no picture below {least[0]}x{least[1]}"


def _names_hardware(need: Need) -> bool:
    return need.hw_accel != "auto" and need.hw_accel not in NO_HARDWARE


def _accel_allows(family: Family, hw_accel: str) -> bool:
    if hw_accel == "auto":
        return True
    return family is Family.SOFTWARE if hw_accel in NO_HARDWARE else family == hw_accel
