"""How long a client may take to ask for something, and how much it may say before it is known.

aiohttp waits without end for a first request and for a request's body; each of both holds a descriptor and memory
(the attack is known as slowloris).
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, cast

from aiohttp import web

from tvarr.coordinator.web.guard import is_open
from tvarr.coordinator.web.problems import Handler

log = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0  # from the connection to the end of the first request's head
BODY_WITHIN_S = 30.0
KEEP_ALIVE_S = 75.0  # between two requests; browsers and proxies reckon with about a minute
LOOK_EACH_S = 1.0
OWN_FILES = 64  # descriptors that clients never get, or a fourth where there are few: sources and workers need them
TELL_AGAIN_S = 60.0  # between two lines of the log about connections that were turned away
MAX_OPEN_BODY_BYTES = 16 * 1024  # of a request by somebody who isn't known: a login


TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
ALIVE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n"
MAX_HEARD = 8  # connections too many that may say at the same time what they want, and for how long:
HEARD_FOR_S = 1.0


class Connection(Hashable, Protocol):
    """One of `web.Server.connections`."""

    def force_close(self) -> None: ...


class _Full(asyncio.Protocol):
    """Answers one connection too many: who asks for `/livez` would end a process that is merely full."""

    def __init__(self, heard: set[_Full]) -> None:
        """`heard`: all that are open and may say what they want."""
        self._heard = heard
        self._timer: asyncio.TimerHandle | None = None
        self._stream: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if len(self._heard) >= MAX_HEARD:
            self._answer(TOO_MANY)
            return
        self._heard.add(self)
        self._timer = asyncio.get_running_loop().call_later(HEARD_FOR_S, self._answer, TOO_MANY)

    def data_received(self, data: bytes) -> None:
        self._answer(ALIVE if data.startswith(b"GET /livez ") else TOO_MANY)

    def connection_lost(self, _error: Exception | None) -> None:
        self._heard.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _answer(self, words: bytes) -> None:
        if not self._stream.is_closing():
            self._stream.write(words)
            self._stream.close()


def within_limit(server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
    """The server as a protocol factory that leaves this process descriptors for itself."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = limit - min(OWN_FILES, limit // 4) - len(os.listdir("/proc/self/fd"))
    loop, told_at = asyncio.get_running_loop(), -TELL_AGAIN_S
    heard: set[_Full] = set()

    def accept() -> asyncio.BaseProtocol:
        nonlocal told_at
        if len(server.connections) < most:
            return server()
        if (now := loop.time()) - told_at >= TELL_AGAIN_S:
            told_at = now
            log.warning(
                "all %d connections that `ulimit -n` (%d) leaves to clients are taken: others get 503", most, limit
            )
        return _Full(heard)

    return accept


class Silence:
    """Ends connections that have not asked for anything in `REQUEST_WITHIN_S`."""

    def __init__(self) -> None:
        self._asked: set[Connection] = set()
        self._since: dict[Connection, float] = {}

    @web.middleware
    async def listen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Takes note of who asks."""
        self._asked.add(request.protocol)
        return await handler(request)

    def look(self, connections: Iterable[Connection], now: float) -> int:
        """Ends those that were silent for too long, forgets those that are gone; returns how many it ended."""
        open_now = set(connections)
        self._asked &= open_now
        self._since = {one: self._since.get(one, now) for one in open_now - self._asked}
        late = [one for one, since in self._since.items() if now - since >= REQUEST_WITHIN_S]
        for one in late:
            one.force_close()
        return len(late)

    async def watch(self, server: web.Server) -> None:
        """Looks again and again, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EACH_S)
            self.look(server.connections, loop.time())


SILENCE = web.AppKey("silence", Silence)


@web.middleware
async def bounded_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ends the wait for a body that does not end, however it is read, and takes no long one from strangers."""
    if not request.can_read_body:
        return await handler(request)
    if is_open(request.path) and not 0 <= (request.content_length or -1) <= MAX_OPEN_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_OPEN_BODY_BYTES, request.content_length or 0)
    late = web.HTTPRequestTimeout(reason=f"the body did not come within {BODY_WITHIN_S:g} s")
    timer = asyncio.get_running_loop().call_later(BODY_WITHIN_S, request.content.set_exception, late)
    try:
        return await handler(request)
    finally:
        timer.cancel()
