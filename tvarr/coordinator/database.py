"""One SQLite file, used from one thread of its own, and a copy of it from the last good start."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tvarr.coordinator.models import words_of
from tvarr.errors import StartError, StoreError

MIGRATIONS = (
    """
    CREATE TABLE channels (
        id TEXT PRIMARY KEY, slug TEXT NOT NULL UNIQUE, url TEXT NOT NULL, document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX channels_by_url ON channels (url);
    CREATE TABLE profiles (name TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE channel_groups (name TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT;
    """,
    """
    ALTER TABLE channels ADD COLUMN listed TEXT NOT NULL DEFAULT '';
    """,
)
"""Step N brings a file from `user_version` N to N + 1. Steps are only added."""

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 5.0
COPY_SUFFIX = ".copy"  # of the file as it was at the last start at which it was good

_T = TypeVar("_T")


def refusal_to_write(folder: Path) -> OSError | None:
    """Why no file can be written in a folder; None where one can be."""
    probe = folder / f".write-test-{os.getpid()}"
    try:
        try:
            probe.write_bytes(b"?")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


class Database:
    """The file, its thread, and its versions. `run` and `write` raise `StoreError` where the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tvarr-store")
        self.connection: sqlite3.Connection

    async def open(self, check: Callable[[], object]) -> None:
        """Opens or makes the file, mode 0600, and brings it to the newest version; `check` then reads what is in it.

        Raises `StartError` where it can't be read, is damaged, or was made by a newer tvarr; it is left as it is then.
        Otherwise its content is copied to a file beside it before anything is changed.
        """
        try:
            await self.run(lambda: self._open(check))
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        await self.run(lambda: self.connection.close())
        self._thread.shutdown()

    async def run(self, work: Callable[[], _T]) -> _T:
        def guarded() -> _T:
            try:
                return work()
            except sqlite3.Error as error:
                raise self._explained(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    async def write(self, work: Callable[[], _T]) -> _T:
        def in_transaction() -> _T:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self.connection.commit()
            except BaseException:
                self.connection.rollback()
                raise
            return result

        return await self.run(in_transaction)

    def _explained(self, error: sqlite3.Error) -> StoreError:
        """SQLite says little of what is wrong with a disk: what the system says to a new file there is added."""
        cause = refusal_to_write(self.path.parent)
        full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        full = full or (cause is not None and cause.errno == errno.ENOSPC)
        why = f" ({cause.strerror})" if cause else ""
        return StoreError(f"the store {self.path} failed: {error}{why}", full=full)

    def _open(self, check: Callable[[], object]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            with self.path.open("r+b"):
                pass
        except OSError as error:
            raise StartError(f"the store {self.path} can't be opened: {error.strerror or error}") from None
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            # What readers share in WAL mode is a file that a full disk has no room for; there are none besides us.
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            try:
                copy = self._copy() if self._checked() else None
                self._migrate()
                check()
                if copy:
                    copy.replace(self._copied)
            except BaseException:
                self.connection.close()
                raise
        except (sqlite3.Error, ValidationError) as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
                raise StartError(f"the store {self.path} is locked: another coordinator uses this --data-dir") from None
            words = words_of(error) if isinstance(error, ValidationError) else str(error)
            raise StartError(f"the store {self.path} can't be read: {words}{self._way_out()}") from None

    @property
    def _copied(self) -> Path:
        return self.path.with_name(self.path.name + COPY_SUFFIX)

    def _way_out(self) -> str:
        """What somebody can do about a damaged file."""
        return f"; {self._copied} is what it was at its last good start" if self._copied.exists() else ""

    def _copy(self) -> Path | None:
        """A new copy under a name of its own; a disk that is full is no reason not to start."""
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            new.touch(mode=0o600)
            with closing(sqlite3.connect(new, isolation_level=None)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")
                self.connection.backup(copy)
        except (OSError, sqlite3.Error) as error:
            log.warning("the store %s could not be copied: %s", self.path, error)
            new.unlink(missing_ok=True)
            return None
        return new

    def _checked(self) -> int:
        """Its version; raises `StartError` where it is not ours to read."""
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StartError(f"the store {self.path} was made by a newer tvarr (version {version})")
        damage = self.connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StartError(f"the store {self.path} is damaged: {' '.join(str(damage).split())}{self._way_out()}")
        if version == 0 and self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StartError(f"the store {self.path} is a database of another program")
        return version

    def _migrate(self) -> None:
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
            self.connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
