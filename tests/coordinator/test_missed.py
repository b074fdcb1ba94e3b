"""How many pictures a job was not given."""

from __future__ import annotations

from tvarr.coordinator.missed import Missed

PICTURE = 3600


def times(*numbers: int) -> list[int]:
    return [number * PICTURE for number in numbers]


def test_they_are_as_far_apart_as_those_that_come_next() -> None:
    missed = Missed(10 * PICTURE)
    assert missed.count([]) is None
    assert missed.count(times(31)) is None
    assert missed.count(times(32, 34)) == 20


def test_none_is_missing() -> None:
    assert Missed(10 * PICTURE).count(times(11, 12)) == 0
    assert Missed(10 * PICTURE).count(times(5, 6)) == 0


def test_more_that_are_missing_before_the_first_could_be_counted() -> None:
    missed = Missed(10 * PICTURE)
    assert missed.count(times(20)) is None
    missed.again()
    assert missed.count(times(30, 31)) == 18


def test_pictures_with_one_time_tell_nothing() -> None:
    assert Missed(0).count(times(4, 4)) is None
