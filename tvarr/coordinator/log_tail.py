"""The last lines of the coordinator's log, for people who look at the dashboard."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tvarr.background import JsonFormatter

LINES = 200  # kept; the oldest go


class LogTail(logging.Handler):
    """Keeps lines of level INFO and above as JSON objects without secrets: `time`, `level`, `logger`, `message`, ids.

    Lines may come from any thread.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(JsonFormatter())
        self.count = 0  # lines that came so far
        self._lines: deque[str] = deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
        self.count += 1

    def since(self, count: int) -> list[str]:
        """The lines that came after the first `count`, as far as they are kept."""
        new = self.count - count
        return list(self._lines)[-new:] if new > 0 else []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears all of the process's log in the block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
