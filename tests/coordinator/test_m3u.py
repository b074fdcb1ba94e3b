"""Playlists read and written."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator import m3u
from tvarr.coordinator.m3u import Entry, decode, parse, write, write_sources
from tvarr.coordinator.models import Channel
from tvarr.errors import InvalidRequest

PLAYLIST = """\ufeff#EXTM3U url-tvg="http://h/guide.xml"
#EXTINF:-1 tvg-id="erste.de" tvg-chno="1" tvg-logo="http://h/1.png" group-title="News, Sport",Das Erste, HD
#EXTVLCOPT:http-user-agent=VLC/3.0
#EXTVLCOPT:http-referrer=http://example.org/
http://h/1.ts

#EXTINF:-1 tvg-name='Zwei' tvg-logo="logo.png",
#EXTGRP:Films
http://h/2.ts?token=x|User-Agent=Kodi%2020&Referer=http%3A%2F%2Fh%2F
#KODIPROP:inputstream=adaptive
http://h/some/three.ts
"""


def test_a_playlist_of_every_kind_of_line() -> None:
    assert parse(decode(PLAYLIST.encode())) == [
        Entry(
            line=5,
            name="Das Erste, HD",
            url="http://h/1.ts",
            tvg_id="erste.de",
            tvg_chno="1",
            logo="http://h/1.png",
            group="News, Sport",
            user_agent="VLC/3.0",
            headers={"Referer": "http://example.org/"},
        ),
        Entry(
            line=9,
            name="Zwei",
            url="http://h/2.ts?token=x",
            logo="logo.png",
            group="Films",
            user_agent="Kodi 20",
            headers={"Referer": "http://h/"},
        ),
        Entry(line=11, name="three.ts", url="http://h/some/three.ts", group="Films"),
    ]


def test_a_logo_that_is_no_web_address_is_left_out() -> None:
    first, second, _ = (entry.as_channel() for entry in parse(decode(PLAYLIST.encode())))
    assert (first["logo"], second["logo"]) == ("http://h/1.png", "")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("#EXTINF:-1,Plain", "Plain"),
        ("#EXTINF:0 ,  Spaces  ", "Spaces"),
        ("#EXTINF:-1 tvg-id=bare group-title=G,Bare", "Bare"),
        ('#EXTINF:-1 tvg-id="a,b",Comma', "Comma"),
        ('#EXTINF:-1,Name with x="y"', 'Name with x="y"'),
        ('#EXTINF:-1 tvg-name="From the attribute"', "From the attribute"),
        ("#EXTINF:", "a.ts"),
        ('#EXTINF:-1 tvg-id="open,Name', "Name"),
    ],
)
def test_names(line: str, name: str) -> None:
    assert parse(f"{line}\nhttp://h/a.ts")[0].name == name


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(end: str) -> None:
    assert [entry.line for entry in parse(f"#EXTM3U{end}{end}#EXTINF:-1,A{end}http://h/a{end}")] == [4]


def test_what_belonged_to_one_channel_is_not_left_to_the_next() -> None:
    text = "#EXTINF:-1 tvg-id=a,A\n#EXTVLCOPT:http-user-agent=X\nhttp://h/a\nhttp://h/b\n"
    assert parse(text)[1] == Entry(line=4, name="b", url="http://h/b")


def test_a_line_without_end_is_refused_and_the_rest_is_read() -> None:
    long, good = parse("http://h/" + "x" * 20_000 + "\nhttp://h/b")
    assert "more than 16384 characters" in long.error
    assert good.url == "http://h/b"


def test_a_channel_without_url_is_refused_and_the_rest_is_read() -> None:
    text = '#EXTM3U\n#EXTINF:-1,A\n#EXTINF:-1,B\nhttp://h/b\n\n#EXTINF:-1 tvg-name="C"\n#EXTGRP:G\n'
    assert parse(text) == [
        Entry(line=2, name="A", url="", error="no URL follows"),
        Entry(line=4, name="B", url="http://h/b"),
        Entry(line=6, name="C", url="", error="no URL follows"),
    ]


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m3u, "MAX_ENTRIES", 2)
    assert len(parse("#EXTINF:-1,A\nhttp://h/b\n#EXTINF:-1,C")) == 2
    for line in ("http://h/a\n", "#EXTINF:-1,A\n"):
        with pytest.raises(InvalidRequest, match="more than 2 channels"):
            parse(line * 3 + "http://h/a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no channel in it"),
        ("#EXTM3U\n", "there is no channel in it"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\na.ts", "an HLS playlist of one programme"),
        ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8", "an HLS playlist of one programme"),
        ("<!doctype html><p>not here", "not an M3U playlist"),
        ("\x00\x00\x01\xba", "not an M3U playlist"),
    ],
)
def test_what_is_no_list_of_channels(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_text_in_other_encodings(encoding: str) -> None:
    assert parse(decode("#EXTM3U\r\n#EXTINF:-1,Télé\r\nhttp://h/".encode(encoding)))[0].name == "Télé"


@pytest.mark.parametrize(
    "lines",
    [
        '#EXTHTTP:{"User-Agent": "VLC/3.0 x", "Referer": "http://h/"}\nhttp://h/a',
        "#EXTVLCOPT:http-user-agent=VLC/3.0 x\n#EXTVLCOPT:http-referrer=http://h/\nhttp://h/a",
        "#KODIPROP:inputstream.adaptive.stream_headers=user-agent=VLC%2F3.0%20x&Referer=http://h/\nhttp://h/a",
        "http://h/a|User-Agent=VLC/3.0%20x&Referer=http%3A%2F%2Fh%2F",
        "http://h/a|user-agent=VLC/3.0 x&Referer=http://h/",
        '#EXTINF:-1 user-agent="VLC/3.0 x",a\nhttp://h/a|Referer=http://h/',
        '#EXTINF:-1 http-user-agent="VLC/3.0 x",a\nhttp://h/a|Referer=http://h/',
    ],
)
def test_headers_in_every_form_that_players_use(lines: str) -> None:
    (entry,) = parse(lines)
    assert (entry.name, entry.url) == ("a", "http://h/a")
    assert (entry.user_agent, entry.headers) == ("VLC/3.0 x", {"Referer": "http://h/"})


@pytest.mark.parametrize("json", ["", "{", "[" * 5000, "[1]", '{"User-Agent": 5}', "null"])
def test_headers_that_are_damaged_are_left_out(json: str) -> None:
    assert parse(f"#EXTHTTP:{json}\nhttp://h/a")[0].headers == {}


@pytest.mark.parametrize("piece", ["a", 'a="', "a='", "a=,", "a-", "=", '" ', "#"])
def test_long_lines_take_no_longer_than_their_length(piece: str) -> None:
    """4 MB of the longest lines, each of one thing over and over: at a quadratic pace it would take minutes."""
    line = "#EXTINF:-1 " + piece * (16_000 // len(piece))
    began = time.process_time()
    with contextlib.suppress(InvalidRequest):
        parse(f"{line}\nhttp://h/a\n" * 250)
    assert time.process_time() - began < 5.0


def test_written() -> None:
    channel = Channel(
        id="1", slug="das-erste", name='Das "Erste"', url="http://h/", group="G", logo="http://h/1.png", tvg_chno="1"
    )
    assert write([channel], "http://tvarr:8080", profile="h264-low") == (
        "#EXTM3U\n"
        '#EXTINF:-1 tvg-id="das-erste" tvg-name="Das \'Erste\'" tvg-chno="1" tvg-logo="http://h/1.png"'
        ' group-title="G",Das "Erste"\n'
        "http://tvarr:8080/stream/das-erste.ts?profile=h264-low\n"
    )
    assert write([channel], "http://t", stream_format="hls").endswith("http://t/stream/das-erste/index.m3u8\n")


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=5))
def test_what_is_written_can_be_read(channels: list[tuple[str, str]]) -> None:
    made = [Channel(id=str(n), slug=f"c-{n}", name=a, group=b, url="http://h/") for n, (a, b) in enumerate(channels)]
    read = parse(write(made, "http://t"))
    assert [(e.name, e.group, e.tvg_id) for e in read] == [(c.name, c.group.replace('"', "'"), c.slug) for c in made]


header_names = st.from_regex(r"X-[A-Za-z0-9]{1,8}", fullmatch=True)
printable = st.text(st.characters(exclude_categories=("C", "Z")), max_size=30)


@given(
    names,
    names.filter(lambda text: not {"'", '"'} <= set(text)),
    printable,
    st.dictionaries(header_names, printable, max_size=32),
)
def test_sources_that_are_written_can_be_read(name: str, group: str, agent: str, headers: dict[str, str]) -> None:
    agent, headers = agent.strip('"'), {key: value for key, value in headers.items() if value}
    made = Channel(id="1", slug="c", name=name, group=group, url="http://h/", user_agent=agent, headers=headers)
    (read,) = parse(write_sources([made]))
    assert (read.name, read.group, read.user_agent, read.headers) == (name, group, agent, headers)
    assert (read.url, read.tvg_id) == ("http://h/", "")


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse(text)
