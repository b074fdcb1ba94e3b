"""A child process that is started without running Python between fork and exec."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryFile
from typing import IO, NamedTuple

REAP_WITHIN_S = 5.0
OOM_SCORE_MORE = 300
"""Added to this process's own (proc_pid_oom_score_adj(5); thousandths of all memory). Where memory runs out the kernel
kills the largest process: of a daemon and many small children that would be the daemon, and every job with it."""


class Child:
    """One child of this process, watched by the running event loop.

    Not asyncio's own: uvloop's spawn runs Python's handlers in the forked child, and while another thread (gRPC has
    several) holds a lock at that moment, the child hangs, and with it this process, which waits for its exec: the
    collector ran in one and took down a call of gRPC. `Popen` uses vfork, or forks and execs in C; the loop waits for
    neither longer than that takes.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it as the leader of a session and group of its own. Raises `OSError` where it can't be run."""
        self._process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, env=env, start_new_session=True
        )
        self.pid = self._process.pid
        _offer_for_killing(self.pid)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._watcher: asyncio.Task[int] | None = None
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system than Linux, or one older than 5.3
            self._watcher = asyncio.create_task(
                asyncio.to_thread(self._process.wait), name=f"end of process {self.pid}"
            )
            self._watcher.add_done_callback(lambda _: self._ended.set())
        else:
            self._loop.add_reader(self._pidfd, self._reap)

    @property
    def returncode(self) -> int | None:
        """Negative: of the signal that ended it. None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Waits for its end; the return code."""
        await self._ended.wait()
        code = self._process.returncode
        assert code is not None
        return code

    async def kill(self) -> None:
        """Ends it and what it has started; to be called where it has just ended, too. Waits for that, though not for
        ever: a process that a driver holds in the kernel does not even die of SIGKILL.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(REAP_WITHIN_S):
                await self.wait()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._ended.set()


def _offer_for_killing(pid: int) -> None:
    """Where memory runs out, the kernel is to take this process before its parent."""
    with suppress(OSError, ValueError):  # no Linux, or a /proc that may not be written
        own = int(Path("/proc/self/oom_score_adj").read_text())
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(own + OOM_SCORE_MORE, 1000)))


class Outcome(NamedTuple):
    """How a program ended, and the heads of what it said."""

    returncode: int
    stdout: str
    stderr: str


def _nameless_file() -> IO[bytes]:
    """In memory, where the system has such (memfd_create(2)): no folder may be writable, or its disk is full."""
    try:
        return os.fdopen(os.memfd_create("output"), "w+b")
    except (AttributeError, OSError):
        return TemporaryFile()


async def run(
    argv: Sequence[str], *, within_s: float, most_bytes: int, env: Mapping[str, str] | None = None
) -> Outcome:
    """Runs a program without input to its end, and keeps `most_bytes` of each of its outputs.

    Raises `TimeoutError` after `within_s`, and another `OSError` where it can't be started. However it is left, its
    whole group is dead and reaped.
    """
    with _nameless_file() as stdout, _nameless_file() as stderr:
        process = Child(argv, stdin=DEVNULL, stdout=stdout.fileno(), stderr=stderr.fileno(), env=env)
        try:
            async with asyncio.timeout(within_s):
                returncode = await process.wait()
        finally:
            await process.kill()
        heads = []
        for file in (stdout, stderr):
            file.seek(0)
            heads.append(file.read(most_bytes).decode(errors="replace"))
        return Outcome(returncode, *heads)
