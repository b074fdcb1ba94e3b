"""A fixed piece of Python, done a few times a second by a process of its own: what the machine makes of such work now.

Work done in small pieces costs by half more at one hour than at another where a machine is shared: caches are cold
after each pause, and who else uses them changes. What costs us and this piece as much more is the machine.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.report import ROOT

EACH_S = 0.25
COPIED_BYTES = 1 << 20  # as much as a stream of 8 Mb/s brings in a second
TOKENIZED = "\n".join(f"def piece_{n}(data: bytes) -> int:\n    return len(data[{n}:]) + {n}" for n in range(12))
WORDS = f"a fixed piece of Python, {1 / EACH_S:g} times a second"


@contextmanager
def reference() -> Iterator[int]:
    """Its process id, while it runs."""
    process = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def main() -> None:
    data = bytes(COPIED_BYTES)
    while True:
        time.sleep(EACH_S)
        bytearray(data)
        for _ in tokenize.generate_tokens(io.StringIO(TOKENIZED).readline):
            pass


if __name__ == "__main__":
    main()
