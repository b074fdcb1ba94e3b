"""Which form of the code is tested: its source, or under TVARR_TEST_NATIVE=1 what `make native` compiled from it."""

from __future__ import annotations

import os

import pytest

from tests.conftest import media_is_compiled


def pytest_configure() -> None:
    if os.environ.get("TVARR_TEST_NATIVE") == "1" and not media_is_compiled():
        raise pytest.UsageError("TVARR_TEST_NATIVE is set, and it is the source that is imported")
