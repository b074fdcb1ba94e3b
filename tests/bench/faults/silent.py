"""Thousands of connections that say nothing, and come again when they are ended, beside a viewer."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.faults.rounds import running_job
from tests.bench.faults.stage import stage
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import watched
from tests.harness import eventually

COUNT = 10_000  # half of them to each port
SOURCES = 40  # addresses of this host that they come from
BEFORE_S, SILENT_S = 10.0, 40.0
GONE_WITHIN_S = 30.0
OWN_FILES = 200  # of this process


class Silent:
    """So many connections to some ports of this host, that say nothing: what the other side ends comes again."""

    def __init__(self, ports: Sequence[int], count: int) -> None:
        self.ended = 0  # by the other side
        self._ports = ports
        self._open: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        for number in range(count):
            self._connect(number)

    def run(self) -> None:
        """Until stdin ends."""
        while sys.stdin.fileno() not in (ready := {descriptor for descriptor, _ in self._poll.poll()}):
            for descriptor in ready:
                self._open.pop(descriptor).close()
                self.ended += 1
                self._connect(self.ended)

    def _connect(self, number: int) -> None:
        one = socket.socket()
        one.setblocking(False)
        one.bind((f"127.0.0.{2 + number % SOURCES}", 0))
        one.connect_ex(("127.0.0.1", self._ports[number % len(self._ports)]))
        self._open[one.fileno()] = one
        self._poll.register(one, select.EPOLLIN | select.EPOLLRDHUP)


@contextmanager
def silent_clients(*ports: int, count: int) -> Iterator[list[int]]:
    """A process that has them; after the block the list has how many the other side ended."""
    command = [sys.executable, "-m", "tests.bench.faults.silent", str(count), *map(str, ports)]
    ended: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ended
        finally:
            said, _ = process.communicate()
            ended.append(int(said))


async def silent(folder: Path, clips: Path, count: int = COUNT) -> dict[str, Any]:
    """What they cost the coordinator, and whether a viewer of a transcode beside them lost anything."""
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES)
    with stage(folder, clips, daemons=("one",)) as made:
        await asyncio.to_thread(made.start_missing)
        await asyncio.to_thread(made.all_connected)
        running = made.running
        process = psutil.Process(running.roles["coordinator"].process.pid)
        async with watched(running, [made.new_channel()], "h264") as (one,):
            await running_job(one, made)
            quiet_cpu = await _cpu_over(process, BEFORE_S)
            files, memory = process.num_fds(), process.memory_info().rss
            began = asyncio.get_running_loop().time()
            with silent_clients(running.http_port, running.grpc_port, count=count) as ended:
                cpu, peak_files, peak_memory = 0.0, 0, 0
                for _ in range(round(SILENT_S)):
                    cpu += await _cpu_over(process, 1.0) / SILENT_S
                    peak_files = max(peak_files, process.num_fds())
                    peak_memory = max(peak_memory, process.memory_info().rss)
                gone_since = time.monotonic()
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(eventually, lambda: process.num_fds() <= files + 5, "all gone", GONE_WITHIN_S)
            gone_s = time.monotonic() - gone_since
            memory_after = process.memory_info().rss
        verdict = await asyncio.to_thread(
            judge, one.transcode.received, one.source.received, folder, struck_at=[began], trouble=one.trouble
        )
    return {
        "connections": count,
        "ended_by_the_coordinator": ended[0],
        "cpu_percent": {"before": round(quiet_cpu, 1), "during": round(cpu, 1)},
        "memory_mb": {"before": memory >> 20, "peak": peak_memory >> 20, "after": memory_after >> 20},
        "descriptors": {"before": files, "peak": peak_files},
        "gone_after_s": round(gone_s, 1),
        "viewer": {"pictures": verdict.pictures, "pause_s": round(verdict.pause_s, 3), "lost": verdict.words()},
        "good": not verdict.lost and ended[0] > 0 and gone_s < GONE_WITHIN_S,
    }


async def _cpu_over(process: psutil.Process, seconds: float) -> float:
    """Per cent of one core."""
    process.cpu_percent()
    await asyncio.sleep(seconds)
    return process.cpu_percent()


if __name__ == "__main__":
    clients = Silent([int(port) for port in sys.argv[2:]], int(sys.argv[1]))
    clients.run()
    print(clients.ended)
