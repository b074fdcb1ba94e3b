"""Which sound tracks of a source are taken."""

from __future__ import annotations

import pytest

from tvarr.coordinator.sources.choose import AudioChoice
from tvarr.coordinator.sources.hls.playlist import Audio, Variant
from tvarr.coordinator.sources.hls.source import MAX_AUDIO, chosen_audio
from tvarr.coordinator.sources.languages import canonical
from tvarr.media.model import Codec, Track, Tracks


def offered(*languages: str, scrambled: str = "") -> Tracks:
    """Video, a track of sound for each language, and subtitles between them."""
    sound = [Track(2 + n, Codec.AAC, name, scrambled=name == scrambled) for n, name in enumerate(languages)]
    subtitles = Track(99, Codec.DVB_SUBTITLE, "deu")
    return Tracks((Track(1, Codec.H264), *sound[:1], subtitles, *sound[1:]), 7)


@pytest.mark.parametrize(
    ("wanted", "there", "taken"),
    [
        ([], ["deu", "eng"], ["deu", "eng"]),
        (["eng"], ["deu", "eng"], ["eng"]),
        (["eng", "deu"], ["deu", "fra", "eng"], ["eng", "deu"]),
        (["de"], ["ger", "deu", "eng"], ["ger", "deu"]),
        (["fre"], ["fra"], ["fra"]),
        (["eng"], ["deu", "und", ""], ["deu", "und", ""]),
        (["eng"], [], []),
        (["eng", "en"], ["eng"], ["eng"]),
    ],
)
def test_sound_by_language(wanted: list[str], there: list[str], taken: list[str]) -> None:
    choice, tracks = AudioChoice(wanted), offered(*there)
    got = choice.of(tracks)
    assert [t.language for t in got.tracks if t.codec is Codec.AAC] == taken
    assert [t.id for t in got.tracks if t.codec is not Codec.AAC] == [1, 99]
    assert got.program == 7
    assert choice.left_out == {t.id for t in tracks.tracks} - {t.id for t in got.tracks}


def test_a_wanted_track_that_cannot_be_read_does_not_bring_silence() -> None:
    choice, tracks = AudioChoice(["eng"]), offered("eng", "deu", scrambled="eng")
    assert choice.of(tracks) == tracks
    assert choice.left_out == frozenset()


def test_each_announcement_is_judged_anew() -> None:
    choice = AudioChoice(["eng"])
    choice.of(offered("deu", "eng"))
    assert choice.left_out == {2}
    choice.of(offered("deu"))
    assert choice.left_out == frozenset()


@pytest.mark.parametrize(("tag", "name"), [("de-AT", "deu"), ("GER", "deu"), ("zz", ""), ("", ""), ("qaa", "qaa")])
def test_one_name_for_a_language(tag: str, name: str) -> None:
    assert canonical(tag) == name


RENDITIONS = (Audio("http://h/de.m3u8", "de"), Audio("http://h/en.m3u8", "en"), Audio("http://h/fr.m3u8", "fr"))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ((), ["de"]),
        (("eng",), ["en"]),
        (("fre", "en"), ["fr", "en"]),
        (("fin",), ["de"]),
        (("fin", "fra", "fr"), ["fr"]),
    ],
)
def test_renditions_of_hls(wanted: tuple[str, ...], names: list[str]) -> None:
    assert [a.language for a in chosen_audio(Variant("http://h/v.m3u8", audio=RENDITIONS), wanted)] == names


def test_a_rendition_that_is_in_the_variant_needs_no_other() -> None:
    variant = Variant("http://h/v.m3u8", audio=(Audio("", "en"), Audio("http://h/fr.m3u8", "fr")))
    assert chosen_audio(variant, ()) == chosen_audio(variant, ("en", "fr")) == []
    assert chosen_audio(variant, ("fr", "en")) == [variant.audio[1]]
    assert chosen_audio(Variant("http://h/v.m3u8"), ("en",)) == []
    many = tuple(Audio(f"http://h/{n}.m3u8", name) for n, name in enumerate(["de", "en", "fr", "it", "es", "nl"]))
    assert len(chosen_audio(Variant("http://h/v.m3u8", audio=many), ["de", "en", "fr", "it", "es", "nl"])) == MAX_AUDIO
