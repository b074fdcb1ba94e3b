"""An HLS presentation as one source: the variant that is chosen, and its audio where that comes apart."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from tvarr.coordinator.source import IngestLimits, SourceFailure, SourceSpec
from tvarr.coordinator.sources.container import add_stats
from tvarr.coordinator.sources.hls.fetch import Fetcher, fetching
from tvarr.coordinator.sources.hls.merge import Merge, Part
from tvarr.coordinator.sources.hls.playlist import Audio, MediaPlaylist, Multivariant, Variant
from tvarr.coordinator.sources.hls.rendition import Rendition, load_playlist, read_playlist
from tvarr.coordinator.sources.hls.window import Bookmark, Window
from tvarr.coordinator.sources.languages import canonical, three_letters
from tvarr.media.model import Event, Kind
from tvarr.media.mpegts.receive import DemuxStats

MAX_VARIANTS_TRIED = 3
MAX_AUDIO = 4  # renditions at once, each of which is fetched

_ALL_BUT_AUDIO = frozenset(Kind) - {Kind.AUDIO}


class HlsSource:
    """The renditions that play together, merged by time."""

    def __init__(self, main: Rendition, audio: Sequence[tuple[Rendition, str]]) -> None:
        """`audio`: renditions that play instead of the sound of `main`, each with its language."""
        self._main = main
        self._renditions = [main, *(rendition for rendition, _ in audio)]
        parts = [Part(0, _ALL_BUT_AUDIO if audio else None)]
        parts += [Part(n, frozenset({Kind.AUDIO}), language) for n, (_, language) in enumerate(audio, start=1)]
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
    cookies: aiohttp.CookieJar | None = None,
) -> AsyncIterator[HlsSource]:
    """Begins to play what the playlist `body`, which came from `url` with these cookies, offers.

    `on_bytes` is told the size of whatever comes. Raises `SourceFailure` with the cause in words.
    """
    requested_at = time.monotonic()
    playlist = await read_playlist(body, url, "")
    async with fetching(spec, limits, on_bytes, cookies) as fetcher:
        variant = Variant(url)
        if isinstance(playlist, Multivariant):
            requested_at = time.monotonic()
            variant, playlist, url = await _choose(fetcher, limits, playlist, spec)
        window = Window(bookmark=bookmark)
        window.update(playlist, requested_at)
        main = Rendition(fetcher, limits, url, window, program=spec.program)
        audio = await _open_audio(fetcher, limits, variant, window, spec.audio_languages)
        try:
            yield HlsSource(main, audio)
        finally:
            for rendition in (main, *(rendition for rendition, _ in audio)):
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


def chosen_audio(variant: Variant, languages: Sequence[str]) -> list[Audio]:
    """The audio renditions to play with a variant; none where the first of them is in the variant itself.

    One for each wanted language that is offered, at most MAX_AUDIO. Where there is none, and where no language is
    wanted, only the default one: a player loads no others either.
    """
    chosen = [
        next((a for a in variant.audio if canonical(a.language) == canonical(language)), None) for language in languages
    ]
    found = [audio for audio in dict.fromkeys(chosen) if audio is not None][:MAX_AUDIO] or list(variant.audio[:1])
    apart = [audio for audio in found if audio.url not in ("", variant.url)]
    return apart if apart[:1] == found[:1] else []


async def _open_audio(
    fetcher: Fetcher, limits: IngestLimits, variant: Variant, main: Window, languages: Sequence[str]
) -> list[tuple[Rendition, str]]:
    """The chosen renditions that can be had. Raises `SourceFailure` where that is none of them."""
    opened: list[tuple[Rendition, str]] = []
    failure: SourceFailure | None = None
    for audio in chosen_audio(variant, languages):
        try:
            opened.append((await _open_rendition(fetcher, limits, audio, main), three_letters(audio.language)))
        except SourceFailure as error:
            failure = failure or error
    if failure is not None and not opened:
        raise failure
    return opened


async def _open_rendition(fetcher: Fetcher, limits: IngestLimits, audio: Audio, main: Window) -> Rendition:
    requested_at = time.monotonic()
    playlist, url = await load_playlist(fetcher, audio.url, limits)
    if isinstance(playlist, Multivariant):
        raise SourceFailure("the source's HLS playlist lists lists of variants")
    window = Window(beside=main)
    window.update(playlist, requested_at)
    return Rendition(fetcher, limits, url, window)
