"""Figures, and how they are shown: on the terminal, as JSON under the build folder, as Markdown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.conftest import media_is_compiled

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
FILE_COLUMNS = 180  # of the table where no terminal says how wide it is
COLUMNS = ("figure", "value", "compared with", "ratio", "aim", "met", "more")


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure's value, or its ratio to what it is compared with, may be."""

    limit: float
    least: bool = False
    of_ratio: bool = False

    def met(self, value: float, ratio: float | None) -> bool | None:
        """None: there was nothing to compare with."""
        found = ratio if self.of_ratio else value
        if found is None:
            return None
        return found >= self.limit if self.least else found <= self.limit

    def __str__(self) -> str:
        return f"{'ratio ' if self.of_ratio else ''}at {'least' if self.least else 'most'} {self.limit:g}"


def at_most(limit: float) -> Aim:
    return Aim(limit)


def at_least(limit: float) -> Aim:
    return Aim(limit, least=True)


def ratio_at_most(limit: float) -> Aim:
    return Aim(limit, of_ratio=True)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, what it is compared with in the same run, and what we aim at."""

    case: str
    name: str
    value: float
    unit: str = ""
    compared_with: str = ""
    compared_value: float | None = None  # in the same unit
    ratio: float | None = None
    aim: Aim | None = None
    more: str = ""

    @property
    def met(self) -> bool | None:
        """None: nothing is aimed at, or there was nothing to compare with."""
        return self.aim.met(self.value, self.ratio) if self.aim else None

    def cells(self) -> tuple[str, ...]:
        """As text, one for each of `COLUMNS`."""
        other = "" if self.compared_value is None else f": {number(self.compared_value)} {self.unit}".rstrip()
        return (
            self.name,
            f"{number(self.value)} {self.unit}".rstrip(),
            self.compared_with + other,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.aim is None else str(self.aim),
            {True: "yes", False: "NO", None: ""}[self.met],
            self.more,
        )

    def __str__(self) -> str:
        """On one line, without what there is not."""
        name, value, other, ratio, aim, met, more = self.cells()
        compared = f", {ratio} of {other}" if ratio else f", compared with {other}" if other else ""
        aimed = f", {aim}: {met or 'unknown'}" if aim else ""
        return f"{name}: {value}{compared}{aimed}{f' ({more})' if more else ''}"

    def plain(self) -> dict[str, Any]:
        names = ("case", "name", "value", "unit", "compared_with", "compared_value", "ratio", "more")
        aim = "" if self.aim is None else str(self.aim)
        return {**{name: getattr(self, name) for name in names}, "aim": aim, "met": self.met}


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(slots=True)
class Report:
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # by case: why it could not be measured
    about: dict[str, str] = field(default_factory=lambda: surroundings())
    case: str = ""  # the one that is measured now

    def add(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        against: tuple[str, float] | str = "",
        ratio: float | None = None,
        aim: Aim | None = None,
        more: str = "",
    ) -> None:
        """`against`: what the same run says of something else, in words, with the value of that where it has the unit.

        `ratio`: to that, where it is not simply one value over the other.
        """
        words, other = (against, None) if isinstance(against, str) else against
        if ratio is None and other:
            ratio = value / other
        figure = Figure(self.case, name, value, unit, words, other, ratio, aim, more)
        self.figures.append(figure)
        print(f"  {figure}", flush=True)

    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.met is False]

    def show(self) -> None:
        title = ", ".join(f"{what} {text}" for what, text in self.about.items())
        table = Table(*COLUMNS, title=f"tvarr bench: {title}", title_justify="left")
        case = ""
        for figure in self.figures:
            if case and figure.case != case:
                table.add_section()
            case = figure.case
            table.add_row(*figure.cells())
        Console(width=None if sys.stdout.isatty() else FILE_COLUMNS).print(table)
        for name, reason in self.failures.items():
            print(f"could not measure {name}: {reason}")

    def save(self) -> Path:
        """Writes build/bench.json."""
        BUILD.mkdir(exist_ok=True)
        path = BUILD / "bench.json"
        figures = [figure.plain() for figure in self.figures]
        document = {"about": self.about, "figures": figures, "failures": self.failures}
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path

    def markdown(self, titles: Mapping[str, str]) -> Iterator[str]:
        """Lines: a heading and a table for each case. `titles`: by case."""
        case = ""
        for figure in self.figures:
            if figure.case != case:
                case = figure.case
                yield from (f"\n## {titles[case]}\n", row(COLUMNS), row("---" for _ in COLUMNS))
            yield row(figure.cells())


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def surroundings() -> dict[str, str]:
    """When, of what and where is measured."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _said_by("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"),
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_version()}, tvarr.media {'compiled' if media_is_compiled() else 'as source'}",
        "ffmpeg": _said_by("ffmpeg", "-version").removeprefix("ffmpeg version ").partition(" ")[0],
        "load": f"{os.getloadavg()[0]:.1f} at the start",
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _said_by(*command: str) -> str:
    """The first line that a program prints, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0]


def machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"
