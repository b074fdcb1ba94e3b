"""Daemons and needs for the tests of placement, in few words."""

from __future__ import annotations

from tvarr.cluster.events import DaemonAttached, Event, Instruction, Start
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, LimitSource, Need, SessionPool, Target
from tvarr.media.model import Codec, Track

X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
AAC = Encoder("aac", Codec.AAC, Family.SOFTWARE)
H264_VIDEO = Track(1, Codec.H264, width=1280, height=720, fps=25.0)
MP2_AUDIO = Track(2, Codec.MP2)


def nvenc(device: str = "GPU-1", *, usable: bool = True, reason: str = "") -> Encoder:
    return Encoder("h264_nvenc", Codec.H264, Family.NVENC, device, usable, reason=reason)


def need(
    *,
    hw_accel: str = "auto",
    policy: str = "fallback",
    source: str = "",
    priority: int = 0,
    track: Track = H264_VIDEO,
    audio: bool = False,
    preset: str = "",
) -> Need:
    targets: tuple[Target, ...] = (Target(track, Codec.H264, preset=preset),)
    if audio:
        targets += (Target(MP2_AUDIO, Codec.AAC),)
    return Need(targets, hw_accel, policy, source, priority)


def capabilities(
    *,
    sessions: int | None = None,
    gpus: tuple[str, ...] = ("GPU-1",),
    pool: str = "nvidia-host",
    unlimited: bool = False,
    software: bool = True,
    driver: str = "550.54",
    source: LimitSource = LimitSource.DRIVER_TABLE,
    hwaccels: tuple[str, ...] = ("cuda",),
    max_jobs: int = 0,
    max_cpu_jobs: int = 0,
    cpu_count: int = 0,
) -> Capabilities:
    """A host's; `sessions` is the limit of the pool that its GPUs draw from, None: it has no GPU unless `unlimited`."""
    has_gpu = sessions is not None or unlimited
    encoders: tuple[Encoder, ...] = tuple(nvenc(gpu) for gpu in gpus) if has_gpu else ()
    return Capabilities(
        encoders=(*encoders, X264, AAC) if software else (*encoders, AAC),
        hwaccels=hwaccels,
        gpus=tuple(Gpu(gpu, f"RTX {gpu}", "nvidia", driver=driver, pool=pool, engines=1) for gpu in gpus)
        if has_gpu
        else (),
        pools=(SessionPool(pool, sessions, LimitSource.UNLIMITED if unlimited else source, f"driver {driver}"),)
        if has_gpu
        else (),
        max_jobs=max_jobs,
        max_cpu_jobs=max_cpu_jobs,
        cpu_count=cpu_count,
    )


def attached(
    name: str,
    caps: Capabilities | None = None,
    *,
    instance: str = "1",
    machine: str = "",
    jobs: frozenset[str] = frozenset(),
) -> DaemonAttached:
    return DaemonAttached(name, instance, name, machine or f"host of {name}", "0.1.0", caps or capabilities(), jobs)


def play(ledger: Ledger, *events: Event, now: float = 0.0) -> list[Instruction]:
    """Hands in events at one time; the invariants hold after each."""
    out = []
    for event in events:
        out += ledger.handle(event, now)
        ledger.validate()
    return out


def starts(instructions: list[Instruction]) -> list[tuple[str, str]]:
    """Jobs and the daemons that they start on."""
    return [(i.job_id, i.placement.daemon_id) for i in instructions if isinstance(i, Start)]
