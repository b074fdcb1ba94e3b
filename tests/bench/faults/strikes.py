"""The faults: what is done to the daemon that a relay's job runs on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.bench.faults.stage import Stage


@dataclass(frozen=True, slots=True)
class Strike:
    """Something that happens to a daemon, and how it is taken back while viewers still watch."""

    words: str
    do: Callable[[Stage, str], None]
    undo: Callable[[Stage, str], None] | None = None


def _signal_daemon(number: signal.Signals) -> Callable[[Stage, str], None]:
    def do(stage: Stage, name: str) -> None:
        stage.daemon(name).process.send_signal(number)

    return do


def _signal_ffmpeg(number: signal.Signals) -> Callable[[Stage, str], None]:
    def do(stage: Stage, name: str) -> None:
        processes = stage.ffmpeg_of(name)
        assert processes, f"{name} has no ffmpeg"
        for process in processes:
            process.send_signal(number)

    return do


def _continue_ffmpeg(stage: Stage, name: str) -> None:
    for process in stage.ffmpeg_of(name):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def _has_ended(stage: Stage, name: str) -> None:
    code = stage.daemon(name).process.wait(15)
    assert code == 0, f"{name} ended with {code}"


STRIKES = {
    "kill-daemon": Strike("kill -9 of the daemon", _signal_daemon(signal.SIGKILL)),
    "kill-ffmpeg": Strike("kill -9 of ffmpeg", _signal_ffmpeg(signal.SIGKILL)),
    "stop-ffmpeg": Strike("SIGSTOP of ffmpeg", _signal_ffmpeg(signal.SIGSTOP), _continue_ffmpeg),
    "stop-daemon": Strike("SIGSTOP of the daemon", _signal_daemon(signal.SIGSTOP), _signal_daemon(signal.SIGCONT)),
    "cut-network": Strike(
        "packets dropped between the hosts",
        lambda stage, name: stage.hosts[name].cut(),
        lambda stage, name: stage.hosts[name].heal(),
    ),
    "terminate": Strike("SIGTERM of the daemon", _signal_daemon(signal.SIGTERM), _has_ended),
    "drain": Strike(
        "drain by the API, then activate",
        lambda stage, name: stage.order(name, "drain"),
        lambda stage, name: stage.order(name, "activate"),
    ),
}
