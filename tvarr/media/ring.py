"""Bounded histories with sequence numbers: samples of a relay or variant, and muxed bytes shared by viewers.

A ring never waits for its readers: each keeps its own position (a sequence number), and one whose position was
evicted learns it by `Lagged` and goes on at `join_seq()`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Generic, NamedTuple, TypeVar

from tvarr.errors import TvarrError
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Tracks

ITEM_OVERHEAD_BYTES = 128  # counted for each item beside its data, so that empty items can't grow a ring without end
AUDIO_JOIN_TICKS = TICKS_PER_SECOND  # a viewer of a channel without video starts this far behind the newest sample

T = TypeVar("T")


class Lagged(TvarrError):
    """A reader asked for what was evicted. `first_seq` is the oldest that is still held, `lost` the items between."""

    def __init__(self, seq: int, first_seq: int) -> None:
        super().__init__(f"reader is {first_seq - seq} items behind the oldest one held")
        self.first_seq = first_seq
        self.lost = first_seq - seq


class Chunk(NamedTuple):
    """Muxed bytes. `keyframe`: a player can start with the first byte of `data`."""

    data: bytes
    keyframe: bool = False
    dts_ticks: int = 0  # of its last picture or sound, on the relay's timeline


class _Fifo(Generic[T]):
    """Items numbered from 0 on, with indexed access: a list with a moving head, compacted when half of it is dead.

    What was taken out is let go at once, not when its place is: else a ring would hold twice what it counts.
    """

    def __init__(self) -> None:
        self._items: list[Any] = []  # T, or None in the dead places
        self._head = 0
        self._head_seq = 0

    @property
    def first_seq(self) -> int:
        return self._head_seq

    @property
    def next_seq(self) -> int:
        return self._head_seq + len(self._items) - self._head

    def append(self, item: T) -> int:
        self._items.append(item)
        return self.next_seq - 1

    def popleft(self) -> T:
        item = self[self._head_seq]
        self._items[self._head] = None
        self._head += 1
        self._head_seq += 1
        if self._head > 64 and self._head * 2 > len(self._items):
            del self._items[: self._head]
            self._head = 0
        return item

    def __getitem__(self, seq: int) -> T:
        item: T = self._items[self._head + seq - self._head_seq]
        return item

    def __len__(self) -> int:
        return len(self._items) - self._head


class _BytesRing(Generic[T]):
    """What both rings share: sequence numbers, the cap, eviction and reading."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` caps data and overhead; the newest item is held even where it is larger alone."""
        if max_bytes <= 0:
            raise ValueError(f"a ring needs room: max_bytes={max_bytes}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: _Fifo[T] = _Fifo()
        self._ends: _Fifo[int] = _Fifo()  # for each item: the size of all data ever appended, up to its end
        self._appended = 0

    @property
    def first_seq(self) -> int:
        """Number of the oldest item held; equal to `next_seq` while the ring is empty."""
        return self._items.first_seq

    @property
    def next_seq(self) -> int:
        """Number that the next item will get."""
        return self._items.next_seq

    def __len__(self) -> int:
        return len(self._items)

    def read(self, seq: int, max_items: int = 256, max_bytes: int = 1 << 20) -> tuple[list[T], int]:
        """Returns items from `seq` on, and the number to read next; no items where the reader has all.

        At most `max_items`, and no more than `max_bytes` of data except that one item always fits.
        Raises `Lagged` where `seq` was evicted, ValueError where it was never given out.
        """
        if seq < self.first_seq:
            raise Lagged(seq, self.first_seq)
        if seq > self.next_seq:
            raise ValueError(f"nothing was ever appended at {seq}: the next number is {self.next_seq}")
        read: list[T] = []
        room = max_bytes
        for at in range(seq, min(seq + max_items, self.next_seq)):
            item = self._items[at]
            room -= self._size(item)
            if room < 0 and read:
                break
            read.append(item)
        return read, seq + len(read)

    def bytes_since(self, seq: int) -> int:
        """Size of the data from `seq` on; where a part of it was evicted, of what is left."""
        seq = max(seq, self.first_seq)
        if seq >= self.next_seq:
            return 0
        return self._appended - self._ends[seq] + self._size(self._items[seq])

    def let_go(self, seq: int) -> None:
        """Evicts what lies before `seq`, for which nobody has use any more; the newest item stays."""
        while self.first_seq < seq and len(self._items) > 1:
            self._evict()

    def _push(self, item: T) -> int:
        size = self._size(item)
        self._appended += size
        seq = self._items.append(item)
        self._ends.append(self._appended)
        self.bytes += size + ITEM_OVERHEAD_BYTES
        while self.bytes > self.max_bytes and len(self._items) > 1:
            self._evict()
        return seq

    def _evict(self) -> None:
        self.bytes -= self._size(self._items.popleft()) + ITEM_OVERHEAD_BYTES
        self._ends.popleft()

    def _size(self, item: T) -> int:
        raise NotImplementedError

    def validate(self) -> None:
        """Asserts what must always hold; for tests."""
        sizes = [self._size(self._items[seq]) + ITEM_OVERHEAD_BYTES for seq in range(self.first_seq, self.next_seq)]
        assert self.bytes == sum(sizes)
        assert self.bytes_since(self.first_seq) == self.bytes - ITEM_OVERHEAD_BYTES * len(self)
        assert self.bytes_since(self.next_seq) == 0
        assert self.bytes <= self.max_bytes or len(self) == 1
        assert self.first_seq <= self.next_seq


class _Points:
    """Sequence numbers in growing order, each with a value that grows too: looked up by bisection, evicted in front."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.values: list[int] = []

    def append(self, seq: int, value: int) -> None:
        self.seqs.append(seq)
        self.values.append(value)

    def evict_below(self, first_seq: int) -> None:
        """Deletes once half of the entries are dead: amortised O(1) an entry. Lookups must bound by `first_seq`."""
        dead = bisect_right(self.seqs, first_seq - 1)
        if dead > 32 and dead * 2 > len(self.seqs):
            del self.seqs[:dead]
            del self.values[:dead]


class Ring(_BytesRing[Event]):
    """Samples and track changes in stream order, from one timeline.

    The *leading* track is the first video track in force, or the first audio track where there is no video: viewers
    start, and jobs are taken over, at its keyframes.
    """

    def __init__(self, max_bytes: int, max_ticks: int | None = None) -> None:
        """`max_ticks` caps the time by DTS from the oldest sample to the newest; None: as much as the bytes allow."""
        super().__init__(max_bytes)
        self.max_ticks = max_ticks
        self.newest_ticks = 0  # DTS of the sample that came last
        self._tracks: list[tuple[int, Tracks]] = []  # with the number of each; the first one is in force at first_seq
        self._leading: int | None = None
        self._leading_kind = Kind.DATA
        self._leading_since = 0
        self._keyframes = _Points()  # of the leading track, with the greatest PTS so far

    def append(self, event: Event) -> int:
        """Adds one event, evicts the oldest ones over the cap and returns the event's number."""
        seq = self._push(event)
        if isinstance(event, Tracks):
            self._tracks.append((seq, event))
            self._lead(event, seq)
        else:
            self.newest_ticks = event.dts_ticks
            if event.keyframe and event.track == self._leading:
                greatest = self._keyframes.values[-1] if self._keyframes.values else event.pts_ticks
                self._keyframes.append(seq, max(greatest, event.pts_ticks))
            if self.max_ticks is not None:
                self._evict_before(event.dts_ticks - self.max_ticks)
        self._forget_evicted()
        return seq

    def let_go(self, seq: int) -> None:
        super().let_go(seq)
        self._forget_evicted()

    def _forget_evicted(self) -> None:
        first = self.first_seq
        while len(self._tracks) > 1 and self._tracks[1][0] <= first:
            del self._tracks[0]
        self._keyframes.evict_below(first)

    def _evict_before(self, dts_ticks: int) -> None:
        while len(self._items) > 1:
            oldest = self._items[self.first_seq]
            if type(oldest) is Sample and oldest.dts_ticks >= dts_ticks:
                return
            self._evict()

    def tracks_at(self, seq: int) -> Tracks | None:
        """The tracks in force at `seq`, also where their own event was evicted; None before the first ones."""
        at = bisect_right(self._tracks, seq, key=lambda entry: entry[0])
        return self._tracks[at - 1][1] if at else None

    def change_after(self, seq: int) -> int | None:
        """Number of the first change of tracks behind `seq`, also where it was evicted itself; None without one."""
        at = bisect_right(self._tracks, seq, key=lambda entry: entry[0])
        return self._tracks[at][0] if at < len(self._tracks) else None

    def start_seq(self, back_ticks: int) -> int | None:
        """The last held keyframe that is so far behind the newest sample, or None."""
        return self.keyframe_at_or_before(self.newest_ticks - back_ticks)

    def join_seq(self) -> int:
        """Where a new viewer starts.

        The latest video keyframe; without video, the audio frame about one second behind the newest. While the
        leading track has none yet, where that track was announced, or the oldest event held.
        """
        points, oldest = self._keyframes, max(self._leading_since, self.first_seq)
        first = bisect_right(points.seqs, oldest - 1)
        if first == len(points.seqs):
            return oldest
        if self._leading_kind is Kind.VIDEO:
            return points.seqs[-1]
        at = bisect_right(points.values, points.values[-1] - AUDIO_JOIN_TICKS, lo=first) - 1
        return points.seqs[max(at, first)]

    def keyframe_at_or_before(self, pts_ticks: int) -> int | None:
        """Number of the last held keyframe of the leading track with PTS at or below `pts_ticks`, or None.

        Where PTS of keyframes don't grow, an earlier one is found: decoding from there gives the same pictures.
        """
        at = bisect_right(self._keyframes.values, pts_ticks) - 1
        seq = self._keyframes.seqs[at] if at >= 0 else -1
        return seq if seq >= self.first_seq else None

    def resume_seq(self) -> int:
        """Where a reader goes on whose place was evicted: the oldest keyframe held that is not evicted next.

        A quarter of what is held lies before it, so that the reader can begin in time. Without such a keyframe, where
        a new viewer starts.
        """
        points = self._keyframes.seqs
        at = bisect_left(points, self.first_seq + len(self) // 4)
        return points[at] if at < len(points) else self.join_seq()

    def ticks_at(self, seq: int) -> int:
        """DTS of the first sample at or behind `seq`; of the newest one where there is none."""
        for at in range(max(seq, self.first_seq), self.next_seq):
            item = self._items[at]
            if isinstance(item, Sample):
                return item.dts_ticks
        return self.newest_ticks

    def _lead(self, tracks: Tracks, seq: int) -> None:
        candidates = tracks.of_kind(Kind.VIDEO) or tracks.of_kind(Kind.AUDIO)
        leading = candidates[0].id if candidates else None
        kind = candidates[0].kind if candidates else Kind.DATA
        if (leading, kind) != (self._leading, self._leading_kind):
            self._leading, self._leading_kind, self._leading_since = leading, kind, seq

    def _size(self, item: Event) -> int:
        return len(item.data) if isinstance(item, Sample) else 0

    def validate(self) -> None:
        super().validate()
        held = {seq: self._items[seq] for seq in range(self.first_seq, self.next_seq)}
        for seq, event in held.items():
            if isinstance(event, Tracks):
                assert (seq, event) in self._tracks
        assert [seq for seq, _ in self._tracks] == sorted({seq for seq, _ in self._tracks})
        assert sum(seq <= self.first_seq for seq, _ in self._tracks) <= 1
        points = self._keyframes
        assert len(points.seqs) == len(points.values)
        assert points.seqs == sorted(set(points.seqs))
        assert points.values == sorted(points.values)
        for seq in points.seqs:
            point = held.get(seq)
            assert seq < self.first_seq or (isinstance(point, Sample) and point.keyframe)
        assert self.first_seq <= self.join_seq() <= self.next_seq


class ChunkRing(_BytesRing[Chunk]):
    """Muxed output that many viewers read, each at its own position."""

    def __init__(self, usual_bytes: int, usual_ticks: int = 0, max_bytes: int = 0) -> None:
        """Caps what is held by `usual_bytes`, or by `usual_ticks` of media time where these are more, but never holds
        more than `max_bytes`; at least `usual_bytes`.
        """
        super().__init__(max(max_bytes, usual_bytes))
        self.usual_bytes = usual_bytes
        self.usual_ticks = usual_ticks
        self._last_keyframe = -1

    def append(self, chunk: Chunk) -> int:
        """Adds one chunk, evicts the oldest ones over the cap and returns the chunk's number."""
        seq = self._push(chunk)
        if chunk.keyframe:
            self._last_keyframe = seq
        oldest_ticks = chunk.dts_ticks - self.usual_ticks
        while self.bytes > self.usual_bytes and len(self._items) > 1:
            if self._items[self.first_seq].dts_ticks > oldest_ticks:
                break
            self._evict()
        return seq

    def join_seq(self) -> int:
        """Where a new viewer starts: the latest random access point held, else the oldest chunk."""
        return max(self._last_keyframe, self.first_seq)

    def ticks_since(self, seq: int) -> int:
        """Media time from the chunk at `seq` (or the oldest held) to the newest one; 0 where there is none to read."""
        seq = max(seq, self.first_seq)
        if seq >= self.next_seq:
            return 0
        return max(0, self._items[self.next_seq - 1].dts_ticks - self._items[seq].dts_ticks)

    def _size(self, item: Chunk) -> int:
        return len(item.data)
