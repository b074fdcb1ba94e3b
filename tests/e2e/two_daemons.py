"""Two daemons of one coordinator, and what viewers of a job that changes between them must get."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.clips import Probed
from tests.harness import Cluster, eventually

PICTURE_TICKS = 3600  # of clip.ts


def variant(running: Cluster, slug: str) -> dict[str, Any]:
    (relay,) = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
    (only,) = relay["variants"]
    return dict(only)


def assert_nothing_lost(got: Probed, least_s: float) -> None:
    """Every picture once: none missing, none repeated, and decode times only grow. The loop's seam is up to a frame."""
    times = got.pts("video")
    steps = [later - earlier for earlier, later in pairwise(times)]
    odd = [step for step in steps if step != PICTURE_TICKS]
    assert all(PICTURE_TICKS < step < 2 * PICTURE_TICKS for step in odd), odd
    assert len(odd) <= 2, odd
    assert times[-1] - times[0] > least_s * 90_000
    dts = got.dts("video")
    assert all(earlier < later for earlier, later in pairwise(dts))
    heard = got.pts("audio")
    assert all(0 < later - earlier <= 2 * 1920 for earlier, later in pairwise(heard))


def both_daemons(running: Cluster) -> None:
    """Starts those of two daemons that are not there, at once, and gives jobs to those that drain again."""
    names = ("one", "two")
    for name in names:
        if name not in running.roles or running.roles[name].process.poll() is not None:
            running.start_daemon(name, wait=False)
    for known in running.get("/api/v1/transcoders"):
        if known["state"] == "draining":  # since a test that failed
            running.request("POST", f"/api/v1/transcoders/{known['id']}/activate")
    eventually(lambda: all(running.daemon_state(name) == "connected" for name in names), "both are connected")
