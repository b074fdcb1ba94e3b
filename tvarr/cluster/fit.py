"""What of a machine suits a need, whatever of it is free now.

Machines that are built alike suit the same needs, so this is worked out once for each `Make` and shape of need: among
1,000 daemons there are few of both.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from tvarr.cluster.hardware import HARDWARE_DECODING, OTHER_DECODERS, SMALLEST_PICTURE
from tvarr.cluster.load import cost_cores, fitted
from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, Need, Target
from tvarr.media.model import Codec, Kind

MAX_SHAPES = 64  # of needs, for which answers are remembered; beyond it the oldest are forgotten
FULL_HARDWARE, HARDWARE, SOFTWARE = 0, 1, 2  # ways to do a job, best first; sound alone counts as the first
NONE = -1  # as a position

NO_HARDWARE = frozenset({"none", Family.SOFTWARE.value})  # as `Need.hw_accel`

ShapeKey = tuple[object, ...]


def shape_key(need: Need) -> ShapeKey:
    """Equal for needs that every daemon answers alike."""
    return (
        need.hw_accel,
        need.protocol,
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
    """One way in which a machine could do a job, were all of it free. Positions are those in its `Capabilities`."""

    rank: int
    cost_cores: float
    encoder: int = NONE
    gpu: int = NONE
    pool: int = NONE
    engines: int = 1  # of the GPU


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a machine suits a need; `words` say why what is wanted is missing."""

    words: str = ""
    hardware: tuple[Way, ...] = ()
    software: Way | None = None  # or sound alone


@dataclass(slots=True, eq=False, weakref_slot=True)
class Make:
    """What machines have in common that are built alike: `capabilities` as of `anonymous`."""

    capabilities: Capabilities
    encoders: dict[Codec, list[tuple[int, Encoder]]] = field(init=False)  # with their positions
    _fits: dict[ShapeKey, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.encoders = defaultdict(list)
        for position, encoder in enumerate(self.capabilities.encoders):
            self.encoders[encoder.codec].append((position, encoder))

    def fit(self, need: Need, key: ShapeKey) -> Fit:
        """What of it suits a need, whose `shape_key` this is."""
        found = self._fits.get(key)
        if found is None:
            if len(self._fits) >= MAX_SHAPES:
                del self._fits[next(iter(self._fits))]
            found = self._fits[key] = fit_of(self, need)
        return found


def anonymous(caps: Capabilities) -> Capabilities:
    """Equal for machines that suit the same needs: devices and pools are called by their positions."""
    devices = {gpu.id: position for position, gpu in enumerate(caps.gpus)}
    pools = {pool.id: position for position, pool in enumerate(caps.pools)}

    def named(positions: dict[str, int], name: str) -> str:
        return str(positions[name]) if name in positions else ""

    return Capabilities(
        encoders=tuple(replace(encoder, device=named(devices, encoder.device)) for encoder in caps.encoders),
        decoders=caps.decoders,
        hwaccels=caps.hwaccels,
        protocols=caps.protocols,
        gpus=tuple(Gpu(str(n), "", "", pool=named(pools, g.pool), engines=g.engines) for n, g in enumerate(caps.gpus)),
    )


def fit_of(make: Make, need: Need) -> Fit:
    """Which of a machine's encoders suit the need.

    Where the need names a family, a software encoder is in it too, for the fallback.
    """
    caps = make.capabilities
    if need.protocol and need.protocol not in caps.protocols:
        return Fit(f"its ffmpeg does not read {need.protocol}:")
    video: Target | None = None
    for target in need.targets:
        if missing := missing_decoder(target, caps):
            return Fit(missing)
        if target.track.kind is Kind.VIDEO:
            video = target
        elif missing := _missing_audio(target, caps):
            return Fit(missing)
    if video is None:
        return Fit(software=Way(FULL_HARDWARE, cost_cores(need, None, hw_decode=False)))
    return _video_fit(make, need, video)


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


def _video_fit(make: Make, need: Need, target: Target) -> Fit:
    of_codec = make.encoders.get(target.codec)
    if not of_codec:
        return Fit(f"its ffmpeg has no encoder for {target.codec.value}")
    hardware: list[Way] = []
    software: Way | None = None
    wanted, missing, broken = False, [], []
    for position, encoder in of_codec:
        allowed = _accel_allows(encoder.family, need.hw_accel)
        wanted = wanted or allowed
        if encoder.family is Family.SOFTWARE:
            if encoder.usable and software is None:
                software = Way(SOFTWARE, cost_cores(need, encoder, hw_decode=False), position)
            elif allowed and not encoder.usable:
                broken.append(f"{encoder.name}: {encoder.reason or 'not usable'}")
        elif allowed and not encoder.usable:
            missing.append(f"{encoder.name}: {encoder.reason or 'not usable'}")
        elif allowed and (too_small := _too_small(encoder, target)):
            missing.append(too_small)
        elif allowed:
            hardware.append(_hardware_way(make.capabilities, need, target, position, encoder))
    if hardware or (software is not None and not names_hardware(need)):
        return Fit("", tuple(hardware), software)
    words = "; ".join(missing + broken) if wanted else f"it has no {need.hw_accel} encoder for {target.codec.value}"
    return Fit(words, software=software)


def _hardware_way(caps: Capabilities, need: Need, target: Target, position: int, encoder: Encoder) -> Way:
    hwaccel, codecs = HARDWARE_DECODING.get(encoder.family, ("", frozenset()))
    decodes = bool(hwaccel) and hwaccel in caps.hwaccels and target.track.codec in codecs
    rank, cost = FULL_HARDWARE if decodes else HARDWARE, cost_cores(need, encoder, hw_decode=decodes)
    if not encoder.device:
        return Way(rank, cost, position)
    gpu = caps.gpus[int(encoder.device)]
    return Way(rank, cost, position, int(gpu.id), int(gpu.pool) if gpu.pool else NONE, max(1, gpu.engines))


def _too_small(encoder: Encoder, target: Target) -> str:
    least = SMALLEST_PICTURE.get((encoder.family, encoder.codec))
    if least is None:
        return ""
    width, height = fitted(target)
    if width >= least[0] and height >= least[1]:
        return ""
    return f"{encoder.name} takes no picture below {least[0]}x{least[1]}"


def names_hardware(need: Need) -> bool:
    return need.hw_accel != "auto" and need.hw_accel not in NO_HARDWARE


def _accel_allows(family: Family, hw_accel: str) -> bool:
    if hw_accel == "auto":
        return True
    return family is Family.SOFTWARE if hw_accel in NO_HARDWARE else family == hw_accel
