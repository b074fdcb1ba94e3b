"""Playlists of channels (extended M3U): read for import, written for players. Pure."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from tvarr.coordinator.models import Channel
from tvarr.errors import InvalidRequest

MAX_ENTRIES = 50_000
MAX_LINE_CHARS = 16_384

_ATTRIBUTE = re.compile(r"""(?<![\w-])([\w-]++)=(?:"([^"]*)"|'([^']*)'|([^\s",]*))""")
_HLS_MEDIA = ("#EXT-X-TARGETDURATION", "#EXT-X-STREAM-INF")
_KODI_HEADERS = ("#KODIPROP:inputstream.adaptive.stream_headers=", "#KODIPROP:inputstream.adaptive.manifest_headers=")
_VLC_HEADERS = {"http-referrer": "Referer", "http-referer": "Referer", "http-origin": "Origin"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One channel of a playlist, as it stands there; `line` is that of its URL, or of what has none, from 1."""

    line: int
    name: str
    url: str
    tvg_id: str = ""
    tvg_chno: str = ""
    logo: str = ""
    group: str = ""
    user_agent: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""  # why nothing can be made of it

    def as_channel(self) -> dict[str, object]:
        """As the fields of a new channel. A logo that is no web address is left out."""
        web_logo = self.logo.lower().startswith(("http://", "https://"))
        return {
            "name": self.name,
            "url": self.url,
            "tvg_id": self.tvg_id,
            "tvg_chno": self.tvg_chno,
            "logo": self.logo if web_logo else "",
            "group": self.group,
            "user_agent": self.user_agent,
            "headers": self.headers,
        }


def decode(data: bytes) -> str:
    """Text of a playlist: UTF-8 with or without a byte order mark, UTF-16 with one, else Latin-1."""
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse(text: str) -> list[Entry]:
    """The channels in order; a line that makes no sense becomes an entry with `error`.

    Understands `#EXTINF` with attributes, `#EXTGRP`, `#EXTVLCOPT` (user agent, referrer, origin), headers in
    `#EXTHTTP`, in `#KODIPROP` and behind a URL's `|`. A bare list of URLs is one as well. Raises `InvalidRequest` for
    what is no list of channels.
    """
    if any(tag in text for tag in _HLS_MEDIA):
        raise InvalidRequest(
            "this is an HLS playlist of one programme, not a list of channels; add its URL as a channel"
        )
    if text.lstrip()[:1] == "<" or "\0" in text:
        raise InvalidRequest("this is not an M3U playlist")
    entries: list[Entry] = []
    pending: dict[str, str] = {}
    headers: dict[str, str] = {}
    group = ""
    announced = 0  # the line of an `#EXTINF` whose URL has not come yet
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        line = raw.strip()
        if not line:
            continue
        if len(line) > MAX_LINE_CHARS:
            entries.append(Entry(number, "", "", error=f"the line has more than {MAX_LINE_CHARS} characters"))
            pending, headers, announced = {}, {}, 0
        elif line.startswith("#EXTINF:"):
            if announced:
                entries.append(_without_url(announced, pending))
            announced = number
            pending = {**_info(line), **({"user_agent": pending["user_agent"]} if "user_agent" in pending else {})}
        elif line.startswith("#EXTGRP:"):
            group = line.partition(":")[2].strip()
        elif line.startswith("#EXTVLCOPT:"):
            _vlc_option(line.partition(":")[2], pending, headers)
        elif line.startswith("#EXTHTTP:"):
            headers |= _json_headers(line.partition(":")[2])
        elif line.startswith(_KODI_HEADERS):
            headers |= dict(parse_qsl(line.partition("=")[2]))
        elif not line.startswith("#"):
            entries.append(_entry(number, line, {"group-title": group, **pending}, headers))
            pending, headers, announced = {}, {}, 0
        if len(entries) > MAX_ENTRIES:
            raise InvalidRequest(f"more than {MAX_ENTRIES} channels")
    if announced:
        entries.append(_without_url(announced, pending))
    if not entries:
        raise InvalidRequest("there is no channel in it")
    return entries


