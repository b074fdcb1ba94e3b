"""Channels, groups of them, profiles and settings on disk."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tvarr.coordinator.database import Database
from tvarr.coordinator.models import (
    BUILTIN_PROFILES,
    Channel,
    ChannelCreate,
    Group,
    GroupFields,
    Profile,
    ProfileCreate,
    parse,
    slug_of,
    version_of,
)
from tvarr.coordinator.source import SourceSpec
from tvarr.coordinator.sources.file import file_path
from tvarr.errors import Conflict, InvalidRequest, NotFound, SourceError, Stale

IMPORTED_AT_ONCE = 200

Versions = Collection[str] | None
"""As `version_of` makes them."""


LISTED_FIELDS = ("name", "url", "tvg_id", "tvg_chno", "logo", "group", "user_agent", "headers")
"""What a list says of a channel."""


class Imported(NamedTuple):
    """What became of one channel of an import."""

    what: Literal["added", "updated", "kept", "refused"]
    channel: Channel | None = None  # None where it was refused
    before: Channel | None = None  # where it was updated
    reason: str = ""  # why it was refused


class _Import:
    """One list while it is imported: what of the store's channels it is about."""

    def __init__(self, new: Sequence[ChannelCreate]) -> None:
        self.urls = {channel.url for channel in new}
        self.redirected: dict[str, str] = {}  # ids of channels whose URL was edited here, by the one that was listed
        self.moved: dict[tuple[str, str], list[str]] = {}  # ids of channels that it has at no URL: by tvg-id and name
        self.done: set[str] = set()  # ids of the channels that it has named so far


