"""The token that daemons identify themselves with, and the file in which the coordinator keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from pathlib import Path

from tvarr.background import redact
from tvarr.errors import Conflict, StartError, StoreError

FILE_NAME = "auth-token"


class DaemonToken:
    """The token that counts now: `value`. No log shows it."""

    def __init__(self, folder: Path, given: str) -> None:
        """`given`: by a setting. Where it is empty the one kept in `folder` counts, made on the first start.

        Raises `StartError` where that can't be read or made.
        """
        self._path = folder / FILE_NAME
        self._given = bool(given)
        self.value = given or _stored(self._path)
        redact.add(self.value)

    @property
    def is_ours(self) -> bool:
        """Whether it is the one that we keep ourselves, though a setting may name its file."""
        return not self._given or _kept(self._path) == self.value

    async def renew(self) -> None:
        """Makes another one and keeps it. Raises `Conflict` where a setting gave it, and `StoreError`."""
        if not self.is_ours:
            raise Conflict("the token was given with --auth-token: change it there")
        fresh = _made()
        await asyncio.to_thread(_write, self._path, fresh)
        redact.add(fresh)
        self.value = fresh


def _made() -> str:
    return secrets.token_urlsafe(24)


def _stored(path: Path) -> str:
    """The one in the file, readable by its owner alone; made where there is no file."""
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(_made() + "\n")
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the daemons' token can't be read from {path}: {error}") from error
    if not token:
        raise StartError(f"{path} is empty; delete it and a new token is made")
    return token


def _kept(path: Path) -> str:
    """The one in the file; "" where there is none."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, token: str) -> None:
    """Replaces the one in the file at once or not at all. Raises `StoreError`."""
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise StoreError(
            f"the new token can't be kept in {path}: {error.strerror}", full=error.errno == errno.ENOSPC
        ) from error
