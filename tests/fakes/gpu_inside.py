"""What a process finds on a `tests.fakes.gpu_host.GpuHost`: NVML's C library, and the host's identity."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pynvml

from tests.fakes import nvenc
from tests.fakes.nvml import Card, FakeNvmlLibrary

HOST, IDENTITY = "host.json", "identity"
IDENTITIES = frozenset({"/proc/sys/kernel/random/boot_id", "/etc/machine-id"})
AMPERE = 7  # nvml.h


class _Library(FakeNvmlLibrary):
    """NVML on a `GpuHost`: it counts the sessions that are open now."""

    folder = ""

    def _nvmlDeviceGetEncoderStats(self, name: str, handle: Any, count: Any, fps: Any, latency: Any) -> None:  # noqa: N802
        card = self._card(name, handle)
        card.sessions = nvenc.count(self.folder, card.uuid)
        super()._nvmlDeviceGetEncoderStats(name, handle, count, fps, latency)


def become(folder: str) -> None:
    """Makes this process one of the host's. Called by its `sitecustomize.py`."""
    host = json.loads(Path(folder, HOST).read_text())
    library = _Library([Card(host["gpu"], host["card"], architecture=AMPERE)], host["driver"])
    library.folder = folder
    pynvml.nvmlLib = library
    real = io.open

    def opened(file: Any, *arguments: Any, **more: Any) -> Any:
        named = isinstance(file, str | os.PathLike) and os.fspath(file) in IDENTITIES
        return real(os.path.join(folder, IDENTITY) if named else file, *arguments, **more)

    io.open = opened
