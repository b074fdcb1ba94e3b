"""Channels and profiles over HTTP."""

from __future__ import annotations

import pytest
from yarl import URL

from tests.coordinator.web_server import Served, ask


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
    client, services = served
    builtin = await ask(client, "GET", "/api/v1/profiles", 200)
    assert [profile["name"] for profile in builtin][:2] == ["passthrough", "h264"]
    assert all(profile["builtin"] for profile in builtin)
    made = await ask(
        client, "POST", "/api/v1/profiles", 201, json={"name": "tiny", "video_codec": "h264", "width": 320, "crf": None}
    )
    assert (made["width"], made["crf"], made["builtin"], made["gop_s"]) == (320, None, False, 2.0)
    changed = await ask(client, "PATCH", "/api/v1/profiles/tiny", 200, json={"crf": 30})
    assert changed == {**made, "crf": 30}
    assert services.asked == [("profile", "tiny")]
    assert await ask(client, "GET", "/api/v1/profiles/tiny", 200) == changed
    await ask(client, "DELETE", "/api/v1/profiles/tiny", 204)
    await ask(client, "GET", "/api/v1/profiles/tiny", 404)
    assert "built in" in (await ask(client, "PATCH", "/api/v1/profiles/h264", 409, json={"crf": 30}))["detail"]
    assert "built in" in (await ask(client, "DELETE", "/api/v1/profiles/h264", 409))["detail"]
    await ask(client, "POST", "/api/v1/profiles", 409, json={"name": "h264"})
    wrong = await ask(client, "POST", "/api/v1/profiles", 400, json={"name": "x", "video_codec": "h265"})
    assert wrong["detail"].startswith("video_codec: ")


async def test_what_was_read_makes_another(served: Served) -> None:
    client, _ = served
    h264 = await ask(client, "GET", "/api/v1/profiles/h264", 200)
    copied = await ask(client, "POST", "/api/v1/profiles", 201, json={**h264, "name": "mine", "deinterlace": True})
    assert copied == {**h264, "name": "mine", "deinterlace": "on", "builtin": False}
    off = await ask(client, "PATCH", "/api/v1/profiles/mine", 200, json={"deinterlace": False})
    assert off["deinterlace"] == "off"
    news = await ask(client, "POST", "/api/v1/channels", 201, json={"name": "News", "url": "http://h/1"})
    await ask(client, "POST", "/api/v1/channels", 409, json=news)  # its slug
    await ask(client, "DELETE", f"/api/v1/channels/{news['id']}", 204)
    restored = await ask(client, "POST", "/api/v1/channels", 201, json=news)
    assert restored == {**news, "id": restored["id"]}


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
