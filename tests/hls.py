"""A player of HLS and DASH that keeps everything it gets."""

from __future__ import annotations

import asyncio
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from urllib.parse import urljoin

import aiohttp

SPACES = {"": "urn:mpeg:dash:schema:mpd:2011"}


@dataclass
class Fetched:
    """One segment, as its playlist had it."""

    number: int
    duration_s: float
    data: bytes
    discontinuity: bool
    map: str  # address of its initialization segment


@dataclass
class Playing:
    """One media playlist, read again and again."""

    url: str
    segments: list[Fetched] = field(default_factory=list)
    maps: dict[str, bytes] = field(default_factory=dict)
    target_s: int = 0
    text: str = ""

    def file(self) -> bytes:
        """All segments as one file, with each initialization segment where it begins to be in force."""
        parts, current = [], ""
        for segment in self.segments:
            if segment.map != current:
                current = segment.map
                parts.append(self.maps[current])
            parts.append(segment.data)
        return b"".join(parts)


async def get(session: aiohttp.ClientSession, url: str) -> tuple[str, bytes]:
    async with session.get(url) as answer:
        data = await answer.read()
        assert answer.status == 200, (url, answer.status, data[:500])
        return answer.content_type, data


async def open_hls(session: aiohttp.ClientSession, url: str) -> tuple[str, list[Playing]]:
    """The multivariant playlist, and the media playlists that it names."""
    content_type, data = await get(session, url)
    assert content_type == "application/vnd.apple.mpegurl"
    text = data.decode()
    assert text.startswith("#EXTM3U\n")
    uris = re.findall(r'^#EXT-X-MEDIA:.*URI="(.*?)"', text, re.MULTILINE)
    uris += [line for line in text.splitlines() if not line.startswith("#")]
    return text, [Playing(urljoin(url, uri)) for uri in uris]


async def refresh(session: aiohttp.ClientSession, playing: Playing) -> bool:
    """Reads a playlist and what is new in it; whether the stream goes on."""
    playing.text = (await get(session, playing.url))[1].decode()
    number, duration, discontinuity, gap, map_url = 0, 0.0, False, False, ""
    last = playing.segments[-1].number if playing.segments else None
    for line in playing.text.splitlines():
        tag, _, value = line.partition(":")
        match tag:
            case "#EXT-X-MEDIA-SEQUENCE":
                number = int(value)
                assert last is None or number <= last + 1, "segments were missed"
            case "#EXT-X-TARGETDURATION":
                playing.target_s = int(value)
            case "#EXTINF":
                duration = float(value.rstrip(","))
            case "#EXT-X-DISCONTINUITY":
                discontinuity = True
            case "#EXT-X-GAP":
                gap = True
            case "#EXT-X-MAP":
                map_url = urljoin(playing.url, value.split('"')[1])
            case _ if line and not line.startswith("#"):
                if not gap and (last is None or number > last):
                    if map_url and map_url not in playing.maps:
                        playing.maps[map_url] = (await get(session, map_url))[1]
                    data = (await get(session, urljoin(playing.url, line)))[1]
                    playing.segments.append(Fetched(number, duration, data, discontinuity, map_url))
                number, discontinuity, gap = number + 1, False, False
    return "#EXT-X-ENDLIST" not in playing.text


async def play_hls(url: str, seconds: float = 60.0) -> tuple[str, list[Playing]]:
    """Reads a stream to its end, or for so long."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        text, lists = await open_hls(session, url)
        going = list(lists)
        while going and time.monotonic() < deadline:
            more = [await refresh(session, playing) for playing in going]
            going = [playing for playing, goes_on in zip(going, more, strict=True) if goes_on]
            await asyncio.sleep(0.05)
        return text, lists


async def play_dash(url: str, seconds: float = 60.0) -> dict[str, bytes]:
    """Reads a stream to its end, or for so long: one file for each representation, initialization segments inside."""
    deadline = time.monotonic() + seconds
    files: dict[str, bytearray] = {}
    begun: dict[str, str] = {}
    seen: set[str] = set()
    ended = False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        while not ended and time.monotonic() < deadline:
            content_type, data = await get(session, url)
            assert content_type == "application/dash+xml"
            root = ET.fromstring(data)
            ended = "minimumUpdatePeriod" not in root.attrib
            base = urljoin(url, root.findtext("BaseURL", "", SPACES))
            for shown in root.iterfind("Period/AdaptationSet/Representation", SPACES):
                name = shown.attrib["id"]
                template = shown.find("SegmentTemplate", SPACES)
                assert template is not None
                file = files.setdefault(name, bytearray())
                init = urljoin(base, template.attrib["initialization"])
                for entry in template.iterfind("SegmentTimeline/S", SPACES):
                    address = urljoin(base, template.attrib["media"].replace("$Time$", entry.attrib["t"]))
                    if address in seen:
                        continue
                    seen.add(address)
                    if begun.get(name) != init:
                        begun[name] = init
                        file += (await get(session, init))[1]
                    file += (await get(session, address))[1]
            await asyncio.sleep(0.05)
    return {name: bytes(file) for name, file in files.items()}
