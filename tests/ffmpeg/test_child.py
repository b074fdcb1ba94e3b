"""Children of this process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.conftest import lacking
from tvarr.ffmpeg import child


async def test_it_needs_no_folder_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a read-only root has none, unless somebody gives it a /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    program = "import sys; print('x' * 100_000); sys.exit('why')"
    done = await child.run([sys.executable, "-c", program], within_s=20, most_bytes=1000)
    assert done == (1, "x" * 1000, "why\n")


def oom_score_more_of(pid: int | str) -> int:
    file = Path(f"/proc/{pid}/oom_score_adj")
    if not file.exists():
        lacking("Linux")
    return int(file.read_text())


async def test_where_memory_runs_out_it_goes_before_its_parent() -> None:
    started = child.Child(["sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    try:
        assert oom_score_more_of(started.pid) == min(oom_score_more_of("self") + child.OOM_SCORE_MORE, 1000)
    finally:
        await started.kill()
