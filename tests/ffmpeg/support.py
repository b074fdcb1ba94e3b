"""The ffmpegs of this machine, as parameters for tests that run a real one."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import lacking


def _wheel() -> str | None:
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpegs() -> list[str]:
    """The paths of this machine's ffmpegs, which may be none."""
    return [path for path in (shutil.which("ffmpeg"), _wheel()) if path]


FFMPEGS: list[Any] = [
    pytest.param(path or "", id=name)
    for name, path in (("PATH", shutil.which("ffmpeg")), ("wheel", _wheel()))
    if path or not ffmpegs()
]
"""Each a path; empty ones where there is none, for `require` to complain about."""


def require(ffmpeg: str) -> str:
    if not ffmpeg:
        lacking("an ffmpeg on PATH or the imageio-ffmpeg wheel")
    return ffmpeg


async def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Returns once `condition` holds; fails the test where it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for never came"
        await asyncio.sleep(0.005)
