"""Daemons, relays, registration, and what changes of them as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from tvarr.coordinator.models import parse
from tvarr.coordinator.web.events import Events
from tvarr.coordinator.web.routes import EVENT_STREAM, Route, json_answer, json_body, page_of
from tvarr.coordinator.web.schemas import (
    FailureView,
    MoveRequest,
    Registration,
    RelayView,
    TranscoderDetail,
    TranscoderView,
)
from tvarr.coordinator.web.services import View, services_of
from tvarr.errors import NoPlacement, NotFound

KEEPALIVE_S = 15.0
MAX_LISTENERS = 512  # what they get is made once for all; one more is told to come back later

ENDING = web.AppKey("ending", asyncio.Event)
EVENTS = web.AppKey("events", Events)


def find(views: list[View], key: str, what: str) -> View:
    """Raises `NotFound`."""
    view = next((view for view in views if view["id"] == key), None)
    if view is None:
        raise NotFound(f"there is no {what} {key[:80]!r}")
    return view


async def list_transcoders(request: web.Request) -> web.Response:
    return page_of(request, services_of(request).transcoders())


async def get_transcoder(request: web.Request) -> web.Response:
    return json_answer(services_of(request).transcoder(request.match_info["id"]))


async def drain(request: web.Request) -> web.Response:
    services, key = services_of(request), request.match_info["id"]
    await services.drain(key)
    return json_answer(find(services.transcoders(), key, "transcoder"))


async def activate(request: web.Request) -> web.Response:
    services, key = services_of(request), request.match_info["id"]
    await services.activate(key)
    return json_answer(find(services.transcoders(), key, "transcoder"))


async def list_relays(request: web.Request) -> web.Response:
    return page_of(request, services_of(request).relays())


async def get_relay(request: web.Request) -> web.Response:
    return json_answer(find(services_of(request).relays(), request.match_info["id"], "relay"))


async def stop_relay(request: web.Request) -> web.Response:
    await services_of(request).stop_relay(request.match_info["id"])
    return web.Response(status=204)


async def move_job(request: web.Request) -> web.Response:
    services, key = services_of(request), request.match_info["id"]
    wanted = parse(MoveRequest, await json_body(request))
    await services.move_job(key, wanted.profile, wanted.to)
    return json_answer(find(services.relays(), key, "relay"), status=202)


async def list_failures(request: web.Request) -> web.Response:
    return page_of(request, services_of(request).failures())


async def registration(request: web.Request) -> web.Response:
    return json_answer(services_of(request).registration())


async def renew_registration(request: web.Request) -> web.Response:
    services = services_of(request)
    await services.renew_token()
    return json_answer(services.registration())


async def events(request: web.Request) -> web.StreamResponse:
    """`transcoders` and `relays`, the whole list at first and again within a second of each change, and `log`."""
    feed = request.app[EVENTS]
    if feed.listeners >= MAX_LISTENERS:
        raise NoPlacement(f"{MAX_LISTENERS} listeners are connected already")
    return await send_events(request, feed.follow(KEEPALIVE_S))


async def send_events(request: web.Request, events: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Answers with what comes, until the client leaves or the coordinator ends."""
    ending = request.app[ENDING]
    response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"})
    await response.prepare(request)
    task = asyncio.create_task(_write_events(response, events))
    end = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        end.cancel()
        task.cancel()
        ended, _ = await asyncio.gather(task, end, return_exceptions=True)
    if isinstance(ended, Exception) and not isinstance(ended, ConnectionResetError):
        raise ended
    return response


async def _write_events(response: web.StreamResponse, events: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(events):
        async for event in events:
            await response.write(event or b": still here\n\n")


async def end_events(application: web.Application) -> None:
    """Lets every listener go when the coordinator ends."""
    application[ENDING].set()


TRANSCODERS, RELAYS = "/api/v1/transcoders", "/api/v1/relays"
ROUTES = (
    Route(
        method="GET",
        path=TRANSCODERS,
        handler=list_transcoders,
        summary="All daemons",
        answer=[TranscoderView],
        paged=True,
    ),
    Route(
        method="GET",
        path=TRANSCODERS + "/{id}",
        handler=get_transcoder,
        summary="A daemon, with its last five minutes and its latest jobs",
        answer=TranscoderDetail,
        errors=(404,),
    ),
    Route(
        method="POST",
        path=TRANSCODERS + "/{id}/drain",
        handler=drain,
        summary="Move its jobs away and give it no new ones",
        answer=TranscoderView,
        errors=(404, 409),
    ),
    Route(
        method="POST",
        path=TRANSCODERS + "/{id}/activate",
        handler=activate,
        summary="Give it jobs again",
        answer=TranscoderView,
        errors=(404, 409),
    ),
    Route(method="GET", path=RELAYS, handler=list_relays, summary="All running relays", answer=[RelayView], paged=True),
    Route(
        method="GET",
        path=RELAYS + "/{id}",
        handler=get_relay,
        summary="A running relay",
        answer=RelayView,
        errors=(404,),
    ),
    Route(
        method="DELETE",
        path=RELAYS + "/{id}",
        handler=stop_relay,
        summary="End a relay and its viewers' streams",
        status=204,
        errors=(404,),
    ),
    Route(
        method="POST",
        path=RELAYS + "/{id}/move",
        handler=move_job,
        summary="Move a job to another transcoder while viewers watch",
        body=MoveRequest,
        answer=RelayView,
        status=202,
        errors=(404, 409),
    ),
    Route(
        method="GET",
        path="/api/v1/failures",
        handler=list_failures,
        summary="Why players got no stream lately, the latest first; forgotten at the next start",
        answer=[FailureView],
        paged=True,
    ),
    Route(
        method="GET",
        path="/api/v1/registration",
        handler=registration,
        summary="What a new worker has to be told",
        answer=Registration,
    ),
    Route(
        method="POST",
        path="/api/v1/registration/renew",
        handler=renew_registration,
        summary="Make another token; daemons that came with the old one are cut off",
        answer=Registration,
        errors=(409,),
        keeps=True,
    ),
    Route(
        method="GET",
        path="/api/v1/events",
        handler=events,
        summary="Server-sent events: transcoders, relays and lines of the log as they change",
        answer=EVENT_STREAM,
        errors=(503,),
    ),
)
