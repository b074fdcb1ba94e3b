"""What a process does about its memory: few heaps, what was freed given back, an end where there is none left."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import mmap
import os
from contextlib import suppress

log = logging.getLogger(__name__)

M_ARENA_MAX = -8  # malloc.h of glibc
SPARE_BYTES = 8 << 20  # what cannot be had for so long, looked for so often, is no memory:
SHORT_FOR_S, LOOK_EACH_S = 6.0, 2.0


def give_back() -> None:
    """Returns what was freed to the system. glibc keeps it otherwise; another C library has no such call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def want_few_heaps() -> None:
    """The main thread's heap and one for all others (mallopt(3)).

    glibc gives each of gRPC's threads its own, and what passed through one of them once is kept there.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def keep_what_was_loaded() -> None:
    """Spares collections, from here on, the modules and classes that live as long as the process."""
    gc.freeze()
    gc.enable()


def is_short(error: BaseException) -> bool:
    """Whether `error` says, itself or by its cause, that this process gets no more memory.

    Python words it in three ways: `MemoryError`, `OSError` with ENOMEM, and `RuntimeError` where a new thread's stack
    can't be had (pthread_create(3), EAGAIN; a limit of threads reads the same).
    """
    match error:
        case MemoryError() | OSError(errno=errno.ENOMEM):
            return True
        case RuntimeError() if "can't start new thread" in str(error):
            return True
    return error.__cause__ is not None and is_short(error.__cause__)


def what_lacks(error: BaseException) -> str:
    """What an error that `is_short` says there is no more of: threads, where memory for one can be had; else memory."""
    while not isinstance(error, MemoryError | RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return "threads" if isinstance(error, RuntimeError) and _has_memory() else "memory"


async def watch() -> None:
    """Ends a process that would go on by failing at whatever it is asked for, so that it is started anew."""
    short_s = 0.0
    while short_s < SHORT_FOR_S:
        await asyncio.sleep(LOOK_EACH_S)
        short_s = 0.0 if _has_memory() else short_s + LOOK_EACH_S
    log.critical("there is no memory left, not %d MiB for %g s: ending at once", SPARE_BYTES >> 20, SHORT_FOR_S)
    os._exit(1)


def _has_memory() -> bool:
    """Asks the kernel first and touches nothing: glibc would keep what it is asked for, and more of what is freed."""
    with suppress(OSError):
        mmap.mmap(-1, SPARE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        return True
    try:
        bytes(SPARE_BYTES)
    except MemoryError:
        gc.collect()
        return False
    return True
