"""`python -m tests.bench [NAME ...]`: measures, prints a table, and writes build/bench.json."""

from __future__ import annotations

import sys

from tests.bench import choose, clients, daemons, dashboard, main_job, mp4, ts_demux, ts_mux, viewers, wire_codec
from tests.bench.report import Report

CASES = {
    "codec": wire_codec.run,
    "demux": ts_demux.run,
    "mux": ts_mux.run,
    "mp4": mp4.run,
    "choose": choose.run,
    "daemons": daemons.run,
    "dashboard": dashboard.run,
    "clients": clients.run,
    "viewers": viewers.run,
    "job": main_job.run,
}


def main() -> int:
    names = sys.argv[1:] or list(CASES)
    if unknown := set(names) - set(CASES):
        print(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    report = Report()
    for name in names:
        CASES[name](report)
    report.show()
    print(f"written to {report.save()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
