"""The log, and ending on signals."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Protocol

import pytest

from tvarr.background import JsonFormatter, Redactor, TextFormatter, log_ids, redact

LIMIT_S = 20.0
Log = tuple[logging.Logger, io.StringIO, logging.Handler]


class Start(Protocol):
    def __call__(
        self, what: str, limit_s: float = 60, ignored: tuple[signal.Signals, ...] = ()
    ) -> subprocess.Popen[str]: ...


@pytest.fixture
def log() -> Log:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("tvarr.relay")
    logger.addHandler(handler)
    return logger, stream, handler


class TestRedactor:
    def test_known_secrets_and_any_credentials(self) -> None:
        hide = Redactor()
        hide.add("sesame", "sesame-open", "")
        assert hide("say sesame-open, sesame") == "say ***, ***"
        assert hide("http://ann:pass@host/a and grpc://tok@host:9090") == "http://***@host/a and grpc://***@host:9090"
        assert hide("authorization: Bearer abc.D-1=") == "authorization: Bearer ***"
        assert hide("mail ann@host, http://host/a?b=c@d") == "mail ann@host, http://host/a?b=c@d"

    def test_what_is_too_short_to_be_a_secret_stays(self) -> None:
        hide = Redactor()
        hide.add("a")
        assert hide("banana") == "banana"


class TestFormats:
    async def test_ids_of_a_block_are_on_its_lines_and_on_those_of_its_tasks(self, log: Log) -> None:
        logger, stream, handler = log
        handler.setFormatter(JsonFormatter())

        async def task() -> None:
            await asyncio.sleep(0)
            logger.info("task")

        with log_ids(relay_id="r1"):
            made = asyncio.create_task(task())
            with log_ids(job_id="j1"):
                logger.info("inner", extra={"job_id": "j2"})
        logger.info("outside")
        await made
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert {line["message"]: (line.get("relay_id"), line.get("job_id")) for line in lines} == {
            "inner": ("r1", "j2"),
            "outside": (None, None),
            "task": ("r1", None),
        }

    def test_text(self, log: Log) -> None:
        logger, stream, handler = log
        handler.setFormatter(TextFormatter())
        redact.add("text-secret")
        logger.info("has %s", "text-secret", extra={"job_id": "j1", "url": "http://u:p@h/"})
        time_, rest = stream.getvalue().split(" ", 1)
        assert len(time_) == len("2026-11-23T12:00:00.123Z")
        assert rest == "INFO relay: has *** job_id=j1 url=http://***@h/\n"

    def test_nobody_writes_lines_of_their_own(self, log: Log) -> None:
        logger, stream, handler = log
        handler.setFormatter(TextFormatter())
        logger.info("asked for %s", "/a\n2026-11-23T12:00:00.123Z INFO fine\x1b[2J")
        assert stream.getvalue().endswith("asked for /a\\x0a2026-11-23T12:00:00.123Z INFO fine\\x1b[2J\n")
        assert stream.getvalue().count("\n") == 1

    def test_json(self, log: Log) -> None:
        logger, stream, handler = log
        handler.setFormatter(JsonFormatter())
        redact.add("json-secret")
        try:
            raise ValueError("json-secret inside")
        except ValueError:
            logger.exception('a "json-secret"\nhere: Bearer abc"', extra={"frames": 3, "names": ["json-secret", "b"]})
        assert stream.getvalue().count("\n") == 1
        entry = json.loads(stream.getvalue())
        assert entry["message"] == 'a "***"\nhere: Bearer ***"'
        assert (entry["level"], entry["logger"], entry["frames"]) == ("error", "tvarr.relay", 3)
        assert entry["names"] == "['***', 'b']"
        assert "ValueError: *** inside" in entry["traceback"]
        assert "json-secret" not in stream.getvalue()

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
    def test_json_is_json_whatever_the_terminal_writes(self, encoding: str) -> None:
        code = "import logging; from tvarr import background; background.setup_logging(log_format='json')"
        code += "; logging.warning('caf\\xe9 \\u4e2d \\U0001f600')"
        environ = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, timeout=20, check=True)
        assert json.loads(done.stderr)["message"] == "caf\xe9 \u4e2d \U0001f600"


PROGRAM = """
import asyncio, contextlib, sys, threading, time
from tvarr import background

background.STOP_LIMIT_S = float(sys.argv[2])

