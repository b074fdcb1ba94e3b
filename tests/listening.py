"""A real daemon that serves clients (`tvarr ffmpegd --listen`), and what of it may not be left behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import program
from tests.harness import TOKEN, Cluster, Role, eventually


@dataclass
class Listening:
    role: Role
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"grpc://{TOKEN}@{self.target}"

    def ffmpegs(self) -> list[psutil.Process]:
        """The ffmpeg processes of its jobs."""
        children = psutil.Process(self.role.process.pid).children(recursive=True)
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]

    def idle(self) -> None:
        """Waits until no ffmpeg is left."""
        eventually(lambda: not self.ffmpegs(), "no ffmpeg is left", within_s=10)


def port_of(role: Role) -> int:
    """Waits until a daemon serves clients, and returns where."""

    def found() -> int:
        assert role.process.poll() is None, role.text()
        said = re.search(r"serving clients on port (\d+)", role.text())
        return int(said[1]) if said else 0

    return int(eventually(found, "the daemon serves clients"))


@contextmanager
def listening(folder: Path, *flags: str) -> Iterator[Listening]:
    """A daemon on a port of its own, which ends as it should, in the block or after it."""
    program("ffmpeg")
    made = Cluster(folder)
    try:
        role = made.run(
            "listening",
            *("ffmpegd", "--listen", "127.0.0.1:0", "--name", "box", "--work-dir", str(folder / "work"), *flags),
            TVARR_AUTH_TOKEN=TOKEN,
        )
        yield Listening(role, port_of(role))
        assert role.stop() == 0, role.text()
        assert "Traceback" not in role.text(), role.text()
    finally:
        made.stop()
