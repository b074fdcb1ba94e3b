"""How fast the MPEG-TS demuxer is, in MB/s of CPU time for some chunk sizes: 1080p30 H.264 at 8 Mb/s with AAC."""

from __future__ import annotations

import time

from tests.bench.bench import Bench
from tests.bench.report import at_least
from tvarr.media.model import Sample
from tvarr.media.mpegts.demux import Demuxer

CHUNKS = (64 << 10, 256 << 10, 1 << 20)
ROUNDS = 3


def mb_per_second(data: bytes, chunk: int) -> tuple[float, int]:
    """Of CPU time, the best of some rounds; and the samples that came out."""
    best, samples = 0.0, 0
    for _ in range(ROUNDS):
        demuxer, samples = Demuxer(), 0
        start = time.process_time()
        for at in range(0, len(data), chunk):
            samples += sum(isinstance(event, Sample) for event in demuxer.feed(data[at : at + chunk]))
        samples += sum(isinstance(event, Sample) for event in demuxer.flush())
        best = max(best, len(data) / 1e6 / (time.process_time() - start))
    return best, samples


def run(bench: Bench) -> None:
    data = bench.camera(repeats=3).read_bytes()
    for chunk in CHUNKS:
        rate, samples = mb_per_second(data, chunk)
        more = f"{len(data) / 1e6:.0f} MB, {samples} samples"
        bench.report.add(f"demux MPEG-TS, chunks of {chunk >> 10} KiB", rate, "MB/s", aim=at_least(250), more=more)
