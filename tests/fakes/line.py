"""A bad line to another host: two TUN devices, and between them a thread that loses and delays packets.

The kernel's own netem is a module that containers and small kernels lack.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.conftest import lacking, program

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_PACKET_BYTES = 2048


def ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True, timeout=10)


@dataclass
class Line:
    """`here` and `there` are the addresses of its ends; `there` is in the network namespace `namespace`."""

    namespace: str
    here: str
    there: str
    loss: float = 0.0  # of packets, each way
    delay_s: float = 0.0  # each way
    lost: int = 0
    passed: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command to run it at the far end."""
        return (program("ip"), "netns", "exec", self.namespace)

    def move(self, there: str) -> None:
        """Gives the far end another address, as some providers do each night."""
        ip("-n", self.namespace, "addr", "flush", "dev", "far")
        ip("-n", self.namespace, "addr", "add", there, "peer", self.here, "dev", "far")
        ip("route", "replace", there, "dev", self.namespace)
        self.there = there

    def carry(self, ends: tuple[int, int], stop: int) -> None:
        """Moves packets until `stop` can be read."""
        waiting: list[tuple[float, int, int, bytes]] = []  # when, a number, descriptor, packet
        number = 0
        while True:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                os.write(to, packet)
            readable, _, _ = select.select([*ends, stop], [], [], waiting[0][0] - now if waiting else None)
            if stop in readable:
                return
            for end in readable:
                packet = os.read(end, _PACKET_BYTES)
                if self._random.random() < self.loss:
                    self.lost += 1
                    continue
                self.passed += 1
                number += 1
                to = ends[1] if end == ends[0] else ends[0]
                heapq.heappush(waiting, (time.monotonic() + self.delay_s, number, to, packet))


def _tun(name: str) -> int:
    try:
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        lacking(f"the right to make network devices ({error})")
    return device


@contextmanager
def line(*, loss: float = 0.0, delay_s: float = 0.0) -> Iterator[Line]:
    """A line to a host of its own; both are gone with the block."""
    name = f"tvl{os.getpid()}"
    third, fourth = divmod(os.getpid() * 4 % 65_536, 256)
    made = Line(name, f"10.79.{third}.{fourth + 1}", f"10.79.{third}.{fourth + 2}", loss, delay_s)
    ends = (_tun(name), _tun(f"{name}f"))
    stop, stopping = os.pipe()
    carrier = threading.Thread(target=made.carry, args=(ends, stop), name="line", daemon=True)
    try:
        ip("netns", "add", name)
        ip("link", "set", f"{name}f", "netns", name)
        ip("-n", name, "link", "set", f"{name}f", "name", "far")
        ip("addr", "add", made.here, "peer", made.there, "dev", name)
        ip("-n", name, "addr", "add", made.there, "peer", made.here, "dev", "far")
        ip("link", "set", name, "up")
        ip("-n", name, "link", "set", "far", "up")
        ip("-n", name, "link", "set", "lo", "up")
        carrier.start()
        yield made
    finally:
        os.close(stopping)
        if carrier.ident:
            carrier.join()
        for descriptor in (*ends, stop):
            os.close(descriptor)
        subprocess.run([program("ip"), "netns", "del", name], capture_output=True, timeout=10, check=False)
