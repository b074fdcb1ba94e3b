"""`/api/v1/events`: what changes, for scripts; made once a second for all who listen."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator

from tvarr.coordinator.signals import Signal
from tvarr.coordinator.web.services import CoordinatorServices

log = logging.getLogger(__name__)


class Events:
    """`transcoders` and `relays`, each the whole list whenever it has changed, and each line of the `log`.

    Who is slow gets the latest list and skips those between; of the log at most what its tail keeps.
    """

    def __init__(self, services: CoordinatorServices) -> None:
        self.listeners = 0
        self.interval_s = 1.0
        self._services = services
        self._lists: dict[str, tuple[int, bytes, str]] = {}  # version, the event, its JSON
        self._changed = Signal()
        self._task: asyncio.Task[None] | None = None

    def _look(self) -> None:
        services, changed = self._services, False
        for name, read in (("transcoders", services.transcoders), ("relays", services.relays)):
            text = json.dumps(read(), ensure_ascii=False)
            version, _, before = self._lists.get(name, (0, b"", ""))
            if text != before:
                self._lists[name] = version + 1, _event(name, text), text
                changed = True
        if changed:
            self._changed.set()

    async def _keep_looking(self) -> None:
        seen = self._services.log_tail.count
        while True:
            await asyncio.sleep(self.interval_s)
            try:
                self._look()
            except Exception:
                log.exception("the events can't be made")
            if self._services.log_tail.count != seen:
                seen = self._services.log_tail.count
                self._changed.set()

    async def follow(self, within_s: float) -> AsyncGenerator[bytes, None]:
        """All that is, and then what changes; an empty one where nothing did for `within_s`."""
        self.listeners += 1
        tail, lines = self._services.log_tail, 0
        versions: dict[str, int] = {}
        try:
            if self._task is None:
                self._task = asyncio.create_task(self._keep_looking(), name="events")
            self._look()
            while True:
                parts = [event for name, (version, event, _) in self._lists.items() if versions.get(name) != version]
                versions = {name: version for name, (version, _, _) in self._lists.items()}
                new, lines = tail.since(lines), tail.count
                parts += [_event("log", line) for line in new]
                if parts:
                    yield b"".join(parts)
                    continue
                try:
                    async with asyncio.timeout(within_s):
                        await self._changed.wait()
                except TimeoutError:
                    yield b""
        finally:
            self.listeners -= 1
            if not self.listeners and self._task is not None:
                self._task.cancel()
                self._task = None


def _event(name: str, text: str) -> bytes:
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
