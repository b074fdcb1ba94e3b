"""The boxes that ISO base media files are made of (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tvarr.errors import MediaError

HEADER_BYTES = 8
LARGE_HEADER_BYTES = 16  # with a 64-bit size
MAX_CHILDREN = 10_000  # of a box; more raise: real files have dozens, and to walk millions takes seconds


class Box(NamedTuple):
    """A box inside bytes that are all there: its content is data[start:end]."""

    kind: bytes  # four bytes
    start: int
    end: int


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of this kind, below 4 GiB."""
    return b"".join((struct.pack(">I4s", HEADER_BYTES + sum(map(len, content)), kind), *content))


def full_box(kind: bytes, version: int, flags: int, *content: bytes) -> bytes:
    """A box that begins with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def children(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes in data[start:end], one after another; never looks into them.

    Fewer than 8 bytes behind the last one are QuickTime's terminator and ignored. Raises MediaError for a box that is
    smaller than its header or larger than what it is in, and for more than MAX_CHILDREN.
    """
    left = MAX_CHILDREN
    while end - start >= HEADER_BYTES:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + HEADER_BYTES
        if size == 1 and end - start >= LARGE_HEADER_BYTES:
            size = struct.unpack_from(">Q", data, content)[0]
            content = start + LARGE_HEADER_BYTES
        elif size == 0:
            size = end - start
        if size < content - start or size > end - start:
            raise MediaError(f"an MP4 box {name(kind)} of {size} bytes where {end - start} are")
        if not left:
            raise MediaError(f"more than {MAX_CHILDREN} MP4 boxes in one")
        left -= 1
        yield Box(kind, content, start + size)
        start += size


def find(data: bytes, parent: Box, *path: bytes) -> Box | None:
    """The first box on this path below `parent`, or None. Raises MediaError as `children` does."""
    found: Box | None = parent
    for kind in path:
        if found is None:
            return None
        found = next((child for child in children(data, found.start, found.end) if child.kind == kind), None)
    return found


def name(kind: bytes) -> str:
    """A box's kind for people."""
    return kind.decode("latin-1") if kind.isascii() and kind.decode("ascii").isprintable() else kind.hex()
