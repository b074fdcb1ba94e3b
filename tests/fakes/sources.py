"""Sources made of bytes: HTTP servers that behave, misbehave and break off, on loopback."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from aiohttp import web

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


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Origin:
    """Serves a folder (ranges included), and what is made for each request; remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, Mapping[str, str]]] = []  # path with query, and headers
        self.at_once = 0
        self.most_at_once = 0
        self._folder = folder
        self._answers: dict[str, Answer] = {}

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def paths(self) -> list[str]:
        """What was asked for, in order, without queries."""
        return [path.partition("?")[0] for path, _ in self.requests]

    def on(self, path: str, answer: Answer | str | bytes | int) -> None:
        """What a path gives: a body, a status, or what a function makes of the request."""
        if callable(answer):
            self._answers[path] = answer
            return
        status, body = (answer, b"") if isinstance(answer, int) else (200, answer)

        async def give(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body)

        self._answers[path] = give

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, request.headers.copy()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if answer := self._answers.get(request.path):
                return await answer(request)
            file = self._folder / request.path.lstrip("/")
            return web.FileResponse(file) if file.is_file() else web.Response(status=404)
        finally:
            self.at_once -= 1


class LivePlaylist:
    """A sliding window over segments that are repeated for ever, at the speed of the clock."""

    def __init__(self, names: Sequence[str], *, segment_s: float, window: int = 5, head: str = "") -> None:
        """`head`: tags before the segments. Begins with a full window."""
        self.names = list(names)
        self.segment_s = segment_s
        self.window = window
        self.head = head
        self.first = 0  # media sequence number when it began
        self.frozen_at: int | None = None  # the end does not grow beyond
        self.ended = False
        self._began_at = time.monotonic()

    @property
    def end(self) -> int:
        end = self.first + self.window + int((time.monotonic() - self._began_at) / self.segment_s)
        return end if self.frozen_at is None else min(end, self.frozen_at)

    def restart(self) -> None:
        """The packager begins again with segment 0."""
        self.first, self._began_at = 0, time.monotonic()

    def text(self) -> str:
        first = max(0, self.end - self.window)
        lines = ["#EXTM3U", f"#EXT-X-TARGETDURATION:{math.ceil(self.segment_s)}", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
        lines += [self.head] if self.head else []
        for number in range(first, self.end):
            place = number % len(self.names)
            lines += ["#EXT-X-DISCONTINUITY"] if number and place == 0 else []
            lines += [f"#EXTINF:{self.segment_s:.3f},", f"{self.names[place]}?n={number}"]
        return "\n".join([*lines, "#EXT-X-ENDLIST"] if self.ended else lines) + "\n"

    async def __call__(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self.text(), content_type="application/vnd.apple.mpegurl")
