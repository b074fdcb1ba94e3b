"""The images at work: with no configuration, in time, under another user, and with bad input."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import probe_bytes
from tests.images.engine import Container, Image, answer, daemons, is_ready, stream, watch

TOKEN = "token-of-the-tests"
PASSWORD = "password-of-the-tests"
READY_WITHIN_S = 3.0
REGISTERED_WITHIN_S = 5.0
STARTS = 3  # one of them has to be in time: what else the machine does is not the image's
JSON_LINE = re.compile(r'\{"time": .*\}$')


def first_password(running: Container) -> str:
    return running.says(r"admin password \(shown this once\): (\S+)")[1]


def add_channel(url: str, password: str) -> None:
    status, body = answer("/api/v1/channels", body={"name": "Clip", "url": url, "loop": True}, password=password)
    assert status == 201, body


@contextlib.contextmanager
def viewer(path: str) -> Iterator[None]:
    """Somebody who watches until the stream ends."""

    def look() -> None:
        with contextlib.suppress(OSError), stream(path) as response:
            while response.read(65536):
                pass

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield
    thread.join(10)


def errors(running: Container) -> list[str]:
    return [line for line in running.lines if "Traceback" in line or '"level": "error"' in line]


def test_without_any_setting_channels_play_and_are_transcoded(
    default: Image, data: Path, media: str, tmp_path: Path
) -> None:
    with default.start(data=data) as running:
        running.until(is_ready, "readyz")
        password = first_password(running)
        running.until(lambda: daemons(password), "the daemon is connected")
        add_channel(media, password)
        plain = probe_bytes(watch("/stream/clip.ts", 200_000), tmp_path)
        assert plain.codecs() == ["h264", "aac"]
        with viewer("/stream/clip.ts?profile=h264"):
            transcoded = probe_bytes(watch("/stream/clip.ts?profile=h264", 200_000), tmp_path)
            assert transcoded.codecs() == ["h264", "aac"]
            running.until(lambda: any(p.name() == "ffmpeg" for p in running.processes()), "ffmpeg runs")
            theirs = running.processes()
            code, took_s = running.stop()
        print(f"TERM to the end under a transcode: {took_s:.1f} s")
        assert code == 0, running.text()
        assert took_s < 10
        assert not [process for process in theirs if process.is_running()]
        assert not errors(running)


def test_it_starts_in_time(default: Image, data: Path) -> None:
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # how much longer everything takes here now
    ready, registered = [], []
    for number in range(STARTS):
        (folder := data / str(number)).mkdir()  # each is a first start: nothing is known of the encoders
        with default.start(data=folder, TVARR_ADMIN_PASSWORD=PASSWORD) as running:
            ready.append(running.since_start(is_ready, "readyz"))
            registered.append(running.since_start(lambda: daemons(PASSWORD), "the daemon is connected"))
            assert running.stop()[0] == 0
        if ready[-1] <= READY_WITHIN_S and registered[-1] <= REGISTERED_WITHIN_S:
            break
    print(f"readyz after {min(ready):.1f} s, daemon connected after {min(registered):.1f} s, at a load of {busy:.1f}")
    assert min(ready) <= READY_WITHIN_S * busy, ready
    assert min(registered) <= REGISTERED_WITHIN_S * busy, registered


def test_it_runs_as_a_user_and_keeps_its_health(default: Image, data: Path) -> None:
    with default.start(data=data, PUID="1234", PGID="4321") as running:
        running.until(lambda: is_ready() and is_ready(9097), "both are ready")
        for name in ("coordinator", "ffmpegd"):
            role = running.role(name)
            assert (set(role.uids()), set(role.gids())) == ({1234}, {4321})
            assert "NoNewPrivs:\t1" in Path(f"/proc/{role.pid}/status").read_text()
        token = data / "auth-token"
        assert (token.stat().st_uid, stat.S_IMODE(token.stat().st_mode)) == (1234, 0o600)
        assert (data.stat().st_uid, data.stat().st_gid) == (1234, 4321)
        assert default.run("tvarr", "health").returncode == 0
        running.role("ffmpegd").send_signal(signal.SIGSTOP)
        ill = default.run("tvarr", "health")
        assert ill.returncode == 1
        assert re.search(r"^ffmpegd at 127\.0\.0\.1:9097: timed out$", ill.stderr, re.MULTILINE)
        running.role("ffmpegd").send_signal(signal.SIGCONT)


def test_started_as_a_user_it_stays_that_user(default: Image) -> None:
    done = default.run("as-user.sh", "id", "-u", user="1777:1777")
    assert (done.returncode, done.stdout) == (0, "1777\n"), done.stderr


def test_a_role_that_crashes_comes_back(default: Image, data: Path) -> None:
    with default.start(data=data) as running:
        running.until(lambda: is_ready() and is_ready(9097), "both are ready")
        before = running.role("ffmpegd")
        before.kill()
        running.says(r"ffmpegd ended with exit code 137 after \d+ s; starting it again in 1 s")
        assert running.role("ffmpegd").pid != before.pid
        running.until(lambda: is_ready(9097), "the daemon is back")
        assert is_ready()
        assert running.stop()[0] == 0


def test_a_worker_joins_with_one_variable_and_leaves_by_usr1(
    coordinator: Image, ffmpegd: Image, data: Path, media: str, tmp_path: Path
) -> None:
    with coordinator.start(
        data=data, TVARR_AUTH_TOKEN=TOKEN, TVARR_ADMIN_PASSWORD=PASSWORD, TVARR_IDLE_LINGER="1"
    ) as head:
        head.until(is_ready, "readyz")
        assert coordinator.run("tvarr", "health").returncode == 0
        with ffmpegd.start(TVARR_COORDINATOR_URL=f"grpc://{TOKEN}@127.0.0.1:9090") as worker:
            worker.until(lambda: daemons(PASSWORD), "the worker is connected")
            add_channel(media, PASSWORD)
            got = probe_bytes(watch("/stream/clip.ts?profile=h264-low", 100_000), tmp_path)
            assert got.codecs() == ["h264", "aac"]
            began = time.monotonic()
            worker.signal(signal.SIGUSR1)
            assert worker.wait(30) == 0, worker.text()
            print(f"USR1 to the end of a worker whose job nobody takes: {time.monotonic() - began:.1f} s")
        assert not errors(worker)
        assert head.stop()[0] == 0
        assert not errors(head)


# ----------------------------------------------------------------------------------------------------------- bad input


def ends(running: Container) -> tuple[int, list[str]]:
    return running.wait(), running.lines


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "words"),
    [
        (["viewer"], {}, 2, "unknown role 'viewer': takes all, coordinator, ffmpegd"),
        ([], {"TVARR_ROLE": "viewer"}, 2, "unknown role 'viewer': takes all, coordinator, ffmpegd"),
        (["all", "all"], {}, 2, "role 'coordinator' is given twice: takes all, or each role once"),
        ([], {"PUID": "ada"}, 2, "PUID takes a user's or group's number, not 'ada'"),
    ],
)
def test_arguments_that_make_no_sense(
    default: Image, arguments: list[str], environ: dict[str, str], code: int, words: str
) -> None:
    with default.start(*arguments, **environ) as running:
        ended, said = ends(running)
    assert ended == code
    (line,) = said
    assert JSON_LINE.match(line)
    assert words in line


@pytest.mark.parametrize("arguments", [["ffmpegd"], ["all"]])
def test_a_coordinators_image_asked_for_a_worker(coordinator: Image, arguments: list[str]) -> None:
    with coordinator.start(*arguments) as running:
        code, (line,) = ends(running)
    assert code == 1
    assert "this image can't run ffmpegd, it is made for coordinator: take the image tvarr or tvarr-ffmpegd" in line


def test_a_url_that_is_none(ffmpegd: Image) -> None:
    with ffmpegd.start(TVARR_COORDINATOR_URL="http://coordinator/", TVARR_AUTH_TOKEN=TOKEN) as running:
        code, (line, verdict) = ends(running)
    assert code == 2
    assert line.startswith("tvarr: --coordinator-url takes host:port")
    assert "ffmpegd can't use its settings (exit code 2)" in verdict


def test_a_coordinator_that_is_not_there_is_waited_for(ffmpegd: Image) -> None:
    with ffmpegd.start(TVARR_COORDINATOR_URL=f"grpc://{TOKEN}@127.0.0.1:1") as running:
        running.says(r"not attached to a coordinator: .*127\.0\.0\.1:1")
        assert ffmpegd.run("tvarr", "health").returncode == 1
        said = [line for line in running.lines if "not attached" in line]
        assert len(said) == 1, "the same again and again"
        assert running.stop() == (0, pytest.approx(1, abs=3))


def test_a_port_in_use_is_told_and_tried_again_with_delays(coordinator: Image, data: Path) -> None:
    with socket.create_server(("0.0.0.0", 8080)), coordinator.start(data=data) as running:
        running.says("starting it again in 2 s")
        told = [line for line in running.lines if line.startswith("tvarr: --http-port 8080 on 0.0.0.0 can't be used")]
        again = [line for line in running.lines if "ended with exit code 1" in line]
        assert len(told) == len(again) == 2
        assert running.stop()[0] == 0


@pytest.mark.parametrize(("arguments", "ends_itself"), [(["all"], True), (["coordinator"], False)])
def test_data_that_cannot_be_written(default: Image, data: Path, arguments: list[str], ends_itself: bool) -> None:
    with default.start(*arguments, data=data, read_only=True) as running:
        if ends_itself:
            assert running.wait() == 1
            assert "can't write the token that the roles share: /data/auth-token" in running.lines[-1]
        else:
            line = running.says(r"(?m)^tvarr: --data-dir /data can't be written: .*$")
            assert line[0].endswith("Read-only file system")
            running.says("coordinator ended with exit code 1 after . s; starting it again in 1 s")
