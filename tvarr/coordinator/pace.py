"""Whether a job keeps up: judged by what its source has and what came out. Pure; the time is an argument."""

from __future__ import annotations

from collections import deque

from tvarr.media.model import TICKS_PER_SECOND

STALL_S = 3.0  # a live job without output for so long, while its source goes on, is given up
START_S = 10.0  # the same for the first output: encoders and drivers take their time to open
FULL_SPEED_STALL_S = 10.0
FLOWING = 0.6  # a source that gave so much media time for each second of the silence went on meanwhile
FULL_SPEED_LAG_TICKS = 2 * TICKS_PER_SECOND  # more than an encoder keeps back
SLOW_SPEED = 0.9
SLOW_S = 10.0  # below `SLOW_SPEED` for so long is slow
BEHIND_TICKS = TICKS_PER_SECOND  # a job this close to its source is not behind
LOOK_EVERY_S = 2.5


class Pace:
    """Follows one job. Ticks are DTS on the relay's timeline; `newest_ticks` is the source's latest sample."""

    def __init__(self, *, full_speed: bool, now: float, newest_ticks: int, start_ticks: int) -> None:
        """`start_ticks`: of the first sample that the job gets."""
        self._full_speed = full_speed
        self._begun = False
        self._heard_at = now
        self._newest_then = newest_ticks
        self._start_ticks = start_ticks
        self._out_ticks = start_ticks
        self._step_ticks = 0  # from the last output but one to the last one
        self._looks: deque[tuple[float, int, int]] = deque()  # when, the output's DTS, the source's

    @property
    def lag_ticks(self) -> int:
        """From the source's newest sample, when the last output came, to that output."""
        return max(0, self._newest_then - self._out_ticks)

    def output_came(self, now: float, dts_ticks: int, newest_ticks: int) -> None:
        if self._begun:
            self._step_ticks = dts_ticks - self._out_ticks
        self._begun = True
        self._heard_at = now
        self._newest_then = newest_ticks
        self._out_ticks = dts_ticks

    def held_up(self, now: float, newest_ticks: int) -> None:
        """Viewers take no more just now: nothing is asked of the job."""
        self._heard_at = now
        self._newest_then = newest_ticks
        self._looks.clear()

    def stalled_s(self, now: float, newest_ticks: int) -> float:
        """For how long nothing has come that should have; 0 where all is well."""
        silent_s = now - self._heard_at
        if silent_s < self._limit_s:
            return 0.0
        if self._full_speed:
            flows = newest_ticks - self._out_ticks > FULL_SPEED_LAG_TICKS
        elif self._begun:
            flows = newest_ticks - self._newest_then > FLOWING * silent_s * TICKS_PER_SECOND
        else:
            flows = newest_ticks - self._start_ticks > FLOWING * silent_s * TICKS_PER_SECOND
        return silent_s if flows else 0.0

    def look_in_s(self, now: float) -> float:
        """When to call `slow_at` and `stalled_s` next."""
        due = self._heard_at + self._limit_s - now
        return min(due, LOOK_EVERY_S) if due > 0.0 else 0.25

    def slow_at(self, now: float, newest_ticks: int) -> float | None:
        """The speed of the last ten seconds, where the job falls behind a source that goes on; else None."""
        if self._full_speed or not self._begun:
            return None
        looks = self._looks
        looks.append((now, self._out_ticks, newest_ticks))
        while len(looks) > 1 and looks[1][0] <= now - SLOW_S:
            looks.popleft()
        then, out, newest = looks[0]
        elapsed = (now - then) * TICKS_PER_SECOND
        if (
            now - then < SLOW_S
            or newest_ticks - newest < elapsed * 0.95
            or newest_ticks - self._out_ticks < BEHIND_TICKS
        ):
            return None
        given = self._out_ticks - out
        return given / elapsed if given + self._step_ticks < SLOW_SPEED * elapsed else None  # the next may be due

    @property
    def _limit_s(self) -> float:
        if not self._begun:
            return START_S
        return FULL_SPEED_STALL_S if self._full_speed else STALL_S
