"""Writes docs/benchmarks.md from a report of the full form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.bench.report import ROOT, Report, row

PAGE = ROOT / "docs" / "benchmarks.md"
ABOUT = """\
# Benchmarks

Made by `make bench-docs` (`python -m tests.bench --full --write-docs`); edit nothing here.

Every figure is measured with real processes on one machine. *compared with* is measured in the same run, and *ratio* is
the figure over that. *aim* is what we hold ourselves to, *met* whether this run did.

* p50, p95, p99: the smallest measured value that so many per cent of all do not exceed. Of fewer than 20 values p95 is
  the largest.
* Against ffmpeg alone: runs in turns, and the ratio is the median of the pairs' ratios.
* What each more costs: the slope between the smallest and the largest number, so that what is there once does not
  count. That of the last step over that of the steps before it says whether a crowd makes each dearer; cost by number
  would fall whatever happens.
* CPU: the process's own clock, 100 % being one core; a coordinator's or daemon's is without its ffmpeg's.
* Where *more* names rounds, everything of that case was measured once in each of them, and the least counts: what else
  the machine does only adds, and can last for minutes.
* Memory: USS, what would be free if the process ended, and RSS. Relays and viewers are seconds old.
"""


def page(report: Report, titles: Mapping[str, str]) -> str:
    return "\n".join(_lines(report, titles)) + "\n"


def _lines(report: Report, titles: Mapping[str, str]) -> Iterator[str]:
    yield ABOUT
    yield from ("| | |", "|---|---|")
    yield from (row(item) for item in report.about.items())
    yield from report.markdown(titles)


def write(report: Report, titles: Mapping[str, str]) -> Path:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(report, titles))
    return PAGE
