"""Between the domain's words and the wire's messages, both ways.

What comes in is hostile until it went through here: lists and texts are clipped to the caps below, and what makes no
sense is left out. `capabilities_from_wire` says so in complaints for the log, because a daemon with one odd encoder is
still a daemon; `start_from_wire` raises, because half a job is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import betterproto2

from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, JobSpec, LimitSource, SessionPool, Source, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.media.model import Codec, Track
from tvarr.wire import messages as m
from tvarr.wire.protocol import PROTOCOL_VERSION

MAX_ENCODERS = 1_024
MAX_DECODERS = 2_048
MAX_HWACCELS = 64
MAX_PROTOCOLS = 64
MAX_GPUS = 64
MAX_POOLS = 64
MAX_OPTIONS = 16  # of one encoder
MAX_COUNT = 100_000  # jobs, sessions, cores: anything that is counted
MAX_NAME = 200  # characters of a name or id
MAX_TEXT = 1_000  # characters of a reason, a message, or one line of stderr
MAX_STDERR_LINES = 40
MAX_COMPLAINTS = 20
MAX_TRACKS = 64  # of one job
MAX_INIT_BYTES = 64 * 1024
MAX_DESCRIPTORS_BYTES = 4 * 1024
MAX_PICTURE = 16_384  # pixels, each way
MAX_FPS = 1_000.0
MAX_BITRATE_KBPS = 10_000_000
MAX_CRF = 255
MAX_GOP_S = 3_600.0
MAX_BATCH_AGE_S = 10.0
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_URL = 4096  # characters of a source's URL, or of one header's value
MAX_HEADERS = 32

COPY = "copy"  # as a target's codec

ItemT = TypeVar("ItemT")
WireT = TypeVar("WireT")


def finite(message: betterproto2.Message) -> None:
    """Makes every figure of a message a number that can be shown: what is none, or endless, becomes 0."""
    for field in dataclasses.fields(message):  # type: ignore[arg-type]  # every generated class is a dataclass
        value = getattr(message, field.name)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, betterproto2.Message):
                finite(item)
        if isinstance(value, float) and not math.isfinite(value):
            setattr(message, field.name, 0.0)
        elif isinstance(value, list) and any(isinstance(v, float) and not math.isfinite(v) for v in value):
            setattr(message, field.name, [v if math.isfinite(v) else 0.0 for v in value])


def clean(text: str, limit: int = MAX_NAME) -> str:
    """One line of at most `limit` characters, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[: limit * 2]).strip()[:limit]


# ------------------------------------------------------------------------------------------------ capabilities


def capabilities_to_wire(capabilities: Capabilities) -> m.Capabilities:
    return m.Capabilities(
        ffmpeg_version=capabilities.ffmpeg_version,
        encoders=[_encoder_to_wire(encoder) for encoder in capabilities.encoders],
        decoders=sorted(capabilities.decoders),
        hwaccels=list(capabilities.hwaccels),
        gpus=[_gpu_to_wire(gpu) for gpu in capabilities.gpus],
        pools=[_pool_to_wire(pool) for pool in capabilities.pools],
        max_jobs=capabilities.max_jobs,
        max_cpu_jobs=capabilities.max_cpu_jobs,
        cpu_count=capabilities.cpu_count,
        cpu_model=capabilities.cpu_model,
        memory_bytes=capabilities.memory_bytes,
        os=capabilities.os,
        protocols=sorted(capabilities.protocols),
    )


