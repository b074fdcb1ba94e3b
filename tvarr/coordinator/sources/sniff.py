"""Telling what a source sends, and naming what can't be read. Pure."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

from tvarr.media.fmp4.boxes import HEADER_BYTES
from tvarr.media.mpegts.framing import PACKET_SIZES
from tvarr.media.mpegts.psi import SYNC_BYTE

HEAD_BYTES = 4096  # of a connection's first bytes so much is kept to look at
ENOUGH_BYTES = 1024  # so much is looked at before the connection's end

_FIRST_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pdin", b"sidx", b"emsg", b"prft")
)
_UTF8_BOM = b"\xef\xbb\xbf"

_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    # magic, its offset, what it is
    (b"\x1a\x45\xdf\xa3", 0, "a Matroska or WebM file"),
    (b"\x00\x00\x01\xba", 0, "an MPEG program stream"),
    (b"FLV", 0, "an FLV file"),
    (b"OggS", 0, "an Ogg file"),
    (b"ID3", 0, "an MP3 or AAC audio file"),
    (b"RIFF", 0, "an AVI or WAV file"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, "an ASF file"),
    (b"\x1f\x8b", 0, "gzip-compressed data"),
    (b"PK\x03\x04", 0, "a ZIP archive"),
    (b"%PDF", 0, "a PDF document"),
    (b"\xff\xd8\xff", 0, "a JPEG picture"),
    (b"\x89PNG", 0, "a PNG picture"),
    (b"GIF8", 0, "a GIF picture"),
)
_PLAIN_AUDIO = "plain audio"
_FOREIGN = (*(name for _, _, name in _MAGIC[:7]), _PLAIN_AUDIO)
_TEXTS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"#EXTM3U.*#EXT-X-", re.DOTALL), "an HLS playlist"),
    (re.compile(rb"#EXTM3U"), "an M3U playlist of channels; import it as a playlist"),
    (re.compile(rb"WEBVTT"), "subtitles (WebVTT)"),
    (re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<MPD\b", re.DOTALL), "a DASH manifest"),
    (re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype\s+html|<(html|head|body|script|title)\b)", re.I | re.S),
     "a web page"),
    (re.compile(rb"<\?xml|<[a-z]+[^<>]*>", re.IGNORECASE), "an XML document"),
    (re.compile(rb"[\[{]\s*([\"\[{\]}]|-?\d|true\b|false\b|null\b)"), "JSON text"),
)  # fmt: skip


def looks_like_ts(head: bytes) -> bool:
    """Sync bytes stand where packets of one of the three sizes have them (13818-1, 2.4.3.2; M2TS; with FEC)."""
    return any(
        all(head[i] == SYNC_BYTE for i in range(start, len(head), size))
        for size in PACKET_SIZES
        for start in range(min(size, len(head) - size))
        if head[start] == SYNC_BYTE
    )


def looks_like_mp4(head: bytes) -> bool:
    """It begins with a box that files and segments begin with (14496-12, 4.2 and 8.16), of a size that it may have."""
    size = int.from_bytes(head[:4], "big")
    return head[4:8] in _FIRST_BOXES and (size >= HEADER_BYTES or size in (0, 1))


def recognise(head: bytes, content_type: str = "") -> str | None:
    """What `head`, a source's first bytes, is if it is something known and not media: `a web page (text/html)`.

    `content_type` is only shown; servers are often wrong about it.
    """
    if not head or looks_like_ts(head) or looks_like_mp4(head):
        return None
    media_type = content_type.partition(";")[0].strip()[:60]
    what = next((name for magic, at, name in _MAGIC if head.startswith(magic, at)), None) or _text(head)
    if what is None and media_type.startswith("audio/") and head.startswith(b"\xff"):
        what = _PLAIN_AUDIO
    if what is None:
        return None
    first, semicolon, rest = what.partition(";")
    return f"{first} ({media_type}){semicolon}{rest}" if media_type.isprintable() and media_type else what


def is_foreign(what: str) -> bool:
    """Whether what was recognised is media in a container that ffmpeg reads and nothing here does."""
    return what.startswith(_FOREIGN)


def _text(head: bytes) -> str | None:
    text = head.removeprefix(_UTF8_BOM).lstrip()
    what = next((name for pattern, name in _TEXTS if pattern.match(text)), None)
    if what is None and text and all(byte >= 0x20 or byte in b"\t\r\n\x1b" for byte in text):
        try:
            getincrementaldecoder("utf-8")().decode(text)  # which takes half a character at the end
        except UnicodeDecodeError:
            return None
        return "text"
    return what
