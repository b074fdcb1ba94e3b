"""Hosts with an NVIDIA GPU, for daemons that run as processes on this one.

A daemon that is started on a `GpuHost` runs as it is. What it finds under it is another host: the C library of NVML
answers for the host's GPU, ffmpeg is `tests.fakes.nvenc`, and the kernel's boot id is the host's own. Python itself
loads these, from a `sitecustomize.py` on the daemon's PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from tests.conftest import program
from tests.fakes import nvenc
from tests.fakes.ffmpeg_trial import TEXTS
from tests.fakes.gpu_inside import HOST, IDENTITY
from tests.harness import Cluster, Role

ROOT = Path(__file__).parents[2]
DRIVERS = {2: "450.80.02", 3: "525.60.13", 5: "535.129.03", 8: "550.54.14", 12: "590.44.01"}
"""Of each limit a driver that sets it."""

OTHER_GPU = "GPU-that-this-container-does-not-see"


@dataclass(frozen=True, slots=True)
class Record:
    """One time that somebody asked for a session. `at` is of `time.monotonic`."""

    at: float
    granted: bool
    pid: int
    purpose: str  # "job", "trial"
    encoder: str


class GpuHost:
    """A host with one GPU whose driver allows so many sessions, whoever opens them.

    `driver` is the version that NVML tells: one that sets this limit where it is not given. To close a session takes it
    up to `closes_within_s`.
    """

    def __init__(
        self,
        folder: Path,
        sessions: int,
        *,
        driver: str = "",
        card: str = "NVIDIA GeForce RTX 3060",
        refusal: str = "nvenc full (new driver)",
        closes_within_s: float = 0.0,
    ) -> None:
        folder.mkdir(parents=True)  # two hosts never share one
        self.folder = folder
        self.sessions = sessions
        self.driver = driver or DRIVERS[sessions]
        self.gpu = f"GPU-{uuid5(NAMESPACE_OID, str(folder))}"
        self.ffmpeg = folder / "ffmpeg"
        for number in range(sessions):
            (folder / f"{nvenc.SESSION}{number:02}").touch()
        (folder / nvenc.GATE).touch()
        (folder / nvenc.LOG).touch()
        (folder / nvenc.REFUSAL).write_text(TEXTS[refusal])
        (folder / IDENTITY).write_text(f"{uuid5(NAMESPACE_OID, f'host {folder}')}\n")
        (folder / HOST).write_text(json.dumps({"gpu": self.gpu, "card": card, "driver": self.driver}))
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(
            f"import sys\nsys.path.append({str(ROOT)!r})\n"
            f"from tests.fakes.gpu_inside import become\nbecome({str(folder)!r})\n"
        )
        # By way of sh: the first line of a script has room for 127 characters.
        self.ffmpeg.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(folder / "main.py"))} "$@"\n'
        )
        self.ffmpeg.chmod(0o755)
        (folder / "main.py").write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from tests.fakes.nvenc import main\nmain({str(folder)!r}, {program('ffmpeg')!r}, {closes_within_s})\n"
        )

    def environment(self) -> dict[str, str]:
        """What makes a Python process one of this host's."""
        paths = filter(None, (str(self.folder / "site"), os.environ.get("PYTHONPATH", "")))
        return {"PYTHONPATH": os.pathsep.join(paths)}

    def start_daemon(self, running: Cluster, name: str, *flags: str, wait: bool = True, **environment: str) -> Role:
        """Starts a daemon on this host."""
        limits = flags or ("--max-jobs", "32", "--max-cpu-jobs", "4")
        variables = {**self.environment(), **environment}
        return running.start_daemon(name, *limits, "--ffmpeg", str(self.ffmpeg), wait=wait, **variables)

    def open_sessions(self) -> int:
        """As the driver counts them."""
        return nvenc.count(str(self.folder))

    def foreign(self, wanted: int, *, seen: bool = True) -> ExitStack:
        """Another program encodes: it holds so many sessions until the block ends, or fewer where no more are free.

        `seen`: on the GPU that NVML shows; else on another one of the same host.
        """
        held = ExitStack()
        for _ in range(wanted):
            file = nvenc.take(str(self.folder), self.gpu if seen else OTHER_GPU)
            if file is None:
                break
            held.callback(os.close, file)
        return held

    def records(self) -> list[Record]:
        """All that asked for a session, in this order."""
        lines = [line.split() for line in (self.folder / nvenc.LOG).read_text().splitlines()]
        return [Record(float(at), what == "granted", int(pid), *rest) for at, what, pid, *rest in lines]

    def refusals(self) -> list[Record]:
        return [record for record in self.records() if not record.granted]


def end_of(pid: int) -> float:
    """When a process ends, whoever its parent is; `time.monotonic`."""
    process = os.pidfd_open(pid)
    try:
        assert select.select([process], [], [], 20)[0], f"process {pid} goes on"
        return time.monotonic()
    finally:
        os.close(process)
