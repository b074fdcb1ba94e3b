"""HLS playlists as what a client needs of them. Pure; the tags are read by the `m3u8` library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from m3u8.parser import parse as parse_tags

from tvarr.coordinator.source import SourceFailure

MAX_PLAYLIST_BYTES = 4 << 20  # a day of segments of 2 s with short names; larger ones are refused
MAX_SEGMENT_S = 3600.0
MIN_TARGET_S, MAX_TARGET_S = 0.5, 60.0  # what is said beyond is taken for this

# Handed to the library; all other tags are left out, which spares time and trouble with those that are damaged.
_TAGS_READ = (
    "EXTINF:",
    "EXT-X-BYTERANGE:",
    "EXT-X-DISCONTINUITY",
    "EXT-X-ENDLIST",
    "EXT-X-GAP",
    "EXT-X-I-FRAMES-ONLY",
    "EXT-X-KEY:",
    "EXT-X-MAP:",
    "EXT-X-MEDIA:",
    "EXT-X-MEDIA-SEQUENCE:",
    "EXT-X-START:",
    "EXT-X-STREAM-INF:",
)
_MAP_KEYS = "keys of maps"
_TARGET: Final = "#EXT-X-TARGETDURATION:"
_BOM = "\ufeff"
_IDENTITY = ("", "identity")
_PART = re.compile(r"\"?(\d{1,15})(?:@(\d{1,15}))?\"?", re.ASCII)
_MAX_SEQUENCE = 1 << 62
_PLAIN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
# Beginnings of the codec names (RFC 6381) that can be relayed.
_CODECS = ("avc", "hvc1", "hev1", "av01", "vp09", "mp4a", "mp4v", "ac-3", "ec-3", "opus", "mp2v")
_TEXT_CODECS = ("wvtt", "stpp")  # subtitles that come apart from the variant
_VIDEO_CODECS = ("avc", "hvc1", "hev1", "av01", "vp09", "dv", "mp4v", "mp2v")


@dataclass(frozen=True, slots=True)
class Key:
    """How something is encrypted (4.4.4.4)."""

    method: str  # AES-128, or one that can't be read
    url: str
    iv: bytes | None  # 16 bytes; None: made from the media sequence number
    key_format: str = ""

    @property
    def readable(self) -> bool:
        return self.method == "AES-128" and self.key_format in _IDENTITY and bool(self.url)


@dataclass(frozen=True, slots=True)
class Resource:
    """Bytes to be fetched: all of a URL, or a part."""

    url: str
    part: tuple[int, int] | None = None  # offset and length
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a media playlist."""

    sequence: int  # media sequence number
    duration_s: float
    resource: Resource
    init: Resource | None = None  # EXT-X-MAP
    discontinuity: bool = False
    gap: bool = False  # there is none

    @property
    def name(self) -> str:
        """The last part of the path: what stays the same where URLs are signed anew each time."""
        path = self.resource.url.partition("?")[0]
        return f"{path.rpartition('/')[2]}@{self.resource.part[0]}" if self.resource.part else path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """The segments of one rendition, as they are now."""

    target_s: float  # no segment is longer, rounded
    segments: tuple[Segment, ...]  # with sequence numbers that grow by one
    sequence: int  # of the first, or of the first to come
    ended: bool = False  # nothing will be added
    start_s: float | None = None  # EXT-X-START: from the beginning, or where negative from the end

    @property
    def end(self) -> int:
        """The sequence number of what will be added next."""
        return self.sequence + len(self.segments)


@dataclass(frozen=True, slots=True)
class Audio:
    """One audio rendition (4.4.6.1)."""

    url: str = ""  # empty: it is in the variant itself
    language: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One version of what a multivariant playlist offers."""

    url: str
    bandwidth_kbps: float = 0.0
    height: int = 0  # 0: not said
    has_video: bool = True  # as far as is known
    readable: bool = True  # no codec is named that isn't
    audio: tuple[Audio, ...] = ()  # the one that plays where nobody chooses first


@dataclass(frozen=True, slots=True)
class Multivariant:
    """What there is to choose from, in the playlist's order."""

    variants: tuple[Variant, ...]

    def best_first(self, max_height: int = 0, max_kbps: float = 0.0) -> list[Variant]:
        """What can be relayed and is within the caps, the largest and richest first; with nothing within, the least."""
        offered = [v for v in self.variants if v.readable] or list(self.variants)
        offered = [v for v in offered if v.has_video] or offered
        within = [
            v
            for v in offered
            if (not max_height or v.height <= max_height) and (not max_kbps or v.bandwidth_kbps <= max_kbps)
        ]
        if not within:
            return sorted(offered, key=lambda v: (v.height, v.bandwidth_kbps))
        return sorted(within, key=lambda v: (-v.height, -v.bandwidth_kbps))


