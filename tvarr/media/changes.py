"""Changes of tracks in a variant whose copied samples come early and whose transcoded ones come later."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tvarr.media.interleave import Interleaver
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Tracks
from tvarr.media.ring import ITEM_OVERHEAD_BYTES

PAST_TICKS = 3 * TICKS_PER_SECOND  # what lies so far behind a change was made of what came after it


@dataclass(slots=True)
class _Coming:
    """Tracks that are announced, and the copied samples behind them."""

    tracks: Tracks
    pacing: tuple[int, ...]
    seq: int  # in the source's ring
    at_ticks: int  # DTS up to where the source was
    same_job: bool
    copied: list[Sample] = field(default_factory=list)


class Changes:
    """Puts new tracks where they belong: behind all that was made of the source before them.

    Without a change it is an `Interleaver`. Tracks that another job will work for wait, and what is copied behind them
    does, until `job_ended`; where no end is told of, until something came that was made of the source well behind them.
    Tracks for which the job goes on wait for copied samples of tracks that they leave out, and else for nothing.
    Sound that was copied and is transcoded from there on, or the other way around, goes on behind what there was of it.

    At most `max_bytes` of copied samples are held (data and a small overhead for each); over it new tracks come early.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._merger = Interleaver(max_bytes=max_bytes)
        self._tracks = Tracks(())
        self._pacing: tuple[int, ...] = ()
        self._coming: deque[_Coming] = deque()
        self._coming_bytes = 0
        self._last: dict[int, int] = {}  # DTS by track
        self._behind: dict[int, int] = {}  # DTS that sound has to pass first

    @property
    def held_bytes(self) -> int:
        return self._merger.held_bytes + self._coming_bytes

    @property
    def waiting(self) -> bool:
        """Whether tracks were announced that viewers do not have yet."""
        return bool(self._coming)

    def announce(
        self, tracks: Tracks, pacing: tuple[int, ...], *, seq: int, at_ticks: int, same_job: bool
    ) -> Sequence[Event]:
        """New tracks, at `seq` in the source's ring, which came to `at_ticks` (DTS) before them. `pacing`: those that a
        job transcodes, the `same_job` as those before or another one.
        """
        self._coming.append(_Coming(tracks, pacing, seq, at_ticks, same_job))
        self._coming_bytes += ITEM_OVERHEAD_BYTES
        return self._go_on() + self._overflow()

    def copied(self, sample: Sample) -> Sequence[Event]:
        """A sample of the source that is not transcoded."""
        if not self._coming:
            return self._push(sample)
        self._coming[-1].copied.append(sample)
        self._coming_bytes += len(sample.data) + ITEM_OVERHEAD_BYTES
        return self._overflow()

    def made(self, sample: Sample) -> Sequence[Event]:
        """A sample that a job made."""
        if not self._coming:
            return self._push(sample)
        out: list[Event] = []
        while self._coming and sample.dts_ticks >= self._coming[0].at_ticks + PAST_TICKS:
            out += self._change()
        return out + self._push(sample) + self._go_on()

    def job_ended(self, seq: int) -> Sequence[Event]:
        """All that was to be made of the source before `seq` was handed in."""
        out: list[Event] = []
        while self._coming and self._coming[0].seq <= seq:
            out += self._change()
        return out + self._go_on()

    def flush(self) -> Sequence[Event]:
        """All that is held: nothing more will come."""
        out: list[Event] = []
        while self._coming:
            out += self._change()
        out += self._merger.flush()
        return out

    def _go_on(self) -> list[Event]:
        """Changes that nothing has to wait for."""
        out: list[Event] = []
        while self._coming and not self._waits(self._coming[0]):
            out += self._change()
        return out

    def _waits(self, coming: _Coming) -> bool:
        if not self._pacing:
            return False
        if not coming.same_job:
            return True
        codecs = {track.id: track.codec for track in coming.tracks.tracks}
        return any(self._merger.holds(t.id) for t in self._tracks.tracks if codecs.get(t.id) is not t.codec)

    def _change(self) -> list[Event]:
        coming = self._coming.popleft()
        before = self._merger.flush() if self._waits(coming) else []
        for track in coming.tracks.of_kind(Kind.AUDIO):
            if track.id in self._last and (track.id in self._pacing) != (track.id in coming.pacing):
                self._behind[track.id] = self._last[track.id]
        self._tracks, self._pacing = coming.tracks, coming.pacing
        out: list[Event] = [*before, *self._merger.set_tracks(coming.pacing), coming.tracks]
        self._coming_bytes -= ITEM_OVERHEAD_BYTES
        for sample in coming.copied:
            self._coming_bytes -= len(sample.data) + ITEM_OVERHEAD_BYTES
            out += self._push(sample)
        return out

    def _push(self, sample: Sample) -> list[Sample]:
        behind = self._behind.get(sample.track)
        if behind is not None:
            if sample.dts_ticks <= behind:
                return []
            del self._behind[sample.track]
        self._last[sample.track] = sample.dts_ticks
        return self._merger.push(sample)

    def _overflow(self) -> list[Event]:
        out: list[Event] = []
        while self._coming and self.held_bytes > self._max_bytes:
            out += self._change()
        return out
