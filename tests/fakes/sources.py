"""Sources made of bytes: HTTP servers that behave, misbehave and break off, on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Plays one answer, from the status line on; when it returns, the connection is closed."""


class ScriptedServer:
    """Answers the first connection by the first script, and so on; the last one answers all that follow."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []  # heads, as they came
        self.open = 0
        self.most_open = 0
        self._scripts = scripts
        self._tls = tls
        self._idle = asyncio.Event()
        self._idle.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/source.ts"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self.all_closed()

    def stop_listening(self) -> None:
        """From here on connections are refused; those that are open stay."""
        self._server.close()

    async def all_closed(self) -> None:
        await self._idle.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            self.open += 1
            self._idle.clear()
            self.most_open = max(self.most_open, self.open)
            playing = asyncio.ensure_future(script(writer))
            left = asyncio.ensure_future(reader.read())  # ends when the client does
            try:
                await asyncio.wait({playing, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.open -= 1
                if not self.open:
                    self._idle.set()
                for future in (playing, left):
                    future.cancel()
                await asyncio.gather(playing, left, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> Script:
    """A whole answer with its length."""

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, f"Content-Length: {len(body)}", *headers) + body)
        await writer.drain()

    return play


def endless(
    pieces: Iterable[bytes], *headers: str, pause_s: float = 0.0, chunked: bool = False, then: Script | None = None
) -> Script:
    """An answer without a length, in pieces; then it is closed, or whatever `then` does happens."""

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", *headers, *(["Transfer-Encoding: chunked"] if chunked else ["Connection: close"])))
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if then is not None:
            await then(writer)
        elif chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return play


async def hang(writer: asyncio.StreamWriter) -> None:
    """Sends nothing more and stays."""
    await asyncio.Event().wait()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off with a RST."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    """Ends at once."""


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]
