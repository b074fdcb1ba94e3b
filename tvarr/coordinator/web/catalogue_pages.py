"""The pages of channels and profiles: forms that do what the API does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args
from urllib.parse import quote, urlencode

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from tvarr.coordinator import models
from tvarr.coordinator.models import (
    MAX_URL_CHARS,
    Channel,
    ChannelCreate,
    GroupFields,
    Profile,
    ProfileCreate,
    parse,
    version_of,
)
from tvarr.coordinator.source import Pace
from tvarr.coordinator.web.catalogue import delete_channel, edit_channel, edit_profile
from tvarr.coordinator.web.groups import group_views
from tvarr.coordinator.web.lists import fetch_list, import_list, must_fit
from tvarr.coordinator.web.problems import answer_for
from tvarr.coordinator.web.rendering import form_of, render
from tvarr.coordinator.web.services import own_url, services_of
from tvarr.errors import InvalidRequest, Stale, TvarrError

PAGE_ROWS = 100
SHOWN_REFUSALS = 50
SHOWN_GROUPS = 200
CHOICES: dict[str, Sequence[str]] = {
    name: get_args(literal)
    for name, literal in (
        ("pace", Pace),
        ("video_codec", models.VideoCodec),
        ("audio_codec", models.AudioCodec),
        ("preset", models.Preset),
        ("hw_accel", models.HwAccel),
        ("deinterlace", models.Deinterlace),
        ("exhausted_policy", models.ExhaustedPolicy),
    )
}
CHANNEL_FIELDS = tuple(n for n in ChannelCreate.model_fields if n not in {"loop", "headers", "audio_languages"})
"""Those that the form says as they are; `_channel_of` reads the others."""

PROFILE_FIELDS = tuple(ProfileCreate.model_fields)
FORMATS = (("MPEG-TS", ".ts"), ("MP4", ".mp4"), ("HLS", "/index.m3u8"), ("DASH", "/manifest.mpd"))

Form = Mapping[str, Any]


def _asked(form: Form, fields: Sequence[str]) -> dict[str, Any]:
    """What a form says of these fields; an empty one is not set."""
    return {name: form[name].strip() or None for name in fields if name in form}


# -------------------------------------------------------------------------------------------------- channels


def _channel_of(form: Form) -> dict[str, Any]:
    """Raises `InvalidRequest` for headers that are none."""
    headers = {}
    for line in str(form.get("headers", "")).splitlines():
        name, colon, value = line.partition(":")
        if line.strip() and not colon:
            raise InvalidRequest(f"headers: takes lines of 'Name: value', not {line.strip()[:80]!r}")
        if line.strip():
            headers[name.strip()] = value.strip()
    languages = str(form.get("audio_languages", "")).replace(",", " ").split()
    return {
        **_asked(form, CHANNEL_FIELDS),
        "loop": "loop" in form,
        "headers": headers,
        "audio_languages": languages,
    }


def _as_form(thing: Channel | Profile) -> dict[str, Any]:
    """A channel or profile as the fields of its form are filled in; what is not set is empty."""
    values = {name: "" if value in (None, 0) else value for name, value in thing.model_dump().items()}
    if isinstance(thing, Channel):
        values["audio_languages"] = ", ".join(thing.audio_languages)
        values["headers"] = "\n".join(f"{name}: {value}" for name, value in thing.headers.items())
    return values


async def channels_page(request: web.Request) -> web.Response:
    return await _channels(request)


async def _channels(
    request: web.Request, form: Form | None = None, error: str = "", result: object = None, status: int = 200
) -> web.Response:
    """The list, with what was typed into the form for a new one and what became of it, or of an import."""
    store = services_of(request).store
    sought, channels = request.query.get("q", "").strip(), await store.channels()
    words = sought.casefold()
    found = [c for c in channels if words in f"{c.name}\n{c.group}\n{c.slug}".casefold()] if words else channels
    last = max(0, (len(found) - 1) // PAGE_ROWS)
    number = request.query.get("page", "")
    page = min(int(number), last) if number.isascii() and number.isdigit() and len(number) < 9 else 0
    values = {
        "channels": found[page * PAGE_ROWS : (page + 1) * PAGE_ROWS],
        "found": len(found),
        "total": len(channels),
        "sought": sought,
        "page": page,
        "pages": last + 1,
        "profiles": [profile.name for profile in await store.profiles()],
        "choices": CHOICES,
        "base_url": own_url(request),
        "form": form or {},
        "error": error,
        "result": result,
        "shown_refusals": SHOWN_REFUSALS,
        "groups": (await group_views(services_of(request)))[:SHOWN_GROUPS],
    }
    return render(request, "channels.html", values, status)


async def save_group(request: web.Request) -> web.Response:
    form = await form_of(request)
    try:
        fields = parse(GroupFields, {"max_connections": form.get("max_connections", "0")})
        await services_of(request).store.set_group(form.get("name", ""), fields)
    except TvarrError as error:
        return await _channels(request, error=str(error), status=answer_for(error).status)
    raise web.HTTPSeeOther("/channels#groups")


async def add_channel(request: web.Request) -> web.Response:
    form = await form_of(request)
    try:
        channel = await services_of(request).store.add_channel(parse(ChannelCreate, _channel_of(form)))
    except TvarrError as error:
        return await _channels(request, form, str(error), status=answer_for(error).status)
    raise web.HTTPSeeOther(f"/channels/{channel.id}")


async def import_page(request: web.Request) -> web.Response:
    try:
        result = await import_list(services_of(request), await _list_in(request), own_url(request))
    except TvarrError as error:
        return await _channels(request, error=str(error), status=answer_for(error).status)
    return await _channels(request, result=result)


async def _list_in(request: web.Request) -> bytes:
    """The list that a form names by its URL or holds as a file. Raises `InvalidRequest` and `SourceError`."""
    if request.content_type == "multipart/form-data":
        url, data = await _uploaded(request)
    else:
        url, data = (await form_of(request)).get("url", "").strip(), b""
    if not url and not data:
        raise InvalidRequest("name a URL or choose a file")
    return data or await fetch_list(url)


async def _uploaded(request: web.Request) -> tuple[str, bytes]:
    """The URL and the file of a form that has both, each empty where it was left so. Raises `InvalidRequest`."""
    url, data = "", bytearray()
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise InvalidRequest("the form holds another form")
            while part.name == "file" and (chunk := await part.read_chunk()):
                data += chunk
                must_fit(len(data))
            if part.name == "url":
                url = (await part.read_chunk(2 * MAX_URL_CHARS)).decode(errors="replace").strip()
    except (ValueError, HttpProcessingError) as error:
        raise InvalidRequest(f"the form can't be read: {' '.join(str(error).split())}") from None
    return url, bytes(data)


async def channel_page(request: web.Request) -> web.Response:
    channel = await services_of(request).store.channel(request.match_info["id"])
    return await _channel(request, channel, _as_form(channel))


async def _channel(
    request: web.Request, channel: Channel, form: Form, error: str = "", trial: object = None, status: int = 200
) -> web.Response:
    services = services_of(request)
    profiles = [profile.name for profile in await services.store.profiles()]
    profile = request.query.get("profile", "")
    query = {"profile": profile if profile in profiles else "", "key": services.stream_key}
    query = {name: value for name, value in query.items() if value}
    tail = "?" + urlencode(query) if query else ""
    base = f"{own_url(request)}/stream/{channel.slug}"
    values = {
        "channel": channel,
        "form": form,
        "version_of": version_of(channel),
        "profiles": profiles,
        "profile": query.get("profile", ""),
        "choices": CHOICES,
        "links": [(name, base + suffix + tail) for name, suffix in FORMATS],
        "key": services.stream_key,
        "error": error,
        "trial": trial,
        "failures": [f for f in services.failures() if f["channel"] in {channel.id, channel.slug}],
    }
    return render(request, "channel.html", values, status)


async def save_channel(request: web.Request) -> web.Response:
    services, form = services_of(request), await form_of(request)
    key = request.match_info["id"]
    try:
        channel = await edit_channel(services, key, _channel_of(form), {form.get("version", "")})
    except TvarrError as error:
        now = await services.store.channel(key)
        return await _channel(request, now, form, _words(error), status=answer_for(error).status)
    raise web.HTTPSeeOther(f"/channels/{channel.id}")


def _words(error: TvarrError) -> str:
    if isinstance(error, Stale):
        return "Somebody else changed this meanwhile. Below is what you typed; save again to replace what they wrote."
    return str(error)


async def remove_channel(request: web.Request) -> web.Response:
    await delete_channel(services_of(request), request.match_info["id"])
    raise web.HTTPSeeOther("/channels")


async def test_channel(request: web.Request) -> web.Response:
    services = services_of(request)
    channel = await services.store.channel(request.match_info["id"])
    return await _channel(request, channel, _as_form(channel), trial=await services.test_channel(channel.id))


# -------------------------------------------------------------------------------------------------- profiles


async def profiles_page(request: web.Request) -> web.Response:
    return await _profiles(request)


async def _profiles(request: web.Request, form: Form | None = None, error: str = "", status: int = 200) -> web.Response:
    profiles = await services_of(request).store.profiles()
    values = {"profiles": profiles, "choices": CHOICES, "form": form or {}, "error": error}
    return render(request, "profiles.html", values, status)


async def add_profile(request: web.Request) -> web.Response:
    form = await form_of(request)
    try:
        await services_of(request).store.add_profile(parse(ProfileCreate, _asked(form, PROFILE_FIELDS)))
    except TvarrError as error:
        return await _profiles(request, form, str(error), answer_for(error).status)
    raise web.HTTPSeeOther("/profiles")


async def profile_page(request: web.Request) -> web.Response:
    profile = await services_of(request).store.profile(request.match_info["name"])
    return _profile(request, profile, _as_form(profile))


def _profile(request: web.Request, profile: Profile, form: Form, error: str = "", status: int = 200) -> web.Response:
    values = {"profile": profile, "version_of": version_of(profile), "form": form, "choices": CHOICES, "error": error}
    return render(request, "profile.html", values, status)


async def save_profile(request: web.Request) -> web.Response:
    services, form, name = services_of(request), await form_of(request), request.match_info["name"]
    try:
        profile = await edit_profile(services, name, _asked(form, PROFILE_FIELDS), {form.get("version", "")})
    except TvarrError as error:
        return _profile(request, await services.store.profile(name), form, _words(error), answer_for(error).status)
    raise web.HTTPSeeOther(f"/profiles/{quote(profile.name)}")


async def remove_profile(request: web.Request) -> web.Response:
    store, name = services_of(request).store, request.match_info["name"]
    try:
        await store.remove_profile(name)
    except TvarrError as error:
        profile = await store.profile(name)
        return _profile(request, profile, _as_form(profile), str(error), answer_for(error).status)
    raise web.HTTPSeeOther("/profiles")


ROUTES = (
    web.get("/channels", channels_page),
    web.post("/channels", add_channel),
    web.post("/channels/import", import_page),
    web.post("/channels/groups", save_group),
    web.get("/channels/{id}", channel_page),
    web.post("/channels/{id}", save_channel),
    web.post("/channels/{id}/remove", remove_channel),
    web.post("/channels/{id}/test", test_channel),
    web.get("/profiles", profiles_page),
    web.post("/profiles", add_profile),
    web.get("/profiles/{name}", profile_page),
    web.post("/profiles/{name}", save_profile),
    web.post("/profiles/{name}/remove", remove_profile),
)
