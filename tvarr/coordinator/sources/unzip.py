"""Bodies that come gzip-encoded though nobody asked for it (RFC 9110, 8.4.1.3). Pure."""

from __future__ import annotations

import zlib

from tvarr.coordinator.source import SourceFailure

_GZIP = 16 + zlib.MAX_WBITS  # with the header and the checksum of gzip


def begin_of(data: bytes, size: int) -> bytes:
    """The first `size` bytes, or fewer, of what `data` is the begin of; `data` itself where that is not gzip."""
    try:
        return zlib.decompressobj(_GZIP).decompress(data, size)
    except zlib.error:
        return data


def unzip(data: bytes, what: str, cap_bytes: int) -> bytes:
    """All of it. `what` names it in the words of a `SourceFailure`, raised for one that is larger or damaged."""
    reader = zlib.decompressobj(_GZIP)
    try:
        text = reader.decompress(data, cap_bytes + 1)
    except zlib.error as error:
        raise SourceFailure(f"the source's {what} can't be unzipped: it is damaged") from error
    if len(text) > cap_bytes:
        raise SourceFailure(f"the source's {what} is larger than {cap_bytes >> 20} MiB")
    if data and not reader.eof:
        raise SourceFailure(f"the source's {what} was cut off", passing=True)
    return text