def capabilities_from_wire(message: m.Capabilities | None) -> tuple[Capabilities, list[str]]:
    """What a daemon can do, and what it reported that makes no sense, in words, at most `MAX_COMPLAINTS`."""
    message = message or m.Capabilities()
    complaints = _Complaints()
    encoders = _each("encoders", message.encoders, MAX_ENCODERS, _encoder_from_wire, complaints)
    pools = _each("pools", message.pools, MAX_POOLS, _pool_from_wire, complaints)
    pools = _unique("session pool", pools, lambda pool: pool.id, complaints)
    gpus = _each("gpus", message.gpus, MAX_GPUS, _gpu_from_wire, complaints)
    gpus = _unique("GPU", gpus, lambda gpu: gpu.id, complaints)
    known = {pool.id for pool in pools}
    for gpu in gpus:
        if gpu.pool and gpu.pool not in known:
            complaints.add(f"GPU {gpu.id} draws from a session pool {gpu.pool} that is not reported")
            pools = (*pools, SessionPool(gpu.pool, limit=None))
            known.add(gpu.pool)
    decoders = _each("decoders", message.decoders, MAX_DECODERS, _name, complaints)
    protocols = _each("protocols", message.protocols, MAX_PROTOCOLS, _name, complaints)
    return Capabilities(
        ffmpeg_version=clean(message.ffmpeg_version),
        encoders=_unique("encoder", encoders, lambda encoder: (encoder.name, encoder.device), complaints),
        decoders=frozenset(decoders),
        hwaccels=_each("hwaccels", message.hwaccels, MAX_HWACCELS, _name, complaints),
        gpus=gpus,
        pools=pools,
        max_jobs=complaints.clip("max_jobs", message.max_jobs, MAX_COUNT),
        max_cpu_jobs=complaints.clip("max_cpu_jobs", message.max_cpu_jobs, MAX_COUNT),
        cpu_count=complaints.clip("cpu_count", message.cpu_count, MAX_COUNT),
        cpu_model=clean(message.cpu_model),
        memory_bytes=message.memory_bytes,
        os=clean(message.os),
        protocols=frozenset(protocols),
    ), complaints.lines()


