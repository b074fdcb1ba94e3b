"""Waking up whoever waits, without a queue for each of them."""

from __future__ import annotations

import asyncio


class Signal:
    """Something changed: every waiter wakes once and looks for itself.

    No wake-up is missed by those who look, and then call `wait` without an `await` between the two.
    """

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        if self._future is not None:
            if not self._future.done():
                self._future.set_result(None)
            self._future = None

    async def wait(self) -> None:
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._future)
