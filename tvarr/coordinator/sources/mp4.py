"""The index of an MP4 that has it behind its media."""

from __future__ import annotations

import struct

from tvarr.coordinator.source import IngestLimits, SourceFailure
from tvarr.coordinator.sources.hls.fetch import Fetcher
from tvarr.media.fmp4.boxes import HEADER_BYTES, LARGE_HEADER_BYTES
from tvarr.media.fmp4.demux import MAX_MOOV_BYTES

MAX_BOXES = 16  # looked at for the index


async def fetch_moov(fetcher: Fetcher, limits: IngestLimits, url: str, at: int) -> bytes:
    """The moov box, header included, that stands at byte `at` of a file or behind the boxes there.

    Raises `SourceFailure` where there is none, or its server can't give a part of a file.
    """
    within_s = limits.connect_s + limits.stall_s
    for _ in range(MAX_BOXES):
        head = await fetcher.get(
            url, "MP4 index", cap_bytes=MAX_MOOV_BYTES, within_s=within_s, part=(at, LARGE_HEADER_BYTES)
        )
        if len(head.data) < HEADER_BYTES:
            break
        size, kind = struct.unpack_from(">I4s", head.data)
        if size == 1 and len(head.data) == LARGE_HEADER_BYTES:
            size = struct.unpack_from(">Q", head.data, HEADER_BYTES)[0]
        if kind == b"moov" and HEADER_BYTES < size <= MAX_MOOV_BYTES:
            whole = await fetcher.get(url, "MP4 index", cap_bytes=MAX_MOOV_BYTES, within_s=within_s, part=(at, size))
            return whole.data
        if size < HEADER_BYTES:
            break
        at += size
    raise SourceFailure("the source can't be read: an MP4 without an index")
