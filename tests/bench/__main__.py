"""`python -m tests.bench [--full] [CASE ...]`: measures, prints a table, and writes build/bench.json.

Ends with 1 where something could not be measured, and with --strict also where an aim is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench import (
    choose,
    clients,
    cpu,
    daemons,
    dashboard,
    docs,
    mp4,
    pipeline,
    relays,
    starts,
    ts_demux,
    ts_mux,
    viewers,
    wire_codec,
)
from tests.bench.bench import Bench
from tests.bench.report import Report


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    run: Callable[[Bench], None]
    only_full: bool = False


CASES = {
    "pipeline": Case("A file as fast as it goes, against ffmpeg alone", pipeline.run),
    "cpu": Case("Our own CPU for one live stream of 8 Mb/s", cpu.run),
    "starts": Case("From a request to the first keyframe", starts.run),
    "viewers": Case("Viewers of one relay", viewers.run),
    "relays": Case("Relays and live jobs", relays.run),
    "daemons": Case("Daemons that are registered", daemons.run),
    "choose": Case("The choice of a daemon", choose.run),
    "demux": Case("Reading MPEG-TS", ts_demux.run),
    "mux": Case("Writing MPEG-TS", ts_mux.run),
    "mp4": Case("Reading and writing MP4", mp4.run),
    "codec": Case("Batches on the wire", wire_codec.run),
    "dashboard": Case("The dashboard with 200 daemons", dashboard.run, only_full=True),
    "clients": Case("Clients of a daemon, in other languages too", clients.run, only_full=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument(
        "--full", action="store_true", help="longer, larger, and the cases that the quick form leaves out"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md; with --full and all cases")
    parser.add_argument("--strict", action="store_true", help="end with 1 where an aim is missed")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if options.write_docs and (options.cases or not options.full):
        parser.error("--write-docs goes with --full and all cases")
    names = options.cases or [name for name, case in CASES.items() if options.full or not case.only_full]
    report = measured({name: CASES[name] for name in names}, full=options.full)
    report.show()
    print(f"written to {report.save()}")
    if options.write_docs and not report.failures:
        print(f"written to {docs.write(report, {name: case.title for name, case in CASES.items()})}")
    return exit_code(report, strict=options.strict)


def measured(cases: Mapping[str, Case], *, full: bool) -> Report:
    """Runs them one after the other; one that fails leaves the others alone."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(report, full, Path(folder))
        for name, case in cases.items():
            report.case = name
            print(f"{name}: {case.title}", flush=True)
            began = time.monotonic()
            try:
                case.run(bench)
                print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                traceback.print_exc()
                report.failures[name] = f"{type(error).__name__}: {error}"
    return report


def exit_code(report: Report, *, strict: bool) -> int:
    return int(bool(report.failures or (strict and report.missed())))


if __name__ == "__main__":
    sys.exit(main())
