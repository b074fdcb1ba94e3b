"""How long a batch takes: `python -m tests.bench.wire_codec`. 15 samples of 104 kB together."""

from __future__ import annotations

import timeit

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


def main() -> None:
    full = batch()
    encoded = codec.encode_job_output(full)
    write = best_ms(lambda: codec.encode_job_output(full))
    read = best_ms(lambda: codec.decode_job_output(encoded))
    print(f"wire codec: batch of {len(full.samples)} samples, {len(encoded)} bytes")
    print(f"  write {write:.4f} ms (aim 0.1), read {read:.4f} ms (aim 0.05)")


if __name__ == "__main__":
    main()
