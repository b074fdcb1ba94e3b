"""HLS playlists read: examples of what stands in real ones, then anything at all."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.source import SourceFailure
from tvarr.coordinator.sources.hls.playlist import (
    Audio,
    Key,
    MediaPlaylist,
    Multivariant,
    Resource,
    is_hls,
    is_playlist,
    parse_playlist,
)

URL = "http://host/dir/list.m3u8?token=1"


def media(text: str, url: str = URL) -> MediaPlaylist:
    playlist = parse_playlist(text.encode(), url)
    assert isinstance(playlist, MediaPlaylist)
    return playlist


def offered(text: str) -> Multivariant:
    playlist = parse_playlist(text.encode(), URL)
    assert isinstance(playlist, Multivariant)
    return playlist


def test_a_live_playlist() -> None:
    playlist = media(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n"
        "#EXT-X-PROGRAM-DATE-TIME:no date\n#EXTINF:3.5,a title\na.ts\n\n## a comment\n"
        "#EXT-X-DISCONTINUITY\n#EXTINF:4\n../b.ts?x=1\n#EXT-X-GAP\n#EXTINF:4,\nhttps://other/c.ts\n"
    )
    assert (playlist.target_s, playlist.sequence, playlist.end, playlist.ended) == (4.0, 7, 10, False)
    assert [s.sequence for s in playlist.segments] == [7, 8, 9]
    assert [s.resource.url for s in playlist.segments] == [
        "http://host/dir/a.ts",
        "http://host/b.ts?x=1",
        "https://other/c.ts",
    ]
    assert [s.duration_s for s in playlist.segments] == [3.5, 4.0, 4.0]
    assert [s.discontinuity for s in playlist.segments] == [False, True, False]
    assert [s.gap for s in playlist.segments] == [False, False, True]
    assert [s.name for s in playlist.segments] == ["a.ts", "b.ts", "c.ts"]


def test_windows_line_ends_a_byte_order_mark_and_a_fraction_as_target() -> None:
    playlist = media("\ufeff#EXTM3U\r\n#EXT-X-TARGETDURATION:2.5\r\n#EXTINF:2.5,\r\na.ts\r\n#EXT-X-ENDLIST\r\n")
    assert playlist.target_s == 2.5
    assert playlist.ended
    assert playlist.segments[0].resource.url == "http://host/dir/a.ts"


def test_byte_ranges_go_on_where_the_last_one_of_the_same_file_ended() -> None:
    playlist = media(
        '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI="f.mp4",BYTERANGE="100@0"\n'
        "#EXTINF:2,\n#EXT-X-BYTERANGE:50@100\nf.mp4\n#EXTINF:2,\n#EXT-X-BYTERANGE:60\nf.mp4\n#EXTINF:2,\ng.mp4\n"
    )
    assert [s.resource.part for s in playlist.segments] == [(100, 50), (150, 60), None]
    assert {s.init for s in playlist.segments} == {Resource("http://host/dir/f.mp4", (0, 100))}
    assert len({s.name for s in playlist.segments}) == 3


def test_keys() -> None:
    playlist = media(
        '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-KEY:METHOD=AES-128,URI="k?i=1",IV=0x1F\n'
        '#EXT-X-MAP:URI="i.mp4"\n#EXTINF:2,\nb.ts\n#EXTINF:2,\nc.ts\n'
        '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="com.apple.streamingkeydelivery"\n#EXTINF:2,\nd.ts\n'
        "#EXT-X-KEY:METHOD=NONE\n#EXTINF:2,\ne.ts\n"
    )
    first = Key("AES-128", "http://host/dir/k?i=1", bytes(15) + b"\x1f")
    keys = [s.resource.key for s in playlist.segments]
    assert keys[:3] == [None, first, first]
    assert keys[3] is not None
    assert not keys[3].readable
    assert keys[4] is None
    assert playlist.segments[1].init == Resource("http://host/dir/i.mp4", None, first)
    assert first.readable


@pytest.mark.parametrize(("offset", "start_s"), [("-6.5", -6.5), ("0", 0.0), ("nan", None)])
def test_where_to_start(offset: str, start_s: float | None) -> None:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-START:TIME-OFFSET={offset},PRECISE=YES\n#EXTINF:2,\na.ts\n"
    assert media(text).start_s == start_s


MULTIVARIANT = """#EXTM3U
#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="subs",NAME="s",URI="s.m3u8"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="two",LANGUAGE="deu",AUTOSELECT=YES,URI="two.m3u8"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="one",LANGUAGE="eng",DEFAULT=YES,AUTOSELECT=YES,URI="one.m3u8"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="in",NAME="in",DEFAULT=YES
#EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=640x360,CODECS="avc1.4d401e,mp4a.40.2",AUDIO="a"
low.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=9000000,RESOLUTION=3840x2160,CODECS="dvh1.05.06,mp4a.40.2"
dolby.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=3000000,RESOLUTION=1280x720,CODECS="avc1.4d401e,mp4a.40.2",AUDIO="in"
high.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=3500000,RESOLUTION=1280x720,CODECS="avc1.4d401e,mp4a.40.2,wvtt"
higher.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=96000,CODECS="mp4a.40.2"
radio.m3u8
#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI="i.m3u8"
"""


@pytest.mark.parametrize(
    ("max_height", "max_kbps", "names"),
    [
        (0, 0, ["higher", "high", "low"]),
        (720, 3200, ["high", "low"]),
        (480, 0, ["low"]),
        (100, 0, ["low", "high", "higher"]),
    ],
)
def test_the_best_variant_within_the_caps(max_height: int, max_kbps: int, names: list[str]) -> None:
    best = offered(MULTIVARIANT).best_first(max_height, max_kbps)
    assert [v.url.rpartition("/")[2].partition(".")[0] for v in best] == names


def test_the_default_audio_rendition() -> None:
    by_name = {v.url.rpartition("/")[2]: v for v in offered(MULTIVARIANT).variants}
    assert by_name["low.m3u8"].audio[0] == Audio("http://host/dir/one.m3u8", "eng")
    assert by_name["high.m3u8"].audio[0].url == "", "it is in the variant"
    assert by_name["higher.m3u8"].audio == ()


def test_sound_alone_where_there_is_nothing_else() -> None:
    text = '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=96000,CODECS="mp4a.40.2"\nradio.m3u8\n'
    assert [v.url for v in offered(text).best_first()] == ["http://host/dir/radio.m3u8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#EXTM3U\n", "names nothing"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:x\n", "damaged"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:abc,\na.ts\n", "damaged"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-BYTERANGE:x@y\n#EXTINF:2,\na.ts\n", "byte range"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n", "file: addresses"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nrtmp://host/a\n", "rtmp: addresses"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://[::1/a\n", "not a URL"),
        ("#EXTM3U\n#EXT-X-I-FRAMES-ONLY\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n", "only keyframes"),
        (
            '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0xzz\n#EXTINF:2,\na.ts\n',
            "damaged IV",
        ),
    ],
)
def test_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(SourceFailure, match=words):
        parse_playlist(text.encode(), URL)


def test_a_file_names_files_only() -> None:
    assert media("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n", "file:///m/l.m3u8").segments[
        0
    ].resource.url == ("file:///m/a.ts")
    with pytest.raises(SourceFailure, match="http: addresses"):
        media("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://h/a.ts\n", "file:///m/l.m3u8")


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        (b"#EXTM3U\n", True),
        (b"\xef\xbb\xbf\r\n#EXTM3U", True),
        (b"#EXT", None),
        (b"", None),
        (b"\n" * 100, False),
        (b"\x47\x40", False),
        (b"<html>", False),
    ],
)
def test_a_playlist_by_its_first_bytes(head: bytes, verdict: bool | None) -> None:
    assert is_playlist(head) is verdict


def test_a_list_of_channels_is_not_hls() -> None:
    assert not is_hls(b'#EXTM3U\n#EXTINF:-1 tvg-id="x",One #EXT-X-TARGETDURATION\nhttp://h/1.m3u8\n')
    assert is_hls(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n")


_TAGS = st.sampled_from(
    [
        "#EXTM3U",
        "#EXT-X-TARGETDURATION:",
        "#EXT-X-MEDIA-SEQUENCE:",
        "#EXTINF:",
        "#EXT-X-KEY:METHOD=AES-128,URI=",
        "#EXT-X-MAP:URI=",
        "#EXT-X-BYTERANGE:",
        "#EXT-X-STREAM-INF:BANDWIDTH=",
        "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=",
        "#EXT-X-START:TIME-OFFSET=",
        "#EXT-X-DISCONTINUITY",
        "#EXT-X-ENDLIST",
        "",
    ]
)
_VALUES = st.sampled_from(
    ["2,", '"a"', "4@5", "²@²", "a.ts", "9" * 30, "9" * 5000, "-1", "1e999", "nan", "=,=", "http://[", ":", "'"]
)


@given(st.lists(st.tuples(_TAGS, _VALUES | st.text())))
def test_any_playlist_is_taken_or_refused_in_words(lines: list[tuple[str, str]]) -> None:
    body = "\n".join(tag + value for tag, value in lines).encode("utf-8", "replace")
    try:
        playlist = parse_playlist(body, URL)
    except SourceFailure:
        return
    if isinstance(playlist, MediaPlaylist):
        assert 0.5 <= playlist.target_s <= 60.0
        assert all(0.0 <= s.duration_s <= 3600.0 for s in playlist.segments)
        assert [s.sequence for s in playlist.segments] == list(range(playlist.sequence, playlist.end))


_LONG = {
    "segments": "#EXT-X-DATERANGE:ID=%d\n#EXTINF:2,\nhttp://host/%d.ts\n",
    "keys": '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x%d\n#EXTINF:2,\n%d.ts\n',
    "maps": '#EXT-X-MAP:URI="%d"\n#EXTINF:2,\n%d.ts\n',
    "variants": '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",URI="%d"\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\n%d.m3u8\n',
}


@pytest.mark.parametrize("what", _LONG)
def test_time_grows_with_the_length_only(what: str) -> None:
    def seconds(count: int) -> float:
        body = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n" + "".join(_LONG[what] % (i, i) for i in range(count))
        began = time.process_time()
        parse_playlist(body.encode(), URL)
        return time.process_time() - began

    seconds(100)
    assert seconds(8000) < 30 * seconds(800)
