"""Tests of the built images: `make test-images` builds them and sets what these need. `make test` leaves them out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.images.engine import Image, media_server

collect_ignore_glob = [] if os.environ.get("TVARR_TEST_IMAGES") else ["test_*.py"]


@pytest.fixture(scope="session")
def default() -> Iterator[Image]:
    with Image.opened("tvarr") as image:
        yield image


@pytest.fixture(scope="session")
def coordinator() -> Iterator[Image]:
    with Image.opened("tvarr-coordinator") as image:
        yield image


@pytest.fixture(scope="session")
def ffmpegd() -> Iterator[Image]:
    with Image.opened("tvarr-ffmpegd") as image:
        yield image


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a source: 20 s of 320x180 with sound, that begins again and again in a channel with `loop`."""
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "clip.ts", seconds=20, size="320x180")
    with media_server(folder) as url:
        yield f"{url}/clip.ts"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty folder that becomes a container's `/data`."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
