"""Addresses of host names, each looked up in a thread of its own.

uvloop looks up two at a time in the whole process, and a name server that is dead holds each for ten seconds and more:
the channels of other hosts would wait behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_LOOKUPS = 256  # at the same time; one more waits until one is over

_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class Names(AbstractResolver):
    """Asks the system, as everybody does. Its threads are daemons: the process does not wait for them to end."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `OSError`, `socket.gaierror` where there is no such name."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult] | OSError] = loop.create_future()

        def done(result: list[ResolveResult] | OSError) -> None:
            self._free.release()
            if not found.done():  # who asked may have left
                found.set_result(result)

        def look() -> None:
            result = _look_up(host, port, family)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done, result)

        await self._free.acquire()
        try:
            threading.Thread(target=look, name=f"look up {host}", daemon=True).start()
        except RuntimeError as error:
            done(OSError(errno.ENOMEM, str(error)))
        if isinstance(result := await found, OSError):
            raise result
        return result

    async def close(self) -> None:
        """Nothing to be done."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult] | OSError:
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        numbers = [(kind, protocol, *socket.getnameinfo(address, _NUMERIC)) for kind, _, protocol, _, address in found]
    except OSError as error:
        return error
    return [
        ResolveResult(hostname=host, host=address, port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST)
        for kind, protocol, address, _ in numbers
    ]
