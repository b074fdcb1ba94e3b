"""Where a job goes: every daemon is considered, and each verdict has a reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvarr.cluster.model import (
    Capabilities,
    Considered,
    Encoder,
    Family,
    Need,
    Placement,
    Refusal,
    Target,
)
from tvarr.media.model import Kind


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the policy knows of one daemon at the moment of choosing."""

    daemon_id: str
    name: str
    capabilities: Capabilities
    jobs: int  # that it runs or has reserved
    cpu_jobs: int  # of these, the ones that encode video in software
    unavailable: str = ""  # why it takes no jobs at all: "draining"; empty: it does


def choose(candidates: Sequence[Candidate], need: Need, avoid: frozenset[str] = frozenset()) -> Placement | Refusal:
    """The first daemon that has a hardware encoder for the job, else the first that has a software one.

    `avoid` holds ids of daemons that failed this very job; they are taken only where nobody else can do it.
    """
    verdicts = {c.daemon_id: _verdict(c, need) for c in candidates}
    order = sorted(
        (c for c in candidates if not isinstance(verdicts[c.daemon_id], str)),
        key=lambda c: (c.daemon_id in avoid, _is_software(verdicts[c.daemon_id])),
    )
    best = order[0].daemon_id if order else None
    considered = tuple(_consider(c, verdicts[c.daemon_id], best, avoid) for c in candidates)
    if not order:
        return Refusal(_refusal_words(candidates), considered)
    chosen = next(c for c in considered if c.chosen)
    verdict = verdicts[order[0].daemon_id]
    assert not isinstance(verdict, str)
    return Placement(order[0].daemon_id, verdict.encoder, chosen.reason, considered)


@dataclass(frozen=True, slots=True)
class _Fit:
    """The daemon can do it, with this encoder for the picture."""

    encoder: Encoder | None


def _verdict(candidate: Candidate, need: Need) -> _Fit | str:
    """How the daemon would do the job, or why it can't."""
    if candidate.unavailable:
        return candidate.unavailable
    caps = candidate.capabilities
    if caps.max_jobs and candidate.jobs >= caps.max_jobs:
        return f"all of its {caps.max_jobs} job slots are taken"
    encoder: Encoder | None = None
    for target in need.targets:
        if missing := missing_decoder(target, caps):
            return missing
        found = encoder_for(target, need.hw_accel, caps, cpu_full=candidate.cpu_jobs >= caps.max_cpu_jobs > 0)
        if isinstance(found, str):
            return found
        if target.track.kind is Kind.VIDEO:
            encoder = found
    return _Fit(encoder)


def missing_decoder(target: Target, caps: Capabilities) -> str:
    """Words where the daemon can't decode the track, else nothing."""
    name = target.track.codec.value
    if not caps.decoders or caps.decoders & {name, *_OTHER_DECODERS.get(name, ())}:
        return ""
    return f"its ffmpeg has no decoder for {name}"


_OTHER_DECODERS = {
    "av1": ("libdav1d", "libaom-av1"),
    "mp1": ("mp1float",),
    "mp2": ("mp2float",),
    "mp3": ("mp3float",),
    "opus": ("libopus",),
    "vp9": ("libvpx-vp9",),
}


def encoder_for(target: Target, hw_accel: str, caps: Capabilities, *, cpu_full: bool = False) -> Encoder | str:
    """The daemon's best encoder for one track, hardware first, or why there is none."""
    all_of_codec = [e for e in caps.encoders if e.codec is target.codec]
    if not all_of_codec:
        return f"its ffmpeg has no encoder for {target.codec.value}"
    if target.track.kind is not Kind.VIDEO:
        return next((e for e in all_of_codec if e.usable), f"{target.codec.value}: {all_of_codec[0].reason}")
    allowed = [e for e in all_of_codec if _accel_allows(e.family, hw_accel)]
    usable = sorted((e for e in allowed if e.usable), key=lambda e: e.family is Family.SOFTWARE)
    if usable and cpu_full:
        usable = [e for e in usable if e.family is not Family.SOFTWARE]
        if not usable:
            return f"all of its {caps.max_cpu_jobs} software job slots are taken"
    if usable:
        return usable[0]
    if not allowed:
        return f"it has no {hw_accel} encoder for {target.codec.value}"
    return "; ".join(f"{e.name}: {e.reason or 'not usable'}" for e in allowed)


def _accel_allows(family: Family, hw_accel: str) -> bool:
    if hw_accel == "auto":
        return True
    return family is Family.SOFTWARE if hw_accel == "none" else family == hw_accel


def _is_software(verdict: _Fit | str) -> bool:
    return isinstance(verdict, _Fit) and verdict.encoder is not None and verdict.encoder.family is Family.SOFTWARE


def _consider(candidate: Candidate, verdict: _Fit | str, best: str | None, avoid: frozenset[str]) -> Considered:
    chosen = candidate.daemon_id == best
    if isinstance(verdict, str):
        reason = verdict
    elif verdict.encoder is None:
        reason = "has the audio encoder"
    elif verdict.encoder.family is Family.SOFTWARE:
        reason = f"encodes in software with {verdict.encoder.name}"
    else:
        reason = f"encodes on {verdict.encoder.device or 'hardware'} with {verdict.encoder.name}"
    if not isinstance(verdict, str):
        if candidate.daemon_id in avoid:
            reason += "; failed this job before"
        elif not chosen:
            reason += "; another was first"
    return Considered(candidate.daemon_id, candidate.name, chosen, reason)


def _refusal_words(candidates: Iterable[Candidate]) -> str:
    return "no daemon can do this job" if any(True for _ in candidates) else "no daemon is connected"
