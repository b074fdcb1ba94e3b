"""A coordinator and daemons that may be killed, stopped, cut off and replaced."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.bench.faults.network import Host, hosts
from tests.clips import make_clip
from tests.conftest import program
from tests.harness import Cluster, Role, cluster, eventually, metrics

DAEMON_FLAGS = ("--max-jobs", "16", "--max-cpu-jobs", "16")
COORDINATOR_FLAGS = ("--idle-linger", "0.2")
CLIP = "moving.ts"
CLIP_S = 60.0
CONNECTED_WITHIN_S = 90.0  # the first start of a daemon tries every encoder
GOP_S = 2.0  # of every profile here, so moments are spread over this

# Frames of MP2 are no multiple of a picture's time, and every profile turns them into AAC: a takeover has to join both.
CLIP_SOUND = ("-c:a", "mp2", "-b:a", "96k")

_WITHOUT_ZEROLATENCY = """#!/bin/sh
# ffmpeg as it is, but with B-frames and lookahead: `-tune zerolatency` is taken out of the arguments.
for argument do
    shift
    if [ "$tune" ]; then
        tune=
        [ "$argument" = zerolatency ] && continue
        set -- "$@" -tune
    elif [ "$argument" = -tune ]; then
        tune=1
        continue
    fi
    set -- "$@" "$argument"
done
exec {ffmpeg} "$@"
"""


def make_clips(folder: Path) -> Path:
    """The folder with the clip that channels play."""
    make_clip(folder / CLIP, seconds=CLIP_S, size="320x180", audio=CLIP_SOUND)
    return folder


def reordering_ffmpeg(folder: Path) -> Path:
    """A program that daemons take for ffmpeg, whose libx264 has B-frames."""
    path = folder / "ffmpeg-with-b-frames"
    if not path.exists():
        path.write_text(_WITHOUT_ZEROLATENCY.format(ffmpeg=program("ffmpeg")))
        path.chmod(0o755)
    return path


@dataclass
class Stage:
    """A cluster whose daemons come back when they are lost."""

    running: Cluster
    names: tuple[str, ...]
    flags: tuple[str, ...]  # of each daemon
    hosts: dict[str, Host] = field(default_factory=dict)  # by the daemon's name; empty: all are on this host
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start_missing(self) -> None:
        """Starts every daemon that does not run; `all_connected` waits for them."""
        for name in self.names:
            role = self.running.roles.get(name)
            if role is not None and role.process.poll() is None:
                continue
            host = self.hosts.get(name)
            self.running.start_daemon(
                name,
                *self.flags,
                wait=False,
                prefix=host.prefix if host else None,
                **({"TVARR_COORDINATOR_URL": f"{host.here}:{self.running.grpc_port}"} if host else {}),
            )

    def all_connected(self) -> None:
        eventually(lambda: set(self.states().values()) == {"connected"}, "daemons are connected", CONNECTED_WITHIN_S)

    def states(self) -> dict[str, str]:
        known = {str(t["name"]): str(t["state"]) for t in self.running.get("/api/v1/transcoders")}
        return {name: known.get(name, "") for name in self.names}

    def daemon(self, name: str) -> Role:
        return self.running.roles[name]

    def daemon_id(self, name: str) -> str:
        (found,) = (str(t["id"]) for t in self.running.get("/api/v1/transcoders") if t["name"] == name)
        return found

    def metrics_of(self, name: str) -> dict[str, float]:
        """What a daemon that was started with `--metrics-listen` says of itself."""
        words = self.daemon(name).text().splitlines()
        port = next(line.rpartition(" ")[2] for line in words if "metrics on port" in line)
        return metrics(f"http://127.0.0.1:{port}")

    def order(self, name: str, what: str) -> None:
        """`drain` or `activate` by the API."""
        status, answer = self.running.request("POST", f"/api/v1/transcoders/{self.daemon_id(name)}/{what}")
        assert status == 200, answer

    def new_channel(self) -> str:
        return self.running.add_channel(f"Fault {next(self._numbers)}", f"file:{CLIP}", loop=True)

    def ffmpeg_of(self, name: str) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.daemon(name).process.pid).children(recursive=True)
            return [child for child in children if child.name().startswith("ffmpeg")]
        return []

    def all_ffmpeg(self) -> list[psutil.Process]:
        """Every ffmpeg that a daemon of this stage started, its parent dead or alive: they have its folder."""
        here = str(self.running.folder)
        running = psutil.process_iter(["name", "cwd"])
        return [p for p in running if (p.info["name"] or "").startswith("ffmpeg") and p.info["cwd"] == here]

    def remove(self, name: str) -> None:
        """Makes a daemon's end certain, whatever state it is in."""
        role = self.daemon(name)
        if role.process.poll() is None:
            role.process.kill()
        role.process.wait()

    def start_over(self) -> None:
        """Ends every daemon, whatever is wrong; what hangs writes its stacks to its log. `start_missing` comes next."""
        for name in self.names:
            role = self.running.roles.get(name)
            if role is not None and role.process.poll() is None:
                role.process.send_signal(signal.SIGCONT)
                with contextlib.suppress(AssertionError):
                    role.stop()


@contextmanager
def stage(
    folder: Path,
    clips: Path,
    *,
    daemons: Sequence[str] = ("one", "two"),
    reorders: bool = False,
    separate_hosts: bool = False,
    flags: Sequence[str] = (),
    daemon_flags: Sequence[str] = (),
) -> Iterator[Stage]:
    """A coordinator that is ready; daemons start with `start_missing`. `reorders`: libx264 makes B-frames.

    `clips` is `make_clips`'s; what stages may share is kept there.
    """
    with ExitStack() as stack:
        settings: dict[str, Any] = {"media_dir": clips, "coordinator_flags": (*COORDINATOR_FLAGS, *flags)}
        found: dict[str, Host] = {}
        if separate_hosts:
            found = dict(zip(daemons, stack.enter_context(hosts(len(daemons))), strict=True))
            settings["host"] = "0.0.0.0"
        running = stack.enter_context(cluster(folder, **settings))
        # One folder for all, so that the encoders are tried once; another one for another ffmpeg.
        own: tuple[str, ...] = ("--work-dir", str(clips / "work"))
        if reorders:
            own = ("--work-dir", str(clips / "work-b-frames"), "--ffmpeg", str(reordering_ffmpeg(clips)))
        yield Stage(running, tuple(daemons), (*DAEMON_FLAGS, *own, *daemon_flags), found)
