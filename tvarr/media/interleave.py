"""Merges copied tracks, which come early, with transcoded ones, which come later, by decode time."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from tvarr.media.model import TICKS_PER_SECOND, Sample
from tvarr.media.ring import ITEM_OVERHEAD_BYTES

MAX_LAG_TICKS = TICKS_PER_SECOND  # a pacing track this far behind the foremost one has ended or is sparse

_NOTHING_YET = -(1 << 63)


class Interleaver:
    """Holds copied samples back until the transcoded tracks have passed them.

    *Pacing* tracks are those that a job transcodes: their samples leave as they come, never held. A copied sample
    leaves when every pacing track has reached its DTS. A pacing track that lies more than `MAX_LAG_TICKS` behind the
    foremost one, or has given nothing for as long, no longer counts: it has ended, or is sparse. Without pacing tracks
    everything passes straight through.

    At most `max_bytes` (data and a small overhead for each sample) are held; over it the oldest held samples (by DTS)
    leave early, counted in `overflowed`: viewers get the copied tracks ahead of a job that hangs, not nothing.
    """

    def __init__(self, pacing: Iterable[int] = (), max_bytes: int = 16 << 20) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.overflowed = 0
        self._reached: dict[int, int | None] = dict.fromkeys(pacing)  # last DTS of each pacing track
        self._first: int | None = None  # the first DTS that any pacing track gave
        self._held: list[tuple[int, int, Sample]] = []  # a heap by DTS, then by arrival
        self._arrivals = 0

    def set_tracks(self, pacing: Iterable[int]) -> list[Sample]:
        """Replaces the pacing tracks; positions of those that stay are kept. Returns what this sets free."""
        self._reached = {track: self._reached.get(track) for track in pacing}
        self._first = min((dts for dts in self._reached.values() if dts is not None), default=None)
        return self._release()

    def push(self, sample: Sample) -> list[Sample]:
        """Takes one sample and returns what may leave now, in DTS order."""
        if sample.track in self._reached:
            self._reached[sample.track] = sample.dts_ticks
            if self._first is None:
                self._first = sample.dts_ticks
            before = self._release(at_most=sample.dts_ticks)
            return [*before, sample, *self._release()]
        self._arrivals += 1
        heappush(self._held, (sample.dts_ticks, self._arrivals, sample))
        self.held_bytes += len(sample.data) + ITEM_OVERHEAD_BYTES
        return self._release() + self._overflow()

    def holds(self, track: int) -> bool:
        """Whether samples of this track wait."""
        return any(sample.track == track for _, _, sample in self._held)

    def flush(self) -> list[Sample]:
        """Returns everything held, in DTS order: the job has ended."""
        return [self._pop() for _ in range(len(self._held))]

    def _release(self, at_most: int | None = None) -> list[Sample]:
        """Pops what lies at or below the frontier, and at or below `at_most`."""
        if not self._held:
            return []
        frontier = self._frontier()
        if at_most is not None:
            frontier = at_most if frontier is None else min(frontier, at_most)
        out: list[Sample] = []
        while self._held and (frontier is None or self._held[0][0] <= frontier):
            out.append(self._pop())
        return out

    def _frontier(self) -> int | None:
        """The DTS that every pacing track that counts has reached; None where there is nothing to wait for."""
        if not self._reached:
            return None
        if self._first is None:
            return _NOTHING_YET
        reached = [self._first if dts is None else dts for dts in self._reached.values()]
        foremost = max(reached)
        return min(dts for dts in reached if dts >= foremost - MAX_LAG_TICKS)

    def _overflow(self) -> list[Sample]:
        out: list[Sample] = []
        while self.held_bytes > self.max_bytes:
            out.append(self._pop())
            self.overflowed += 1
        return out

    def _pop(self) -> Sample:
        sample = heappop(self._held)[2]
        self.held_bytes -= len(sample.data) + ITEM_OVERHEAD_BYTES
        return sample
