"""The coordinator's web application: API, pages, and whatever stream routes it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aiohttp import web

from tvarr import resources
from tvarr.coordinator.web import catalogue, catalogue_pages, cluster, groups, health, lists, pages, tuner
from tvarr.coordinator.web.boards import BoardMaker
from tvarr.coordinator.web.denials import DENIALS, Denials
from tvarr.coordinator.web.events import Events
from tvarr.coordinator.web.guard import add_headers, guard
from tvarr.coordinator.web.live import Boards
from tvarr.coordinator.web.patience import SILENCE, Silence, bounded_body
from tvarr.coordinator.web.problems import problems
from tvarr.coordinator.web.rendering import PAGES, environment
from tvarr.coordinator.web.routes import Route, json_answer, openapi, to_aiohttp
from tvarr.coordinator.web.services import SERVICES, CoordinatorServices, services_of

MAX_BODY_BYTES = 1024 * 1024  # of a request; lists of channels have their own limit
SLASHES = web.normalize_path_middleware(  # `/channels/`, and `//api` of who puts a path behind `http://…/`
    append_slash=False, remove_slash=True, redirect_class=web.HTTPPermanentRedirect
)
DESCRIBED: web.AppKey[Sequence[Route]] = web.AppKey("described")


async def description(request: web.Request) -> web.Response:
    return json_answer(openapi(request.app[DESCRIBED], services_of(request).version))


ROUTES: tuple[Route, ...] = (
    *catalogue.ROUTES,
    *lists.ROUTES,
    *groups.ROUTES,
    *cluster.ROUTES,
    *health.ROUTES,
    *tuner.ROUTES,
    Route(
        method="GET",
        path="/api/openapi.json",
        handler=description,
        summary="This description",
        answer="application/json",
    ),
)


def make_web(
    services: CoordinatorServices, streams: Iterable[Route] = (), extra_routes: Iterable[web.RouteDef] = ()
) -> web.Application:
    """The application; `streams` and, not described, `extra_routes` join it under the same error answers."""
    described = (*ROUTES, *streams)
    silence = Silence()
    application = web.Application(
        middlewares=[silence.listen, problems, SLASHES, guard, bounded_body, pages.missing_page],
        client_max_size=MAX_BODY_BYTES,
    )
    application[SILENCE] = silence
    folder = resources.path("templates")
    application[SERVICES] = services
    application[DESCRIBED] = described
    application[PAGES] = environment(folder)
    application[pages.BOARDS] = Boards(
        BoardMaker(services, application[PAGES]), pages.BOARD_INTERVAL_S, services.watched
    )
    application[DENIALS] = Denials()
    application[cluster.ENDING] = asyncio.Event()
    application[cluster.EVENTS] = Events(services)
    application.on_response_prepare.append(add_headers)
    application.on_shutdown.append(cluster.end_events)
    application.add_routes([*to_aiohttp(described), *pages.ROUTES, *catalogue_pages.ROUTES, *extra_routes])
    application.router.add_static("/static/", folder / "static")
    return application
