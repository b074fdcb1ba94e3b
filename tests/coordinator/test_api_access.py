"""Who gets in, and what pages of other sites can't do."""

from __future__ import annotations

import asyncio
from http.cookies import SimpleCookie
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.coordinator.web_server import PASSWORD, serving
from tvarr.coordinator import auth
from tvarr.coordinator.auth import TooManyFailures
from tvarr.coordinator.web import ROUTES
from tvarr.errors import CannotCarry, ErrorCode, JobError, NoPlacement, SourceError, TvarrError

SHUT = sorted({(route.method, route.path) for route in ROUTES if not route.open})
OPEN = sorted({route.path for route in ROUTES if route.open and route.method == "GET" and "{" not in route.path})


@pytest.mark.parametrize(
    ("method", "path"), [*SHUT, ("GET", "/api/nothing"), ("POST", "/channels"), ("POST", "/logout")]
)
async def test_the_api_asks_for_the_password(tmp_path: Path, method: str, path: str) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {PASSWORD}"}):
            async with client.request(method, path, headers=headers) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert answer.content_type == "application/problem+json"


async def test_a_wrong_password_is_called_so(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for headers, words in (
            ({}, "is needed"),
            ({"Authorization": "Bearer wrong"}, "this is not the admin password"),
        ):
            async with client.get("/api/v1/channels", headers=headers) as answer:
                assert words in (await answer.json())["detail"]


async def test_an_address_that_is_no_stream_is_answered_with_those_that_are(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for path in ("/stream/news", "/stream/news.mkv"):
            async with client.get(path) as answer:
                assert answer.status == 404
                assert "/stream/CHANNEL.ts" in (await answer.json(content_type=None))["detail"]


@pytest.mark.parametrize("path", [*OPEN, "/login", "/static/tvarr.css", "/stream/x.ts"])
async def test_players_and_probes_need_none(tmp_path: Path, path: str) -> None:
    async def stream(_request: web.Request) -> web.Response:
        return web.Response(text="ts")

    routes = [web.get("/stream/{channel}.ts", stream)]
    async with serving(tmp_path, logged_in=False, extra_routes=routes) as (client, _), client.get(path) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/stream/x.ts", "/playlist.m3u", "/lineup.json", "/discover.json", "/device.xml"])
async def test_a_stream_key_is_asked_for_where_there_is_one(tmp_path: Path, path: str) -> None:
    async def stream(_request: web.Request) -> web.Response:
        return web.Response(text="ts")

    routes = [web.get("/stream/{channel}.ts", stream)]
    async with serving(tmp_path, logged_in=False, extra_routes=routes) as (client, services):
        services.stream_key = "kä"
        for given, status in (("", 401), ("?key=", 401), ("?key=other", 401), ("?key=k%C3%A4", 200)):
            async with client.get(path + given) as answer:
                assert answer.status == status


@pytest.mark.parametrize(
    "path", ["/stream/x/index.m3u8", "/stream/x/manifest.mpd", "/stream/x/1/segment-1.m4s", "/stream/x.mp4"]
)
async def test_segments_and_their_lists_are_behind_the_key_too(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        services.stream_key = "key"
        for query, status in (("", 401), ("?key=other", 401), ("?key=key", 404)):
            async with client.get(path + query) as answer:
                assert answer.status == status  # 404: there is no such channel here


@pytest.mark.parametrize("path", ["/", "/transcoders", "/relays", "/channels", "/profiles", "/transcoders/a?b=1"])
async def test_pages_lead_to_the_login_and_back(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        services.add_samples()
        services.daemons[0]["id"] = "a"
        async with client.get(path) as answer:
            assert answer.url.path == "/login"
            assert answer.url.query["next"] == path
        form = {"password": PASSWORD, "next": path}
        async with client.post("/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
            assert answer.headers["Location"] == path
            cookie: SimpleCookie = SimpleCookie(answer.headers["Set-Cookie"])
            assert cookie["tvarr_session"]["httponly"]
            assert cookie["tvarr_session"]["samesite"] == "Strict"
            assert cookie["tvarr_session"]["path"] == "/"
        async with client.get(path) as answer:
            assert answer.status == 200
        async with client.get("/api/v1/channels") as answer:
            assert answer.status == 200
        async with client.post("/logout") as answer:
            assert answer.url.path == "/login"
        client.session.cookie_jar.update_cookies({"tvarr_session": cookie["tvarr_session"].value})
        async with client.get("/api/v1/channels") as answer:
            assert answer.status == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example/", "/\\evil.example", "", "/a\r\nX: y"])
async def test_the_login_leads_nowhere_else(tmp_path: Path, target: str) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        form = {"password": PASSWORD, "next": target}
        async with client.post("/login", data=form, allow_redirects=False) as answer:
            assert answer.headers["Location"] == "/"


async def test_wrong_passwords_are_slowed_down(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for _ in range(auth.FREE_FAILURES):
            async with client.post("/login", data={"password": "guess"}) as answer:
                assert answer.status == 401
                assert "wrong password" in await answer.text()
        async with client.post("/login", data={"password": PASSWORD}) as answer:
            assert answer.status == 429
            assert "too many wrong passwords" in await answer.text()
        async with client.get("/api/v1/channels", headers={"Authorization": f"Bearer {PASSWORD}"}) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 201, id="no browser"),
        pytest.param({"Origin": "http://tv:8080"}, 201, id="our own page"),
        pytest.param({"Origin": "https://tv.example.org", "X-Forwarded-Host": "tv.example.org"}, 201, id="proxied"),
        pytest.param({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 201, id="our own page, origin withheld"),
        pytest.param({"Origin": "http://evil.example"}, 403, id="another site"),
        pytest.param({"Origin": "http://tv:9999"}, 403, id="another port"),
        pytest.param({"Origin": "null"}, 403, id="a sandboxed frame"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="another site by fetch metadata"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, 403, id="a neighbour"),
    ],
)
@pytest.mark.parametrize("no_auth", [False, True])
async def test_pages_of_other_sites_change_nothing(
    tmp_path: Path, headers: dict[str, str], status: int, no_auth: bool
) -> None:
    async with serving(tmp_path, logged_in=False, no_auth=no_auth) as (client, services):
        cookies = {} if no_auth else {"tvarr_session": services.auth.start_session()}
        body = {"name": "x", "url": "http://h/"}
        sent = {"Host": "tv:8080", **headers, "Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())}
        async with client.post("/api/v1/channels", json=body, headers=sent) as answer:
            assert answer.status == status
        assert len(await services.store.channels()) == (status == 201)


async def test_without_login(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False, no_auth=True) as (client, _):
        for path in ("/api/v1/channels", "/channels", "/api/v1/registration"):
            async with client.get(path) as answer:
                assert answer.status == 200
        async with client.get("/login") as answer:
            assert answer.url.path == "/transcoders"


async def test_headers_of_pages(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _), client.get("/channels") as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("error", "status", "reasons"),
    [
        (SourceError("the server answered 404"), 502, None),
        (CannotCarry("MPEG-TS has no mapping for av1"), 406, None),
        (NoPlacement("no daemon can do it", ["attic: no hevc encoder"]), 503, ["attic: no hevc encoder"]),
        (JobError(ErrorCode.FFMPEG_EXITED, "ffmpeg ended", stderr=["bang"]), 503, ["bang"]),
        (JobError(ErrorCode.BAD_INPUT, "nothing could be decoded"), 502, None),
        (TvarrError("the store failed"), 500, None),
        (RuntimeError("secret detail"), 500, None),
    ],
)
async def test_what_a_player_is_told(tmp_path: Path, error: Exception, status: int, reasons: list[str] | None) -> None:
    async def stream(_request: web.Request) -> web.Response:
        raise error

    async with (
        serving(tmp_path, logged_in=False, extra_routes=[web.get("/stream/{channel}.ts", stream)]) as (client, _),
        client.get("/stream/x.ts") as answer,
    ):
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert ("Retry-After" in answer.headers) == (status == 503)
        problem = await answer.json(content_type=None)
    assert problem.get("reasons") == reasons
    assert (problem["detail"] == str(error)) == isinstance(error, TvarrError)


async def test_methods_that_a_path_has_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _), client.put("/api/v1/channels", json={}) as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
        assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "there"),
    [
        ("GET", "/channels/", "/channels"),
        ("GET", "/api/v1/channels/?limit=1", "/api/v1/channels?limit=1"),
        ("POST", "//api/v1/channels", "/api/v1/channels"),
        ("GET", "/playlist.m3u/", "/playlist.m3u"),
        ("GET", "//", "/"),
    ],
)
async def test_slashes_too_many_lead_to_the_path_without(tmp_path: Path, method: str, path: str, there: str) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        url = str(client.make_url("/")).rstrip("/") + path  # `client.get` would take `//api` for a host
        async with client.session.request(method, url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, there)


async def test_slashes_of_nothing_are_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        for path in ("/nothing/", "/api/v1/", "/api/v1/channels/x/nothing/"):
            async with client.get(path, allow_redirects=False) as answer:
                assert answer.status == 404


async def test_pages_of_other_sites_may_play(tmp_path: Path) -> None:
    """Also where there is nothing to play: without the header their scripts would see a network error."""
    async with serving(tmp_path, logged_in=False) as (client, services):
        asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "GET"}
        async with client.options("/stream/news/index.m3u8", headers=asked) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
        async with client.get("/stream/nothing", headers=asked) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (404, "*")
        for path in ("/api/v1/channels", "/playlist.m3u"):
            async with client.options(path, headers=asked) as answer:
                assert answer.status in {401, 405}
                assert "Access-Control-Allow-Origin" not in answer.headers
        services.stream_key = "key"
        async with client.options("/stream/news/index.m3u8?key=key", headers=asked) as answer:
            assert answer.status == 204
        async with client.options("/stream/news/index.m3u8", headers=asked) as answer:
            assert answer.status == 401


