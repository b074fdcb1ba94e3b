"""One coordinator and one daemon for the tests that only watch, and one with two for those where jobs change places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.e2e.two_daemons import both_daemons
from tests.harness import Cluster, cluster, eventually

SIZE = "320x180"  # many jobs make pictures of it


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.ts` (8 s, 320x180, 25 fps, H.264 with B-frames, AAC) and `radio.ts` (sound alone)."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "clip.ts", size=SIZE)
    make_clip(folder / "mp2.ts", size=SIZE, audio=("-c:a", "mp2", "-b:a", "128k"))
    make_clip(folder / "radio.ts", video=("-vn",), seconds=6)
    return folder


@pytest.fixture(scope="module")
def tvarr(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A coordinator with one daemon; channels read from `clips`."""
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=clips) as running:
        running.start_daemon("worker")
        yield running


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    with cluster(
        tmp_path_factory.mktemp("tvarr"), media_dir=clips, coordinator_flags=("--idle-linger", "0.5")
    ) as running:
        yield running


@pytest.fixture
def two(clustered: Cluster) -> Cluster:
    """A coordinator with two daemons that do nothing, whatever an earlier test did to them."""
    eventually(lambda: not clustered.relays(), "the last test's relay has ended")
    both_daemons(clustered)
    return clustered
