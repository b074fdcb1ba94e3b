"""How fast each example's client moves a file through a daemon's copy job: 1080p30 H.264 at 8 Mb/s."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import pytest

from tests.bench.bench import Bench
from tests.bench.report import at_least
from tests.examples import CLIENTS, make, pictures_and_speed
from tests.examples import run as run_example
from tests.listening import listening
from tvarr.client import TICKS_PER_SECOND, connect, copy, read_ts

REPEATS = 9  # 72 s, over which a client gets warm, as with a film
ROUNDS = 3


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = bench.camera(repeats=REPEATS)
        with listening(folder) as box:
            for client, (language, command) in CLIENTS.items():
                try:
                    make(language)
                except pytest.skip.Exception as lacks:
                    print(f"  no client in {client}: {lacks}")
                    continue
                speeds = []
                for _ in range(ROUNDS):
                    code, output = run_example(*command, box.target, str(clip), str(folder / "out.h264"), "copy")
                    assert code == 0, output
                    speeds.append(pictures_and_speed(output)[1])
                add(bench, f"client in {client}", speeds, clip)
            add(bench, "tvarr.client, with sound", [asyncio.run(own(box.url, clip)) for _ in range(ROUNDS)], clip)


def add(bench: Bench, who: str, speeds: list[float], clip: Path) -> None:
    more = f"{clip.stat().st_size / 1e6:.0f} MB, 1080p30 8 Mb/s"
    bench.report.add(f"copy job, {who}", statistics.median(speeds), "x real time", aim=at_least(20), more=more)


async def own(url: str, clip: Path) -> float:
    """Media time over wall time of the public Python API, all tracks copied."""
    with clip.open("rb") as file:
        began = time.monotonic()
        tracks, samples = read_ts(file)
        async with connect(url) as daemon:
            times = [s.pts_ticks async for s in daemon.transcode(samples, [copy(track) for track in tracks.tracks])]
    return (max(times) - min(times)) / TICKS_PER_SECOND / (time.monotonic() - began)
