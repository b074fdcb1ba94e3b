"""Inputs near the seeds, by chance: where there is no atheris, and for a moment in the suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

_WORDS = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\1\xe0", b"\0\0\0\1", b"\x47\0\0\x10")
_LENGTHS = (1, 4, 188, 400)


def mutants(seeds: Sequence[bytes], rng: Random, max_bytes: int) -> Iterator[bytes]:
    """Without end."""
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
            _change(data, rng)
        yield bytes(data[:max_bytes])


def _change(data: bytearray, rng: Random) -> None:
    at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    length = rng.choice(_LENGTHS)
    match rng.randrange(6):
        case 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        case 1 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length]
        case 4:
            word = rng.choice(_WORDS)
            data[at : at + len(word)] = word
        case _:
            data[at : at + length] = data[other : other + length]
