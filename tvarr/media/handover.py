"""A planned move: two jobs of one variant run side by side, and viewers change from one to the other at a keyframe."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum

from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample
from tvarr.media.ring import ITEM_OVERHEAD_BYTES
from tvarr.media.splice import Splice

MAX_HOLD_TICKS = TICKS_PER_SECOND  # viewers wait at most so long (media time) for a successor that is a little later
MAX_MISSED = 3  # holds in vain, after which the move is given up
MAX_HELD_BYTES = 32 << 20  # of the successor's output that nobody has use for yet; with more, the move is given up


class Phase(Enum):
    RUNNING = "running"  # viewers get the old job's output
    SWITCHED = "switched"  # viewers get the successor's
    FAILED = "failed"  # the two never met: the old job goes on alone


class Handover:
    """Takes both jobs' samples, each in decode order, and gives what viewers get.

    Keyframes fall on the same points of the timeline in every job of a variant. So the old job's pictures are released
    below S and the successor's from S on, where S is a keyframe of the successor that the old job has not passed.
    While the successor catches up it may come to each such point a little too late. Then the old job's pictures are
    held back at its next keyframe for at most `MAX_HOLD_TICKS`, until the successor is there too: one wait of what
    the successor's encoder takes longer. Sound changes at the same moment, wherever it is. Without video it changes as
    soon as the successor has what comes next.

    `splice` is the variant's and belongs to the old job until the switch, then to the successor.
    """

    def __init__(self, splice: Splice, kinds: Mapping[int, Kind]) -> None:
        self.phase = Phase.RUNNING
        self._splice = splice
        self._kinds = kinds
        self._video = next((track for track, kind in kinds.items() if kind is Kind.VIDEO), None)
        self._passed = splice.resume_ticks(kinds) or 0  # every picture below is the old job's
        self._at: int | None = None  # S
        self._new: deque[Sample] = deque()  # of the successor, from S on, and sound from where viewers are
        self._new_bytes = 0
        self._close = False  # the successor came to a keyframe only a little too late
        self._hold_at: int | None = None  # a keyframe of the old job
        self._old: list[Sample] = []  # its pictures from there on
        self._missed = 0

    def old(self, sample: Sample) -> list[Sample]:
        """Takes a sample of the old job; after the switch it is of no use."""
        if self.phase is Phase.SWITCHED:
            return []
        kind = self._kinds[sample.track]
        if self.phase is Phase.FAILED or sample.track != self._video:
            return self._splice.take(sample, kind)
        out = self._old_picture(sample)
        if self._hold_at is not None and sample.pts_ticks - self._hold_at > MAX_HOLD_TICKS:
            self._missed += 1
            if self._missed >= MAX_MISSED:
                return out + self.give_up()
            out += self._let_go()
        return out

    def new(self, sample: Sample) -> list[Sample]:
        """Takes a sample of the successor."""
        if self.phase is Phase.SWITCHED:
            return self._splice.take(sample, self._kinds[sample.track])
        if self.phase is Phase.FAILED:
            return []
        if sample.track == self._video:
            return self._new_picture(sample)
        out = self._keep(sample)
        if self._video is None and not self._splice.has(sample, Kind.AUDIO):
            return self._switch()
        return out

    def give_up(self) -> list[Sample]:
        """The successor is lost or no longer wanted, or the old job is: what was held back of the old one."""
        if self.phase is not Phase.RUNNING:
            return []
        self.phase = Phase.FAILED
        return self._let_go()

    def _old_picture(self, sample: Sample) -> list[Sample]:
        if self._hold_at is not None:
            self._old.append(sample)
            return []
        if self._at is not None and sample.pts_ticks >= self._at:
            if sample.keyframe or sample.pts_ticks == sample.dts_ticks:
                return self._switch()
            self._miss()
        elif sample.keyframe and self._at is None and self._close:
            self._hold_at, self._old = sample.pts_ticks, [sample]
            self._close = False
            return []
        self._passed = max(self._passed, sample.pts_ticks + 1)
        return self._splice.take(sample, Kind.VIDEO)

    def _new_picture(self, sample: Sample) -> list[Sample]:
        if self._at is not None:
            return self._keep(sample)
        if not sample.keyframe:
            return []
        late = self._passed - sample.pts_ticks
        if late > 0:
            self._close = late <= MAX_HOLD_TICKS
            return []
        self._at = sample.pts_ticks
        return self._keep(sample) + self._let_go()

    def _miss(self) -> None:
        """The old job's groups are others than the successor's: it can't be left here."""
        self._at = None
        self._new = deque(kept for kept in self._new if kept.track != self._video)
        self._new_bytes = sum(len(kept.data) + ITEM_OVERHEAD_BYTES for kept in self._new)

    def _let_go(self) -> list[Sample]:
        """What was held back of the old job goes on its way, up to the point where the successor takes over."""
        held, self._old, self._hold_at = self._old, [], None
        out: list[Sample] = []
        for sample in held:
            if self.phase is Phase.RUNNING:
                out += self._old_picture(sample)
            elif self.phase is Phase.FAILED:
                out += self._splice.take(sample, Kind.VIDEO)
        return out

    def _keep(self, sample: Sample) -> list[Sample]:
        self._new.append(sample)
        self._new_bytes += len(sample.data) + ITEM_OVERHEAD_BYTES
        while self._new and self._splice.has(self._new[0], self._kinds[self._new[0].track]):
            self._new_bytes -= len(self._new.popleft().data) + ITEM_OVERHEAD_BYTES
        if self._new_bytes <= MAX_HELD_BYTES:
            return []
        self._new.clear()
        return self.give_up()

    def _switch(self) -> list[Sample]:
        """All that the old job shows before S has come. What follows is the successor's."""
        self.phase = Phase.SWITCHED
        out = self._splice.finish()
        self._splice.restart()
        kept, self._new = self._new, deque()
        for sample in kept:
            out += self._splice.take(sample, self._kinds[sample.track])
        return out
