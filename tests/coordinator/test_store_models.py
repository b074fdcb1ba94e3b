"""What values channels and profiles take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.models import BUILTIN_PROFILES, ChannelCreate, ProfileCreate, parse, slug_of
from tvarr.errors import InvalidRequest


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:8080/live/1.ts",
        "https://user:pa%20ss@example.org/stream?token=x&id=1",
        "http://[2001:db8::1]:80/",
        "file:///srv/media/a.ts",
        "file:a b.ts".replace(" ", "%20"),
        "HTTP://EXAMPLE.ORG/",
        "rtsp://admin:secret@192.0.2.1/cam",
        "udp://@239.0.0.1:1234",
        "udp://:1234",
        "srt://0.0.0.0:9000?mode=listener",
        "rtmp://h/live/key",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    assert parse(ChannelCreate, {"name": "x", "url": f" {url} "}).url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "url: "),
        ("gopher://example.org/", "url: nobody reads gopher:; http, https, file and what ffmpeg reads"),
        ("javascript:alert(1)", "url: nobody reads javascript:"),
        ("concat:/etc/passwd", "url: nobody reads concat:"),
        ("pipe:0", "url: nobody reads pipe:"),
        ("crypto:http://h/", "url: nobody reads crypto:"),
        ("rtsp:///cam", "url: names no host"),
        ("udp://239.0.0.1", "url: names no port"),
        ("srt://h", "url: names no port"),
        ("/srv/a.ts", "url: has no scheme"),
        ("http://", "url: names no host"),
        ("http:///a.ts", "url: names no host"),
        ("http://h:99999/", "url: is not a URL"),
        ("http://[::1/", "url: is not a URL"),
        ("http://h/a\r\nX-Evil: 1", "url: has control characters or line breaks"),
        ("http://h/a b", "url: has white space in it"),
        ("file:", "url: names no file"),
        ("file://host/a.ts", "url: names another host"),
        ("file:a%00.ts", "url: has a NUL"),
        ("http://h/" + "x" * 5000, "url: "),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ChannelCreate, {"name": "x", "url": url})
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "  "}, "name: "),
        ({"name": "a\nb"}, "name: has control characters or line breaks"),
        ({"name": "\ud800"}, "name: "),
        ({"pace": "slow"}, "pace: "),
        ({"slug": "A b"}, "slug: takes lower-case letters"),
        ({"slug": "../x"}, "slug: takes lower-case letters"),
        ({"logo": "javascript:alert(1)"}, "logo: takes an http or https URL"),
        ({"headers": {"X\r\nY": "1"}}, "headers: "),
        ({"headers": {"X": "1\r\nY: 2"}}, "headers: X has line breaks"),
        ({"headers": {"Content-Length": "1"}}, "headers: Content-Length is tvarr's own"),
        ({"headers": {f"X-{n}": "1" for n in range(40)}}, "headers: takes at most 32"),
        ({"profile": "a b"}, "profile: "),
        ({"prfile": "h264"}, "prfile: is not a field"),
        ({"name": None, "url": None}, "name: is missing; url: is missing"),
    ],
)
def test_channels_that_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ChannelCreate, {"name": "x", "url": "http://h/", **changes})
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("data", [None, [], "x", 7, True])
def test_only_objects_are_taken(data: object) -> None:
    with pytest.raises(InvalidRequest):
        parse(ChannelCreate, data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"video_codec": "h265"}, "video_codec: "),
        ({"video_codec": "h264", "width": 641}, "width: takes 0 (as in the source) or an even number"),
        ({"video_codec": "h264", "height": 8}, "height: takes 0 (as in the source) or an even number"),
        ({"video_codec": "h264", "height": 9000}, "height: "),
        ({"video_codec": "h264", "fps": 500}, "fps: "),
        ({"video_codec": "h264", "fps": float("nan")}, "fps: "),
        ({"video_codec": "h264", "crf": 99}, "crf: "),
        ({"video_codec": "h264", "preset": "x264-params=1"}, "preset: "),
        ({"video_codec": "h264", "video_bitrate_kbps": 1}, "video_bitrate_kbps: takes 0 (not set) or at least 50"),
        ({"video_codec": "h264", "gop_s": 0}, "gop_s: "),
        ({"hw_accel": "gpu"}, "hw_accel: "),
        ({"width": 640, "crf": 20}, "width, crf: video_codec copy changes nothing"),
        ({"audio_channels": 2}, "audio_bitrate_kbps, audio_channels: audio_codec copy changes nothing"),
        ({"audio_codec": "mp3", "audio_channels": 6}, "audio_channels: mp3 takes at most 2"),
        ({"name": "../x"}, "name: "),
        ({"built": True}, "built: is not a field"),
    ],
)
def test_profiles_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ProfileCreate, {"name": "mine", **settings})
    assert str(caught.value).startswith(words)


def test_null_means_not_set() -> None:
    made = parse(ProfileCreate, {"name": "mine", "video_codec": "h264", "width": None, "crf": None, "gop_s": None})
    assert made == ProfileCreate(name="mine", video_codec="h264")


def test_built_in_profiles_keep_their_own_rules() -> None:
    for profile in BUILTIN_PROFILES.values():
        assert parse(ProfileCreate, profile.model_dump(exclude={"builtin"})).name == profile.name


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Das Erste HD", "das-erste-hd"),
        ("Télé Zürich", "tele-zurich"),
        ("A&E", "a-and-e"),
        ("Canal+", "canal-plus"),
        ("Großes Kino", "grosses-kino"),
        ("Первый канал", "pervyy-kanal"),
        ("Кино Премьера HD", "kino-premera-hd"),
        ("ΕΡΤ1", "ert1"),
        ("中央电视台-1", "zhongyangdianshitai-1"),
        ("قناة 24", "qnh-24"),
        ("हिन्दी", "hindi"),
        ("🎬 Film™", "film"),
        ("Kid's TV", "kid-s-tv"),
        ("!!!", "channel"),
    ],
)
def test_slugs(name: str, slug: str) -> None:
    assert slug_of(name) == slug


@given(st.text(max_size=200))
def test_every_slug_is_one(name: str) -> None:
    assert parse(ChannelCreate, {"name": "x", "url": "http://h/", "slug": slug_of(name)}).slug == slug_of(name)
