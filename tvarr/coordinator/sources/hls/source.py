"""An HLS presentation as one source: the variant that is chosen, and its audio where that comes apart."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tvarr.coordinator.source import IngestLimits, SourceFailure, SourceSpec
from tvarr.coordinator.sources.container import add_stats
from tvarr.coordinator.sources.hls.fetch import Fetcher, fetching
from tvarr.coordinator.sources.hls.languages import three_letters
from tvarr.coordinator.sources.hls.merge import Merge, Part
from tvarr.coordinator.sources.hls.playlist import MediaPlaylist, Multivariant, Variant
from tvarr.coordinator.sources.hls.rendition import Rendition, load_playlist, read_playlist
from tvarr.coordinator.sources.hls.window import Bookmark, Window
from tvarr.media.model import Event, Kind
from tvarr.media.mpegts.receive import DemuxStats

MAX_VARIANTS_TRIED = 3

_ALL_BUT_AUDIO = frozenset(Kind) - {Kind.AUDIO}


class HlsSource:
    """The renditions that play together, merged by time."""

    def __init__(self, main: Rendition, audio: Rendition | None, audio_language: str) -> None:
        self._main = main
        self._renditions = [main] if audio is None else [main, audio]
        parts = [Part(0, None)]
        if audio is not None:
            parts = [Part(0, _ALL_BUT_AUDIO), Part(1, frozenset({Kind.AUDIO}), audio_language)]
        self._merge = Merge(parts)

    @property
    def stats(self) -> DemuxStats:
        total = DemuxStats()
        for rendition in self._renditions:
            total = add_stats(total, rendition.stats)
        return total

    @property
    def target_s(self) -> float:
        """No segment lasts longer, about."""
        return max(rendition.window.target_s for rendition in self._renditions)

    @property
    def trouble(self) -> SourceFailure | None:
        """What keeps it from going on just now."""
        return next((r.trouble for r in self._renditions if r.trouble is not None), None)

    @property
    def bookmark(self) -> Bookmark | None:
        """Where a later connection can go on."""
        return self._main.bookmark

    @property
    def left_out(self) -> int:
        """Segments that could not be had or read, or were gone before their turn."""
        return sum(rendition.left_out + rendition.window.skipped for rendition in self._renditions)

    async def read(self) -> list[Event] | None:
        """The next events, perhaps none; None at the end. Raises `SourceFailure` where it can't go on."""
        part = self._merge.wanted()
        if part is None:
            return None
        rendition = self._renditions[self._merge.parts.index(part)]
        events = await rendition.read()
        if events is None:
            part.push(rendition.flush())
            part.ended = True
        else:
            part.push(events)
        return self._merge.take()

    def flush(self) -> list[Event]:
        """What of a source that is left was still held back."""
        for part, rendition in zip(self._merge.parts, self._renditions, strict=True):
            if not part.ended:
                part.push(rendition.flush())
                part.ended = True
        return self._merge.take()


@asynccontextmanager
async def open_hls(
    spec: SourceSpec,
    limits: IngestLimits,
    body: bytes,
    url: str,
    *,
    on_bytes: Callable[[int], None],
    bookmark: Bookmark | None = None,
) -> AsyncIterator[HlsSource]:
    """Begins to play what the playlist `body`, which came from `url`, offers.

    `on_bytes` is told the size of whatever comes. Raises `SourceFailure` with the cause in words.
    """
    requested_at = time.monotonic()
    playlist = await read_playlist(body, url, "")
    async with fetching(spec, limits, on_bytes) as fetcher:
        variant = Variant(url)
        if isinstance(playlist, Multivariant):
            requested_at = time.monotonic()
            variant, playlist, url = await _choose(fetcher, limits, playlist, spec)
        window = Window(bookmark=bookmark)
        window.update(playlist, requested_at)
        main = Rendition(fetcher, limits, url, window, program=spec.program)
        audio = None
        if variant.audio_url and variant.audio_url != variant.url:
            audio = await _open_audio(fetcher, limits, variant, window)
        try:
            yield HlsSource(main, audio, three_letters(variant.audio_language))
        finally:
            for rendition in (main, audio):
                if rendition is not None:
                    await rendition.close()


async def _choose(
    fetcher: Fetcher, limits: IngestLimits, offer: Multivariant, spec: SourceSpec
) -> tuple[Variant, MediaPlaylist, str]:
    """The best variant that can be had."""
    first_failure: SourceFailure | None = None
    for variant in offer.best_first(spec.max_height, spec.max_kbps)[:MAX_VARIANTS_TRIED]:
        try:
            playlist, url = await load_playlist(fetcher, variant.url, limits)
        except SourceFailure as failure:
            first_failure = first_failure or failure
            continue
        if isinstance(playlist, MediaPlaylist):
            return variant, playlist, url
        first_failure = first_failure or SourceFailure("the source's HLS playlist lists lists of variants")
    raise first_failure or SourceFailure("the source's HLS playlist lists no variants")


async def _open_audio(fetcher: Fetcher, limits: IngestLimits, variant: Variant, main: Window) -> Rendition:
    requested_at = time.monotonic()
    playlist, url = await load_playlist(fetcher, variant.audio_url, limits)
    if isinstance(playlist, Multivariant):
        raise SourceFailure("the source's HLS playlist lists lists of variants")
    window = Window(beside=main)
    window.update(playlist, requested_at)
    return Rendition(fetcher, limits, url, window)
