"""Waiting for what has no event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    """Raises TimeoutError where it does not hold in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - there is none
            await asyncio.sleep(0.01)
