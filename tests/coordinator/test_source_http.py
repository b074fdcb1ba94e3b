"""One request, its redirects and its answer, against servers of bytes on loopback."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import pytest
import uvloop

from tests.conftest import program
from tests.fakes.sources import ScriptedServer, answer, close, endless, hang, head, pieces_of, reset
from tvarr import __version__
from tvarr.coordinator.source import IngestLimits, SourceFailure, SourceSpec
from tvarr.coordinator.sources.http import client_session, open_http

LIMITS = IngestLimits(connect_s=5.0, slice_s=0.005)
BODY = bytes(range(256)) * 400


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session() as session:
        yield session


async def fetch(
    spec: SourceSpec, session: aiohttp.ClientSession, limits: IngestLimits = LIMITS
) -> tuple[bytes, bool, str]:
    """The body, whether it was whole, and its content type."""
    data = b""
    async with open_http(spec, session, limits) as stream:
        while piece := await stream.read():
            data += piece
        return data, stream.whole, stream.content_type


async def cause(url: str, session: aiohttp.ClientSession, limits: IngestLimits = LIMITS) -> SourceFailure:
    with pytest.raises(SourceFailure) as caught:
        await fetch(SourceSpec.parse(url), session, limits)
    words = str(caught.value)
    assert "\n" not in words
    assert not words.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("script", "whole"),
    [
        pytest.param(answer(BODY, "Content-Type: video/mp2t"), True, id="with a length"),
        pytest.param(endless([BODY], "Content-Type: video/mp2t"), False, id="until it is closed"),
        pytest.param(endless(pieces_of(BODY, 9999), "Content-Type: video/mp2t", chunked=True), False, id="chunked"),
        pytest.param(endless(pieces_of(BODY, 9999), "Content-Type: video/mp2t", pause_s=0.002), False, id="slow"),
    ],
)
async def test_bodies(script: object, whole: bool, session: aiohttp.ClientSession) -> None:
    async with ScriptedServer(script) as server:  # type: ignore[arg-type]
        assert await fetch(SourceSpec.parse(server.url), session) == (BODY, whole, "video/mp2t")


async def test_the_request(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer(answer(b"x")) as server:
        url = server.url.replace("//", "//me:p%40w@") + "?a=%3d%2F+b#program=3"
        await fetch(SourceSpec.parse(url, headers={"X-Own": "1", "accept": "video/*"}), session)
        await fetch(SourceSpec.parse(server.url, user_agent="VLC/3"), session)
    first, second = server.requests
    assert first.startswith("GET /source.ts?a=%3d%2F+b HTTP/1.1\r\n"), "signed URLs must stay as they are"
    assert f"\r\nUser-Agent: tvarr/{__version__}\r\n" in first
    assert "\r\nAccept-Encoding: identity\r\n" in first
    assert "\r\nX-Own: 1\r\n" in first
    assert first.lower().count("\r\naccept:") == 1
    assert "\r\nAuthorization: Basic bWU6cEB3\r\n" in first
    assert "\r\nUser-Agent: VLC/3\r\n" in second


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_small_reads_are_gathered(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    pieces = pieces_of(BODY * 2, 1316)

    async def count_reads() -> int:
        limits = replace(LIMITS, slice_s=0.05)
        reads = 0
        async with (
            ScriptedServer(endless(pieces, pause_s=0.001)) as server,
            client_session() as session,
            open_http(SourceSpec.parse(server.url), session, limits) as stream,
        ):
            while await stream.read():
                reads += 1
        return reads

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(count_reads()) < len(pieces) / 4


async def test_gathering_never_makes_the_sender_wait(session: aiohttp.ClientSession) -> None:
    """However long it may be: no more gathers than the kernel has room for."""
    size = 4 << 20
    limits = replace(LIMITS, slice_s=5.0)
    reads = 0
    pieces = pieces_of(bytes(size), 32 << 10)
    async with (
        ScriptedServer(endless(pieces, pause_s=0.004)) as server,
        open_http(SourceSpec.parse(server.url), session, limits) as stream,
    ):
        while data := await stream.read():
            size -= len(data)
            reads += 1
    assert size == 0
    assert reads > 6, "half a megabyte may gather"


class TestRedirects:
    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
    async def test_followed(self, status: str, session: aiohttp.ClientSession) -> None:
        moved = answer(b"", "Location: /other.ts?x=1", status=status)
        async with ScriptedServer(moved, answer(BODY)) as server:
            assert (await fetch(SourceSpec.parse(server.url), session))[0] == BODY
        assert server.requests[1].startswith("GET /other.ts?x=1 ")
        assert server.most_open == 1

    async def test_secrets_stay_with_their_host(self, session: aiohttp.ClientSession) -> None:
        headers = {"X-Api-Key": "q9", "Cookie": "q9", "Referer": "http://portal/", "X-Token": "q9"}
        async with ScriptedServer(answer(b"x")) as there:
            other = f"http://localhost:{there.port}/x"
            moved = answer(b"", f"Location: {other}", status="302 Found")
            near = answer(b"", "Location: /near", status="302 Found")
            async with ScriptedServer(near, moved) as here:
                url = here.url.replace("//", "//me:q9@")
                await fetch(SourceSpec.parse(url, headers=headers), session)
        assert "X-Api-Key: q9" in here.requests[1]
        assert "Authorization: Basic" in here.requests[1]
        assert "q9" not in there.requests[0]
        assert "Authorization" not in there.requests[0]
        assert "Referer: http://portal/" in there.requests[0]

    async def test_cookies_go_along_to_their_host(self, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(answer(b"x")) as there:
            away = answer(b"", f"Location: http://localhost:{there.port}/x", status="302 Found")
            near = answer(b"", "Location: /near", "Set-Cookie: sid=q9; Path=/; HttpOnly", status="302 Found")
            async with ScriptedServer(near, away) as here:
                await fetch(SourceSpec.parse(here.url, headers={"Cookie": "own=1"}), session)
        assert "\r\nCookie: own=1\r\n" in here.requests[0]
        assert "own=1" in here.requests[1]
        assert "sid=q9" in here.requests[1]
        assert "q9" not in there.requests[0]

    @pytest.mark.parametrize(
        ("location", "words"),
        [
            ("/again", "redirects more than 3 times"),
            ("ftp://h/x", "not a web address"),
            ("http://h:99999999/", "not a URL"),
            ("", "not a web address"),
        ],
    )
    async def test_refused(self, location: str, words: str, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(answer(b"", f"Location: {location}", status="302 Found")) as server:
            assert words in str(await cause(server.url, session, replace(LIMITS, max_redirects=3)))


class TestCauses:
    @pytest.mark.parametrize(
        ("script", "words", "passing", "gone"),
        [
            (answer(b"no", status="404 Not Found"), "the source answered 404 Not Found", False, True),
            (answer(b"no", status="403 "), "the source answered 403 Forbidden", False, False),
            (answer(b"no", status="429 "), "the source answered 429 Too Many Requests", True, False),
            (answer(b"no", status="503 Busy now"), "the source answered 503 Busy now", True, False),
            (answer(b"no", status="799 "), "the source answered 799", True, False),
            (answer(b"x", "Content-Encoding: gzip"), "compressed content (gzip)", False, False),
            (close, "closed the connection without an answer", True, False),
            (reset, "closed the connection without an answer", True, False),
            (endless([b"x"], chunked=True, then=reset), "the connection to the source was cut", True, False),
        ],
    )
    async def test_answers(
        self, script: object, words: str, passing: bool, gone: bool, session: aiohttp.ClientSession
    ) -> None:
        async with ScriptedServer(script) as server:  # type: ignore[arg-type]
            failure = await cause(server.url, session)
            await asyncio.wait_for(server.all_closed(), 5)
        assert words in str(failure)
        assert (failure.passing, failure.gone) == (passing, gone)

    @pytest.mark.parametrize(
        "said", ["Nobody knows ann", "Wrong password se%2Fme", "se/me is wrong", "No /live/x7y8/z"]
    )
    async def test_what_says_the_secret_back_is_not_quoted(self, said: str, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(answer(b"no", status=f"403 {said}")) as server:
            url = server.url.replace("//", "//ann:se%2Fme@").replace("source.ts", "live/x7y8/z.ts")
            assert str(await cause(url, session)) == "the source answered 403 Forbidden"

    async def test_a_body_shorter_than_announced_was_cut(self, session: aiohttp.ClientSession) -> None:
        async def short(writer: asyncio.StreamWriter) -> None:
            writer.write(head("200 OK", "Content-Length: 1000") + b"x")
            await writer.drain()

        async with ScriptedServer(short) as server:
            assert "was cut" in str(await cause(server.url, session))

    async def test_not_http(self, session: aiohttp.ClientSession) -> None:
        async def icy(writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x00\x01\x02 hello\r\n\r\n")
            await writer.drain()

        async with ScriptedServer(icy) as server:
            assert "does not answer in HTTP" in str(await cause(server.url, session))

    async def test_radio(self, session: aiohttp.ClientSession) -> None:
        """Old Shoutcast servers do not say HTTP; ffmpeg reads them."""

        async def shoutcast(writer: asyncio.StreamWriter) -> None:
            writer.write(b"ICY 200 OK\r\nicy-name: Radio\r\ncontent-type: audio/mpeg\r\n\r\n\xff\xfb")
            await writer.drain()

        async with ScriptedServer(shoutcast) as server:
            failure = await cause(server.url, session)
        assert "(ICY)" in str(failure)
        assert failure.foreign

    async def test_no_answer_in_time(self, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(hang) as server:
            failure = await cause(server.url, session, replace(LIMITS, connect_s=0.1))
            assert str(failure) == f"127.0.0.1:{server.port} did not answer within 0.1 s"
            await asyncio.wait_for(server.all_closed(), 5)

    async def test_refused(self, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(hang) as server:
            pass
        failure = await cause(server.url.replace("//", "//me:secret@"), session)
        assert str(failure) == f"127.0.0.1:{server.port} refuses the connection"
        assert failure.gone

    async def test_unknown_host(self, session: aiohttp.ClientSession) -> None:
        words = str(await cause("http://nosuchhost.invalid/x?token=q9", session, replace(LIMITS, connect_s=30)))
        assert words.startswith("the host nosuchhost.invalid ")
        assert "q9" not in words

    async def test_no_tls(self, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(hang) as server:
            server_url = server.url.replace("http://", "https://")
            words = str(await cause(server_url, session, replace(LIMITS, connect_s=0.5)))
        assert words.startswith(f"127.0.0.1:{server.port} ")

    async def test_headers_that_would_split_the_request(self, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(answer(b"x")) as server:
            spec = SourceSpec.parse(server.url, headers={"X-Own": "1\r\nX-Other: 2"})
            with pytest.raises(SourceFailure, match="can't be sent"):
                await fetch(spec, session)
        assert not server.requests


async def test_leaving_closes_the_connection(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer(endless([BODY], then=hang)) as server:
        async with open_http(SourceSpec.parse(server.url), session, LIMITS) as stream:
            assert await stream.read()
            assert server.open == 1
        await asyncio.wait_for(server.all_closed(), 5)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's context with a certificate that nobody has signed."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class TestTls:
    async def test_a_certificate_that_nobody_signed(self, tls: ssl.SSLContext, session: aiohttp.ClientSession) -> None:
        async with ScriptedServer(answer(BODY), tls=tls) as server:
            words = str(await cause(server.url, session))
        assert words.startswith(f"the certificate of 127.0.0.1:{server.port} is not accepted: self")

    async def test_read_in_slices(self, tls: ssl.SSLContext) -> None:
        pieces = pieces_of(BODY, 1316)
        async with (
            ScriptedServer(endless(pieces, pause_s=0.001), tls=tls) as server,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as trusting,
        ):
            reads = []
            async with open_http(SourceSpec.parse(server.url), trusting, replace(LIMITS, slice_s=0.05)) as stream:
                while data := await stream.read():
                    reads.append(data)
        assert b"".join(reads) == BODY
        assert len(reads) < len(pieces) / 4
