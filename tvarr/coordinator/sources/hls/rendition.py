"""One rendition: its playlist and its segments, one request at a time, as events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from tvarr.coordinator.source import IngestLimits, SourceFailure
from tvarr.coordinator.sources.container import Container, add_stats
from tvarr.coordinator.sources.hls.fetch import Fetcher, Silence
from tvarr.coordinator.sources.hls.keys import Keys
from tvarr.coordinator.sources.hls.packed import PackedAudio, looks_like_packed_audio
from tvarr.coordinator.sources.hls.playlist import (
    MAX_PLAYLIST_BYTES,
    MediaPlaylist,
    Multivariant,
    Resource,
    Segment,
    is_playlist,
    parse_playlist,
)
from tvarr.coordinator.sources.hls.window import Bookmark, Window
from tvarr.coordinator.sources.sniff import HEAD_BYTES, looks_like_mp4, looks_like_ts, recognise
from tvarr.errors import MediaError
from tvarr.media.fmp4.boxes import children
from tvarr.media.model import Event
from tvarr.media.mpegts.receive import DemuxStats

log = logging.getLogger(__name__)

MAX_SEGMENT_BYTES = 128 << 20  # 10 s at 100 Mb/s
MAX_INIT_BYTES = 4 << 20
MAX_BAD_SEGMENTS = 3  # in a row: more are a source that doesn't work
TRIES = 2  # at a segment whose server fails or that is cut off
SLICE_BYTES = 512 * 1024  # demuxed at once, for the others' sake
SMALL_PLAYLIST_BYTES = 64 * 1024  # larger ones are parsed in a thread


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A segment that can be demuxed."""

    segment: Segment
    data: bytes
    init: bytes
    fresh: bool  # it does not continue what came before


async def load_playlist(fetcher: Fetcher, url: str, limits: IngestLimits) -> tuple[MediaPlaylist | Multivariant, str]:
    """A playlist, and where it was in the end."""
    within_s = limits.connect_s + limits.stall_s
    fetched = await fetcher.get(url, "HLS playlist", cap_bytes=MAX_PLAYLIST_BYTES, within_s=within_s, zipped=True)
    return await read_playlist(fetched.data, fetched.url, fetched.content_type), fetched.url


async def read_playlist(body: bytes, url: str, content_type: str) -> MediaPlaylist | Multivariant:
    """Parses a playlist. Raises `SourceFailure` in words for what is none."""
    if not is_playlist(body):
        what = recognise(body[:HEAD_BYTES], content_type) or ("something else" if body else "nothing")
        raise SourceFailure(f"the source's HLS playlist is {what}")
    if len(body) <= SMALL_PLAYLIST_BYTES:
        return parse_playlist(body, url)
    return await asyncio.to_thread(parse_playlist, body, url)


