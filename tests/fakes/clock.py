"""A wall clock that a test sets under running processes, by libfaketime; what counts up since the boot is as it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import lacking


@dataclass(frozen=True, slots=True)
class WallClock:
    file: Path

    def set(self, offset: str) -> None:
        """Off the true time by so much: "+1h", "-2d"."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.replace(self.file)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that has this clock."""
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        if library is None:
            lacking("libfaketime")
        return {
            "LD_PRELOAD": os.fspath(library or ""),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
