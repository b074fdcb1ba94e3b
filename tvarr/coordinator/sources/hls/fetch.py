"""Gets playlists, segments and keys, each as a whole and none larger than it may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

import aiohttp

from tvarr.coordinator.source import NETWORK_SCHEMES, IngestLimits, SourceFailure, SourceSpec
from tvarr.coordinator.sources.file import read_file
from tvarr.coordinator.sources.http import cookie_jar, is_zipped, request
from tvarr.coordinator.sources.names import Names
from tvarr.coordinator.sources.unzip import unzip

KEEP_ALIVE_S = 30.0  # segments come every few seconds: a new TLS connection for each would cost both sides


class Silence(SourceFailure):
    """Nothing came for longer than is waited."""


@dataclass(frozen=True, slots=True)
class Fetched:
    data: bytes
    url: str  # after redirects
    content_type: str = ""


class Fetcher:
    """All requests of one source: with its headers, over connections and cookies of its own."""

    def __init__(
        self,
        spec: SourceSpec,
        session: aiohttp.ClientSession,
        limits: IngestLimits,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._spec = spec
        self._session = session
        self._limits = limits
        self._on_bytes = on_bytes

    async def get(
        self,
        url: str,
        what: str,
        *,
        cap_bytes: int,
        within_s: float,
        part: tuple[int, int] | None = None,
        answer_s: float | None = None,
        silence_s: float | None = None,
        zipped: bool = False,
    ) -> Fetched:
        """`what` names it in the words of a `SourceFailure`. `part`: offset and length of the bytes that are wanted.

        `zipped`: it may come gzip-encoded. Raises `Silence` where no answer begins within `answer_s`, or where it stops
        for longer than `silence_s`.
        """
        try:
            async with asyncio.timeout(within_s):
                if url.startswith("file:"):
                    data = await read_file(replace(self._spec, url=url), part, cap_bytes)
                    self._on_bytes(len(data))
                    return Fetched(data, url)
                return await self._get(url, what, cap_bytes, part, answer_s, silence_s, zipped=zipped)
        except TimeoutError as error:
            raise SourceFailure(f"the source's {what} did not come within {within_s:g} s", passing=True) from error

    async def _get(
        self,
        url: str,
        what: str,
        cap_bytes: int,
        part: tuple[int, int] | None,
        answer_s: float | None,
        silence_s: float | None,
        *,
        zipped: bool,
    ) -> Fetched:
        if not url.startswith(tuple(f"{scheme}:" for scheme in NETWORK_SCHEMES)):
            raise SourceFailure(f"the source's {what} is at no address that is read")
        headers = {"Range": f"bytes={part[0]}-{sum(part) - 1}"} if part else {}
        try:
            async with asyncio.timeout(answer_s):
                response, final = await request(url, self._spec, self._session, self._limits, headers, zipped=zipped)
        except TimeoutError as error:
            raise Silence(f"the source's {what} did not begin to come within {answer_s:g} s", passing=True) from error
        except SourceFailure as failure:
            words = f"the source's {what}: {failure}"
            raise SourceFailure(
                words, passing=failure.passing, gone=failure.gone, retry_after_s=failure.retry_after_s
            ) from failure
        try:
            begin, most = 0, cap_bytes
            if part and response.status == HTTPStatus.OK:  # the server does not do ranges
                if part[0] > cap_bytes:
                    raise SourceFailure(f"the source's server does not give parts of a file, as its {what} needs")
                begin, most = part[0], sum(part)
            elif part:
                most = part[1]
            data = await self._body(response, what, most, silence_s, cut=part is not None)
        finally:
            response.close() if not response.content.at_eof() else response.release()
        if is_zipped(response):
            data = unzip(data, what, cap_bytes)
        return Fetched(data[begin:], str(final), response.headers.get("Content-Type", ""))

    async def _body(
        self, response: aiohttp.ClientResponse, what: str, most: int, silence_s: float | None, *, cut: bool
    ) -> bytes:
        """At most `most` bytes; more are left unread where `cut`, else refused."""
        pieces: list[bytes] = []
        size = 0
        if not cut and (response.content_length or 0) > most:
            raise SourceFailure(f"the source's {what} is larger than {most >> 20} MiB")
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    piece = await response.content.readany()
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
                self._on_bytes(len(piece))
                if size > most and not cut:
                    raise SourceFailure(f"the source's {what} is larger than {most >> 20} MiB")
                if size >= most and cut:
                    break
        except (aiohttp.ClientError, OSError) as error:
            if silence_s and isinstance(error, TimeoutError):
                raise Silence(f"the source's {what} stopped coming for {silence_s:g} s", passing=True) from error
            raise SourceFailure(f"the source's {what} was cut off", passing=True) from error
        return b"".join(pieces)[:most] if cut else b"".join(pieces)


@asynccontextmanager
async def fetching(
    spec: SourceSpec,
    limits: IngestLimits,
    on_bytes: Callable[[int], None],
    cookies: aiohttp.CookieJar | None = None,
) -> AsyncIterator[Fetcher]:
    """A fetcher that keeps its connections for the next request. `cookies`: those that the source has set already."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, resolver=Names())
    jar = cookie_jar() if cookies is None else cookies
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as session:
        yield Fetcher(spec, session, limits, on_bytes)
