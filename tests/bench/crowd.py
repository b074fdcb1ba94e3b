"""`python -m tests.bench.crowd PORT SECONDS COUNT SLOW PATH...`: viewers in a process of their own.

Opens COUNT connections for each PATH, waits until all of them get something, and counts what each of them gets in the
SECONDS after that. Where SLOW is not 0, one more viewer of the first path reads so many bytes a second. Prints `begun`,
and in the end as JSON what each got, bytes a second.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time

BUFFER_BYTES = 1 << 18
TOGETHER_WITHIN_S = 60.0
READ_EACH_S = 0.02  # all that is there at once, as players with buffers do: this process is not what is measured


def connect(port: int, path: str) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port))
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: crowd\r\n\r\n".encode())
    made.setblocking(False)
    return made


def read_all(ready: selectors.DefaultSelector, counts: dict[int, int], buffer: bytearray, until: float) -> None:
    while (now := time.monotonic()) < until:
        for key, _ in ready.select(timeout=max(0.0, min(until - now, 0.1))):
            got = key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
            if not got:
                raise SystemExit("a stream ended")
            counts[key.fd] += got
        time.sleep(READ_EACH_S)


class Slow:
    """Reads so many bytes a second."""

    def __init__(self, port: int, path: str, bytes_a_second: int) -> None:
        self._socket = connect(port, path)
        self._rate = bytes_a_second
        self._began = time.monotonic()
        self._read = 0

    def look(self) -> None:
        due = int((time.monotonic() - self._began) * self._rate) - self._read
        if due > 0:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                self._read += len(self._socket.recv(due))


def main() -> None:
    port, seconds, count, slow_bytes, paths = (
        int(sys.argv[1]),
        float(sys.argv[2]),
        *map(int, sys.argv[3:5]),
        sys.argv[5:],
    )
    slow = Slow(port, paths[0], slow_bytes) if slow_bytes else None
    ready, counts, buffer = selectors.DefaultSelector(), dict[int, int](), bytearray(BUFFER_BYTES)
    for path in paths * count:
        made = connect(port, path)
        counts[made.fileno()] = 0
        ready.register(made, selectors.EVENT_READ)
    deadline = time.monotonic() + TOGETHER_WITHIN_S
    while not all(counts.values()):
        if time.monotonic() > deadline:
            raise SystemExit("not everybody has something")
        read_all(ready, counts, buffer, time.monotonic() + 0.1)
    read_all(ready, counts, buffer, time.monotonic() + 2.0)  # what they got to begin with
    before, began = dict(counts), time.monotonic()
    print("begun", flush=True)
    while (now := time.monotonic()) < began + seconds:
        read_all(ready, counts, buffer, min(now + 0.1, began + seconds))
        if slow is not None:
            slow.look()
    took = time.monotonic() - began
    each = [(counts[fd] - before[fd]) / took for fd in counts]
    print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
