"""Examples first, then the properties that must hold for any input."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.interleave import MAX_LAG_TICKS, Interleaver
from tvarr.media.model import Sample
from tvarr.media.ring import ITEM_OVERHEAD_BYTES

VIDEO, AUDIO, COPIED, OTHER = 1, 2, 3, 4


def at(track: int, dts: int, size: int = 0) -> Sample:
    return Sample(track, dts, dts, bytes(size))


def test_copied_samples_wait_for_the_transcoded_ones() -> None:
    merger = Interleaver(pacing=[VIDEO])
    assert merger.push(at(COPIED, 10)) == []
    assert merger.push(at(OTHER, 5)) == []
    assert merger.push(at(COPIED, 30)) == []
    assert merger.push(at(VIDEO, 20)) == [at(OTHER, 5), at(COPIED, 10), at(VIDEO, 20)]
    assert merger.push(at(COPIED, 15)) == [at(COPIED, 15)], "late: it has nothing to wait for"
    assert merger.push(at(VIDEO, 30)) == [at(COPIED, 30), at(VIDEO, 30)]


def test_the_hindmost_transcoded_track_decides() -> None:
    merger = Interleaver(pacing=[VIDEO, AUDIO])
    merger.push(at(COPIED, 10))
    assert merger.push(at(VIDEO, 20)) == [at(COPIED, 10), at(VIDEO, 20)], "unheard tracks count from the first DTS"
    merger.push(at(COPIED, 30))
    assert merger.push(at(VIDEO, 40)) == [at(VIDEO, 40)]
    assert merger.push(at(AUDIO, 35)) == [at(COPIED, 30), at(AUDIO, 35)]


def test_a_track_that_ended_or_never_came_is_not_waited_for() -> None:
    merger = Interleaver(pacing=[VIDEO, AUDIO])
    assert merger.push(at(VIDEO, 0)) == [at(VIDEO, 0)]
    merger.push(at(COPIED, 500))
    assert merger.push(at(VIDEO, MAX_LAG_TICKS)) == [at(VIDEO, MAX_LAG_TICKS)]
    late = at(VIDEO, MAX_LAG_TICKS + 1)
    assert merger.push(late) == [at(COPIED, 500), late]


def test_without_transcoded_tracks_everything_passes() -> None:
    merger = Interleaver()
    assert merger.push(at(COPIED, 7)) == [at(COPIED, 7)]


def test_other_tracks_set_samples_free() -> None:
    merger = Interleaver(pacing=[VIDEO, AUDIO])
    merger.push(at(VIDEO, 100))
    merger.push(at(AUDIO, 10))
    merger.push(at(COPIED, 50))
    assert merger.set_tracks([VIDEO]) == [at(COPIED, 50)]
    merger.push(at(COPIED, 500))
    assert merger.set_tracks([]) == [at(COPIED, 500)]


def test_a_new_transcoded_track_counts_from_where_the_hindmost_is() -> None:
    merger = Interleaver(pacing=[VIDEO, AUDIO])
    merger.push(at(VIDEO, 100))
    merger.push(at(AUDIO, 10))
    assert merger.set_tracks([VIDEO, AUDIO, OTHER]) == []
    merger.push(at(AUDIO, 100))
    assert merger.push(at(COPIED, 50)) == []
    assert merger.push(at(OTHER, 60)) == [at(COPIED, 50), at(OTHER, 60)]


def test_the_cap_lets_the_oldest_go_first_and_counts_them() -> None:
    merger = Interleaver(pacing=[VIDEO], max_bytes=2 * (100 + ITEM_OVERHEAD_BYTES))
    assert merger.push(at(COPIED, 1, 100)) == []
    assert merger.push(at(COPIED, 2, 100)) == []
    assert merger.push(at(COPIED, 3, 100)) == [at(COPIED, 1, 100)]
    assert merger.overflowed == 1
    assert merger.flush() == [at(COPIED, 2, 100), at(COPIED, 3, 100)]
    assert merger.held_bytes == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([VIDEO, AUDIO, COPIED, OTHER]), st.integers(1, 9000), st.integers(0, 300))
    ),
    max_bytes=st.integers(300, 5000),
)
def test_nothing_is_lost_and_tracks_keep_their_order(steps: list[tuple[int, int, int]], max_bytes: int) -> None:
    merger, clocks = Interleaver(pacing=[VIDEO, AUDIO], max_bytes=max_bytes), dict.fromkeys((1, 2, 3, 4), 0)
    pushed: list[Sample] = []
    left: list[Sample] = []
    for track, step, size in steps:
        clocks[track] += step
        pushed.append(at(track, clocks[track], size))
        left += merger.push(pushed[-1])
        assert merger.held_bytes <= max_bytes
    left += merger.flush()
    for track in clocks:
        assert [s for s in left if s.track == track] == [s for s in pushed if s.track == track]
    assert merger.held_bytes == 0


@given(
    copied=st.lists(st.integers(1, 3600), min_size=1),
    video=st.lists(st.integers(1, 3600), min_size=1),
    delay=st.integers(0, 40),
)
def test_early_copied_samples_leave_in_dts_order(copied: list[int], video: list[int], delay: int) -> None:
    def track_of(track: int, steps: list[int]) -> list[Sample]:
        return [at(track, sum(steps[: n + 1])) for n in range(len(steps))]

    early, late = track_of(COPIED, copied), track_of(VIDEO, video)
    end = max(early[-1].dts_ticks, late[-1].dts_ticks)
    merger = Interleaver(pacing=[VIDEO])
    arrivals = sorted([(s.dts_ticks, s) for s in early] + [(s.dts_ticks + delay * 3600, s) for s in late])
    left = [s for _, sample in arrivals for s in merger.push(sample)]
    left += merger.push(at(VIDEO, end + 1)) + merger.flush()
    assert [s.dts_ticks for s in left] == sorted(s.dts_ticks for s in left)
