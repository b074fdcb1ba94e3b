"""What this host's graphics devices are and do now, as plain values; the figures of a heartbeat.

`SystemStats`, `GpuStats` and `PoolUsage` hold the fields of the messages of the same names in
`proto/tvarr/v1/ffmpegd.proto`; None is a value that nobody tells.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuStats:
    """What one GPU does now."""

    id: str
    utilization_percent: float | None = None
    encoder_percent: float | None = None
    decoder_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    encode_sessions: int | None = None  # as the driver counts them, other programs' included
    decode_sessions: int = 0  # our own jobs'; drivers don't tell


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Sessions in use of one session pool."""

    id: str
    active: int  # the driver's count, other programs' included
    own: int  # of these, our own jobs'


@dataclass(frozen=True, slots=True)
class SystemStats:
    """What the host and this process do now."""

    cpu_percent: float  # 0 to 100, over all cores, since the last reading
    load_average: tuple[float, float, float]  # 1, 5, 15 minutes
    memory_used_bytes: int
    memory_total_bytes: int
    network_sent_bytes: int  # since the host started, loopback left out
    network_received_bytes: int
    cpu_pressure_percent: float | None  # share of time that some task waited, mean of 10 s (Linux PSI)
    memory_pressure_percent: float | None
    io_pressure_percent: float | None
    uptime_s: float  # of this process
    process_cpu_s: float  # of this process, its children not counted
    process_memory_bytes: int


@dataclass(frozen=True, slots=True)
class OwnSessions:
    """What our own jobs hold on one GPU."""

    encode: int = 0
    decode: int = 0


@dataclass(frozen=True, slots=True)
class HostStats:
    """One reading of everything."""

    system: SystemStats
    gpus: tuple[GpuStats, ...] = ()
    pools: tuple[PoolUsage, ...] = ()
