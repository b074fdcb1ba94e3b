"""Writes progressive MP4 box by box (14496-12), so that the demuxer is not tested against our own muxer alone."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tvarr.media.fmp4.boxes import box, full_box


@dataclass(frozen=True)
class Table:
    """One track: its entry, its chunks (each a list of samples), and whatever else its tables say."""

    id: int
    handler: bytes
    entry: bytes
    timescale: int
    chunks: Sequence[Sequence[bytes]]
    durations: Sequence[int]
    compositions: Sequence[int] = ()
    keyframes: Sequence[int] | None = None
    edits: Sequence[tuple[int, int]] = ()  # duration in the movie's timescale (1000), media time
    language: str = "und"
    wide: bool = False  # 64-bit offsets, times and edits
    boxes: dict[bytes, bytes] = field(default_factory=dict)  # take the place of those of the same kind


def rows(kind: bytes, codes: str, values: Iterable[tuple[int, ...]], version: int = 0, head: bytes = b"") -> bytes:
    packed = [struct.pack(">" + codes, *value) for value in values]
    return full_box(kind, version, 0, head, struct.pack(">I", len(packed)), *packed)


def _trak(table: Table, offsets: Sequence[int]) -> bytes:
    sizes = [len(sample) for chunk in table.chunks for sample in chunk]
    boxes = {
        b"stsd": full_box(b"stsd", 0, 0, struct.pack(">I", 1), table.entry),
        b"stts": rows(b"stts", "II", [(1, duration) for duration in table.durations]),
        b"stsc": rows(b"stsc", "III", [(n, len(chunk), 1) for n, chunk in enumerate(table.chunks, 1)]),
        b"stsz": full_box(b"stsz", 0, 0, struct.pack(f">II{len(sizes)}I", 0, len(sizes), *sizes)),
    }
    if table.compositions:
        boxes[b"ctts"] = rows(b"ctts", "Ii", [(1, offset) for offset in table.compositions], version=1)
    if table.keyframes is not None:
        boxes[b"stss"] = rows(b"stss", "I", [(number,) for number in table.keyframes])
    code, kind = ("Q", b"co64") if table.wide else ("I", b"stco")
    boxes[kind] = rows(kind, code, [(offset,) for offset in offsets])
    boxes |= table.boxes
    first, second, third = (ord(letter) - 0x60 for letter in table.language)
    language = struct.pack(">HH", first << 10 | second << 5 | third, 0)
    times, version = ("QQIQ", 1) if table.wide else ("IIII", 0)
    parts = [full_box(b"tkhd", version, 7, struct.pack(">QQI" if table.wide else ">III", 0, 0, table.id), bytes(64))]
    if table.edits:
        codes = "QqI" if table.wide else "IiI"
        parts.append(box(b"edts", rows(b"elst", codes, [(*edit, 0x10000) for edit in table.edits], version)))
    mdhd = full_box(b"mdhd", version, 0, struct.pack(">" + times, 0, 0, table.timescale, 0), language)
    hdlr = full_box(b"hdlr", 0, 0, bytes(4), table.handler, bytes(13))
    parts.append(box(b"mdia", mdhd, hdlr, box(b"minf", box(b"stbl", *boxes.values()))))
    return box(b"trak", *parts)


def _moov(tables: Sequence[Table], offsets: Sequence[Sequence[int]]) -> bytes:
    mvhd = full_box(b"mvhd", 0, 0, struct.pack(">IIII", 0, 0, 1000, 0), bytes(80))
    return box(b"moov", mvhd, *(_trak(t, o) for t, o in zip(tables, offsets, strict=True)))


def progressive(tables: Sequence[Table], order: Sequence[int] | None = None, *, moov_first: bool = True) -> bytes:
    """A file whose chunks lie one of each track after another, or in this order of tracks (indices)."""
    if order is None:
        longest = max(len(table.chunks) for table in tables)
        order = [i for n in range(longest) for i, table in enumerate(tables) if n < len(table.chunks)]
    ftyp = box(b"ftyp", b"isom", bytes(4), b"isom")
    empty = [[0] * len(table.chunks) for table in tables]
    at = len(ftyp) + 8 + (len(_moov(tables, empty)) if moov_first else 0)
    offsets: list[list[int]] = [[] for _ in tables]
    data = []
    for index in order:
        chunk = b"".join(tables[index].chunks[len(offsets[index])])
        offsets[index].append(at)
        data.append(chunk)
        at += len(chunk)
    moov, mdat = _moov(tables, offsets), box(b"mdat", *data)
    return ftyp + (moov + mdat if moov_first else mdat + moov)


def with_box(table: Table, kind: bytes, content: bytes) -> Table:
    """The table with another box of this kind."""
    return replace(table, boxes={**table.boxes, kind: box(kind, content)})
