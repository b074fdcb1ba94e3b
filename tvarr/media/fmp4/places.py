"""Where the samples of a file lie and when they are due: sample tables (14496-12, 8.6 and 8.7) and track runs (8.8).

All of it is read lazily: a table may say 10^9 samples in 20 bytes. What is stored in a table is inside its box, which
is checked, so that reading costs what the box weighs. Rows are copied, not viewed: in Python 3.11 and 3.12.6 the
garbage collector crashes on a memoryview in a cycle (gh-77894), and the traceback of damage found on the way makes one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple

from tvarr.errors import MediaError
from tvarr.media.fmp4.boxes import Box, children, name

_NON_SYNC = 0x00010000  # sample_flags (8.8.3.1)


class Place(NamedTuple):
    """One sample: data[offset : offset + size] of the file. Times are in units of the track."""

    offset: int
    size: int
    decode_time: int
    composition: int  # presentation time less decode time
    keyframe: bool
    description: int  # which sample entry, from 1 on


# Sample tables


@dataclass(slots=True, eq=False)
class SampleTables:
    """The sample tables of one track: `boxes` are those of its stbl, by kind."""

    data: bytes
    boxes: dict[bytes, Box] = field(default_factory=dict)

    def count(self) -> int:
        """How many samples the tables speak of. Raises MediaError for tables that are larger than their boxes."""
        for kind in (b"stsz", b"stz2"):
            if (at := self._content(kind, 8)) is not None:
                return int(struct.unpack_from(">I", self.data, at + 4)[0])
        return 0

    def first_duration(self) -> int:
        """How long the first sample lasts; 0 where no table says."""
        return next((delta for _, delta in self._rows(b"stts", "II")), 0)

    def least_composition(self) -> int:
        """The least composition offset, at most 0: by that much samples are decoded too late."""
        return min(0, min((offset for _, offset in self._rows(b"ctts", "Ii")), default=0))

    def places(self) -> Iterator[Place]:
        """All samples in decode order. Raises MediaError for tables that are larger than their boxes."""
        sizes = self._sizes()
        durations = _run_lengths(self._rows(b"stts", "II"))
        compositions = _run_lengths(self._rows(b"ctts", "Ii"))
        keyframes = self._keyframes()
        decode_time, duration, number = 0, 0, 1
        next_key = next(keyframes, 0)
        for offset, samples, description in self._chunks():
            for _ in range(samples):
                size = next(sizes, None)
                if size is None:
                    return
                while 0 < next_key < number:
                    next_key = next(keyframes, 0)
                yield Place(offset, size, decode_time, next(compositions, 0), next_key in (number, _EVERY), description)
                duration = next(durations, duration)
                decode_time += duration
                offset += size
                number += 1

    def _content(self, kind: bytes, least: int) -> int | None:
        """Where the content of a full box begins, behind version and flags; None where there is no such box."""
        found = self.boxes.get(kind)
        if found is None:
            return None
        if found.end - found.start < 4 + least:
            raise MediaError(f"an MP4 box {name(kind)} that is cut off")
        return found.start + 4

    def _rows(self, kind: bytes, codes: str, head: int = 0) -> Iterator[tuple[int, ...]]:
        """The rows of a table whose number of rows stands before them, behind `head` bytes."""
        at = self._content(kind, 4 + head)
        if at is None:
            return iter(())
        row = struct.Struct(">" + codes)
        start = at + head + 4
        end = start + int(struct.unpack_from(">I", self.data, at + head)[0]) * row.size
        if end > self.boxes[kind].end:
            raise MediaError(f"an MP4 box {name(kind)} with more rows than bytes")
        return row.iter_unpack(self.data[start:end])

    def _sizes(self) -> Iterator[int]:
        at = self._content(b"stsz", 8)
        if at is not None:
            same, count = struct.unpack_from(">II", self.data, at)
            return repeat(same, count) if same else (size for (size,) in self._rows(b"stsz", "I", 4))
        at = self._content(b"stz2", 8)
        code = {8: "B", 16: "H"}.get(self.data[at + 3]) if at is not None else None
        return (size for (size,) in self._rows(b"stz2", code, 4)) if code else iter(())

    def _chunks(self) -> Iterator[tuple[int, int, int]]:
        """Offset, samples and description of each chunk."""
        rows = self._rows(b"stsc", "III")
        current, following = next(rows, None), next(rows, None)
        offsets = self._rows(b"co64", "Q") if b"co64" in self.boxes else self._rows(b"stco", "I")
        for number, (offset,) in enumerate(offsets, 1):
            while following is not None and number >= following[0]:
                current, following = following, next(rows, None)
            if current is None:
                return
            yield offset, current[1], current[2]

    def _keyframes(self) -> Iterator[int]:
        """The numbers of keyframes, or _EVERY where all are."""
        return (number for (number,) in self._rows(b"stss", "I")) if b"stss" in self.boxes else iter((_EVERY,))


_EVERY = -1


def _run_lengths(rows: Iterable[tuple[int, ...]]) -> Iterator[int]:
    return chain.from_iterable(repeat(value, count) for count, value in rows)


# Track runs


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a track run leaves out (trex, 8.8.3, and tfhd, 8.8.7)."""

    description: int = 1
    duration: int = 0
    size: int = 0
    flags: int = 0