async def test_who_is_denied_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tampered cookie, a page of another site, a missing and a wrong password: 401 or 403, and one line each."""
    async with serving(tmp_path, logged_in=False) as (client, services):
        services.stream_key = "key"
        good = services.auth.start_session()
        tries: list[tuple[str, str, dict[str, str], int, str]] = [
            ("GET", "/api/v1/relays", {"Cookie": f"tvarr_session={good[:-1]}!"}, 401, "its session is over"),
            ("POST", "/api/v1/channels", {"Origin": "http://evil.example"}, 403, "a page of another site"),
            ("POST", "/login", {"Origin": "http://evil.example"}, 403, "a page of another site"),
            ("GET", "/api/v1/registration", {}, 401, "neither a password nor a session"),
            ("GET", "/api/v1/registration", {"Authorization": "Bearer guess-a-secret"}, 401, "wrong password"),
            ("GET", "/stream/x.ts?key=guess-a-secret", {}, 401, "no stream key"),
            ("GET", "/playlist.m3u", {}, 401, "no stream key"),
        ]
        for method, path, headers, status, words in tries:
            async with client.request(method, path, headers=headers) as answer:
                assert answer.status == status, path
            assert words in caplog.text
        async with client.get("/api/v1/relays", headers={"Cookie": f"tvarr_session={good}"}) as answer:
            assert answer.status == 200
        lines = len(caplog.records)
        for _ in range(50):
            async with client.get("/api/v1/registration") as answer:
                assert answer.status == 401
        assert len(caplog.records) == lines  # nobody fills the log
    assert "secret" not in caplog.text


async def test_a_form_that_is_sent_when_the_login_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        form = {"name": "One", "url": "http://h/1"}
        headers = {"Accept": "text/html,*/*", "Referer": str(client.make_url("/channels?q=<b>"))}
        async with client.post("/channels", data=form, headers=headers) as answer:
            assert (answer.status, answer.content_type) == (401, "text/html")
            page = await answer.text()
        assert "Your login is over, and nothing was changed" in page
        assert 'name="next" value="/channels"' in page
        async with client.post("/channels", data=form) as answer:
            assert (answer.status, answer.content_type) == (401, "application/problem+json")
        assert await services.store.channels() == []


async def test_ten_thousand_guesses_hold_nobody_else_up(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        guesses = [services.auth.password_is(f"guess {n}", "192.0.2.66") for n in range(10_000)]
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        looked_at = sum(answer is False for answer in answers)
        assert looked_at < auth.FREE_FAILURES + auth.MAX_SCRYPT_AT_ONCE
        assert sum(isinstance(answer, TooManyFailures) for answer in answers) == 10_000 - looked_at
        for _ in range(auth.FREE_FAILURES):
            async with client.post("/login", data={"password": "guess"}) as answer:
                assert answer.status == 401
        async with client.post("/login", data={"password": PASSWORD}) as answer:
            assert answer.status == 429  # from the same address
        assert client.port is not None
        async with (
            aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)) as elsewhere,
            aiohttp.ClientSession(connector=elsewhere) as other,
            other.post(
                f"http://127.0.0.1:{client.port}/login", data={"password": PASSWORD}, allow_redirects=False
            ) as answer,
        ):
            assert answer.status == 303


async def test_the_password_is_kept_as_a_scrypt_hash(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (_, services):
        stored = await services.store.setting(auth.PASSWORD_KEY)
        assert stored is not None
        assert stored.startswith("scrypt$")
        assert PASSWORD not in stored


async def test_over_tls_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, _):
        for scheme, secure in (("https", True), ("http", "")):
            headers = {"X-Forwarded-Proto": scheme}
            form = {"password": PASSWORD}
            async with client.post("/login", data=form, headers=headers, allow_redirects=False) as answer:
                cookie: SimpleCookie = SimpleCookie(answer.headers["Set-Cookie"])
                assert cookie["tvarr_session"]["secure"] == secure
