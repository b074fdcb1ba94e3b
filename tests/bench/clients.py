"""How fast each example's client moves a file through a daemon's copy job: 1080p30 H.264 at 8 Mb/s."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.bench.report import Report, full_hd, median
from tests.conftest import program
from tests.examples import CLIENTS, make, pictures_and_speed
from tests.examples import run as run_example
from tests.listening import listening

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
                report.add(
                    f"copy job, client in {client}",
                    median(speeds),
                    "x real time",
                    compared=f"{clip.stat().st_size / 1e6:.0f} MB, 1080p30 8 Mb/s",
                    aim="at least 20",
                )


def repeated(clip: Path, path: Path) -> Path:
    """The clip so many times in a row, on one timeline."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-stream_loop", str(TIMES - 1), "-i", str(clip)]
    subprocess.run([*command, "-map", "0", "-c", "copy", "-f", "mpegts", str(path)], check=True, timeout=120)
    return path
