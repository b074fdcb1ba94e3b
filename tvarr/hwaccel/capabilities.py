"""What a daemon can do: the build, the devices, the trials and the limits, put together."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tvarr.cluster.model import Capabilities, Encoder
from tvarr.ffmpeg.locate import FfmpegBinary
from tvarr.hwaccel import cache
from tvarr.hwaccel.build import Build, read_build
from tvarr.hwaccel.families import FAMILIES
from tvarr.hwaccel.inventory import Inventory, take_inventory
from tvarr.hwaccel.limits import (
    SessionOverride,
    auto_cpu_jobs,
    auto_jobs,
    available_cpus,
    available_memory_bytes,
    session_pools,
)
from tvarr.hwaccel.trial import Progress, plan_trials, run_trials

log = logging.getLogger(__name__)


async def detect(
    ffmpeg: FfmpegBinary,
    *,
    verify: bool = True,
    gpu_max_sessions: SessionOverride = None,
    max_jobs: int | None = None,
    max_cpu_jobs: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    inventory: Inventory | None = None,
) -> Capabilities:
    """Finds out what `ffmpeg` can do on this host.

    `verify` tries each encoder on each device; without it they are only listed. Encoders that passed before, with the
    same binary, drivers and devices, are not tried again where `cache_dir` remembers them. None as `max_jobs` or
    `max_cpu_jobs` means auto (`tvarr.hwaccel.limits`). Raises `StartError` where ffmpeg does not list its encoders.
    """
    if inventory is None:
        inventory = await asyncio.to_thread(take_inventory)
    build = await read_build(ffmpeg)
    encoders = await _encoders(ffmpeg, build, inventory, verify=verify, cache_dir=cache_dir, progress=progress)
    gpus, pools = session_pools(inventory.gpus, gpu_max_sessions)
    if isinstance(gpu_max_sessions, Mapping):
        for unknown in gpu_max_sessions.keys() - {gpu.id for gpu in gpus}:
            log.warning("--gpu-max-sessions names %s, and this host has no such GPU", unknown)
    cpu_count = available_cpus()
    cpu_jobs = auto_cpu_jobs(cpu_count) if max_cpu_jobs is None else max_cpu_jobs
    return Capabilities(
        ffmpeg_version=ffmpeg.version,
        encoders=encoders,
        decoders=build.decoders,
        hwaccels=build.hwaccels,
        gpus=gpus,
        pools=pools,
        max_jobs=auto_jobs(cpu_jobs, cpu_count, gpus, pools, encoders) if max_jobs is None else max_jobs,
        max_cpu_jobs=cpu_jobs,
        cpu_count=cpu_count,
        cpu_model=cpu_model(),
        memory_bytes=available_memory_bytes(),
        os=os_name(),
        protocols=build.schemes,
    )


async def _encoders(
    ffmpeg: FfmpegBinary,
    build: Build,
    inventory: Inventory,
    *,
    verify: bool,
    cache_dir: Path | None,
    progress: Progress | None,
) -> tuple[Encoder, ...]:
    plan = plan_trials(build, inventory)
    if not verify:
        return _in_order([*(trial.encoder for trial in plan.trials), *plan.settled], inventory)
    key = cache.key_of(ffmpeg, inventory)
    passed = cache.load(cache_dir, key)
    known: list[Encoder] = []
    trials = []
    for trial in plan.trials:
        options = passed.get((trial.encoder.name, trial.encoder.device))
        if options is None:
            trials.append(trial)
        else:
            known.append(replace(trial.encoder, verified=True, options=options))
    tried = await run_trials(ffmpeg.path, trials, progress=progress)
    for encoder in tried:
        if not encoder.verified:
            on = f" on {encoder.device}" if encoder.device else ""
            log.info("encoder %s%s does not work: %s", encoder.name, on, encoder.reason)
    if tried:
        cache.save(cache_dir, key, [*known, *tried])
    return _in_order([*known, *tried, *plan.settled], inventory)


_ORDER = {name: (i, j) for i, row in enumerate(FAMILIES) for j, name in enumerate(row.encoders.values())}


def _in_order(encoders: Iterable[Encoder], inventory: Inventory) -> tuple[Encoder, ...]:
    """By family, best first; within a family by device, as the GPUs are listed, and then by codec."""
    devices = {gpu.id: i for i, gpu in enumerate(inventory.gpus)}

    def place(encoder: Encoder) -> tuple[int, int, int]:
        family, codec = _ORDER[encoder.name]
        return family, devices.get(encoder.device, -1), codec

    return tuple(sorted(encoders, key=place))


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; its architecture where the kernel tells no name, as on ARM."""
    try:
        with cpuinfo.open() as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def os_name() -> str:
    """For people: "Debian GNU/Linux 12 (bookworm), Linux 6.1.0"."""
    kernel = f"{platform.system()} {platform.release()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel
