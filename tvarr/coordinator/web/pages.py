"""The dashboard: pages made here, kept fresh by one small script."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tvarr.coordinator.auth import SESSION_S, TooManyFailures
from tvarr.coordinator.models import ChannelCreate, parse
from tvarr.coordinator.source import redact
from tvarr.coordinator.web.catalogue import delete_channel, fetch_list, import_list
from tvarr.coordinator.web.cluster import find
from tvarr.coordinator.web.guard import COOKIE
from tvarr.coordinator.web.problems import answer_for
from tvarr.coordinator.web.services import own_url, services_of
from tvarr.errors import TvarrError

PAGES = web.AppKey("pages", Environment)


def environment(folder: Path) -> Environment:
    """The pages' templates; a name that a page uses and nobody gave is an error, not a gap."""
    pages = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(size=size_words, duration=duration_words, redacted=redact)
    return pages


def size_words(count: float | None) -> str:
    """Bytes for people: 1.5 MiB."""
    if count is None:
        return "–"
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def duration_words(seconds: float | None) -> str:
    """The two largest units: 3 d 4 h, 12 s."""
    if seconds is None:
        return "–"
    rest, words = int(seconds), []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def render(request: web.Request, template: str, values: Mapping[str, Any], status: int = 200) -> web.Response:
    services = services_of(request)
    page = request.app[PAGES].get_template(template)
    text = page.render(
        version=services.version,
        path=request.path,
        login_used=not services.auth.disabled,
        key_query="?" + urlencode({"key": services.stream_key}) if services.stream_key else "",
        **values,
    )
    return web.Response(text=text, content_type="text/html", status=status)


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
    form = await request.post()
    target, status = _local(str(form.get("next", "/"))), HTTPStatus.UNAUTHORIZED
    try:
        error = "" if await auth.password_is(str(form.get("password", "")), request.remote or "") else "wrong password"
    except TooManyFailures as failures:
        error, status = f"{failures} ({failures.retry_after_s} s)", HTTPStatus.TOO_MANY_REQUESTS
    if error:
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
    services = services_of(request)
    values = {"transcoders": services.transcoders(), "registration": services.registration()}
    return render(request, "transcoders.html", values)


async def transcoder_page(request: web.Request) -> web.Response:
    found = find(services_of(request).transcoders(), request.match_info["id"], "transcoder")
    return render(request, "transcoder.html", {"transcoder": found})


async def drain(request: web.Request) -> web.Response:
    await services_of(request).drain(request.match_info["id"])
    raise web.HTTPSeeOther("/transcoders")


async def activate(request: web.Request) -> web.Response:
    await services_of(request).activate(request.match_info["id"])
    raise web.HTTPSeeOther("/transcoders")


async def relays_page(request: web.Request) -> web.Response:
    return render(request, "relays.html", {"relays": services_of(request).relays()})


async def stop_relay(request: web.Request) -> web.Response:
    await services_of(request).stop_relay(request.match_info["id"])
    raise web.HTTPSeeOther("/relays")


async def channels_page(request: web.Request) -> web.Response:
    return await _channels(request, {}, "", "")


async def _channels(
    request: web.Request, form: Mapping[str, Any], error: str, done: str, status: int = 200
) -> web.Response:
    store = services_of(request).store
    values = {
        "channels": await store.channels(),
        "profiles": [profile.name for profile in await store.profiles()],
        "base_url": own_url(request),
        "form": form,
        "error": error,
        "done": done,
    }
    return render(request, "channels.html", values, status)


async def add_channel(request: web.Request) -> web.Response:
    form = {key: str(value) for key, value in (await request.post()).items() if value}
    try:
        asked = {**form, "loop": "loop" in form}
        await services_of(request).store.add_channel(parse(ChannelCreate, asked))
    except TvarrError as error:
        return await _channels(request, form, str(error), "", answer_for(error).status)
    raise web.HTTPSeeOther("/channels")


async def remove_channel(request: web.Request) -> web.Response:
    await delete_channel(services_of(request), request.match_info["id"])
    raise web.HTTPSeeOther("/channels")


async def import_page(request: web.Request) -> web.Response:
    form = await request.post()
    try:
        result = await import_list(services_of(request), await fetch_list(str(form.get("url", "")).strip()))
    except TvarrError as error:
        return await _channels(request, {}, str(error), "", answer_for(error).status)
    refused = "".join(f"; line {line.line}, {line.name}: {line.reason}" for line in result.refused[:10])
    done = f"{len(result.added)} added, {len(result.kept)} kept, {len(result.refused)} refused{refused}"
    return await _channels(request, {}, "", done)


async def profiles_page(request: web.Request) -> web.Response:
    return render(request, "profiles.html", {"profiles": await services_of(request).store.profiles()})


ROUTES = (
    web.get("/", home),
    web.get("/login", login_page),
    web.post("/login", login),
    web.post("/logout", logout),
    web.get("/transcoders", transcoders_page),
    web.get("/transcoders/{id}", transcoder_page),
    web.post("/transcoders/{id}/drain", drain),
    web.post("/transcoders/{id}/activate", activate),
    web.get("/relays", relays_page),
    web.post("/relays/{id}/stop", stop_relay),
    web.get("/channels", channels_page),
    web.post("/channels", add_channel),
    web.post("/channels/import", import_page),
    web.post("/channels/{id}/remove", remove_channel),
    web.get("/profiles", profiles_page),
)