def is_playlist(head: bytes) -> bool | None:
    """Whether a body that begins so is an extended M3U (4.1); None where more is needed to tell."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"#EXTM3U"):
        return True
    return None if b"#EXTM3U".startswith(text) and len(head) < 64 else False


def is_hls(body: bytes) -> bool:
    """Whether an extended M3U is one of HLS and not just a list of channels."""
    return re.search(rb"^\s*#EXT-X-(TARGETDURATION|STREAM-INF|MEDIA-SEQUENCE)", body, re.MULTILINE) is not None


def parse_playlist(body: bytes, url: str) -> MediaPlaylist | Multivariant:
    """Reads a playlist that was fetched from `url`; raises `SourceFailure` in words for what is none."""
    text = body.decode("utf-8", "replace").removeprefix(_BOM)
    try:
        return _read(parse_tags(text, custom_tags_parser=_before), url)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SourceFailure("the source's HLS playlist can't be read: it is damaged") from error


def _read(tags: Mapping[str, Any], url: str) -> MediaPlaylist | Multivariant:
    if tags["playlists"]:
        return _multivariant(tags, url)
    if tags["is_i_frames_only"]:
        raise SourceFailure("the source's HLS playlist has only keyframes, for seeking")
    if not tags["segments"] and (_TARGET not in tags or tags["is_endlist"]):
        raise SourceFailure("the source's HLS playlist names nothing that could be played")
    return _media(tags, url)


def _before(line: str, _number: int, data: dict[str, Any], state: dict[str, Any]) -> bool:
    """Sees each tag before the library does; true: it is not to read it."""
    if line.startswith(_TARGET):
        data[_TARGET] = float(line.removeprefix(_TARGET).partition(",")[0])  # the library refuses fractions
        return True
    if not line.startswith(_TAGS_READ, 1):
        return True
    if line.startswith("#EXT-X-KEY:"):
        data["keys"].clear()  # it looks each key up among all before: a key for each segment would take its time
    elif line.startswith("#EXT-X-MAP:"):
        data.setdefault(_MAP_KEYS, []).append(state.get("current_key"))
    return False


def _media(tags: Mapping[str, Any], url: str) -> MediaPlaylist:
    keys = _Keys(url)
    maps = {
        id(section): _resource(url, section["uri"], _part(section.get("byterange"), 0), keys.get(key))
        for section, key in zip(tags["segment_map"], tags.get(_MAP_KEYS, ()), strict=True)
        if section.get("uri")
    }
    segments: list[Segment] = []
    first = min(max(0, tags["media_sequence"] or 0), _MAX_SEQUENCE)
    behind: dict[str, int] = {}  # where the last part of a URL ended
    for entry in tags["segments"]:
        if not entry.get("uri"):
            continue
        target = _join(url, entry["uri"])
        part = _part(entry.get("byterange"), behind.get(target, 0))
        if part:
            behind[target] = sum(part)
        segments.append(
            Segment(
                sequence=first + len(segments),
                duration_s=_within(entry.get("duration", 0.0), 0.0, MAX_SEGMENT_S),
                resource=Resource(target, part, keys.get(entry.get("key"))),
                init=maps.get(id(entry.get("init_section"))),
                discontinuity=bool(entry.get("discontinuity")),
                gap=bool(entry.get("gap_tag")),
            )
        )
    longest_s = max((segment.duration_s for segment in segments), default=0.0)
    start_s = (tags.get("start") or {}).get("time_offset")
    return MediaPlaylist(
        target_s=_within(tags.get(_TARGET, longest_s), MIN_TARGET_S, MAX_TARGET_S),
        segments=tuple(segments),
        sequence=first,
        ended=bool(tags["is_endlist"]),
        start_s=start_s if start_s is not None and isfinite(start_s) else None,
    )


class _Keys:
    """Makes one `Key` of each tag, however many segments it is for."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._last: tuple[object, Key | None] = (None, None)

    def get(self, tag: Mapping[str, str] | None) -> Key | None:
        if self._last[0] is not tag:
            self._last = (tag, _key(tag, self._base) if tag else None)
        return self._last[1]


