"""Coordinator and daemon on two hosts: network namespaces joined by a veth pair."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import probe, probe_bytes
from tests.conftest import lacking, program
from tests.harness import Cluster, eventually

COORDINATOR, WORKER = "10.77.0.1", "10.77.0.2"


def ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces with one link between them: the coordinator's and the worker's."""
    one, two = f"tvarr-c{os.getpid()}", f"tvarr-w{os.getpid()}"
    try:
        ip("netns", "add", one)
    except subprocess.CalledProcessError as error:
        lacking(f"the right to make network namespaces ({error.stderr.decode().strip()})")
    try:
        ip("netns", "add", two)
        ip("link", "add", "veth0", "netns", one, "type", "veth", "peer", "name", "veth0", "netns", two)
        for namespace, address in ((one, COORDINATOR), (two, WORKER)):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "veth0")
            ip("-n", namespace, "link", "set", "veth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        yield one, two
    finally:
        ip("netns", "del", one)
        subprocess.run([program("ip"), "netns", "del", two], capture_output=True, timeout=10, check=False)


def fetch(namespace: str, url: str, path: Path) -> int:
    """Downloads in a namespace; returns the status."""
    code = (
        "import sys, urllib.request\n"
        "with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:\n"
        "    open(sys.argv[2], 'wb').write(answer.read())\n"
        "    print(answer.status)\n"
    )
    command = [program("ip"), "netns", "exec", namespace, sys.executable, "-c", code, url, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


async def test_a_channel_is_transcoded_on_another_host(
    namespaces: tuple[str, str], tmp_path: Path, clips: Path
) -> None:
    here, there = namespaces
    running = Cluster(
        tmp_path,
        media_dir=clips,
        host=COORDINATOR,
        http_port=18080,
        grpc_port=19090,
        prefix=(program("ip"), "netns", "exec", here),
        coordinator_flags=("--no-http-auth",),
    )
    got = tmp_path / "received.ts"
    try:
        running.start_coordinator()
        role = running.run(
            "worker",
            "ffmpegd",
            "--work-dir",
            str(tmp_path / "work"),
            prefix=(program("ip"), "netns", "exec", there),
            TVARR_COORDINATOR_URL=f"grpc://token-of-the-tests@{COORDINATOR}:19090",
        )
        await asyncio.to_thread(
            eventually, lambda: "connected from" in running.roles["coordinator"].text(), f"a daemon\n{role.text()}"
        )
        await asyncio.to_thread(add_channel, here, running.url)
        status = await asyncio.to_thread(fetch, there, f"{running.url}/stream/far.ts?profile=h264", got)
        assert status == 200
    finally:
        await asyncio.to_thread(running.stop)
    assert probe_bytes(got.read_bytes(), tmp_path).pts("video") == probe(clips / "clip.ts").pts("video")


def add_channel(namespace: str, url: str) -> None:
    body = json.dumps({"name": "Far", "url": "file:clip.ts", "pace": "fast"})
    code = (
        "import sys, urllib.request\n"
        "headers = {'Content-Type': 'application/json'}\n"
        "request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers)\n"
        "urllib.request.urlopen(request, timeout=20)\n"
    )
    arguments = [code, f"{url}/api/v1/channels", body]
    subprocess.run(
        [program("ip"), "netns", "exec", namespace, sys.executable, "-c", *arguments], check=True, timeout=30
    )
