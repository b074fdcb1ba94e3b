"""Channels, profiles and settings on disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tvarr.coordinator import database
from tvarr.coordinator.database import MIGRATIONS
from tvarr.coordinator.models import ChannelCreate, ProfileCreate, parse
from tvarr.coordinator.store import Store
from tvarr.errors import Conflict, InvalidRequest, NotFound, StartError, StoreError, TvarrError


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    (tmp_path / "media").mkdir()
    opened = await Store.open(tmp_path / "data" / "tvarr.db", media_dir=tmp_path / "media")
    yield opened
    await opened.close()


def channel(name: str = "News", url: str = "http://127.0.0.1/news.ts", **more: object) -> ChannelCreate:
    return parse(ChannelCreate, {"name": name, "url": url, **more})


async def test_channels_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "tvarr.db"
    first = await Store.open(path)
    added = await first.add_channel(channel("Das Erste ü", headers={"Referer": "http://example.org/"}, loop=True))
    await first.set_setting("admin", "hash")
    await first.close()

    second = await Store.open(path)
    assert await second.channels() == [added]
    assert await second.setting("admin") == "hash"
    assert await second.setting("other") is None
    await second.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_channel_is_found_by_id_and_by_slug(store: Store) -> None:
    added = await store.add_channel(channel("Sky & Sea HD"))
    assert added.slug == "sky-and-sea-hd"
    assert await store.channel(added.id) == added
    assert await store.channel(added.slug) == added
    with pytest.raises(NotFound, match="no channel 'sky'"):
        await store.channel("sky")


async def test_slugs_are_made_unique(store: Store) -> None:
    slugs = [(await store.add_channel(channel(url=f"http://h/{n}"))).slug for n in range(3)]
    assert slugs == ["news", "news-2", "news-3"]
    assert (await store.add_channel(channel("News 2", url="http://h/x"))).slug == "news-2-2"
    with pytest.raises(Conflict, match="slug: news-3 is taken"):
        await store.add_channel(channel(slug="news-3"))


async def test_changing_a_channel_keeps_its_address(store: Store) -> None:
    added = await store.add_channel(channel(group="A", user_agent="VLC"))
    before, after = await store.change_channel("news", {"name": "Other", "group": None, "id": added.id})
    assert before == added
    assert (after.id, after.slug, after.name, after.group, after.user_agent) == (added.id, "news", "Other", "", "VLC")
    assert await store.channel("news") == after
    _, renamed = await store.change_channel("news", {"slug": "fresh"})
    assert await store.channel("fresh") == renamed


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"id": "abc"}, InvalidRequest, "id: can't be changed"),
        ({"name": None}, InvalidRequest, "name: is missing"),
        ({"colour": "red"}, InvalidRequest, "colour: is not a field"),
        ({"slug": "weather"}, Conflict, "slug: weather is taken"),
        ({"profile": "nope"}, InvalidRequest, "profile: there is no profile 'nope'"),
        ({"url": "gopher://h/"}, InvalidRequest, "url: nobody reads gopher:"),
    ],
)
async def test_a_refused_change_changes_nothing(
    store: Store, changes: dict[str, object], error: type[TvarrError], words: str
) -> None:
    added = await store.add_channel(channel())
    await store.add_channel(channel("Weather", url="http://h/w"))
    with pytest.raises(error, match=words):
        await store.change_channel("news", {"group": "x", **changes})
    assert await store.channel("news") == added


async def test_files_are_read_below_the_media_folder_only(store: Store, tmp_path: Path) -> None:
    inside = tmp_path / "media" / "a.ts"
    (tmp_path / "secret.ts").touch()
    (tmp_path / "media" / "link.ts").symlink_to(tmp_path / "secret.ts")
    for url in (f"file://{inside}", f"file:{inside}", "file:a.ts", "file:x%20y/../a.ts", f"file://localhost{inside}"):
        await store.add_channel(channel(url=url))
    for url in ("file:../secret.ts", "file:link.ts", "file:///etc/passwd", f"file://{tmp_path}/media2/a.ts"):
        with pytest.raises(InvalidRequest, match="outside of the folder"):
            await store.add_channel(channel(url=url))
    with pytest.raises(InvalidRequest, match="outside of"):
        await store.change_channel("news", {"url": "FILE:///etc/passwd"})


async def test_without_a_media_folder_no_file_is_read(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "tvarr.db")
    with pytest.raises(InvalidRequest, match=r"url: .*given with --media-dir"):
        await store.add_channel(channel(url="file:a.ts"))
    await store.close()


async def test_import_adds_keeps_and_refuses(store: Store) -> None:
    old = await store.add_channel(channel("Old", url="http://h/1"))
    results = await store.import_channels(
        [
            channel("New name", url="http://h/1"),
            channel("Two", url="http://h/2"),
            channel("Two", url="http://h/2"),
            channel("Bad", url="file:///etc/passwd"),
        ]
    )
    assert [(r.what, bool(r.reason)) for r in results] == [
        ("kept", False),
        ("added", False),
        ("kept", False),
        ("refused", True),
    ]
    assert results[0].channel == old
    assert [c.slug for c in await store.channels()] == ["old", "two"]


async def test_a_later_list_updates_what_it_says_otherwise_and_leaves_what_was_edited_here(store: Store) -> None:
    first = channel("One", url="http://h/1?token=a", tvg_id="one", group="News", logo="http://h/1.png")
    (added,) = await store.import_channels([first])
    assert added.channel is not None
    await store.change_channel("one", {"group": "Mine", "profile": "h264"})

    (same,) = await store.import_channels([first])
    assert same.what == "kept"
    newer = channel("One HD", url="http://h/1?token=a", tvg_id="one", group="News", tvg_chno="7")
    (renamed,) = await store.import_channels([newer])
    assert (renamed.what, renamed.before) == ("updated", same.channel)
    kept = await store.channel("one")
    assert (kept.name, kept.tvg_chno, kept.logo, kept.group, kept.profile) == ("One HD", "7", "", "Mine", "h264")
    assert kept.id == added.channel.id

    moved = channel("One HD", url="http://h/1?token=b", tvg_id="one", group="News", tvg_chno="7")
    (followed,) = await store.import_channels([moved])
    assert followed.what == "updated"
    assert (await store.channel("one")).url == "http://h/1?token=b"
    await store.change_channel("one", {"url": "http://elsewhere/1"})
    assert [(await store.import_channels([moved]))[0].what for _ in range(2)] == ["kept", "kept"]
    assert [(c.slug, c.url) for c in await store.channels()] == [("one", "http://elsewhere/1")]


async def test_channels_that_share_an_id_are_told_apart_by_their_urls(store: Store) -> None:
    def named(*urls: str) -> list[ChannelCreate]:
        return [channel("One", url=f"http://h/{url}", tvg_id="one") for url in urls]

    assert [r.what for r in await store.import_channels(named("a", "b", "a"))] == ["added", "added", "kept"]
    assert [r.what for r in await store.import_channels(named("b", "c"))] == ["kept", "updated"]
    assert [r.what for r in await store.import_channels(named("d", "e", "f"))] == ["updated", "updated", "added"]
    assert sorted(c.url[-1] for c in await store.channels()) == ["d", "e", "f"]


async def test_removing(store: Store) -> None:
    added = await store.add_channel(channel())
    assert await store.remove_channel("news") == added
    assert await store.channels() == []
    with pytest.raises(NotFound):
        await store.remove_channel("news")


async def test_profiles(store: Store) -> None:
    names = [profile.name for profile in await store.profiles()]
    assert names == ["passthrough", "h264", "h264-720p", "h264-low", "hevc", "av1", "aac"]
    added = await store.add_profile(parse(ProfileCreate, {"name": "tiny", "video_codec": "h264", "width": 320}))
    assert await store.profile("tiny") == added
    changed = await store.change_profile("tiny", {"height": 180, "width": None, "name": "tiny", "builtin": False})
    assert (changed.width, changed.height) == (0, 180)
    with pytest.raises(Conflict, match="name: tiny is taken"):
        await store.add_profile(parse(ProfileCreate, {"name": "tiny"}))
    with pytest.raises(Conflict, match="name: h264 is taken"):
        await store.add_profile(parse(ProfileCreate, {"name": "h264"}))
    with pytest.raises(InvalidRequest, match="name: can't be changed"):
        await store.change_profile("tiny", {"name": "other"})
    await store.add_channel(channel(profile="tiny"))
    with pytest.raises(Conflict, match="tiny is the default of news"):
        await store.remove_profile("tiny")
    await store.change_channel("news", {"profile": "h264"})
    assert (await store.remove_profile("tiny")).name == "tiny"
    with pytest.raises(NotFound, match="no profile 'tiny'"):
        await store.profile("tiny")


async def test_built_in_profiles_stay(store: Store) -> None:
    with pytest.raises(Conflict, match="h264 is built in"):
        await store.change_profile("h264", {"crf": 30})
    with pytest.raises(Conflict, match="h264 is built in"):
        await store.remove_profile("h264")


async def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tvarr.db"
    path.write_bytes(b"this is no database, but somebody may want it" * 100)
    content = path.read_bytes()
    with pytest.raises(StartError) as caught:
        await Store.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


async def test_a_file_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tvarr.db"
    store = await Store.open(path)
    await store.import_channels([channel(f"Channel {n}", url=f"http://h/{n}") for n in range(300)])
    await store.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    path.write_bytes(damaged)
    with pytest.raises(StartError, match=r"damaged|malformed"):
        await Store.open(path)
    assert path.read_bytes() == bytes(damaged)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"PRAGMA user_version = {len(MIGRATIONS) + 1}", "made by a newer tvarr"),
        ("CREATE TABLE bookmarks (x)", "of another program"),
    ],
)
async def test_other_databases_are_refused(tmp_path: Path, script: str, words: str) -> None:
    path = tmp_path / "tvarr.db"
    db = sqlite3.connect(path)
    db.executescript(script)
    db.close()
    with pytest.raises(StartError, match=words):
        await Store.open(path)


async def test_a_row_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tvarr.db"
    await (await Store.open(path)).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO channels (id, slug, url, document) VALUES ('1', 'a', 'x', '{}')")
    db.commit()
    db.close()
    with pytest.raises(StartError, match=r"can't be read: .*name: is missing"):
        await Store.open(path)


async def test_a_path_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=str(tmp_path)):
        await Store.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="can't be opened"):
        await Store.open(tmp_path / "file" / "tvarr.db")


async def test_a_damaged_file_has_a_copy_of_its_last_good_start(tmp_path: Path) -> None:
    path, copy = tmp_path / "tvarr.db", tmp_path / "tvarr.db.copy"
    store = await Store.open(path)
    added = await store.add_channel(channel())
    await store.close()
    await (await Store.open(path)).close()
    assert copy.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"spilt milk")
    for _ in range(2):  # the second start, too, leaves it what it was
        with pytest.raises(StartError, match=f"can't be read: .*; {copy} is what it was at its last good start"):
            await Store.open(path)
    copy.replace(path)
    again = await Store.open(path)
    assert await again.channels() == [added]
    await again.close()
    assert set(os.listdir(tmp_path)) == {"tvarr.db", "tvarr.db.copy"}


async def test_content_that_makes_no_sense_does_not_replace_the_copy(tmp_path: Path) -> None:
    path, copy = tmp_path / "tvarr.db", tmp_path / "tvarr.db.copy"
    for _ in range(2):
        await (await Store.open(path)).close()
    good = copy.read_bytes()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO channels (id, slug, url, document) VALUES ('1', 'a', 'x', '{}')")
    with pytest.raises(StartError, match="last good start"):
        await Store.open(path)
    assert copy.read_bytes() == good


async def test_a_file_that_another_program_has_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tvarr.db"
    await (await Store.open(path)).close()
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StartError, match="locked"):
            await Store.open(path)
    await (await Store.open(path)).close()


async def test_a_store_has_one_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "tvarr.db"
    for _ in range(2):  # the second start makes a copy
        await (await Store.open(path)).close()
    store = await Store.open(path)
    with pytest.raises(StartError, match=r"is locked: another coordinator uses this --data-dir$"):
        await Store.open(path)  # which is not damaged: nobody is sent to the copy
    await store.close()


async def test_a_full_disk_refuses_changes_and_keeps_what_was_there(store: Store) -> None:
    added = await store.add_channel(channel())
    connection = store._database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite then raises is what a full disk raises
    with pytest.raises(StoreError, match=r"the store .* failed: database or disk is full") as caught:
        await store.import_channels([channel(f"Channel {n}", url=f"http://h/{n}") for n in range(200)])
    assert caught.value.full
    assert await store.channels() == [added]
