"""One ffmpeg process: pipes, stderr, progress, and an end that always comes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import termios
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from tvarr.ffmpeg.child import Child
from tvarr.ffmpeg.errors import MAX_STDERR_LINES, not_started
from tvarr.ffmpeg.nap import Nap
from tvarr.ffmpeg.progress import Progress, ProgressParser

PIPE_BYTES = 1024 * 1024
"""Of stdin and of stdout, where the kernel grants it (pipe(7): `pipe-max-size`, and `pipe-user-pages-soft`, by which a
user without privileges gets 64 MiB for all pipes together)."""

SMALL_PIPE_BYTES = 64 * 1024  # what one holds otherwise, at most (pipe(7))
MAX_LINE_BYTES = 1000  # of a line of stderr; the rest of it is cut off
READ_BYTES = 1024 * 1024  # at most for one read of stdout
FIRST_NAP_S, LONGEST_NAP_S = 0.004, 0.4  # while ffmpeg empties a pipe that was full
TERMINATE_S = 1.0  # from SIGTERM to SIGKILL
_ON_LINUX = sys.platform.startswith("linux")

# Runs the command that follows its own parent's process id, with SIGKILL as its fate when that parent dies: prctl's
# PR_SET_PDEATHSIG (1) survives execve, and the parent may be dead before it is set. A `preexec_fn` could do the same,
# but it runs Python between fork and exec, which deadlocks in a process with gRPC's threads. Costs 10 ms.
_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"tvarr: {sys.argv[2]} can't be run: {error.strerror}")
"""


def tied_to_this_process(argv: Sequence[str]) -> list[str]:
    """The command, wrapped so that the kernel kills it when this process dies; on other systems than Linux as it is.

    The thread that starts it has to live as long as the command: it counts as its parent.
    """
    if not _ON_LINUX or not sys.executable:
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), *argv]


@dataclass(slots=True)
class StderrLines:
    """Bytes of stderr in, lines out: the last ones, and those that nobody has asked for yet."""

    on_line: Callable[[str], None] | None = None  # told of each
    last: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_STDERR_LINES))
    _new: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_STDERR_LINES))  # overflow: the oldest go
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        for line in lines:
            self._add(line)

    def end(self) -> None:
        self._add(self._rest)
        self._rest = b""

    def take_new(self) -> list[str]:
        lines = list(self._new)
        self._new.clear()
        return lines

    def _add(self, line: bytes) -> None:
        if text := line[:MAX_LINE_BYTES].decode(errors="replace").strip():
            self.last.append(text)
            self._new.append(text)
            if self.on_line is not None:
                self.on_line(text)


def _made_to_hold(fd: int, wanted_bytes: int) -> int:
    """How many bytes the pipe holds: as many as were wanted, if the kernel lets it."""
    if not _ON_LINUX:
        return SMALL_PIPE_BYTES
    with contextlib.suppress(OSError):
        if wanted_bytes:
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, wanted_bytes)
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


