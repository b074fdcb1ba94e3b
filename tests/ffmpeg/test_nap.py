"""How long a pipe is left alone, by what flows."""

from __future__ import annotations

import pytest

from tvarr.ffmpeg.nap import Nap


def settled(bytes_per_s: float, holds_bytes: int = 1 << 20, *, first_s: float = 0.04, longest_s: float = 0.5) -> Nap:
    """After some naps beside somebody who writes, but no more than the pipe holds."""
    nap = Nap(first_s, longest_s)
    for _ in range(20):
        nap.flowed(min(nap.s * bytes_per_s / holds_bytes, 1.0))
    return nap


@pytest.mark.parametrize("holds_bytes", [1 << 12, 1 << 16, 1 << 20])
@pytest.mark.parametrize("mbps", [5, 20, 100, 1000])
def test_half_to_three_quarters_of_the_pipe_flow(mbps: int, holds_bytes: int) -> None:
    nap = settled(mbps * 125_000, holds_bytes)
    part = nap.s * mbps * 125_000 / holds_bytes
    assert part <= 0.75
    assert part >= 0.375 or nap.s == 0.5


def test_it_is_never_longer_than_wanted() -> None:
    assert settled(0).s == 0.5
    assert settled(0, longest_s=0.01).s == 0.04


def test_it_follows_what_flows() -> None:
    nap = settled(10_000_000)
    short_s = nap.s
    nap.flowed(0.0)
    assert nap.s == 2 * short_s
    nap.flowed(0.6)
    assert nap.s == 2 * short_s
    nap.flowed(1.0)
    assert nap.s == short_s