def _info(line: str) -> dict[str, str]:
    """Attributes of an `#EXTINF` line in lower case, and the `name` behind its comma."""
    body = line.partition(":")[2]
    values = {}
    end = 0
    for match in _ATTRIBUTE.finditer(body):
        if "," in body[end : match.start()]:
            break  # from here on it is the name
        values[match[1].lower()] = next((value for value in match.groups()[1:] if value is not None), "").strip()
        end = match.end()
    name = body[end:].partition(",")[2].strip()
    return {key: value for key, value in {**values, "name": name}.items() if value}


def _vlc_option(option: str, pending: dict[str, str], headers: dict[str, str]) -> None:
    key, _, value = option.strip().partition("=")
    key = key.strip().lower()
    value = value.strip().strip('"')
    if key == "http-user-agent":
        pending["user_agent"] = value
    elif key in _VLC_HEADERS and value:
        headers[_VLC_HEADERS[key]] = value


def _json_headers(text: str) -> dict[str, str]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}


def _without_url(number: int, info: dict[str, str]) -> Entry:
    return Entry(number, info.get("name") or info.get("tvg-name", ""), "", error="no URL follows")


def _entry(number: int, line: str, info: dict[str, str], given_headers: dict[str, str]) -> Entry:
    url, _, piped = line.partition("|")
    user_agent = info.get("user_agent") or info.get("http-user-agent") or info.get("user-agent", "")
    headers: dict[str, str] = {}
    for key, value in [*given_headers.items(), *parse_qsl(piped)]:
        if key.lower() == "user-agent":
            user_agent = value
        else:
            headers[key] = value
    last_part = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return Entry(
        line=number,
        name=info.get("name") or info.get("tvg-name") or last_part or url,
        url=url.strip(),
        tvg_id=info.get("tvg-id", ""),
        tvg_chno=info.get("tvg-chno") or info.get("channel-number", ""),
        logo=info.get("tvg-logo", ""),
        group=info.get("group-title", ""),
        user_agent=user_agent,
        headers=headers,
    )


STREAM_PATHS = {"ts": "/stream/{slug}.ts", "hls": "/stream/{slug}/index.m3u8"}


def write(
    channels: Iterable[Channel], base_url: str, *, profile: str = "", stream_format: str = "ts", key: str = ""
) -> str:
    """Every channel for a player, its streams below `base_url` (scheme and host, no slash at the end)."""
    wanted = {name: value for name, value in (("profile", profile), ("key", key)) if value}
    query = "?" + urlencode(wanted) if wanted else ""
    lines = ["#EXTM3U"]
    for channel in channels:
        path = STREAM_PATHS[stream_format].format(slug=channel.slug)
        lines += [_extinf(channel, channel.tvg_id or channel.slug, _quoted), f"{base_url}{path}{query}"]
    return "\n".join(lines) + "\n"


def write_sources(channels: Iterable[Channel]) -> str:
    """Every channel with its own source, so that an import elsewhere gives the same channels."""
    lines = ["#EXTM3U"]
    for channel in channels:
        options = {"http-user-agent": channel.user_agent}
        headers = dict(channel.headers)
        for option, name in _WRITTEN_OPTIONS.items():
            options[option] = headers.pop(name, "")
        piped = "|" + urlencode(headers) if headers else ""
        lines.append(_extinf(channel, channel.tvg_id, _quoted_either))
        lines += [f"#EXTVLCOPT:{option}={value}" for option, value in options.items() if value]
        lines.append(channel.url.replace("|", "%7C") + piped)
    return "\n".join(lines) + "\n"


_WRITTEN_OPTIONS = {"http-referrer": "Referer", "http-origin": "Origin"}


def _extinf(channel: Channel, tvg_id: str, quoted: Callable[[str], str]) -> str:
    attributes = {
        "tvg-id": tvg_id,
        "tvg-name": channel.name,
        "tvg-chno": channel.tvg_chno,
        "tvg-logo": channel.logo,
        "group-title": channel.group,
    }
    return (
        f"#EXTINF:-1{''.join(f' {key}={quoted(value)}' for key, value in attributes.items() if value)},{channel.name}"
    )


def _quoted(value: str) -> str:
    """The format has no escapes: a double quote would end the value, and players take no other ones."""
    return '"' + value.replace('"', "'") + '"'


def _quoted_either(value: str) -> str:
    return f"'{value}'" if '"' in value and "'" not in value else _quoted(value)
