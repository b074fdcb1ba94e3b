"""Windows of segments, and the texts that tell players of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from tvarr.media import playlists
from tvarr.media.model import Codec, Kind, Sample, Track, Tracks
from tvarr.media.segmenter import Cut
from tvarr.media.segments import KEPT, LISTED, Part, Rendition, TsPacker, Window

SECOND = 90_000
EPOCH_S = 1_700_000_000.0
NO_TRACKS = Tracks(())


def cut(start_s: float, length_s: float, *, independent: bool = True) -> Cut:
    start, end = round(start_s * SECOND), round((start_s + length_s) * SECOND)
    return Cut(start, end, NO_TRACKS, (), {}, independent, False)


def ts_part(one: Cut, size: int = 250_000) -> dict[str, Part]:
    return {"main": Part(bytes(size), one.start_ticks, one.end_ticks - one.start_ticks)}


def filled(lengths_s: list[float], anew: tuple[int, ...] = (), size: int = 250_000) -> Window:
    window, at = Window(100), 0.0
    for number, length in enumerate(lengths_s):
        one = cut(at, length)
        window.add(one, ts_part(one, size), number in anew)
        at += length
    return window


def media(window: Window, name: str = "main", *, suffix: str = "ts", query: str = "", ended: bool = False) -> str:
    return playlists.media_playlist(window, name, suffix, query=query, epoch_s=EPOCH_S, ended=ended)


def test_a_playlist_of_transport_stream_segments() -> None:
    assert media(filled([2.0, 2.002, 1.96], anew=(2,)), query="?key=k") == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:3\n"
        "#EXT-X-TARGETDURATION:2\n"
        "#EXT-X-MEDIA-SEQUENCE:100\n"
        "#EXT-X-DISCONTINUITY-SEQUENCE:0\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z\n"
        "#EXTINF:2.000000,\n"
        "main-100.ts?key=k\n"
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:22.000Z\n"
        "#EXTINF:2.002000,\n"
        "main-101.ts?key=k\n"
        "#EXT-X-DISCONTINUITY\n"
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:24.002Z\n"
        "#EXTINF:1.960000,\n"
        "main-102.ts?key=k\n"
    )


def test_the_window_slides_and_keeps_a_few_more() -> None:
    window = filled([2.0] * 30, anew=(5, 25))
    lines = media(window, ended=True).splitlines()
    assert "#EXT-X-MEDIA-SEQUENCE:124" in lines
    assert sum(line.startswith("#EXTINF") for line in lines) == LISTED
    assert lines[-1] == "#EXT-X-ENDLIST"
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1" in lines
    assert window.get(124 - KEPT) is not None
    assert window.get(124 - KEPT - 1) is None
    assert window.get(130) is None


def test_a_discontinuity_that_leaves_the_window_is_counted_when_its_tag_is_gone() -> None:
    window = filled([2.0] * 9, anew=(3,))
    assert media(window).count("#EXT-X-DISCONTINUITY\n") == 1
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:0\n" in media(window)
    one = cut(18, 2)
    window.add(one, ts_part(one), False)
    assert media(window).count("#EXT-X-DISCONTINUITY\n") == 0
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1\n" in media(window)


@pytest.mark.parametrize(("lengths", "listed", "target"), [([10.0] * 9, 3, 10), ([2.0] * 9, 6, 2), ([4.4] * 9, 5, 4)])
def test_long_segments_are_fewer(lengths: list[float], listed: int, target: int) -> None:
    window = filled(lengths)
    assert len(window.listed()) == listed
    assert window.target_s == target


def test_the_window_has_a_cap_in_bytes() -> None:
    window = filled([2.0] * 12, size=16 << 20)
    assert len(window.segments) == 4
    assert filled([2.0] * 12, size=60 << 20).segments[-1].number == 111


def test_a_segment_without_keyframe_is_not_called_independent() -> None:
    window = filled([2.0])
    one = cut(2, 2, independent=False)
    window.add(one, ts_part(one), False)
    assert "INDEPENDENT" not in media(window)


def renditions(window: Window | None = None) -> dict[str, Rendition]:
    return {
        "video": Rendition("video", Kind.VIDEO, "", "avc1.640028", 1920, 1080, 29.97, inits={1: b"i", 2: b"j"}, init=2),
        "audio1": Rendition(
            "audio1", Kind.AUDIO, "deu", "mp4a.40.2", channels=2, sample_rate=48_000, inits={1: b"i"}, init=1
        ),
        "audio2": Rendition("audio2", Kind.AUDIO, "", "ac-3", channels=6, sample_rate=48_000, inits={1: b"i"}, init=1),
    }


def cmaf() -> Window:
    window = Window(100)
    for number, video_init in enumerate((1, 1, 2)):
        one = cut(2 * number, 2)
        parts = {
            "video": Part(bytes(400_000), one.start_ticks, 2 * SECOND, video_init),
            "audio1": Part(bytes(30_000), one.start_ticks + 500, 2 * SECOND - 200, 1),
        }
        if number:
            parts["audio2"] = Part(bytes(100_000), one.start_ticks, 2 * SECOND, 1)
        window.add(one, parts, number == 2)
    return window


def test_a_period_begins_with_its_earliest_part() -> None:
    """Sound may begin before the first picture."""
    window, one = Window(100), cut(10, 2)
    parts = {"video": 0, "audio1": -4000, "audio2": 900}
    window.add(one, {name: Part(b"", one.start_ticks + ticks, 2 * SECOND) for name, ticks in parts.items()}, False)
    assert window.periods == {0: one.start_ticks - 4000}


def test_which_part_is_made_now() -> None:
    window = cmaf()
    assert [number for number in range(100, 106) if window.is_next("video", number=number)] == [103]
    ends = {"video": 6 * SECOND, "audio1": 6 * SECOND + 300, "audio2": 6 * SECOND}
    for name, end in ends.items():
        asked = (-SECOND, -1, 0, 1, 2 * SECOND - 1, 2 * SECOND)
        assert [ahead for ahead in asked if window.is_next(name, ticks=end + ahead)] == [0, 1, 2 * SECOND - 1]
    assert not window.is_next("audio3", ticks=6 * SECOND)
    assert not Window(100).is_next("video", ticks=0)
    assert Window(100).is_next("main", number=100)


def test_a_playlist_of_cmaf_segments_has_a_map_where_the_configuration_is_another() -> None:
    assert media(cmaf(), "video", suffix="m4s") == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:6\n"
        "#EXT-X-TARGETDURATION:2\n"
        "#EXT-X-MEDIA-SEQUENCE:100\n"
        "#EXT-X-DISCONTINUITY-SEQUENCE:0\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        '#EXT-X-MAP:URI="video-init1.mp4"\n'
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z\n"
        "#EXTINF:2.000000,\n"
        "video-100.m4s\n"
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:22.000Z\n"
        "#EXTINF:2.000000,\n"
        "video-101.m4s\n"
        "#EXT-X-DISCONTINUITY\n"
        '#EXT-X-MAP:URI="video-init2.mp4"\n'
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:24.000Z\n"
        "#EXTINF:2.000000,\n"
        "video-102.m4s\n"
    )


def test_a_track_that_was_not_there_has_a_gap() -> None:
    lines = media(cmaf(), "audio2", suffix="m4s").splitlines()
    assert lines.count("#EXT-X-GAP") == 1
    assert lines.index("#EXT-X-GAP") < lines.index("audio2-100.m4s") < lines.index('#EXT-X-MAP:URI="audio2-init1.mp4"')


def test_the_multivariant_playlist_tells_what_was_measured() -> None:
    made = renditions()
    text = playlists.multivariant(cmaf(), made, {name: f"{name}.m3u8" for name in made})
    assert text == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:6\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="deu",LANGUAGE="deu",DEFAULT=YES,AUTOSELECT=YES,'
        'CHANNELS="2",URI="audio1.m3u8"\n'
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="Audio 2",DEFAULT=NO,AUTOSELECT=YES,'
        'CHANNELS="6",URI="audio2.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1906666,CODECS="avc1.640028,mp4a.40.2,ac-3",'
        'RESOLUTION=1920x1080,FRAME-RATE=29.970,AUDIO="audio"\n'
        "video.m3u8\n"
    )


def test_a_multivariant_playlist_without_pictures_or_without_names_of_codecs() -> None:
    sound = {"audio1": renditions()["audio1"]}
    text = playlists.multivariant(cmaf(), sound, {"audio1": "audio1.m3u8"})
    assert text.splitlines()[-1] == "audio1.m3u8"
    assert text.count("audio1.m3u8") == 1
    unnamed = {"main": Rendition("main", Kind.VIDEO)}
    text = playlists.multivariant(filled([2.0]), unnamed, {"main": "main.m3u8"})
    assert "CODECS" not in text
    assert "#EXT-X-STREAM-INF:BANDWIDTH=1000000,AVERAGE-BANDWIDTH=1000000\nmain.m3u8\n" in text


NAMES = {"": "urn:mpeg:dash:schema:mpd:2011"}


def manifest(ended: bool = False) -> str:
    return playlists.manifest(
        cmaf(),
        renditions(),
        base="dash/p/t/",
        query="?key=k",
        epoch_s=EPOCH_S,
        now_s=EPOCH_S + 7,
        ended=ended,
    )


def test_a_manifest() -> None:
    root = ET.fromstring(manifest())
    assert root.attrib["type"] == "dynamic"
    assert root.attrib["availabilityStartTime"] == "2023-11-14T22:13:20.000Z"
    assert root.attrib["publishTime"] == "2023-11-14T22:13:27.000Z"
    assert root.attrib["minimumUpdatePeriod"] == "PT2S"
    assert root.attrib["timeShiftBufferDepth"] == "PT6.000000S"
    assert root.findtext("BaseURL", None, NAMES) == "dash/p/t/"
    first, second = root.findall("Period", NAMES)
    assert (first.attrib["start"], second.attrib["start"]) == ("PT0.000000S", "PT4.000000S")
    assert first.attrib["id"] != second.attrib["id"]
    video, german, _ = first.findall("AdaptationSet", NAMES)
    assert german.attrib["lang"] == "deu"
    template = video.find("Representation/SegmentTemplate", NAMES)
    assert template is not None
    assert template.attrib == {
        "timescale": "90000",
        "presentationTimeOffset": "0",
        "initialization": "video-init1.mp4?key=k",
        "media": "video-t$Time$.m4s?key=k",
    }
    assert [s.attrib for s in template.iterfind("SegmentTimeline/S", NAMES)] == [
        {"t": "0", "d": "180000"},
        {"t": "180000", "d": "180000"},
    ]
    shown = video.find("Representation", NAMES)
    assert shown is not None
    assert shown.attrib["codecs"] == "avc1.640028"
    assert shown.attrib["frameRate"] == "30000/1001"
    assert shown.attrib["bandwidth"] == "1600000"
    assert (shown.attrib["width"], shown.attrib["height"]) == ("1920", "1080")
    later = second.find("AdaptationSet/Representation/SegmentTemplate", NAMES)
    assert later is not None
    assert later.attrib["presentationTimeOffset"] == str(4 * SECOND)
    assert later.attrib["initialization"] == "video-init2.mp4?key=k"


def test_a_period_says_what_its_own_segments_are() -> None:
    shown = renditions()
    shown["video"].before[1] = Rendition("video", Kind.VIDEO, "", "avc1.64001e", 640, 360, 25.0)
    text = playlists.manifest(cmaf(), shown, base="", query="", epoch_s=EPOCH_S, now_s=EPOCH_S + 7, ended=False)
    pictures = [
        (found.attrib["codecs"], found.attrib["width"], found.attrib["height"], found.attrib["frameRate"])
        for found in ET.fromstring(text).iterfind(".//Representation[@id='video']", NAMES)
    ]
    assert pictures == [("avc1.64001e", "640", "360", "25"), ("avc1.640028", "1920", "1080", "30000/1001")]


def test_the_manifest_of_what_has_ended_is_not_asked_for_again() -> None:
    root = ET.fromstring(manifest(ended=True))
    assert "minimumUpdatePeriod" not in root.attrib
    assert root.attrib["mediaPresentationDuration"] == "PT6.000000S"


def test_each_transport_stream_segment_begins_with_its_tables() -> None:
    """Also where the first packet is no keyframe; counters go on from segment to segment."""
    tracks = Tracks((Track(0x100, Codec.MPEG2VIDEO), Track(0x101, Codec.MP2)))
    packer = TsPacker("test")
    counters = []
    for number in range(3):
        start = number * 2 * SECOND
        samples = tuple(Sample(0x101, t, t, b"\xff\xfd" + bytes(200), True) for t in range(start, start + 9000, 2160))
        made = Cut(start, start + 2 * SECOND, tracks, samples, {}, True, False)
        parts, anew = packer.pack(made)
        data = parts["main"].data
        pids = [int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF for at in range(0, len(data), 188)]
        assert pids[:2] == [0, 0x1000]
        assert not anew
        counters += [data[at + 3] & 15 for at, pid in zip(range(0, len(data), 188), pids, strict=True) if pid == 0x101]
    assert {(later - earlier) % 16 for earlier, later in pairwise(counters)} == {1}
