from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.decode_times import LOOK_AT, DecodeTimes
from tvarr.media.model import TICKS_33BIT, Sample

STEP = 3600


def pictures(*groups: int, first: int = 900_000) -> list[Sample]:
    """Groups of a picture that is shown after the n that follow it, as with n B-frames."""
    order = []
    for size in groups:
        begin = len(order)
        order += [begin + size, *range(begin, begin + size)]
    return [Sample(1, (first + n * STEP) % TICKS_33BIT, 0, b"%d" % n) for n in order]


def stamped(samples: list[Sample]) -> list[Sample]:
    times = DecodeTimes()
    return [done for sample in samples for done in times.push(sample)] + times.flush()


@pytest.mark.parametrize("count", [1, 2, LOOK_AT - 1, LOOK_AT, 60])
@pytest.mark.parametrize("bframes", [0, 1, 2, 3])
def test_times_grow_by_a_picture_and_are_never_late(count: int, bframes: int) -> None:
    sent = pictures(*[bframes] * count)
    got = stamped(sent)
    assert [s.data for s in got] == [s.data for s in sent]
    assert [s.pts_ticks for s in got] == [s.pts_ticks for s in sent]
    assert {b.dts_ticks - a.dts_ticks for a, b in pairwise(got)} <= {STEP}
    assert min(s.pts_ticks - s.dts_ticks for s in got) == 0


def test_over_the_wrap_of_33_bits() -> None:
    got = stamped(pictures(*[2] * 30, first=TICKS_33BIT - 40 * STEP))
    assert {b.dts_ticks - a.dts_ticks for a, b in pairwise(got)} == {STEP}
    assert got[-1].pts_ticks > TICKS_33BIT


def test_a_jump_begins_anew_and_loses_nothing() -> None:
    sent = pictures(*[2] * 10) + pictures(*[0] * 10, first=9_000_000)
    got = stamped(sent)
    assert [(s.pts_ticks, s.data) for s in got] == [(s.pts_ticks, s.data) for s in sent]
    assert all(a.dts_ticks < b.dts_ticks for a, b in pairwise(got))


@given(st.lists(st.integers(0, 4), min_size=20, max_size=60))
def test_any_pattern_that_the_first_pictures_show(groups: list[int]) -> None:
    got = stamped(pictures(4, *groups))
    assert all(a.dts_ticks < b.dts_ticks for a, b in pairwise(got))
    assert all(s.dts_ticks <= s.pts_ticks for s in got)


@given(st.lists(st.integers(0, TICKS_33BIT - 1), max_size=60))
def test_garbage_is_never_decoded_after_it_is_shown(times: list[int]) -> None:
    got = stamped([Sample(1, pts, 0, b"") for pts in times])
    assert len(got) == len(times)
    assert all(s.dts_ticks <= s.pts_ticks for s in got)
