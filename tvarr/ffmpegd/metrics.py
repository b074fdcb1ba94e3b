"""What a daemon counts as it happens, for Prometheus. One set a process, as there is one daemon in it."""

from __future__ import annotations

from prometheus_client import Counter

from tvarr.wire import messages

JOBS = Counter("tvarr_jobs", "Jobs that ended, by how: completed, or the error's code.", ["ending"], registry=None)
SAMPLES = Counter("tvarr_job_samples", "Coded frames of jobs: in, out.", ["direction"], registry=None)
BYTES = Counter("tvarr_job_bytes", "Bytes of coded frames of jobs: in, out.", ["direction"], registry=None)


class StatsCounter:
    """Counts what a job's statistics have grown by since the last ones."""

    def __init__(self) -> None:
        self._last = messages.TranscodeStats()

    def take(self, stats: messages.TranscodeStats) -> None:
        last, self._last = self._last, stats
        for counter, kind in ((SAMPLES, "samples"), (BYTES, "bytes")):
            for direction, name in (("in", f"input_{kind}"), ("out", f"output_{kind}")):
                counter.labels(direction).inc(max(0, getattr(stats, name) - getattr(last, name)))
