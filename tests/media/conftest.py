"""Which form of the code is tested: its source, or under TVARR_TEST_NATIVE=1 what `make native` compiled from it."""

from __future__ import annotations

import os

import pytest

from tvarr.media import ring


def pytest_configure() -> None:
    if os.environ.get("TVARR_TEST_NATIVE") == "1" and not ring.__file__.endswith(".so"):
        raise pytest.UsageError(f"TVARR_TEST_NATIVE is set and {ring.__file__} is not compiled")
