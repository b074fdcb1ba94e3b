from __future__ import annotations

import pytest

from tests.ffmpeg.support import FFMPEGS, require


@pytest.fixture(params=FFMPEGS)
def ffmpeg(request: pytest.FixtureRequest) -> str:
    """Each real ffmpeg of this machine in turn, as a path."""
    return require(request.param)
