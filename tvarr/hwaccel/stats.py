"""The figures of a heartbeat: the host by psutil and PSI, the GPUs by NVML and sysfs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from tvarr.cluster.model import Gpu, SessionPool
from tvarr.hwaccel.drm import SYS, amdgpu_stats
from tvarr.hwaccel.model import GpuStats, HostStats, OwnSessions, PoolUsage, SystemStats
from tvarr.hwaccel.nvml import Nvml

PRESSURE = Path("/proc/pressure")

_NONE_OWN: Mapping[str, OwnSessions] = {}


class StatsReader:
    """Reads everything that a heartbeat tells.

    `read` never raises and takes a few milliseconds; NVML may hold it up for longer, so a loop calls it in a thread.
    Not for use by two threads at once.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu] = (),
        pools: Sequence[SessionPool] = (),
        *,
        sys_root: Path = SYS,
        pressure: Path = PRESSURE,
    ) -> None:
        self._gpus = tuple(gpus)
        self._pools = tuple(pools)
        self._nvml = Nvml()
        self._pci = sys_root / "bus" / "pci" / "devices"
        self._pressure = pressure
        self._process = psutil.Process()
        self._started_at = time.monotonic()
        psutil.cpu_percent(interval=None)  # the first call starts the measurement and answers 0

    def read(self, own: Mapping[str, OwnSessions] = _NONE_OWN) -> HostStats:
        """One reading. `own` says by `Gpu.id` what our own jobs hold."""
        gpus = tuple(self._gpu(gpu, own.get(gpu.id, OwnSessions())) for gpu in self._gpus)
        return HostStats(self._system(), gpus, self._usage(gpus, own))

    def close(self) -> None:
        """Lets the NVIDIA driver go."""
        self._nvml.close()

    def _gpu(self, gpu: Gpu, own: OwnSessions) -> GpuStats:
        stats: GpuStats | None = None
        if gpu.vendor == "nvidia":
            stats = self._nvml.stats(gpu.id) if gpu.id.startswith("GPU-") else None
        elif gpu.vendor == "amd":
            stats = amdgpu_stats(gpu.id, self._pci / gpu.id)
        return replace(stats or GpuStats(gpu.id), decode_sessions=own.decode)

    def _usage(self, stats: Sequence[GpuStats], own: Mapping[str, OwnSessions]) -> tuple[PoolUsage, ...]:
        """A session that we just opened may not be in the driver's count yet, so ours is the least."""
        usage = []
        for pool in self._pools:
            drawn = [
                (s, own.get(s.id, OwnSessions()))
                for s, gpu in zip(stats, self._gpus, strict=True)
                if gpu.pool == pool.id
            ]
            usage.append(
                PoolUsage(
                    id=pool.id,
                    active=sum(max(s.encode_sessions or 0, ours.encode) for s, ours in drawn),
                    own=sum(ours.encode for _, ours in drawn),
                )
            )
        return tuple(usage)

    def _system(self) -> SystemStats:
        memory = psutil.virtual_memory()
        sent, received = _network_bytes()
        with self._process.oneshot():
            times, resident = self._process.cpu_times(), self._process.memory_info().rss
        return SystemStats(
            cpu_percent=float(psutil.cpu_percent(interval=None)),
            load_average=psutil.getloadavg(),
            memory_used_bytes=int(memory.total - memory.available),
            memory_total_bytes=int(memory.total),
            network_sent_bytes=sent,
            network_received_bytes=received,
            cpu_pressure_percent=pressure_percent(self._pressure / "cpu"),
            memory_pressure_percent=pressure_percent(self._pressure / "memory"),
            io_pressure_percent=pressure_percent(self._pressure / "io"),
            uptime_s=time.monotonic() - self._started_at,
            process_cpu_s=times.user + times.system,
            process_memory_bytes=int(resident),
        )


def pressure_percent(file: Path) -> float | None:
    """Reads "some avg10=" of a PSI file (Linux, Documentation/accounting/psi.rst); None where the kernel has none."""
    try:
        words = file.read_text().split()
        return next(float(word.removeprefix("avg10=")) for word in words if word.startswith("avg10="))
    except (OSError, ValueError, StopIteration):
        return None


def _network_bytes() -> tuple[int, int]:
    """Bytes sent and received over all interfaces but loopback."""
    counters = psutil.net_io_counters(pernic=True)
    real = [counter for name, counter in counters.items() if not name.startswith("lo")]
    return sum(counter.bytes_sent for counter in real), sum(counter.bytes_recv for counter in real)
