"""Tracks keep their ids where a source numbers them anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.identity import NO_TRACK, Identities
from tvarr.media.model import Codec, Track, Tracks

V, A, S = Codec.H264, Codec.AAC, Codec.DVB_SUBTITLE


def tracks(*of: tuple[int, Codec, str]) -> Tracks:
    return Tracks(tuple(Track(number, codec, language) for number, codec, language in of))


@pytest.mark.parametrize(
    ("first", "then", "ids"),
    [
        pytest.param([(1, V, ""), (2, A, "")], [(11, V, ""), (12, A, "")], [1, 2], id="others"),
        pytest.param([(1, V, ""), (2, A, "")], [(2, V, ""), (1, A, "")], [1, 2], id="the other way round"),
        pytest.param([(1, V, ""), (2, A, "")], [(2, V, ""), (3, A, "")], [1, 2], id="moved by one"),
        pytest.param([(1, V, "")], [(9, Codec.HEVC, "")], [1], id="another codec"),
        pytest.param([(1, A, "eng"), (2, A, "fra")], [(8, A, "fra"), (9, A, "eng")], [2, 1], id="by language"),
        pytest.param([(1, A, "eng"), (2, A, "fra")], [(8, A, "fra")], [2], id="one has gone"),
        pytest.param([(1, A, "eng")], [(8, A, "fra")], [8], id="another language is another track"),
        pytest.param([(1, A, "")], [(8, A, "fra")], [1], id="a language that was not said before"),
        pytest.param([(1, V, ""), (2, A, "")], [(1, V, ""), (2, A, ""), (3, A, "")], [1, 2, 3], id="one more"),
        pytest.param([(1, V, ""), (2, S, "deu")], [(1, V, ""), (3, S, "deu")], [1, 2], id="subtitles"),
        pytest.param([(1, V, ""), (2, S, "")], [(1, V, ""), (3, Codec.DVB_TELETEXT, "")], [1, 3], id="not subtitles"),
        pytest.param([(1, V, ""), (2, A, "")], [(1, A, ""), (2, Codec.SCTE_35, "")], [2, 3], id="an id taken"),
    ],
)
def test_who_is_who(first: list[tuple[int, Codec, str]], then: list[tuple[int, Codec, str]], ids: list[int]) -> None:
    identities = Identities()
    assert identities.of(tracks(*first)) == tracks(*first)
    found = identities.of(tracks(*then))
    assert [track.id for track in found.tracks] == ids
    assert [identities.id_of(number) for number, _, _ in then] == ids


def test_what_comes_back_is_what_it_was() -> None:
    identities = Identities()
    first, other = tracks((1, V, ""), (2, A, "")), tracks((1, A, ""), (2, V, ""))
    for announced in (first, other, first, tracks((1, V, "")), first):
        assert {t.codec: t.id for t in identities.of(announced).tracks}[V] == 1
    assert identities.of(first) == first
    assert identities.id_of(3) == NO_TRACK


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([V, A, S]), st.sampled_from(["", "eng", "fra"]))))
)
def test_an_id_is_one_tracks_and_never_changes_its_kind(announced: list[list[tuple[int, Codec, str]]]) -> None:
    identities, kinds = Identities(), {}
    for offer in announced:
        offered = {number: (number, codec, language) for number, codec, language in offer}
        found = identities.of(tracks(*offered.values())).tracks
        assert len({track.id for track in found}) == len(offered)
        for track in found:
            assert kinds.setdefault(track.id, track.kind) is track.kind
