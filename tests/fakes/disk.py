"""Small disks of a test's own, in a mount namespace: one that fills up, and one that breaks as the kernel sees it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import lacking, program

_MOUNT_AND_WAIT = 'mount "$@" && findmnt -no SOURCE "$0" && exec cat'


@dataclass(frozen=True, slots=True)
class Disk:
    """`folder` is where it is mounted, for who is started with `prefix`."""

    folder: Path
    device: str
    pid: int  # of who keeps the namespace

    @property
    def prefix(self) -> tuple[str, ...]:
        return (program("nsenter"), f"--mount=/proc/{self.pid}/ns/mnt")

    @property
    def seen_from_here(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.folder}")

    def fill(self) -> Path:
        """Leaves no room; returns the file that takes it."""
        filler = self.seen_from_here / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        return filler

    def break_down(self) -> None:
        """What an error of its device does to ext4: nothing is written from here on."""
        Path(f"/sys/fs/ext4/{Path(self.device).name}/trigger_fs_error").write_text("a test\n")


@contextmanager
def _mounted(folder: Path, *how: str) -> Iterator[Disk]:
    folder.mkdir()
    command = [program("unshare"), "--mount", "sh", "-c", _MOUNT_AND_WAIT, str(folder), *how, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            device = keeper.stdout.readline().strip()
            if not device:
                lacking(f"the right to mount ({' '.join(how)})")
            yield Disk(folder, device, keeper.pid)
        finally:
            keeper.stdin.close()


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Disk]:
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs") as disk:
        yield disk


@contextmanager
def ext4_disk(folder: Path) -> Iterator[Disk]:
    """Goes read-only when it breaks, as most systems mount theirs."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run([program("mkfs.ext4"), "-q", str(image)], check=True, timeout=30)
    with _mounted(folder, "-o", "loop,errors=remount-ro", str(image)) as disk:
        yield disk