def _key(tag: Mapping[str, str], base: str) -> Key | None:
    method = tag.get("method", "NONE")
    if method == "NONE":
        return None
    try:
        iv = int(tag["iv"], 16).to_bytes(16, "big") if "iv" in tag else None
    except (OverflowError, ValueError) as error:
        raise SourceFailure("the source's HLS playlist has a key with a damaged IV") from error
    url = tag.get("uri", "")
    return Key(method, _join(base, url) if method == "AES-128" and url else url, iv, tag.get("keyformat", ""))


def _resource(base: str, uri: str, part: tuple[int, int] | None, key: Key | None) -> Resource:
    return Resource(_join(base, uri), part, key)


def _part(text: str | None, behind: int) -> tuple[int, int] | None:
    """A byte range, `LENGTH[@OFFSET]`; without an offset it begins where the last one ended (4.4.4.2)."""
    if not text:
        return None
    match = _PART.fullmatch(text)
    if match is None:
        raise SourceFailure("the source's HLS playlist has a damaged byte range")
    return (int(match[2]) if match[2] else behind, int(match[1]))


def _multivariant(tags: Mapping[str, Any], url: str) -> Multivariant:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for medium in tags["media"]:
        if medium.get("type") == "AUDIO":
            groups.setdefault(medium.get("group_id", ""), []).append(medium)
    audio = {group: _default_first(renditions, url) for group, renditions in groups.items()}
    return Multivariant(tuple(_variant(entry, audio, url) for entry in tags["playlists"] if entry.get("uri")))


def _variant(entry: Mapping[str, Any], audio_by_group: Mapping[str, tuple[Audio, ...]], url: str) -> Variant:
    info = entry["stream_info"]
    codecs = [name.strip().lower() for name in info.get("codecs", "").split(",") if name.strip()]
    height = re.fullmatch(r"\d{1,6}x(\d{1,6})", info.get("resolution", "").strip())
    return Variant(
        url=_join(url, entry["uri"]),
        bandwidth_kbps=info.get("bandwidth", 0) / 1000,
        height=int(height[1]) if height else 0,
        has_video=height is not None or not codecs or any(c.startswith(_VIDEO_CODECS) for c in codecs),
        readable=all(c.startswith(_CODECS + _TEXT_CODECS) for c in codecs),
        audio=audio_by_group.get(info.get("audio", ""), ()),
    )


def _default_first(renditions: Sequence[Mapping[str, str]], base: str) -> tuple[Audio, ...]:
    """In the playlist's order, behind the one that plays where nobody chose (4.4.6.1.1)."""

    def rank(rendition: Mapping[str, str]) -> int:
        return 0 if rendition.get("default") == "YES" else 1 if rendition.get("autoselect") == "YES" else 2

    first = min(renditions, key=rank)
    ordered = [first, *(rendition for rendition in renditions if rendition is not first)]
    return tuple(Audio(_join(base, r["uri"]) if r.get("uri") else "", r.get("language", "")) for r in ordered)


def _join(base: str, uri: str) -> str:
    """The absolute URL; network sources name network resources only, files only files."""
    if _PLAIN_NAME.fullmatch(uri) and "?" not in base and base.count("/") > 2:  # by far the most, and 20 times as fast
        return base[: base.rindex("/") + 1] + uri
    try:
        target = urljoin(base, uri.strip())
        scheme, base_scheme = urlsplit(target).scheme, urlsplit(base).scheme
    except ValueError as error:
        raise SourceFailure("the source's HLS playlist names something that is not a URL") from error
    if (scheme == "file") is not (base_scheme == "file") or scheme not in ("http", "https", "file"):
        raise SourceFailure(f"the source's HLS playlist names {scheme[:20] or 'no'}: addresses, which are not read")
    return target


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most) if isfinite(value) else least