class Store:
    """What outlives a restart. Every method but `open` raises `StoreError` where the disk fails.

    A channel is found by its id or its slug. Changes are written before a method returns, or not at all. Where
    `versions` are given, one of them is what the caller read: `Stale` is raised where the thing has another by now.
    """

    def __init__(self, database: Database, media_dir: Path | None) -> None:
        self.media_dir = media_dir
        self._database = database
        self._run, self._write = database.run, database.write

    @classmethod
    async def open(cls, path: Path, *, media_dir: Path | None = None) -> Store:
        """Opens or makes the file; raises `StartError` as `Database.open` does."""
        store = cls(Database(path), media_dir)
        await store._database.open(store._read_all)
        return store

    async def close(self) -> None:
        await self._database.close()

    # -------------------------------------------------------------------------------------------- channels

    async def channels(self) -> list[Channel]:
        """All, in the order in which they were added."""
        return await self._run(self._channels)

    async def numbered_channels(self) -> list[tuple[int, Channel]]:
        """The same, each with a number that no other has while it is there."""
        return await self._run(self._numbered_channels)

    async def channel(self, key: str) -> Channel:
        """Raises `NotFound`."""
        return await self._run(lambda: self._channel(key))

    async def add_channel(self, new: ChannelCreate) -> Channel:
        """Raises `InvalidRequest` (URL, unknown profile) and `Conflict` (slug taken)."""
        return await self._write(lambda: self._add_channel(new))

    async def change_channel(
        self, key: str, changes: Mapping[str, Any], versions: Versions = None
    ) -> tuple[Channel, Channel]:
        """Sets the fields named in `changes` (null: back to not set) and returns the channel before and after."""
        return await self._write(lambda: self._change_channel(key, changes, versions))

    async def remove_channel(self, key: str, versions: Versions = None) -> Channel:
        """Returns what was removed."""
        return await self._write(lambda: self._remove_channel(key, versions))

    async def import_channels(self, new: Sequence[ChannelCreate]) -> list[Imported]:
        """Adds those that are not there yet. One answer for each, in their order.

        The same channel is one with this URL, or one of an earlier list with this tvg-id and name whose URL is not in
        this list: providers change what is in their URLs. Of a channel that came from a list, what this one says
        otherwise than the last is updated; what was edited here stays. One that was made here is kept as it is.

        Written in parts, between which others have their turn: viewers do not wait for a long list.
        """
        results: list[Imported] = []
        run = _Import(new)
        await self._run(lambda: self._note_moved(run))
        for at in range(0, len(new), IMPORTED_AT_ONCE):
            part = new[at : at + IMPORTED_AT_ONCE]
            results += await self._write(partial(self._import_part, part, run))
        return results

    # ---------------------------------------------------------------------------------------------- groups

    async def groups(self) -> list[Group]:
        """Those that have settings, and those that channels name, by name."""
        return await self._run(self._groups)

    async def group(self, name: str) -> Group:
        """Raises `NotFound` where it has no settings and no channel."""
        return await self._run(lambda: self._group(name))

    async def channel_and_limit(self, key: str) -> tuple[Channel, int]:
        """A channel, and how many connections those of its group may have at once; 0: no limit. Raises `NotFound`."""

        def read() -> tuple[Channel, int]:
            channel = self._channel(key)
            group = self._stored_group(channel.group) if channel.group else None
            return channel, group.max_connections if group else 0

        return await self._run(read)

    async def set_group(self, name: str, fields: GroupFields, versions: Versions = None) -> Group:
        """Makes the group or replaces its settings. Raises `InvalidRequest` for what is no name."""
        group = parse(Group, {"name": name, **fields.model_dump()})
        return await self._write(lambda: self._set_group(group, versions))

    async def remove_group(self, name: str, versions: Versions = None) -> Group:
        """Forgets the settings, not the channels. Raises `NotFound` where there are none."""
        return await self._write(lambda: self._remove_group(name, versions))

    # -------------------------------------------------------------------------------------------- profiles

    async def profiles(self) -> list[Profile]:
        """The built-in ones, then the others by name."""
        return await self._run(self._profiles)

    async def profile(self, name: str) -> Profile:
        """Raises `NotFound`."""
        return await self._run(lambda: self._profile(name))

    async def add_profile(self, new: ProfileCreate) -> Profile:
        """Raises `Conflict` where the name is taken."""
        return await self._write(lambda: self._add_profile(new))

    async def change_profile(self, name: str, changes: Mapping[str, Any], versions: Versions = None) -> Profile:
        """Sets the fields named in `changes`. Raises `Conflict` for a built-in profile."""
        return await self._write(lambda: self._change_profile(name, changes, versions))

    async def remove_profile(self, name: str, versions: Versions = None) -> Profile:
        """Raises `Conflict` for a built-in profile, and for one that channels name as their default."""
        return await self._write(lambda: self._remove_profile(name, versions))

    # -------------------------------------------------------------------------------------------- settings

    async def setting(self, key: str) -> str | None:
        row = await self._run(lambda: self._db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone())
        return None if row is None else str(row[0])

    async def set_setting(self, key: str, value: str) -> None:
        await self._write(
            lambda: self._db.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))
        )

    # ------------------------------------------------------------------------------- below: in the store's thread

    @property
    def _db(self) -> sqlite3.Connection:
        return self._database.connection

    def _read_all(self) -> None:
        self._channels()
        self._groups()
        self._profiles()

    def _channels(self) -> list[Channel]:
        rows = self._db.execute("SELECT document FROM channels ORDER BY rowid")
        return [Channel.model_validate_json(document) for (document,) in rows]

    def _numbered_channels(self) -> list[tuple[int, Channel]]:
        rows = self._db.execute("SELECT rowid, document FROM channels ORDER BY rowid")
        return [(number, Channel.model_validate_json(document)) for number, document in rows]

    def _channel(self, key: str) -> Channel:
        row = self._db.execute(
            "SELECT document FROM channels WHERE id = ?1 OR slug = ?1 ORDER BY id <> ?1", (key,)
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no channel {key[:80]!r}")
        return Channel.model_validate_json(row[0])

    def _add_channel(self, new: ChannelCreate, listed: str = "") -> Channel:
        self._check_references(new.profile, new.url)
        slug = new.slug or self._free_slug(slug_of(new.name))
        self._check_slug(slug)
        values = new.model_dump(exclude={"slug"})
        channel = Channel(id=secrets.token_hex(6), slug=slug, **values)
        self._db.execute(
            "INSERT INTO channels (id, slug, url, document, listed) VALUES (?, ?, ?, ?, ?)",
            (channel.id, channel.slug, channel.url, channel.model_dump_json(), listed),
        )
        return channel

    def _change_channel(self, key: str, changes: Mapping[str, Any], versions: Versions) -> tuple[Channel, Channel]:
        before = self._channel(key)
        _check_version(before, versions)
        if changes.get("id", before.id) != before.id:
            raise InvalidRequest("id: can't be changed")
        merged = {**before.model_dump(), **changes}
        if merged["slug"] is None:
            merged["slug"] = before.slug
        after = parse(Channel, merged)
        self._check_references(
            after.profile if after.profile != before.profile else "", after.url if after.url != before.url else ""
        )
        if after.slug != before.slug:
            self._check_slug(after.slug)
        self._db.execute(
            "UPDATE channels SET slug = ?, url = ?, document = ? WHERE id = ?",
            (after.slug, after.url, after.model_dump_json(), after.id),
        )
        return before, after

    def _remove_channel(self, key: str, versions: Versions) -> Channel:
        channel = self._channel(key)
        _check_version(channel, versions)
        self._db.execute("DELETE FROM channels WHERE id = ?", (channel.id,))
        return channel

    def _note_moved(self, run: _Import) -> None:
        for key, url, text in self._db.execute("SELECT id, url, listed FROM channels WHERE listed <> ''"):
            listed = json.loads(text)
            if listed["url"] != url:
                run.redirected.setdefault(listed["url"], key)
            if listed["tvg_id"] and listed["url"] not in run.urls:
                run.moved.setdefault((listed["tvg_id"], listed["name"]), []).append(key)

    def _import_part(self, new: Sequence[ChannelCreate], run: _Import) -> list[Imported]:
        return [self._import_channel(channel, run) for channel in new]

    def _import_channel(self, new: ChannelCreate, run: _Import) -> Imported:
        says = new.model_dump(include=set(LISTED_FIELDS))
        find = "SELECT document, listed FROM channels WHERE "
        row = self._db.execute(f"{find} url = ? LIMIT 1", (new.url,)).fetchone()
        if row is None:
            moved = run.moved.get((new.tvg_id, new.name))
            key = run.redirected.get(new.url) or (moved.pop(0) if moved else "")
            row = self._db.execute(f"{find} id = ?", (key,)).fetchone()
        try:
            if row is None:
                added = self._add_channel(new, json.dumps(says))
                run.done.add(added.id)
                return Imported("added", added)
            return self._import_again(Channel.model_validate_json(row[0]), row[1], says, run)
        except (InvalidRequest, Conflict) as error:
            return Imported("refused", reason=str(error))

    def _import_again(self, known: Channel, listed: str, says: Mapping[str, Any], run: _Import) -> Imported:
        said = json.loads(listed or "{}")
        changes = {name: value for name, value in says.items() if name in said and value != said[name]}
        if known.id in run.done or not changes:
            run.done.add(known.id)
            return Imported("kept", known)
        run.done.add(known.id)
        before, after = self._change_channel(known.id, changes, None)
        self._db.execute("UPDATE channels SET listed = ? WHERE id = ?", (json.dumps(says), known.id))
        return Imported("updated", after, before) if after != before else Imported("kept", after)

    def _check_references(self, profile: str, url: str) -> None:
        if url.lower().startswith("file:"):
            try:
                file_path(SourceSpec.parse(url, media_dir=self.media_dir))
            except (InvalidRequest, SourceError) as error:
                raise InvalidRequest(f"url: {error}") from None
        if profile:
            try:
                self._profile(profile)
            except NotFound as error:
                raise InvalidRequest(f"profile: {error}") from None

    def _check_slug(self, slug: str) -> None:
        if self._is_taken(slug):
            raise Conflict(f"slug: {slug} is taken")

    def _is_taken(self, slug: str) -> bool:
        return self._db.execute("SELECT 1 FROM channels WHERE slug = ?1 OR id = ?1", (slug,)).fetchone() is not None

    def _free_slug(self, wished: str) -> str:
        if not self._is_taken(wished):
            return wished
        # '.' follows '-' in ASCII: the range is every slug that starts with `wished-`, by the index
        rows = self._db.execute("SELECT slug FROM channels WHERE slug > ?1 || '-' AND slug < ?1 || '.'", (wished,))
        taken = {row[0] for row in rows}
        return next(slug for number in count(2) if (slug := f"{wished}-{number}") not in taken)

    def _groups(self) -> list[Group]:
        rows = self._db.execute("SELECT document FROM channel_groups")
        stored = {group.name: group for group in (Group.model_validate_json(document) for (document,) in rows)}
        named = {channel.group for channel in self._channels() if channel.group}
        return [stored.get(name) or Group(name=name, max_connections=0) for name in sorted(named | stored.keys())]

    def _group(self, name: str) -> Group:
        if group := self._stored_group(name):
            return group
        if any(channel.group == name for channel in self._channels() if name):
            return Group(name=name, max_connections=0)
        raise NotFound(f"there is no group {name[:80]!r}")

    def _stored_group(self, name: str) -> Group | None:
        row = self._db.execute("SELECT document FROM channel_groups WHERE name = ?", (name,)).fetchone()
        return Group.model_validate_json(row[0]) if row else None

    def _set_group(self, group: Group, versions: Versions) -> Group:
        _check_version(self._stored_group(group.name) or Group(name=group.name, max_connections=0), versions)
        self._db.execute(
            "INSERT OR REPLACE INTO channel_groups (name, document) VALUES (?, ?)",
            (group.name, group.model_dump_json()),
        )
        return group

    def _remove_group(self, name: str, versions: Versions) -> Group:
        group = self._stored_group(name)
        if group is None:
            raise NotFound(f"the group {name[:80]!r} has no settings")
        _check_version(group, versions)
        self._db.execute("DELETE FROM channel_groups WHERE name = ?", (name,))
        return group

    def _profiles(self) -> list[Profile]:
        rows = self._db.execute("SELECT document FROM profiles ORDER BY name")
        return [*BUILTIN_PROFILES.values(), *(Profile.model_validate_json(document) for (document,) in rows)]

    def _profile(self, name: str) -> Profile:
        if name in BUILTIN_PROFILES:
            return BUILTIN_PROFILES[name]
        row = self._db.execute("SELECT document FROM profiles WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"there is no profile {name[:80]!r}")
        return Profile.model_validate_json(row[0])

    def _own_profile(self, name: str) -> Profile:
        profile = self._profile(name)
        if profile.builtin:
            raise Conflict(f"{name} is built in and can't be changed; make one with another name")
        return profile

    def _add_profile(self, new: ProfileCreate) -> Profile:
        if new.name in {profile.name for profile in self._profiles()}:
            raise Conflict(f"name: {new.name} is taken")
        return self._save_profile(Profile(**new.model_dump()))

    def _change_profile(self, name: str, changes: Mapping[str, Any], versions: Versions) -> Profile:
        before = self._own_profile(name)
        _check_version(before, versions)
        for fixed in ("name", "builtin"):
            if changes.get(fixed, getattr(before, fixed)) != getattr(before, fixed):
                raise InvalidRequest(f"{fixed}: can't be changed")
        return self._save_profile(parse(Profile, {**before.model_dump(), **changes}))

    def _save_profile(self, profile: Profile) -> Profile:
        self._db.execute(
            "INSERT OR REPLACE INTO profiles (name, document) VALUES (?, ?)", (profile.name, profile.model_dump_json())
        )
        return profile

    def _remove_profile(self, name: str, versions: Versions) -> Profile:
        profile = self._own_profile(name)
        _check_version(profile, versions)
        users = [channel.slug for channel in self._channels() if channel.profile == name]
        if users:
            more = f" and {len(users) - 5} more" if len(users) > 5 else ""
            raise Conflict(f"{name} is the default of {', '.join(users[:5])}{more}")
        self._db.execute("DELETE FROM profiles WHERE name = ?", (name,))
        return profile


def _check_version(thing: Channel | Group | Profile, versions: Versions) -> None:
    if versions is not None and version_of(thing) not in versions:
        raise Stale(f"{thing.name} was changed meanwhile: read it again")
