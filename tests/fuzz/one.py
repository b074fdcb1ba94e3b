"""`python -m tests.fuzz.one TARGET FLAG...`: fuzzes one target in this process, with libFuzzer's flags.

With atheris, which follows the code that inputs reach; without it by chance. Inputs that fail are written to the
artifact prefix, as libFuzzer does.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["tvarr"]) if atheris else nullcontext():
    from tests.fuzz.mutate import mutants
    from tests.fuzz.targets import TARGETS, corpus


def by_chance(name: str, seconds: float, memory_bytes: int, artifacts: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    seed = time.time_ns()
    deadline, runs = time.monotonic() + seconds, 0
    for data in mutants(corpus(name), Random(seed), TARGETS[name].max_bytes):
        try:
            TARGETS[name].run(data)
        except Exception:
            traceback.print_exc()
            Path(artifacts + "crash-" + hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
            return 1
        runs += 1
        if time.monotonic() > deadline:
            break
    print(f"Done {runs} runs by chance (seed {seed})")
    return 0


def main() -> int:
    name, *flags = sys.argv[1:]
    if atheris is None:
        told = dict(flag.removeprefix("-").split("=") for flag in flags if "=" in flag)
        memory = int(told["rss_limit_mb"]) << 20
        return by_chance(name, float(told["max_total_time"]), memory, told["artifact_prefix"])
    atheris.Setup([sys.argv[0], *flags], TARGETS[name].run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
