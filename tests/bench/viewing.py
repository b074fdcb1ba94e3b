"""What viewers in this process do with a stream."""

from __future__ import annotations

import aiohttp

from tvarr.media.model import Kind, Sample, Tracks
from tvarr.media.mpegts.demux import Demuxer


async def swallow(response: aiohttp.ClientResponse) -> None:
    while await response.content.readany():
        pass


async def first_keyframe(response: aiohttp.ClientResponse) -> None:
    """Reads a stream until a whole video keyframe has come."""
    demuxer, video = Demuxer(), -1
    while data := await response.content.readany():
        for event in demuxer.feed(data):
            if isinstance(event, Tracks):
                video = next((t.id for t in event.of_kind(Kind.VIDEO)), -1)
            elif isinstance(event, Sample) and event.track == video and event.keyframe:
                return
    raise AssertionError(f"no keyframe from {response.url}: {response.status}")
