"""Finds packets in bytes: 188, 192 (4 bytes of time before each, BDAV) and 204 (16 of Reed-Solomon code behind)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from tvarr.errors import NotTransportStream
from tvarr.media.mpegts.psi import PACKET_BYTES, SYNC_BYTE

PACKET_SIZES = (188, 192, 204)
LOCK_PACKETS = 5  # sync bytes in a row that make a packet size
RUN_PACKETS = 512  # are copied at once: more leave the processor's cache in between
MAX_GARBAGE_BYTES = 1 << 20  # without sync for so long: not a transport stream

_LOCK_SPAN_BYTES = max(PACKET_SIZES) * (LOCK_PACKETS - 1) + 1
_LOCK = re.compile(
    b"G(?:%s)" % b"|".join(b"(?=(?:.{%d}G){%d})()" % (size - 1, LOCK_PACKETS - 1) for size in PACKET_SIZES), re.DOTALL
)
# They read copies, not views: see `fmp4.places`.
# From one sync byte to the next: header as a number, payload with adaptation field; then what is not part of a packet.
_UNPACK = {size: struct.Struct(f">I{PACKET_BYTES - 4}s{size - PACKET_BYTES}x").iter_unpack for size in PACKET_SIZES}

Packets = Iterator[tuple[int, bytes]]
"""Header (32 bits, sync byte first) and the 184 bytes behind it, for packets whose sync byte is right."""


class Framer:
    """Cuts bytes into packets, and looks for them again after garbage.

    Where packets lie depends on the bytes only, never on how they were chunked. Holds less than a packet, or while it
    looks for sync less than LOCK_PACKETS of them.
    """

    __slots__ = ("_garbage_bytes", "_held", "_size", "packets", "sync_losses")

    def __init__(self) -> None:
        self._held = b""
        self._size = 0  # 0: no sync
        self._garbage_bytes = 0  # since the last packet
        self.packets = 0
        self.sync_losses = 0

    def push(self, data: bytes) -> Iterator[Packets]:
        """Runs of packets, each to be consumed before the next is asked for.

        Raises NotTransportStream after MAX_GARBAGE_BYTES without sync.
        """
        data, held, at = bytes(data), self._held, 0
        missing = self._size - len(held)
        if held[:1] == b"G" and 0 < missing <= len(data):  # a packet across chunks: the rest need not be copied
            self._held, at = b"", missing
            self.packets += 1
            yield _UNPACK[self._size](held + data[:missing])
        elif held:
            data = held + data
        while True:
            if not self._size:
                at = self._find_sync(data, at)
                if not self._size:
                    break
            count = self._run_length(data, at)
            if count:
                end = at + count * self._size
                self.packets += count
                self._garbage_bytes = 0
                yield _UNPACK[self._size](data[at:end])
                at = end
            if len(data) - at < self._size:
                break
            if count == RUN_PACKETS:
                continue
            self._size = 0  # a whole packet is there, and its sync byte is wrong
            self.sync_losses += 1
        self._held = data[at:]

    def flush(self) -> Iterator[Packets]:
        """End of input: the last packets, where fewer than push() waits for, or what follows a packet is missing."""
        data, self._held = self._held, b""
        if not self._size:
            whole = [size for size in PACKET_SIZES if _all_in_sync(data, size)]
            if not whole:
                return
            self._size = whole[0]
        padded = data + bytes(self._size - PACKET_BYTES)
        count = self._run_length(padded, 0)
        if count:
            self.packets += count
            yield _UNPACK[self._size](padded[: count * self._size])

    def _run_length(self, data: bytes, at: int) -> int:
        """How many whole packets with their sync byte follow from `at`, RUN_PACKETS at most."""
        count = min((len(data) - at) // self._size, RUN_PACKETS)
        syncs = data[at : at + count * self._size : self._size]
        return count - len(syncs.lstrip(b"G"))

    def _find_sync(self, data: bytes, at: int) -> int:
        """Sets the packet size and returns where the first packet is, or where to look again with more bytes."""
        last = len(data) - _LOCK_SPAN_BYTES
        match = _LOCK.search(data, at) if last >= at else None
        if match is not None and match.start() <= last:
            found = match.start()
            self._size = PACKET_SIZES[(match.lastindex or 1) - 1]
        else:
            found = max(at, last + 1)
        self._garbage_bytes += found - at
        if self._garbage_bytes > MAX_GARBAGE_BYTES:
            raise NotTransportStream(f"no MPEG-TS packets in {MAX_GARBAGE_BYTES >> 20} MiB")
        return found


def _all_in_sync(data: bytes, size: int) -> bool:
    syncs = data[::size]
    return len(data) >= PACKET_BYTES and syncs.count(SYNC_BYTE) == len(syncs)
