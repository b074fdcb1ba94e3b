"""A name server that takes its time."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from tests.conftest import lacking, program

ADDRESS = "127.0.53.1"
_A, _IN = 1, 1
_ANSWER = 0x8180  # a response, recursion available, no error (RFC 1035, 4.1.1)


class _Server(asyncio.DatagramProtocol):
    """Answers each question with 127.0.0.1 after as many seconds as `delay_s` says of the name; None: never."""

    def __init__(self, delay_s: Callable[[str], float | None]) -> None:
        self._delay_s = delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        labels, at = [], 12
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += 1 + size
        delay_s = self._delay_s(".".join(labels))
        if delay_s is not None:
            answer = _answer(data, data[12 : at + 5])
            asyncio.get_running_loop().call_later(delay_s, self._transport.sendto, answer, address)


def _answer(query: bytes, question: bytes) -> bytes:
    record = b""
    if struct.unpack("!H", question[-4:-2])[0] == _A:
        record = struct.pack("!HHHIH4B", 0xC00C, _A, _IN, 0, 4, 127, 0, 0, 1)
    return query[:2] + struct.pack("!5H", _ANSWER, 1, bool(record), 0, 0) + question + record


@asynccontextmanager
async def name_server(folder: Path, delay_s: Callable[[str], float | None]) -> AsyncIterator[tuple[str, ...]]:
    """What is put before a command to make this server the one that it asks."""
    resolv = folder / "resolv.conf"
    resolv.write_text(f"nameserver {ADDRESS}\n")
    in_its_place = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Server(delay_s), (ADDRESS, 53))
    except PermissionError:
        lacking("the right to serve names on port 53")
    try:
        yield (program("unshare"), "--mount", "sh", "-c", in_its_place, str(resolv))
    finally:
        transport.close()
