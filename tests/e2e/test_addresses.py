"""What the roles listen on."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.harness import TOKEN, Cluster, cluster, eventually


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_both_families_answers_where_the_host_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path, coordinator_flags=("--host", "::")) as running:
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{running.http_port}/livez", timeout=10) as answer:
                assert answer.status == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_daemon_listens_on_an_address_of_ipv6(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    flags = ("--work-dir", str(tmp_path), "--listen", "[::1]:0", "--metrics-listen", "[::1]:0")
    try:
        role = made.run("listening", "ffmpegd", *flags, TVARR_AUTH_TOKEN=TOKEN)
        eventually(lambda: role.process.poll() is not None or "serving clients on port" in role.text(), "it listens")
        assert role.process.poll() is None, role.text()
    finally:
        made.stop()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_metrics_are_on_every_address_of_both_families_where_the_host_says_so(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    try:
        role = made.run("watched", "ffmpegd", "--work-dir", str(tmp_path), "--metrics-listen", "[::]:0")
        eventually(lambda: role.process.poll() is not None or "metrics on port" in role.text(), "it listens")
        found = re.search(r"metrics on port (\d+)", role.text())
        assert found, role.text()
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{found[1]}/livez", timeout=10) as answer:
                assert answer.status == 200
    finally:
        made.stop()
