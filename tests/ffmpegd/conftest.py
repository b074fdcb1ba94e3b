from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], str]:
    """Makes an executable of the body of a Python program."""

    def make(body: str) -> str:
        path = tmp_path / "ffmpeg"
        path.write_text(
            f"#!{sys.executable}\nimport os, signal, sys, time\nif '-version' in sys.argv: sys.exit(0)\n{body}"
        )
        path.chmod(0o755)
        return str(path)

    return make
