"""The forms of channels and profiles do what the API does, and show what was typed where that can't be."""

from __future__ import annotations

import re
from html import escape, unescape

import pytest
from aiohttp import FormData

from tests.coordinator.web_server import Served
from tvarr.coordinator.models import ChannelCreate, ProfileCreate, parse
from tvarr.coordinator.web import catalogue_pages

BAD_NAME = """A "B" <script>alert(1)</script>"""


async def page(served: Served, path: str, status: int = 200, **form: str) -> str:
    """A page, or what a form leads to, as text."""
    client, _ = served
    request = client.post(path, data=form) if form else client.get(path)
    async with request as answer:
        assert answer.status == status, await answer.text()
        text = await answer.text()
    assert "<script>" not in text
    return text


def fields(text: str) -> dict[str, str]:
    """The inputs of a page by their names."""
    found = re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', text)
    return {name: unescape(value) for name, value in found}


async def add(served: Served, **values: str) -> str:
    channel = await served[1].store.add_channel(parse(ChannelCreate, {"name": "One", "url": "http://h/1", **values}))
    return channel.id


async def test_adding_a_channel(served: Served) -> None:
    asked = {"name": BAD_NAME, "url": "http://u:secret@h/1.ts", "profile": "h264", "group": "", "loop": "on"}
    text = await page(served, "/channels", **asked)
    assert escape(BAD_NAME).replace("&quot;", "&#34;") in text
    (channel,) = await served[1].store.channels()
    assert (channel.profile, channel.loop, channel.group) == ("h264", True, "")
    assert "secret" not in await page(served, "/channels")

    text = await page(served, "/channels", 400, name="kept", url="gopher://h/")
    assert "nobody reads gopher:" in text
    assert 'value="kept"' in text


async def test_a_page_that_is_missing_is_a_page(served: Served) -> None:
    client, _ = served
    for path, words in (
        ("/channels/gone", "there is no channel 'gone'"),
        ("/profiles/gone", "there is no profile 'gone'"),
        ("/nowhere", "there is no such page"),
    ):
        async with client.get(path, headers={"Accept": "text/html,*/*;q=0.8"}) as answer:
            text = unescape(await answer.text())
            assert (answer.status, answer.content_type) == (404, "text/html"), text
        assert words in text
        assert 'href="/channels"' in text
    for path in ("/api/v1/channels/gone", "/stream/gone.ts", "/hdhr/gone"):
        async with client.get(path, headers={"Accept": "text/html,*/*;q=0.8"}) as answer:
            assert (answer.status, answer.content_type) == (404, "application/problem+json")
    async with client.get("/channels/gone") as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")


async def test_editing_a_channel(served: Served) -> None:
    key = await add(served, user_agent="x")
    form = fields(await page(served, f"/channels/{key}"))
    form.update(name="Two", user_agent="", headers="X-One: 1\r\n\r\nX-Two: a: b", pace="fast", tvg_chno="7")
    form.update(audio_languages="deu, eng", program="3")
    await page(served, f"/channels/{key}", **form)
    channel = await served[1].store.channel(key)
    assert (channel.name, channel.user_agent, channel.pace, channel.tvg_chno) == ("Two", "", "fast", "7")
    assert channel.headers == {"X-One": "1", "X-Two": "a: b"}
    assert channel.url == "http://h/1"
    assert (list(channel.audio_languages), channel.program, channel.max_height) == (["deu", "eng"], 3, 0)
    assert 'value="deu, eng"' in await page(served, f"/channels/{key}")
    assert ("changed", key) in served[1].asked
    form["version"] = fields(await page(served, f"/channels/{key}"))["version"]
    assert "headers: takes lines" in await page(served, f"/channels/{key}", 400, **{**form, "headers": "nonsense"})


async def test_two_editors_do_not_overwrite_each_other(served: Served) -> None:
    key = await add(served)
    mine = fields(await page(served, f"/channels/{key}"))
    theirs = {**mine, "name": "Theirs"}
    await page(served, f"/channels/{key}", **theirs)
    text = await page(served, f"/channels/{key}", 412, **{**mine, "name": "Mine"})
    assert "Somebody else changed this meanwhile" in text
    assert (await served[1].store.channel(key)).name == "Theirs"
    again = fields(text)
    assert again["name"] == "Mine"
    await page(served, f"/channels/{key}", **again)
    assert (await served[1].store.channel(key)).name == "Mine"


async def test_removing_and_testing_a_channel(served: Served) -> None:
    client, _ = served
    good, dead = await add(served), await add(served, url="http://h/dead")
    async with client.post(f"/channels/{good}/test") as answer:
        text = await answer.text()
    assert "the first media came after 0.4 s" in text
    assert "1920×1080" in text
    async with client.post(f"/channels/{dead}/test") as answer:
        assert escape("nobody <there>") in await answer.text()
    async with client.post(f"/channels/{good}/remove") as answer:
        assert answer.status == 200
    assert [channel.id for channel in await served[1].store.channels()] == [dead]
    await page(served, f"/channels/{good}", 404)


