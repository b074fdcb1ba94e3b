"""Figures as a table on the terminal and as JSON under the build folder."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.clips import make_clip

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, what it is compared with in the same run, and what we aim at."""

    name: str
    value: float
    unit: str
    compared: str = ""
    aim: str = ""


@dataclass(slots=True)
class Report:
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, *, compared: str = "", aim: str = "") -> None:
        self.figures.append(Figure(name, value, unit, compared, aim))
        print(f"  {name}: {value:.4g} {unit}", flush=True)

    def show(self) -> None:
        table = Table(title=f"tvarr bench, {machine()}")
        for column in ("figure", "value", "compared with", "aim"):
            table.add_column(column)
        for figure in self.figures:
            table.add_row(figure.name, f"{figure.value:.4g} {figure.unit}", figure.compared, figure.aim)
        Console().print(table)

    def save(self) -> Path:
        BUILD.mkdir(exist_ok=True)
        path = BUILD / "bench.json"
        document = {
            "machine": machine(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "figures": [asdict(figure) for figure in self.figures],
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path


def machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def full_hd(path: Path, seconds: float) -> Path:
    """1080p30 H.264 of about 8 Mb/s with AAC: a moving picture with noise, so that its bits are real ones."""
    video = ("-vf", "noise=alls=12:allf=t", "-c:v", "libx264", "-preset", "veryfast", "-g", "60", "-bf", "2")
    rate = ("-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "8M", "-x264-params", "nal-hrd=cbr")
    return make_clip(path, seconds=seconds, size="1920x1080", fps="30", video=(*video, *rate))
