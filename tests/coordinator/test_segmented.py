"""Segmented outputs: who watches, and for how long."""

from __future__ import annotations

import pytest

from tests.media.test_fmp4_mux import AUDIO, VIDEO, frame, picture
from tvarr.coordinator.segmented import LATE_PICTURE_SEGMENTS, LEAVES_AFTER_S, REACH, SegmentOutput
from tvarr.coordinator.signals import Signal
from tvarr.errors import CannotCarry, SourceError
from tvarr.media.model import Codec, Sample, Track, Tracks
from tvarr.media.segments import LISTED


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
    session.fetched(newest.number, "main", newest.parts["main"])
    assert output.room()
    assert session.lag_s == 0
    assert session.sent_bytes == len(newest.parts["main"].data)
    output.leave(session)
    assert output.viewers == set()


async def test_why_there_is_nothing() -> None:
    output = SegmentOutput("fmp4", "test", Signal())
    assert not output.ready(1)
    output.end()
    with pytest.raises(SourceError, match="before there was anything"):
        output.ready(1)
    refused = SegmentOutput("fmp4", "test", Signal())
    refused.push([Tracks((Track(1, Codec.MP2), VIDEO))])
    refused.end()  # later, and for another reason
    with pytest.raises(CannotCarry, match="mp2"):
        refused.ready(1)
    both = SegmentOutput("fmp4", "test", Signal())
    both.push([Tracks((Track(1, Codec.MP2), AUDIO, VIDEO))])
    assert not both.ready(1)


def shifted(samples: list[Sample], seconds: float) -> list[Sample]:
    ticks = round(seconds * 90_000)
    return [s._replace(pts_ticks=s.pts_ticks + ticks, dts_ticks=s.dts_ticks + ticks) for s in samples]


def sounds(seconds: int) -> list[Sample]:
    return [frame(ticks) for ticks in range(0, seconds * 90_000, 2090)]


def interleaved(*samples: list[Sample]) -> list[Sample]:
    return sorted((sample for several in samples for sample in several), key=lambda sample: sample.dts_ticks)


async def test_at_full_speed_a_segment_stays_listed_until_each_rendition_of_it_was_fetched() -> None:
    """However many come at once; a rendition that is not read any more counts no longer."""
    output = SegmentOutput("fmp4", "test", Signal(), full_speed=True)
    output.push([Tracks((VIDEO, AUDIO)), *interleaved(pictures(4), sounds(4))])
    session = output.join("token", "hls-fmp4", "127.0.0.1", "a player")
    first = output.window.listed()[0]
    assert session.wanted == first.number
    output.push(shifted(interleaved(pictures(40), sounds(40)), 4))
    assert output.window.listed()[0] == first
    assert len(output.window.listed()) > 3 * LISTED
    for segment in output.window.listed():
        session.fetched(segment.number, "video", segment.parts["video"])
    assert output.room()  # it reads its sound later, or never
    output.push(shifted(interleaved(pictures(10), sounds(10)), 44))
    assert session.wanted == session.number + 1
    assert output.window.listed()[0].number > first.number + REACH - LISTED
    for segment in output.window.listed():
        session.fetched(segment.number, "audio1", segment.parts["audio1"])
    session.fetched(session.number - 5, "video", output.window.segments[-6].parts["video"])
    output.push(shifted(interleaved(pictures(40), sounds(40)), 54))
    assert output.window.listed()[0].number == session.wanted == session.number - 4


async def test_a_player_waits_for_pictures_that_come_behind_the_sound() -> None:
    """It would play the sound alone to the end: what there is it reads once. Without any it need not wait for long."""
    output = SegmentOutput("fmp4", "test", Signal())
    output.push([Tracks((VIDEO, AUDIO)), *sounds(5)])
    assert len(output.window.segments) == LATE_PICTURE_SEGMENTS - 1
    assert not output.ready(1)
    output.push(interleaved(shifted(pictures(4), 5), shifted(sounds(4), 5)))
    assert output.ready(1)
    mute = SegmentOutput("fmp4", "test", Signal())
    mute.push([Tracks((VIDEO, AUDIO)), *sounds(20)])
    assert mute.ready(1)
    assert not mute.renditions.keys() - {"audio1"}


@pytest.mark.parametrize(("gop_s", "expected"), [(4.0, 4), (1.5, 3), (0.5, 2), (2.0, 3), (0.0, 3)])
async def test_the_target_duration_is_that_of_whole_groups_from_the_first_segment_on(
    gop_s: float, expected: int
) -> None:
    """A job begins between two of the points at which keyframes are: RFC 8216 wants no change of it (6.2.1)."""
    output = SegmentOutput("ts", "test", Signal(), gop_s=gop_s)
    group = round(25 * (gop_s or 2.0))
    first = 68  # pictures, 2.72 s, up to such a point
    output.push(
        [Tracks((VIDEO,)), *(picture(n * 3600, key=n == 0 or (n - first) % group == 0) for n in range(first + 1))]
    )
    assert (len(output.window.listed()), output.window.target_s) == (1, expected)
    output.push(picture(n * 3600, key=(n - first) % group == 0) for n in range(first + 1, first + 400))
    assert output.window.target_s == expected
