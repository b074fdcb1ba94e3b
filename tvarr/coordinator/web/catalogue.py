"""Channels, profiles, and lists of channels in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from tvarr.coordinator import m3u
from tvarr.coordinator.models import Channel, ChannelCreate, Profile, ProfileCreate, parse
from tvarr.coordinator.sources.names import Names
from tvarr.coordinator.store import Versions
from tvarr.coordinator.web.editing import one, versions_in
from tvarr.coordinator.web.routes import Route, json_answer, json_body, json_object, page_of
from tvarr.coordinator.web.schemas import ImportedLine, ImportFrom, ImportResult, RefusedLine, TrialView
from tvarr.coordinator.web.services import CoordinatorServices, own_url, services_of
from tvarr.errors import InvalidRequest, SourceError

MAX_LIST_BYTES = 16 * 1024 * 1024
FETCH_TIMEOUT_S = 30.0
RESTARTING_FIELDS = (
    *("url", "pace", "loop", "user_agent", "headers"),
    *("audio_languages", "program", "max_height", "max_kbps"),
)
"""What a running relay is made from; another name or logo does not interrupt anybody."""


async def list_channels(request: web.Request) -> web.Response:
    return page_of(request, await services_of(request).store.channels())


async def add_channel(request: web.Request) -> web.Response:
    new = parse(ChannelCreate, await json_body(request))
    channel = await services_of(request).store.add_channel(new)
    answer = one(channel, 201)
    answer.headers["Location"] = f"/api/v1/channels/{channel.id}"
    return answer


async def get_channel(request: web.Request) -> web.Response:
    return one(await services_of(request).store.channel(request.match_info["id"]))


async def change_channel(request: web.Request) -> web.Response:
    changes = await json_object(request)
    return one(await edit_channel(services_of(request), request.match_info["id"], changes, versions_in(request)))


async def edit_channel(
    services: CoordinatorServices, key: str, changes: Mapping[str, Any], versions: Versions
) -> Channel:
    """Changes a channel as the store does; its relay ends where what it is made from has changed."""
    before, after = await services.store.change_channel(key, changes, versions)
    await tell(services, before, after)
    return after


async def tell(services: CoordinatorServices, before: Channel, after: Channel) -> None:
    """Lets a relay that runs know what is another now."""
    if any(getattr(before, field) != getattr(after, field) for field in RESTARTING_FIELDS):
        await services.channel_changed(after.id)
    else:
        services.channel_edited(after)


async def test_channel(request: web.Request) -> web.Response:
    services = services_of(request)
    channel = await services.store.channel(request.match_info["id"])
    return json_answer(await services.test_channel(channel.id))


async def remove_channel(request: web.Request) -> web.Response:
    await delete_channel(services_of(request), request.match_info["id"], versions_in(request))
    return web.Response(status=204)


async def delete_channel(services: CoordinatorServices, key: str, versions: Versions = None) -> None:
    """Forgets a channel and ends its relay. Raises `NotFound`, and `Stale` as the store does."""
    removed = await services.store.remove_channel(key, versions)
    await services.channel_changed(removed.id)


async def import_channels(request: web.Request) -> web.Response:
    if request.content_type == "application/json":
        data = await fetch_list(parse(ImportFrom, await json_body(request)).url)
    else:
        data = await _read_capped(request.content)
    return json_answer(await import_list(services_of(request), data, own_url(request)))


async def import_list(services: CoordinatorServices, data: bytes, own: str) -> ImportResult:
    """Adds the channels of a list that aren't there yet, and brings those of an earlier one up to date.

    `own` is this server's address, whose streams can't be its sources. Raises `InvalidRequest` for what is no list.
    """
    entries, channels = await asyncio.to_thread(_read_list, data, f"{own}/stream/")
    results = iter(await services.store.import_channels([channel for channel in channels if channel is not None]))
    answer = ImportResult(added=[], updated=[], kept=[], refused=[])
    for entry, channel in zip(entries, channels, strict=True):
        if channel is None:
            answer.refused.append(RefusedLine(line=entry.line, name=entry.name[:200], reason=entry.error))
            continue
        result = next(results)
        if result.channel is None:
            answer.refused.append(RefusedLine(line=entry.line, name=entry.name[:200], reason=result.reason))
            continue
        stored = result.channel
        line = ImportedLine(line=entry.line, id=stored.id, slug=stored.slug, name=stored.name)
        {"added": answer.added, "updated": answer.updated}.get(result.what, answer.kept).append(line)
        if result.before is not None:
            await tell(services, result.before, stored)
    return answer


def _read_list(data: bytes, own_streams: str) -> tuple[list[m3u.Entry], list[ChannelCreate | None]]:
    """The entries, and for each the channel it asks for, or None where its `error` says why there is none."""
    entries, channels = m3u.parse(m3u.decode(data)), []
    for index, entry in enumerate(entries):
        channel = None
        if entry.url.startswith(own_streams):
            entry = entries[index] = replace(entry, error="this is a stream of this tvarr itself")
        if not entry.error:
            try:
                channel = parse(ChannelCreate, entry.as_channel())
            except InvalidRequest as error:
                entries[index] = replace(entry, error=str(error))
        channels.append(channel)
    return entries, channels


async def fetch_list(url: str) -> bytes:
    """A list of channels from the network. Raises `InvalidRequest` and `SourceError`."""
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidRequest("url: takes an http or https URL")
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=Names()), timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
            ) as session,
            session.get(URL(url)) as response,
        ):
            if response.status != 200:
                raise SourceError(f"the list can't be read: the server answered {response.status} {response.reason}")
            return await _read_capped(response.content)
    except TimeoutError:
        raise SourceError(f"the list can't be read: no answer within {FETCH_TIMEOUT_S:g} s") from None
    except (aiohttp.InvalidURL, ValueError):
        raise InvalidRequest("url: is not a URL") from None
    except aiohttp.ClientError as error:
        raise SourceError(f"the list can't be read: {error}") from None


async def _read_capped(content: aiohttp.StreamReader) -> bytes:
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > MAX_LIST_BYTES:
            raise InvalidRequest(f"the list is larger than {MAX_LIST_BYTES >> 20} MiB")
    return bytes(data)


async def list_profiles(request: web.Request) -> web.Response:
    return page_of(request, await services_of(request).store.profiles())


async def add_profile(request: web.Request) -> web.Response:
    new = parse(ProfileCreate, await json_body(request))
    profile = await services_of(request).store.add_profile(new)
    answer = one(profile, 201)
    answer.headers["Location"] = f"/api/v1/profiles/{profile.name}"
    return answer


async def get_profile(request: web.Request) -> web.Response:
    return one(await services_of(request).store.profile(request.match_info["name"]))


async def change_profile(request: web.Request) -> web.Response:
    changes = await json_object(request)
    name = request.match_info["name"]
    return one(await services_of(request).store.change_profile(name, changes, versions_in(request)))


async def remove_profile(request: web.Request) -> web.Response:
    await services_of(request).store.remove_profile(request.match_info["name"], versions_in(request))
    return web.Response(status=204)


async def playlist(request: web.Request) -> web.Response:
    """Every channel as an M3U for players."""
    services = services_of(request)
    store = services.store
    stream_format = request.query.get("format") or "ts"
    if stream_format not in m3u.STREAM_PATHS:
        raise InvalidRequest(f"format: takes {' or '.join(m3u.STREAM_PATHS)}")
    profile = request.query.get("profile", "")
    if profile:
        await store.profile(profile)
    text = m3u.write(
        await store.channels(),
        own_url(request),
        profile=profile,
        stream_format=stream_format,
        key=services.stream_key,
    )
    headers = {"Content-Disposition": 'inline; filename="tvarr.m3u"', "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="audio/x-mpegurl", charset="utf-8", headers=headers)


async def sources(request: web.Request) -> web.Response:
    """Every channel with its source, as an M3U that `import` takes."""
    text = m3u.write_sources(await services_of(request).store.channels())
    headers = {"Content-Disposition": 'attachment; filename="tvarr-sources.m3u"'}
    return web.Response(text=text, content_type="audio/x-mpegurl", charset="utf-8", headers=headers)


CHANNELS, CHANNEL = "/api/v1/channels", "/api/v1/channels/{id}"
PROFILES, PROFILE = "/api/v1/profiles", "/api/v1/profiles/{name}"
ROUTES = (
    Route(method="GET", path=CHANNELS, handler=list_channels, summary="All channels", answer=[Channel], paged=True),
    Route(
        method="POST",
        path=CHANNELS,
        handler=add_channel,
        summary="Add a channel",
        body=ChannelCreate,
        answer=Channel,
        status=201,
        errors=(409,),
        keeps=True,
    ),
    Route(
        method="POST",
        path="/api/v1/channels/import",
        handler=import_channels,
        summary="Add the channels of an M3U, given as the body or by its URL, or bring them up to date",
        body=ImportFrom,
        other_body="audio/x-mpegurl",
        answer=ImportResult,
        errors=(502,),
        keeps=True,
    ),
    Route(
        method="GET",
        path="/api/v1/channels.m3u",
        handler=sources,
        summary="All channels with their sources, as an M3U that can be imported",
        answer="audio/x-mpegurl",
    ),
    Route(
        method="GET",
        path=CHANNEL,
        handler=get_channel,
        summary="A channel by id or slug",
        answer=Channel,
        errors=(404,),
    ),
    Route(
        method="PATCH",
        path=CHANNEL,
        handler=change_channel,
        summary="Change fields of a channel; null: back to not set",
        body=ChannelCreate,
        partial=True,
        answer=Channel,
        errors=(404, 409, 412),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="DELETE",
        path=CHANNEL,
        handler=remove_channel,
        summary="Remove a channel; its streams end",
        status=204,
        errors=(404, 412),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="POST",
        path=CHANNEL + "/test",
        handler=test_channel,
        summary="Watch a channel for a moment: whether its source can be read, and its tracks",
        answer=TrialView,
        errors=(404,),
    ),
    Route(method="GET", path=PROFILES, handler=list_profiles, summary="All profiles", answer=[Profile], paged=True),
    Route(
        method="POST",
        path=PROFILES,
        handler=add_profile,
        summary="Add a profile",
        body=ProfileCreate,
        answer=Profile,
        status=201,
        errors=(409,),
        keeps=True,
    ),
    Route(method="GET", path=PROFILE, handler=get_profile, summary="A profile", answer=Profile, errors=(404,)),
    Route(
        method="PATCH",
        path=PROFILE,
        handler=change_profile,
        summary="Change fields of a profile",
        body=ProfileCreate,
        partial=True,
        answer=Profile,
        errors=(404, 409, 412),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="DELETE",
        path=PROFILE,
        handler=remove_profile,
        summary="Remove a profile",
        status=204,
        errors=(404, 409, 412),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="GET",
        path="/playlist.m3u",
        handler=playlist,
        summary="Every channel as an M3U with tvg attributes",
        query=("profile", "format"),
        answer="audio/x-mpegurl",
        open=True,
        errors=(400, 404),
    ),
)
