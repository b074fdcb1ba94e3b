"""NVIDIA's GPUs by NVML (`pynvml` of nvidia-ml-py): what they are, and what they do now.

Nothing here raises: a host without a driver has no GPUs and a reason in words, and a value that the driver refuses
(MIG, WSL, some H100 refuse power, fan or encoder utilisation) is None. GPUs are known by UUID, because NVML's indexes
are not stable and differ from CUDA's. The calls block for up to some milliseconds: from a loop, use a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pynvml

from tvarr.hwaccel.model import GpuStats
from tvarr.hwaccel.nvidia_models import ARCHITECTURES

T = TypeVar("T")

_WORDS: dict[int | None, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver (libnvidia-ml.so.1 is missing)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but its kernel module is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "the NVIDIA driver may not be used by this user",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver's library and kernel module are of different versions: restart the host"
    ),
    pynvml.NVML_ERROR_UNKNOWN: (
        "NVML answers 'Unknown Error': in a container the host took the GPU away; restart the container"
    ),
}


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """What does not change of one GPU."""

    uuid: str
    name: str
    index: int
    pci_address: str  # as in /sys: "0000:65:00.0"; empty where not told
    memory_bytes: int
    architecture: str  # "Ada"; empty where not told


@dataclass(frozen=True, slots=True)
class NvidiaGpus:
    """All GPUs that NVML lets us see."""

    gpus: tuple[NvidiaGpu, ...]
    driver: str
    reason: str = ""  # in words, why some or all are missing


class Nvml:
    """NVML's handle on the driver, opened on first use and opened again after it was lost."""

    def __init__(self) -> None:
        self._open = False

    def gpus(self) -> NvidiaGpus:
        """Lists the GPUs."""
        try:
            self._ensure_open()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.close()
            return NvidiaGpus((), "", _words(error))
        gpus: list[NvidiaGpu] = []
        reasons: list[str] = []
        for index in range(count):
            try:
                gpus.append(_describe(index))
            except pynvml.NVMLError as error:
                reasons.append(f"GPU {index}: {_words(error)}")
        driver = _told(pynvml.nvmlSystemGetDriverVersion) or ""
        if not count:
            reasons.append("the NVIDIA driver sees no GPU")
        return NvidiaGpus(tuple(gpus), driver, "; ".join(reasons))

    def stats(self, uuid: str) -> GpuStats | None:
        """What one GPU does now; None where it is gone or the driver is."""
        try:
            self._ensure_open()
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            self.close()
            return None
        load = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
        encoder = _told(pynvml.nvmlDeviceGetEncoderUtilization, handle)
        decoder = _told(pynvml.nvmlDeviceGetDecoderUtilization, handle)
        memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
        temperature = _told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        power_milliwatts = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
        sessions = _told(pynvml.nvmlDeviceGetEncoderStats, handle)
        return GpuStats(
            id=uuid,
            utilization_percent=None if load is None else float(load.gpu),
            encoder_percent=None if encoder is None else float(encoder[0]),
            decoder_percent=None if decoder is None else float(decoder[0]),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_celsius=None if temperature is None else float(temperature),
            power_watts=None if power_milliwatts is None else power_milliwatts / 1000,
            encode_sessions=None if sessions is None else int(sessions[0]),
        )

    def close(self) -> None:
        """Lets the driver go; the next call opens it again."""
        if self._open:
            self._open = False
            _told(pynvml.nvmlShutdown)

    def _ensure_open(self) -> None:
        if not self._open:
            pynvml.nvmlInit()
            self._open = True


def _told(call: Callable[..., T], *arguments: object) -> T | None:
    """The answer of one call, or None where the driver refuses it or answers text that is none (WSL)."""
    try:
        return call(*arguments)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _describe(index: int) -> NvidiaGpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    pci = _told(pynvml.nvmlDeviceGetPciInfo, handle)
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    architecture = _told(pynvml.nvmlDeviceGetArchitecture, handle)
    return NvidiaGpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(_told(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
        index=index,
        pci_address="" if pci is None else f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0",
        memory_bytes=0 if memory is None else int(memory.total),
        architecture="" if architecture is None else ARCHITECTURES.get(architecture, ""),
    )


def _text(value: str | bytes) -> str:
    """Old releases of pynvml return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _words(error: Exception) -> str:
    return _WORDS.get(getattr(error, "value", None), f"NVML answers '{error}'")
