"""Groups samples into batches for the wire, and says how long media may be gathered.

Pure: no clock and no I/O. The caller passes the time in and arms one timer for `deadline()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvarr.media.model import Sample

QUICK_S = 0.040
SETTLE_S = 5.0  # somebody may wait for a stream's first picture for so long
RAMP_S = 3.0  # from then on pauses grow for so long: at once, the last before and the first after would make one gap


class Rhythm:
    """For how long media are gathered before they go on: `quick_s` while a stream is young, then up to `settled_s`.

    What a live stream costs is wake-ups more than bytes: each begins on caches that encoders have emptied since the
    last. Times are seconds; one stream each.
    """

    __slots__ = ("_began_at", "_quick_s", "_settled_s")

    def __init__(self, quick_s: float, settled_s: float) -> None:
        """A `settled_s` below `quick_s` counts as that."""
        self._quick_s = quick_s
        self._settled_s = max(quick_s, settled_s)
        self._began_at: float | None = None

    def pause_s(self, now: float) -> float:
        """How long to gather from `now` (monotonic) on. The stream is as old as the first call."""
        if self._began_at is None:
            self._began_at = now
        grown = min(max(0.0, (now - self._began_at - SETTLE_S) / RAMP_S), 1.0)
        return self._quick_s + grown * (self._settled_s - self._quick_s)


@dataclass(slots=True)
class Batcher:
    """Collects samples until a batch is worth sending.

    A batch leaves when it holds `max_bytes`, or when its oldest sample has waited `max_age_s`:
    a radio channel is not held up for long, and a burst does not become one huge message.
    Order is kept; a sample larger than `max_bytes` travels alone.
    """

    max_bytes: int = 256 * 1024
    max_age_s: float = QUICK_S
    _samples: list[Sample] = field(default_factory=list)
    _bytes: int = 0
    _oldest_at: float = 0.0

    def push(self, sample: Sample, now: float) -> list[list[Sample]]:
        """Takes one sample at time `now` (seconds, monotonic) and returns the batches that are due, oldest first."""
        due = self.poll(now)
        if self._samples and self._bytes + len(sample.data) > self.max_bytes:
            due.append(self.flush())
        if not self._samples:
            self._oldest_at = now
        self._samples.append(sample)
        self._bytes += len(sample.data)
        if self._bytes >= self.max_bytes:
            due.append(self.flush())
        return due

    def poll(self, now: float) -> list[list[Sample]]:
        """Returns the pending batch if its time has come."""
        deadline = self.deadline()
        return [self.flush()] if deadline is not None and now >= deadline else []

    def deadline(self) -> float | None:
        """When `poll` next has something to do, or None while nothing is pending."""
        return self._oldest_at + self.max_age_s if self._samples else None

    def flush(self) -> list[Sample]:
        """Returns what is pending, possibly nothing: at the end, or before a message that may not overtake samples."""
        batch, self._samples, self._bytes = self._samples, [], 0
        return batch
