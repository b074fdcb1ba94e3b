"""What of a daemon suits a need, whatever of it is free now."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.cluster.hardware import HARDWARE_DECODING, OTHER_DECODERS, SMALLEST_PICTURE
from tvarr.cluster.load import cost_cores, fitted
from tvarr.cluster.model import Capabilities, Encoder, Family, Need, Target
from tvarr.cluster.pools import Pool
from tvarr.cluster.state import Daemon, pool_of
from tvarr.media.model import Kind

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
    if hardware or (way is not None and not names_hardware(need)):
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


def names_hardware(need: Need) -> bool:
    return need.hw_accel != "auto" and need.hw_accel not in NO_HARDWARE


def _accel_allows(family: Family, hw_accel: str) -> bool:
    if hw_accel == "auto":
        return True
    return family is Family.SOFTWARE if hw_accel in NO_HARDWARE else family == hw_accel
