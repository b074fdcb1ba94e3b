"""Which segment comes next: examples with a clock of their own."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.hls.playlist import MediaPlaylist, Resource, Segment
from tvarr.coordinator.sources.hls.window import Bookmark, Window


def playlist(
    first: int, count: int, *, ended: bool = False, name: str = "s", start_s: float | None = None
) -> MediaPlaylist:
    """Segments of 4 s, of which none is longer than 4 s."""
    segments = tuple(Segment(n, 4.0, Resource(f"http://h/{name}{n}.ts?q={n * 7}")) for n in range(first, first + count))
    return MediaPlaylist(4.0, segments, first, ended, start_s)


def taken(window: Window, now: float = 0.0) -> list[int]:
    """All that is there now."""
    numbers = []
    while (segment := window.take(now)) is not None:
        window.took()
        numbers.append(segment.sequence)
    return numbers


def begun(*playlists: MediaPlaylist, **how: object) -> Window:
    window = Window(**how)  # type: ignore[arg-type]
    for each in playlists:
        window.update(each, 0.0)
    return window


@pytest.mark.parametrize(
    ("first", "numbers"),
    [
        pytest.param(playlist(10, 6), [13, 14, 15], id="live: three target durations before the end"),
        pytest.param(playlist(10, 2), [10, 11], id="live, and short"),
        pytest.param(playlist(0, 6, ended=True), [0, 1, 2, 3, 4, 5], id="what has ended: from its begin"),
        pytest.param(playlist(10, 6, start_s=-5.0), [14, 15], id="EXT-X-START, from the end"),
        pytest.param(playlist(10, 6, start_s=9.0), [12, 13, 14, 15], id="EXT-X-START, from the begin"),
        pytest.param(playlist(0, 6, ended=True, start_s=99.0), [], id="EXT-X-START behind the end"),
        pytest.param(playlist(10, 6, start_s=99.0), [15], id="EXT-X-START behind the end of a live one"),
        pytest.param(playlist(10, 6, start_s=-99.0), [10, 11, 12, 13, 14, 15], id="EXT-X-START before the begin"),
        pytest.param(playlist(10, 0), [], id="nothing yet"),
    ],
)
def test_where_it_begins(first: MediaPlaylist, numbers: list[int]) -> None:
    window = begun(first)
    assert taken(window) == numbers
    assert window.ended is first.ended


def test_it_goes_on_with_what_is_new() -> None:
    window = begun(playlist(10, 6))
    assert taken(window) == [13, 14, 15]
    window.update(playlist(12, 6), 4.0)
    assert taken(window) == [16, 17]
    window.update(replace(playlist(12, 6), ended=True), 8.0)
    assert window.ended
    assert (window.restarts, window.skipped) == (0, 0)


def test_what_is_gone_before_its_turn_is_skipped() -> None:
    window = begun(playlist(10, 6))
    assert taken(window) == [13, 14, 15]
    window.update(playlist(30, 6), 60.0)
    assert taken(window) == [33, 34, 35]
    assert window.skipped == 17


def test_another_rendition_begins_as_far_from_the_end() -> None:
    main = begun(playlist(10, 6, start_s=-9.0))
    assert taken(main) == [13, 14, 15]
    assert taken(begun(playlist(100, 5), beside=main)) == [102, 103, 104]
    assert taken(begun(playlist(100, 2), beside=main)) == [100, 101]


def test_another_rendition_begins_as_far_from_the_begin_of_what_has_ended() -> None:
    assert taken(begun(playlist(0, 9, ended=True), beside=begun(playlist(50, 6, ended=True)))) == list(range(9))
    main = begun(playlist(50, 6, ended=True), bookmark=Bookmark(51, "s51.ts"))
    assert taken(begun(playlist(0, 5, ended=True), beside=main)) == [2, 3, 4]


def test_a_restarted_packager_is_begun_anew() -> None:
    window = begun(playlist(100, 6))
    taken(window)
    window.update(playlist(0, 4), 4.0)
    segment = window.take(4.0)
    assert segment is not None
    assert segment.sequence == 1
    assert window.took(), "it does not continue what came before"
    assert taken(window) == [2, 3]
    assert window.restarts == 1


def test_an_old_copy_is_left() -> None:
    window = begun(playlist(10, 6), playlist(12, 6))
    assert taken(window) == [13, 14, 15, 16, 17]
    window.update(playlist(11, 6), 4.0)
    assert taken(window) == []
    window.update(playlist(13, 6), 8.0)
    assert taken(window) == [18]
    assert window.restarts == 0


def test_it_is_asked_again_after_the_target_or_half_of_it() -> None:
    window = begun(playlist(10, 6))
    assert window.reload_at == 4.0
    window.update(playlist(10, 6), 4.0)
    assert window.reload_at == 6.0, "unchanged"
    window.update(playlist(11, 6), 6.0)
    assert window.reload_at == 10.0
    window.unchanged(10.0)
    assert window.reload_at == 12.0, "it could not be had"


def test_patience() -> None:
    window = begun(playlist(10, 6))
    assert window.gives_up_at(10.0) == inf, "there is something"
    taken(window, 5.0)
    assert window.gives_up_at(10.0) == 5.0 + 12.0, "three target durations"
    assert window.gives_up_at(20.0) == 5.0 + 20.0
    window.take(9.0)
    assert window.gives_up_at(10.0) == 5.0 + 12.0
    window.update(playlist(11, 6), 9.0)
    window.take(9.0)
    assert window.gives_up_at(10.0) == inf


@pytest.mark.parametrize(
    ("bookmark", "numbers"),
    [
        (Bookmark(11, "s11.ts"), [12, 13, 14, 15]),
        (Bookmark(15, "s15.ts"), []),
        (Bookmark(11, "other11.ts"), [13, 14, 15]),
        (Bookmark(5, "s5.ts"), [13, 14, 15]),
    ],
)
def test_it_goes_on_at_a_bookmark(bookmark: Bookmark, numbers: list[int]) -> None:
    assert taken(begun(playlist(10, 6), bookmark=bookmark)) == numbers


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8), st.booleans(), st.sampled_from("ab"))))
def test_any_playlists_one_after_another(steps: list[tuple[int, int, bool, str]]) -> None:
    window = Window()
    restarts, newest = 0, -1
    for now, (first, count, ended, name) in enumerate(steps):
        window.update(playlist(first, count, ended=ended, name=name), float(now))
        if window.restarts > restarts:
            restarts, newest = window.restarts, -1
        numbers = taken(window, float(now))
        assert all(number > newest for number in numbers), "none comes twice"
        newest = max([newest, *numbers])
        assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
        assert now < window.reload_at <= now + 4.0
