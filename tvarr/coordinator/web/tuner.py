"""The files of an HDHomeRun tuner, for media servers; behind `/hdhr/KEY` as well, for those that send no query."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from tvarr.coordinator.hdhomerun import LINEUP_STATUS, Tuner
from tvarr.coordinator.web.guard import TUNER_FILES, TUNER_FOLDER
from tvarr.coordinator.web.routes import Route, json_answer
from tvarr.coordinator.web.services import own_url, services_of
from tvarr.errors import NotFound


def _tuner(request: web.Request) -> Tuner:
    services, own = services_of(request), own_url(request)
    if "key" in request.match_info and not services.stream_key:
        raise NotFound("there is no key here: the tuner is at /discover.json")
    base = f"{own}{TUNER_FOLDER}{quote(services.stream_key, safe='')}" if services.stream_key else own
    return Tuner(services.device_id, services.tuner_count, base, own, services.stream_key)


async def discover(request: web.Request) -> web.Response:
    return json_answer(_tuner(request).discover())


async def root(request: web.Request) -> web.Response:
    """Where people look at what they entered in their media server."""
    raise web.HTTPFound(f"{_tuner(request).base_url.removeprefix(own_url(request))}/discover.json")


async def lineup(request: web.Request) -> web.Response:
    tuner, store = _tuner(request), services_of(request).store
    profiles = {profile.name: profile for profile in await store.profiles()}
    return json_answer(tuner.lineup(await store.numbered_channels(), profiles))


async def lineup_status(request: web.Request) -> web.Response:
    _tuner(request)
    return json_answer(LINEUP_STATUS)


async def scan(request: web.Request) -> web.Response:
    """Ends at once: the channels are known."""
    _tuner(request)
    return web.Response()


async def device_xml(request: web.Request) -> web.Response:
    return web.Response(text=_tuner(request).device_xml(), content_type="application/xml", charset="utf-8")


_FILES = {
    "discover.json": (discover, "What the HDHomeRun tuner is that this coordinator plays"),
    "lineup.json": (lineup, "Its channels"),
    "lineup_status.json": (lineup_status, "Its channel scan, which has always ended"),
    "lineup.post": (scan, "Begin a channel scan"),
    "device.xml": (device_xml, "Its UPnP description"),
}
assert set(_FILES) == set(TUNER_FILES)

ROUTES = (
    *(
        Route(
            method="POST" if name.endswith(".post") else "GET",
            path=folder + name,
            handler=handler,
            summary=summary,
            query=("key",) if folder == "/" else (),
            answer=None if name.endswith(".post") else f"application/{name.rpartition('.')[2]}",
            open=True,
            errors=(400, 401, 404),
        )
        for folder in ("/", TUNER_FOLDER + "{key}/")
        for name, (handler, summary) in _FILES.items()
    ),
    Route(
        method="GET",
        path=TUNER_FOLDER + "{key}",
        handler=root,
        summary="Leads to its discover.json",
        status=302,
        open=True,
        errors=(400, 401, 404),
    ),
)
