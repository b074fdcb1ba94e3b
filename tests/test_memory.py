"""A process gives back what it freed, shares heaps, and ends where no memory is left."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

from tvarr import memory
from tvarr.errors import SourceError

LIMIT_S = 20.0

WITHOUT_MEMORY = """
import asyncio, resource, sys
from tvarr import background, memory

memory.SHORT_FOR_S = memory.LOOK_EACH_S = 0.1

async def main() -> int:
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]) << 20, resource.RLIM_INFINITY))
    await asyncio.sleep(0.5)
    return 0

background.setup_logging()
sys.exit(background.run(main))
"""


@pytest.mark.parametrize(("limit_mib", "code"), [(4096, 0), (1, 1)])
def test_a_process_without_memory_ends(limit_mib: int, code: int) -> None:
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(limit_mib)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == code
    assert ("there is no memory left" in done.stderr) == bool(code)


def test_freed_memory_is_given_back_to_the_system() -> None:
    """What lies below something that is still in use stays with glibc until it is asked."""
    process = psutil.Process()
    freed = [b"x" * 60_000 for _ in range(1000)]
    above = b"x" * 60_000
    del freed
    before = process.memory_info().rss
    memory.give_back()
    assert process.memory_info().rss < before - 40_000_000
    assert above


def test_a_role_looks_for_garbage_among_what_it_made_itself() -> None:
    """Not among what it loaded, for which it looked nowhere meanwhile."""
    code = """
        import gc, sys
        from tvarr import background

        async def main():
            return 0 if gc.isenabled() and gc.get_freeze_count() > 10_000 else 1

        gc.disable()
        sys.exit(background.run(main))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=LIMIT_S)


def test_threads_of_a_role_share_a_heap() -> None:
    """glibc writes its heaps down as XML (malloc_info(3)): nothing is asked of another C library."""
    code = """
        import ctypes, threading
        from tvarr import background
        libc = ctypes.CDLL(None)
        libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
        together = threading.Barrier(8)
        def allocate():
            together.wait()
            libc.malloc(1000)
            together.wait()
        async def role():
            threads = [threading.Thread(target=allocate) for _ in range(8)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
            libc.malloc_info(0, out)
            libc.fclose(out)
            return 0
        background.run(role)
    """
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has one heap")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert 1 <= done.stdout.count("<heap nr=") <= 2


def a_thread_without_room() -> RuntimeError:
    """The real error, from a process whose threads would have more of a stack than it has memory."""
    code = """
        import resource, threading
        resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20))
        threading.stack_size(256 << 20)
        try:
            threading.Thread(target=print).start()
        except RuntimeError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return RuntimeError(done.stdout.strip())


def a_thread_too_many() -> RuntimeError:
    """The same error where there is memory: its stack is larger than any address space."""
    before = threading.stack_size(1 << 46)
    try:
        threading.Thread(target=print).start()
    except RuntimeError as error:
        return error
    finally:
        threading.stack_size(before)
    raise AssertionError("it was started")


def caused_by(cause: Exception) -> Exception:
    error = SourceError("it can't be read")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (a_thread_without_room(), True),
        (caused_by(OSError(errno.ENOMEM, "Cannot allocate memory")), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (RuntimeError("the loop is closed"), False),
        (caused_by(FileNotFoundError()), False),
        (SourceError("it can't be read"), False),
    ],
    ids=repr,
)
def test_what_says_that_there_is_no_memory(error: Exception, short: bool) -> None:
    assert memory.is_short(error) is short


def test_threads_that_cannot_be_had_are_told_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    error = a_thread_too_many()
    assert memory.what_lacks(error) == memory.what_lacks(caused_by(error)) == "threads"
    monkeypatch.setattr(memory, "SPARE_BYTES", 1 << 50)
    assert memory.what_lacks(error) == memory.what_lacks(MemoryError()) == "memory"
