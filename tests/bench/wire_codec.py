"""How long a batch takes on the wire: 15 samples of 104 kB together."""

from __future__ import annotations

import timeit

from tests.bench.bench import Bench
from tests.bench.report import at_most
from tvarr.media.model import Sample
from tvarr.wire import codec

ROUNDS = 2_000


def batch() -> codec.Batch:
    samples = [
        Sample(track=256 + n % 2, pts_ticks=2**40 + 3_003 * n, dts_ticks=2**40 + 3_003 * n, data=bytes(104_000 // 15))
        for n in range(15)
    ]
    return codec.Batch(samples, sequence=1_000_000)


def best_ms(statement: object) -> float:
    """Milliseconds of one call, the best of five runs."""
    return min(timeit.repeat(statement, number=ROUNDS, repeat=5)) / ROUNDS * 1_000  # type: ignore[arg-type]


def run(bench: Bench) -> None:
    full = batch()
    encoded = codec.encode_job_output(full)
    write, read = best_ms(lambda: codec.encode_job_output(full)), best_ms(lambda: codec.decode_job_output(encoded))
    bench.report.add("write a batch of 104 kB", write, "ms", aim=at_most(0.1))
    bench.report.add("read a batch of 104 kB", read, "ms", aim=at_most(0.05))
