"""Media at the speed of a clock. Pure: time is an argument, and the pacer names its next deadline."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf

from tvarr.media.batching import Rhythm
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Tracks

LATE_S = 3.0  # a pacer further behind than this (the process was suspended, the disk slow), time is let go
CLOCK_TOLERANCE = 1e-4  # a live source's clock may run ahead by 30 ppm (13818-1, 2.4.2.1), and ours may be slow
JUMP_S = 10.0  # a greater step of the DTS does not hold the media up
HOLE_S = 1.0  # the same for a network's: a live one has holes, and what its server can't send meanwhile may be lost

_PACED = (Kind.VIDEO, Kind.AUDIO)


class Pacer:
    """Holds events until they are due: `preroll_s` of media at once, the rest at the speed of its DTS.

    Order is kept. Video and audio samples say when; subtitles and data go with what stands before them. What the pacer
    holds is bounded by its caller, who reads on only when it is empty: the events of one read.
    """

    def __init__(
        self,
        preroll_s: float,
        rhythm: Rhythm,
        late_s: float = LATE_S,
        jump_s: float = JUMP_S,
        tolerance: float = 0.0,
    ) -> None:
        """`tolerance`: the clock is taken to be slow by this share."""
        self._preroll_s = preroll_s
        self._late_s = late_s
        self._jump_s = jump_s
        self._rate = 1.0 + tolerance
        self._rhythm = rhythm  # of slices: nothing wakes up more often
        self._queue: deque[tuple[float, Event]] = deque()  # with its media time in seconds; -inf: due at once
        self._clocks: frozenset[int] = frozenset()  # ids of the tracks that say when
        self._position_s = -inf  # media time of the last event queued
        self._skipped_s = 0.0  # the sum of the jumps, which take no media time
        self._origin_s: float | None = None  # the clock's time at media time zero, less the preroll
        self._taken_at = -inf
        self._late_before_s = -inf  # media times that were due a slice before that
        self._next_slice_at = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, events: Iterable[Event]) -> None:
        """Queues events in stream order."""
        for event in events:
            if isinstance(event, Tracks):
                self._clocks = frozenset(t.id for t in event.tracks if t.kind in _PACED)
            elif event.track in self._clocks:
                self._advance(event)
            self._queue.append((self._position_s, event))

    def _advance(self, sample: Sample) -> None:
        at_s = sample.dts_ticks / TICKS_PER_SECOND - self._skipped_s
        if self._position_s + self._jump_s < at_s and self._position_s != -inf:
            self._skipped_s += at_s - self._position_s  # it is due when the event before it is
            at_s = self._position_s
        self._position_s = max(self._position_s, at_s)

    def take(self, now: float) -> list[Event]:
        """Everything due at `now` (seconds, monotonic)."""
        now *= self._rate
        if not self._queue:
            return []
        taken = []
        while self._queue and self._queue[0][0] <= self._media_time(self._queue[0][0], now):
            taken.append(self._queue.popleft()[1])
        pause_s = self._rhythm.pause_s(now)
        self._taken_at = now
        self._late_before_s = now - self._origin_s - pause_s if self._origin_s is not None else -inf
        self._next_slice_at = now + pause_s
        return taken

    def _media_time(self, head_s: float, now: float) -> float:
        """Up to where media are due, with `head_s` the first that waits."""
        if head_s == -inf:
            return head_s
        if self._origin_s is None or now - self._origin_s - head_s > self._late_s + self._preroll_s:
            self._origin_s = now - head_s - self._preroll_s
        return now - self._origin_s

    def deadline(self) -> float | None:
        """When `take` next has something to give, or None while nothing is held.

        What was due a slice before the last `take`, and had not been read by then, is given at once: a slice of a heavy
        source is more than one read. What is less late waits for the next slice, which costs nobody a wake-up.
        """
        if not self._queue:
            return None
        due = self._next_slice_at
        if self._origin_s is not None:
            head_s = self._queue[0][0]
            due = self._taken_at if head_s <= self._late_before_s else max(due, head_s + self._origin_s)
        return due / self._rate


class Smoother(Pacer):
    """Real time for a live source that comes in bursts, as segments do: each is spread over the time that it lasts.

    It is faster than real time by CLOCK_TOLERANCE, or a source with a fast clock would get ahead of us until what is
    next is no longer to be had.
    """

    def __init__(self, preroll_s: float, rhythm: Rhythm) -> None:
        super().__init__(preroll_s, rhythm, tolerance=CLOCK_TOLERANCE)


class Throttle(Pacer):
    """Holds back media that come faster than real time: a live source passes untouched, a finished file that a server
    sends at once does not run away from its readers.

    A leaky bucket of `ahead_s`: over any span of time no more media pass than the span and `ahead_s`, whatever was
    missed before. It leaks faster than real time by CLOCK_TOLERANCE, or a live source with a fast clock would fill it
    within days, and then lose what its server can't buffer.
    """

    def __init__(self, ahead_s: float, rhythm: Rhythm) -> None:
        super().__init__(ahead_s, rhythm, late_s=0.0, jump_s=HOLE_S, tolerance=CLOCK_TOLERANCE)

    def push(self, events: Iterable[Event]) -> None:
        super().push(events)
        self._next_slice_at = 0.0  # what comes in time goes on at once
