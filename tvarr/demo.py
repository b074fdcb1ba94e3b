"""`make run` and `make demo`: `python -m tvarr.demo run | check`.

`run` starts both roles through `run-roles.sh` in this process's place; a child greets when they are up, and adds the
demo channel where there is none. `check` does the same in a temporary folder on free ports, watches the channel under
profile `h264` for ten seconds, and ends with 0, or with 1 and the reason.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tvarr import resources
from tvarr.config import CoordinatorConfig, load
from tvarr.errors import ConfigError, TvarrError
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.tls import client_context, trust

RUN_ROLES = Path(__file__).parents[1] / "run-roles.sh"
CLIP = resources.path("examples") / "media" / "demo.ts"
FPS = 25  # of the clip
PROFILE = "h264"
WATCH_S = 10
START_LIMIT_S = 60.0  # on a machine whose encoders are all tried first
WATCH_LIMIT_S = WATCH_S + 30.0
STOP_LIMIT_S = 12.0
PLAYERS = ("mpv", "vlc", "ffplay")


class DemoFailed(TvarrError):
    """The demo did not do what it is there to show."""


@dataclass(frozen=True, slots=True)
class Api:
    """A coordinator's HTTP API, without any proxy between."""

    base: str
    password: str = ""
    certificate: Path | None = None  # its own, where it is asked over TLS

    def call(self, method: str, path: str, body: object = None) -> str:
        """The answer's text. Raises OSError where none comes, DemoFailed with the reason where it is an error."""
        headers = {"Authorization": f"Bearer {self.password}"} if self.password else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - http, to our own coordinator
            self.base + path, data, headers | {"Content-Type": "application/json"}, method=method
        )
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.certificate is not None:
            handlers.append(urllib.request.HTTPSHandler(context=client_context(trust(self.certificate))))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"{method} {path}: {error.code} {_reason(error.read())}") from None

    def ready(self) -> bool:
        try:
            self.call("GET", "/readyz")
        except (OSError, DemoFailed, http.client.HTTPException):
            return False
        return True

    def has_worker(self) -> bool:
        return 'tvarr_transcoders{state="connected"}' in self.call("GET", "/metrics")

    def add_demo_channel(self, media_dir: Path) -> None:
        """Named from the media folder on, so that it goes on where everything is moved, or cloned again elsewhere."""
        url = f"file:{quote(CLIP.relative_to(media_dir).as_posix())}"
        self.call("POST", "/api/v1/channels", {"name": "demo", "slug": "demo", "url": url, "loop": True})


def _reason(body: bytes) -> str:
    try:
        problem: dict[str, Any] = json.loads(body)
        return " ".join(str(problem.get(key, "")) for key in ("detail", "reasons")).strip()
    except ValueError:
        return body[:200].decode(errors="replace")


