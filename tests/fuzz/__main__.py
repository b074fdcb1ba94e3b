"""`python -m tests.fuzz [--minutes M] [TARGET ...]`, or `make fuzz MINUTES=…`: fuzzes each target for its share.

Inputs that reach new code are kept below build/fuzz, and the next run begins with them. What fails (an exception that
is not documented, more memory than the limit, an input that takes longer than the limit) is written there too, and the
exit code is 1. Put such an input into tests/fuzz/found, mend the parser, and it is a test.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, corpus

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
MEMORY_MB = 1024
INPUT_S = 25  # for one input: 256 KiB take less than one, on a machine that has time


def fuzz(name: str, seconds: int) -> tuple[str, list[Path]]:
    """What libFuzzer says at last, and the inputs that fail."""
    folder = BUILD / name
    seeds, grown = folder / "seeds", folder / "corpus"
    for made in (seeds, grown):
        made.mkdir(parents=True, exist_ok=True)
    for data in corpus(name):
        (seeds / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    before = set(folder.glob("*-*"))
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(grown), str(seeds), f"-max_total_time={seconds}"]
    command += [f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_S}", f"-max_len={TARGETS[name].max_bytes}"]
    command += [f"-artifact_prefix={folder}/", "-verbosity=1", "-print_final_stats=1"]
    with (folder / "log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    said = (folder / "log").read_text(errors="replace")
    runs = re.findall(r"^Done (.*)|^#\d+\s+DONE.*", said, re.MULTILINE)
    found = sorted(set(folder.glob("*-*")) - before)
    if code and not found:
        found = [folder / "log"]
    return (runs[-1] if runs else said.strip().rpartition("\n")[2]), found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of them together (10)")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    bad = False
    for name in names:
        said, found = fuzz(name, max(1, round(given.minutes * 60 / len(names))))
        print(f"{name}: {said}", flush=True)
        for path in found:
            print(f"  fails: {path}", flush=True)
        bad |= bool(found)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
