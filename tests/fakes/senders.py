"""What sends live media by the protocols that a daemon fetches: real ffmpegs, and an RTSP server, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.conftest import program

# By a name for tests: the output of the sender, and the URL at which it is read. {p} is a free port.
SENDERS = {
    "udp": (("-f", "mpegts", "udp://127.0.0.1:{p}?pkt_size=1316"), "udp://127.0.0.1:{p}"),
    "multicast": (
        ("-f", "mpegts", "udp://239.255.77.77:{p}?pkt_size=1316&localaddr=127.0.0.1&ttl=0"),
        "udp://@239.255.77.77:{p}?localaddr=127.0.0.1",
    ),
    "rtp": (("-f", "rtp_mpegts", "rtp://127.0.0.1:{p}?pkt_size=1316"), "rtp://127.0.0.1:{p}"),
    "tcp": (("-f", "mpegts", "tcp://127.0.0.1:{p}?listen=1"), "tcp://127.0.0.1:{p}"),
    "srt": (("-f", "mpegts", "srt://127.0.0.1:{p}?mode=listener"), "srt://127.0.0.1:{p}"),
    "srt-secret": (
        ("-f", "mpegts", "srt://127.0.0.1:{p}?mode=listener&passphrase=sesame-sesame"),
        "srt://127.0.0.1:{p}?passphrase=sesame-sesame",
    ),
    "rtmp": (("-f", "flv", "-listen", "1", "rtmp://127.0.0.1:{p}/live/sesame"), "rtmp://127.0.0.1:{p}/live/sesame"),
    "mkv": (
        ("-c:a", "aac", "-f", "matroska", "-listen", "1", "http://127.0.0.1:{p}/a.mkv"),
        "http://127.0.0.1:{p}/a.mkv",
    ),
}
PLAIN = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-c:a", "aac")  # without pictures out of order
CONNECTED = frozenset({"tcp", "srt", "srt-secret", "rtmp", "mkv"})  # the sender waits for its one reader


def free_port() -> int:
    """Of TCP and UDP, an even one: RTP takes the next one too."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = (int(probe.getsockname()[1]) + 1) & ~1  # Linux gives odd ones
            for kind, number in itertools.product((socket.SOCK_STREAM, socket.SOCK_DGRAM), (port, port + 1)):
                stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", number))
            return port


@contextmanager
def sending(name: str, clip: Path, *, loops: int = 0, port: int = 0) -> Iterator[str]:
    """Sends a clip at real time, `loops` times again (-1: for ever); the URL at which it is read.

    Who connects may come too early: whoever tests tries again, as tvarr does.
    """
    port = port or free_port()
    output, url = SENDERS[name]
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-re", "-stream_loop", str(loops), "-i", str(clip)]
    command += ["-c", "copy", *(argument.format(p=port) for argument in output)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if name in CONNECTED:
            _until_bound(port, tcp=not name.startswith("srt"))
        yield url.format(p=port)
    finally:
        process.kill()
        process.wait()


def _until_bound(port: int, *, tcp: bool) -> None:
    """Waits until somebody has the port, without connecting to it: the kernel's table tells."""
    table = Path("/proc/net/tcp" if tcp else "/proc/net/udp")
    pattern = re.compile(rf": [0-9A-F]{{8}}:{port:04X} ")
    for _ in range(1000):
        if pattern.search(table.read_text()):
            return
        subprocess.run(["sleep", "0.01"], check=True)
    raise AssertionError(f"nobody listens on port {port}")


class RtspServer:
    """Plays a clip to each client, interleaved on its connection (RFC 2326, 10.12); ffmpeg makes the RTP.

    `requests` are the heads of all requests as they came.
    """

    def __init__(self, clip: Path, *codecs: str, credentials: str = "") -> None:
        """`codecs`: ffmpeg's options in place of `PLAIN`. `credentials`: as in `Authorization: Basic`."""
        self._clip = clip
        self._codecs = codecs or PLAIN
        self._credentials = credentials
        self.requests: list[str] = []
        self.open = 0
        self.most_open = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"rtsp://127.0.0.1:{port}/cam"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        loop = asyncio.get_running_loop()
        ports = [free_port(), free_port()]  # of video and audio
        sdp, sender, transports = await self._describe(ports), None, []
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head)
                method, sequence = head.split()[0], re.search(r"(?i)cseq: *(\d+)", head)
                assert sequence is not None
                answer, body = [f"CSeq: {sequence[1]}", "Session: 1"], ""
                status = "200 OK"
                if self._credentials and f"Authorization: {self._credentials}" not in head:
                    status = "401 Unauthorized"
                    answer.append('WWW-Authenticate: Basic realm="cam"')
                elif method == "OPTIONS":
                    answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
                elif method == "DESCRIBE":
                    body = sdp
                    answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
                elif method == "SETUP":
                    number = int(re.search(r"streamid=(\d)", head)[1])  # type: ignore[index]
                    answer.append(f"Transport: RTP/AVP/TCP;unicast;interleaved={2 * number}-{2 * number + 1}")
                elif method == "PLAY":
                    for number, port in enumerate(ports):
                        made = await loop.create_datagram_endpoint(
                            lambda number=number: _Interleaver(writer, 2 * number), local_addr=("127.0.0.1", port)
                        )
                        transports.append(made[0])
                    sender = await self._send(ports)
                writer.write(("\r\n".join([f"RTSP/1.0 {status}", *answer, "", ""]) + body).encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            for transport in transports:
                transport.close()
            if sender is not None:
                sender.kill()
                await sender.wait()
            writer.close()

    def _outputs(self, ports: list[int]) -> list[str]:
        video, audio = (f"rtp://127.0.0.1:{port}" for port in ports)
        return ["-map", "0:v", *self._codecs, "-f", "rtp", video, "-map", "0:a", *self._codecs, "-f", "rtp", audio]

    async def _describe(self, ports: list[int]) -> str:
        """The SDP of what is sent, from an ffmpeg that sends it to nobody."""
        command = ["-v", "error", "-nostdin", "-t", "0.2", "-i", str(self._clip), *self._outputs(ports)]
        command += ["-sdp_file", "/dev/stdout"]
        made = await asyncio.create_subprocess_exec(program("ffmpeg"), *command, stdout=asyncio.subprocess.PIPE)
        text = (await made.communicate())[0].decode()
        lines = [line for line in text.splitlines() if line and not line.startswith("SDP:")]
        out, number = [], 0
        for line in lines:
            out.append(re.sub(r"^(m=\w+) \d+", r"\1 0", line))
            if line.startswith("m="):
                out.append(f"a=control:streamid={number}")
                number += 1
        return "\r\n".join([*out, ""])

    async def _send(self, ports: list[int]) -> asyncio.subprocess.Process:
        command = ["-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(self._clip)]
        return await asyncio.create_subprocess_exec(
            program("ffmpeg"), *command, *self._outputs(ports), stdout=asyncio.subprocess.DEVNULL
        )


class _Interleaver(asyncio.DatagramProtocol):
    def __init__(self, writer: asyncio.StreamWriter, channel: int) -> None:
        self._writer = writer
        self._channel = channel

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._writer.is_closing():
            self._writer.write(b"$" + bytes([self._channel]) + len(data).to_bytes(2, "big") + data)
