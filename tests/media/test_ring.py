"""Examples first, then the properties that must hold for any input."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.model import Codec, Event, Sample, Track, Tracks
from tvarr.media.ring import ITEM_OVERHEAD_BYTES, Chunk, ChunkRing, Lagged, Ring

VIDEO, AUDIO = 256, 257
BOTH = Tracks((Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC)))
ONLY_AUDIO = Tracks((Track(AUDIO, Codec.AAC),))
ROOM = 1 << 20


def video(pts: int, key: bool = False, size: int = 10) -> Sample:
    return Sample(VIDEO, pts, pts, bytes(size), key)


def audio(pts: int, size: int = 10) -> Sample:
    return Sample(AUDIO, pts, pts, bytes(size), True)


def ring_of(*events: Event, max_bytes: int = ROOM) -> Ring:
    ring = Ring(max_bytes)
    for event in events:
        ring.append(event)
    return ring


def test_numbers_and_reading() -> None:
    ring = Ring(ROOM)
    assert (ring.first_seq, ring.next_seq, ring.join_seq(), len(ring)) == (0, 0, 0, 0)
    assert ring.read(0) == ([], 0)
    events = [BOTH, video(0, key=True), audio(0), video(3600)]
    assert [ring.append(event) for event in events] == [0, 1, 2, 3]
    assert ring.read(0, max_items=3) == (events[:3], 3)
    assert ring.read(3) == (events[3:], 4)
    assert ring.read(4) == ([], 4)
    with pytest.raises(ValueError, match="next number is 4"):
        ring.read(5)


def test_reading_is_bounded_by_bytes_but_one_always_fits() -> None:
    ring = ring_of(video(0, size=100), video(1, size=100), video(2, size=100))
    assert ring.read(0, max_bytes=250)[1] == 2
    assert ring.read(0, max_bytes=1)[1] == 1


def test_the_oldest_is_evicted_and_a_slow_reader_is_told() -> None:
    item = 100 + ITEM_OVERHEAD_BYTES
    ring = ring_of(*(video(pts, size=100) for pts in range(10)), max_bytes=3 * item)
    assert (ring.first_seq, ring.next_seq, ring.bytes) == (7, 10, 3 * item)
    with pytest.raises(Lagged) as lagged:
        ring.read(4)
    assert (lagged.value.first_seq, lagged.value.lost) == (7, 3)
    assert [s.pts_ticks for s in ring.read(7)[0] if isinstance(s, Sample)] == [7, 8, 9]


def test_what_is_evicted_is_let_go() -> None:
    chunk = Chunk(bytes(100))
    unheld = sys.getrefcount(chunk)
    ring = ChunkRing(100 * (100 + ITEM_OVERHEAD_BYTES))
    ring.append(chunk)
    for _ in range(99):
        ring.append(Chunk(bytes(100)))
    assert sys.getrefcount(chunk) == unheld + 1
    ring.append(Chunk(bytes(100)))
    assert sys.getrefcount(chunk) == unheld


def test_one_item_over_the_cap_is_held_alone() -> None:
    ring = ring_of(video(0), video(1, size=10_000), max_bytes=1000)
    assert (ring.first_seq, ring.next_seq) == (1, 2)


def test_tracks_outlive_their_eviction() -> None:
    ring = ring_of(BOTH, max_bytes=1000)
    for pts in range(20):
        ring.append(video(pts))
    assert ring.first_seq > 0
    assert ring.tracks_at(ring.first_seq) == BOTH
    changed = ring.append(ONLY_AUDIO)
    assert ring.tracks_at(changed - 1) == BOTH
    assert ring.tracks_at(changed) == ONLY_AUDIO
    assert Ring(ROOM).tracks_at(0) is None


@pytest.mark.parametrize(
    ("events", "join"),
    [
        pytest.param([BOTH, audio(0), video(0)], 0, id="no keyframe yet: from the start"),
        pytest.param([BOTH, audio(0), video(0, True), video(1), video(2, True), audio(3)], 4, id="latest keyframe"),
        pytest.param(
            [ONLY_AUDIO, *(audio(t) for t in range(0, 300_000, 30_000))], 7, id="radio: a second behind the newest"
        ),
        pytest.param([ONLY_AUDIO, audio(0), audio(100)], 1, id="radio: not yet a second"),
        pytest.param([ONLY_AUDIO, audio(0), audio(1), BOTH, audio(2), video(2)], 3, id="video came, but no keyframe"),
        pytest.param([ONLY_AUDIO, audio(0), BOTH, audio(2), video(2, True), audio(3)], 4, id="video came with one"),
        pytest.param([BOTH, video(0, True), BOTH, audio(5)], 1, id="same leading track announced again"),
        pytest.param([BOTH, video(0, True), ONLY_AUDIO, audio(5)], 3, id="video went away"),
    ],
)
def test_where_a_viewer_joins(events: list[Event], join: int) -> None:
    assert ring_of(*events).join_seq() == join


def test_the_keyframe_that_a_takeover_starts_from() -> None:
    ring = ring_of(BOTH, video(100, True), video(150), video(200, True), audio(210), video(250), video(300, True))
    assert ring.keyframe_at_or_before(99) is None
    assert ring.keyframe_at_or_before(100) == 1
    assert ring.keyframe_at_or_before(299) == 3
    assert ring.keyframe_at_or_before(10_000) == 6


def test_an_evicted_keyframe_is_not_found() -> None:
    ring = ring_of(BOTH, video(100, True), *(video(101 + n) for n in range(20)), max_bytes=1000)
    assert ring.first_seq > 1
    assert ring.keyframe_at_or_before(200) is None
    assert ring.join_seq() == ring.first_seq


def test_what_nobody_needs_is_let_go() -> None:
    ring = ring_of(BOTH, *(video(n, key=n % 5 == 0) for n in range(20)))
    assert (ring.start_seq(4), ring.start_seq(5), ring.start_seq(20)) == (16, 11, None)
    ring.let_go(11)
    ring.validate()
    assert (ring.first_seq, ring.next_seq, ring.bytes) == (11, 21, 10 * (10 + ITEM_OVERHEAD_BYTES))
    assert ring.keyframe_at_or_before(9) is None
    assert ring.keyframe_at_or_before(14) == 11
    assert ring.tracks_at(11) == BOTH
    ring.let_go(5)
    assert ring.first_seq == 11
    ring.let_go(100)
    assert len(ring) == 1


def test_chunks_are_joined_at_a_random_access_point() -> None:
    ring = ChunkRing(ROOM)
    assert ring.append(Chunk(b"a")) == 0
    assert ring.join_seq() == 0
    for chunk in (Chunk(b"b", True), Chunk(b"c"), Chunk(b"d", True), Chunk(b"e")):
        ring.append(chunk)
    assert ring.join_seq() == 3
    assert ring.read(ring.join_seq()) == ([Chunk(b"d", True), Chunk(b"e")], 5)


def test_how_far_behind_a_reader_of_chunks_is() -> None:
    ring = ChunkRing(3 * (10 + ITEM_OVERHEAD_BYTES))
    assert (ring.bytes_since(0), ring.ticks_since(0)) == (0, 0)
    for n in range(5):
        ring.append(Chunk(bytes(6 + n), dts_ticks=100 * n * n))
    assert [ring.bytes_since(seq) for seq in range(6)] == [27, 27, 27, 19, 10, 0]
    assert [ring.ticks_since(seq) for seq in range(6)] == [1200, 1200, 1200, 700, 0, 0]


@pytest.mark.parametrize(("most", "held"), [(0, 3), (8, 8), (100, 20)])
def test_heavy_chunks_are_held_by_their_time_within_the_cap(most: int, held: int) -> None:
    """A group of pictures that is larger than the usual cap is there for who joins."""
    each = 100 + ITEM_OVERHEAD_BYTES
    ring = ChunkRing(3 * each, 20_000, most * each)
    for n in range(50):
        ring.append(Chunk(bytes(100), dts_ticks=1000 * n))
        ring.validate()
    assert len(ring) == held


def test_chunks_are_evicted() -> None:
    ring = ChunkRing(3 * (100 + ITEM_OVERHEAD_BYTES))
    ring.append(Chunk(bytes(100), True))
    for _ in range(5):
        ring.append(Chunk(bytes(100)))
    ring.validate()
    assert ring.join_seq() == ring.first_seq == 3


events_of_a_stream = st.lists(
    st.one_of(
        st.builds(
            Sample,
            st.sampled_from([VIDEO, AUDIO]),
            st.integers(0, 500),
            st.just(0),
            st.binary(max_size=40),
            st.booleans(),
        ),
        st.sampled_from([BOTH, ONLY_AUDIO]),
    ),
    max_size=200,
)


@given(
    events=events_of_a_stream,
    max_bytes=st.integers(1, 4000),
    asked=st.integers(0, 500),
    needed=st.none() | st.integers(0, 40),
)
def test_what_is_held_is_the_end_of_what_was_appended(
    events: list[Event], max_bytes: int, asked: int, needed: int | None
) -> None:
    """`needed`: so many of the newest events are, and the others let go."""
    ring = Ring(max_bytes)
    in_force: list[Tracks | None] = []
    for event in events:
        ring.append(event)
        in_force.append(event if isinstance(event, Tracks) else in_force[-1] if in_force else None)
        if needed is not None:
            ring.let_go(ring.next_seq - needed)
            assert len(ring) <= max(needed, 1)
        ring.validate()
        assert ring.keyframe_at_or_before(asked) is None or ring.keyframe_at_or_before(asked) >= ring.first_seq
    assert ring.next_seq == len(events)
    assert ring.read(ring.first_seq, max_items=1000) == (events[ring.first_seq :], len(events))
    assert [ring.tracks_at(seq) for seq in range(ring.first_seq, len(events))] == in_force[ring.first_seq :]


def test_many_appends_and_evictions_stay_consistent() -> None:
    ring = Ring(50 * (10 + ITEM_OVERHEAD_BYTES))
    ring.append(BOTH)
    for pts in range(5000):
        ring.append(video(pts, key=pts % 3 == 0))
        if pts % 97 == 0:
            ring.validate()
    ring.validate()
    seq = ring.keyframe_at_or_before(4990)
    assert seq is not None
    (event,), _ = ring.read(seq, max_items=1)
    assert isinstance(event, Sample)
    assert event.pts_ticks == 4989


def test_what_is_too_old_is_evicted_whatever_the_bytes() -> None:
    ring = Ring(ROOM, max_ticks=3600 * 4)
    ring.append(BOTH)
    for n in range(10):
        ring.append(video(3600 * n, key=n % 3 == 0))
        ring.validate()
    held, _ = ring.read(ring.first_seq)
    assert [s.pts_ticks // 3600 for s in held if isinstance(s, Sample)] == [5, 6, 7, 8, 9]
    assert ring.tracks_at(ring.first_seq) == BOTH
    assert ring.newest_ticks == 9 * 3600


def test_a_reader_whose_place_was_evicted_goes_on_at_a_keyframe_that_stays_for_a_while() -> None:
    ring = ring_of(BOTH, *(video(n, key=n % 5 == 0) for n in range(40)))
    assert ring.resume_seq() == 11  # the keyframe of PTS 10, behind the first quarter
    assert ring.ticks_at(11) == 10
    assert ring.ticks_at(0) == 0
    assert ring.ticks_at(ring.next_seq) == 39
    early = ring_of(BOTH, video(0, key=True), *(video(n) for n in range(1, 40)))
    assert early.resume_seq() == early.join_seq() == 1
