"""The programs of `examples/`: made once, run as a reader of their README would."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.harness import TOKEN, tvarr_environment

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
BUILD = ROOT / "build"
GO = Path("/usr/local/go/bin")
MADE_WITHIN_S = 600.0  # Go compiles gRPC when it is made for the first time

CLIENTS = {
    "python, grpcio": ("python", (sys.executable, "python/client_grpcio.py")),
    "python, betterproto2": ("python", (sys.executable, "python/client_betterproto.py")),
    "node": ("node", ("node", "node/client.mjs")),
    "go": ("go", ("go/bin/client",)),
}
"""Each client's language, and its command in `examples/`; it takes HOST:PORT IN.ts OUT.h264 and a codec."""


@cache
def make(language: str) -> None:
    """`make -C examples LANGUAGE`; one at a time, as tests run in several processes."""
    for needed in {"node": ("node", "npm"), "go": ("go",)}.get(language, ()):
        if shutil.which(needed, path=_environment()["PATH"]) is None:
            pytest.skip(f"{needed} is not installed")  # in CI too: examples are tried in the languages that there are
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "examples.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-C", str(EXAMPLES), language, f"PYTHON={sys.executable}"],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=MADE_WITHIN_S,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(**variables: str) -> dict[str, str]:
    """Go keeps what it fetches and compiles below `build/`, and is found where its own installer puts it.

    The Python clients import what lies beside them, whatever the tests' own Python may do.
    """
    made = tvarr_environment(
        PATH=f"{os.environ['PATH']}{os.pathsep}{GO}",
        GOMODCACHE=str(BUILD / "go" / "mod"),
        GOCACHE=str(BUILD / "go" / "cache"),
        GOFLAGS="-modcacherw",
        **variables,
    )
    made.pop("PYTHONSAFEPATH", None)
    return made


def start(*command: str, token: str = TOKEN) -> subprocess.Popen[str]:
    """An example that runs, with its output in one pipe."""
    return subprocess.Popen(
        command,
        cwd=EXAMPLES,
        env=_environment(TVARR_AUTH_TOKEN=token),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command: str, token: str = TOKEN, within_s: float = 60.0) -> tuple[int, str]:
    """The exit code and what it wrote."""
    process = start(*command, token=token)
    try:
        output, _ = process.communicate(timeout=within_s)
    finally:
        process.kill()
    return process.returncode, output


def pictures_and_speed(output: str) -> tuple[int, float]:
    """What a client says of its job: pictures that came, and media time over wall time."""
    found = re.search(r"(\d+) pictures at ([\d.]+) times real time", output)
    assert found, output
    return int(found[1]), float(found[2])
