"""What a coordinator says of itself."""

from __future__ import annotations

import pytest

from tvarr.coordinator import app
from tvarr.coordinator.app import reachable_host


@pytest.mark.parametrize(
    ("told", "listens_on", "host"),
    [
        ("tv.example", "127.0.0.1", "tv.example"),
        ("2001:db8::1", "0.0.0.0", "[2001:db8::1]"),
        ("", "127.0.0.1", "127.0.0.1"),
        ("", "::1", "[::1]"),
        ("", "tv.example", "tv.example"),
        ("", "0.0.0.0", "192.0.2.9"),
        ("", "::", "192.0.2.9"),
    ],
)
def test_workers_are_told_a_host_that_is_listened_on(
    monkeypatch: pytest.MonkeyPatch, told: str, listens_on: str, host: str
) -> None:
    monkeypatch.setattr(app, "_guess_host", lambda: "192.0.2.9")
    assert reachable_host(told, listens_on) == host
