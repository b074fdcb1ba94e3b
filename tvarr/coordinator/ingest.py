"""One connection to one source, kept alive: bytes in, events on the relay's timeline out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import aiohttp

from tvarr.cluster.schemes import FETCHED_SCHEMES
from tvarr.coordinator import metrics
from tvarr.coordinator.run import Run
from tvarr.coordinator.source import IngestLimits, SourceFailure, SourceSpec, Stream, redact
from tvarr.coordinator.sources.fetch import FetchedSource, Fetcher
from tvarr.coordinator.sources.file import open_file
from tvarr.coordinator.sources.hls.fetch import fetching
from tvarr.coordinator.sources.hls.playlist import MAX_PLAYLIST_BYTES, is_hls, is_playlist
from tvarr.coordinator.sources.hls.source import HlsSource, open_hls
from tvarr.coordinator.sources.hls.window import Bookmark
from tvarr.coordinator.sources.http import cookie_jar, not_asked_for, open_http
from tvarr.coordinator.sources.intake import Intake
from tvarr.coordinator.sources.mp4 import fetch_moov
from tvarr.coordinator.sources.pacing import Pacer, Smoother, Throttle
from tvarr.coordinator.sources.retry import Retry
from tvarr.coordinator.sources.sniff import HEAD_BYTES
from tvarr.coordinator.sources.unzip import begin_of, unzip
from tvarr.errors import MoovBehind, SourceError, TvarrError
from tvarr.media.model import Event
from tvarr.media.mpegts.receive import DemuxStats
from tvarr.media.timeline import TimelineStats

log = logging.getLogger(__name__)

Sink = Callable[[Sequence[Event]], None]
Room = Callable[[], Awaitable[None]]

BITRATE_SPAN_S = 5.0


class IngestState(StrEnum):
    CONNECTING = "connecting"  # no picture or sound yet
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    ENDED = "ended"  # for good, to the last picture
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """A source as it is now."""

    state: IngestState
    error: str  # why it is connecting again, or failed; empty while all is well
    reconnections: int  # times that it was connected to again, or tried to
    laps: int  # times that a looped source started again
    bytes: int
    bitrate_kbps: float  # over the last seconds
    segments_left_out: int  # of HLS: could not be had or read, or were gone before their turn
    dropped_samples: int  # of video, between a reconnection and its first keyframe
    demux: DemuxStats  # of all connections and laps, as all counts here
    timeline: TimelineStats


class Ingest:
    """Reads one source for one relay, over as many connections as it takes, one at a time."""

    def __init__(
        self,
        spec: SourceSpec,
        limits: IngestLimits,
        session: aiohttp.ClientSession,
        rng: Random,
        fetcher: Fetcher | None = None,
    ) -> None:
        """`fetcher` is asked for what only ffmpeg reads; None: nobody is there for it."""
        self._spec = spec
        self._limits = limits
        self._session = session
        self._intake = Intake(spec.program, spec.audio_languages)
        self._live = spec.effective_pace == "live"
        self._pacer: Pacer = (
            Throttle(limits.live_ahead_s, limits.rhythm()) if self._live else Pacer(limits.preroll_s, limits.rhythm())
        )
        self._bookmark: Bookmark | None = None  # where an HLS source goes on
        self._cookies: aiohttp.CookieJar | None = None  # of this connection
        self._fetcher = fetcher
        self._finite = False  # the source has said how much it will send
        self._by_daemon = spec.scheme in FETCHED_SCHEMES
        self._hls_source: HlsSource | None = None  # that is being read
        self._left_out = 0  # segments of those before
        self._retry = Retry(limits, rng, time.monotonic())
        self._meter = _Meter()
        self._state = IngestState.CONNECTING
        self._error = ""
        self._reconnections = 0
        self._laps = 0
        self._bytes = 0
        self._quiet_s = 0.0  # waited for data since the last picture or sound

    @property
    def full_speed(self) -> bool:
        """The source is read as fast as its readers take it."""
        return self._spec.effective_pace == "fast"

    @property
    def is_remote(self) -> bool:
        """It is not a file of this machine."""
        return self._spec.is_network

    @property
    def fetch(self) -> Run | None:
        """The job by which a daemon fetches the source, the last one where it has ended; None where none does."""
        return self._fetcher.run if self._fetcher is not None else None

    @property
    def status(self) -> IngestStatus:
        return IngestStatus(
            state=self._state,
            error=self._error,
            reconnections=self._reconnections,
            laps=self._laps,
            bytes=self._bytes,
            bitrate_kbps=self._meter.kbps(time.monotonic()),
            segments_left_out=self._left_out + (self._hls_source.left_out if self._hls_source else 0),
            dropped_samples=self._intake.dropped_samples,
            demux=self._intake.demux_stats,
            timeline=self._intake.timeline.stats,
        )

    async def run(self, sink: Sink, room: Room) -> None:
        """Gives `sink` what comes, in order; returns when the source ended for good, flushed to its last picture.

        `sink` gets nothing before the first picture or sound is there; then also what came before it.
        `room` is awaited between chunks where the source is read at full speed. Raises `SourceError` with the cause
        where nothing playable ever came, or where it stayed away too long afterwards; another `TvarrError` where a
        daemon should fetch it and none can. Runs once.
        """
        try:
            await self._run(sink, room)
        except TvarrError as error:
            self._state, self._error = IngestState.FAILED, str(error)
            raise
        self._state, self._error = IngestState.ENDED, ""

    async def _run(self, sink: Sink, room: Room) -> None:
        while True:
            try:
                await self._connection(sink, room)
            except SourceFailure as failure:
                delay_s = self._delay_after(failure)
                if delay_s is None:
                    return
                await asyncio.sleep(delay_s)
            else:
                if not self._spec.loop:
                    return
                self._laps += 1

    def _delay_after(self, failure: SourceFailure) -> float | None:
        """How long to wait before the next connection; None where the source has ended, `SourceError` to give up."""
        if failure.at_once:
            log.info("%s: %s", redact(self._spec.url), failure)
            return 0.0
        again = failure.passing or self._spec.is_network
        delay_s = self._retry.failed(failure, time.monotonic()) if again else None
        if delay_s is not None:
            self._reconnections += 1
            self._state = IngestState.RECONNECTING if self._retry.had_media else IngestState.CONNECTING
            self._error = str(failure)
            log.warning("%s: %s; connecting again in %.1f s", redact(self._spec.url), failure, delay_s)
            return delay_s
        if self._retry.has_ended:
            return None
        metrics.count_refusal(failure.answer)
        if self._retry.had_media and self._spec.is_network:
            words = f"; given up after {self._limits.give_up_s:g} s without media" if not failure.retry_after_s else ""
            raise SourceError(f"{failure}{words}") from failure
        raise failure.answer or failure

    def _open(self, *, zipped: bool = False) -> AbstractAsyncContextManager[Stream]:
        if self._spec.is_network:
            return open_http(self._spec, self._session, self._limits, self._cookies, zipped=zipped)
        return open_file(self._spec)

    async def _connection(self, sink: Sink, room: Room) -> None:
        """One connection or lap to its end; returns where the source was read to its known end."""
        if self._by_daemon:
            await self._fetched(sink, room)
            return
        try:
            await self._read_here(sink, room)
        except SourceFailure as failure:
            if not failure.foreign or self._fetcher is None or not self._spec.is_network or self._retry.had_media:
                raise
            log.info("%s: %s; a daemon has to fetch it", redact(self._spec.url), failure)
            self._by_daemon = True
            await self._fetched(sink, room)

    async def _fetched(self, sink: Sink, room: Room) -> None:
        """One connection by a daemon."""
        if self._fetcher is None:
            raise SourceFailure(f"nobody is here to fetch {self._spec.scheme}: sources")
        async with self._fetcher.open(self._spec, full_speed=self.full_speed, on_bytes=self._count) as source:
            self._intake.begin(media=source)
            self._quiet_s = 0.0
            while (events := await self._fetched_events(source)) is not None:
                await self._deliver(self._place(events), sink, room)
            await self._end(sink, room)
        if not self._finite:
            raise SourceFailure("the source ended the stream", passing=True, ended=True)

    async def _fetched_events(self, source: FetchedSource) -> list[Event] | None:
        """The next of a source whose daemon minds the limits on silence: what is here is for a daemon that does not."""
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(2 * self._limits.first_media_s - self._quiet_s):
                return await source.read()
        except TimeoutError:
            raise self._intake.trouble() from None
        finally:
            self._quiet_s += time.monotonic() - began_at

    async def _read_here(self, sink: Sink, room: Room) -> None:
        """One connection from here; what must be asked for anew is, once this one is left."""
        self._cookies = cookie_jar()
        async with self._open(zipped=True) as stream:
            self._finite = stream.finite
            self._intake.begin(stream.content_type)
            self._quiet_s = 0.0
            url, head = stream.url, await self._head(stream)
            playlist, moov_at = b"", 0
            if stream.zipped:
                playlist = unzip(await self._playlist(head, stream), "playlist", MAX_PLAYLIST_BYTES)
            elif is_playlist(head):
                playlist = await self._playlist(head, stream)
            else:
                try:
                    await self._stream(head, stream, sink, room)
                    return
                except MoovBehind as behind:
                    moov_at = behind.moov_at
        if moov_at:
            await self._with_index_behind(url, moov_at, sink, room)
        elif is_hls(playlist):
            await self._hls(playlist, url, sink, room)
        else:
            raise SourceFailure("the source sends an M3U playlist of channels, not video; import it as a playlist")

    async def _with_index_behind(self, url: str, moov_at: int, sink: Sink, room: Room) -> None:
        """Plays an MP4 whose index is behind its media: that is fetched first, then it is read from its begin."""
        async with fetching(self._spec, self._limits, self._count, self._cookies) as fetcher:
            moov = await fetch_moov(fetcher, self._limits, url, moov_at)
        async with self._open() as stream:
            self._intake.begin(stream.content_type, moov=moov)
            self._quiet_s = 0.0
            await self._stream(await self._read(stream), stream, sink, room)

    async def _head(self, stream: Stream) -> bytes:
        """The first bytes, enough to tell a playlist; of what comes gzip-encoded nothing else is taken."""
        head = await self._read(stream)
        while (known := is_playlist(_plain(head, stream))) is None and len(head) < HEAD_BYTES:
            if not (more := await self._read(stream)):
                break
            head += more
        if stream.zipped and not known:
            raise not_asked_for("gzip")
        return head

    async def _stream(self, head: bytes, stream: Stream, sink: Sink, room: Room) -> None:
        data = head
        while data:
            await self._deliver(self._take(data), sink, room)
            data = await self._read(stream)
        await self._end(sink, room, whole=stream.whole)
        if not stream.whole:
            raise SourceFailure("the source closed the connection", passing=True, ended=True)

    async def _end(self, sink: Sink, room: Room, *, whole: bool = True) -> None:
        await self._deliver(self._intake.end(whole=whole), sink, room)
        if not self._intake.has_media:
            raise self._intake.trouble()
        self._note_media()

    async def _playlist(self, head: bytes, stream: Stream) -> bytes:
        """All of a body that is a playlist."""
        pieces, size = [head], len(head)
        try:
            async with asyncio.timeout(self._limits.first_media_s):
                while size <= MAX_PLAYLIST_BYTES and (data := await stream.read()):
                    self._count(len(data))
                    pieces.append(data)
                    size += len(data)
        except TimeoutError:
            raise SourceFailure("the source's playlist did not come to its end", passing=True) from None
        if size > MAX_PLAYLIST_BYTES:
            raise SourceFailure(f"the source's playlist is larger than {MAX_PLAYLIST_BYTES >> 20} MiB")
        return b"".join(pieces)

    async def _hls(self, body: bytes, url: str, sink: Sink, room: Room) -> None:
        """Plays what a playlist names to its end."""
        if self._live and not isinstance(self._pacer, Smoother):
            self._pacer = Smoother(self._limits.preroll_s, self._limits.rhythm())
        opening = open_hls(
            self._spec,
            self._limits,
            body,
            url,
            on_bytes=self._count,
            bookmark=self._bookmark,
            cookies=self._cookies,
        )
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._limits.first_media_s):
                    source = await stack.enter_async_context(opening)
            except TimeoutError:
                limit_s = self._limits.first_media_s
                raise SourceFailure(
                    f"the source's HLS playlists did not come within {limit_s:g} s", passing=True
                ) from None
            self._intake.begin(media=source)
            self._quiet_s = 0.0
            self._hls_source = source
            try:
                while (events := await self._events(source)) is not None:
                    await self._deliver(self._place(events), sink, room)
            except SourceFailure:  # between two segments: the last picture waited for the begin of the next one
                await self._deliver(self._intake.end(), sink, room)
                raise
            finally:
                self._hls_source = None
                self._left_out += source.left_out
                self._bookmark = source.bookmark
            if not self._intake.has_media:
                raise self._without_media(source)
            await self._end(sink, room)
        self._bookmark = None

    def _without_media(self, source: HlsSource) -> SourceFailure:
        if source.trouble is not None:
            return source.trouble
        if self._intake.received_bytes:
            return self._intake.trouble()
        return SourceFailure("the source's HLS playlist brought nothing to play", passing=True)

    async def _events(self, source: HlsSource) -> list[Event] | None:
        """The next of an HLS source, within the limit on the time without media."""
        began_at = time.monotonic()
        targets = 3.0 if self._intake.has_media else 1.0
        left_s = self._limits.first_media_s + targets * source.target_s - self._quiet_s
        try:
            async with asyncio.timeout(left_s):
                return await source.read()
        except TimeoutError:
            raise self._without_media(source) from None
        finally:
            self._quiet_s += time.monotonic() - began_at

    async def _read(self, stream: Stream) -> bytes:
        """The next bytes, within the limits on silence and on data without media."""
        intake = self._intake
        left_s = self._limits.first_media_s - self._quiet_s
        if left_s <= 0.0:
            raise intake.trouble()
        stall_s = self._limits.stall_s
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(stall_s if intake.has_media else min(left_s, stall_s)):
                data = await stream.read()
        except TimeoutError:
            if not intake.has_media and (intake.received_bytes or left_s < stall_s):
                raise intake.trouble() from None
            raise SourceFailure(f"the source sent nothing for {stall_s:g} s", passing=True) from None
        self._quiet_s += time.monotonic() - began_at
        if data:
            self._count(len(data))
        return data

    def _count(self, size: int) -> None:
        self._bytes += size
        self._meter.add(size, time.monotonic())

    def _take(self, data: bytes) -> list[Event]:
        before = self._intake.media_samples
        events = self._intake.feed(data)
        self._look(before)
        return events

    def _place(self, events: list[Event]) -> list[Event]:
        before = self._intake.media_samples
        events = self._intake.place(events)
        self._look(before)
        return events

    def _look(self, media_samples_before: int) -> None:
        """Takes note of media, or of too much without any."""
        if self._intake.media_samples > media_samples_before:
            self._note_media()
        elif not self._intake.has_media and self._intake.received_bytes > self._limits.first_media_bytes:
            raise self._intake.trouble()

    def _note_media(self) -> None:
        self._quiet_s = 0.0
        self._retry.media(time.monotonic())
        self._state, self._error = IngestState.RUNNING, ""

    async def _deliver(self, events: list[Event], sink: Sink, room: Room) -> None:
        if not self.full_speed:
            await self._pace(events, sink)
            return
        if events:
            sink(events)
        await room()

    async def _pace(self, events: list[Event], sink: Sink) -> None:
        """Gives the events when they are due; nothing is read meanwhile, which bounds what the pacer holds."""
        self._pacer.push(events)
        while (deadline := self._pacer.deadline()) is not None:
            if (wait_s := deadline - time.monotonic()) > 0.0:
                await asyncio.sleep(wait_s)
                self._note_media()
            if due := self._pacer.take(time.monotonic()):
                sink(due)


def _plain(head: bytes, stream: Stream) -> bytes:
    """The begin of a body without its encoding."""
    return begin_of(head, HEAD_BYTES) if stream.zipped else head


class _Meter:
    """Bytes over the last seconds, in buckets of a second; over more where a file is read in rare big pieces."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[float, int]] = deque()  # time of its first bytes, bytes; a handful

    def add(self, count: int, now: float) -> None:
        if self._buckets and now - self._buckets[-1][0] < 1.0:
            at, before = self._buckets.pop()
            self._buckets.append((at, before + count))
            return
        self._buckets.append((now, count))
        while len(self._buckets) > 3 and self._buckets[0][0] < now - BITRATE_SPAN_S:
            self._buckets.popleft()

    def kbps(self, now: float) -> float:
        if not self._buckets:
            return 0.0
        return sum(count for _, count in self._buckets) * 8 / 1000 / max(1.0, now - self._buckets[0][0])