def _wait(condition: Callable[[], bool], limit_s: float, reason: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(reason)
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------------------------ make run


def run() -> None:
    """Becomes `run-roles.sh all`, with the clip's folder as media folder where the user named none.

    On the first start an admin password is made here, where the user gave none: the greeting needs it to add the
    channel. The coordinator keeps its hash, so later starts need none.
    """
    config = load(CoordinatorConfig, {})
    for name, port in (("TVARR_HTTP_PORT", config.http_port), ("TVARR_GRPC_PORT", config.grpc_port)):
        _must_be_free(config, name, port)
    environ = dict(os.environ)
    made = ""
    if not (config.admin_password or config.no_http_auth or (config.data_dir / "tvarr.db").exists()):
        made = environ["TVARR_ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
    if config.media_dir is None:
        environ["TVARR_MEDIA_DIR"] = str(CLIP.parent)
    subprocess.Popen([sys.executable, "-m", "tvarr.demo", "greet", "first" if made else "again"], env=environ)
    os.execve(RUN_ROLES, [str(RUN_ROLES), "all"], environ)  # noqa: S606 - its shell is in its first line


def _api(config: CoordinatorConfig) -> Api:
    host = "127.0.0.1" if config.host in {"0.0.0.0", "::"} else config.host
    scheme = "https" if config.tls_cert else "http"
    return Api(f"{scheme}://{host}:{config.http_port}", config.admin_password, config.tls_cert)


def _must_be_free(config: CoordinatorConfig, name: str, port: int) -> None:
    """Raises DemoFailed where a port is taken: `run-roles.sh` would try again and again, and the greeting find another.

    `name` is the environment variable that chooses it.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        socket.create_server((config.host, port), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return  # the role itself says what is wrong
        here = _api(config)
        running = f"; tvarr runs here already, at {here.base}/" if here.ready() else ""
        raise DemoFailed(f"port {port} is in use{running}; to take another: {name}={port + 1} make run") from None


def greet(*, first: bool) -> None:
    """Waits for both roles, adds the demo channel where there is no channel, and says where everything is."""
    config = load(CoordinatorConfig, {})
    api = _api(config)
    parent = os.getppid()

    def ready() -> bool:
        if os.getppid() != parent:
            sys.exit(0)  # run-roles.sh has ended and said why
        return api.ready() and api.has_worker()

    _wait(ready, START_LIMIT_S, f"coordinator and daemon were not ready after {START_LIMIT_S:g} s")
    may_add = config.admin_password or config.no_http_auth
    media_dir = config.media_dir
    if may_add and media_dir is not None and CLIP.is_relative_to(media_dir) and not _stream_urls(api):
        api.add_demo_channel(media_dir)
    lines = [f"Dashboard:       {api.base}/"]
    if first:
        lines.append(f"Admin password:  {config.admin_password}   (shown this once)")
    if urls := _stream_urls(api):
        player = next((name for name in PLAYERS if shutil.which(name)), PLAYERS[0])
        lines.append(f"Watch:           {player} '{urls[0]}'")
    print("\n" + "\n".join(lines) + "\n", flush=True)  # noqa: T201


def _stream_urls(api: Api) -> list[str]:
    """The streams that the open playlist names."""
    playlist = api.call("GET", f"/playlist.m3u?profile={PROFILE}")
    return [line for line in playlist.splitlines() if line and not line.startswith("#")]


# ----------------------------------------------------------------------------------------------------------- make demo


@dataclass(slots=True)
class Watched:
    """What a viewer got."""

    tracks: tuple[Track, ...] = ()
    samples: dict[int, list[Sample]] = field(default_factory=dict)  # by track, in the order in which they came
    first_after_s: float = 0.0  # from the request to the first picture

    def of(self, kind: Kind) -> list[Sample]:
        return [sample for track in self.tracks if track.kind is kind for sample in self.samples.get(track.id, [])]


def watch(host: str, port: int, path: str, before_leaving: Callable[[], object]) -> Watched:
    """Reads a stream until its pictures cover `WATCH_S`. Raises DemoFailed where it can't, or where that lasts long."""
    got, demuxer = Watched(), Demuxer()
    began = time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=WATCH_LIMIT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise DemoFailed(f"GET {path}: {answer.status} {_reason(answer.read())}")
        while len(got.of(Kind.VIDEO)) < WATCH_S * FPS:
            data = answer.read1(65536)
            if not data:
                raise DemoFailed(f"the stream ended after {len(got.of(Kind.VIDEO))} pictures")
            for event in demuxer.feed(data):
                if isinstance(event, Tracks):
                    got.tracks = event.tracks
                else:
                    got.samples.setdefault(event.track, []).append(event)
            if not got.first_after_s and got.of(Kind.VIDEO):
                got.first_after_s = time.monotonic() - began
            if time.monotonic() - began > WATCH_LIMIT_S:
                raise DemoFailed(f"only {len(got.of(Kind.VIDEO))} pictures in {WATCH_LIMIT_S:g} s")
        before_leaving()
    except (OSError, http.client.HTTPException) as error:
        pictures = len(got.of(Kind.VIDEO))
        raise DemoFailed(f"GET {path}: broke off after {pictures} pictures: {error or type(error).__name__}") from None
    finally:
        connection.close()
    return got


def faults(got: Watched) -> list[str]:
    """What is wrong with what a viewer got of the demo channel; empty where nothing is."""
    found = []
    codecs = sorted(track.codec.value for track in got.tracks)
    if codecs != [Codec.AAC.value, Codec.H264.value]:
        found.append(f"the codecs are {', '.join(codecs) or 'none'} instead of aac, h264")
    pictures, frames = got.of(Kind.VIDEO), got.of(Kind.AUDIO)
    if not pictures or not pictures[0].keyframe:
        found.append("the first picture is no keyframe")
    for name, samples in (("video", pictures), ("audio", frames)):
        if any(b.dts_ticks <= a.dts_ticks for a, b in pairwise(samples)):
            found.append(f"{name}: decoding times do not grow")
    found += _gaps("video", pictures, TICKS_PER_SECOND / FPS)
    rates = {track.sample_rate for track in got.tracks if track.kind is Kind.AUDIO}
    if rate := next(iter(rates), 0):
        found += _gaps("audio", frames, TICKS_PER_SECOND * 1024 / rate)  # an AAC frame holds 1024 samples
        if len(frames) * 1024 / rate < WATCH_S - 1:
            found.append(f"audio: {len(frames)} frames are too few")
    return found


def _gaps(name: str, samples: Sequence[Sample], period_ticks: float) -> Iterator[str]:
    # What is shown after the last decoding time may still be followed by what is shown before it.
    shown = sorted(sample.pts_ticks for sample in samples if sample.pts_ticks <= samples[-1].dts_ticks)
    for before, after in pairwise(shown):
        if abs(after - before - period_ticks) > 1:
            at_s, step_s, period_s = (t / TICKS_PER_SECOND for t in (before - shown[0], after - before, period_ticks))
            yield f"{name}: at {at_s:.3f} s the next one follows after {step_s:.3f} s instead of {period_s:.3f} s"


@contextmanager
def roles(environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`run-roles.sh all`, ended with all its children when the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [RUN_ROLES, "all"], env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
        process.terminate()
        if process.wait(STOP_LIMIT_S) != 0:
            raise DemoFailed(f"run-roles.sh ended with code {process.returncode}")
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"run-roles.sh did not end within {STOP_LIMIT_S:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def check() -> None:
    """The demo, unattended. Raises DemoFailed."""
    with tempfile.TemporaryDirectory(prefix="tvarr-demo-") as folder:
        http_port, grpc_port = _free_ports()
        api = Api(f"http://127.0.0.1:{http_port}", secrets.token_urlsafe(12))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TVARR_")}
        environ |= {key: os.environ[key] for key in ("TVARR_FFMPEG",) if key in os.environ}
        environ |= {
            "TVARR_HOST": "127.0.0.1",
            "TVARR_HTTP_PORT": str(http_port),
            "TVARR_GRPC_PORT": str(grpc_port),
            "TVARR_DATA_DIR": f"{folder}/data",
            "TVARR_WORK_DIR": f"{folder}/work",
            "TVARR_MEDIA_DIR": str(CLIP.parent),
            "TVARR_ADMIN_PASSWORD": api.password,
            "TVARR_URL": api.base,
        }
        log = Path(folder) / "log"
        try:
            with roles(environ, log) as process:
                _show(api, process, http_port, environ)
        except DemoFailed:
            print(log.read_text(errors="replace")[-8000:], file=sys.stderr)  # noqa: T201
            raise


def _show(api: Api, process: subprocess.Popen[bytes], http_port: int, environ: dict[str, str]) -> None:
    def alive(condition: Callable[[], bool]) -> Callable[[], bool]:
        def look() -> bool:
            if process.poll() is not None:
                raise DemoFailed(f"run-roles.sh ended with code {process.returncode}")
            return condition()

        return look

    _wait(alive(api.ready), START_LIMIT_S, f"the coordinator was not ready after {START_LIMIT_S:g} s")
    _wait(alive(api.has_worker), START_LIMIT_S, f"no daemon was connected after {START_LIMIT_S:g} s")
    api.add_demo_channel(CLIP.parent)
    got = watch(
        "127.0.0.1",
        http_port,
        f"/stream/demo.ts?profile={PROFILE}",
        before_leaving=lambda: subprocess.run([sys.executable, "-m", "tvarr", "status"], env=environ, check=False),
    )
    if found := faults(got):
        raise DemoFailed("; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else ""))
    picture = next(track for track in got.tracks if track.kind is Kind.VIDEO)
    print(  # noqa: T201
        f"demo: {len(got.of(Kind.VIDEO))} pictures of {picture.codec} {picture.width}x{picture.height}, "
        f"{len(got.of(Kind.AUDIO))} frames of aac, no gap; the first picture came after {got.first_after_s:.2f} s"
    )


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def main(arguments: Sequence[str]) -> int:
    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)  # through the `finally` of whatever runs

    try:
        match arguments:
            case ["run"]:
                run()
            case ["greet", when]:
                greet(first=when == "first")
            case ["check"]:
                signal.signal(signal.SIGTERM, end)
                check()
            case _:
                raise ConfigError("takes run or check")
    except (TvarrError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
