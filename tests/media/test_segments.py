"""Cuts as files: what is in each, the initialization segment that it needs, and what players are told."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest

from tests.media.test_fmp4_mux import AUDIO, OTHER_PPS, PPS, SPS, VIDEO, frame, picture, runs
from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.mux import STYP
from tvarr.media.model import Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.segmenter import Segmenter
from tvarr.media.segments import INITS_KEPT, CmafPacker, Part, TsPacker

SECOND = 90_000
BOTH = Tracks((VIDEO, AUDIO))


def pictures(start: int, end: int, *, pps: bytes = PPS) -> list[Sample]:
    """25 a second, a keyframe every two seconds; from second to second."""
    return [picture(n * 3600, key=n % 50 == 0, sets=(SPS, pps)) for n in range(start * 25, end * 25)]


def sounds(start: int, end: int) -> list[Sample]:
    return [frame(ticks) for ticks in range(start * SECOND, end * SECOND, 2090)]


def mixed(*lists: list[Sample]) -> list[Sample]:
    return sorted((sample for one in lists for sample in one), key=lambda s: s.dts_ticks)


def packed(packer: TsPacker | CmafPacker, events: Iterable[Event]) -> list[tuple[dict[str, Part], bool]]:
    """As a segmented output makes them."""

    def configuration(track: Track, data: bytes) -> bytes | None:
        entry = entries.describe(track, data, in_band=False)
        return entry.key if entry is not None else None

    segmenter = Segmenter(configuration if isinstance(packer, CmafPacker) else None)
    return [packer.pack(cut) for cut in [*segmenter.push(events), *segmenter.end()]]


def test_cmaf_files_adjoin_and_need_one_initialization_segment() -> None:
    packer = CmafPacker()
    made = packed(packer, [BOTH, *mixed(pictures(0, 6), sounds(0, 6))])
    assert [anew for _, anew in made] == [False] * 3
    for name, end in (("video", 6 * SECOND), ("audio1", sounds(0, 6)[-1].pts_ticks + 2090)):
        parts = [part[name] for part, _ in made]
        assert [part.init for part in parts] == [1, 1, 1]
        assert all(part.data.startswith(STYP) for part in parts)
        assert parts[0].start_ticks == 0
        assert all(one.start_ticks + one.duration_ticks == two.start_ticks for one, two in pairwise(parts))
        assert parts[-1].start_ticks + parts[-1].duration_ticks == end
        (init,) = packer.renditions[name].inits.values()
        assert init[4:8] == b"ftyp"
        assert init.count(b"trak") == 1


def test_what_players_are_told_of_cmaf() -> None:
    packer = CmafPacker()
    packed(packer, [BOTH, *mixed(pictures(0, 4), sounds(0, 4))])
    video, audio = packer.renditions["video"], packer.renditions["audio1"]
    assert (video.kind, video.codecs, video.width, video.height) == (Kind.VIDEO, "avc1.64001e", 640, 360)
    assert (video.fps, video.init) == (25.0, 1)
    assert (audio.kind, audio.codecs, audio.language) == (Kind.AUDIO, "mp4a.40.2", "deu")
    assert (audio.channels, audio.sample_rate, audio.init) == (2, 44_100, 1)


def test_another_configuration_is_another_initialization_segment_and_the_newest_are_kept() -> None:
    changes = INITS_KEPT + 3
    events = [s for n in range(changes) for s in pictures(2 * n, 2 * n + 2, pps=(PPS, OTHER_PPS)[n % 2])]
    packer = CmafPacker()
    made = packed(packer, [Tracks((VIDEO,)), *events])
    assert [part["video"].init for part, _ in made] == list(range(1, changes + 1))
    assert [anew for _, anew in made] == [False] + [True] * (changes - 1)
    inits = packer.renditions["video"].inits
    assert list(inits) == list(range(4, changes + 1))
    assert OTHER_PPS in inits[4]
    assert OTHER_PPS not in inits[5]


def test_frames_of_sound_are_kept_whatever_their_headers_say_beside_the_format() -> None:
    """The private and the home bit (13818-7, 6.2.1) may be another in some."""
    heard = [
        s._replace(data=s.data[:2] + bytes((s.data[2] | (n < 9) << 1, s.data[3] | (n < 9) << 4)) + s.data[4:])
        for n, s in enumerate(sounds(0, 4))
    ]
    made = packed(CmafPacker(), [BOTH, *mixed(pictures(0, 4), heard)])
    assert sum(len(run.payloads) for part, _ in made for run in runs(part["audio1"].data)) == len(heard)


def test_a_track_that_comes_later_is_one_more_file() -> None:
    """Where it was announced from the beginning, nothing else changes; else decoders are set up anew."""
    for before in (BOTH, Tracks((VIDEO,))):
        made = packed(CmafPacker(), [before, *pictures(0, 4), BOTH, *mixed(pictures(4, 8), sounds(4, 8))])
        assert [sorted(part) for part, _ in made] == [["video"]] * 2 + [["audio1", "video"]] * 2
        assert [anew for _, anew in made] == [False, False, before != BOTH, False]


def test_a_rate_that_a_track_states_wrongly_is_measured() -> None:
    for stated, told in ((25.0, 25.0), (25.1, 25.1), (50.0, 25.0), (0.0, 25.0)):
        packer = CmafPacker()
        packed(packer, [Tracks((Track(VIDEO.id, VIDEO.codec, fps=stated, init=VIDEO.init),)), *pictures(0, 4)])
        assert packer.renditions["video"].fps == told


@pytest.mark.parametrize(
    ("tracks", "kind", "codecs", "size"),
    [
        (BOTH, Kind.VIDEO, "avc1.64001e,mp4a.40.2", (640, 360)),
        (Tracks((AUDIO,)), Kind.AUDIO, "mp4a.40.2", (0, 0)),
        (Tracks((*BOTH.tracks, Track(9, Codec.MP2))), Kind.VIDEO, "", (640, 360)),
    ],
    ids=["both", "sound alone", "one has no name"],
)
def test_what_players_are_told_of_a_transport_stream(
    tracks: Tracks, kind: Kind, codecs: str, size: tuple[int, int]
) -> None:
    layer_2 = [Sample(9, t, t, b"\xff\xfd\xa4\x04" + bytes(572), True) for t in range(0, 4 * SECOND, 2160)]
    packer = TsPacker("test")
    made = packed(packer, [tracks, *mixed(pictures(0, 4), sounds(0, 4), layer_2)])
    assert [part["main"].init for part, _ in made] == [0] * len(made)
    told = packer.renditions["main"]
    assert (told.kind, told.codecs, (told.width, told.height)) == (kind, codecs, size)
    assert told.fps == (25.0 if size[0] else 0.0)
    assert not told.inits
