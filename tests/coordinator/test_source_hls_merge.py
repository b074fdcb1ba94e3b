"""Renditions merged by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.hls.merge import ID_STEP, Merge, Part
from tvarr.media.model import TICKS_33BIT, Codec, Event, Kind, Sample, Track, Tracks

VIDEO = Tracks((Track(1, Codec.H264), Track(2, Codec.AAC), Track(3, Codec.TIMED_ID3)), 5)
AUDIO = Tracks((Track(1, Codec.AAC),))


def sample(track: int, ticks: int) -> Sample:
    return Sample(track, ticks % TICKS_33BIT, ticks % TICKS_33BIT, b"x")


def merge() -> Merge:
    return Merge([Part(0, frozenset(Kind) - {Kind.AUDIO}), Part(1, frozenset({Kind.AUDIO}), "eng")])


def merged(video: list[Event], audio: list[Event], chunk: int = 1) -> list[Event]:
    """Both to their ends, each given in chunks as it is wanted."""
    merging, given_ = merge(), [list(video), list(audio)]
    out: list[Event] = []
    while (part := merging.wanted()) is not None:
        rest = given_[merging.parts.index(part)]
        part.push(rest[:chunk])
        part.ended = not rest
        del rest[:chunk]
        out += merging.take()
    assert not any(part.queue for part in merging.parts)
    return out


def times(events: list[Event]) -> list[int]:
    return [event.dts_ticks for event in events if isinstance(event, Sample)]


def test_tracks_are_announced_together_and_before_all_samples() -> None:
    out = merged([VIDEO, sample(1, 100), sample(2, 100)], [AUDIO, sample(1, 50), sample(1, 150)])
    tracks, *samples = out
    assert isinstance(tracks, Tracks)
    assert [(t.id, t.codec, t.language) for t in tracks.tracks] == [
        (1, Codec.H264, ""),
        (3, Codec.TIMED_ID3, ""),
        (ID_STEP + 1, Codec.AAC, "eng"),
    ]
    assert tracks.program == 5
    assert [(s.track, s.dts_ticks) for s in samples if isinstance(s, Sample)] == [
        (ID_STEP + 1, 50),
        (1, 100),
        (ID_STEP + 1, 150),
    ]


def test_over_the_wrap() -> None:
    begin = TICKS_33BIT - 5000
    out = merged(
        [VIDEO, *(sample(1, begin + i * 3600) for i in range(4))],
        [AUDIO, *(sample(1, begin + 900 + i * 3600) for i in range(4))],
    )
    assert [event.track for event in out if isinstance(event, Sample)] == [1, ID_STEP + 1] * 4


def test_a_jump_that_has_come_in_one_waits_for_the_other() -> None:
    before, after = 1_000_000_000, 5_000
    video: list[Event] = [VIDEO, *(sample(1, before + i * 3600) for i in range(50))]
    audio: list[Event] = [AUDIO, *(sample(1, before + i * 1920) for i in range(100))]
    out = merged(
        [*video, *(sample(1, after + i * 3600) for i in range(50))],
        [*audio, *(sample(1, after + i * 1920) for i in range(100))],
    )
    assert times(out) == sorted(t for t in times(out) if t >= before) + sorted(t for t in times(out) if t < before)


def test_clocks_that_have_nothing_in_common_go_by_what_was_played() -> None:
    out = merged(
        [VIDEO, *(sample(1, i * 3600) for i in range(100))],
        [AUDIO, *(sample(1, 1_000_000_000 + i * 3600) for i in range(100))],
    )
    tracks = [event.track for event in out if isinstance(event, Sample)]
    assert len(tracks) == 200
    assert all(abs(tracks[:i].count(1) * 2 - i) <= 4 for i in range(len(tracks)))


def test_data_goes_with_what_stands_before_it() -> None:
    video: list[Event] = [VIDEO, sample(1, 100), sample(3, 4_000_000_000), sample(1, 200)]
    out = merged(video, [AUDIO, sample(1, 90), sample(1, 150), sample(1, 210)])
    assert times(out) == [90, 100, 4_000_000_000, 150, 200, 210]


@given(
    video=st.lists(st.integers(1, 20_000), max_size=40),
    audio=st.lists(st.integers(1, 20_000), max_size=40),
    chunk=st.integers(1, 9),
    begin=st.integers(0, TICKS_33BIT),
)
def test_nothing_is_lost_and_order_is_kept(video: list[int], audio: list[int], chunk: int, begin: int) -> None:
    def track(steps: list[int]) -> list[Event]:
        return [sample(1, begin + sum(steps[:i])) for i in range(len(steps))]

    out = merged([VIDEO, *track(video)], [AUDIO, *track(audio)], chunk)
    samples = [event for event in out if isinstance(event, Sample)]
    assert [s._replace(track=1) for s in samples if s.track == 1] == track(video)
    assert [s._replace(track=1) for s in samples if s.track != 1] == track(audio)
    unwrapped = [(s.dts_ticks - begin) % TICKS_33BIT for s in samples]
    if max(sum(video), sum(audio)) < 900_000:
        assert unwrapped == sorted(unwrapped)