class _PipeEnd:
    """The daemon's end of a pipe, not blocking. Each of its waits has one waiter."""

    def __init__(self, fd: int, wanted_bytes: int = 0) -> None:
        """`wanted_bytes`: what it should hold; 0: any size will do."""
        self.fd = fd
        self.holds_bytes = _made_to_hold(fd, wanted_bytes)
        self._waiter: asyncio.Future[None] | None = None
        os.set_blocking(fd, False)
        self._nap = Nap(FIRST_NAP_S, LONGEST_NAP_S)

    @property
    def closed(self) -> bool:
        return self.fd < 0

    async def readable(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(loop.add_reader, loop.remove_reader)

    async def writable(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(loop.add_writer, loop.remove_writer)

    async def roomy(self) -> None:
        """Waits until a good part of a full pipe is free again, for as long as that took the last times.

        It counts as writable with each page that is read: whoever wrote then would be woken for every 4 KiB.
        """
        await self.writable()
        if self.closed or not _ON_LINUX:
            return
        await asyncio.sleep(self._nap.s)
        if self.closed:
            return
        left = int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        self._nap.flowed(1 - left / self.holds_bytes)

    async def _wait(self, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]) -> None:
        fd, self._waiter = self.fd, asyncio.get_running_loop().create_future()
        add(fd, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self.fd == fd:
                remove(fd)

    def close(self) -> None:
        """Closes it and lets go of who waits for it."""
        if self.closed:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.fd)
        loop.remove_writer(self.fd)
        os.close(self.fd)
        self.fd = -1
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class FfmpegProcess:
    """A running ffmpeg. Made by `start`; whoever made it awaits `stop` at the end, whatever happened."""

    def __init__(
        self,
        process: Child,
        stdin: _PipeEnd,
        stdout: _PipeEnd,
        others: Sequence[asyncio.Task[None]],
        stderr: StderrLines,
        progress: _Latest,
        command: Sequence[str],
    ) -> None:
        self.pid = process.pid
        self.command = command
        self.stderr = stderr
        self._process = process
        self._stdin = stdin
        self._stdout = stdout
        self._others = others
        self._progress = progress
        self._psutil: psutil.Process | None = None
        self.ended = False  # it does not read any more

    @classmethod
    async def start(
        cls,
        command: Callable[[int], Sequence[str]],
        environment: Mapping[str, str] = {},
        on_line: Callable[[str], None] | None = None,
    ) -> FfmpegProcess:
        """Runs the command that `command` makes, given the descriptor for `-progress`.

        `environment` is added to this process's own; `on_line` is told of each line of stderr. Raises `JobError` where
        it can't be run at all.
        """
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for child_reads in (True, False, False, False):
                reader, writer = os.pipe()
                theirs.append(reader if child_reads else writer)
                ours.append(writer if child_reads else reader)
            argv = command(theirs[3])
            process = Child(
                tied_to_this_process(argv),
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                pass_fds=(theirs[3],),
                env={**os.environ, **environment},
            )
        except OSError as error:
            for fd in ours:
                os.close(fd)
            raise not_started(error).as_error() from error
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        stdin, stdout = (_PipeEnd(fd, PIPE_BYTES) for fd in ours[:2])
        stderr_pipe, progress_pipe = map(_PipeEnd, ours[2:])
        stderr, progress = StderrLines(on_line), _Latest()
        others = (
            asyncio.create_task(_pump(stderr_pipe, stderr.feed), name="stderr of ffmpeg"),
            asyncio.create_task(_pump(progress_pipe, progress.feed), name="progress of ffmpeg"),
        )
        return cls(process, stdin, stdout, others, stderr, progress, argv)

    @property
    def progress(self) -> Progress:
        """The latest block of `-progress`."""
        return self._progress.block

    @property
    def encoders_open(self) -> bool:
        """Whether every encoder was opened, as far as `-progress` tells: the first output may tell it sooner.

        FFmpeg writes no block before all encoders of its output are open, but for the one at its end (fftools,
        print_report: `nb_output_dumped`; 5.1 and 9.0, tried). 5.1 writes the first one then, 9.0 at the next second.
        """
        return self._progress.opened

    @property
    def stdout_bytes(self) -> int:
        """So much of its output gathers before it has to wait."""
        return self._stdout.holds_bytes

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def write(self, data: bytes) -> bool:
        """Writes to stdin; waits while the pipe is full. False where ffmpeg does not read any more."""
        view = memoryview(data)
        while view:
            if self._stdin.closed:
                return False
            try:
                view = view[os.write(self._stdin.fd, view) :]
            except BlockingIOError:
                await self._stdin.roomy()
            except BrokenPipeError:
                self.ended = True
                return False
        return True

    def close_stdin(self) -> None:
        """The end of the input: ffmpeg flushes and ends."""
        self._stdin.close()

    async def read(self) -> bytes:
        """What is on stdout, waiting for it; nothing at its end."""
        while not self._stdout.closed:
            try:
                return os.read(self._stdout.fd, READ_BYTES)
            except BlockingIOError:
                await self._stdout.readable()
        return b""

    def usage(self) -> tuple[float, int]:
        """CPU since the last call, in per cent of one core, and resident memory in bytes; zeros once it has ended."""
        try:
            if self._psutil is None:
                self._psutil = psutil.Process(self.pid)
            with self._psutil.oneshot():
                return self._psutil.cpu_percent(), self._psutil.memory_info().rss
        except psutil.Error:
            return 0.0, 0

    async def wait(self) -> int:
        """Waits for the process and for the last of its stderr; the return code, negative for a signal."""
        code = await self._process.wait()
        await asyncio.wait(self._others, timeout=TERMINATE_S)
        self.stderr.end()
        return code

    async def stop(self, terminate_s: float = TERMINATE_S) -> int:
        """Ends it now, flushing nothing: closed pipes and SIGTERM, after `terminate_s` SIGKILL. Returns as `wait`."""
        self._stdin.close()
        self._stdout.close()
        try:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), terminate_s)
            self._signal(signal.SIGKILL)
            return await self.wait()
        finally:
            self._signal(signal.SIGKILL)  # where this was cancelled
            for task in self._others:
                task.cancel()

    def _signal(self, number: int) -> None:
        """To the process and what it may have started: it leads a group."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class _Latest:
    """Keeps the last block of progress."""

    def __init__(self) -> None:
        self.block = Progress()
        self.opened = False  # a block came that was not the last
        self._parser = ProgressParser()

    def feed(self, data: bytes) -> None:
        for block in self._parser.feed(data):
            self.block = block
            self.opened = self.opened or not block.ended


async def _pump(pipe: _PipeEnd, take: Callable[[bytes], None]) -> None:
    """Gives `take` what comes until the other end is closed."""
    try:
        while True:
            try:
                data = os.read(pipe.fd, 64 * 1024)
            except BlockingIOError:
                await pipe.readable()
                continue
            if not data:
                return
            take(data)
    finally:
        pipe.close()
