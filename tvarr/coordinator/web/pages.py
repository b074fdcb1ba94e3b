"""The dashboard: pages made here, kept fresh by one small script."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from tvarr.coordinator.auth import SESSION_S, TooManyFailures
from tvarr.coordinator.web.boards import RELAYS, TRANSCODERS
from tvarr.coordinator.web.cluster import KEEPALIVE_S, MAX_LISTENERS, send_events
from tvarr.coordinator.web.denials import note
from tvarr.coordinator.web.guard import COOKIE, is_open
from tvarr.coordinator.web.live import Boards
from tvarr.coordinator.web.problems import Handler, answer_for
from tvarr.coordinator.web.rendering import form_of, render
from tvarr.coordinator.web.services import services_of
from tvarr.errors import NoPlacement, NotFound, TvarrError

BOARDS = web.AppKey("boards", Boards)
BOARD_INTERVAL_S = 0.5


@web.middleware
async def missing_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a browser finds nothing under is a page, with the way to the others; programs get the problem as it is."""
    try:
        return await handler(request)
    except (NotFound, web.HTTPNotFound) as error:
        path, accepted = request.path, request.headers.get("Accept", "")
        if "text/html" not in accepted or path.startswith("/api/") or is_open(path):
            raise
        words = str(error) if isinstance(error, NotFound) else "there is no such page"
        return render(request, "missing.html", {"words": words}, HTTPStatus.NOT_FOUND)


async def home(_request: web.Request) -> web.Response:
    raise web.HTTPSeeOther("/transcoders")


def _local(target: str) -> str:
    """A path on this server to go on to after the login; anything else becomes the home page."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"


async def login_page(request: web.Request) -> web.Response:
    if services_of(request).auth.disabled:
        raise web.HTTPSeeOther("/")
    return render(request, "login.html", {"next": _local(request.query.get("next", "/")), "error": ""})


async def login(request: web.Request) -> web.Response:
    auth = services_of(request).auth
    form = await form_of(request)
    target, status = _local(form.get("next", "/")), HTTPStatus.UNAUTHORIZED
    try:
        error = "" if await auth.password_is(form.get("password", ""), request.remote or "") else "wrong password"
    except TooManyFailures as failures:
        error, status = f"{failures} ({failures.retry_after_s} s)", HTTPStatus.TOO_MANY_REQUESTS
    if error:
        note(request, "wrong password" if status is HTTPStatus.UNAUTHORIZED else "too many wrong passwords")
        return render(request, "login.html", {"next": target, "error": error}, status=status)
    answer = web.HTTPSeeOther(target)
    secure = request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"
    answer.set_cookie(
        COOKIE, auth.start_session(), max_age=int(SESSION_S), path="/", httponly=True, samesite="Strict", secure=secure
    )
    raise answer


async def logout(request: web.Request) -> web.Response:
    services_of(request).auth.end_session(request.cookies.get(COOKIE, ""))
    answer = web.HTTPSeeOther("/login")
    answer.del_cookie(COOKIE, path="/")
    raise answer


async def transcoders_page(request: web.Request) -> web.Response:
    values = {
        "live": await request.app[BOARDS].fresh(TRANSCODERS),
        "registration": services_of(request).registration(),
        "shown": request.query.get("token") == "shown",
    }
    return render(request, "transcoders.html", values)


async def renew_token(request: web.Request) -> web.Response:
    await services_of(request).renew_token()
    raise web.HTTPSeeOther("/transcoders?token=shown#registration")


async def transcoder_page(request: web.Request) -> web.Response:
    key = request.match_info["id"]
    board = await request.app[BOARDS].fresh(f"{TRANSCODERS}/{key}")
    return render(request, "transcoder.html", {"live": board, "transcoder": services_of(request).transcoder(key)})


async def drain(request: web.Request) -> web.Response:
    await services_of(request).drain(request.match_info["id"])
    raise _back_to(request, "/transcoders")


async def activate(request: web.Request) -> web.Response:
    await services_of(request).activate(request.match_info["id"])
    raise _back_to(request, "/transcoders")


def _back_to(request: web.Request, page: str) -> web.HTTPSeeOther:
    """Where a button was pressed, if that was on one of the pages below `page`."""
    came_from = urlsplit(request.headers.get("Referer", "")).path
    return web.HTTPSeeOther(came_from if came_from.startswith(page + "/") and _local(came_from) == came_from else page)


async def relays_page(request: web.Request) -> web.Response:
    return await _relays(request, "")


async def _relays(request: web.Request, error: str, status: int = 200) -> web.Response:
    return render(request, "relays.html", {"live": await request.app[BOARDS].fresh(RELAYS), "error": error}, status)


async def stop_relay(request: web.Request) -> web.Response:
    await services_of(request).stop_relay(request.match_info["id"])
    raise web.HTTPSeeOther("/relays")


async def move_job(request: web.Request) -> web.Response:
    form = await form_of(request)
    try:
        await services_of(request).move_job(request.match_info["id"], form.get("profile", ""), form.get("to", ""))
    except TvarrError as error:
        return await _relays(request, str(error), answer_for(error).status)
    raise web.HTTPSeeOther("/relays")


async def live(request: web.Request) -> web.StreamResponse:
    """What changes on a page, for its script: see `web.live`."""
    boards = request.app[BOARDS]
    if boards.listeners >= MAX_LISTENERS:
        raise NoPlacement(f"{MAX_LISTENERS} pages are open already")
    stamp = request.headers.get("Last-Event-ID") or request.query.get("at", "")
    name = request.match_info["page"]
    await boards.fresh(name)  # raises before the answer begins
    return await send_events(request, boards.follow(name, stamp, KEEPALIVE_S))


ROUTES = (
    web.get("/", home),
    web.get("/login", login_page),
    web.post("/login", login),
    web.post("/logout", logout),
    web.get("/transcoders", transcoders_page),
    web.get("/transcoders/{id}", transcoder_page),
    web.post("/transcoders/{id}/drain", drain),
    web.post("/transcoders/{id}/activate", activate),
    web.post("/registration/renew", renew_token),
    web.get("/relays", relays_page),
    web.post("/relays/{id}/stop", stop_relay),
    web.post("/relays/{id}/move", move_job),
    web.get("/live/{page:.+}", live, allow_head=False),
)
