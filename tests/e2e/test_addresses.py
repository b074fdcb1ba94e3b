"""What a coordinator listens on."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from tests.harness import cluster


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_both_families_answers_where_the_host_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path, coordinator_flags=("--host", "::")) as running:
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{running.http_port}/livez", timeout=10) as answer:
                assert answer.status == 200
