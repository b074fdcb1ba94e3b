"""Programs that run to their end."""

from __future__ import annotations

import sys
import tempfile

import pytest

from tvarr.ffmpeg import child


async def test_it_needs_no_folder_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a read-only root has none, unless somebody gives it a /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    program = "import sys; print('x' * 100_000); sys.exit('why')"
    done = await child.run([sys.executable, "-c", program], within_s=20, most_bytes=1000)
    assert done == (1, "x" * 1000, "why\n")
