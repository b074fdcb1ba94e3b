"""Reading the movie box: tracks, their sample entries, edit lists, and where samples are (14496-12, 8.2 to 8.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from tvarr.errors import MediaError
from tvarr.media.fmp4.boxes import Box, children, find
from tvarr.media.fmp4.descriptions import Description, entries_of, read_entry
from tvarr.media.fmp4.places import Defaults, SampleTables
from tvarr.media.model import Kind, Track

MAX_TRACKS = 64  # further ones are left out
MAX_ENTRIES = 32  # sample entries of a track; further ones are left out

_TABLES = frozenset((b"stsd", b"stts", b"ctts", b"stss", b"stsz", b"stz2", b"stsc", b"stco", b"co64"))


@dataclass(frozen=True, slots=True, eq=False)
class MovieTrack:
    """One track as the movie box describes it."""

    id: int
    timescale: int
    shift_units: int  # by which its samples are shown later than their times say: the edit list (8.6.6)
    descriptions: tuple[Description, ...]  # for each sample entry, tracks with id and language
    tables: SampleTables

    @property
    def track(self) -> Track:
        return self.descriptions[0].track


@dataclass(frozen=True, slots=True)
class Movie:
    tracks: tuple[MovieTrack, ...]
    left_out: tuple[str, ...]  # one line for each track that can't be used
    defaults: dict[int, Defaults]  # of fragments, by the track's id: those of tracks that can't be used, too


def read_movie(data: bytes, moov: Box) -> Movie:
    """Reads a moov. Raises MediaError where boxes are damaged; a track that alone is damaged is left out."""
    tracks: list[MovieTrack] = []
    left_out: list[str] = []
    mvhd = find(data, moov, b"mvhd")
    movie_scale = _timescale(data, mvhd) if mvhd is not None else 0
    defaults = dict(_track_extends(data, moov))
    for trak in children(data, moov.start, moov.end):
        if trak.kind != b"trak":
            continue
        if len(tracks) + len(left_out) >= MAX_TRACKS:
            break
        try:
            track = _read_track(data, trak, movie_scale, defaults)
        except MediaError as error:
            left_out.append(str(error))
            continue
        if any(other.id == track.id for other in tracks):
            left_out.append(f"another track {track.id}")
        else:
            tracks.append(track)
    return Movie(tuple(tracks), tuple(left_out), defaults)


def _track_extends(data: bytes, moov: Box) -> Iterator[tuple[int, Defaults]]:
    mvex = find(data, moov, b"mvex")
    for trex in children(data, mvex.start, mvex.end) if mvex is not None else ():
        if trex.kind == b"trex" and trex.end - trex.start >= 24:
            track_id, *values = struct.unpack_from(">5I", data, trex.start + 4)
            yield track_id, Defaults(*values)


def _read_track(data: bytes, trak: Box, movie_scale: int, defaults: dict[int, Defaults]) -> MovieTrack:
    tkhd = _required(data, trak, b"tkhd")
    mdhd = _required(data, trak, b"mdia", b"mdhd")
    stbl = _required(data, trak, b"mdia", b"minf", b"stbl")
    track_id = _versioned(data, tkhd, 8, 16)
    timescale = _timescale(data, mdhd)
    if not track_id or not timescale:
        raise MediaError("a track without an id or without a timescale")
    boxes = {box.kind: box for box in children(data, stbl.start, stbl.end) if box.kind in _TABLES}
    if b"stsd" not in boxes:
        raise MediaError("a track without descriptions")
    tables = SampleTables(data, boxes)
    tables.count()
    frame = tables.first_duration() or defaults.get(track_id, Defaults()).duration
    language = _language(data, mdhd)
    descriptions = []
    for entry in islice(entries_of(data, boxes[b"stsd"]), MAX_ENTRIES):
        description = read_entry(data, entry)
        track = replace(description.track, id=track_id, language=language)
        if frame and not track.fps and track.kind is Kind.VIDEO:
            track = replace(track, fps=timescale / frame)
        descriptions.append(replace(description, track=track))
    if not descriptions:
        raise MediaError("a track without descriptions")
    shift = _edit_shift(data, trak, movie_scale, timescale)
    return MovieTrack(track_id, timescale, shift, tuple(descriptions), tables)


def _required(data: bytes, parent: Box, *path: bytes) -> Box:
    found = find(data, parent, *path)
    if found is None:
        raise MediaError(f"a track without {path[-1].decode()}")
    return found


def _versioned(data: bytes, found: Box, short: int, long: int) -> int:
    """The 32-bit field behind two times of 32 or, by the box's version, 64 bits; offsets are from version and flags."""
    at = found.start + 4 + (long if found.end > found.start and data[found.start] else short)
    if at + 4 > found.end:
        raise MediaError("an MP4 box that is cut off")
    return int(struct.unpack_from(">I", data, at)[0])


def _timescale(data: bytes, header: Box) -> int:
    """The timescale of mvhd or mdhd."""
    return _versioned(data, header, 8, 16)


def _language(data: bytes, mdhd: Box) -> str:
    at = mdhd.start + 4 + (28 if data[mdhd.start] else 16)
    if at + 2 > mdhd.end:
        return ""
    code = int.from_bytes(data[at : at + 2], "big")
    letters = "".join(chr(0x60 + (code >> shift & 0x1F)) for shift in (10, 5, 0))
    return letters if letters.isalpha() and letters != "und" else ""


def _edit_shift(data: bytes, trak: Box, movie_scale: int, timescale: int) -> int:
    """From the edits up to the first that shows something: empty time before it, less where the media begins in it."""
    elst = find(data, trak, b"edts", b"elst")
    if elst is None or elst.end - elst.start < 8:
        return 0
    row = struct.Struct(">QqI" if data[elst.start] else ">IiI")
    count = int(struct.unpack_from(">I", data, elst.start + 4)[0])
    empty = 0
    for index in range(min(count, (elst.end - elst.start - 8) // row.size)):
        duration, media_time, _ = row.unpack_from(data, elst.start + 8 + index * row.size)
        if media_time >= 0:
            return empty - int(media_time)
        empty += round(duration * timescale / movie_scale) if movie_scale else 0
    return empty
