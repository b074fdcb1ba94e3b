"""Cuts PES packets and sections of one PID into transport packets (13818-1, 2.4.3).

The hot loop of the muxer: headers are made once for a PID, payloads are cut by `struct` and joined by the header, and
the continuity counters are set with one slice assignment.
"""

from __future__ import annotations

import struct

from tvarr.media.mpegts.psi import NULL_PID, PACKET_BYTES, SYNC_BYTE

PAYLOAD_BYTES = PACKET_BYTES - 4
NULL_PACKET = bytes((SYNC_BYTE, NULL_PID >> 8, NULL_PID & 0xFF, 0x10)) + b"\xff" * PAYLOAD_BYTES

DISCONTINUITY = 0x80  # flags of an adaptation field (2.4.3.4)
RANDOM_ACCESS = 0x40
_PCR_FLAG = 0x10

_ADAPTATION, _PAYLOAD = 0x20, 0x10  # adaptation_field_control

_MAX_PES_LENGTH = 0xFFFF
_MASK_33 = (1 << 33) - 1

# Adaptation fields that leave room for n bytes of payload, n being the index; 184 needs none.
_STUFFING = [
    bytes((PAYLOAD_BYTES - 1 - n,)) + (b"\x00" + b"\xff" * (PAYLOAD_BYTES - 2 - n) if n < PAYLOAD_BYTES - 1 else b"")
    for n in range(PAYLOAD_BYTES)
] + [b""]

# Cutting n payloads out of a PES at once: three times as fast as slices in a loop.
_BLOCK = 32
_SLICES = [struct.Struct(f"{PAYLOAD_BYTES}s" * n) for n in range(_BLOCK + 1)]
# The last bytes of headers whose counters follow each other.
_COUNTERS = bytes(_PAYLOAD | counter for counter in range(16)) * 1024


def _counted(first: int, count: int) -> bytes:
    """Last header bytes of `count` packets with payload, from the counter `first` on."""
    table = _COUNTERS if first + count <= len(_COUNTERS) else _COUNTERS * (1 + (first + count) // len(_COUNTERS))
    return table[first : first + count]


def timestamp(marker: int, ticks: int) -> bytes:
    """A PTS or DTS field, modulo 2**33 (2.4.3.7); `marker` is 2 for PTS alone, 3 and 1 for PTS with DTS."""
    ticks &= _MASK_33
    return (
        (marker << 36 | ticks >> 30 << 33 | 1 << 32)  # 3 bits
        | (ticks >> 15 & 0x7FFF) << 17
        | 1 << 16
        | (ticks & 0x7FFF) << 1
        | 1
    ).to_bytes(5, "big")


def pes_header(stream_id: int, pts_ticks: int, dts_ticks: int, payload_bytes: int, header_data_bytes: int = 0) -> bytes:
    """A PES header with data_alignment_indicator (2.4.3.6); DTS only where it differs from PTS.

    `header_data_bytes` asks for stuffing up to that size of the optional fields. A packet that is too long for its
    16-bit length states 0, which is meant for video.
    """
    if pts_ticks == dts_ticks:
        flags, times = 0x80, timestamp(2, pts_ticks)
    else:
        flags, times = 0xC0, timestamp(3, pts_ticks) + timestamp(1, dts_ticks)
    times = times.ljust(header_data_bytes, b"\xff")
    length = 3 + len(times) + payload_bytes
    if length > _MAX_PES_LENGTH:
        length = 0
    return bytes((0, 0, 1, stream_id, length >> 8, length & 0xFF, 0x84, flags, len(times))) + times


def adaptation_field(flags: int, pcr_ticks: int | None = None) -> bytes:
    """An adaptation field with these flags and perhaps a PCR (90 kHz, extension 0), and no stuffing."""
    if pcr_ticks is None:
        return bytes((1, flags))
    pcr = (pcr_ticks & _MASK_33) << 15 | 0x3F << 9
    return bytes((7, flags | _PCR_FLAG)) + pcr.to_bytes(6, "big")


class Packetizer:
    """One PID's packets; its continuity counter lives as long as this does."""

    __slots__ = ("_alone", "_continuity", "_middle", "_start", "_start_af", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._continuity = 0  # of the next packet with payload
        self._start = _headers(pid, 0x40, _PAYLOAD)
        self._start_af = _headers(pid, 0x40, _ADAPTATION | _PAYLOAD)
        self._alone = _headers(pid, 0, _ADAPTATION)
        self._middle = bytearray(_headers(pid, 0, _PAYLOAD)[0])

    def pes(self, header: bytes, data: bytes, field: bytes = b"") -> bytes | bytearray:
        """A PES packet in transport packets; `field` is an adaptation field without stuffing.

        Header and field together fit into one packet.
        """
        continuity = self._continuity
        room = PAYLOAD_BYTES - len(field) - len(header)
        size = len(data)
        if size <= room:
            if size < room:
                field = _stuffed(field, room - size)
            self._continuity = (continuity + 1) & 15
            return b"".join(((self._start_af if field else self._start)[continuity], field, header, data))
        count, rest = divmod(size - room, PAYLOAD_BYTES)
        pieces = [b"".join(((self._start_af if field else self._start)[continuity], field, header, data[:room]))]
        at = room
        for block in (*[_BLOCK] * (count // _BLOCK), count % _BLOCK):
            pieces += _SLICES[block].unpack_from(data, at)
            at += block * PAYLOAD_BYTES
        if rest:
            pieces.append(_STUFFING[rest] + data[at:])
        out = self._middle.join(pieces)  # each with the same header, whose last byte is set here:
        following = len(pieces) - 1
        out[PACKET_BYTES + 3 :: PACKET_BYTES] = _counted(continuity + 1 & 15, following)
        if rest:
            out[-PACKET_BYTES + 3] |= _ADAPTATION
        self._continuity = (continuity + len(pieces)) & 15
        return out

    def section(self, data: bytes) -> bytearray:
        """One or several whole sections, beginning in a packet of their own (2.4.4.2)."""
        data = b"\x00" + data
        data += b"\xff" * (-len(data) % PAYLOAD_BYTES)
        pieces = [data[at : at + PAYLOAD_BYTES] for at in range(0, len(data), PAYLOAD_BYTES)]
        out = bytearray(self._start[0]) + self._middle.join(pieces)
        out[3::PACKET_BYTES] = _counted(self._continuity, len(pieces))
        self._continuity = (self._continuity + len(pieces)) & 15
        return out

    def alone(self, field: bytes) -> bytes:
        """A packet with nothing but an adaptation field; it does not count (2.4.3.3)."""
        return self._alone[(self._continuity - 1) & 15] + _stuffed(field, PAYLOAD_BYTES - len(field))


def _headers(pid: int, start: int, control: int) -> list[bytes]:
    return [bytes((SYNC_BYTE, start | pid >> 8, pid & 0xFF, control | counter)) for counter in range(16)]


def _stuffed(field: bytes, free: int) -> bytes:
    """The adaptation field made longer by `free` bytes, at least 1."""
    if not field:
        return _STUFFING[PAYLOAD_BYTES - free]
    return bytes((field[0] + free,)) + field[1:] + b"\xff" * free
