"""How fast each example's client moves a file through a daemon's copy job: 1080p30 H.264 at 8 Mb/s."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench.report import Report, full_hd, median
from tests.examples import CLIENTS, make, pictures_and_speed
from tests.examples import run as run_example
from tests.listening import listening

SECONDS = 24.0
ROUNDS = 3


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = full_hd(folder / "hd.ts", SECONDS)
        with listening(folder) as box:
            for client, (language, command) in CLIENTS.items():
                make(language)
                speeds = []
                for _ in range(ROUNDS):
                    code, output = run_example(*command, box.target, str(clip), str(folder / "out.h264"), "copy")
                    assert code == 0, output
                    speeds.append(pictures_and_speed(output)[1])
                report.add(
                    f"copy job, client in {client}",
                    median(speeds),
                    "x real time",
                    compared=f"{clip.stat().st_size / 1e6:.0f} MB, 1080p30 8 Mb/s",
                    aim="at least 20",
                )
