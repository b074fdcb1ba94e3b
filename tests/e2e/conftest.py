"""One coordinator and one daemon for the tests that only watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.harness import Cluster, cluster


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.ts` (8 s, 640x360, 25 fps, H.264 with B-frames, AAC) and `radio.ts` (sound alone)."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "clip.ts")
    make_clip(folder / "mp2.ts", audio=("-c:a", "mp2", "-b:a", "128k"))
    make_clip(folder / "radio.ts", video=("-vn",), seconds=6)
    return folder


@pytest.fixture(scope="module")
def tvarr(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A coordinator with one daemon; channels read from `clips`."""
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=clips) as running:
        running.start_daemon("worker")
        yield running
