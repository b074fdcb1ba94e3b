"""Who may ask: the password or a session for pages and `/api`, nothing for streams."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from tvarr.coordinator.auth import TooManyFailures
from tvarr.coordinator.web.denials import note
from tvarr.coordinator.web.problems import Handler, problem
from tvarr.coordinator.web.rendering import render
from tvarr.coordinator.web.services import own_url, services_of

COOKIE = "tvarr_session"
PLAYLIST = "/playlist.m3u"
TUNER_FILES = ("discover.json", "lineup.json", "lineup_status.json", "lineup.post", "device.xml")
TUNER_FOLDER = "/hdhr/"  # with the key behind it
OPEN_PATHS = frozenset({PLAYLIST, "/livez", "/readyz", "/metrics", "/login", *(f"/{name}" for name in TUNER_FILES)})
STREAM_FOLDER = "/stream/"
OPEN_FOLDERS = (STREAM_FOLDER, "/static/", TUNER_FOLDER)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGIN_IS_OVER = "Your login is over, and nothing was changed. Log in and do it again; “back” shows what you had typed."

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data: http: https:; "
    "media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def needs_key(path: str) -> bool:
    """Whether `--stream-key`, where it is set, stands before this path."""
    return path == PLAYLIST or path.startswith((STREAM_FOLDER, TUNER_FOLDER)) or path[1:] in TUNER_FILES


def _has_key(request: web.Request) -> bool:
    key = services_of(request).stream_key
    raw_path = request.rel_url.raw_path  # in which a key has no slash
    in_path = unquote(raw_path[len(TUNER_FOLDER) :].partition("/")[0]) if raw_path.startswith(TUNER_FOLDER) else ""
    given = in_path or request.query.get("key", "")
    return not key or hmac.compare_digest(given.encode("utf-8", "surrogatepass"), key.encode())


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets nobody in who isn't known, and nothing change by another site's page."""
    if request.method not in SAFE_METHODS and not _comes_from_here(request):
        note(request, "it comes from a page of another site")
        return problem(HTTPStatus.FORBIDDEN, "the request comes from a page of another site")
    if needs_key(request.path) and not _has_key(request):
        note(request, "it has no stream key, or a wrong one")
        return problem(HTTPStatus.UNAUTHORIZED, "streams need a key here: ?key=KEY")
    if request.method == "OPTIONS" and request.path.startswith(STREAM_FOLDER):
        return _preflight()
    if is_open(request.path) or services_of(request).auth.disabled or await _is_known(request):
        return await handler(request)
    _note_stranger(request)
    if request.method not in SAFE_METHODS and "text/html" in request.headers.get("Accept", ""):
        values = {"next": urlsplit(request.headers.get("Referer", "")).path or "/", "error": LOGIN_IS_OVER}
        return render(request, "login.html", values, HTTPStatus.UNAUTHORIZED)
    if request.path.startswith("/api/") or request.method not in SAFE_METHODS:
        wrong = request.headers.get("Authorization", "").lower().startswith("bearer ")
        words = "this is not the admin password" if wrong else "the admin password is needed"
        words += ": Authorization: Bearer PASSWORD, or log in at /login"
        return problem(HTTPStatus.UNAUTHORIZED, words, headers={"WWW-Authenticate": 'Bearer realm="tvarr"'})
    raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='')}")


def _note_stranger(request: web.Request) -> None:
    if "Authorization" in request.headers:
        note(request, "wrong password")
    elif COOKIE in request.cookies:
        note(request, "its session is over, or was never one")
    elif request.path.startswith("/api/") or request.method not in SAFE_METHODS:
        note(request, "neither a password nor a session")


async def _is_known(request: web.Request) -> bool:
    auth = services_of(request).auth
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        try:
            return await auth.password_is(credentials.strip(), request.remote or "")
        except TooManyFailures:
            note(request, "too many wrong passwords")
            raise
    return auth.session_is(request.cookies.get(COOKIE, ""))


def _comes_from_here(request: web.Request) -> bool:
    """Browsers say where a request comes from; other programs don't, and hold no one's cookie."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"none", "same-origin"}
    origin = request.headers.get("Origin")
    own_hosts = {request.host.lower(), urlsplit(own_url(request)).netloc.lower()}
    return origin is None or urlsplit(origin).netloc.lower() in own_hosts


def _preflight() -> web.Response:
    """What a browser asks before a page of another site may ask for a stream with headers of its own (Fetch, 4.8)."""
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD",
        "Access-Control-Allow-Headers": "*",
        "Access-Control-Max-Age": "86400",
    }
    return web.Response(status=204, headers=headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer tells a browser; called before its headers are sent."""
    headers = response.headers
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if request.path.startswith(STREAM_FOLDER):  # players are pages of other sites too, and should see why there is none
        headers["Access-Control-Allow-Origin"] = headers["Access-Control-Expose-Headers"] = "*"
    if response.content_type == "text/html":
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        headers.setdefault("Referrer-Policy", "same-origin")  # under no-referrer forms lose their Origin
    if not is_open(request.path) or request.path == "/login":
        headers.setdefault("Cache-Control", "no-store")
