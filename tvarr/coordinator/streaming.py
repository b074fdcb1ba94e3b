"""`/stream/...`: what players ask for."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from aiohttp import HttpVersion11, web

from tvarr.coordinator import metrics
from tvarr.coordinator.failures import Failures, agent_of
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.outputs import AtOnce, Viewer, ViewerTooSlow
from tvarr.coordinator.relays import Relays
from tvarr.coordinator.web.problems import Handler
from tvarr.coordinator.web.routes import Route
from tvarr.errors import TvarrError

log = logging.getLogger(__name__)

DEFAULT_PROFILE = "passthrough"
CONTENT_TYPES = {"ts": "video/mp2t", "mp4": "video/mp4"}
STUCK_S = 120.0  # a viewer that takes nothing at all for so long holds up a relay that nobody watches
LAST_CHUNK = b"0\r\n\r\n"
ENDLESS = {"Cache-Control": "no-store", "Accept-Ranges": "none"}


class Catalogue(Protocol):
    """Where channels and profiles are found; both raise `NotFound`."""

    async def channel(self, id_or_slug: str) -> Channel: ...
    async def profile(self, name: str) -> Profile: ...


async def wanted_profile(catalogue: Catalogue, request: web.Request, channel: Channel) -> Profile:
    """The profile that is asked for, else the channel's. Raises `NotFound`."""
    return await catalogue.profile(request.query.get("profile") or channel.profile or DEFAULT_PROFILE)


def stream_route(
    path: str,
    handler: Handler,
    summary: str,
    media_type: str,
    *,
    query: tuple[str, ...] = (),
    errors: tuple[int, ...] = (),
) -> Route:
    """What a player asks for, with what it may be answered instead."""
    return Route(
        method="GET",
        path=path,
        handler=handler,
        summary=summary,
        query=("profile", *query, "key"),
        answer=media_type,
        open=True,
        errors=(401, 404, 406, 502, 503, 504, *errors),
    )


async def write(response: web.StreamResponse, data: bytes) -> None:
    """Gives a viewer bytes, as soon as it has taken those before them. Raises `ViewerTooSlow` after `STUCK_S`."""
    try:
        async with asyncio.timeout(STUCK_S):
            await response.write(data)
    except TimeoutError:
        raise ViewerTooSlow(f"took nothing for {STUCK_S:g} s") from None


def _at_once(request: web.Request, viewer: Viewer, *, chunked: bool) -> AtOnce:
    """Sends to a viewer whose answer has begun, while it takes everything."""

    def send(data: bytes) -> bool:
        transport = request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.write(viewer.output.framed(data) if chunked else data)
        return True

    return send


class EndlessResponse(web.StreamResponse):
    """An answer whose chunks are framed by who writes it: once for all viewers of an output.

    aiohttp would copy each chunk for each of them, to put its size in front.
    """

    _length_check = False  # aiohttp leaves the framing to us, as it does to a WebSocket


class Streaming:
    """The handlers of the stream routes."""

    def __init__(self, catalogue: Catalogue, relays: Relays, failures: Failures) -> None:
        self._catalogue = catalogue
        self._relays = relays
        self._failures = failures

    def routes(self) -> list[Route]:
        handler = self._failures.noting(self.endless)
        return [
            stream_route(f"/stream/{{channel}}.{container}", handler, f"An endless stream as {words}", media_type)
            for container, words, media_type in (
                ("ts", "MPEG-TS", CONTENT_TYPES["ts"]),
                ("mp4", "fragmented MP4", CONTENT_TYPES["mp4"]),
            )
        ]

    async def endless(self, request: web.Request) -> web.StreamResponse:
        """An endless stream. The answer begins with the first bytes, so that an earlier failure has its own status."""
        channel = await self._catalogue.channel(request.match_info["channel"])
        profile = await wanted_profile(self._catalogue, request, channel)
        container = request.path.rpartition(".")[2]
        headers = {"Content-Type": CONTENT_TYPES[container], **ENDLESS}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        chunked = request.version >= HttpVersion11
        headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        response = EndlessResponse(headers=headers)
        asked_at = time.monotonic()
        who = request.remote or "", agent_of(request)
        async with self._relays.watch(channel, profile, container, *who) as viewer:
            data = await viewer.read()
            metrics.FIRST_BYTE.labels(container).observe(time.monotonic() - asked_at)
            at_once = _at_once(request, viewer, chunked=chunked)
            try:
                await response.prepare(request)
                while data:
                    await write(response, viewer.output.framed(data) if chunked else data)
                    data = await viewer.read(at_once)
                if chunked:
                    await write(response, LAST_CHUNK)
            except ViewerTooSlow as error:
                viewer.output.dropped += 1
                metrics.VIEWER_DROPPED.labels("too_slow").inc()
                log.warning("%s: viewer %s was dropped: %s", channel.slug, viewer.address, error)
                self._hang_up(request)
            except TvarrError as error:
                metrics.VIEWER_DROPPED.labels("failed").inc()
                log.info("%s: the stream of viewer %s ends: %s", channel.slug, viewer.address, error)
                self._failures.note(request, error)
                self._hang_up(request)
            except ConnectionResetError:
                log.debug("%s: viewer %s left", channel.slug, viewer.address)
        return response

    @staticmethod
    def _hang_up(request: web.Request) -> None:
        """Breaks the connection, so that a player does not take the end for the end of the programme."""
        if request.transport is not None:
            request.transport.abort()
