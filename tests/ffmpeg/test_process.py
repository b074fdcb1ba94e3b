"""Real processes: ffmpeg itself, and stand-ins that hang, crash or babble."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from tests.ffmpeg.support import wait_until
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.errors import classify
from tvarr.ffmpeg.process import MAX_LINE_BYTES, PIPE_BYTES, SMALL_PIPE_BYTES, FfmpegProcess, StderrLines

PYTHON = sys.executable
CAT = "import os\nwhile d := os.read(0, 65536): os.write(1, d)"
DEAF = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.write(1, b'ready')\ntime.sleep(600)"


def script(body: str, *arguments: str) -> Callable[[int], Sequence[str]]:
    return lambda fd: [PYTHON, "-c", body, str(fd), *arguments]


@asynccontextmanager
async def running(command: Callable[[int], Sequence[str]]) -> AsyncIterator[FfmpegProcess]:
    process = await FfmpegProcess.start(command)
    try:
        yield process
    finally:
        await process.stop()
    assert not psutil.pid_exists(process.pid)


async def read_all(process: FfmpegProcess) -> bytes:
    data = bytearray()
    while chunk := await process.read():
        data += chunk
    return bytes(data)


async def test_bytes_go_through_and_the_end_is_seen() -> None:
    payload = os.urandom(3 * PIPE_BYTES)
    async with running(script(CAT)) as process:

        async def feed() -> None:
            assert await process.write(payload)
            process.close_stdin()

        feeding = asyncio.create_task(feed())
        assert await read_all(process) == payload
        await feeding
        assert await process.wait() == 0


async def test_writing_waits_for_a_reader_that_does_not_read() -> None:
    async with running(script("import time; time.sleep(600)")) as process:
        writing = asyncio.create_task(process.write(bytes(4 * PIPE_BYTES)))
        done, _ = await asyncio.wait({writing}, timeout=0.2)
        assert not done
        await process.stop()
        assert await writing is False


async def test_a_full_pipe_is_filled_again_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reader that takes 4 KiB at a time the kernel tells each time."""
    pieces: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        pieces.append(write(fd, data))
        return pieces[-1]

    size = 16 * PIPE_BYTES
    async with running(script("import os, time\nwhile os.read(0, 4096): time.sleep(0.0001)")) as process:
        monkeypatch.setattr(os, "write", counted)
        assert await process.write(bytes(size))
        process.close_stdin()
        assert await process.wait() == 0
    written = [piece for piece in pieces if piece > 1]
    assert sum(written) == size
    assert len(written) < size / 4096 / 8


def sizes_of_pipes() -> Counter[int]:
    sizes = Counter[int]()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # no pipe, or the folder's own
            sizes[fcntl.fcntl(int(name), fcntl.F_GETPIPE_SZ)] += 1
    return sizes


async def test_only_media_get_large_pipes() -> None:
    """They are few for a user without privileges."""
    before = sizes_of_pipes()
    async with running(script(CAT)) as process:
        assert (sizes_of_pipes() - before)[PIPE_BYTES] == 2
        assert process.stdout_bytes == PIPE_BYTES


