"""The words of placement: what a daemon can do, what a job needs.

The same facts travel as messages of `proto/tvarr/v1/ffmpegd.proto`; `tvarr.wire.convert` is the one translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tvarr.media.model import Codec, Track


class Family(StrEnum):
    """A family of encoders that share their flags (`tvarr.hwaccel.families`)."""

    SOFTWARE = "software"
    NVENC = "nvenc"
    VAAPI = "vaapi"
    QSV = "qsv"
    AMF = "amf"
    V4L2M2M = "v4l2m2m"
    RKMPP = "rkmpp"
    VULKAN = "vulkan"
    VIDEOTOOLBOX = "videotoolbox"


class LimitSource(StrEnum):
    """Where a session limit comes from; shown wherever the limit is."""

    OVERRIDE = "override"
    LEARNED = "learned"
    DRIVER_TABLE = "driver_table"
    UNLIMITED = "unlimited"
    UNKNOWN = "unknown"


class ExhaustedPolicy(StrEnum):
    """What happens to a job that hardware could do, but all sessions are taken."""

    FALLBACK = "fallback"  # software, and hardware again later
    QUEUE = "queue"  # it waits
    REJECT = "reject"  # it is refused


class MoveKind(StrEnum):
    """Why a job that runs is to run elsewhere."""

    DRAIN = "drain"  # its daemon lets its jobs go
    ASKED = "asked"  # an operator wants it
    PROMOTION = "promotion"  # it fell back to software, and hardware is free
    SLOW = "slow"  # it does not keep up where it is
    CHANGED = "changed"  # it is to be done in another way


@dataclass(frozen=True, slots=True)
class Encoder:
    """One encoder of one ffmpeg on one device, and whether a trial encode worked."""

    name: str  # ffmpeg's name: h264_nvenc, libx264
    codec: Codec
    family: Family
    device: str = ""  # a GPU's `id`, or empty for software
    usable: bool = True
    verified: bool = False  # a trial encode ran; False where it was only listed
    reason: str = ""  # why it is not usable, in words
    options: tuple[str, ...] = ()  # what the trial found it needs: "low_power"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics device."""

    id: str  # NVIDIA's UUID, or the render node's PCI address
    name: str
    vendor: str  # nvidia, intel, amd, or the driver's name
    index: int = 0  # NVML's index now; not stable
    driver: str = ""
    memory_bytes: int = 0
    architecture: str = ""
    pool: str = ""  # id of the encode session pool it draws from; empty: none needed
    node: str = ""  # /dev/dri/renderD128
    engines: int = 0  # hardware encoders on the chip
    restricted: bool = False  # counts against the host's GeForce limit


@dataclass(frozen=True, slots=True)
class SessionPool:
    """Encoder sessions that GPUs draw from: one pool a host for restricted NVIDIA cards, one a GPU otherwise."""

    id: str
    limit: int | None  # sessions; None: no limit
    source: LimitSource = LimitSource.UNKNOWN
    detail: str = ""  # "driver 550.54: 8"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a daemon reports when it registers."""

    ffmpeg_version: str = ""
    encoders: tuple[Encoder, ...] = ()
    decoders: frozenset[str] = frozenset()  # ffmpeg's decoder names
    hwaccels: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    pools: tuple[SessionPool, ...] = ()
    max_jobs: int = 0  # all jobs together
    max_cpu_jobs: int = 0  # jobs that encode video in software
    cpu_count: int = 0
    cpu_model: str = ""
    memory_bytes: int = 0
    os: str = ""
    protocols: frozenset[str] = frozenset()  # schemes of the sources that it can fetch


@dataclass(frozen=True, slots=True)
class Source:
    """A source that a daemon fetches. All but its scheme may be secret."""

    url: str = field(repr=False)  # without a fragment
    user_agent: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    program: int | None = None  # MPEG-TS program number; None: the demuxer's choice

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()


@dataclass(frozen=True, slots=True)
class Target:
    """What becomes of one track in a job. Zero and empty: as in the source, or the encoder's default."""

    track: Track
    codec: Codec  # of the track itself, where it is copied
    bitrate_kbps: int = 0
    width: int = 0  # the picture keeps its aspect ratio and fits into width x height
    height: int = 0
    fps: float = 0.0
    crf: int | None = None
    preset: str = ""
    gop_s: float = 2.0  # keyframes at the multiples of this on the relay's timeline
    deinterlace: str = "auto"  # auto, on, off
    channels: int = 0
    copy: bool = False  # the samples pass as they are, around ffmpeg; the rest says nothing then


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks of a daemon: to change tracks, or to fetch a source."""

    targets: tuple[Target, ...]  # only the tracks that change
    hw_accel: str = "auto"  # auto, none, or a `Family`
    policy: str = "fallback"  # an `ExhaustedPolicy`
    source: str = ""  # the channel's id
    priority: int = 0  # in the queue; higher goes first
    protocol: str = ""  # scheme of the source that is to be fetched; empty: none


@dataclass(frozen=True, slots=True)
class Considered:
    """One daemon that was looked at, and the verdict in words."""

    daemon_id: str
    daemon_name: str
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job goes, and why."""

    daemon_id: str
    encoder: Encoder | None  # of the video track; None where only audio changes
    reason: str
    considered: Sequence[Considered] = ()
    hw_decode: bool = False  # the encoder's device is expected to decode as well
    pool: str = ""  # id of the session pool that a session is reserved in; empty: none needed
    fallback: bool = False  # in software because all hardware sessions are taken: worth a warning and a promotion
    cost_cores: float = 0.0  # processors that the job is estimated to keep busy, by the table


@dataclass(frozen=True, slots=True)
class Wait:
    """Some daemon can do the job, but not now."""

    reason: str
    considered: Sequence[Considered] = ()
    until: float | None = None  # when a daemon may be tried again; None: when capacity frees
    busy: bool = False  # the end of another job would help


class RefusalKind(StrEnum):
    """Why a job is refused; all are HTTP 503."""

    NO_DAEMON = "no_daemon"  # none is connected
    UNSUPPORTED = "unsupported"  # none that takes jobs has the encoder or decoder
    EXHAUSTED = "exhausted"  # some could, but sessions, slots or processors are taken


@dataclass(frozen=True, slots=True)
class Refusal:
    """No daemon can take the job now."""

    reason: str
    considered: Sequence[Considered] = ()
    kind: RefusalKind = RefusalKind.UNSUPPORTED
    retry_after_s: float = 10.0  # for the header `Retry-After`
    busy: bool = False  # the end of another job would help


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job, as the daemon gets it."""

    job_id: str
    targets: tuple[Target, ...]  # only the tracks that the daemon works on: at least one, or there is a `fetch`
    encoder: str = ""  # ffmpeg's name of the video encoder; empty: the daemon chooses by `hw_accel`
    device: str = ""  # `Gpu.id`; empty for software
    hw_accel: str = "auto"
    first_keyframe_ticks: int | None = None  # a keyframe is forced at the first picture at or after this PTS
    batch_age_s: float = 0.040
    batch_bytes: int = 256 * 1024
    full_speed: bool = False  # input comes as fast as it is taken
    fetch: Source | None = None  # the daemon gets its input there
