"""A variant's samples as the segments that HLS and DASH players read, and who reads them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tvarr.coordinator import metrics
from tvarr.coordinator.clock import Since
from tvarr.coordinator.profiles import carried
from tvarr.coordinator.signals import Signal
from tvarr.errors import MediaError, SourceError, TvarrError
from tvarr.media.fmp4 import entries
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Track, Tracks
from tvarr.media.segmenter import Cut, Segmenter, usual_ticks
from tvarr.media.segments import LISTED, CmafPacker, Part, TsPacker, Window

Container = Literal["ts", "fmp4"]

LEAVES_AFTER_S = 10.0  # a player that asked for nothing for so long, and for three target durations, has left
LEAVES_AFTER_TARGETS = 3
LATE_PICTURE_SEGMENTS = 3  # of sound alone are made before pictures that were announced are not waited for any more
REACH = 20  # segments: a rendition that lies further behind another one of the same player is not read any more

_ids = itertools.count(1)
_STARTED = Since()


@dataclass(slots=True, eq=False)
class Session:
    """One player of a segmented output. It is a viewer from its first request to some time after its last one."""

    token: str  # in its addresses
    output: SegmentOutput
    container: str  # what it reads: hls-ts, hls-fmp4, dash
    address: str
    user_agent: str
    number: int  # of the newest segment that it has fetched; first, of the one before those that it is shown
    asked_at: float  # of the loop's time: its last request
    id: str = field(default_factory=lambda: f"s{next(_ids)}")
    connected_at: float = field(default_factory=time.time)
    sent_bytes: int = 0
    waiting: int = 0  # requests under way
    places: dict[str, int] = field(default_factory=dict)  # the same by rendition
    joined: int = field(init=False)  # `number` at first

    def __post_init__(self) -> None:
        self.joined = self.number

    @property
    def lag_s(self) -> float:
        """How much media lies between the newest segment's end and that of the last one fetched."""
        window = self.output.window
        fetched = window.get(self.number)
        behind = [s.duration_ticks for s in window.segments if fetched is None or s.number > self.number]
        return sum(behind) / TICKS_PER_SECOND

    def is_over(self, now: float) -> bool:
        patience_s = max(LEAVES_AFTER_S, LEAVES_AFTER_TARGETS * self.output.window.target_s)
        return not self.waiting and now - self.asked_at > patience_s

    @property
    def wanted(self) -> int:
        """Number of the oldest segment that it may still fetch, when it leaves none out."""
        places = (self.places.get(name, self.joined) for name in self.output.renditions)
        return 1 + min((place for place in places if place >= self.number - REACH), default=self.number)

    def fetched(self, number: int, name: str, part: Part) -> None:
        """Counts a segment of a rendition that is sent."""
        self.sent_bytes += len(part.data)
        metrics.SENT_BYTES.labels(self.container).inc(len(part.data))
        self.number = max(self.number, number)
        self.places[name] = max(self.places.get(name, self.joined), number)
        self.output.drained.set()


class SegmentOutput:
    """Segments for any number of sessions. Overflow: the oldest go, and who asks for them learns that (404).

    Where the source waits for its viewers (`full_speed`), those that a session has yet to fetch stay listed: how many
    are made before it is waited for depends on how much of the source is read at once.
    """

    def __init__(
        self,
        container: Container,
        service_name: str,
        drained: Signal,
        *,
        full_speed: bool = False,
        gop_s: float = 0.0,
    ) -> None:
        """`gop_s`: from keyframe to keyframe; 0: not known."""
        self.container = f"segments-{container}"
        self.viewers: set[Session] = set()
        self.changed = Signal()  # a new segment, or the end
        self.drained = drained  # set when a session has fetched something, or left
        self.ended = False
        self.failure: TvarrError | None = None
        self.dropped = 0  # nobody ever is
        # Numbers grow when an output is made anew.
        self.window = Window(first_number=int(_STARTED.now_s), usual_ticks=usual_ticks(gop_s) if gop_s else 0)
        self._carrier = "ts" if container == "ts" else "mp4"
        self._segmenter = Segmenter(None if container == "ts" else _configuration)
        self._packer = TsPacker(service_name) if container == "ts" else CmafPacker()
        self._full_speed = full_speed
        self._shows = False  # pictures are announced
        self.renditions = self._packer.renditions
        self._clock = Since()
        self._epoch_s: float | None = None

    @property
    def epoch_s(self) -> float:
        """When time 0 of the timeline was, in seconds since 1970: fixed when it is asked for first."""
        if self._epoch_s is None:
            self._epoch_s = self.now_s - self.window.end_ticks / TICKS_PER_SECOND
        return self._epoch_s

    @property
    def now_s(self) -> float:
        """What players reckon `epoch_s` against: a clock that is set meanwhile does not move their live edge."""
        return self._clock.now_s

    def push(self, events: Iterable[Event]) -> None:
        """Takes samples and changes of tracks in stream order; tracks that the container can't hold are left out."""
        if self.ended:
            return
        try:
            self._add(self._segmenter.push([self._carried(event) for event in events]))
        except MediaError as error:
            self.end(error)

    def _carried(self, event: Event) -> Event:
        if not isinstance(event, Tracks):
            return event
        tracks = carried(event, self._carrier)
        self._shows = bool(tracks.of_kind(Kind.VIDEO))
        return tracks

    def _add(self, cuts: Iterable[Cut]) -> None:
        for cut in cuts:
            parts, anew = self._packer.pack(cut)
            if self._full_speed:
                self.window.wanted = min((session.wanted for session in self.viewers), default=None)
            self.window.add(cut, parts, anew)
            self.changed.set()

    def end(self, failure: TvarrError | None = None) -> None:
        """No more samples: sessions get what is there and the end of the list, or the failure. The first end counts."""
        if self.ended:
            return
        if failure is None:
            try:
                self._add(self._segmenter.end())
            except MediaError as error:
                failure = error
        self.ended = True
        self.failure = failure
        self.changed.set()

    def join(self, token: str, container: str, address: str, user_agent: str) -> Session:
        listed = self.window.listed()
        number = (listed[0].number if listed else self.window.next_number) - 1
        session = Session(token, self, container, address, user_agent, number, asyncio.get_running_loop().time())
        self.viewers.add(session)
        return session

    def leave(self, session: Session) -> None:
        self.viewers.discard(session)
        self.drained.set()

    def room(self) -> bool:
        """Whether every session has fetched so much that nothing it wants is lost with the next segment."""
        return all(self.window.next_number - 1 - session.number < LISTED - 1 for session in self.viewers)

    def ready(self, least: int) -> bool:
        """Whether a player can begin: so many segments are there, or no more will come, and all kinds of tracks are
        known. A source often has sound long before its first keyframe, and players read only once what there is.

        Raises the failure where there will be no segments, or no more.
        """
        if self.failure is not None:
            raise self.failure
        there = len(self.window.segments)
        if self.ended and not there:
            raise SourceError("the source ended before there was anything to show")
        complete = not self._shows or any(rendition.pictures for rendition in self.renditions.values())
        return self.ended or there >= (least if complete else max(least, LATE_PICTURE_SEGMENTS))


def _configuration(track: Track, data: bytes) -> bytes | None:
    entry = entries.describe(track, data, in_band=False) if entries.carries(track.codec) else None
    return entry.key if entry is not None else None