async def test_a_pipe_that_the_kernel_does_not_enlarge(monkeypatch: pytest.MonkeyPatch) -> None:
    granted = fcntl.fcntl

    def refused(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError("Operation not permitted")
        return granted(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refused)
    async with running(script(CAT)) as process:
        assert process.stdout_bytes == SMALL_PIPE_BYTES


def free_descriptors(count: int) -> list[int]:
    """The numbers that the next files to be opened get."""
    probes = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    for fd in probes:
        os.close(fd)
    return probes


@pytest.mark.parametrize("left", [0, 3, 9])
async def test_a_daemon_without_descriptors_says_so_and_keeps_none(left: int) -> None:
    """`left`: so many more can be opened. Four pipes have eight ends, and starting a process takes another two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = free_descriptors(left + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[left], hard))
    try:
        with pytest.raises(JobError, match=r"may have no more files open \(ulimit -n\)") as raised:
            await FfmpegProcess.start(script(CAT))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (raised.value.code, raised.value.retry_elsewhere) == (ErrorCode.CAPACITY, True)
    assert free_descriptors(left + 1) == free


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EAGAIN, ErrorCode.CAPACITY, r"no more processes \(ulimit -u, pids.max\)"),
        (errno.ENOMEM, ErrorCode.OUT_OF_MEMORY, "no memory left"),
        (errno.EACCES, ErrorCode.UNSUPPORTED, "Permission denied"),
    ],
)
async def test_a_process_that_the_system_does_not_start(
    number: int, code: ErrorCode, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **_more: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(JobError, match=words) as raised:
        await FfmpegProcess.start(script(CAT))
    assert (raised.value.code, raised.value.retry_elsewhere) == (code, True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others start it without a wrapper")
async def test_one_that_was_removed_meanwhile_is_told_from_a_file_that_it_misses() -> None:
    async with running(lambda _fd: ["/nonexistent/ffmpeg", "-i", "x"]) as process:
        code = await process.wait()
        failure = classify(list(process.stderr.last), code)
    assert failure.message == "/nonexistent/ffmpeg can't be run: No such file or directory"
    assert (failure.code, failure.retry_elsewhere) == (ErrorCode.FFMPEG_EXITED, True)


async def test_writing_to_one_that_has_ended() -> None:
    async with running(script("pass")) as process:
        assert await process.wait() == 0
        assert await process.write(b"x") is False
        assert await process.read() == b""
        assert process.usage() == (0.0, 0)


async def test_stderr_and_progress() -> None:
    body = (
        "import os, sys\n"
        "for n in range(60): sys.stderr.write(f'line {n}\\n')\n"
        "sys.stderr.write('x' * 100_000)\n"
        "os.write(int(sys.argv[1]), b'frame=7\\nspeed=2x\\nprogress=end\\n')\n"
    )
    async with running(script(body)) as process:
        assert await process.wait() == 0
        assert len(process.stderr.last) == 40
        assert list(process.stderr.last)[:2] == ["line 21", "line 22"]
        assert process.stderr.last[-1] == "x" * MAX_LINE_BYTES
        await wait_until(lambda: process.progress.ended)
        assert (process.progress.frames, process.progress.speed) == (7, 2.0)


def test_lines_are_taken_once() -> None:
    lines = StderrLines()
    lines.feed(b"a\rb\n\n  \nc")
    assert lines.take_new() == ["a", "b"]
    lines.end()
    assert lines.take_new() == ["c"]
    assert list(lines.last) == ["a", "b", "c"]


async def test_one_that_ignores_sigterm_is_killed() -> None:
    async with running(script(DEAF)) as process:
        assert await process.read() == b"ready"
        started = time.monotonic()
        assert await process.stop(terminate_s=0.2) == -signal.SIGKILL
        assert time.monotonic() - started < 2.0


async def test_a_cancelled_stop_still_kills() -> None:
    process = await FfmpegProcess.start(script(DEAF))
    assert await process.read() == b"ready"
    stopping = asyncio.create_task(process.stop(terminate_s=60))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    assert await asyncio.wait_for(process.wait(), 5) == -signal.SIGKILL


async def test_what_can_not_be_run(tmp_path: Path) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    async with running(lambda _: [str(tmp_path / "none")]) as process:
        assert await process.wait() != 0
        assert "No such file" in process.stderr.last[-1]
    with pytest.raises(ZeroDivisionError):
        await FfmpegProcess.start(lambda _: [str(1 // 0)])
    with pytest.raises(JobError) as raised:
        await FfmpegProcess.start(lambda _: ["x" * 10_000_000])
    assert raised.value.code is ErrorCode.UNSUPPORTED
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= fds)


async def test_no_descriptor_is_left_behind() -> None:
    async with running(script("pass")) as process:
        await process.wait()
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with running(script("pass")) as process:
            await process.wait()
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= fds)


async def test_ffmpeg_dies_with_a_parent_that_is_killed() -> None:
    """SIGKILL gives the parent no chance to clean up. The child neither reads stdin nor heeds SIGTERM."""
    parent = (
        "import asyncio, sys\n"
        "from tvarr.ffmpeg.process import FfmpegProcess\n"
        "async def main():\n"
        "    process = await FfmpegProcess.start(lambda _: [sys.executable, '-c', sys.argv[1]])\n"
        "    assert await process.read() == b'ready'\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    daemon = await asyncio.create_subprocess_exec(PYTHON, "-c", parent, DEAF, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    child = psutil.Process(int(await daemon.stdout.readline()))
    assert child.is_running()
    daemon.kill()
    await daemon.wait()
    await wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a_real_ffmpeg(ffmpeg: str) -> None:
    def command(fd: int) -> list[str]:
        arguments = ["-hide_banner", "-nostats", "-v", "error", "-progress", f"pipe:{fd}"]
        return [ffmpeg, *arguments, "-f", "s16le", "-ar", "8000", "-ac", "1", "-i", "pipe:0", "-f", "wav", "pipe:1"]

    async with running(command) as process:
        await process.write(bytes(16_000))
        process.close_stdin()
        assert len(await read_all(process)) > 16_000
        assert await process.wait() == 0
        await wait_until(lambda: process.progress.ended)
        assert process.progress.out_time_us == 1_000_000
