"""Which segment comes next, and when a playlist is asked for again. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from tvarr.coordinator.sources.hls.playlist import MediaPlaylist, Segment

EDGE_TARGETS = 3  # a live source is begun so many target durations before its end (8216bis, 6.3.3)
STALLED_TARGETS = 3  # one that has had nothing new for so many is connected to again


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The last segment that was played: where to go on after a reconnection."""

    sequence: int
    name: str


class Window:
    """Follows one media playlist.

    A playlist whose numbers went back is an old copy (caches give such out) where its last segment is one that is
    known, and is left; otherwise its packager was restarted, and it is begun anew. Segments that have left the playlist
    before their turn are skipped, up to where one would begin now.
    """

    def __init__(self, *, beside: Window | None = None, bookmark: Bookmark | None = None) -> None:
        """`beside`: begin where this one did; sequence numbers of two renditions have nothing in common (6.2.4)."""
        self.restarts = 0
        self.skipped = 0  # segments that were gone before their turn
        self.reload_at = 0.0
        self.playlist: MediaPlaylist | None = None
        self._began_behind_s = 0.0  # the begin of the playlist
        self._began_before_s = 0.0  # its end
        self._beside = beside
        self._bookmark = bookmark
        self._next = 0  # sequence number
        self._names: dict[int, str] = {}  # of the last playlist's segments, by sequence number
        self._fresh = False  # the next segment does not continue the last one
        self._waits_since: float | None = None

    @property
    def target_s(self) -> float:
        return self.playlist.target_s if self.playlist else 0.0

    @property
    def ended(self) -> bool:
        """Nothing comes any more."""
        return self.playlist is not None and self.playlist.ended and self._next >= self.playlist.end

    def update(self, playlist: MediaPlaylist, now: float) -> None:
        """Takes the playlist as it was when asked for at `now`."""
        before, self.playlist = self.playlist, playlist
        changed = before is None or playlist.end > before.end
        self.reload_at = now + playlist.target_s * (1.0 if changed else 0.5)  # 8216bis, 6.3.4
        if before is None:
            self._begin(playlist)
        elif playlist.end < before.end:
            last = playlist.segments[-1] if playlist.segments else None
            if last is None or self._names.get(last.sequence) == last.name:
                self.playlist = before
                return
            self.restarts += 1
            self._begin(playlist)
        elif self._next < playlist.sequence:
            start = playlist.sequence if playlist.ended else self._start(playlist)
            self.skipped += start - self._next
            self._next = start
        self._names = {segment.sequence: segment.name for segment in playlist.segments}

    def unchanged(self, now: float, not_before: float = 0.0) -> None:
        """It could not be had when asked for at `now`, or is the same as before; the server says when it may be."""
        self.reload_at = max(now + self.target_s * 0.5, not_before)

    def take(self, now: float) -> Segment | None:
        """The next segment, or None while there is none."""
        playlist = self.playlist
        if playlist is not None and self._next < playlist.end:
            self._waits_since = None
            return playlist.segments[self._next - playlist.sequence]
        if self._waits_since is None:
            self._waits_since = now
        return None

    def took(self) -> bool:
        """The segment that `take` gave is done with; whether it did not continue the one before."""
        fresh, self._fresh = self._fresh, False
        self._next += 1
        return fresh

    def gives_up_at(self, stall_s: float) -> float:
        """Until when a segment is waited for, at least `stall_s` long; inf where none is."""
        return inf if self._waits_since is None else self._waits_since + self.patience_s(stall_s)

    def patience_s(self, stall_s: float) -> float:
        """For how long nothing new may come."""
        return max(stall_s, STALLED_TARGETS * self.target_s)

    def _begin(self, playlist: MediaPlaylist) -> None:
        self._next = self._start(playlist)
        self._fresh = True
        index = self._next - playlist.sequence
        self._began_behind_s = sum(segment.duration_s for segment in playlist.segments[:index])
        self._began_before_s = sum(segment.duration_s for segment in playlist.segments[index:])

    def _start(self, playlist: MediaPlaylist) -> int:
        """The sequence number to begin with."""
        bookmark, self._bookmark = self._bookmark, None
        if bookmark is not None and bookmark in _bookmarks(playlist):
            return bookmark.sequence + 1
        beside, self._beside = self._beside, None
        if beside is not None and playlist.ended:
            return _nearest(playlist, beside._began_behind_s)
        if beside is not None:
            return _before_end(playlist, beside._began_before_s, nearest=True)
        if playlist.start_s is not None and playlist.start_s >= 0.0:
            return _behind_begin(playlist, playlist.start_s)
        if playlist.start_s is not None:
            return _before_end(playlist, -playlist.start_s)
        return playlist.sequence if playlist.ended else _before_end(playlist, EDGE_TARGETS * playlist.target_s)


def _bookmarks(playlist: MediaPlaylist) -> Iterator[Bookmark]:
    return (Bookmark(segment.sequence, segment.name) for segment in playlist.segments)


def _before_end(playlist: MediaPlaylist, distance_s: float, *, nearest: bool = False) -> int:
    """The last segment that begins at least so long before the end, or the one that begins nearest to there."""
    left_s = 0.0
    for segment in reversed(playlist.segments):
        left_s += segment.duration_s
        if left_s >= distance_s - (segment.duration_s / 2 if nearest else 0.0):
            return segment.sequence
    return playlist.sequence


def _behind_begin(playlist: MediaPlaylist, distance_s: float) -> int:
    """The segment that is played so long after the begin."""
    passed_s = 0.0
    for segment in playlist.segments:
        passed_s += segment.duration_s
        if passed_s > distance_s:
            return segment.sequence
    return playlist.end if playlist.ended else max(playlist.sequence, playlist.end - 1)


def _nearest(playlist: MediaPlaylist, distance_s: float) -> int:
    """The segment that begins nearest to so long after the begin."""
    passed_s = 0.0
    for segment in playlist.segments:
        if passed_s + segment.duration_s / 2 >= distance_s:
            return segment.sequence
        passed_s += segment.duration_s
    return playlist.end
