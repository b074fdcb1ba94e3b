"""Files below the one folder that channels may read."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from tvarr.coordinator.source import SourceFailure, SourceSpec

READ_BYTES = 1024 * 1024
THREADS = 4  # read all files; their own, or a share that hangs would hold up the look-ups of host names as well

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""What the machine or a network share may have got over in a moment."""

_T = TypeVar("_T")
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="file source")


async def _in_thread(call: Callable[..., _T], argument: object) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_threads, call, argument)


def file_path(spec: SourceSpec) -> Path:
    """The file that a `file:` URL names: `file:///abs/path`, or `file:path` relative to `media_dir`.

    Links are resolved first: what lies outside `media_dir` raises `SourceFailure`, whether it exists or not.
    """
    if spec.media_dir is None:
        raise SourceFailure("file: sources are read only below a folder given with --media-dir")
    name = spec.url.partition(":")[2].partition("#")[0]
    if name.startswith("//"):
        host, slash, tail = name[2:].partition("/")
        if host not in ("", "localhost"):
            raise SourceFailure("a file: URL has no host: file:///path or file:path")
        name = slash + tail
    folder = spec.media_dir.resolve()
    try:
        path = (folder / unquote(name)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, links in a circle
        raise SourceFailure("the file's name can't be used") from error
    if not path.is_relative_to(folder):
        raise SourceFailure("the file is outside of the folder given with --media-dir")
    return path


def _open(spec: SourceSpec) -> io.BufferedReader:
    path = file_path(spec)
    try:
        if path.is_dir():
            raise SourceFailure(f"{path.name} is a folder")
        if path.exists() and not path.is_file():
            raise SourceFailure(f"{path.name} is not a regular file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise SourceFailure(f"there is no file {path.name}") from error
    except OSError as error:
        passing = error.errno in PASSING
        raise SourceFailure(f"{path.name} can't be read: {error.strerror}", passing=passing) from error


class FileStream:
    """One pass through a file; reads run in a thread."""

    content_type = ""
    finite = True
    zipped = False

    def __init__(self, file: io.BufferedReader, url: str) -> None:
        self.url = url
        self._file = file
        self.whole = False

    async def read(self) -> bytes:
        try:
            data = await _in_thread(self._file.read, READ_BYTES)
        except OSError as error:
            raise SourceFailure(f"the file can't be read on: {error.strerror}") from error
        self.whole = not data
        return data


def _read_part(spec: SourceSpec, part: tuple[int, int] | None, cap_bytes: int) -> bytes:
    with _open(spec) as file:
        offset, length = part or (0, cap_bytes + 1)
        try:
            file.seek(offset)
            data = file.read(min(length, cap_bytes + 1))
        except OSError as error:
            raise SourceFailure(f"the file can't be read: {error.strerror}") from error
        if len(data) > cap_bytes:
            raise SourceFailure(f"{Path(file.name).name} is larger than {cap_bytes >> 20} MiB")
        return data


async def read_file(spec: SourceSpec, part: tuple[int, int] | None, cap_bytes: int) -> bytes:
    """A file, or `part` of it (offset and length), as a whole. Raises `SourceFailure` with the cause in words."""
    return await _in_thread(partial(_read_part, spec, part), cap_bytes)


@asynccontextmanager
async def open_file(spec: SourceSpec) -> AsyncIterator[FileStream]:
    """Opens the source's file. Raises `SourceFailure` with the cause in words."""
    file = await _in_thread(_open, spec)
    try:
        yield FileStream(file, Path(file.name).as_uri())
    finally:
        # In a thread as well: where the task was cancelled during a read, closing waits for that read's lock.
        _threads.submit(file.close)
