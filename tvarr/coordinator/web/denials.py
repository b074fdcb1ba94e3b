"""Who was not let in, in the log: a line each time something new is tried, and few where it is tried again."""

from __future__ import annotations

import logging
import time

from aiohttp import web

log = logging.getLogger(__name__)

LOGGED_EACH_S = 10.0  # of each reason


class Denials:
    """Counts denials by their reason, of which there is a fixed number."""

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[float, int]] = {}  # no line before, denials since the last one

    def note(self, request: web.Request, reason: str) -> None:
        now = time.monotonic()
        quiet_until, unlogged = self._reasons.get(reason, (0.0, 0))
        if now < quiet_until:
            self._reasons[reason] = quiet_until, unlogged + 1
            return
        more = f" (and {unlogged} before it)" if unlogged else ""
        path = request.path[:120].encode("unicode_escape").decode()
        log.warning("denied %s %s from %s: %s%s", request.method, path, request.remote, reason, more)
        self._reasons[reason] = now + LOGGED_EACH_S, 0


DENIALS = web.AppKey("denials", Denials)


def note(request: web.Request, reason: str) -> None:
    request.app[DENIALS].note(request, reason)
