"""When a job stands still. Pure."""

from __future__ import annotations

from dataclasses import dataclass

STALL_S = 10.0  # input flows and nothing comes out for so long
PAUSE_S = 2.0  # input that stays away for so long is a pause of the source


@dataclass(slots=True)
class StallWatch:
    """Whether ffmpeg gives nothing although it gets something. Times are seconds of one clock."""

    stall_s: float
    output_blocked: bool = False  # the other side does not take what came out
    _waiting_since: float | None = None  # of the first input since the last output
    _last_input: float = 0.0
    _ended: bool = False

    def input_came(self, now: float) -> None:
        if self._waiting_since is None or now - self._last_input > PAUSE_S:
            self._waiting_since = now
        self._last_input = now

    def input_taken(self, now: float) -> None:
        self._last_input = now

    def input_ended(self, now: float) -> None:
        self._waiting_since, self._ended = now, True

    def output_went(self, now: float) -> None:
        self.output_blocked = False
        self._waiting_since = now if self._ended else None

    def stalled(self, now: float, *, input_blocked: bool) -> bool:
        if self._waiting_since is None or self.output_blocked:
            return False
        flows = self._ended or input_blocked or now - self._last_input <= PAUSE_S
        return flows and now - self._waiting_since >= self.stall_s
