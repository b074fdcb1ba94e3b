"""Everything over TLS: a daemon by `grpcs://`, players by `https://`, and what does not trust or is not trusted."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.certificates import Authority
from tests.clips import probe_bytes
from tests.harness import PASSWORD, TOKEN, Cluster, cluster, eventually, tvarr_environment
from tvarr import health
from tvarr.tls import client_context, trust


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority, clips: Path) -> Iterator[Cluster]:
    """A coordinator that serves TLS, with a daemon that checks its certificate."""
    folder = tmp_path_factory.mktemp("secured")
    cert, key = authority.issue(folder, "tvarr.example", "127.0.0.1")
    with cluster(
        folder,
        media_dir=clips,
        coordinator_flags=("--tls-cert", str(cert), "--tls-key", str(key)),
        tls=client_context(trust(authority.file)),
    ) as running:
        running.start_daemon(
            "worker",
            TVARR_COORDINATOR_URL=f"grpcs://{TOKEN}@127.0.0.1:{running.grpc_port}",
            TVARR_TLS_CA=str(authority.file),
        )
        yield running


async def get(running: Cluster, path: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(running.url + path, ssl=running.tls or True) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_a_transcode_goes_through_tls_from_end_to_end(secured: Cluster, tmp_path: Path) -> None:
    slug = secured.add_channel("clip", (secured.media_dir or Path()).joinpath("clip.ts").as_uri(), pace="fast")
    data = await get(secured, f"/stream/{slug}.ts?profile=h264-low")
    probed = await asyncio.to_thread(probe_bytes, data, tmp_path)
    assert probed.codecs() == ["h264", "aac"]
    assert len(probed.pts("video")) == 200


async def test_links_that_the_coordinator_gives_say_tls(secured: Cluster) -> None:
    assert (await get(secured, "/playlist.m3u")).startswith(b"#EXTM3U")
    assert f"grpcs://{TOKEN}@" in secured.get("/api/v1/registration")["command"]
    assert "dashboard: https://" in secured.roles["coordinator"].text()


async def test_the_login_cookie_stays_on_tls(secured: Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await session.post(
            secured.url + "/login", data={"password": PASSWORD}, ssl=secured.tls or True, allow_redirects=False
        )
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("url", "believe", "words"),
    [
        ("grpcs", "another authority", "its certificate is not trusted (unable to get local issuer certificate)"),
        ("grpcs", "", "its certificate is not trusted (unable to get local issuer certificate)"),
        ("grpc", "", "if it serves TLS, use grpcs://"),
    ],
)
async def test_a_daemon_that_does_not_trust_or_speak_it_stays_out(
    secured: Cluster, authority: Authority, tmp_path: Path, url: str, believe: str, words: str
) -> None:
    environment = {"TVARR_COORDINATOR_URL": f"{url}://{TOKEN}@127.0.0.1:{secured.grpc_port}"}
    if believe:
        environment["TVARR_TLS_CA"] = str(Authority.make(tmp_path, "stranger").file)
    role = secured.start_daemon("stranger", "--max-jobs", "1", wait=False, **environment)
    try:
        said = await asyncio.to_thread(
            eventually, lambda: [line for line in role.text().splitlines() if "WARNING" in line], "it says why"
        )
        assert secured.daemon_state("stranger") == ""
        assert len(said) < 3
        assert words in said[-1]
    finally:
        role.stop()


async def test_a_servers_own_certificate_is_enough_to_trust_it(secured: Cluster) -> None:
    certificate = secured.folder / "server.pem"
    role = secured.start_daemon(
        "pinned",
        "--max-jobs",
        "1",
        TVARR_COORDINATOR_URL=f"grpcs://{TOKEN}@localhost:{secured.grpc_port}",  # a name that it does not carry
        TVARR_TLS_CA=str(certificate),
    )
    assert role.stop() == 0


def status(secured: Cluster, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvarr", "status"],
        env=tvarr_environment(**{"TVARR_ADMIN_PASSWORD": PASSWORD, "TVARR_URL": secured.url, **environment}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_status_checks_the_certificate(secured: Cluster, authority: Authority) -> None:
    done = await asyncio.to_thread(status, secured, TVARR_TLS_CA=str(authority.file))
    assert (done.returncode, "worker" in done.stdout) == (0, True), done.stderr
    done = await asyncio.to_thread(status, secured)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "is not trusted" in done.stderr
    done = await asyncio.to_thread(status, secured, TVARR_URL=secured.url.replace("https:", "http:"))
    assert done.returncode == 3
    assert "if it serves TLS, its address begins with https://" in done.stderr


async def test_health_is_asked_over_tls(secured: Cluster) -> None:
    address = ("127.0.0.1", secured.http_port)
    assert await asyncio.to_thread(health.ask, address, tls=True) == ""
    assert await asyncio.to_thread(health.ask, address) != ""


async def test_plain_http_on_the_port_is_no_traceback(secured: Cluster) -> None:
    before = len(secured.roles["coordinator"].text())
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + bytes(200), b""):
        for port in (secured.http_port, secured.grpc_port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            if said:
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
    assert "Traceback" not in secured.roles["coordinator"].text()[before:]


async def test_a_renewed_certificate_is_served_without_a_restart(secured: Cluster, authority: Authority) -> None:
    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    authority.issue(secured.folder, "tvarr.example", "127.0.0.1")
    new = (secured.folder / "server.pem").read_text()
    for port in (secured.http_port, secured.grpc_port):
        assert await asyncio.to_thread(shown, port) == new
    assert secured.daemon_state("worker") == "connected"
