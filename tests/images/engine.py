"""Containers of the built images, run with `buildah run` in this process's own network, as an engine would run them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

WITHIN_S = 30.0  # on a machine that does much else
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"buildah {arguments}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class Image:
    """An image, with a container made of it whose root can be looked at."""

    name: str
    container: str
    root: Path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, name: str) -> Iterator[Image]:
        container = buildah("from", "--pull-never", f"localhost/{name}")
        buildah("config", "--volume", "/data-", container)  # else buildah's own volume lies over the tests' one
        try:
            yield cls(name, container, Path(buildah("mount", container)))
        finally:
            buildah("rm", container)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Docker's `config` object of the image: Entrypoint, Env, ExposedPorts, Healthcheck, Labels, ..."""
        inspected = json.loads(buildah("inspect", "--type", "image", f"localhost/{self.name}"))
        found: dict[str, Any] = inspected["Docker"]["config"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    def size(self) -> int:
        """Bytes on disk, by `du`."""
        done = subprocess.run(["du", "-sxB1", self.root], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    def files(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            at = "/" + os.path.relpath(folder, self.root)
            yield from (f"{at}/{name}" for name in names)

    def command(self, command: Sequence[str], volumes: Sequence[str], environ: dict[str, str], log: str) -> list[str]:
        """Output goes to files in the folder `log`: buildah itself loses some of a process that ends quickly."""
        options = [option for volume in (f"{log}:/log", *volumes) for option in ("--volume", volume)]
        options += [option for item in environ.items() for option in ("--env", "=".join(item))]
        into_files = ["sh", "-c", 'exec "$@" >/log/out 2>/log/err', "sh"]
        return ["buildah", "run", *options, self.container, "--", *into_files, *command]

    def run(
        self, *command: str, volumes: Sequence[str] = (), user: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end in the place of the entrypoint."""
        with _log_folder() as log:
            line = self.command(command, volumes, environ, str(log))
            if user:
                line[2:2] = ["--user", user]
            code = subprocess.run(line, capture_output=True, check=False, timeout=60).returncode
            return subprocess.CompletedProcess(command, code, (log / "out").read_text(), (log / "err").read_text())

    @contextlib.contextmanager
    def start(
        self, *arguments: str, data: Path | None = None, read_only: bool = False, **environ: str
    ) -> Iterator[Container]:
        """Starts the entrypoint with these arguments; what still runs at the end of the block is killed."""
        volumes = [f"{data}:/data{':ro' if read_only else ''}"] if data else []
        with _log_folder() as log:
            line = self.command([*self.config["Entrypoint"], *arguments], volumes, environ, str(log))
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            made = Container(process, log)
            try:
                yield made
            finally:
                made.kill()


@contextlib.contextmanager
def _log_folder() -> Iterator[Path]:
    """A folder that any user may write to."""
    with tempfile.TemporaryDirectory(prefix="tvarr-image-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@dataclass
class Container:
    """A running entrypoint."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)  # when its first process was there
    _first: psutil.Process | None = None

    @property
    def lines(self) -> list[str]:
        """What the container has said."""
        files = [self.log / "out", self.log / "err"]
        return [line for file in files if file.exists() for line in file.read_text().splitlines()]

    def first(self) -> psutil.Process:
        """The container's first process, as an engine would signal it."""

        def look() -> psutil.Process | None:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    if child.name() == "tini":
                        return child
            assert self.process.poll() is None, f"the container has ended:\n{self.text()}"
            return None

        if self._first is None:
            self._first = self.until(look, "the container has a first process", pause_s=0.005)
            self.began = self._first.create_time() - time.time() + time.monotonic()
        assert self._first
        return self._first

    def processes(self) -> list[psutil.Process]:
        found = self.first().children(recursive=True)
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def role(self, name: str) -> psutil.Process:
        def look() -> psutil.Process | None:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    if process.cmdline()[-2:-1] == ["/opt/tvarr/bin/tvarr"] and process.cmdline()[-1] == name:
                        return process
            return None

        found = self.until(look, f"{name} runs")
        assert isinstance(found, psutil.Process)
        return found

    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, look: Callable[[], Any], what: str, within_s: float = WITHIN_S, pause_s: float = 0.02) -> Any:
        deadline = time.monotonic() + within_s
        while not (found := look()):
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}\n{self.text()}"
            time.sleep(pause_s)
        return found

    def says(self, pattern: str) -> re.Match[str]:
        found = self.until(lambda: re.search(pattern, self.text()), f"it says {pattern}")
        assert isinstance(found, re.Match)
        return found

    def since_start(self, look: Callable[[], Any], what: str) -> float:
        """Seconds from the first process to when `look` gives something true."""
        self.first()
        self.until(look, what)
        return time.monotonic() - self.began

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.first().pid, number)

    def wait(self, within_s: float = 15.0) -> int:
        """The exit code, once it has ended by itself or by a signal."""
        return self.process.wait(within_s)

    def stop(self) -> tuple[int, float]:
        """TERM: the exit code and how long the end took."""
        first = self.first()
        began = time.monotonic()
        first.send_signal(signal.SIGTERM)
        code = self.wait()
        return code, time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for child in reversed(psutil.Process(self.process.pid).children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            self.process.wait()


# ---------------------------------------------------------------------------------------------- the roles over HTTP


def answer(path: str, port: int = 8080, body: object = None, password: str = "") -> tuple[int, bytes]:
    """(status, body) of one request on loopback; status 0 where nobody answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {password}"} if password else {}),
    )
    try:
        with _opener.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def is_ready(port: int = 8080) -> bool:
    return answer("/readyz", port)[0] == 200


def daemons(password: str) -> list[str]:
    """The names of the connected daemons."""
    status, body = answer("/api/v1/transcoders", password=password)
    return [daemon["name"] for daemon in json.loads(body) if daemon["state"] == "connected"] if status == 200 else []


def watch(path: str, size: int) -> bytes:
    """The first bytes of an endless stream."""
    with stream(path) as response:
        data = bytearray()
        while len(data) < size:
            chunk = response.read(min(65536, size - len(data)))
            assert chunk, f"{path} ended after {len(data)} bytes"
            data += chunk
    return bytes(data)


@contextlib.contextmanager
def stream(path: str) -> Iterator[Any]:
    with _opener.open(f"http://127.0.0.1:8080{path}", timeout=WITHIN_S) as response:
        yield response


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def media_server(folder: Path) -> Iterator[str]:
    """Serves a folder over HTTP; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
