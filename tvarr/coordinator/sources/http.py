"""HTTP(S): one request, its redirects, and an answer that may never end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import ceil
from urllib.parse import unquote

import aiohttp
from yarl import URL

from tvarr import __version__
from tvarr.coordinator.source import NETWORK_SCHEMES, IngestLimits, SourceFailure, SourceSpec
from tvarr.coordinator.sources.names import Names
from tvarr.media.batching import Rhythm

BUFFER_BYTES = 512 * 1024  # aiohttp holds up to twice this before it stops reading
GATHER_BYTES = 1024 * 1024  # the kernel is asked to have room for so much
WINDOW_SHARE = 4  # of a receive buffer so much holds data before the sender has to wait; the rest is overhead
SHORTEST_PAUSE_S = 0.01

_SECRET_HEADERS = ("auth", "cookie", "token", "key", "secret", "pass", "sess", "cred")
_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT})
_SAY_WHEN = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_MAX_PHRASE = 60  # characters of what a server says of its status
_SHORTEST_SECRET = 3  # characters
_PARTS = re.compile(r"[/?#&=:;@,\s]+")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNKNOWN_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH})


def cookie_jar() -> aiohttp.CookieJar:
    """For the cookies of one source, of hosts without names as well."""
    return aiohttp.CookieJar(unsafe=True)


def client_session() -> aiohttp.ClientSession:
    """The one session for all sources: any number of endless connections, none kept idle, no cookies shared."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True, resolver=Names())
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


class HttpStream:
    """The body of one answer.

    One without a length or chunks ends where its connection does; aiohttp doesn't tell how that ended.
    """

    def __init__(self, response: aiohttp.ClientResponse, url: URL, rhythm: Rhythm) -> None:
        self.url = str(url)  # after redirects
        self._response = response
        self._rhythm = rhythm
        self._room = _widened(response) // WINDOW_SHARE  # bytes that may gather in the kernel
        self._pause_s = 0.0  # before the next read; 0: the network is faster than we are
        self._read_at = time.monotonic()
        self._ended = False

    @property
    def content_type(self) -> str:
        return self._response.headers.get("Content-Type", "")

    @property
    def zipped(self) -> bool:
        return is_zipped(self._response)

    @property
    def whole(self) -> bool:
        return self._ended and self.finite

    @property
    def finite(self) -> bool:
        return self._response.content_length is not None

    async def read(self) -> bytes:
        if self._pause_s >= SHORTEST_PAUSE_S:
            await self._gather()
        else:
            await asyncio.sleep(0)  # where data is always there, others would never run
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise SourceFailure("the connection to the source was cut", passing=True) from error
        self._ended = not data
        now = time.monotonic()
        took_s, self._read_at = now - self._read_at, now
        self._pause_s = min(self._rhythm.pause_s(now), self._room * took_s / len(data)) if data else 0.0
        return data

    async def _gather(self) -> None:
        """Leaves what comes in the kernel's buffer for a moment: one wake-up instead of one for each packet.

        As long as it fits there at the rate at which it came, so that the sender never waits for us.
        """
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        try:
            await asyncio.sleep(self._pause_s)
        finally:
            if not transport.is_closing():
                transport.resume_reading()


