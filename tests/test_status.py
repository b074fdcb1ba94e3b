"""`tvarr status` against a real server."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from tests.coordinator.web_server import FAILURE, PASSWORD, RELAY, TRANSCODER, Services, serving
from tests.harness import as_from_a_terminal
from tvarr import status
from tvarr.errors import ConfigError


async def status_of(url: str, password: str = PASSWORD, *, json_output: bool = False) -> int:
    return await asyncio.to_thread(status.run, url=url, admin_password=password, json_output=json_output, watch=False)


def shown(services: Services, width: int, groups: list[dict[str, Any]] | None = None) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    snapshot = status.Snapshot(services.daemons, services.running, groups or [], services.failed)
    with console.capture() as capture:
        console.print(status.tables(snapshot, "http://h:8080"))
    return capture.get().splitlines()


async def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    async with serving(tmp_path) as (client, services):
        services.add_samples()
        assert await status_of(str(client.make_url("/"))) == 0
    printed = capsys.readouterr().out
    for words in (
        "1 daemon, 1 relay, 1 job, 1 viewer",
        "rack <1>",
        "GeForce RTX 3080",
        "2/8",
        "driver 550.54: 8",
        "News [red]",
        "h264_nvenc",
        "1.02×",
        "the only free h264 encoder in hardware",
        "attic",
        "software only",
        "12.3 MB",
        "2:01:05",
        "192.0.2.99",
        "VLC/3.0 <script>",
        "2500",
        "55",
        "80",
    ):
        assert words in printed


@pytest.mark.parametrize("flags", [["--json"], []])
async def test_names_that_the_terminal_can_not_show(tmp_path: Path, flags: list[str]) -> None:
    """As in a Latin-1 locale, which Python does not take for UTF-8."""
    async with serving(tmp_path) as (client, services):
        services.add_samples()
        services.running[0]["channel"]["name"] = name = "日本 📺"
        command = [sys.executable, "-m", "tvarr", "status", "--url", str(client.make_url("/")), *flags]
        environ = {**os.environ, "PYTHONIOENCODING": "ascii", "TVARR_ADMIN_PASSWORD": PASSWORD}
        done = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    if flags:
        assert json.loads(done.stdout)["relays"][0]["channel"]["name"] == name
    else:
        assert b"?? ?" in done.stdout


@pytest.mark.parametrize("width", [80, 120])
async def test_nothing_is_wider_than_the_terminal_and_numbers_stay_whole(tmp_path: Path, width: int) -> None:
    async with serving(tmp_path) as (_, services):
        for number in range(3):
            services.add_samples()
            services.daemons[-1]["name"] = f"transcoding-worker-{number}.example.org"
            services.running[-1]["channel"]["name"] = f"A channel with quite a long name {number} HD"
        lines = shown(services, width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for number in ("1.02×", "25.0", "2/8", "42 %", "8000", "12.3 MB", "0.8 s", "2500", "1.0"):
        assert text.count(number) >= 3


async def test_a_daemon_that_left_has_no_present_figures(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.add_samples()
        services.daemons[0]["state"] = "disconnected"
        lines = shown(services, 120)
    (row,) = (line.split() for line in lines if "disconnected" in line)
    assert row[4:8] == ["–"] * 4, row


async def test_words_stay_whole_beside_long_names(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.add_samples()
        services.daemons[0]["state"] = "disconnected"
        services.running[0]["channel"]["name"] = "A channel with quite a long name " * 4
        services.running[0]["source"]["state"] = "reconnecting"
        text = "\n".join(shown(services, 80))
    for word in ("disconnected", "reconnecting", "running", "h264_nvenc"):
        assert word in text


async def test_what_failed_lately(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.failed = [{**FAILURE, "status": None, "count": 1}, *[{**FAILURE, "reasons": ["attic: no"]}] * 5]
        lines = shown(services, 120)
    (broke_off,) = (line.split() for line in lines if "broke off" in line)
    assert broke_off == ["12:04:00", "news", "h264", "broke", "off", *FAILURE["reason"].split()]
    assert sum(line.strip() == "attic: no" for line in lines) == status.MAX_FAILURES - 1
    answered = [line for line in lines if "502" in line]
    assert len(answered) == status.MAX_FAILURES - 1
    assert answered[0].strip().endswith(f"{FAILURE['reason']} (3 times)")


async def test_what_became_of_a_jobs_moves(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.add_samples()
        variant = services.running[0]["variants"][0]
        variant["move_refused"], variant["lost_pictures"] = "not moved to attic: it is full", 12
        printed = " ".join(" ".join(shown(services, 200)).split())
    assert "; pictures lost: 12; not moved to attic: it is full" in printed


async def test_a_source_that_a_daemon_fetches_is_a_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.add_samples()
        relay = services.running[0]
        job = {**relay["variants"][0]["job"], "encoder": "", "speed": 0.0, "fps": 0.0}
        placement = {"reason": "reads srt:", "fallback": False, "considered": []}
        relay["source"].update(job=job, placement=placement)
        text = "\n".join(shown(services, 120))
    assert "2 jobs" in text
    assert "fetches" in text
    assert "source" in text
    assert "reads srt:" in text


async def test_errors_are_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.running.append(copy.deepcopy(RELAY))
        services.running[0]["source"]["error"] = "the server answered 404"
        services.running[0]["variants"][0].update(error="no daemon can do it", job=None, placement=None)
        text = "\n".join(shown(services, 100))
    assert "No daemon is connected" in text
    assert "News [red]: the server answered 404" in text
    assert "News [red], h264: no daemon can do it" in text
    assert "Jobs" not in text


async def test_groups_that_have_a_limit(tmp_path: Path) -> None:
    groups = [
        {"name": "Pay TV", "max_connections": 2, "channels": 40, "connections": 2, "relays": ["r1", "r2"]},
        {"name": "Free", "max_connections": 0, "channels": 7, "connections": 3, "relays": []},
    ]
    async with serving(tmp_path) as (_, services):
        lines = [line.split() for line in shown(services, 100, groups)]
    assert ["Pay", "TV", "40", "2/2"] in lines
    assert not any("Free" in line for line in lines)


async def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as (client, services):
        services.add_samples()
        assert await status_of(str(client.make_url("/")), json_output=True) == 0
    expected = {"transcoders": [TRANSCODER], "relays": [RELAY], "groups": [], "failures": []}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("password", "words"),
    [("wrong", "is not the right one"), ("", "is needed: --admin-password"), ("pässword", "not the")],
)
async def test_a_wrong_password(tmp_path: Path, capsys: pytest.CaptureFixture[str], password: str, words: str) -> None:
    async with serving(tmp_path) as (client, _):
        assert await status_of(str(client.make_url("/")), password) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


async def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert await status_of(url) == 3
    assert capsys.readouterr().err == f"no coordinator answers at {url}: Connection refused\n"


async def test_tls_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as (client, _):
        url = str(client.make_url("")).replace("http:", "https:")
        assert await status_of(url) == 3
    assert capsys.readouterr().err == f"what answers at {url} does not speak TLS: its address begins with http://\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: web.Response(text="<html>"), id="a web page"),
        pytest.param(lambda: web.Response(status=404), id="404"),
        pytest.param(lambda: web.json_response({"a": 1}), id="other JSON"),
        pytest.param(lambda: web.Response(status=302, headers={"Location": "/elsewhere"}), id="a redirect"),
    ],
)
async def test_somebody_else_there(capsys: pytest.CaptureFixture[str], answer: object) -> None:
    asked: list[str] = []

    async def stranger(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        made = answer()  # type: ignore[operator]
        assert isinstance(made, web.StreamResponse)
        return made

    application = web.Application()
    application.router.add_get("/{any:.*}", stranger)
    async with TestServer(application) as server:
        assert await status_of(str(server.make_url("/"))) == 3
    assert "is no tvarr coordinator" in capsys.readouterr().err
    assert asked == ["/api/v1/transcoders"]


async def test_a_coordinator_whose_connections_are_all_taken(capsys: pytest.CaptureFixture[str]) -> None:
    async def full(_: web.Request) -> web.Response:
        return web.Response(status=503)

    application = web.Application()
    application.router.add_get("/{any:.*}", full)
    async with TestServer(application) as server:
        assert await status_of(str(server.make_url("/"))) == 3
    assert "has no room for this now (503)" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://h/", "http://", "file:///etc/passwd"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--url takes"):
        status.run(url=url, admin_password="", json_output=False, watch=False)


WATCH = """
import sys
from tvarr.status import run
sys.exit(run(url={url!r}, admin_password={password!r}, json_output=False, watch=True))
"""


async def test_watching_on_a_terminal_follows_changes_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    def read() -> bytes:
        return os.read(terminal, 65_536)

    terminal, inside = pty.openpty()
    async with serving(tmp_path) as (client, services):
        code = WATCH.format(url=str(client.make_url("/")), password=PASSWORD)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "COLUMNS": "100"},
            preexec_fn=as_from_a_terminal,
        )
        os.close(inside)
        try:
            async with asyncio.timeout(20):
                seen = b""
                while b"No daemon is connected" not in seen:
                    seen += await asyncio.to_thread(read)
                services.add_samples()
                while b"GeForce RTX 3080" not in seen:
                    seen += await asyncio.to_thread(read)
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            os.close(terminal)


async def test_not_all_of_many_viewers(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, services):
        services.add_samples()
        viewers = services.running[0]["variants"][0]["viewers"]
        viewers.extend({**viewers[0], "address": f"198.51.100.{n}"} for n in range(60))
        lines = shown(services, 120)
    assert any("198.51.100.48" in line for line in lines)
    assert not any("198.51.100.49" in line for line in lines)
    assert any("and 11 more" in line for line in lines)