class _Complaints:
    """Collects words for the log, the first ones only."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = 0

    def add(self, words: str) -> None:
        if len(self._lines) < MAX_COMPLAINTS - 1:
            self._lines.append(words)
        else:
            self._more += 1

    def clip(self, name: str, value: int, limit: int) -> int:
        if value > limit:
            self.add(f"{name} is {value}; taken as {limit}")
        return min(value, limit)

    def lines(self) -> list[str]:
        return [*self._lines, f"and {self._more} complaints more"] if self._more else self._lines


class _NonsenseError(ValueError):
    """One item of a list that is left out; the words say why."""


def _each(
    name: str,
    items: Sequence[WireT],
    limit: int,
    convert: Callable[[WireT, _Complaints], ItemT],
    complaints: _Complaints,
) -> tuple[ItemT, ...]:
    if len(items) > limit:
        complaints.add(f"{len(items)} {name}; the first {limit} are taken")
    made: list[ItemT] = []
    for item in items[:limit]:
        try:
            made.append(convert(item, complaints))
        except _NonsenseError as nonsense:
            complaints.add(str(nonsense))
    return tuple(made)


def _unique(
    what: str, items: Iterable[ItemT], key: Callable[[ItemT], object], complaints: _Complaints
) -> tuple[ItemT, ...]:
    """The items without those whose key came before."""
    first: dict[object, ItemT] = {}
    for item in items:
        if first.setdefault(key(item), item) is not item:
            complaints.add(f"{what} {key(item)} is reported twice")
    return tuple(first.values())


def _name(text: str, _: _Complaints) -> str:
    if not (name := clean(text)):
        raise _NonsenseError("an empty name in a list")
    return name


def _encoder_to_wire(encoder: Encoder) -> m.Encoder:
    return m.Encoder(
        name=encoder.name,
        codec=encoder.codec.value,
        family=family_to_wire(encoder.family),
        device=encoder.device,
        usable=encoder.usable,
        verified=encoder.verified,
        reason=encoder.reason,
        options=list(encoder.options),
    )


def _encoder_from_wire(message: m.Encoder, complaints: _Complaints) -> Encoder:
    name = clean(message.name)
    if not name:
        raise _NonsenseError("an encoder without a name")
    if message.codec not in _CODECS:
        raise _NonsenseError(f"encoder {name} of the unknown codec {clean(message.codec)!r}")
    family = _FAMILY_FROM_WIRE.get(message.family)
    if family is None:
        raise _NonsenseError(f"encoder {name} of the unknown family {int(message.family)}")
    return Encoder(
        name=name,
        codec=Codec(message.codec),
        family=family,
        device=clean(message.device),
        usable=message.usable,
        verified=message.verified,
        reason=clean(message.reason, MAX_TEXT),
        options=_each(f"options of {name}", message.options, MAX_OPTIONS, _name, complaints),
    )


def _gpu_to_wire(gpu: Gpu) -> m.Gpu:
    return m.Gpu(
        id=gpu.id,
        name=gpu.name,
        vendor=gpu.vendor,
        index=gpu.index,
        driver=gpu.driver,
        memory_bytes=gpu.memory_bytes,
        architecture=gpu.architecture,
        pool=gpu.pool,
        node=gpu.node,
        engines=gpu.engines,
        restricted=gpu.restricted,
    )


def _gpu_from_wire(message: m.Gpu, complaints: _Complaints) -> Gpu:
    identity = clean(message.id)
    if not identity:
        raise _NonsenseError("a GPU without an id")
    return Gpu(
        id=identity,
        name=clean(message.name),
        vendor=clean(message.vendor),
        index=complaints.clip(f"index of GPU {identity}", message.index, MAX_COUNT),
        driver=clean(message.driver),
        memory_bytes=message.memory_bytes,
        architecture=clean(message.architecture),
        pool=clean(message.pool),
        node=clean(message.node),
        engines=complaints.clip(f"engines of GPU {identity}", message.engines, MAX_COUNT),
        restricted=message.restricted,
    )


def _pool_to_wire(pool: SessionPool) -> m.SessionPool:
    return m.SessionPool(id=pool.id, limit=pool.limit, source=m.LimitSource[pool.source.name], detail=pool.detail)


def _pool_from_wire(message: m.SessionPool, complaints: _Complaints) -> SessionPool:
    identity = clean(message.id)
    if not identity:
        raise _NonsenseError("a session pool without an id")
    limit = message.limit
    return SessionPool(
        id=identity,
        limit=None if limit is None else complaints.clip(f"limit of pool {identity}", limit, MAX_COUNT),
        source=_LIMIT_SOURCE_FROM_WIRE.get(message.source, LimitSource.UNKNOWN),
        detail=clean(message.detail, MAX_TEXT),
    )


_CODECS = frozenset(codec.value for codec in Codec)
_FAMILY_FROM_WIRE = {m.Family[family.name]: family for family in Family}
_LIMIT_SOURCE_FROM_WIRE = {m.LimitSource[source.name]: source for source in LimitSource}


def family_to_wire(family: Family) -> m.Family:
    return m.Family[family.name]


def family_from_wire(family: m.Family) -> Family:
    """A family that this version does not know counts as software, which promises nothing."""
    return _FAMILY_FROM_WIRE.get(family, Family.SOFTWARE)


# ------------------------------------------------------------------------------------------------ jobs


def track_to_wire(track: Track) -> m.Track:
    return m.Track(
        id=track.id,
        codec=track.codec.value,
        language=track.language,
        init_data=track.init,
        width=track.width,
        height=track.height,
        fps=track.fps,
        interlaced=track.interlaced,
        sample_rate=track.sample_rate,
        channels=track.channels,
        stream_type=track.stream_type,
        descriptors=track.descriptors,
        scrambled=track.scrambled,
    )


def track_from_wire(message: m.Track) -> Track:
    """Raises `JobError` (bad request) for an unknown codec or for figures that no picture or sound has."""
    if message.codec not in _CODECS:
        raise _bad(f"track {message.id} has the unknown codec {clean(message.codec)!r}")
    what = f"track {message.id}"
    return Track(
        id=message.id,
        codec=Codec(message.codec),
        language=clean(message.language, 8),
        width=_at_most(message.width, MAX_PICTURE, f"width of {what}"),
        height=_at_most(message.height, MAX_PICTURE, f"height of {what}"),
        fps=_at_most(message.fps, MAX_FPS, f"fps of {what}"),
        interlaced=message.interlaced,
        sample_rate=_at_most(message.sample_rate, 1_000_000, f"sample_rate of {what}"),
        channels=_at_most(message.channels, 255, f"channels of {what}"),
        init=message.init_data[: _at_most(len(message.init_data), MAX_INIT_BYTES, f"size of init_data of {what}")],
        stream_type=_at_most(message.stream_type, 255, f"stream_type of {what}"),
        descriptors=message.descriptors[
            : _at_most(len(message.descriptors), MAX_DESCRIPTORS_BYTES, f"size of descriptors of {what}")
        ],
        scrambled=message.scrambled,
    )


def tracks_from_wire(messages: Sequence[m.Track]) -> tuple[Track, ...]:
    """At most `MAX_TRACKS` tracks with ids of their own. Raises `JobError` (bad request)."""
    _at_most(len(messages), MAX_TRACKS, "number of tracks")
    tracks = tuple(track_from_wire(message) for message in messages)
    if len({track.id for track in tracks}) != len(tracks):
        raise _bad("two tracks have one id")
    return tracks


def start_to_wire(spec: JobSpec) -> m.TranscodeStart:
    return m.TranscodeStart(
        job_id=spec.job_id,
        tracks=[track_to_wire(target.track) for target in spec.targets],
        targets=[_target_to_wire(target) for target in spec.targets],
        encoder=spec.encoder,
        device=spec.device,
        hw_accel=spec.hw_accel,
        first_keyframe_ticks=spec.first_keyframe_ticks,
        batch_age_s=spec.batch_age_s,
        batch_bytes=spec.batch_bytes,
        full_speed=spec.full_speed,
        protocol_version=PROTOCOL_VERSION,
        source=_source_to_wire(spec.fetch) if spec.fetch is not None else None,
    )


def start_from_wire(message: m.TranscodeStart) -> JobSpec:
    """The job, with the defaults where the message leaves them open. Raises `JobError` (bad request)."""
    tracks = {track.id: track for track in tracks_from_wire(message.tracks)}
    targets = tuple(_target_from_wire(target, tracks) for target in message.targets)
    fetch = _source_from_wire(message.source) if message.source is not None else None
    if fetch is not None and (tracks or targets or message.encoder):
        raise _bad("a job that fetches a source has no tracks, targets and encoder")
    enough = bool(targets) or fetch is not None
    if not enough or len(targets) != len(tracks) or {t.track.id for t in targets} != tracks.keys():
        raise _bad(f"{len(tracks)} tracks and {len(targets)} targets; each track needs one, and there must be one")
    hw_accel = message.hw_accel or "auto"
    if hw_accel not in _HW_ACCELS:
        raise _bad(f"unknown hw_accel {clean(hw_accel)!r}; it takes {', '.join(sorted(_HW_ACCELS))}")
    defaults = JobSpec(job_id="", targets=())
    return JobSpec(
        job_id=clean(message.job_id),
        targets=targets,
        encoder=clean(message.encoder),
        device=clean(message.device),
        hw_accel=hw_accel,
        first_keyframe_ticks=message.first_keyframe_ticks,
        batch_age_s=_at_most(message.batch_age_s, MAX_BATCH_AGE_S, "batch_age_s") or defaults.batch_age_s,
        batch_bytes=_at_most(message.batch_bytes, MAX_BATCH_BYTES, "batch_bytes") or defaults.batch_bytes,
        full_speed=message.full_speed,
        fetch=fetch,
    )


def _source_to_wire(source: Source) -> m.Source:
    return m.Source(
        url=source.url,
        user_agent=source.user_agent,
        headers=[m.SourceHeader(name=name, value=value) for name, value in source.headers],
        program=source.program or 0,
    )


def _source_from_wire(message: m.Source) -> Source:
    """Raises `JobError` (bad request) without showing what may be secret."""
    texts = [message.url, message.user_agent, *(text for h in message.headers for text in (h.name, h.value))]
    if len(message.headers) > MAX_HEADERS or any(len(text) > MAX_URL for text in texts):
        raise _bad(f"a source takes at most {MAX_HEADERS} headers, and {MAX_URL} characters of each text")
    if not all(text.isprintable() for text in texts):
        raise _bad("the source's URL or headers have control characters")
    return Source(
        url=message.url,
        user_agent=message.user_agent,
        headers=tuple((header.name, header.value) for header in message.headers),
        program=_at_most(message.program, 65_535, "program of the source") or None,
    )


def _target_to_wire(target: Target) -> m.Target:
    return m.Target(
        track_id=target.track.id,
        codec=COPY if target.copy else target.codec.value,
        bitrate_kbps=target.bitrate_kbps,
        width=target.width,
        height=target.height,
        fps=target.fps,
        crf=target.crf,
        preset=target.preset,
        gop_s=target.gop_s,
        deinterlace=target.deinterlace,
        channels=target.channels,
    )


def _target_from_wire(message: m.Target, tracks: dict[int, Track]) -> Target:
    what = f"target of track {message.track_id}"
    track = tracks.get(message.track_id)
    if track is None:
        raise _bad(f"the {what} has no track")
    if message.codec == COPY:
        return Target(track, track.codec, copy=True)
    if message.codec not in _CODECS:
        raise _bad(f"the {what} has the unknown codec {clean(message.codec)!r}")
    deinterlace = message.deinterlace or "auto"
    if deinterlace not in _DEINTERLACE:
        raise _bad(f"unknown deinterlace {clean(deinterlace)!r}; it takes {', '.join(sorted(_DEINTERLACE))}")
    return Target(
        track=track,
        codec=Codec(message.codec),
        bitrate_kbps=_at_most(message.bitrate_kbps, MAX_BITRATE_KBPS, f"bitrate_kbps of the {what}"),
        width=_at_most(message.width, MAX_PICTURE, f"width of the {what}"),
        height=_at_most(message.height, MAX_PICTURE, f"height of the {what}"),
        fps=_at_most(message.fps, MAX_FPS, f"fps of the {what}"),
        crf=None if message.crf is None else _at_most(message.crf, MAX_CRF, f"crf of the {what}"),
        preset=clean(message.preset),
        gop_s=_at_most(message.gop_s, MAX_GOP_S, f"gop_s of the {what}") or Target(track, track.codec).gop_s,
        deinterlace=deinterlace,
        channels=_at_most(message.channels, 255, f"channels of the {what}"),
    )


_HW_ACCELS = frozenset({"auto", "none", *(family.value for family in Family)})
_DEINTERLACE = frozenset({"auto", "on", "off"})

NumberT = TypeVar("NumberT", int, float)


def _at_most(value: NumberT, limit: NumberT, what: str) -> NumberT:
    if not 0 <= value <= limit or math.isnan(value):
        raise _bad(f"{what} is {value}; it takes 0 to {limit}")
    return value


def _bad(words: str) -> JobError:
    return JobError(ErrorCode.BAD_REQUEST, words, retry_elsewhere=False)


# ------------------------------------------------------------------------------------------------ errors


def error_to_wire(error: JobError) -> m.TranscodeError:
    return m.TranscodeError(
        code=m.TranscodeErrorCode[error.code.name],
        message=clean(str(error), MAX_TEXT),
        stderr=[clean(line, MAX_TEXT) for line in error.stderr[-MAX_STDERR_LINES:]],
        retry_elsewhere=error.retry_elsewhere,
        retry_in_software=error.retry_in_software,
    )


def error_from_wire(message: m.TranscodeError | None) -> JobError:
    """A code that this version does not know is an internal error of the other side's; an absent message, too."""
    message = message or m.TranscodeError()
    code = _ERROR_CODE_FROM_WIRE.get(message.code, ErrorCode.INTERNAL)
    return JobError(
        code,
        clean(message.message, MAX_TEXT) or f"failed without words ({code.value})",
        stderr=[clean(line, MAX_TEXT) for line in message.stderr[-MAX_STDERR_LINES:]],
        retry_elsewhere=message.retry_elsewhere,
        retry_in_software=message.retry_in_software,
    )


_ERROR_CODE_FROM_WIRE = {m.TranscodeErrorCode[code.name]: code for code in ErrorCode}
