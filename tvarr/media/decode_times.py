"""Decode times for pictures that only say when they are shown, as RTP's do (RFC 3550, 5.1). Pure.

Pictures come in decode order. Where at most `depth` of those before one are shown after it, the (n - depth)th time of
showing, sorted, can be the decode time of the nth: it grows, is never after the picture is shown, and is known then.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise

from tvarr.media.model import TICKS_PER_SECOND, Sample, signed_33

LOOK_AT = 17  # pictures held at the start to learn the depth: H.264 and HEVC reorder 16 at most (H.264, A.3.1)
JUMP_TICKS = 10 * TICKS_PER_SECOND  # a step of the time of showing behind which all begins anew
_DEFAULT_TICKS = TICKS_PER_SECOND // 25


class DecodeTimes:
    """Gives one track's pictures their decode times. Times of showing come in 33 bits; all leave unwrapped."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._held: list[Sample] = []  # the first ones, at most LOOK_AT
        self._learned = False
        self._waiting: list[int] = []  # a heap of times that will be decode times: as many as pictures are reordered
        self._latest: int | None = None  # when the picture before is shown

    def push(self, sample: Sample) -> list[Sample]:
        """Takes the next picture in decode order, whose own decode time is not looked at."""
        pts = sample.pts_ticks
        before: list[Sample] = []
        if self._latest is not None:
            step = signed_33(pts - self._latest)
            if abs(step) > JUMP_TICKS:
                before = self.flush()
                self._begin()
            else:
                pts = self._latest + step
        self._latest = pts
        sample = sample._replace(pts_ticks=pts)
        if self._learned:
            return [self._stamp(sample)]
        self._held.append(sample)
        return before + (self.flush() if len(self._held) >= LOOK_AT else [])

    def flush(self) -> list[Sample]:
        """What was held to learn from; what comes later is taken to be reordered no deeper."""
        held, self._held = self._held, []
        if self._learned or not held:
            return []
        self._learned = True
        shown = [sample.pts_ticks for sample in held]
        depth = max(sum(earlier > pts for earlier in shown[:n]) for n, pts in enumerate(shown))
        step = min((b - a for a, b in pairwise(sorted(shown)) if b > a), default=_DEFAULT_TICKS)
        self._waiting = [min(shown) - n * step for n in range(depth, 0, -1)]
        return [self._stamp(sample) for sample in held]

    def _stamp(self, sample: Sample) -> Sample:
        heappush(self._waiting, sample.pts_ticks)
        dts = heappop(self._waiting)
        if dts > sample.pts_ticks:  # deeper than what was learned: it can't be decoded in time
            dts = sample.pts_ticks
        return sample._replace(dts_ticks=dts)
