"""Segmented outputs: who watches, and for how long."""

from __future__ import annotations

import pytest

from tests.media.test_fmp4_mux import AUDIO, VIDEO, picture
from tvarr.coordinator.segmented import LEAVES_AFTER_S, SegmentOutput
from tvarr.coordinator.signals import Signal
from tvarr.errors import CannotCarry, SourceError
from tvarr.media.model import Codec, Sample, Track, Tracks


def pictures(seconds: int) -> list[Sample]:
    return [picture(n * 3600, key=n % 50 == 0) for n in range(seconds * 25)]


@pytest.fixture
async def output() -> SegmentOutput:
    made = SegmentOutput("ts", "test", Signal())
    made.push([Tracks((VIDEO,)), *pictures(9)])
    return made


async def test_a_session_is_over_when_it_has_not_asked_for_a_while(output: SegmentOutput) -> None:
    session = output.join("token", "hls-ts", "127.0.0.1", "a player")
    assert not session.is_over(session.asked_at + LEAVES_AFTER_S - 1)
    assert session.is_over(session.asked_at + LEAVES_AFTER_S + 1)
    session.waiting = 1
    assert not session.is_over(session.asked_at + 1000)


async def test_how_far_a_session_is_behind_and_whether_the_source_must_wait(output: SegmentOutput) -> None:
    session = output.join("token", "hls-ts", "127.0.0.1", "a player")
    assert session.lag_s == 8.0
    assert output.room()
    output.push(
        [
            sample._replace(pts_ticks=sample.pts_ticks + 810_000, dts_ticks=sample.dts_ticks + 810_000)
            for sample in pictures(6)
        ]
    )
    assert not output.room()
    newest = output.window.segments[-1]
    session.fetched(newest.number, newest.parts["main"])
    assert output.room()
    assert session.lag_s == 0
    assert session.sent_bytes == len(newest.parts["main"].data)
    output.leave(session)
    assert output.viewers == set()


async def test_why_there_is_nothing() -> None:
    output = SegmentOutput("fmp4", "test", Signal())
    assert output.available() == 0
    output.end()
    with pytest.raises(SourceError, match="before there was anything"):
        output.available()
    refused = SegmentOutput("fmp4", "test", Signal())
    refused.push([Tracks((Track(1, Codec.MP2), VIDEO))])
    with pytest.raises(CannotCarry, match="mp2"):
        refused.available()
    both = SegmentOutput("fmp4", "test", Signal())
    both.push([Tracks((Track(1, Codec.MP2), AUDIO, VIDEO))])
    assert both.available() == 0
