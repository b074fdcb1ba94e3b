"""New tracks come to viewers behind all that was made of the source before them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tvarr.media.changes import PAST_TICKS, Changes
from tvarr.media.model import Codec, Event, Sample, Track, Tracks
from tvarr.media.ring import ITEM_OVERHEAD_BYTES

VIDEO, SOUND, SECOND = 1, 2, 3
PICTURE = Track(VIDEO, Codec.H264)
BOTH = Tracks((PICTURE, Track(SOUND, Codec.AAC)))
THREE = Tracks((*BOTH.tracks, Track(SECOND, Codec.MP2)))
MUTE = Tracks((PICTURE,))
OTHER = Tracks((PICTURE, Track(SOUND, Codec.AC3)))


def at(track: int, dts: int, size: int = 0) -> Sample:
    return Sample(track, dts, dts, bytes(size))


def begun(max_bytes: int = 1 << 20, tracks: Tracks = BOTH) -> Changes:
    """Pictures are transcoded, and sound is copied."""
    changes = Changes(max_bytes)
    assert list(changes.announce(tracks, (VIDEO,), seq=0, at_ticks=0, same_job=False)) == [tracks]
    return changes


def announce(changes: Changes, tracks: Tracks, seq: int, at_ticks: int, *, same_job: bool) -> list[Event]:
    return list(changes.announce(tracks, (VIDEO,), seq=seq, at_ticks=at_ticks, same_job=same_job))


def test_tracks_wait_for_copied_samples_of_one_that_goes_away() -> None:
    changes = begun()
    changes.copied(at(SOUND, 10))
    changes.copied(at(SOUND, 20))
    assert announce(changes, MUTE, 5, 20, same_job=True) == []
    assert changes.waiting
    assert list(changes.made(at(VIDEO, 10))) == [at(SOUND, 10), at(VIDEO, 10)]
    assert list(changes.made(at(VIDEO, 20))) == [at(SOUND, 20), at(VIDEO, 20), MUTE]
    assert not changes.waiting


def test_tracks_by_which_nothing_goes_away_come_at_once() -> None:
    changes = begun()
    changes.copied(at(SOUND, 10))
    assert announce(changes, THREE, 5, 10, same_job=True) == [THREE]
    changes.copied(at(SECOND, 12))
    assert list(changes.made(at(VIDEO, 15))) == [at(SOUND, 10), at(SECOND, 12), at(VIDEO, 15)]


def test_tracks_wait_for_the_end_of_the_job_before_them() -> None:
    changes = begun()
    changes.copied(at(SOUND, 10))
    assert announce(changes, OTHER, 5, 10, same_job=False) == []
    assert list(changes.copied(at(SOUND, 30))) == []
    assert list(changes.made(at(VIDEO, 9))) == [at(VIDEO, 9)]
    assert list(changes.job_ended(4)) == []
    assert list(changes.job_ended(5)) == [at(SOUND, 10), OTHER]
    assert list(changes.made(at(VIDEO, 30))) == [at(SOUND, 30), at(VIDEO, 30)]


def test_several_changes_come_one_after_the_other() -> None:
    changes = begun()
    announce(changes, OTHER, 5, 10, same_job=False)
    changes.copied(at(SOUND, 12))
    announce(changes, MUTE, 7, 12, same_job=False)
    announce(changes, BOTH, 9, 20, same_job=False)
    changes.copied(at(SOUND, 25))
    assert list(changes.job_ended(5)) == [OTHER]
    assert list(changes.job_ended(9)) == [at(SOUND, 12), MUTE, BOTH]
    assert list(changes.flush()) == [at(SOUND, 25)]


def test_output_from_well_behind_a_change_shows_that_it_is_over() -> None:
    changes = begun()
    announce(changes, OTHER, 5, 10, same_job=False)
    assert list(changes.made(at(VIDEO, 9 + PAST_TICKS))) == [at(VIDEO, 9 + PAST_TICKS)]
    assert list(changes.made(at(VIDEO, 10 + PAST_TICKS))) == [OTHER, at(VIDEO, 10 + PAST_TICKS)]


def test_where_nothing_was_transcoded_there_is_nothing_to_wait_for() -> None:
    changes = Changes(1 << 20)
    assert list(changes.announce(BOTH, (), seq=0, at_ticks=0, same_job=False)) == [BOTH]
    assert list(changes.copied(at(SOUND, 5))) == [at(SOUND, 5)]
    assert announce(changes, OTHER, 5, 10, same_job=False) == [OTHER]


def test_copied_sound_that_is_transcoded_from_there_on_goes_on_behind_its_end() -> None:
    """An encoder's first frame begins before the sound that it was given."""
    changes = begun()
    changes.copied(at(SOUND, 10))
    changes.announce(BOTH, (VIDEO, SOUND), seq=5, at_ticks=10, same_job=False)
    assert list(changes.job_ended(5)) == [at(SOUND, 10), BOTH]
    assert [list(changes.made(at(SOUND, dts))) for dts in (5, 10, 15)] == [[], [], [at(SOUND, 15)]]
    announce(changes, BOTH, 9, 20, same_job=False)
    changes.copied(at(SOUND, 12))
    changes.copied(at(SOUND, 20))
    assert list(changes.job_ended(9)) == [BOTH]
    assert list(changes.flush()) == [at(SOUND, 20)]


def test_over_the_cap_new_tracks_come_early() -> None:
    changes = begun(max_bytes=4 * (100 + ITEM_OVERHEAD_BYTES))
    changes.copied(at(SOUND, 10, 100))
    announce(changes, OTHER, 5, 10, same_job=False)
    out = [event for dts in range(20, 70, 10) for event in changes.copied(at(SOUND, dts, 100))]
    assert out[:2] == [at(SOUND, 10, 100), OTHER]
    assert list(changes.flush()) == [at(SOUND, dts, 100) for dts in range(20, 70, 10) if at(SOUND, dts, 100) not in out]


@given(
    steps=st.lists(st.tuples(st.sampled_from(["copied", "made", "same", "other", "ended"]), st.integers(1, 90_000))),
    max_bytes=st.integers(500, 3000),
)
def test_nothing_is_lost_and_nothing_overtakes_its_tracks(steps: list[tuple[str, int]], max_bytes: int) -> None:
    changes, copied_ticks, made_ticks = begun(max_bytes), 0, 0
    pushed: list[Event] = []
    left: list[Event] = []
    for seq, (what, size) in enumerate(steps, 1):
        match what:
            case "copied":
                copied_ticks += size
                pushed.append(at(SOUND, copied_ticks, size % 300))
                left += changes.copied(pushed[-1])
            case "made":
                made_ticks += size
                left += changes.made(at(VIDEO, made_ticks))
            case "ended":
                left += changes.job_ended(seq)
            case _:
                pushed.append(Tracks((PICTURE, Track(SOUND, Codec.AAC)), program=seq))
                left += announce(changes, pushed[-1], seq, copied_ticks, same_job=what == "same")
        assert changes.held_bytes <= max_bytes
    left += changes.flush()
    assert not changes.waiting
    for kind in (Sample, Tracks):
        assert [e for e in left if isinstance(e, kind) and not is_made(e)] == [e for e in pushed if isinstance(e, kind)]
    places = {id(event): place for place, event in enumerate(left)}
    announced = -1
    for event in pushed:
        announced = max(announced, places[id(event)]) if isinstance(event, Tracks) else announced
        assert places[id(event)] >= announced


def is_made(event: Event) -> bool:
    return isinstance(event, Sample) and event.track == VIDEO
