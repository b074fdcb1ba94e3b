"""What viewers cost: `python -m tests.bench viewers`. One relay of 8 Mb/s, passed through, read by 1 to 500 of them.

The viewers are in another process, so that the coordinator's CPU time is its own; the machine may be busy with other
things. Where nginx is installed, it serves as many bytes a second from a file to as many.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.bench.report import Report
from tests.clips import make_clip
from tests.harness import Cluster, cluster

COUNTS = (1, 10, 100, 500)
MEASURE_S = 15.0
KBPS = 8000
SLOW_S = 45.0  # by then a viewer that reads a tenth is 16 MiB behind, and what the kernel holds for it


@dataclass(frozen=True, slots=True)
class Crowd:
    """What one crowd of viewers got, and what it cost."""

    cpu: float  # seconds a second
    least: float  # bytes a second of the viewer who got least
    let_go_after_s: float | None  # the slow one, by the coordinator's count of viewers


def watch(processes: list[psutil.Process], port: int, path: str, count: int) -> Crowd:
    with crowd(port, path, count, MEASURE_S) as said:
        before, began = _cpu_s(processes), time.monotonic()
        each: list[float] = json.loads(said.readline())
        return Crowd((_cpu_s(processes) - before) / (time.monotonic() - began), min(each), None)


def watch_beside_slow(running: Cluster, path: str, count: int, bytes_a_second: int) -> Crowd:
    """One more viewer reads so few bytes."""
    with crowd(running.http_port, path, count, SLOW_S, bytes_a_second) as said:
        began, let_go = time.monotonic(), None
        while let_go is None and time.monotonic() < began + SLOW_S - 1:
            time.sleep(0.5)
            viewers = [v for relay in running.relays() for variant in relay["variants"] for v in variant["viewers"]]
            if len(viewers) == count:
                let_go = time.monotonic() - began
        return Crowd(0.0, min(json.loads(said.readline())), let_go)


@contextmanager
def crowd(port: int, path: str, count: int, seconds: float, slow: int = 0) -> Iterator[IO[str]]:
    """Viewers that have begun; what they say in the end."""
    command = [sys.executable, "-m", "tests.bench.crowd", str(port), path, str(count), str(seconds)]
    with subprocess.Popen(command + [str(slow)] * bool(slow), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", f"{count} viewers: they could not begin"
        yield process.stdout


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def clip_of(path: Path, kbps: int, seconds: float = 8.0) -> Path:
    """A small picture whose bits are filled up to the rate."""
    video = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-bf", "0", "-x264-params", "nal-hrd=cbr")
    rate = ("-b:v", f"{kbps}k", "-minrate", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{kbps // 2}k")
    return make_clip(path, seconds=seconds, size="320x180", video=(*video, *rate))


@contextmanager
def nginx(folder: Path, file: Path, bytes_a_second: int) -> Iterator[tuple[int, list[psutil.Process]]]:
    """Serves the file's bytes again and again at this rate to each connection; its port and processes."""
    port = _free_port()
    with (folder / "long.ts").open("wb") as long:
        data = file.read_bytes()
        for _ in range(round(bytes_a_second * 2 * MEASURE_S * 3 / len(data)) + 1):
            long.write(data)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{ worker_connections 2048; }}\nhttp {{ access_log off; sendfile on; server {{ "
        f"listen 127.0.0.1:{port}; root {folder}; limit_rate {bytes_a_second}; }} }}\n"
    )
    (folder).chmod(0o755)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + 10
        while len(psutil.Process(process.pid).children()) < 1:
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.05)
        yield port, [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _coordinator(running: Cluster) -> list[psutil.Process]:
    return [psutil.Process(running.roles["coordinator"].process.pid)]


def run(report: Report, counts: tuple[int, ...] = COUNTS) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = clip_of(folder / "clip.ts", KBPS - 250)
        rate = file.stat().st_size / 8.0
        others: dict[int, Crowd] = {}
        if shutil.which("nginx"):
            with nginx(folder, file, round(rate)) as (port, processes):
                others = {count: watch(processes, port, "/long.ts", count) for count in counts}
        with cluster(folder, media_dir=folder) as running:
            slug = running.add_channel("Watched", "file:clip.ts", loop=True)
            path = f"/stream/{slug}.ts"
            for count in counts:
                got = watch(_coordinator(running), running.http_port, path, count)
                told = f"nginx {100 * others[count].cpu:.1f} %, " if count in others else ""
                told += f"least {got.least * 8 / 1e6:.2f} of {rate * 8 / 1e6:.2f} Mb/s, load {os.getloadavg()[0]:.0f}"
                aim = "at most 100" if count == 500 else ""
                report.add(f"{count} viewers of 8 Mb/s: CPU", 100 * got.cpu, "% of a core", compared=told, aim=aim)
            got = watch_beside_slow(running, path, 10, round(rate / 10))
            gone = -1.0 if got.let_go_after_s is None else got.let_go_after_s
            told = f"10 others got at least {got.least * 8 / 1e6:.2f} of {rate * 8 / 1e6:.2f} Mb/s"
            report.add("a viewer that reads a tenth is let go after", gone, "s", compared=told)