async def main() -> int:
    if "without threads" in sys.argv[1]:
        threading.stack_size(1 << 46)  # which no thread gets
    print("up", flush=True)
    try:
        if sys.argv[1] == "is busy":
            time.sleep(0.2)
        await asyncio.sleep(3600 if sys.argv[1] != "returns" else 0)
        return 7
    finally:
        print("cleaning", flush=True)
        if sys.argv[1] == "hangs":
            await asyncio.sleep(3600)
        if sys.argv[1].startswith("blocks"):
            time.sleep(3600)
        await asyncio.sleep(0.05)
        with contextlib.suppress(RuntimeError):
            await asyncio.to_thread(int)
        print("clean", flush=True)

background.setup_logging()
sys.exit(background.run(main))
"""


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def make(what: str, limit_s: float = 60, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[str]:
        def prepare() -> None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), what, str(limit_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        return process

    yield make
    for process in running:
        process.kill()
        process.communicate()


def ending(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and the rest of both outputs: a line has been read, so `communicate` might miss some."""
    assert process.stdout
    assert process.stderr
    code = process.wait(LIMIT_S)
    return code, process.stdout.read(), process.stderr.read()


class TestSignals:
    def test_the_exit_code_of_what_ends_by_itself(self, start: Start) -> None:
        process = start("returns")
        assert ending(process) == (7, "cleaning\nclean\n", "")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_the_first_signal_ends_cleanly(self, start: Start, number: signal.Signals) -> None:
        process = start("sleeps")
        process.send_signal(number)
        code, out, err = ending(process)
        assert (code, out) == (0, "cleaning\nclean\n")
        assert err.endswith(f"stopping on {number.name}\n")

    @pytest.mark.parametrize("how", ["hangs", "blocks"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_second_signal_ends_at_once(self, start: Start, how: str, number: signal.Signals) -> None:
        process = start(how)
        process.send_signal(number)
        assert process.stdout
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(number)
        assert process.wait(LIMIT_S) == -number

    def test_a_keypress_that_comes_as_two_signals_counts_once(self, start: Start) -> None:
        process = start("hangs")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.stdout
        assert process.stdout.readline() == "cleaning\n"
        while _pending(process.pid):
            time.sleep(0.01)
        assert process.poll() is None

    @pytest.mark.parametrize("how", ["sleeps", "is busy"])
    def test_a_keypress_does_not_disturb_the_cleaning(self, start: Start, how: str) -> None:
        process = start(how)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # where the loop is busy it sees both at once
        code, out, err = ending(process)
        assert (code, out) == (0, "cleaning\nclean\n")
        assert err.count("stopping on") == 1

    def test_another_signal_later_counts(self, start: Start) -> None:
        process = start("hangs")
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert process.wait(LIMIT_S) == -signal.SIGTERM

    @pytest.mark.parametrize("how", ["hangs", "blocks"])
    def test_what_does_not_end_in_time_is_ended(self, start: Start, how: str) -> None:
        process = start(how, limit_s=0.2)
        process.terminate()
        code, out, err = ending(process)
        assert (code, out) == (1, "cleaning\n")
        assert err.endswith("ending at once\n")

    def test_it_ends_where_no_more_threads_can_be_had(self, start: Start) -> None:
        """Whoever watches over the time is one, and who ends the event loop's own another."""
        process = start("sleeps without threads")
        process.terminate()
        code, out, err = ending(process)
        assert (code, out) == (0, "cleaning\nclean\n"), err

    def test_it_ends_in_time_where_no_more_threads_can_be_had(self, start: Start) -> None:
        process = start("blocks without threads", limit_s=0.2)
        process.terminate()
        assert process.wait(LIMIT_S) == -signal.SIGALRM

    def test_ctrl_c_works_in_the_background_of_a_script(self, start: Start) -> None:
        """A shell starts such a process with SIGINT ignored."""
        process = start("sleeps", ignored=(signal.SIGINT,))
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0

    def test_a_hangup_stays_ignored_under_nohup(self, start: Start) -> None:
        process = start("sleeps", ignored=(signal.SIGHUP,))
        process.send_signal(signal.SIGHUP)
        while _pending(process.pid):
            time.sleep(0.01)
        assert process.poll() is None
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def _pending(pid: int) -> bool:
    """Whether a signal waits to be delivered (`SigPnd`, `ShdPnd` of proc(5))."""
    with open(f"/proc/{pid}/status") as status:
        return any(line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) for line in status)


def test_a_role_may_open_as_many_files_as_the_system_lets_it() -> None:
    code = """
        import resource
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, min(hard, 2000)))
        from tvarr import background
        async def role():
            print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            return 0
        background.run(role)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 1000
