"""What players got instead of a stream, or what ended theirs, for the people who wonder why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from tvarr.coordinator.web.problems import Handler
from tvarr.errors import InvalidRequest, NotFound, TvarrError

MAX_FAILURES = 50  # remembered; the oldest go
BY_NAME = {"index.m3u8": "hls", "manifest.mpd": "dash"}


@dataclass(frozen=True, slots=True)
class Failure:
    """One reason for which a channel could not be watched, and who met it last."""

    channel: str  # id or slug, as the address names it
    profile: str  # as the address names it; empty: the channel's own
    container: str  # ts, mp4, hls, dash
    status: int  # of the answer; 0: the stream had begun
    reason: str
    reasons: tuple[str, ...]  # one for each thing that was considered, where a choice was made
    address: str
    user_agent: str
    at: float  # wall clock
    count: int = 1  # how often it came


class Failures:
    """The latest failures, the last one last. Bound: `MAX_FAILURES`; the same again counts up."""

    def __init__(self, status_of: Callable[[TvarrError], int]) -> None:
        self.latest: list[Failure] = []
        self._status_of = status_of

    def noting(self, handler: Handler) -> Handler:
        """The same handler of a stream's address, whose failures are noted. An address that names nothing is none."""

        async def noted(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (NotFound, InvalidRequest):
                raise
            except TvarrError as error:
                self.note(request, error, self._status_of(error))
                raise

        return noted

    def note(self, request: web.Request, error: TvarrError, status: int = 0) -> None:
        """Keeps one failure of a stream's address. `status` 0: the stream had begun."""
        path = request.match_info
        what = path["channel"], path.get("profile") or request.query.get("profile", ""), _container(request)
        reason, reasons = str(error), tuple(getattr(error, "reasons", ()))
        same = [f for f in self.latest if (f.channel, f.profile, f.container, f.reason) == (*what, reason)]
        failure = Failure(
            *what,
            status=status,
            reason=reason,
            reasons=reasons,
            address=request.remote or "",
            user_agent=agent_of(request),
            at=time.time(),
            count=1 + sum(f.count for f in same),
        )
        self.latest = [*(f for f in self.latest if f not in same), failure][-MAX_FAILURES:]


def agent_of(request: web.Request) -> str:
    """What a player calls itself, as far as it is shown."""
    return request.headers.get("User-Agent", "")[:200]


def _container(request: web.Request) -> str:
    if "session" in request.match_info:
        return "dash" if "/dash/" in request.path else "hls"
    file = request.path.rpartition("/")[2]
    return BY_NAME.get(file) or file.rpartition(".")[2]