async def test_links_for_players(served: Served) -> None:
    served[1].stream_key = "k&y"
    key = await add(served)
    text = unescape(await page(served, f"/channels/{key}?profile=h264"))
    for link in ("/stream/one.ts?profile=h264&key=k%26y", "/stream/one/manifest.mpd?profile=h264&key=k%26y"):
        assert link in text
    assert "/stream/one.ts?key=k%26y" in unescape(await page(served, f"/channels/{key}?profile=nonsense"))


async def test_long_lists_are_shown_in_parts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_pages, "PAGE_ROWS", 2)
    for number in range(5):
        await add(served, name=f"Number {number}", url=f"http://h/{number}")
    assert [f"Number {n}" in await page(served, "/channels") for n in range(5)] == [True, True, False, False, False]
    assert "Number 4" in await page(served, "/channels?page=2")
    for odd in ("99999", "x", "-1", "٣"):
        assert "Number" in await page(served, f"/channels?page={odd}")
    assert "Number 3" in await page(served, "/channels?q=NUMBER+3")
    assert "No channel is called so" in await page(served, "/channels?q=%3Cscript%3E")


async def test_importing_by_url(served: Served) -> None:
    client, _ = served
    await add(served)
    text = await page(
        served, "/channels/import", url=str(client.make_url("/playlist.m3u")).replace("127.0.0.1", "localhost")
    )
    assert "1 added, 0 updated, 0 kept, 0 refused" in text
    assert "takes an http or https URL" in await page(served, "/channels/import", 400, url="nowhere")
    assert "name a URL or choose a file" in await page(served, "/channels/import", 400, url="")


async def test_importing_a_file(served: Served) -> None:
    client, services = served
    form = FormData()
    form.add_field("url", "")
    lines = "#EXTM3U\n#EXTINF:-1,<b>One</b>\nhttp://h/1\n#EXTINF:-1,<i>Two\ngopher://h/2\n"
    form.add_field("file", lines.encode(), filename="list.m3u")
    async with client.post("/channels/import", data=form) as answer:
        text = await answer.text()
    assert "1 added, 0 updated, 0 kept, 1 refused" in text
    assert escape("<i>Two") in text
    assert [channel.name for channel in await services.store.channels()] == ["<b>One</b>"]


async def test_a_form_that_is_broken(served: Served) -> None:
    client, _ = served
    for path in ("/channels", "/channels/import", "/login", "/profiles"):
        for kind, data in (("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"--x\r\nnonsense")):
            async with client.post(path, data=data, headers={"Content-Type": kind}) as answer:
                assert answer.status in {400, 401}, path


async def test_profiles_by_form(served: Served) -> None:
    new = {"name": "small", "video_codec": "h264", "audio_codec": "aac", "width": "320", "crf": "", "gop_s": "1.5"}
    assert "/profiles/small" in await page(served, "/profiles", **new)
    profile = await served[1].store.profile("small")
    assert (profile.width, profile.crf, profile.gop_s) == (320, None, 1.5)

    form = fields(await page(served, "/profiles/small")) | {"video_codec": "h264", "audio_codec": "aac"}
    await page(served, "/profiles/small", **{**form, "width": "", "crf": "23"})
    profile = await served[1].store.profile("small")
    assert (profile.width, profile.crf) == (0, 23)
    assert served[1].asked == [("profile", "small")]
    assert "Somebody else changed this" in await page(served, "/profiles/small", 412, **form)

    text = await page(served, "/profiles", 400, name="../x", flags="-vf evil", video_codec="rm -rf")
    assert "video_codec" in text
    assert "name: takes letters, digits, . _ and -" in text
    assert "is built in" in await page(served, "/profiles/h264")
    await page(served, "/profiles/h264", 409, **{**form, "name": "h264"})


async def test_a_profile_that_is_used_stays(served: Served) -> None:
    client, services = served
    await services.store.add_profile(parse(ProfileCreate, {"name": "used"}))
    await add(served, profile="used")
    async with client.post("/profiles/used/remove") as answer:
        assert answer.status == 409
    (channel,) = await services.store.channels()
    await services.store.remove_channel(channel.id)
    async with client.post("/profiles/used/remove") as answer:
        assert answer.status == 200


async def test_limits_of_groups(served: Served) -> None:
    store = served[1].store
    assert "<h2>Groups</h2>" not in await page(served, "/channels")
    await add(served, group=BAD_NAME)
    text = await page(served, "/channels")
    assert (fields(text)["name"], fields(text)["max_connections"]) == (BAD_NAME, "0")
    text = await page(served, "/channels/groups", name=BAD_NAME, max_connections="3")
    assert fields(text)["max_connections"] == "3"
    assert (await store.group(BAD_NAME)).max_connections == 3
    assert "max_connections" in await page(served, "/channels/groups", 400, name=BAD_NAME, max_connections="many")
    assert (await store.group(BAD_NAME)).max_connections == 3
