"""Naming what is no media, and never naming what is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.sniff import ENOUGH_BYTES, HEAD_BYTES, recognise


@pytest.mark.parametrize(
    ("head", "content_type", "what"),
    [
        (b"<!DOCTYPE html><html><head>", "text/html; charset=utf-8", "a web page (text/html)"),
        (b"\xef\xbb\xbf\r\n <HTML>", "", "a web page"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<html xmlns="">', "", "a web page"),
        (
            b"#EXTM3U\n#EXT-X-VERSION:3\n",
            "application/vnd.apple.mpegurl",
            "an HLS playlist (application/vnd.apple.mpegurl)",
        ),
        (
            b"#EXTM3U\n#EXTINF:-1,One\nhttp://x/1",
            "",
            "an M3U playlist of channels; import it as a playlist",
        ),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash">', "", "a DASH manifest"),
        (b'<?xml version="1.0"?><error/>', "text/xml", "an XML document (text/xml)"),
        (b'{"error": "no such channel"}', "application/json", "JSON text (application/json)"),
        (b"Too many connections\n", "video/mp2t", "text (video/mp2t)"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4", None),
        (b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello", "text/vtt", "subtitles (WebVTT) (text/vtt)"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "", "a Matroska or WebM file"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "", "gzip-compressed data"),
        (b"\xff\xfb\x90\x64" + bytes(40), "audio/mpeg", "plain audio (audio/mpeg)"),
        (bytes(1000), "video/mp2t", None),
        (b"", "text/html", None),
    ],
)
def test_named(head: bytes, content_type: str, what: str | None) -> None:
    assert recognise(head, content_type) == what


def packets(size: int, prefix: int, body: bytes, start: int) -> bytes:
    packet = bytes(prefix) + b"\x47" + (body * 204)[: size - prefix - 1]
    return (packet * 40)[start:][:HEAD_BYTES]


@given(
    size_prefix=st.sampled_from([(188, 0), (192, 4), (204, 0)]),
    body=st.sampled_from([b"<html>", b"{}", b"#EXTM3U #EXT-X-", b"ftyp", b"\xff", b"plain text "])
    | st.binary(min_size=1),
    start=st.integers(0, 203),
)
def test_transport_streams_are_never_taken_for_something_else(
    size_prefix: tuple[int, int], body: bytes, start: int
) -> None:
    size, prefix = size_prefix
    assert recognise(packets(size, prefix, body, start % size), "text/html") is None


@given(st.binary(max_size=ENOUGH_BYTES), st.text(max_size=100))
def test_any_bytes_are_taken(head: bytes, content_type: str) -> None:
    what = recognise(head, content_type)
    assert what is None or (what.isprintable() and len(what) < 200)


def test_real_captures_are_not_refused(media_dir: Path) -> None:
    captures = [*media_dir.glob("*.ts"), *media_dir.glob("*.m2ts")]
    assert captures
    for path in captures:
        with path.open("rb") as file:
            assert recognise(file.read(HEAD_BYTES)) is None, path.name
