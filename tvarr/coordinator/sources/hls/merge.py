"""Merges the events of renditions that play together by time. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Track, Tracks, signed_33

ID_STEP = 1 << 16  # between the track ids of one rendition and the next: PIDs and small MP4 ids would meet
NEAR_TICKS = 10 * TICKS_PER_SECOND  # times further apart are those of different clocks

_NO_LANGUAGE = ("", "und")


class Part:
    """One rendition's events that wait for the others'."""

    def __init__(self, index: int, kinds: frozenset[Kind] | None, language: str = "") -> None:
        """`kinds`: what is taken from it; None: everything. `language`: of its tracks that name none."""
        self.tracks: Tracks | None = None
        self.ended = False
        self.queue: deque[Event] = deque()  # what one read gave
        self._jumps = 0  # of its clock
        self._played_ticks = 0
        self._index = index
        self._kinds = kinds
        self._language = language
        self._taken: frozenset[int] = frozenset()
        self._clocks: set[int] = set()  # ids of the tracks that say when; given out ones
        self._last: int | None = None  # DTS, of the last sample given out

    def push(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Tracks):
                self.queue.append(self._translate(event))
            elif event.track in self._taken:
                self.queue.append(event._replace(track=event.track + self._index * ID_STEP))

    def _translate(self, tracks: Tracks) -> Tracks:
        kept = [t for t in tracks.tracks if self._kinds is None or t.kind in self._kinds]
        self._taken = frozenset(t.id for t in kept)
        self._clocks |= {t.id + self._index * ID_STEP for t in kept if t.kind in (Kind.VIDEO, Kind.AUDIO)}
        return Tracks(tuple(self._translated(t) for t in kept), tracks.program)

    def _translated(self, track: Track) -> Track:
        language = self._language if track.language in _NO_LANGUAGE and self._language else track.language
        return replace(track, id=track.id + self._index * ID_STEP, language=language)

    @property
    def leads(self) -> bool:
        """What is next belongs to what came before: tracks, subtitles, data."""
        return isinstance(self.queue[0], Tracks) or self.queue[0].track not in self._clocks

    @property
    def rank(self) -> tuple[int, int]:
        """How far the sample that is next lies behind the begin: jumps of the clock, and what was played, in ticks."""
        step = self._step()
        return (self._jumps + (abs(step) > NEAR_TICKS), self._played_ticks)

    def _step(self) -> int:
        head = self.queue[0]
        return signed_33(head.dts_ticks - self._last) if isinstance(head, Sample) and self._last is not None else 0

    def pop(self) -> Event:
        if isinstance(self.queue[0], Tracks):
            self.tracks = self.queue[0]
        elif not self.leads:
            step = self._step()
            if abs(step) > NEAR_TICKS:
                self._jumps += 1
            else:
                self._played_ticks += max(0, step)
            self._last = self.queue[0].dts_ticks
        return self.queue.popleft()


class Merge:
    """Gives out the events of several parts as if they had come in one container.

    Where the clocks of two parts are near each other, they decide. Else a jump of the clock has come in one part and
    not yet in the other, which then goes first; or they have never had a common clock, and what was played counts.
    """

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def wanted(self) -> Part | None:
        """A part that must give more before anything can leave; None where none is."""
        return next((part for part in self.parts if not part.queue and not part.ended), None)

    def take(self) -> list[Event]:
        """What can leave by now."""
        out: list[Event] = []
        while self.wanted() is None:
            waiting = [part for part in self.parts if part.queue]
            if not waiting:
                break
            first = next((part for part in waiting if part.leads), None) or self._first(waiting)
            event = first.pop()
            if isinstance(event, Sample):
                out.append(event)
            elif all(part.tracks is not None or part.ended for part in self.parts):
                out.append(self._tracks())
        return out

    def _first(self, waiting: list[Part]) -> Part:
        first = waiting[0]
        for part in waiting[1:]:
            if self._is_before(part, first):
                first = part
        return first

    def _is_before(self, part: Part, other: Part) -> bool:
        mine, theirs = part.queue[0], other.queue[0]
        assert isinstance(mine, Sample)
        assert isinstance(theirs, Sample)
        distance = signed_33(mine.dts_ticks - theirs.dts_ticks)
        if abs(distance) <= NEAR_TICKS:
            return distance < 0
        return part.rank < other.rank

    def _tracks(self) -> Tracks:
        known = [part.tracks for part in self.parts if part.tracks is not None]
        return Tracks(tuple(track for tracks in known for track in tracks.tracks), known[0].program)
