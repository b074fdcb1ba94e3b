"""Hosts of their own for daemons: network namespaces with a link to this one that can be made to lose every packet."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import lacking, program

NOBODY = "02:00:00:00:00:ff"  # a link address that no interface here has


def ip(*arguments: str) -> str:
    done = subprocess.run([program("ip"), *arguments], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


def _address(*where: str) -> str:
    return str(json.loads(ip(*where[:-1], "-json", "link", "show", where[-1]))[0]["address"])


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace, its address, and this side of the link to it."""

    namespace: str
    link: str
    here: str  # address
    there: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return (program("ip"), "netns", "exec", self.namespace)

    def cut(self) -> None:
        """From here on packets go out and reach nobody, in both directions; neither side is told."""
        self._neighbours(NOBODY, NOBODY)

    def heal(self) -> None:
        self._neighbours(_address("-n", self.namespace, "up0"), _address(self.link))

    def _neighbours(self, of_there: str, of_here: str) -> None:
        ip("neigh", "replace", self.there, "lladdr", of_there, "nud", "permanent", "dev", self.link)
        ip("-n", self.namespace, "neigh", "replace", self.here, "lladdr", of_here, "nud", "permanent", "dev", "up0")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts that reach this one and not each other; they are gone with the block."""
    made: list[Host] = []
    try:
        for number in range(count):
            third, fourth = divmod((os.getpid() * 8 + number) * 4 % 65_536, 256)
            name = f"tvf{os.getpid()}-{number}"
            host = Host(name, name, f"10.78.{third}.{fourth + 1}", f"10.78.{third}.{fourth + 2}")
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                lacking(f"the right to make network namespaces ({error.stderr.strip()})")
            made.append(host)
            ip("link", "add", host.link, "type", "veth", "peer", "name", "up0", "netns", name)
            ip("addr", "add", f"{host.here}/30", "dev", host.link)
            ip("-n", name, "addr", "add", f"{host.there}/30", "dev", "up0")
            ip("link", "set", host.link, "up")
            ip("-n", name, "link", "set", "up0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for host in made:
            for what in (("link", "del", host.link), ("netns", "del", host.namespace)):
                subprocess.run([program("ip"), *what], capture_output=True, timeout=10, check=False)
