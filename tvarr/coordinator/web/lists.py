"""Lists of channels (M3U) in and out."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
from aiohttp import web
from yarl import URL

from tvarr.coordinator import m3u
from tvarr.coordinator.models import ChannelCreate, parse
from tvarr.coordinator.sources.http import failure, status_of
from tvarr.coordinator.sources.names import Names
from tvarr.coordinator.web.catalogue import tell
from tvarr.coordinator.web.routes import Route, json_answer, json_of
from tvarr.coordinator.web.schemas import ImportedLine, ImportFrom, ImportResult, RefusedLine
from tvarr.coordinator.web.services import CoordinatorServices, own_url, services_of
from tvarr.errors import InvalidRequest, SourceError

M3U_TYPE = "audio/x-mpegurl"
MAX_LIST_BYTES = 16 * 1024 * 1024
FETCH_TIMEOUT_S = 30.0


async def import_channels(request: web.Request) -> web.Response:
    data = await _read_capped(request.content)
    if request.content_type == "application/json" or data.lstrip()[:1] == b"{":  # which begins no list
        data = await fetch_list(parse(ImportFrom, json_of(data)).url)
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
                raise SourceError(f"the list can't be read: the server answered {status_of(response, url)}")
            return await _read_capped(response.content)
    except TimeoutError:
        raise SourceError(f"the list can't be read: no answer within {FETCH_TIMEOUT_S:g} s") from None
    except (aiohttp.InvalidURL, ValueError):
        raise InvalidRequest("url: is not a URL") from None
    except aiohttp.ClientConnectorError as error:
        there = URL.build(scheme="http", host=error.host, port=error.port)  # where a redirect led, perhaps
        raise SourceError(f"the list can't be read: {failure(error, there)}") from None
    except aiohttp.TooManyRedirects:
        raise SourceError("the list can't be read: its server redirects too often") from None
    except aiohttp.ClientPayloadError:
        raise SourceError("the list can't be read: it was cut off") from None
    except aiohttp.ClientError as error:  # whose own words have the whole URL
        raise SourceError(f"the list can't be read: {failure(error, URL(url))}") from None


async def _read_capped(content: aiohttp.StreamReader) -> bytes:
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        must_fit(len(data))
    return bytes(data)


def must_fit(size: int) -> None:
    """Raises `InvalidRequest` where a list of so many bytes is too large."""
    if size > MAX_LIST_BYTES:
        raise InvalidRequest(f"the list is larger than {MAX_LIST_BYTES >> 20} MiB")


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
    return web.Response(text=text, content_type=M3U_TYPE, charset="utf-8", headers=headers)


async def sources(request: web.Request) -> web.Response:
    """Every channel with its source, as an M3U that `import` takes."""
    text = m3u.write_sources(await services_of(request).store.channels())
    headers = {"Content-Disposition": 'attachment; filename="tvarr-sources.m3u"'}
    return web.Response(text=text, content_type=M3U_TYPE, charset="utf-8", headers=headers)


ROUTES = (
    Route(
        method="POST",
        path="/api/v1/channels/import",
        handler=import_channels,
        summary="Add the channels of an M3U, given as the body or by its URL, or bring them up to date",
        body=ImportFrom,
        other_body=M3U_TYPE,
        answer=ImportResult,
        errors=(502,),
        keeps=True,
    ),
    Route(
        method="GET",
        path="/api/v1/channels.m3u",
        handler=sources,
        summary="All channels with their sources, as an M3U that can be imported",
        answer=M3U_TYPE,
    ),
    Route(
        method="GET",
        path="/playlist.m3u",
        handler=playlist,
        summary="Every channel as an M3U with tvg attributes",
        query=("profile", "format", "key"),
        answer=M3U_TYPE,
        open=True,
        errors=(400, 401, 404),
    ),
)
