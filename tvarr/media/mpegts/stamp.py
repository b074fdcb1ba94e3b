"""Times for access units that came without."""

from __future__ import annotations

from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Sample, signed_33
from tvarr.media.mpegts.units import Order, Unit

MAX_EARLY_UNITS = 64  # kept until the first time stamp comes; then they are given times before it
_DEFAULT_TICKS = TICKS_PER_SECOND // 25  # of a picture, where nothing tells


class Stamper:
    """Makes samples of one audio or video track's units, in 33 bits.

    A unit without time stamps is decoded one frame after the one before it, and shown where its order among the
    pictures of its group puts it.
    """

    def __init__(self, track: int) -> None:
        self.wants_order = False  # pictures without time stamps have come
        self._track = track
        self._early: list[Unit] = []
        self._last_dts: int | None = None
        self._measured_ticks = 0  # from one unit to the next, where both have time stamps
        self._was_timed = False
        self._anchor: tuple[Order, int] | None = None  # a picture of the present group, and when it is shown
        self._delay = 0  # from decoding the first picture of a group to showing it

    def samples(self, units: list[Unit], unit_ticks: float, clock_ticks: int | None) -> list[Sample]:
        """`unit_ticks`: how long a unit lasts, 0 if not known. `clock_ticks`: the programme's latest DTS."""
        made: list[Sample] = []
        for unit in units:
            ticks = unit_ticks or self._measured_ticks or _DEFAULT_TICKS
            if unit.pts_ticks is None and self._last_dts is None:
                self._early.append(unit)
                if len(self._early) > MAX_EARLY_UNITS:
                    made += self._stamp_early(clock_ticks or 0, ticks)
                continue
            if self._early and unit.pts_ticks is not None:
                dts = unit.pts_ticks if unit.dts_ticks is None else unit.dts_ticks
                made += self._stamp_early(round(dts - len(self._early) * ticks), ticks)
            made.append(self._stamp(unit, ticks))
        return made

    def flush(self, clock_ticks: int | None) -> list[Sample]:
        """End of input: what was waiting for a time stamp."""
        return self._stamp_early(clock_ticks or 0, self._measured_ticks or _DEFAULT_TICKS)

    def _stamp_early(self, first_dts: int, ticks: float) -> list[Sample]:
        units, self._early = self._early, []
        made = []
        for index, unit in enumerate(units):
            self._last_dts = round(first_dts + index * ticks) % TICKS_33BIT
            made.append(Sample(self._track, self._last_dts, self._last_dts, unit.data, unit.keyframe))
        return made

    def _stamp(self, unit: Unit, ticks: float) -> Sample:
        if unit.pts_ticks is None:
            dts = round((self._last_dts or 0) + ticks) % TICKS_33BIT
            pts = self._shown_at(unit.order, dts, ticks)
            self.wants_order = True
        else:
            pts = unit.pts_ticks
            dts = pts if unit.dts_ticks is None else unit.dts_ticks
            if signed_33(pts - dts) < 0:
                dts = pts
            step = 0 if self._last_dts is None else signed_33(dts - self._last_dts)
            if self._was_timed and 0 < step < TICKS_PER_SECOND:
                self._measured_ticks = step
        if unit.order is not None:
            if self._anchor is None or self._anchor[0].group != unit.order.group:
                self._delay = signed_33(pts - dts)
            self._anchor = unit.order, pts
        self._last_dts, self._was_timed = dts, unit.pts_ticks is not None
        return Sample(self._track, pts, dts, unit.data, unit.keyframe)

    def _shown_at(self, order: Order | None, dts: int, ticks: float) -> int:
        if order is None:
            return (dts + self._delay) % TICKS_33BIT
        if self._anchor is None or self._anchor[0].group != order.group:
            return (dts + self._delay) % TICKS_33BIT
        before, pts = self._anchor
        half = 1 << order.bits - 1
        steps = (order.number - before.number + half) % (2 * half) - half
        shown = round(pts + steps * ticks / order.step) % TICKS_33BIT
        return shown if signed_33(shown - dts) >= 0 else dts