class Rendition:
    """Reads a media playlist to its end.

    At most one segment is held besides the one that is being read. Segments that can't be had or read are left out, up
    to MAX_BAD_SEGMENTS in a row.
    """

    def __init__(
        self, fetcher: Fetcher, limits: IngestLimits, url: str, window: Window, *, program: int | None = None
    ) -> None:
        """`window` has its first playlist; `url` is where that came from."""
        self.window = window
        self.bookmark: Bookmark | None = None  # the last segment that is done with
        self.trouble: SourceFailure | None = None  # what keeps it from going on just now
        self.left_out = 0  # segments
        self._fetcher = fetcher
        self._limits = limits
        self._url = url
        self._program = program
        self._keys = Keys(fetcher, limits.connect_s)
        self._coming: asyncio.Task[_Loaded | None] | None = None
        self._init: tuple[Resource | None, bytes] = (None, b"")  # fetched last
        self._bad = 0  # in a row
        self._reading: _Loaded | None = None
        self._slices: deque[bytes] = deque()
        self._container: Container | PackedAudio = Container(program)
        self._played_init = b""
        self._is_broken = False  # what comes next can't be read as a continuation
        self._past_stats = DemuxStats()

    @property
    def stats(self) -> DemuxStats:
        return add_stats(self._past_stats, self._container.stats)

    async def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)

    async def read(self) -> list[Event] | None:
        """The next events, perhaps none; None at the end. Raises `SourceFailure` where it can't go on."""
        if not self._slices:
            if self._coming is None:
                self._coming = asyncio.create_task(self._load_next())
            loaded = await self._coming
            if loaded is None:
                return None
            self._coming = asyncio.create_task(self._load_next())
            return self._begin(loaded)
        await asyncio.sleep(0)
        return self._demux(self._slices.popleft())

    def flush(self) -> list[Event]:
        """The end: what was still held back."""
        try:
            return self._container.flush()
        except MediaError:
            return []

    # Demuxing

    def _begin(self, loaded: _Loaded) -> list[Event]:
        events: list[Event] = []
        packed = looks_like_packed_audio(loaded.data)
        changed = loaded.init != self._played_init or packed is not isinstance(self._container, PackedAudio)
        if loaded.fresh or self._is_broken or changed:
            events = self.flush()
            self._past_stats = self.stats
            self._container = PackedAudio() if packed else Container(self._program)
            self._played_init = loaded.init
            self._slices.extend([loaded.init] if loaded.init else [])
        self._is_broken = looks_like_mp4(loaded.data) and not _is_whole_mp4(loaded.data)
        self._reading = loaded
        data = loaded.data
        self._slices.extend(data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES))
        return events

    def _demux(self, data: bytes) -> list[Event]:
        try:
            events = self._container.feed(data)
        except MediaError as error:
            self._slices.clear()
            self._is_broken = True
            self._read_to_its_end()
            self._note_bad(SourceFailure(f"a segment of the source can't be read: {error}"))
            return []
        if not self._slices and self._read_to_its_end():
            self._bad = 0
            self.trouble = None
        return events

    def _read_to_its_end(self) -> bool:
        reading, self._reading = self._reading, None
        if reading is not None:
            self._mark(reading.segment)
        return reading is not None

    def _mark(self, segment: Segment) -> None:
        self.bookmark = Bookmark(segment.sequence, segment.name)

    # Loading, one segment ahead

    async def _load_next(self) -> _Loaded | None:
        fresh = False
        while (segment := await self._next_segment()) is not None:
            fresh |= self.window.took() or segment.discontinuity
            if segment.gap:
                continue
            try:
                init, data = await self._load(segment)
            except SourceFailure as failure:
                if failure is self.trouble:  # the playlist does not come either: not for the segment's sake
                    raise
                try:
                    self._note_bad(failure)
                except SourceFailure:
                    if not failure.passing:
                        self._mark(segment)  # it will not come: a later connection goes on behind it
                    raise
                continue
            return _Loaded(segment, data, init, fresh)
        return None

    def _note_bad(self, failure: SourceFailure) -> None:
        self.left_out += 1
        self._bad += 1
        self.trouble = failure
        log.warning("a segment is left out: %s", failure)
        if self._bad >= MAX_BAD_SEGMENTS:
            raise failure

    async def _load(self, segment: Segment) -> tuple[bytes, bytes]:
        """The initialization section and the data of a segment."""
        if segment.init is None:
            init = b""
        elif segment.init == self._init[0]:
            init = self._init[1]
        else:
            init = await self._fetch(segment.init, "initialization section", segment, MAX_INIT_BYTES)
            self._init = (segment.init, init)
        data = await self._fetch(segment.resource, "segment", segment, MAX_SEGMENT_BYTES)
        head = data[:HEAD_BYTES]
        if not (looks_like_mp4(head) or (not init and (looks_like_ts(head) or looks_like_packed_audio(data)))):
            encrypted = "; its key may be wrong" if segment.resource.key else ""
            what = recognise(head) or ("not MPEG-TS or MP4" if data else "empty")
            raise SourceFailure(f"a segment of the source is {what}{encrypted}")
        return init, data

    async def _fetch(self, resource: Resource, what: str, segment: Segment, cap_bytes: int) -> bytes:
        within_s = max(2.0 * self._limits.stall_s, 3.0 * segment.duration_s)
        silence_s = max(self._limits.stall_s / TRIES, segment.duration_s)
        for attempt in range(1, TRIES + 1):
            try:
                fetched = await self._fetcher.get(
                    resource.url,
                    what,
                    cap_bytes=cap_bytes,
                    within_s=within_s,
                    part=resource.part,
                    answer_s=silence_s if self.stats.bytes else None,  # at first a packager may only be starting
                    silence_s=silence_s,
                )
                break
            except Silence:
                if attempt == TRIES:
                    raise
                await self._see_whether_it_is_there()
            except SourceFailure as failure:
                pause_s = max(self._limits.retry_base_s, failure.retry_after_s)
                if not failure.passing or attempt == TRIES or pause_s > within_s:
                    raise
                await asyncio.sleep(pause_s)
        return await self._keys.open(fetched.data, resource.key, segment.sequence)

    async def _next_segment(self) -> Segment | None:
        """The segment whose turn it is, waited for where it must be; None at the end."""
        window = self.window
        while True:
            now = time.monotonic()
            segment = window.take(now)
            is_live = window.playlist is not None and not window.playlist.ended
            if segment is not None and not (is_live and now >= window.reload_at):
                return segment
            if segment is None and not is_live:
                return None
            give_up_at = window.gives_up_at(self._limits.stall_s)
            if self.trouble is not None and self.trouble.retry_after_s and window.reload_at > give_up_at:
                raise _left_of(self.trouble, window.reload_at - now)
            if now >= give_up_at:
                waited_s = window.patience_s(self._limits.stall_s)
                raise self.trouble or SourceFailure(
                    f"the source's HLS playlist had nothing new for {waited_s:g} s", passing=True
                )
            if now < window.reload_at:
                await asyncio.sleep(min(window.reload_at, give_up_at) - now)
                continue
            await self._reload(now)

    async def _see_whether_it_is_there(self) -> None:
        """Raises `trouble` where the playlist does not come either, so that nothing is left out for an outage."""
        now = time.monotonic()
        if now >= self.window.reload_at:
            await self._reload(now)
            if self.trouble is not None:
                raise self.trouble

    async def _reload(self, now: float) -> None:
        try:
            playlist, _ = await load_playlist(self._fetcher, self._url, self._limits)
            if isinstance(playlist, Multivariant):
                raise SourceFailure("the source's HLS playlist has become a list of variants")
        except SourceFailure as failure:
            self.trouble = failure
            self.window.unchanged(now, time.monotonic() + failure.retry_after_s)
            return
        self.trouble = None
        self.window.update(playlist, now)


def _left_of(failure: SourceFailure, retry_after_s: float) -> SourceFailure:
    """The same some time later, when the server is to be asked again so soon."""
    return SourceFailure(
        str(failure), passing=failure.passing, gone=failure.gone, retry_after_s=max(0.0, retry_after_s)
    )


def _is_whole_mp4(data: bytes) -> bool:
    """Whether its boxes end where it does."""
    try:
        for _ in children(data, 0, len(data)):
            pass
    except MediaError:
        return False
    return True
