"""A source's bytes to events, whatever container they come in. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

from tvarr.coordinator.sources.sniff import looks_like_mp4
from tvarr.media.fmp4 import demux as fmp4
from tvarr.media.model import Event
from tvarr.media.mpegts import demux as mpegts
from tvarr.media.mpegts.receive import DemuxStats

SNIFF_BYTES = 8  # enough to tell MP4 from what may be MPEG-TS


class Media(Protocol):
    """What an `Intake` reads."""

    @property
    def stats(self) -> DemuxStats:
        """What was demuxed so far."""

    def flush(self) -> list[Event]:
        """The end: what was still held back. Raises `MediaError` as far as the container's demuxer does."""


class Container:
    """One run of bytes in one container, which its first bytes tell: an MP4, else MPEG-TS."""

    def __init__(self, program: int | None = None, *, moov: bytes = b"") -> None:
        """`moov`: the index of an MP4 that has it behind its media. Raises `MediaError` where it can't be read."""
        self._program = program
        self._head = b""
        self._ts: mpegts.Demuxer | None = None
        self._mp4: fmp4.Demuxer | None = fmp4.Demuxer(moov=moov) if moov else None

    @property
    def stats(self) -> DemuxStats:
        """Of an MP4, samples are counted where there are words that fit; there are no packets."""
        if self._ts is not None:
            return self._ts.stats
        if self._mp4 is None:
            return DemuxStats(bytes=len(self._head))
        mp4 = self._mp4.stats
        return DemuxStats(
            bytes=mp4.bytes,
            scrambled=mp4.scrambled,
            damaged_pes=mp4.damaged + mp4.unreachable,
            truncated_pes=mp4.missing,
            oversized_pes=mp4.oversized,
        )

    @property
    def programs(self) -> tuple[int, ...]:
        """Numbers of the programs of a transport stream, as far as they are known."""
        return self._ts.programs if self._ts is not None else ()

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes. Raises `MediaError` as the container's demuxer does."""
        if self._ts is not None:
            return self._ts.feed(data)
        if self._mp4 is not None:
            return self._mp4.feed(data)
        self._head += data
        return self._begin() if len(self._head) >= SNIFF_BYTES else []

    def flush(self, *, cut: bool = False) -> list[Event]:
        """The end: the last samples; `cut`: without a picture that it is within, as far as that is known.

        Raises `MediaError` as the container's demuxer does.
        """
        events = self._begin() if self._ts is None and self._mp4 is None and self._head else []
        if self._mp4 is not None:
            return events + self._mp4.flush()
        return events + (self._ts.flush(cut=cut) if self._ts is not None else [])

    def _begin(self) -> list[Event]:
        head, self._head = self._head, b""
        if looks_like_mp4(head):
            self._mp4 = fmp4.Demuxer()
            return self._mp4.feed(head)
        self._ts = mpegts.Demuxer(program=self._program)
        return self._ts.feed(head)


def add_stats(one: DemuxStats, other: DemuxStats) -> DemuxStats:
    """The sums."""
    return DemuxStats(**{f.name: getattr(one, f.name) + getattr(other, f.name) for f in fields(DemuxStats)})
