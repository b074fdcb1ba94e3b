"""Channels, profiles and lists of channels over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from tests.coordinator.web_server import Services, serving
from tvarr.coordinator import m3u
from tvarr.coordinator.models import READ
from tvarr.coordinator.web import catalogue

Client = TestClient[web.Request, web.Application]
Served = tuple[Client, Services]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as both:
        yield both


async def ask(client: Client, method: str, path: str, status: int, **more: Any) -> Any:
    async with client.request(method, path, **more) as answer:
        text = await answer.text()
        assert answer.status == status, text
        if status >= 400:
            assert answer.content_type == "application/problem+json"
        return json.loads(text) if text else None


async def test_a_channel_from_its_making_to_its_end(served: Served) -> None:
    client, services = served
    made = await ask(client, "POST", "/api/v1/channels", 201, json={"name": "News HD", "url": "http://h/news.ts"})
    key = made.pop("id")
    assert made == {
        "slug": "news-hd",
        "name": "News HD",
        "url": "http://h/news.ts",
        "profile": "",
        "group": "",
        "logo": "",
        "tvg_id": "",
        "tvg_chno": "",
        "pace": "auto",
        "loop": False,
        "user_agent": "",
        "headers": {},
        "audio_languages": [],
        "program": 0,
        "max_height": 0,
        "max_kbps": 0,
    }
    assert await ask(client, "GET", "/api/v1/channels", 200) == [{"id": key, **made}]
    assert await ask(client, "GET", "/api/v1/channels/news-hd", 200) == {"id": key, **made}

    changed = await ask(client, "PATCH", f"/api/v1/channels/{key}", 200, json={"profile": "h264", "group": "A"})
    assert changed == {"id": key, **made, "profile": "h264", "group": "A"}
    assert services.asked == [("edited", key)]
    await ask(client, "PATCH", f"/api/v1/channels/{key}", 200, json={"url": "http://h/other.ts"})
    assert services.asked[1:] == [("changed", key)]

    tracks = {"audio_languages": ["DE", "eng", "eng"], "program": 3402, "max_height": 720, "max_kbps": 4000}
    changed = await ask(client, "PATCH", f"/api/v1/channels/{key}", 200, json=tracks)
    assert {name: changed[name] for name in tracks} == {**tracks, "audio_languages": ["de", "eng"]}
    assert services.asked[2:] == [("changed", key)]

    await ask(client, "DELETE", f"/api/v1/channels/{key}", 204)
    assert services.asked[1:] == [("changed", key)] * 3
    problem = await ask(client, "GET", f"/api/v1/channels/{key}", 404)
    assert problem == {"title": "Not Found", "status": 404, "detail": f"there is no channel '{key}'"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON: nested too deeply"),
        (b"\xff\xfe\xfa", 400, "the body is not JSON"),
        (b"[]", 400, "an object is needed"),
        (b"{}", 400, "name: is missing; url: is missing"),
        (b'{"name": "x", "url": "gopher://h/"}', 400, "url: nobody reads gopher:"),
        (b'{"name": "x", "url": "file:///etc/passwd"}', 400, "--media-dir"),
        (b'{"name": "x", "url": "http://h/", "profile": "nope"}', 400, "profile: there is no profile 'nope'"),
        (b'{"name": "x", "url": "http://h/", "audio_languages": ["klingon"]}', 400, "'klingon' is not a language"),
        (b'{"name": "x", "url": "http://h/", "program": 65536}', 400, "program: "),
        (b'{"name": "\\ud800", "url": "http://h/"}', 400, "name: "),
        (b'{"name": "x", "url": "http://h/", "slug": "taken"}', 409, "slug: taken is taken"),
    ],
)
async def test_channels_that_are_refused(served: Served, body: bytes, status: int, words: str) -> None:
    client, _ = served
    await ask(client, "POST", "/api/v1/channels", 201, json={"name": "Taken", "url": "http://h/"})
    problem = await ask(client, "POST", "/api/v1/channels", status, data=body)
    assert words in problem["detail"]
    assert len(await ask(client, "GET", "/api/v1/channels", 200)) == 1


async def test_a_body_that_is_too_large(served: Served) -> None:
    client, _ = served
    await ask(client, "POST", "/api/v1/channels", 413, data=b"x" * (1024 * 1024 + 1))


async def test_a_change_must_be_an_object(served: Served) -> None:
    client, _ = served
    await ask(client, "POST", "/api/v1/channels", 201, json={"name": "News", "url": "http://h/"})
    for path in ("/api/v1/channels/news", "/api/v1/profiles/h264"):
        problem = await ask(client, "PATCH", path, 400, json=["name"])
        assert problem["detail"] == "the body is not a JSON object"


@pytest.mark.parametrize("key", ["%ff", "a%00b", "..%2f..%2fetc", "%F0%9F%92%A9", "x" * 3000])
async def test_keys_that_nobody_has(served: Served, key: str) -> None:
    client, _ = served
    await ask(client, "GET", f"/api/v1/channels/{key}", 404)


async def test_profiles(served: Served) -> None:
    client, _ = served
    builtin = await ask(client, "GET", "/api/v1/profiles", 200)
    assert [profile["name"] for profile in builtin][:2] == ["passthrough", "h264"]
    assert all(profile["builtin"] for profile in builtin)
    made = await ask(
        client, "POST", "/api/v1/profiles", 201, json={"name": "tiny", "video_codec": "h264", "width": 320, "crf": None}
    )
    assert (made["width"], made["crf"], made["builtin"], made["gop_s"]) == (320, None, False, 2.0)
    changed = await ask(client, "PATCH", "/api/v1/profiles/tiny", 200, json={"crf": 30})
    assert changed == {**made, "crf": 30}
    assert await ask(client, "GET", "/api/v1/profiles/tiny", 200) == changed
    await ask(client, "DELETE", "/api/v1/profiles/tiny", 204)
    await ask(client, "GET", "/api/v1/profiles/tiny", 404)
    assert "built in" in (await ask(client, "PATCH", "/api/v1/profiles/h264", 409, json={"crf": 30}))["detail"]
    assert "built in" in (await ask(client, "DELETE", "/api/v1/profiles/h264", 409))["detail"]
    await ask(client, "POST", "/api/v1/profiles", 409, json={"name": "h264"})
    wrong = await ask(client, "POST", "/api/v1/profiles", 400, json={"name": "x", "video_codec": "h265"})
    assert wrong["detail"].startswith("video_codec: ")


LIST = """#EXTM3U
#EXTINF:-1 tvg-id="one" group-title="G",One
http://h/1.ts
#EXTINF:-1,Two
gopher://h/2
#EXTINF:-1,Old name
http://h/old.ts
"""


async def test_a_list_as_the_body(served: Served) -> None:
    client, _ = served
    old = await ask(client, "POST", "/api/v1/channels", 201, json={"name": "Old", "url": "http://h/old.ts"})
    result = await ask(client, "POST", "/api/v1/channels/import", 200, data=LIST)
    (added,) = result["added"]
    assert (added["line"], added["slug"], added["name"]) == (3, "one", "One")
    assert result["kept"] == [{"line": 7, "id": old["id"], "slug": "old", "name": "Old"}]
    assert result["refused"] == [
        {
            "line": 5,
            "name": "Two",
            "reason": "url: nobody reads gopher:; " + READ,
        }
    ]
    again = await ask(client, "POST", "/api/v1/channels/import", 200, data=LIST)
    assert (len(again["added"]), len(again["kept"]), len(again["refused"])) == (0, 2, 1)
    assert len(await ask(client, "GET", "/api/v1/channels", 200)) == 2


async def test_a_later_list_brings_channels_up_to_date(served: Served) -> None:
    client, services = served
    await ask(client, "POST", "/api/v1/channels/import", 200, data=LIST)
    renamed = await ask(client, "POST", "/api/v1/channels/import", 200, data=LIST.replace(",One", ",First"))
    assert [(line["slug"], line["name"]) for line in renamed["updated"]] == [("one", "First")]
    moved = LIST.replace(",One", ",First").replace("/1.ts", "/1.ts?token=new")
    assert len((await ask(client, "POST", "/api/v1/channels/import", 200, data=moved))["updated"]) == 1
    key = renamed["updated"][0]["id"]
    assert services.asked == [("edited", key), ("changed", key)]
    assert len(await ask(client, "GET", "/api/v1/channels", 200)) == 2


async def test_what_is_exported_can_be_imported(tmp_path: Path) -> None:
    """The sources give the same channels elsewhere; the playlist for players gives our streams, elsewhere only."""
    one = {
        "name": "One, HD",
        "url": "http://user:pw@h/1.ts?token=x",
        "tvg_id": "one.tv",
        "tvg_chno": "12.1",
        "logo": "http://h/logo.png?a=1",
        "group": 'News "24"',
        "user_agent": "Player/1.0 (TV)",
        "headers": {"Referer": "http://h/", "Authorization": "Basic eDp5", "X-Key": "|=a&b%"},
    }
    async with serving(tmp_path / "here") as (client, _):
        await ask(client, "POST", "/api/v1/channels", 201, json=one)
        await ask(client, "POST", "/api/v1/channels", 201, json={"name": "Two", "url": "https://h/2.m3u8"})
        before = await ask(client, "GET", "/api/v1/channels", 200)
        async with client.get("/api/v1/channels.m3u") as answer:
            assert answer.content_type == "audio/x-mpegurl"
            sources = await answer.text()
        async with client.get("/playlist.m3u") as answer:
            streams = await answer.text()
        refused = await ask(client, "POST", "/api/v1/channels/import", 200, data=streams)
        assert [line["reason"] for line in refused["refused"]] == ["this is a stream of this tvarr itself"] * 2

    async def elsewhere(name: str, text: str) -> list[dict[str, Any]]:
        async with serving(tmp_path / name) as (client, _):
            result = await ask(client, "POST", "/api/v1/channels/import", 200, data=text)
            assert (len(result["added"]), result["refused"]) == (2, [])
            again = await ask(client, "POST", "/api/v1/channels/import", 200, data=text)
            assert (len(again["kept"]), again["added"], again["updated"]) == (2, [], [])
            return list(await ask(client, "GET", "/api/v1/channels", 200))

    copied = await elsewhere("copy", sources)
    assert [{**channel, "id": ""} for channel in copied] == [{**channel, "id": ""} for channel in before]
    relayed = await elsewhere("relay", streams)
    shown = ("slug", "name", "tvg_id", "tvg_chno", "logo", "group")
    assert [[channel[field] for field in shown] for channel in relayed] == [
        ["one-hd", "One, HD", "one.tv", "12.1", "http://h/logo.png?a=1", "News '24'"],
        ["two", "Two", "two", "", "", ""],
    ]
    assert relayed[0]["url"].endswith("/stream/one-hd.ts")


async def test_a_list_by_its_address(served: Served) -> None:
    client, _ = served

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=LIST) if request.path == "/list.m3u" else web.Response(status=403)

    provider = web.Application()
    provider.router.add_get("/{any}", answer)
    async with TestServer(provider) as server:
        url = str(server.make_url("/list.m3u"))
        result = await ask(client, "POST", "/api/v1/channels/import", 200, json={"url": url})
        assert len(result["added"]) == 2
        problem = await ask(client, "POST", "/api/v1/channels/import", 502, json={"url": url[:-1]})
        assert "the server answered 403" in problem["detail"]
    problem = await ask(client, "POST", "/api/v1/channels/import", 502, json={"url": url})
    assert problem["detail"].startswith("the list can't be read: ")


async def test_a_list_that_is_elsewhere_is_fetched_there_without_the_password(served: Served) -> None:
    client, _ = served
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        if target := request.query.get("to"):
            raise web.HTTPFound(target)
        return web.Response(text=LIST)

    provider, elsewhere = web.Application(), web.Application()
    for application in (provider, elsewhere):
        application.router.add_get("/list.m3u", answer)
    async with TestServer(provider) as first, TestServer(elsewhere) as second:
        url = first.make_url("/list.m3u").with_user("ann").with_password("sesame")
        there = str(url.with_query(to=str(second.make_url("/list.m3u"))))
        await ask(client, "POST", "/api/v1/channels/import", 200, json={"url": there})
        assert (bool(seen[0]), seen[1]) == (True, None)
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/list.m3u", "http://[x/"):
            there = str(url.with_query(to=target))
            async with client.post("/api/v1/channels/import", json={"url": there}) as refused:
                assert refused.status in {400, 502}
                assert "sesame" not in await refused.text()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "http://[x/", "ftp://h/"])
async def test_addresses_that_no_list_has(served: Served, url: str) -> None:
    client, _ = served
    await ask(client, "POST", "/api/v1/channels/import", 400, json={"url": url})


async def test_what_is_no_list(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = served
    problem = await ask(client, "POST", "/api/v1/channels/import", 400, data="<html>")
    assert "not an M3U playlist" in problem["detail"]
    monkeypatch.setattr(catalogue, "MAX_LIST_BYTES", 2 * 1024 * 1024)
    large = LIST + "#" * (2 * 1024 * 1024 - len(LIST))
    await ask(client, "POST", "/api/v1/channels/import", 200, data=large)
    problem = await ask(client, "POST", "/api/v1/channels/import", 400, data=large + "#")
    assert problem["detail"] == "the list is larger than 2 MiB"


async def test_a_playlist_for_players(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        await catalogue.import_list(services, LIST.encode(), "http://tv.example.org:81")
        async with client.get("/playlist.m3u?profile=h264", headers={"Host": "tv.example.org:81"}) as answer:
            assert answer.content_type == "audio/x-mpegurl"
            entries = m3u.parse(await answer.text())
        assert [(entry.name, entry.group, entry.url) for entry in entries] == [
            ("One", "G", "http://tv.example.org:81/stream/one.ts?profile=h264"),
            ("Old name", "", "http://tv.example.org:81/stream/old-name.ts?profile=h264"),
        ]
        proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tv.example.org"}
        async with client.get("/playlist.m3u?format=hls", headers=proxied) as answer:
            assert "https://tv.example.org/stream/one/index.m3u8\n" in await answer.text()
        await ask(client, "GET", "/playlist.m3u?format=dash", 400)
        await ask(client, "GET", "/playlist.m3u?profile=nope", 404)
        await ask(client, "GET", "/playlist.m3u", 400, headers={"X-Forwarded-Host": 'x"><b>'})


async def test_two_editors_do_not_overwrite_each_other(served: Served) -> None:
    client, _ = served
    for made, path in (
        ({"name": "News", "url": "http://h/", "slug": "news"}, "/api/v1/channels"),
        ({"name": "mine", "video_codec": "h264"}, "/api/v1/profiles"),
    ):
        one = f"{path}/{made.get('slug', made['name'])}"
        async with client.post(path, json=made) as answer:
            created = answer.headers["ETag"]
        async with client.get(one) as answer:
            read = answer.headers["ETag"]
        assert read == created
        change = {"group": "A"} if "url" in made else {"gop_s": 1.0}
        async with client.patch(one, json=change, headers={"If-Match": f'"other", {read}'}) as answer:
            assert answer.status == 200
            newest = answer.headers["ETag"]
        assert newest != read
        for method, body in (("PATCH", {"name": "Lost"}), ("DELETE", None)):
            problem = await ask(client, method, one, 412, json=body, headers={"If-Match": read})
            assert problem["detail"] == f"{made['name']} was changed meanwhile: read it again"
        async with client.get(one) as answer:
            assert answer.headers["ETag"] == newest
        await ask(client, "PATCH", one, 200, json=change, headers={"If-Match": "*"})
        await ask(client, "DELETE", one, 204, headers={"If-Match": newest})


async def test_a_long_list_in_parts(served: Served) -> None:
    client, _ = served
    text = "#EXTM3U\n" + "".join(f"#EXTINF:-1,C{n}\nhttp://h/{n}\n" for n in range(25))
    await ask(client, "POST", "/api/v1/channels/import", 200, data=text, headers={"Content-Type": "audio/x-mpegurl"})
    names: list[str] = []
    path: str | None = "/api/v1/channels?limit=10"
    while path is not None:
        async with client.get(path) as answer:
            assert answer.headers["X-Total-Count"] == "25"
            names += [channel["name"] for channel in await answer.json()]
            link = answer.links.get("next")
            path = URL(link["url"]).path_qs if link else None
    assert names == [f"C{n}" for n in range(25)]
    assert len(await ask(client, "GET", "/api/v1/channels", 200)) == 25
    assert await ask(client, "GET", "/api/v1/channels?offset=25", 200) == []
    for query in ("limit=0", "limit=x", "limit=-1", "limit=1001", "offset=-1", "limit=1e3", "offset=%D9%A1"):
        assert "takes a whole number" in (await ask(client, "GET", f"/api/v1/channels?{query}", 400))["detail"]
