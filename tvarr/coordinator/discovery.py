"""Answers media servers that look for HDHomeRun tuners in their network, with where ours is.

They send a UDP packet to everybody's port 65001 (libhdhomerun's `hdhomerun_pkt.h`): type and length in 16 bits each,
tags with their lengths and values, and a CRC-32 in little-endian order.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, cast

from tvarr.coordinator.hdhomerun import Tuner

log = logging.getLogger(__name__)

PORT = 65001
MAX_ANSWERS_PER_S = 50  # to all together; what comes beyond is left unanswered
MAX_PACKET_BYTES = 1460

_REQUEST, _REPLY = 2, 3
_DEVICE_TYPE, _DEVICE_ID, _TUNER_COUNT = 0x01, 0x02, 0x10
_LINEUP_URL, _BASE_URL, _DEVICE_AUTH, _DEVICE_TYPES = 0x27, 0x2A, 0x2B, 0x2D
_TUNER_TYPE, _ANY = (1).to_bytes(4, "big"), b"\xff\xff\xff\xff"


def looks_for(packet: bytes, device_id: str) -> bool:
    """Whether this is the question for a tuner, or for this one. Anything else is no error: it is not answered."""
    if not 8 <= len(packet) <= MAX_PACKET_BYTES or int.from_bytes(packet[:2], "big") != _REQUEST:
        return False
    end = 4 + int.from_bytes(packet[2:4], "big")
    if len(packet) != end + 4 or packet[end:] != _crc(packet[:end]):
        return False
    wanted_type = wanted_id = True
    for tag, value in _tags(packet[4:end]):
        if tag == _DEVICE_TYPE:
            wanted_type = value in (_TUNER_TYPE, _ANY)
        elif tag == _DEVICE_TYPES:
            types = [value[at : at + 4] for at in range(0, len(value), 4)]
            wanted_type = _TUNER_TYPE in types or _ANY in types
        elif tag == _DEVICE_ID:
            wanted_id = value in (bytes.fromhex(device_id), _ANY)
    return wanted_type and wanted_id


def answer(tuner: Tuner) -> bytes:
    """What is sent to who asked."""
    found = tuner.discover()
    tags = (
        (_DEVICE_TYPE, _TUNER_TYPE),
        (_DEVICE_ID, bytes.fromhex(tuner.device_id)),
        (_TUNER_COUNT, bytes((tuner.tuner_count,))),
        (_DEVICE_AUTH, str(found["DeviceAuth"]).encode()),
        (_BASE_URL, str(found["BaseURL"]).encode()),
        (_LINEUP_URL, str(found["LineupURL"]).encode()),
    )
    payload = b"".join(bytes((tag,)) + _length(len(value)) + value for tag, value in tags)
    packet = _REPLY.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload
    return packet + _crc(packet)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _length(count: int) -> bytes:
    """One byte, or two with the lower seven bits first."""
    return bytes((count,)) if count < 0x80 else bytes((count & 0x7F | 0x80, count >> 7))


def _tags(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Up to the first that is cut off."""
    at = 0
    while at + 2 <= len(payload):
        tag, length, at = payload[at], payload[at + 1], at + 2
        if length & 0x80 and at < len(payload):
            length, at = length & 0x7F | payload[at] << 7, at + 1
        if at + length > len(payload):
            return
        yield tag, payload[at : at + length]
        at += length


class Discovery(asyncio.DatagramProtocol):
    """Answers who is not from the internet: senders there are easily made up, and answers are longer than questions."""

    def __init__(self, tuner_at: Callable[[str], Tuner], now: Callable[[], float] = time.monotonic) -> None:
        """`tuner_at` makes the tuner as it is reached by this address of ours."""
        self._tuner_at = tuner_at
        self._now = now
        self._transport: asyncio.DatagramTransport
        self._second = 0
        self._answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if ip_address(addr[0]).is_global or self._is_busy():
            return
        try:
            tuner = self._tuner_at(_own_address(addr))
        except OSError:
            return  # there is no way to it
        if looks_for(data, tuner.device_id):
            self._answers += 1
            self._transport.sendto(answer(tuner), addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("an answer to a search for tuners was not delivered: %s", exc)

    def _is_busy(self) -> bool:
        second = int(self._now())
        if second != self._second:
            self._second, self._answers = second, 0
        return self._answers >= MAX_ANSWERS_PER_S


def _own_address(peer: tuple[str | Any, int]) -> str:
    """The address of this machine by which that one reaches it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(peer[:2])
        return str(way.getsockname()[0])


async def answer_searches(
    tuner_at: Callable[[str], Tuner], host: str = "0.0.0.0", port: int = PORT
) -> asyncio.DatagramTransport | None:
    """Begins to answer; None where another program does on this machine."""
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: Discovery(tuner_at), (host, port))
    except OSError as error:
        log.info("media servers can't search for the tuner here: UDP port %d: %s", port, error.strerror or error)
        return None
    return transport
