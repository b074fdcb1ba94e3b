"""Real coordinators and daemons as processes on loopback, for tests and benches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from tvarr.hwaccel.cache import FILE_NAME as ENCODERS

PASSWORD = "password-of-the-tests"
TOKEN = "token-of-the-tests"
START_WITHIN_S = 30.0


def tvarr_environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting of tvarr's, plus `variables`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TVARR_")}
    return {**clean, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **variables}


def as_from_a_terminal() -> None:
    """A child's `preexec_fn`: it heeds Ctrl-C and hangups, also where these tests run in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def eventually(look: Callable[[], Any], what: str, within_s: float = START_WITHIN_S) -> Any:
    """Calls `look` until it gives something true, and returns that."""
    deadline = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


_work_dirs: dict[tuple[object, ...], Path] = {}


def share_encoders(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    """Lets a daemon that is about to start know the encoders that one before it tried: that takes a second of CPU each.

    What it finds is of no use to it with another ffmpeg or other devices, which it sees for itself.
    """
    if arguments[0] != "ffmpegd" or "--work-dir" not in arguments:
        return
    given = dict(pairwise(arguments))
    folder = Path(given["--work-dir"])
    machine = {name: value for name, value in environment.items() if not name.startswith("TVARR_")}
    alike = (given.get("--ffmpeg"), *sorted(machine.items()))
    known = _work_dirs.get(alike, folder) / ENCODERS
    if not known.exists():
        _work_dirs[alike] = folder
    elif not (folder / ENCODERS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(known, folder)


@dataclass
class Role:
    """A running `tvarr` process and its log, which goes on where that of an earlier process of this name ended."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    log_begins: int = 0  # bytes

    def text(self) -> str:
        return self.log.read_bytes()[self.log_begins :].decode(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM, within_s: float = 12.0) -> int:
        """Sends a signal and waits for the end, as `wait`."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait(within_s)

    def wait(self, within_s: float) -> int:
        """Waits for the end and returns the exit code. One that hangs writes its stacks to its log."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {within_s:g} s:\n{self.text()}") from None


@dataclass
class Cluster:
    """A coordinator and its daemons. Ports are chosen by the system."""

    folder: Path
    media_dir: Path | None = None
    prefix: tuple[str, ...] = ()  # put before each command: ("ip", "netns", "exec", "x")
    coordinator_flags: tuple[str, ...] = ()
    log_level: str = "debug"  # at which a coordinator recounts its ledger after every event: not for what is timed
    roles: dict[str, Role] = field(default_factory=dict)
    http_port: int = 0
    grpc_port: int = 0
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None  # what a client of this coordinator trusts, where it serves TLS

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.http_port}"

    def run(self, name: str, *arguments: str, prefix: tuple[str, ...] | None = None, **environment: str) -> Role:
        """Starts `tvarr` with these arguments as a role called `name`."""
        log = self.folder / f"{name}.log"
        share_encoders(arguments, environment)
        command = [*(self.prefix if prefix is None else prefix), sys.executable, "-m", "tvarr", *arguments]
        with log.open("ab") as sink:
            begins = sink.tell()
            process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=tvarr_environment(**environment),
            )
        role = self.roles[name] = Role(name, process, log, begins)
        return role

    def start_coordinator(self, **environment: str) -> Role:
        """Starts the coordinator and waits until it is ready."""
        flags = ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port), "--host", self.host]
        flags += ["--data-dir", str(self.folder / "data"), "--log-level", self.log_level, *self.coordinator_flags]
        if self.media_dir:
            flags += ["--media-dir", str(self.media_dir)]
        secrets = {"TVARR_ADMIN_PASSWORD": PASSWORD, "TVARR_AUTH_TOKEN": TOKEN}
        role = self.run("coordinator", "coordinator", *flags, **{**secrets, **environment})

        def ports() -> tuple[int, int] | None:
            assert role.process.poll() is None, f"the coordinator ended:\n{role.text()}"
            for line in role.text().splitlines():
                if "daemons on port" in line:
                    words = line.replace(",", "").split()
                    numbers = [int(word) for word in words if word.isdigit()]
                    return numbers[-2], numbers[-1]
            return None

        self.http_port, self.grpc_port = eventually(ports, "the coordinator is ready")
        return role

    def start_daemon(
        self,
        name: str = "worker",
        *flags: str,
        wait: bool = True,
        prefix: tuple[str, ...] | None = None,
        **environment: str,
    ) -> Role:
        """Starts a daemon and waits until the coordinator has it."""
        role = self.run(
            name,
            "ffmpegd",
            "--name",
            name,
            "--work-dir",
            str(self.folder / name),
            "--log-level",
            self.log_level,
            *(flags or ("--max-jobs", "16", "--max-cpu-jobs", "16")),
            prefix=prefix,
            **{
                "TVARR_COORDINATOR_URL": f"{self.host}:{self.grpc_port}",
                "TVARR_AUTH_TOKEN": TOKEN,
                **environment,
            },
        )
        if wait:
            eventually(lambda: self.daemon_state(name) == "connected", f"{name} is connected\n{role.text()}")
        return role

    def daemon_state(self, name: str) -> str:
        found = [t for t in self.get("/api/v1/transcoders") if t["name"] == name]
        return str(found[0]["state"]) if found else ""

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One API call with the admin password: (status, JSON)."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {PASSWORD}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20, context=self.tls) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def get(self, path: str) -> Any:
        status, value = self.request("GET", path)
        assert status == 200, value
        return value["items"] if isinstance(value, dict) and "items" in value else value

    def metrics(self) -> dict[str, float]:
        return metrics(self.url, self.tls)

    def add_channel(self, name: str, url: str, **fields: Any) -> str:
        """Adds a channel and returns its slug."""
        status, value = self.request("POST", "/api/v1/channels", {"name": name, "url": url, **fields})
        assert status == 201, value
        return str(value["slug"])

    def relays(self) -> list[dict[str, Any]]:
        return list(self.get("/api/v1/relays"))

    def stream_url(self, slug: str, profile: str = "") -> str:
        return f"{self.url}/stream/{slug}.ts" + (f"?profile={profile}" if profile else "")

    def stop(self) -> None:
        """Ends everything that still runs, all at once; kills what does not listen.

        A daemon that were told alone would wait for its jobs to be moved.
        """
        for role in self.roles.values():
            if role.process.poll() is None:
                role.process.send_signal(signal.SIGTERM)
        for role in self.roles.values():
            with contextlib.suppress(AssertionError):
                role.wait(within_s=15)


def metrics(url: str, tls: ssl.SSLContext | None = None) -> dict[str, float]:
    """The samples of a role's `/metrics` by name and labels, as they are written there."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20, context=tls) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (s.rpartition(" ") for s in lines if s and s[0] != "#")}


@contextlib.contextmanager
def cluster(folder: Path, **settings: Any) -> Iterator[Cluster]:
    """A coordinator that is ready, without daemons; everything ends with the block."""
    made = Cluster(folder, **settings)
    try:
        made.start_coordinator()
        yield made
    finally:
        made.stop()


@contextlib.asynccontextmanager
async def watching(url: str, timeout_s: float = 60.0) -> AsyncIterator[aiohttp.ClientResponse]:
    """An open stream, as a player has it."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        yield response


@contextlib.asynccontextmanager
async def recorded(url: str) -> AsyncIterator[bytearray]:
    """What a viewer has so far, which grows while the block runs; the stream must not end before it."""
    data = bytearray()

    async def watch() -> None:
        async with watching(url, timeout_s=300.0) as response:
            assert response.status == 200, await response.text()
            async for chunk in response.content.iter_any():
                data.extend(chunk)

    viewer = asyncio.create_task(watch())
    try:
        yield data
        assert not viewer.done(), f"the stream ended: {viewer}"
    finally:
        viewer.cancel()
        await asyncio.gather(viewer, return_exceptions=True)


async def read_all(url: str, timeout_s: float = 60.0) -> bytes:
    """A whole stream that ends by itself."""
    async with watching(url, timeout_s) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def read_for(url: str, seconds: float, timeout_s: float = 60.0) -> bytes:
    """What a player gets in so many seconds from the first byte on."""
    data = bytearray()
    async with watching(url, timeout_s) as response:
        assert response.status == 200, await response.text()
        data += await response.content.readany()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while chunk := await response.content.readany():
                    data += chunk
    return bytes(data)


async def read_on(answer: aiohttp.ClientResponse, seconds: float) -> bytes:
    """What comes in so many seconds from the next bytes on; the stream must not end meanwhile."""
    data, deadline = bytearray(), 0.0
    while not deadline or time.monotonic() < deadline:
        chunk = await answer.content.readany()
        assert chunk, "the stream ended"
        data += chunk
        deadline = deadline or time.monotonic() + seconds
    return bytes(data)
