"""HLS and DASH below `/stream/...`: playlists, manifests and segments, for sessions."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import cast
from urllib.parse import quote, urlencode

from aiohttp import web

from tvarr.coordinator.failures import Failures, agent_of
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.relays import Relays
from tvarr.coordinator.segmented import Container, SegmentOutput, Session
from tvarr.coordinator.streaming import Catalogue, stream_route, wanted_profile
from tvarr.coordinator.web.routes import Route
from tvarr.errors import InvalidRequest, NotFound
from tvarr.media import playlists
from tvarr.media.segments import Part

HLS_TYPE = "application/vnd.apple.mpegurl"
DASH_TYPE = "application/dash+xml"
SUFFIXES: dict[Container, str] = {"ts": "ts", "fmp4": "m4s"}
MEDIA_TYPES: dict[Container, str] = {"ts": "video/mp2t", "fmp4": "video/mp4"}
HELD_TARGETS = 3  # a request for the segment that is made now waits for it for so many target durations
DASH_SEGMENTS = 3  # in the first manifest, which suggests to play as far behind
PLAYLIST_HEADERS = {"Cache-Control": "no-store"}
MEDIA_HEADERS = {"Cache-Control": "max-age=60"}

_TOKEN = "[A-Za-z0-9_-]{8,64}"  # noqa: S105 - a pattern
_FILE = re.compile(
    r"(?P<name>[a-z]+\d*)(?:(?P<playlist>\.m3u8)|-init(?P<init>\d{1,9})\.mp4|-(?P<number>\d{1,15})\.(?:ts|m4s)"
    r"|-t(?P<ticks>-?\d{1,19})\.m4s)"
)


class Adaptive:
    """The handlers. A session that is not known, because it was away for long, is a new viewer."""

    def __init__(self, catalogue: Catalogue, relays: Relays, failures: Failures) -> None:
        self._catalogue = catalogue
        self._relays = relays
        self._failures = failures

    def routes(self) -> list[Route]:
        """What players ask for by itself."""
        index, manifest = self._failures.noting(self.index), self._failures.noting(self.manifest)
        folder = "/stream/{channel}/"
        return [
            stream_route(folder + "index.m3u8", index, "Live HLS", HLS_TYPE, query=("container",), errors=(400,)),
            stream_route(folder + "manifest.mpd", manifest, "Live DASH", DASH_TYPE),
        ]

    def files(self) -> list[web.RouteDef]:
        """What playlists and manifests lead to."""
        inside = "{session:" + _TOKEN + "}/{file}"
        handlers = {
            "/stream/{channel}/hls/{profile}/{container:ts|fmp4}/" + inside: self.hls_file,
            "/stream/{channel}/dash/{profile}/" + inside: self.dash_file,
        }
        return [web.get(path, self._failures.noting(handler)) for path, handler in handlers.items()]

    async def index(self, request: web.Request) -> web.StreamResponse:
        """The multivariant playlist, as soon as there is a segment."""
        channel, profile = await self._wanted(request)
        container = next((c for c in SUFFIXES if c == (request.query.get("container") or "ts")), None)
        if container is None:
            raise InvalidRequest(f"container: takes {' or '.join(SUFFIXES)}")
        if request.method == "HEAD":
            return _text("", HLS_TYPE)
        session = await self._join(request, channel, profile, container, f"hls-{container}", secrets.token_urlsafe(12))
        await _ready(session)
        output = session.output
        folder = f"hls/{quote(profile.name, safe='')}/{container}/{session.token}"
        addresses = {name: f"{folder}/{name}.m3u8{_query(request)}" for name in output.renditions}
        return _text(playlists.multivariant(output.window, output.renditions, addresses), HLS_TYPE)

    async def hls_file(self, request: web.Request) -> web.StreamResponse:
        """A media playlist, a segment or an initialization segment."""
        container = cast("Container", request.match_info["container"])
        session = await self._session(request, container, f"hls-{container}")
        match = _FILE.fullmatch(request.match_info["file"])
        if match is None:
            raise NotFound(f"no file {request.match_info['file']}")
        if match["playlist"] is None:
            return await _media(request, session, match, container)
        await _ready(session)
        output = session.output
        if match["name"] not in output.renditions:
            raise NotFound(f"no track {match['name']}")
        text = playlists.media_playlist(
            output.window,
            match["name"],
            SUFFIXES[container],
            query=_query(request),
            epoch_s=output.epoch_s,
            ended=output.ended,
        )
        return _text(text, HLS_TYPE)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """The manifest, as soon as there are a few segments.

        Players read it again and again, here and not where it sends them: who does so with the same address and
        user agent is one viewer.
        """
        channel, profile = await self._wanted(request)
        if request.method == "HEAD":
            return _text("", DASH_TYPE)
        session = self._relays.returning(channel, profile, "dash", request.remote or "", agent_of(request))
        if session is None:
            session = await self._join(request, channel, profile, "fmp4", "dash", secrets.token_urlsafe(12))
        await _ready(session, DASH_SEGMENTS)
        output = session.output
        text = playlists.manifest(
            output.window,
            output.renditions,
            base=f"dash/{quote(profile.name, safe='')}/{session.token}/",
            query=_query(request),
            epoch_s=output.epoch_s,
            now_s=output.now_s,
            ended=output.ended,
        )
        return _text(text, DASH_TYPE)

    async def dash_file(self, request: web.Request) -> web.StreamResponse:
        """A segment or an initialization segment."""
        session = await self._session(request, "fmp4", "dash")
        match = _FILE.fullmatch(request.match_info["file"])
        if match is None or match["playlist"]:
            raise NotFound(f"no file {request.match_info['file']}")
        return await _media(request, session, match, "fmp4")

    async def _wanted(self, request: web.Request) -> tuple[Channel, Profile]:
        channel = await self._catalogue.channel(request.match_info["channel"])
        return channel, await wanted_profile(self._catalogue, request, channel)

    async def _session(self, request: web.Request, container: Container, kind: str) -> Session:
        """The session of the address, or a new one by this name."""
        path, token = request.match_info, request.match_info["session"]
        session = self._relays.session(token)
        if session is None and request.method != "HEAD":
            channel = await self._catalogue.channel(path["channel"])
            profile = await self._catalogue.profile(path["profile"])
            session = await self._join(request, channel, profile, container, kind, token)
        if session is None or session.container != kind:
            raise NotFound(f"no session {token}")
        session.asked_at = asyncio.get_running_loop().time()
        return session

    async def _join(
        self, request: web.Request, channel: Channel, profile: Profile, container: Container, kind: str, token: str
    ) -> Session:
        return await self._relays.open_session(
            channel,
            profile,
            container,
            kind=kind,
            token=token,
            address=request.remote or "",
            user_agent=agent_of(request),
        )


def _query(request: web.Request) -> str:
    """The key that stream addresses must carry is handed on."""
    key = request.query.get("key", "")
    return "?" + urlencode({"key": key}) if key else ""


def _text(text: str, content_type: str) -> web.Response:
    return web.Response(text=text, content_type=content_type, charset="utf-8", headers=PLAYLIST_HEADERS)


async def _ready(session: Session, least: int = 1) -> None:
    """Waits for the first segments. Raises what prevents it."""
    session.waiting += 1
    try:
        while not session.output.ready(least):
            await session.output.changed.wait()
    finally:
        session.waiting -= 1
        session.asked_at = asyncio.get_running_loop().time()


async def _made(session: Session, match: re.Match[str]) -> None:
    """Waits for the segment that is made now, where that is what is asked for.

    FFmpeg and GStreamer reckon the next segment of a DASH timeline and ask for it before it is there, FFmpeg again and
    again without a pause (5.1, 1.22; tried).
    """
    output, window = session.output, session.output.window
    number, ticks = (int(match[name]) if match[name] else None for name in ("number", "ticks"))
    if not window.is_next(match["name"], number=number, ticks=ticks):
        return
    coming = window.next_number
    session.waiting += 1
    try:
        async with asyncio.timeout(HELD_TARGETS * window.target_s):
            while window.next_number == coming and not output.ended and output.failure is None:
                await output.changed.wait()
    except TimeoutError:
        pass
    finally:
        session.waiting -= 1
        session.asked_at = asyncio.get_running_loop().time()


async def _media(request: web.Request, session: Session, match: re.Match[str], container: Container) -> web.Response:
    """A segment or an initialization segment. Raises `NotFound` for what is gone, or not made next."""
    if request.method != "HEAD":
        await _made(session, match)
    output, name = session.output, match["name"]
    rendition = output.renditions.get(name)
    if match["init"] is not None:
        data = rendition.inits.get(int(match["init"])) if rendition else None
    else:
        number, part = _part(output, match)
        data = part.data if part is not None else None
        if part is not None and request.method != "HEAD":
            session.fetched(number, name, part)
    if rendition is None or data is None:
        raise NotFound(f"no segment {request.match_info['file']}")
    sound = container == "fmp4" and rendition.kind == "audio"
    content_type = "audio/mp4" if sound else MEDIA_TYPES[container]
    return web.Response(body=data, content_type=content_type, headers=MEDIA_HEADERS)


def _part(output: SegmentOutput, match: re.Match[str]) -> tuple[int, Part | None]:
    """By the segment's number, or by the time at which the part begins."""
    name = match["name"]
    if match["number"] is not None:
        number = int(match["number"])
        segment = output.window.get(number)
        return number, segment.parts.get(name) if segment else None
    for segment in output.window.segments:
        part = segment.parts.get(name)
        if part is not None and part.start_ticks == int(match["ticks"]):
            return segment.number, part
    return 0, None
