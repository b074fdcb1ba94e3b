"""What every test may ask for: what this machine has, and real media."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tvarr.media import ring

settings.register_profile("tvarr", deadline=None)  # how long an example takes says what else the machine does
settings.load_profile("tvarr")

SHARED_MEDIA = Path(__file__).parents[2] / "shared" / "media"

LONG_ONES_FIRST = ("e2e", "tests", "ffmpegd", "coordinator")
"""Folders in whose order tests run, the others behind them: `make test` gives each of its processes whole files, and
one that takes a minute is not to be the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {folder: place for place, folder in enumerate(LONG_ONES_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def media_is_compiled() -> bool:
    """Whether this process runs what `make native` made, or the source."""
    return ring.__file__.endswith(".so")


def lacking(what: str) -> None:
    """Skips the test for want of `what`; under TVARR_REQUIRE_ALL=1 fails it instead."""
    if os.environ.get("TVARR_REQUIRE_ALL") == "1":
        pytest.fail(f"TVARR_REQUIRE_ALL is set and this machine lacks {what}", pytrace=False)
    pytest.skip(f"needs {what}")


def program(name: str) -> str:
    """The path of a program that a test needs."""
    path = shutil.which(name)
    if path is None:
        lacking(f"the program {name}")
    return str(path)


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """The folder with real captures, `../shared/media`."""
    if not SHARED_MEDIA.is_dir():
        lacking("the folder ../shared/media")
    return SHARED_MEDIA