@dataclass(slots=True, eq=False)
class TrackRun:
    """One trun (8.8.8). Raises MediaError where it is larger than its box."""

    defaults: Defaults
    count: int
    offset: int | None  # of its data, from the base; None: behind the run before it
    first_flags: int | None
    flags: int
    rows: bytes

    @classmethod
    def read(cls, data: bytes, trun: Box, defaults: Defaults) -> TrackRun:
        if trun.end - trun.start < 8:
            raise MediaError("an MP4 box trun that is cut off")
        flags, count = struct.unpack_from(">II", data, trun.start)
        at = trun.start + 8
        optional: list[int | None] = []
        for bit, code in ((0x01, ">i"), (0x04, ">I")):
            optional.append(None)
            if flags & bit:
                if at + 4 > trun.end:
                    raise MediaError("an MP4 box trun that is cut off")
                optional[-1] = struct.unpack_from(code, data, at)[0]
                at += 4
        end = at + count * 4 * (flags >> 8 & 15).bit_count()
        if end > trun.end:
            raise MediaError("an MP4 box trun with more rows than bytes")
        return cls(defaults, count, optional[0], optional[1], flags, data[at:end])

    def _columns(self) -> Iterator[tuple[int, int, int, int]]:
        """Duration, size, flags and composition offset of each sample."""
        d = self.defaults
        bits = self.flags >> 8 & 15
        if not bits:
            return repeat((d.duration, d.size, d.flags, 0), self.count)
        codes = "".join(code for bit, code in ((1, "I"), (2, "I"), (4, "I"), (8, "i")) if bits & bit)
        rows = struct.iter_unpack(">" + codes, self.rows)
        if bits == 15:
            return rows
        places = [bits & bit for bit in (1, 2, 4, 8)]
        return (_filled(row, places, (d.duration, d.size, d.flags, 0)) for row in rows)

    def totals(self) -> tuple[int, int, int]:
        """Bytes and duration of all samples, and the least composition offset, at most 0."""
        if not self.flags >> 8 & 15:
            return self.count * self.defaults.size, self.count * self.defaults.duration, 0
        size = duration = least = 0
        for row_duration, row_size, _, composition in self._columns():
            size += row_size
            duration += row_duration
            least = min(least, composition)
        return size, duration, least

    def places(self, offset: int, decode_time: int) -> Iterator[Place]:
        first, description = self.first_flags, self.defaults.description
        for duration, size, flags, composition in self._columns():
            if first is not None:
                flags, first = first, None
            yield Place(offset, size, decode_time, composition, not flags & _NON_SYNC, description)
            offset += size
            decode_time += duration


def _filled(row: tuple[int, ...], places: list[int], defaults: tuple[int, ...]) -> tuple[int, int, int, int]:
    values = iter(row)
    a, b, c, d = (next(values) if here else default for here, default in zip(places, defaults, strict=True))
    return a, b, c, d


@dataclass(slots=True, eq=False)
class TrackFragment:
    """One traf (8.8.6): what its header, its decode time and its runs say."""

    track_id: int
    decode_time: int | None
    base: int | None  # where its data begins in the file; None: behind that of the one before it
    runs: list[TrackRun]


def read_fragment(data: bytes, moof: Box, moof_at: int, defaults: dict[int, Defaults]) -> list[TrackFragment]:
    """The track fragments of a moof that begins at `moof_at` in the file, `defaults` being those of its tracks by id.

    Raises MediaError for boxes that are damaged.
    """
    trafs = [box for box in children(data, moof.start, moof.end) if box.kind == b"traf"]
    return [_read_traf(data, traf, moof_at, defaults, number == 0) for number, traf in enumerate(trafs)]


def _read_traf(data: bytes, traf: Box, moof_at: int, known: dict[int, Defaults], first: bool) -> TrackFragment:
    boxes = [box for box in children(data, traf.start, traf.end) if box.kind in (b"tfhd", b"tfdt", b"trun")]
    tfhd = next((box for box in boxes if box.kind == b"tfhd"), None)
    if tfhd is None or tfhd.end - tfhd.start < 8:
        raise MediaError("an MP4 track fragment without header")
    flags, track_id = struct.unpack_from(">II", data, tfhd.start)
    defaults = known.get(track_id, Defaults())
    base = moof_at if first or flags & 0x020000 else None
    at = tfhd.start + 8
    values: list[int | None] = []
    for bit, code in ((0x01, ">Q"), (0x02, ">I"), (0x08, ">I"), (0x10, ">I"), (0x20, ">I")):
        values.append(None)
        if flags & bit:
            if at + struct.calcsize(code) > tfhd.end:
                raise MediaError("an MP4 box tfhd that is cut off")
            values[-1] = struct.unpack_from(code, data, at)[0]
            at += struct.calcsize(code)
    base = base if values[0] is None else values[0]
    stated = (defaults.description, defaults.duration, defaults.size, defaults.flags)
    own = Defaults(*(default if value is None else value for value, default in zip(values[1:], stated, strict=True)))
    runs = [TrackRun.read(data, box, own) for box in boxes if box.kind == b"trun"]
    return TrackFragment(track_id, _decode_time(data, boxes), base, runs)


def _decode_time(data: bytes, boxes: list[Box]) -> int | None:
    """baseMediaDecodeTime (8.8.12)."""
    tfdt = next((box for box in boxes if box.kind == b"tfdt"), None)
    if tfdt is None:
        return None
    code = ">Q" if tfdt.end > tfdt.start and data[tfdt.start] else ">I"
    if tfdt.end - tfdt.start < 4 + struct.calcsize(code):
        raise MediaError("an MP4 box tfdt that is cut off")
    return int(struct.unpack_from(code, data, tfdt.start + 4)[0])
