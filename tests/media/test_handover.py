"""Two jobs side by side: viewers change from one to the other and get every picture once."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tvarr.media.handover import MAX_HELD_BYTES, MAX_HOLD_TICKS, Handover, Phase
from tvarr.media.model import Kind, Sample
from tvarr.media.splice import Splice

PICTURE = 3600
GOP = 50  # pictures
AAC = 1920
KINDS = {1: Kind.VIDEO, 2: Kind.AUDIO}


def encode(first: int, count: int, *, b_frames: int = 0, origin: bytes = b"old") -> list[Sample]:
    """Pictures from number `first` in decode order with keyframes at multiples of GOP, and sound beside them."""
    pictures: list[Sample] = []
    delay = PICTURE * (1 + (b_frames > 1)) if b_frames else 0
    order: list[int] = []
    group: list[int] = []
    for number in range(first, first + count):
        key = number % GOP == 0 or number == first
        group.append(number)
        if key or len(group) > b_frames or (number + 1) % GOP == 0 or number + 1 == first + count:
            order += [group[-1], *group[:-1]]  # a picture, and then those shown before it
            group = []
    for at, number in enumerate(order):
        key = number % GOP == 0 or number == first
        pictures.append(Sample(1, PICTURE * number, PICTURE * (first + at) - delay, origin, key))
    start = PICTURE * first
    sound = [
        Sample(2, n * AAC, n * AAC, origin, True) for n in range(-(-start // AAC), (start + count * PICTURE) // AAC)
    ]
    return sorted([*pictures, *sound], key=lambda s: s.dts_ticks)


class Pair:
    """A handover under way, with what viewers got."""

    def __init__(self, kinds: dict[int, Kind] = KINDS, before: list[Sample] | None = None) -> None:
        self.splice = Splice()
        self.got = [out for s in before or () for out in self.splice.take(s, kinds[s.track])]
        self.handover = Handover(self.splice, kinds)

    def old(self, sample: Sample) -> None:
        self.got += self.handover.old(sample)

    def new(self, sample: Sample) -> None:
        self.got += self.handover.new(sample)

    def end(self) -> None:
        self.got += self.splice.finish()

    def pictures(self) -> list[Sample]:
        return [s for s in self.got if s.track == 1]


def assert_whole(got: list[Sample]) -> None:
    """Every picture once, decode times grow, a keyframe at each change, sound without a hole."""
    pictures = [s for s in got if s.track == 1]
    numbers = sorted(s.pts_ticks // PICTURE for s in pictures)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(a.dts_ticks < b.dts_ticks <= b.pts_ticks for a, b in pairwise(pictures))
    assert all(b.keyframe for a, b in pairwise(pictures) if a.data != b.data)
    sound = [s.pts_ticks for s in got if s.track == 2]
    assert all(b - a == AAC for a, b in pairwise(sound))


@pytest.mark.parametrize("old_b", [0, 1, 3])
@pytest.mark.parametrize("new_b", [0, 1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_every_picture_comes_once_whenever_the_successor_catches_up(old_b: int, new_b: int, seed: int) -> None:
    rng = random.Random(seed)
    begin = rng.randrange(60)
    old = encode(0, 400, b_frames=old_b)
    new = encode(begin, 400 - begin, b_frames=new_b, origin=b"new")
    started = next(i for i, s in enumerate(old) if s.track == 1 and s.pts_ticks >= PICTURE * (begin + 10))
    pair = Pair(before=old[:started])
    todo_old, todo_new = old[started:], new
    latency = rng.randrange(0, 40)  # how many samples later the successor is once it has caught up
    while todo_old:
        pair.old(todo_old.pop(0))
        for _ in range(rng.randrange(6)):
            ahead = todo_new and todo_new[0].dts_ticks <= (todo_old[0].dts_ticks if todo_old else 10**9)
            if ahead and len(todo_new) - latency > len(todo_old):
                pair.new(todo_new.pop(0))
        if pair.handover.phase is Phase.SWITCHED:
            break
    assert pair.handover.phase is Phase.SWITCHED
    for sample in todo_new:
        pair.new(sample)
    pair.end()
    assert {s.data for s in pair.pictures()} == {b"old", b"new"}
    assert sum(a.data != b.data for a, b in pairwise(pair.pictures())) == 1
    assert pair.pictures()[-1].pts_ticks // PICTURE >= 395
    assert_whole(pair.got)
    assert pair.splice.missing == 0


def test_a_successor_that_is_a_little_later_is_waited_for_once() -> None:
    old = [s for s in encode(0, 200) if s.track == 1]
    new = [s for s in encode(0, 200, origin=b"new") if s.track == 1]
    pair = Pair({1: Kind.VIDEO}, before=old[:30])
    later = 10  # pictures
    for at in range(30, 130):
        pair.old(old[at])
        pair.new(new[at - later])
    assert pair.handover.phase is Phase.SWITCHED
    assert [s.data for s in pair.pictures()[:100]] == [b"old"] * 100
    assert {s.data for s in pair.pictures()[100:]} == {b"new"}
    assert_whole(pair.got)


def test_one_that_never_meets_is_given_up_and_nothing_is_lost() -> None:
    old = [s for s in encode(0, 600) if s.track == 1]
    pair = Pair({1: Kind.VIDEO}, before=old[:30])
    held = 0
    for at in range(30, 600):
        before = len(pair.got)
        pair.old(old[at])
        held += len(pair.got) == before
        if at % GOP == 5:
            pair.new(Sample(1, PICTURE * (at - 10), PICTURE * (at - 10), b"new", keyframe=True))
    assert pair.handover.phase is Phase.FAILED
    assert 0 < held <= 3 * (MAX_HOLD_TICKS // PICTURE + 1)
    assert pair.got == old


def test_one_that_was_close_once_is_waited_for_once() -> None:
    old = [s for s in encode(0, 200) if s.track == 1]
    pair = Pair({1: Kind.VIDEO}, before=old[:60])
    pair.new(Sample(1, PICTURE * 50, PICTURE * 50, b"new", keyframe=True))
    waits = []
    for sample in old[60:]:
        before = len(pair.got)
        pair.old(sample)
        if len(pair.got) == before:
            waits.append(sample.pts_ticks // PICTURE)
    assert waits == list(range(100, 100 + MAX_HOLD_TICKS // PICTURE + 1))
    assert pair.handover.phase is Phase.RUNNING
    assert pair.got == old


def test_nobody_waits_before_the_keyframe_where_the_successor_stands() -> None:
    old = [s._replace(keyframe=s.pts_ticks // PICTURE in (0, 50, 75, 100)) for s in encode(0, 120) if s.track == 1]
    pair = Pair({1: Kind.VIDEO}, before=old[:55])
    for at in (50, 100):  # a little late, then in time
        pair.new(Sample(1, PICTURE * at, PICTURE * at, b"new", keyframe=True))
    for sample in old[55:100]:
        pair.old(sample)
    assert pair.got == old[:100]
    pair.old(old[100])
    assert pair.handover.phase is Phase.SWITCHED
    assert_whole(pair.got)


def test_groups_that_lie_elsewhere_are_no_place_to_change() -> None:
    """The old job's pictures around the successor's keyframe are P B B: it is left at its own next keyframe."""
    old = [s for s in encode(25, 175, b_frames=2) if s.track == 1]
    old = [s._replace(dts_ticks=s.dts_ticks + PICTURE, keyframe=s.pts_ticks // PICTURE in (25, 150)) for s in old]
    large = bytes(MAX_HELD_BYTES // 30)  # what was kept for the first try is not counted in the second one
    new = [s for s in encode(0, 200, origin=large) if s.track == 1]
    started = next(at for at, s in enumerate(old) if s.pts_ticks > 80 * PICTURE)
    pair = Pair({1: Kind.VIDEO}, before=old[:started])
    todo = new[100:]
    for sample in old[started:]:
        pair.old(sample)
        while todo and todo[0].pts_ticks <= sample.dts_ticks + 20 * PICTURE:
            pair.new(todo.pop(0))
    pair.end()
    assert pair.handover.phase is Phase.SWITCHED
    assert_whole(pair.got)
    assert pair.splice.missing == 0
    assert next(s.pts_ticks // PICTURE for s in pair.pictures() if s.data is large) == 150


def test_giving_up_lets_go_of_what_was_held_back() -> None:
    old = [s for s in encode(0, 120) if s.track == 1]
    pair = Pair({1: Kind.VIDEO}, before=old[:40])
    for sample in old[40:60]:
        pair.old(sample)
    pair.new(Sample(1, PICTURE * 50, PICTURE * 50, b"new", keyframe=True))
    for sample in old[60:110]:
        pair.old(sample)
    assert len(pair.got) == 100  # held at the keyframe
    pair.got += pair.handover.give_up()
    for sample in old[110:]:
        pair.old(sample)
        pair.new(sample)
    assert pair.got == old


def test_sound_alone_changes_as_soon_as_the_successor_has_what_comes_next() -> None:
    old = [s for s in encode(0, 100) if s.track == 2]
    new = [s for s in encode(20, 80, origin=b"new") if s.track == 2]
    pair = Pair({2: Kind.AUDIO}, before=old[:60])
    for sample in new:
        pair.new(sample)
    assert pair.handover.phase is Phase.SWITCHED
    pair.old(old[60])
    assert all(b.pts_ticks - a.pts_ticks == AAC for a, b in pairwise(pair.got))
    assert [s.data for s in pair.got] == [b"old"] * 60 + [b"new"] * (len(pair.got) - 60)
    assert pair.got[-1].pts_ticks == new[-1].pts_ticks


@pytest.mark.parametrize("heard", [False, True])
def test_of_a_successor_only_so_much_is_kept_and_no_sound_that_viewers_have(heard: bool) -> None:
    pair = Pair()
    sound = [s for s in encode(0, 20) if s.track == 2]
    for at, sample in enumerate(sound):
        if heard and at:
            pair.old(sound[at - 1])
        pair.new(sample._replace(data=bytes(MAX_HELD_BYTES // 4)))
    assert pair.handover.phase is (Phase.RUNNING if heard else Phase.FAILED)
    assert pair.got == (sound[:-1] if heard else [])
