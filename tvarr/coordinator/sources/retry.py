"""Whether and when a source that failed is connected to again. Pure: time is an argument."""

from __future__ import annotations

from random import Random

from tvarr.coordinator.source import IngestLimits, SourceFailure


class Retry:
    """Exponential delays with full jitter, small again after a healthy while, within a total.

    Nothing ever came: only failures that may pass (`SourceFailure.passing`) are tried again, within `connect_s` of the
    start, so that whoever waits hears the cause in time. After media came, everything is tried again until there
    was none for `give_up_s`. No connection is tried before the server wants one; where that is later than any would be
    tried, none is.
    """

    def __init__(self, limits: IngestLimits, rng: Random, now: float) -> None:
        self._limits = limits
        self._rng = rng
        self._started_at = now
        self._attempts = 0
        self._media_at: float | None = None  # the last media, of any connection
        self._media_since: float | None = None  # the first media of this connection
        self._has_ended = False

    @property
    def had_media(self) -> bool:
        return self._media_at is not None

    @property
    def has_ended(self) -> bool:
        """The last body with media came to an end in good order, and since then the source was gone every time."""
        return self._has_ended

    def media(self, now: float) -> None:
        """Pictures or sound came."""
        self._media_at = now
        if self._media_since is None:
            self._media_since = now
        elif now - self._media_since >= self._limits.healthy_s:
            self._attempts = 0

    def failed(self, failure: SourceFailure, now: float) -> float | None:
        """Takes note of a connection's end; returns the delay before the next (seconds), or None to give up."""
        self._has_ended = failure.ended if self._media_since is not None else self._has_ended and failure.gone
        self._media_since = None
        ceiling_s = min(self._limits.retry_max_s, self._limits.retry_base_s * 2.0 ** min(self._attempts, 32))
        delay_s = max(self._rng.uniform(0.0, ceiling_s), failure.retry_after_s)
        self._attempts += 1
        if self._media_at is None:
            in_time = failure.passing and now + delay_s < self._started_at + self._limits.connect_s
        else:
            in_time = now + failure.retry_after_s < self._media_at + self._limits.give_up_s
        return delay_s if in_time else None
