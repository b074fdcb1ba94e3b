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

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

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
from tvarr.cluster.state import Cluster, Daemon, pool_of
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
    cost_cores: float
    device: str = ""  # `Gpu.id`
    place: str = ""  # for people
    engines: int = 1  # of the GPU


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a daemon suits a need; `words` say why what is wanted is missing."""

    words: str = ""
    hardware: tuple[Way, ...] = ()
    software: Way | None = None  # or sound alone


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
    verdicts = _verdicts(cluster, need, key)
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
    special: dict[str, _Special],
    avoid: frozenset[str],
    hardware_only: bool,
) -> Placement | Wait | Refusal:
    strict = hardware_only or _names_hardware(need)
    near: Container[str] = frozenset(cluster.sources.get(need.source, ())) if need.source else frozenset()
    hard, soft = _Best(cluster, near), _Best(cluster, near)
    hardware_busy = software_busy = hardware_failed = False
    until: float | None = None  # when somebody who is left out now may be asked
    for verdict in chain.from_iterable(verdicts):
        reason = special.get(verdict.daemon_id) if special else None
        if reason is not None and reason.until > now:
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
    if until is not None and not hardware_only and until - now <= settings.queue_timeout_s:
        return Wait("every daemon that could do this job failed lately", considered, until)
    if not verdicts:
        return Refusal("no daemon is connected", considered, RefusalKind.NO_DAEMON, settings.retry_after_s)
    busy = hardware_busy or software_busy or soft.offer is not None
    if not busy and until is None:
        return Refusal("no daemon can do this job", considered, RefusalKind.UNSUPPORTED, settings.retry_after_s)
    words = "every daemon that could do this job failed lately"
    if busy:
        words = "all hardware sessions are taken" if hardware_busy else "all daemons are busy"
    if busy and need.policy == ExhaustedPolicy.QUEUE and not hardware_only:
        return Wait(words, considered, until)
    retry_after_s = settings.retry_after_s if until is None else max(1.0, until - now)
    return Refusal(words, considered, RefusalKind.EXHAUSTED, retry_after_s)


def _placement(verdicts: Verdicts, special: dict[str, _Special], best: _Best, *, fallback: bool) -> Placement:
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


# ------------------------------------------------------------------------------------------------------- reasons

_BETTER = (
    "another does more of it in hardware",
    "another has a larger share of its sessions free",
    "another is less busy",
)


class Reasons(Sequence[Considered]):
    """Every daemon with the reason for or against it, in the order in which they joined.

    The words are made when somebody reads them: among 1,000 daemons they would take longer than the choice.
    """

    __slots__ = ("_best", "_near", "_reason", "_score", "_special", "_verdicts")

    def __init__(
        self,
        verdicts: Verdicts,
        special: dict[str, _Special],
        best: Verdict | None = None,
        offer: Offer | None = None,
        reason: str = "",
        near: Container[str] = frozenset(),
    ) -> None:
        self._verdicts = verdicts
        self._special = special
        self._best = best
        self._score = offer.score if offer is not None else None
        self._reason = reason
        self._near = near

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._verdicts)

    @overload
    def __getitem__(self, index: int) -> Considered: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Considered]: ...
    def __getitem__(self, index: int | slice) -> Considered | Sequence[Considered]:
        if isinstance(index, slice):
            return tuple(self)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._considered(self._verdicts[index // CHUNK][index % CHUNK])

    def __iter__(self) -> Iterator[Considered]:
        return map(self._considered, chain.from_iterable(self._verdicts))

    def _considered(self, verdict: Verdict) -> Considered:
        chosen = verdict is self._best
        return Considered(verdict.daemon_id, verdict.name, chosen, self._reason if chosen else self._words(verdict))

    def _words(self, verdict: Verdict) -> str:
        offer = verdict.hardware or verdict.software
        if reason := self._special.get(verdict.daemon_id):
            more = reason.words
        elif offer is None:
            more = ""
        elif self._score is None:
            more = "hardware is wanted"
        else:
            more = self._why_not(verdict, offer, self._score)
        words = offer.words if offer is not None else verdict.words
        if offer is not None and verdict.hardware is None and verdict.words:
            words += f" ({verdict.words})"
        return f"{words}; {more}" if words and more else words or more

    def _why_not(self, verdict: Verdict, offer: Offer, best: Score) -> str:
        """By which of the comparisons it lost."""
        for mine, its, words in zip(offer.score, best, _BETTER, strict=True):
            if mine != its:
                return words
        near = self._best is not None and self._best.daemon_id in self._near and verdict.daemon_id not in self._near
        return "another has the same source" if near else "another was used less recently"


# ------------------------------------------------------------------------------------------------------ one daemon


def _verdicts(cluster: Cluster, need: Need, key: NeedKey) -> Verdicts:
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
    """The software way where the processors have room for it, or words why not."""
    if way.encoder is None:
        verdict.software = Offer(way, (FULL_HARDWARE, 0.0, _tenths(daemon, way)))
        return
    caps, taken = daemon.capabilities, ""
    if 0 < caps.max_cpu_jobs <= daemon.cpu_jobs_held:
        taken = f"all of its {caps.max_cpu_jobs} software job slots are taken"
    elif caps.cpu_count > 0 and daemon.cpu_jobs_held:
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
        return Fit(software=Way(FULL_HARDWARE, None, None, cost_cores(need, None, hw_decode=False)))
    return _video_fit(daemon, need, video)


def missing_decoder(target: Target, caps: Capabilities) -> str:
    """Words where the daemon can't decode the track, else nothing."""
    name = target.track.codec.value
    if not caps.decoders or name in caps.decoders or caps.decoders & {*OTHER_DECODERS.get(name, ())}:
        return ""
    return f"its ffmpeg has no decoder for {name}"


def encoder_for(target: Target, hw_accel: str, caps: Capabilities) -> Encoder | str:
    """The best encoder of one daemon for one track, hardware first, or why there is none.

    For the daemon itself: whether it is free is not looked at.
    """
    if target.track.kind is not Kind.VIDEO:
        return _missing_audio(target, caps) or next(e for e in caps.encoders if e.codec is target.codec and e.usable)
    of_codec = [e for e in caps.encoders if e.codec is target.codec]
    if not of_codec:
        return f"its ffmpeg has no encoder for {target.codec.value}"
    wanted = [e for e in of_codec if _accel_allows(e.family, hw_accel)]
    if not wanted:
        return f"it has no {hw_accel} encoder for {target.codec.value}"
    why_not = {e: _too_small(e, target) if e.usable else f"{e.name}: {e.reason or 'not usable'}" for e in wanted}
    usable = [e for e, words in why_not.items() if not words]
    return min(usable, key=lambda e: e.family is Family.SOFTWARE) if usable else "; ".join(why_not.values())


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
    way = Way(SOFTWARE, usable, None, cost_cores(need, usable, hw_decode=False)) if usable is not None else None
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
        cost_cores(need, encoder, hw_decode=decodes),
        encoder.device,
        gpu.name if gpu is not None and gpu.name else encoder.device or "hardware",
        max(1, gpu.engines) if gpu is not None else 1,
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
