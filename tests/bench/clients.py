"""How fast each example's client moves a file through a daemon's copy job: 1080p30 H.264 at 8 Mb/s."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.report import Report, full_hd, median
from tests.conftest import program
from tests.examples import CLIENTS, make, pictures_and_speed
from tests.examples import run as run_example
from tests.listening import listening
from tvarr.client import TICKS_PER_SECOND, connect, copy, read_ts

SECONDS = 24.0
TIMES = 3  # over which a client gets warm, as with a film
ROUNDS = 3


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = repeated(full_hd(folder / "once.ts", SECONDS), folder / "hd.ts")
        with listening(folder) as box:
            for client, (language, command) in CLIENTS.items():
                make(language)
                speeds = []
                for _ in range(ROUNDS):
                    code, output = run_example(*command, box.target, str(clip), str(folder / "out.h264"), "copy")
                    assert code == 0, output
                    speeds.append(pictures_and_speed(output)[1])
                add(report, f"client in {client}", speeds, clip)
            add(report, "tvarr.client, with sound", [asyncio.run(own(box.url, clip)) for _ in range(ROUNDS)], clip)


def add(report: Report, who: str, speeds: list[float], clip: Path) -> None:
    compared = f"{clip.stat().st_size / 1e6:.0f} MB, 1080p30 8 Mb/s"
    report.add(f"copy job, {who}", median(speeds), "x real time", compared=compared, aim="at least 20")


async def own(url: str, clip: Path) -> float:
    """Media time over wall time of the public Python API, all tracks copied."""
    with clip.open("rb") as file:
        began = time.monotonic()
        tracks, samples = read_ts(file)
        async with connect(url) as daemon:
            times = [s.pts_ticks async for s in daemon.transcode(samples, [copy(track) for track in tracks.tracks])]
    return (max(times) - min(times)) / TICKS_PER_SECOND / (time.monotonic() - began)


def repeated(clip: Path, path: Path) -> Path:
    """The clip so many times in a row, on one timeline."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-stream_loop", str(TIMES - 1), "-i", str(clip)]
    subprocess.run([*command, "-map", "0", "-c", "copy", "-f", "mpegts", str(path)], check=True, timeout=120)
    return path
