"""Lists of channels over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.coordinator.web_server import Served, ask, serving
from tests.fakes.sources import Script, ScriptedServer, close, head
from tests.fakes.sources import answer as scripted
from tvarr.coordinator import m3u
from tvarr.coordinator.models import READ
from tvarr.coordinator.web import lists

LIST = """#EXTM3U
#EXTINF:-1 tvg-id="one" group-title="G",One
http://h/1.ts
#EXTINF:-1,Two
gopher://h/2
#EXTINF:-1,Old name
http://h/old.ts
"""


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01sesame\r\n\r\n")
    await writer.drain()


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(head("200 OK", "Content-Length: 1000") + b"#EXTM3U\n")
    await writer.drain()


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
    lacks = await ask(client, "POST", "/api/v1/channels/import", 200, data="#EXTM3U\n#EXTINF:-1,One\n")
    assert lacks["refused"] == [{"line": 2, "name": "One", "reason": "no URL follows"}]
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
        for kind in ("application/x-www-form-urlencoded", "text/plain"):  # the first is what `curl -d` says
            body = {"data": json.dumps({"url": url}), "headers": {"Content-Type": kind}}
            assert len((await ask(client, "POST", "/api/v1/channels/import", 200, **body))["kept"]) == 2
        problem = await ask(client, "POST", "/api/v1/channels/import", 502, json={"url": url[:-1]})
        assert "the server answered 403" in problem["detail"]
    problem = await ask(client, "POST", "/api/v1/channels/import", 502, json={"url": url})
    assert problem["detail"] == f"the list can't be read: {URL(url).authority} refuses the connection"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (scripted(b"", status="403 sesame\x1b[2J is wrong"), "the server answered 403 Forbidden"),
        (scripted(b"", status="403 sesame is wrong"), "the server answered 403 Forbidden"),
        (scripted(b"", status="403 Not from there"), "the server answered 403 Not from there"),
        (
            scripted(b"", "Location: list?p=sesame", "Connection: close", status="302 Found"),
            "its server redirects too often",
        ),
        (scripted(b"", "Location: ftp://h/sesame", status="302 Found"), ""),
        (garbage, "does not answer in HTTP"),
        (cut, "it was cut off"),
        (close, "closed the connection without an answer"),
    ],
    ids=["control", "secret", "words", "redirects", "elsewhere", "garbage", "cut", "nothing"],
)
async def test_why_a_list_can_t_be_read_has_no_secret(script: Script, words: str, served: Served) -> None:
    client, _ = served
    async with ScriptedServer(script) as server:
        url = f"http://ann:sesame@127.0.0.1:{server.port}/get.php?password=sesame"
        async with client.post("/api/v1/channels/import", json={"url": url}) as refused:
            text = await refused.text()
    assert refused.status in {400, 502}
    assert words in text
    assert "sesame" not in text


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
    monkeypatch.setattr(lists, "MAX_LIST_BYTES", 2 * 1024 * 1024)
    large = LIST + "#" * (2 * 1024 * 1024 - len(LIST))
    await ask(client, "POST", "/api/v1/channels/import", 200, data=large)
    problem = await ask(client, "POST", "/api/v1/channels/import", 400, data=large + "#")
    assert problem["detail"] == "the list is larger than 2 MiB"


async def test_a_playlist_for_players(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        await lists.import_list(services, LIST.encode(), "http://tv.example.org:81")
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
