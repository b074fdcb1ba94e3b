"""`python -m tests.bench.live CLIP`: a live source over HTTP. Prints its port; runs until it is ended.

Each connection gets the clip from its beginning, a keyframe, as its PCRs say (ISO/IEC 13818-1, 2.4.3.5), again and
again; so whoever measures a start does not measure how long a source's GOP is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKET = 188
CLOCK = 90_000


def paced(data: bytes) -> list[tuple[float, bytes]]:
    """(seconds since the start, bytes that are due then), one for each PCR."""
    marks = list(_pcrs(data))
    first = marks[0][1]
    ends = [at for at, _ in marks[1:]] + [len(data)]
    begins = [0] + [at for at, _ in marks[1:]]
    due = zip(begins, ends, marks, strict=True)
    return [((pcr - first) / CLOCK, data[begin:end]) for begin, end, (_, pcr) in due]


def _pcrs(data: bytes) -> Iterator[tuple[int, int]]:
    """(byte, PCR base in 90 kHz) of each packet that has one."""
    for at in range(0, len(data), PACKET):
        if data[at + 3] & 0x20 and data[at + 4] and data[at + 5] & 0x10:
            yield at, int.from_bytes(data[at + 6 : at + 11], "big") >> 7


async def serve(data: bytes) -> None:
    pieces = paced(data)
    length_s = pieces[-1][0] + 0.04

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        try:
            while True:
                for due_s, piece in pieces:
                    await asyncio.sleep(began + due_s - time.monotonic())
                    writer.write(piece)
                    await writer.drain()
                began += length_s
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]).read_bytes()))
