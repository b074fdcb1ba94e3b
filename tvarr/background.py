"""What every long-running role shares: its log, and how it ends on a signal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import FrameType

import uvloop

from tvarr import memory

log = logging.getLogger(__name__)

STOP_LIMIT_S = 8.8  # a role that has not ended this long after its first signal is ended; `run-roles.sh` kills after 9
MOST_FILES = 65_536  # descriptors that a role asks for, where it may: each connection is one
SAME_KEYPRESS_S = 0.5  # another signal than the first this soon after it is the same wish, passed on
SHORTEST_SECRET = 4  # characters; hiding every "a" would hide the log

# user:password@ of a URL, and a bearer token, wherever they come from
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@\"']+@|(?<=Bearer )[\w.~+/=-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # nobody who sends us text writes lines of their own, or moves a cursor
_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Redactor:
    """Takes secrets out of text before it is written."""

    def __init__(self) -> None:
        self._secrets: list[str] = []  # longest first: one may contain another

    def add(self, *secrets: str) -> None:
        """Hides these from now on; what is shorter than `SHORTEST_SECRET` is too common to be hidden."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)}
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _CREDENTIALS.sub(lambda match: "***@" if match[0].endswith("@") else "***", text)


redact = Redactor()
"""The process's own: whoever makes or reads a secret adds it here."""

_NO_IDS: dict[str, str] = {}
_ids: ContextVar[dict[str, str]] = ContextVar("ids of the log's lines", default=_NO_IDS)


@contextmanager
def log_ids(**ids: str) -> Iterator[None]:
    """Every line that is logged in the block has these, `job_id="..."`; so have those of tasks that are made in it."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class TextFormatter(logging.Formatter):
    """`2026-11-23T12:00:00.123Z INFO relay: message key=value`, and a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        message = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", record.getMessage())
        line = f"{when(record.created)} {record.levelname} {_short(record.name)}: {message}"
        line += "".join(f" {key}={value}" for key, value in _extra(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, `traceback`, and numbers or text from `extra`."""

    def __init__(self, *, ascii_only: bool = False) -> None:
        """`ascii_only`: for a stream that is not UTF-8, which alone is JSON (RFC 8259, 8.1)."""
        super().__init__()
        self._ascii_only = ascii_only

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": when(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        clean = {k: v if isinstance(v, int | float | None) else redact(str(v)) for k, v in entry.items()}
        return json.dumps(clean, ensure_ascii=self._ascii_only)


def setup_logging(level: str = "info", log_format: str = "text", secrets: Iterable[str] = ()) -> None:
    """Sends the process's log to stderr: `level` debug, info, warning or error; `log_format` text or json.

    `secrets` never appear in it, nor do passwords in URLs and bearer tokens. Give context with `log_ids`, or
    `log.info("...", extra={"job_id": ...})`: it becomes `job_id=...` at the line's end, or a field of the object.
    """
    redact.add(*secrets)
    handler = logging.StreamHandler(sys.stderr)
    as_json = JsonFormatter(ascii_only=sys.stderr.encoding.lower() != "utf-8")
    handler.setFormatter(as_json if log_format == "json" else TextFormatter())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    for chatty in ("aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(_LEVELS[level], logging.WARNING))


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Runs a role on an event loop of its own until it ends or a signal ends it; returns its exit code."""
    _want_files()
    memory.want_few_heaps()
    memory.keep_what_was_loaded()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        return runner.run(run_until_signalled(main))
    finally:
        with suppress(RuntimeError):  # the loop ends its threads by one more, which may not be had
            runner.close()


def _want_files() -> None:
    """Raises the limit of open files to what the system lets us have: many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def run_until_signalled(main: Callable[[], Awaitable[int]]) -> int:
    """Awaits `main()` and returns its exit code; 0 where SIGTERM, SIGINT or SIGHUP ended it.

    The first signal cancels the task that runs `main`, which cleans up while the CancelledError passes through it.
    A second one ends the process at once, in the way that signal does by default. So does the time: `STOP_LIMIT_S`
    after the first signal the process ends with code 1, whatever still hangs; of SIGALRM where it may have no thread
    to watch over that. A terminal's Ctrl-C that comes twice, as SIGINT to everybody and as SIGTERM from
    `run-roles.sh`, counts once. SIGHUP stays ignored under `nohup`.

    Under a limit on its memory (`ulimit -v`, RLIMIT_DATA) that is used up for good, the process ends with code 1.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    heard: list[tuple[int, float]] = []  # the first signal, and when
    watched = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        watched.append(signal.SIGHUP)

    def hear(number: int, _frame: FrameType | None = None) -> None:
        if not heard:
            heard.append((number, time.monotonic()))
            log.info("stopping on %s", signal.Signals(number).name)
            for other in watched:  # from now on not by the event loop, which may be what hangs
                loop.remove_signal_handler(other)
                signal.signal(other, hear)
            task.cancel()
            _end_in_time()
        elif number == heard[0][0] or time.monotonic() - heard[0][1] > SAME_KEYPRESS_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in watched:
        loop.add_signal_handler(number, hear, number)
    watch = asyncio.create_task(memory.watch(), name="watch over memory")
    try:
        return await task
    except asyncio.CancelledError:
        if not heard:
            raise
        return 0
    finally:
        watch.cancel()


def _end_in_time() -> None:
    guard = threading.Timer(STOP_LIMIT_S, _end_now)
    guard.daemon = True
    try:
        guard.start()
    except RuntimeError:  # the user or the container may have no more threads
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, STOP_LIMIT_S)


def _end_now() -> None:
    log.error("still not stopped after %g s: ending at once", STOP_LIMIT_S)
    os._exit(1)


def when(wall: float) -> str:
    """Seconds since the epoch as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(name: str) -> str:
    return name.removeprefix("tvarr.")


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {**_ids.get(), **{key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}}
