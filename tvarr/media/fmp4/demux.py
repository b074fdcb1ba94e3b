"""ISO base media files in, tracks and samples out: fragmented ones, and those whose index is in front.

A file comes in chunks of any size and is never held as a whole: its media data is read as it passes. What comes out
depends on the bytes only, not on how they were chunked.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from tvarr.errors import MediaError, MoovBehind
from tvarr.media.fmp4.boxes import HEADER_BYTES, LARGE_HEADER_BYTES, Box, children, name
from tvarr.media.fmp4.descriptions import retold
from tvarr.media.fmp4.movie import MovieTrack, read_movie
from tvarr.media.fmp4.nal import FORMATS
from tvarr.media.fmp4.places import Defaults, Place, TrackFragment, read_fragment
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Track, Tracks

MAX_MOOV_BYTES = 32 << 20  # 10 hours of a film take 10 MiB; larger ones raise
MAX_MOOF_BYTES = 4 << 20
MAX_SAMPLE_BYTES = 16 << 20  # larger ones are left out
MAX_HELD_BYTES = 32 << 20  # of samples that wait for those of other tracks; beyond it they go out as they lie
MAX_PASSED_OVER = 10_000  # samples that can't be read where they are said to be, and
PASSED_OVER_PER_BYTES = 256  # ... one more for so many bytes; more raise
MAX_TICKS = 1 << 60  # samples with times beyond are left out

_FIRST_BOXES = frozenset(
    {
        b"ftyp",
        b"styp",
        b"moov",
        b"moof",
        b"mdat",
        b"free",
        b"skip",
        b"wide",
        b"pdin",
        b"sidx",
        b"emsg",
        b"prft",
        b"uuid",
    }
)
_COLLECTED = {b"moov": MAX_MOOV_BYTES, b"moof": MAX_MOOF_BYTES}


@dataclass(slots=True)
class DemuxStats:
    """Counts since the start; all but the first four of samples that are left out."""

    bytes: int = 0
    fragments: int = 0
    samples: int = 0  # given out
    out_of_order: int = 0  # of these: with a DTS before that of another track, for want of space
    damaged: int = 0  # their content or their times make no sense
    scrambled: int = 0
    missing: int = 0  # the file ends, or goes on with another fragment, before they came
    unreachable: int = 0  # they lie before what was read already, or are empty
    oversized: int = 0  # larger than MAX_SAMPLE_BYTES
    left_out: list[str] = field(default_factory=list)  # why: a line for each track of the last moov that can't be used


@dataclass(slots=True, eq=False)
class _Source:
    """One track: samples that are expected, and those that came and wait for their turn."""

    movie: MovieTrack
    track: Track  # announced now
    description: int = 1  # which of the movie's that is
    lead_units: int = 0  # by which decode times are too late for the least composition offset (8.6.1.4)
    end_units: int = 0  # decode time of what comes next, where a fragment doesn't say
    places: Iterator[Place] = field(default_factory=lambda: iter(()))
    next: Place | None = None
    next_dts: int = 0
    expected: int = 0  # how many from `next` on
    arrived: deque[Sample] = field(default_factory=deque)

    def expect(self, places: Iterator[Place], count: int) -> None:
        self.places, self.expected = places, count + 1
        self.advance()

    def advance(self) -> None:
        """Goes to the next sample."""
        self.next, self.expected = next(self.places, None), self.expected - 1
        if self.next is not None:
            self.next_dts = self.ticks(self.next.decode_time - self.lead_units)
        else:
            self.expected = 0

    def ticks(self, units: int) -> int:
        scale = self.movie.timescale
        return (2 * (units + self.movie.shift_units) * TICKS_PER_SECOND + scale) // (2 * scale)

    @property
    def head_dts(self) -> int | None:
        """DTS of the sample that comes next out of this track."""
        if self.arrived:
            return self.arrived[0].dts_ticks
        return self.next_dts if self.next is not None else None


class Demuxer:
    """MP4 bytes in, tracks and samples out.

    `Tracks` come first, and again when they are others: another moov, a sample of another
    entry, or parameter sets in band. Samples of one
    moof, or of one index, come in the order of their DTS over all tracks. Times are in 90 kHz ticks of the file's own
    clock, edit lists considered: not wrapped, below 0 where an edit list cuts off what a decoder needs to start.
    H.264 and HEVC come in Annex B with parameter sets at keyframes, AAC as ADTS.

    A file whose index is behind its media raises MoovBehind, which says where: fetch the box from there (its size is
    in its first bytes), and read the file with `moov=` that box, header included.
    """

    def __init__(self, *, moov: bytes = b"") -> None:
        """Raises MediaError where `moov` is given and can't be read."""
        self.stats = DemuxStats()
        self._events: list[Event] = []
        self._failure: MediaError | None = None
        self._announced: Tracks | None = None
        self._sources: dict[int, _Source] = {}
        self._defaults: dict[int, Defaults] = {}  # of fragments, by track
        self._moov = b""
        self._position = 0  # in the file, of the next byte
        self._head = bytearray()  # of a box until it is known what to do with it, or a whole box
        self._collect: tuple[bytes, int] | None = None  # kind and size of the box in `_head`
        self._skip = 0  # bytes to leave out; -1: all
        self._media_end: int | None = None  # of the mdat that is being read; -1: the end of the file
        self._partial = bytearray()  # the beginning of the sample that is being read
        self._held_bytes = 0
        if moov:
            found = next(children(moov, 0, len(moov)), None)
            if found is None or found.kind != b"moov":
                raise MediaError("no MP4 index where it should be")
            self._take_moov(moov[: found.end], found.start)

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes.

        Raises MediaError for what is no MP4, has boxes that lie about their size, or nothing that can be read, and
        MoovBehind; from then on always. Events before that come first.
        """
        self._raise_failure()
        self.stats.bytes += len(data)
        try:
            at = 0
            while at < len(data):
                at = self._step(data, at)
        except MediaError as error:
            self._failure = error
        return self._take_events()

    def flush(self) -> list[Event]:
        """End of input. Raises what `feed` would raise."""
        self._raise_failure()
        if self._moov:
            self._end_fragment()
        elif self.stats.bytes:
            self._failure = MediaError("an MP4 that ends before its index")
            self._raise_failure()
        return self._take_events()

    def _raise_failure(self) -> None:
        if self._failure is not None and not self._events:
            raise self._failure

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        if not events:
            self._raise_failure()
        return events

    # Boxes

    def _step(self, data: bytes, at: int) -> int:
        """Does something with the bytes from data[at] on and returns where to go on."""
        if self._media_end is not None:
            return self._media(data, at)
        if self._skip:
            taken = len(data) - at if self._skip < 0 else min(self._skip, len(data) - at)
            self._skip -= taken if self._skip > 0 else 0
            self._position += taken
            return at + taken
        wanted = self._collect[1] if self._collect else _header_bytes(self._head)
        taken = min(wanted - len(self._head), len(data) - at)
        self._head += data[at : at + taken]
        self._position += taken
        if len(self._head) >= wanted:
            if self._collect:
                self._take_box()
            elif len(self._head) == _header_bytes(self._head):
                self._begin_box()
        return at + taken

    def _begin_box(self) -> None:
        """Decides what to do with a box by its header, which is all in `_head`."""
        size, kind = struct.unpack_from(">I4s", self._head)
        header = len(self._head)
        if header == LARGE_HEADER_BYTES:
            size = struct.unpack_from(">Q", self._head, HEADER_BYTES)[0]
        start = self._position - header
        if start == 0 and kind not in _FIRST_BOXES:
            raise MediaError("this is no MP4")
        if not _is_kind(kind) or 0 < size < header:
            raise MediaError(f"no MP4 box at byte {start}")
        if kind in _COLLECTED:
            if not header <= size <= _COLLECTED[kind]:
                raise MediaError(f"an MP4 box {name(kind)} of {size} bytes")
            self._collect = (kind, size)
            if size == header:
                self._take_box()
            return
        self._head.clear()
        if kind == b"mdat":
            if not self._moov:
                if not size:
                    raise MediaError("an MP4 without index in front of its media")
                raise MoovBehind("the index of this MP4 is behind its media", start + size)
            self._media_end = start + size if size else -1
            self._end_media()
        else:
            self._skip = size - header if size else -1

    def _take_box(self) -> None:
        assert self._collect is not None
        (kind, size), self._collect = self._collect, None
        data, self._head = bytes(self._head), bytearray()
        header = _header_bytes(data)
        if kind == b"moov":
            self._take_moov(data, header)
        else:
            self._take_moof(data, header, self._position - size)

    # Tracks

    def _take_moov(self, data: bytes, header: int) -> None:
        """One that comes again as it was changes nothing: it may stand behind the media that it describes."""
        if data == self._moov:
            return
        self._end_fragment()
        self._moov = data
        movie = read_movie(data, Box(b"moov", header, len(data)))
        self.stats.left_out = list(movie.left_out)
        self._defaults = movie.defaults
        if not movie.tracks:
            raise MediaError(f"an MP4 without a track that can be read: {', '.join(movie.left_out) or 'it has none'}")
        self._sources = {movie_track.id: _Source(movie_track, movie_track.track) for movie_track in movie.tracks}
        for source in self._sources.values():
            tables = source.movie.tables
            source.lead_units = -tables.least_composition()
            source.expect(tables.places(), tables.count())
        self._announce()

    def _announce(self) -> None:
        tracks = Tracks(tuple(source.track for source in self._sources.values()))
        if tracks != self._announced:
            self._announced = tracks
            self._events.append(tracks)

    # Fragments

    def _take_moof(self, data: bytes, header: int, moof_at: int) -> None:
        if not self._moov:
            raise MediaError("an MP4 fragment without anything that says what it holds")
        self._end_fragment()
        self.stats.fragments += 1
        fragments = read_fragment(data, Box(b"moof", header, len(data)), moof_at, self._defaults)
        places: dict[int, list[Iterator[Place]]] = {}
        counts: dict[int, int] = {}
        end = moof_at
        for fragment in fragments:
            source = self._sources.get(fragment.track_id)
            end = _lay_out(source, fragment, end, places.setdefault(fragment.track_id, []))
            counts[fragment.track_id] = counts.get(fragment.track_id, 0) + sum(run.count for run in fragment.runs)
        for track_id, source in self._sources.items():
            if track_id in places:
                source.expect(chain.from_iterable(places[track_id]), counts[track_id])

    def _end_fragment(self) -> None:
        """What has not come by now does not come any more."""
        self._partial.clear()
        for source in self._sources.values():
            self.stats.missing += source.expected
            source.places, source.next, source.expected = iter(()), None, 0
        self._release()

    # Media data

    def _media(self, data: bytes, at: int) -> int:
        """Takes samples out of the mdat that data[at:] goes on with."""
        end = len(data)
        if self._media_end is not None and self._media_end >= 0:
            end = min(end, at + self._media_end - self._position)
        offset = self._position - at  # of data[0] in the file
        while at < end:
            source, place = self._nearest(offset + at - len(self._partial))
            if source is None or place is None or place.offset >= offset + end:
                at = end
                break
            if not self._partial:
                at = place.offset - offset
            missing = place.size - len(self._partial)
            if at + missing > end:
                self._partial += data[at:end]
                at = end
                break
            payload = bytes(self._partial) + data[at : at + missing] if self._partial else data[at : at + missing]
            self._partial.clear()
            at += missing
            source.advance()
            self._arrive(source, place, payload)
        self._position = offset + at
        self._end_media()
        return at

    def _end_media(self) -> None:
        if self._media_end is not None and 0 <= self._media_end <= self._position:
            self._media_end = None
            self._partial.clear()

    def _nearest(self, position: int) -> tuple[_Source | None, Place | None]:
        """The sample that lies next in the file, at `position` or behind it; others are left out."""
        nearest: _Source | None = None
        found: Place | None = None
        for source in self._sources.values():
            while (place := source.next) is not None and not self._can_be_read(place, position):
                source.advance()
            if place is not None and (found is None or place.offset < found.offset):
                nearest, found = source, place
        return nearest, found

    def _can_be_read(self, place: Place, position: int) -> bool:
        if place.offset >= position and 0 < place.size <= MAX_SAMPLE_BYTES:
            return True
        if place.size > MAX_SAMPLE_BYTES:
            self.stats.oversized += 1
        else:
            self.stats.unreachable += 1
        passed_over = self.stats.oversized + self.stats.unreachable
        if passed_over > MAX_PASSED_OVER + self.stats.bytes // PASSED_OVER_PER_BYTES:
            raise MediaError("an MP4 whose samples are not where its index says")
        return False

    # Samples

    def _arrive(self, source: _Source, place: Place, payload: bytes) -> None:
        descriptions = source.movie.descriptions
        if not 1 <= place.description <= len(descriptions):
            self.stats.damaged += 1
            return
        description = descriptions[place.description - 1]
        if place.description != source.description:
            source.description = place.description
            self._change(source, description.track)
        if description.track.scrambled:
            self.stats.scrambled += 1
            return
        dts = source.ticks(place.decode_time - source.lead_units)
        pts = source.ticks(place.decode_time + place.composition)
        keyframe = place.keyframe or description.track.kind is Kind.AUDIO
        try:
            data = description.convert(payload, keyframe)
        except MediaError:
            data = b""
        if not data or max(abs(dts), abs(pts)) > MAX_TICKS:
            self.stats.damaged += 1
            return
        if keyframe and description.track.codec in FORMATS:
            self._change(source, retold(source.track, data))
        source.arrived.append(Sample(description.track.id, pts, min(dts, pts), data, keyframe))
        self._held_bytes += len(data)
        self._release()

    def _change(self, source: _Source, track: Track) -> None:
        """Announces the track, if it is another, behind the samples that were before."""
        if track != source.track:
            self._release_all()
            source.track = track
            self._announce()

    def _release(self) -> None:
        """Gives out samples as long as nothing that is still expected comes before them."""
        while True:
            first: _Source | None = None
            first_dts = 0
            ready: _Source | None = None
            for source in self._sources.values():
                dts = source.head_dts
                if dts is None:
                    continue
                if first is None or dts < first_dts:
                    first, first_dts = source, dts
                if source.arrived and (ready is None or dts < ready.arrived[0].dts_ticks):
                    ready = source
            if ready is None:
                return
            if ready is not first:
                if self._held_bytes <= MAX_HELD_BYTES:
                    return
                self.stats.out_of_order += 1
            self._give_out(ready)

    def _release_all(self) -> None:
        """Gives out all that has come."""
        waiting = [source for source in self._sources.values() if source.arrived]
        while waiting:
            self._give_out(min(waiting, key=lambda source: source.arrived[0].dts_ticks))
            waiting = [source for source in waiting if source.arrived]

    def _give_out(self, source: _Source) -> None:
        sample = source.arrived.popleft()
        self._held_bytes -= len(sample.data)
        self.stats.samples += 1
        self._events.append(sample)


def _lay_out(source: _Source | None, fragment: TrackFragment, behind: int, places: list[Iterator[Place]]) -> int:
    """Adds the places of a track fragment's samples; returns where its data ends. `behind`: of the fragment before.

    None as `source`: of a track that is left out, of which only the end matters.
    """
    base = behind if fragment.base is None else fragment.base
    end = base
    if source is not None and fragment.decode_time is not None:
        source.end_units = fragment.decode_time
    for run in fragment.runs:
        start = end if run.offset is None else base + run.offset
        size, duration, least = run.totals()
        if source is not None:
            source.lead_units = max(source.lead_units, -least)
            places.append(run.places(start, source.end_units))
            source.end_units += duration
        end = start + size
    return end


def _header_bytes(head: bytes | bytearray) -> int:
    """The size of the header of a box that begins so."""
    return LARGE_HEADER_BYTES if head[:4] == b"\x00\x00\x00\x01" else HEADER_BYTES


def _is_kind(kind: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind)