def _widened(response: aiohttp.ClientResponse) -> int:
    """The size of the connection's receive buffer in bytes, as much wider as the system allows; 0: unknown.

    Asking for a low-water mark makes Linux widen it (tcp_set_rcvlowat, since 4.18), and leaves it free to grow on its
    own, which SO_RCVBUF does not.
    """
    connection = response.connection
    transport = connection.transport if connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return 0
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, GATHER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    try:
        return int(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    except OSError:
        return 0


@asynccontextmanager
async def open_http(
    spec: SourceSpec,
    session: aiohttp.ClientSession,
    limits: IngestLimits,
    cookies: aiohttp.CookieJar | None = None,
    *,
    zipped: bool = False,
) -> AsyncIterator[HttpStream]:
    """Connects to the source; its answer is good when this returns. Raises `SourceFailure` with the cause in words.

    `cookies`: those of the source, to which what comes is added; None: of this request and its redirects alone.
    `zipped`: a body that comes gzip-encoded is taken as well, and is given as it came.
    """
    jar = cookies if cookies is not None else cookie_jar()
    response, url = await request(spec.url, spec, session, limits, {"Connection": "close"}, jar, zipped=zipped)
    try:
        yield HttpStream(response, url, limits.rhythm())
    finally:
        response.close()


async def request(
    target: str,
    spec: SourceSpec,
    session: aiohttp.ClientSession,
    limits: IngestLimits,
    extra: Mapping[str, str],
    cookies: aiohttp.CookieJar | None = None,
    *,
    zipped: bool = False,
) -> tuple[aiohttp.ClientResponse, URL]:
    """A good answer for a URL of this source, and the URL that gave it in the end; `extra` are headers of the request.

    `cookies`: used and added to, where the session keeps none. `zipped`: the body may be gzip-encoded. Raises
    `SourceFailure` with the cause in words.
    """
    try:
        url, own = _url(target), _url(spec.url)
    except ValueError as error:
        raise SourceFailure("the source's address is not a URL") from error
    try:
        async with asyncio.timeout(limits.connect_s):
            response, url = await _follow(url, own, spec, session, limits, extra, cookies)
    except TimeoutError as error:
        raise SourceFailure(f"{_host(url)} did not answer within {limits.connect_s:g} s", passing=True) from error
    try:
        _check(response, spec, url, zipped=zipped)
    except SourceFailure:
        response.close()
        raise
    return response, url


async def _follow(
    url: URL,
    own: URL,
    spec: SourceSpec,
    session: aiohttp.ClientSession,
    limits: IngestLimits,
    extra: Mapping[str, str],
    cookies: aiohttp.CookieJar | None,
) -> tuple[aiohttp.ClientResponse, URL]:
    """Requests `url` and where it redirects to; returns the first answer that is no redirect, and who gave it.

    Redirects are followed here and not by aiohttp, which would send a channel's own headers to any host. What looks
    like a credential, and the user and password of the URL, stay with the host that they were given for.
    """
    headers = {"User-Agent": f"tvarr/{__version__}", "Accept": "*/*"}
    headers |= {"Accept-Encoding": "identity", **extra}
    if spec.user_agent:
        headers["User-Agent"] = spec.user_agent
    headers = _merged(headers | _authorization(url), _for_host(spec.headers, own, url))
    for _ in range(limits.max_redirects + 1):
        response = await _request(url.with_user(None), headers, session, cookies)
        if response.status not in _REDIRECTS:
            return response, url
        response.close()
        target = _target(url, response.headers.get("Location", ""))
        url, headers = target, _merged(_for_host(headers, url, target), _authorization(target))
    raise SourceFailure(f"the source redirects more than {limits.max_redirects} times")


def _for_host(headers: Mapping[str, str], given_for: URL, target: URL) -> dict[str, str]:
    """The headers without what looks like a credential, where they go to another host, or in the clear for once."""
    if target.host == given_for.host and not (given_for.scheme == "https" and target.scheme == "http"):
        return dict(headers)
    return {k: v for k, v in headers.items() if not any(word in k.lower() for word in _SECRET_HEADERS)}


def _url(text: str) -> URL:
    """The URL exactly as written where it can be sent so: signatures break when it is quoted anew."""
    return URL(text, encoded=text.isascii() and text.isprintable() and " " not in text).with_fragment(None)


def _merged(defaults: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The channel's own headers over the defaults; names are compared without case."""
    own_names = {name.lower() for name in own}
    return {k: v for k, v in defaults.items() if k.lower() not in own_names} | dict(own)


def _authorization(url: URL) -> dict[str, str]:
    if url.user is None:
        return {}
    credentials = f"{url.user}:{url.password or ''}".encode()
    return {"Authorization": f"Basic {b64encode(credentials).decode()}"}


def _target(url: URL, location: str) -> URL:
    try:
        target = url.join(_url(location))
        is_web = bool(location and target.scheme in NETWORK_SCHEMES and target.host and target.port)
    except ValueError as error:
        raise SourceFailure("the source redirects to something that is not a URL") from error
    if not is_web:
        raise SourceFailure("the source redirects to something that is not a web address")
    return target


async def _request(
    url: URL, headers: Mapping[str, str], session: aiohttp.ClientSession, cookies: aiohttp.CookieJar | None
) -> aiohttp.ClientResponse:
    try:
        response = await session.get(
            url,
            headers=headers,
            cookies=cookies.filter_cookies(url) if cookies is not None else None,
            allow_redirects=False,
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise failure(error, url) from error
    if cookies is not None:
        cookies.update_cookies(response.cookies, url)
    return response


def _host(url: URL) -> str:
    return f"[{url.host}]:{url.port}" if ":" in (url.host or "") else f"{url.host}:{url.port}"


def failure(error: Exception, url: URL) -> SourceFailure:
    """Why a request came to nothing, in words that name the host and nothing else of the URL."""
    where = _host(url)
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = getattr(error.certificate_error, "verify_message", "") or "it can't be verified"
            return SourceFailure(f"the certificate of {where} is not accepted: {cause}")
        case aiohttp.ClientSSLError():
            return SourceFailure(f"{where} does not speak TLS as it should")
        case aiohttp.ClientConnectorDNSError():
            if error.os_error.errno in _UNKNOWN_HOST:
                return SourceFailure(f"the host {url.host} is unknown")
            cause = error.os_error.strerror or "the name service does not answer"
            return SourceFailure(f"the host {url.host} can't be looked up: {cause}")
        case aiohttp.ClientConnectorError():
            if error.os_error.errno == errno.ECONNREFUSED:
                return SourceFailure(f"{where} refuses the connection", gone=True)
            if error.os_error.errno in _NO_ROUTE:
                return SourceFailure(f"there is no route to {where}")
            return SourceFailure(f"{where} can't be reached: {error.os_error.strerror or 'the connection failed'}")
        case aiohttp.ClientResponseError() if "ICY " in error.message:
            return SourceFailure(f"{where} answers as radio stations do (ICY), not in HTTP", foreign=True)
        case aiohttp.ClientResponseError():
            return SourceFailure(f"{where} does not answer in HTTP")
        case aiohttp.ClientConnectionError() | OSError():
            return SourceFailure(f"{where} closed the connection without an answer", passing=True)
        case _:
            return SourceFailure("the source's URL or headers can't be sent as an HTTP request")


def is_zipped(response: aiohttp.ClientResponse) -> bool:
    """Whether its body is gzip-encoded, which nothing here asks for."""
    return _encoding(response) in ("gzip", "x-gzip")


def not_asked_for(encoding: str) -> SourceFailure:
    """The body is encoded otherwise than it is read."""
    return SourceFailure(f"the source sends compressed content ({encoding[:20]!s}), which was not asked for")


def _encoding(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Encoding", "identity").strip().lower()


def status_of(response: aiohttp.ClientResponse, *asked: str) -> str:
    """Its status and phrase, `403 Forbidden`. Servers that say back what they were `asked` with are not quoted."""
    phrase = (response.reason or "")[:_MAX_PHRASE]
    told = (one for text in asked for part in _PARTS.split(text) for one in (part, unquote(part)))
    if not phrase.isprintable() or any(len(part) >= _SHORTEST_SECRET and part in phrase for part in told):
        phrase = ""
    return f"{response.status} {phrase or _PHRASES.get(response.status, '')}".rstrip()


def _check(response: aiohttp.ClientResponse, spec: SourceSpec, url: URL, *, zipped: bool) -> None:
    status = response.status
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        words = f"the source answered {status_of(response, spec.url, str(url), *spec.headers.values())}"
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY
        retry_after_s = _retry_after_s(response) if status in _SAY_WHEN else 0.0
        if retry_after_s:
            words += f"; it may be asked again in {retry_after_s:.0f} s"
        raise SourceFailure(words, passing=passing, gone=status in _GONE, retry_after_s=retry_after_s)
    encoding = _encoding(response)
    if encoding not in ("", "identity") and not (zipped and is_zipped(response)):
        raise not_asked_for(encoding)


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """What `Retry-After` says, in whole seconds or as a date (RFC 9110, 10.2.3); 0 where it says nothing."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, float(ceil(until.replace(tzinfo=until.tzinfo or UTC).timestamp() - time.time())))
