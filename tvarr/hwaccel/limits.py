"""How much a host may be given: encoder sessions by GPU, and jobs by processors.

Pure but for `available_cpus` and `available_memory_bytes`, which ask the host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from tvarr.cluster.model import Encoder, Family, Gpu, LimitSource, SessionPool
from tvarr.hwaccel.nvidia_models import classify_gpu, driver_limit

NVIDIA_HOST_POOL = "nvidia-host"
"""The pool of all restricted NVIDIA cards of a host. The pool of any other GPU has the GPU's id."""

SESSIONS_OF_UNLIMITED_GPU = 8
"""What `--max-jobs auto` allows for a GPU without a session limit: few chips carry more in real time."""

AUDIO_JOBS_PER_CPU = 2
"""What `--max-jobs auto` allows beside jobs that encode video: those that encode audio alone cost little."""

_CGROUP = Path("/sys/fs/cgroup")


SessionOverride = int | Mapping[str, int] | None
"""`--gpu-max-sessions`: None is auto, a number is for every pool, a mapping by `Gpu.id` for single GPUs."""


def session_pools(
    gpus: Sequence[Gpu], override: SessionOverride = None
) -> tuple[tuple[Gpu, ...], tuple[SessionPool, ...]]:
    """The GPUs with the pools that they draw from, and the pools.

    Restricted NVIDIA cards share one pool with the driver's limit; every other GPU with an encoder has its own, without
    a limit. A GPU that the override names has its own pool with that limit, restricted or not: whoever sets it knows
    the driver better than the table. A number as override sets the limit of each pool, the shared one's too.
    """
    drawn: list[Gpu] = []
    pools: dict[str, SessionPool] = {}
    for gpu in gpus:
        if not gpu.engines and not gpu.restricted:
            drawn.append(gpu)
            continue
        pool = _pool(gpu, override)
        known = pools.setdefault(pool.id, pool)
        if len(pool.detail) > len(known.detail):  # one unknown model among known ones is told
            pools[pool.id] = pool
        drawn.append(replace(gpu, pool=pool.id))
    return tuple(drawn), tuple(pools.values())


def _pool(gpu: Gpu, override: SessionOverride) -> SessionPool:
    if isinstance(override, Mapping) and gpu.id in override:
        limit = override[gpu.id]
        return SessionPool(gpu.id, limit, LimitSource.OVERRIDE, f"set for this GPU: {limit}")
    name = NVIDIA_HOST_POOL if gpu.restricted else gpu.id
    if isinstance(override, int):
        return SessionPool(name, override, LimitSource.OVERRIDE, f"set for every GPU: {override}")
    if gpu.restricted:
        found = driver_limit(gpu.driver)
        unknown = "" if classify_gpu(gpu.name).known else f"; {gpu.name} is unknown and taken as restricted"
        source = LimitSource.DRIVER_TABLE if found.certain else LimitSource.UNKNOWN
        return SessionPool(name, found.sessions, source, found.detail + unknown)
    why = "on NVIDIA's qualified list" if gpu.vendor == "nvidia" else "its maker sets none"
    return SessionPool(name, None, LimitSource.UNLIMITED, why)


def auto_cpu_jobs(cpu_count: int) -> int:
    """`--max-cpu-jobs auto`: one software video encode per processor, for 1080p30 H.264 takes about one."""
    return max(1, cpu_count)


def auto_jobs(
    max_cpu_jobs: int, cpu_count: int, gpus: Sequence[Gpu], pools: Sequence[SessionPool], encoders: Sequence[Encoder]
) -> int:
    """`--max-jobs auto`: the software encodes, the sessions of hardware that works, and jobs for audio alone."""
    hardware = [encoder for encoder in encoders if encoder.usable and encoder.family is not Family.SOFTWARE]
    working = {encoder.device for encoder in hardware}
    drawn = {gpu.pool for gpu in gpus if gpu.id in working}
    sessions = sum(
        SESSIONS_OF_UNLIMITED_GPU if pool.limit is None else pool.limit for pool in pools if pool.id in drawn
    )
    without_gpu = SESSIONS_OF_UNLIMITED_GPU if "" in working else 0
    return max_cpu_jobs + sessions + without_gpu + AUDIO_JOBS_PER_CPU * cpu_count


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """Processors that this process may use: affinity and the container's quota (cgroup v2) counted."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return count  # no cgroup v2, or "max": no quota


def available_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that this process may use: the host's, or the container's limit (cgroup v2) where that is lower."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int((cgroup / "memory.max").read_text()))
    except (OSError, ValueError):
        return total
