"""Segments as players get them: packed as MPEG-TS or CMAF, numbered, and kept for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.mux import STYP
from tvarr.media.fmp4.mux import Muxer as Mp4Muxer
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.mux import Muxer as TsMuxer
from tvarr.media.segmenter import GAP_TICKS, Cut, rounded_s

LISTED = 6  # segments in a playlist
LISTED_TARGETS = 3  # more where these don't last three target durations (RFC 8216, 6.2.2)
LISTED_TICKS = 20 * TICKS_PER_SECOND  # fewer, but no less than three, where these last so long
KEPT = 4  # segments behind those listed, for who read the playlist a while ago (6.2.2 too)
KEPT_BYTES = 64 << 20  # of all segments; with more the oldest go, but those listed last stay
LEAST_KEPT = 3
INITS_KEPT = 32  # initialization segments of a rendition
FPS_TOLERANCE = 0.01  # how far a stated frame rate may be off what was measured

TS_RENDITION = "main"


@dataclass(frozen=True, slots=True)
class Part:
    """One rendition's share of a segment: one file."""

    data: bytes
    start_ticks: int  # PTS
    duration_ticks: int  # to the start of the next one
    init: int = 0  # number of its initialization segment; 0: none


@dataclass(frozen=True, slots=True)
class Segment:
    """One number in all playlists. A rendition that has nothing in its time has no part."""

    number: int
    start_ticks: int
    duration_ticks: int
    independent: bool
    discontinuity: bool
    discontinuities: int  # so many came up to here: EXT-X-DISCONTINUITY-SEQUENCE, and the number of the DASH period
    parts: Mapping[str, Part]


@dataclass(slots=True)
class Rendition:
    """One playlist: all tracks of a transport stream, or one track in CMAF."""

    name: str
    kind: Kind
    language: str = ""
    codecs: str = ""  # RFC 6381; empty where one of its tracks has no such name
    width: int = 0  # as shown
    height: int = 0
    fps: float = 0.0
    channels: int = 0
    sample_rate: int = 0
    init: int = 0  # number of the newest initialization segment
    inits: dict[int, bytes] = field(default_factory=dict)
    before: dict[int, Rendition] = field(default_factory=dict)  # what it was with those but the newest
    pictures: int = 0  # since `since_ticks`
    pictures_ticks: int = 0

    def as_of(self, init: int) -> Rendition:
        """What it was with this initialization segment."""
        return self.before.get(init, self)

    def add_init(self, data: bytes) -> None:
        """From here on segments need this one."""
        if self.init:
            self.before[self.init] = replace(self, inits={}, before={})
        self.init += 1
        self.inits[self.init] = data
        for numbered in (self.inits, self.before):
            numbered.pop(self.init - INITS_KEPT, None)

    def describe_video(self, track: Track, entry: entries.SampleEntry | None) -> None:
        self.width = entry.width if entry else track.width
        self.height = entry.height if entry else track.height

    def count_pictures(self, track: Track, pictures: int, cut: Cut) -> None:
        """Measures the frame rate; what the track states is taken where it is that, as it is exact."""
        if cut.discontinuity:
            self.pictures = self.pictures_ticks = 0
        self.pictures += pictures
        self.pictures_ticks += cut.end_ticks - cut.start_ticks
        measured = self.pictures * TICKS_PER_SECOND / max(self.pictures_ticks, 1)
        near = track.fps and abs(track.fps - measured) <= FPS_TOLERANCE * measured
        self.fps = round(track.fps if near else measured, 3)


class TsPacker:
    """All tracks in one transport stream, which goes on from segment to segment."""

    def __init__(self, service_name: str) -> None:
        self.renditions: dict[str, Rendition] = {}
        self._muxer = TsMuxer(service_name)
        self._tracks: Tracks | None = None
        self._codecs: dict[Track, str] = {}

    def pack(self, cut: Cut) -> tuple[dict[str, Part], bool]:
        """The parts, and whether decoders must be set up anew. Raises MediaError where the tables get too long."""
        if cut.tracks != self._tracks:
            self._muxer.set_tracks(cut.tracks)
            self._tracks, self._codecs = cut.tracks, {}
        self._muxer.begin_segment()
        data = b"".join([chunk.data for chunk in self._muxer.mux(cut.samples)])
        self._describe(cut)
        return {TS_RENDITION: Part(data, cut.start_ticks, cut.end_ticks - cut.start_ticks)}, cut.discontinuity

    def _describe(self, cut: Cut) -> None:
        videos, audios = cut.tracks.of_kind(Kind.VIDEO), cut.tracks.of_kind(Kind.AUDIO)
        fresh = Rendition(TS_RENDITION, Kind.VIDEO if videos else Kind.AUDIO)
        rendition = self.renditions.setdefault(TS_RENDITION, fresh)
        rendition.kind = fresh.kind
        named = True
        for track in (*videos[:1], *audios):
            sample = next((s for s in cut.samples if s.track == track.id and s.keyframe), None)
            if sample is None:
                continue
            entry = entries.describe(track, sample.data, in_band=False) if entries.carries(track.codec) else None
            if track.kind is Kind.VIDEO:
                rendition.describe_video(track, entry)
                rendition.count_pictures(track, sum(s.track == track.id for s in cut.samples), cut)
            if entry is not None:
                self._codecs[track] = entry.codecs
            named = named and entry is not None
        rendition.codecs = ",".join(dict.fromkeys(self._codecs.values())) if named else ""


@dataclass(slots=True)
class _CmafTrack:
    """One rendition's muxer, which goes on while its track does."""

    track: Track
    muxer: Mp4Muxer
    init: int = 0
    format: bytes = b""  # of AAC: what each of its frames says of itself


class CmafPacker:
    """One file for the first video track and for each audio track, all cut at the same times.

    Initialization segments are numbered from 1 on in each rendition; the newest are kept.
    """

    def __init__(self) -> None:
        self.renditions: dict[str, Rendition] = {}
        self._tracks: dict[str, _CmafTrack] = {}
        self._names: AbstractSet[str] = frozenset()  # of the last segment's parts
        self._sequence = 0

    def pack(self, cut: Cut) -> tuple[dict[str, Part], bool]:
        """The parts, and whether decoders must be set up anew."""
        self._sequence += 1
        parts: dict[str, Part] = {}
        before = {name: rendition.init for name, rendition in self.renditions.items()}
        for name, track in _named(cut.tracks):
            samples = [sample for sample in cut.samples if sample.track == track.id]
            if samples and entries.carries(track.codec) and (part := self._pack(name, track, samples, cut)):
                parts[name] = part
        others = cut.discontinuity and parts.keys() != self._names
        self._names = parts.keys()
        return parts, others or any(part.init > before.get(name, part.init) for name, part in parts.items())

    def _pack(self, name: str, track: Track, samples: list[Sample], cut: Cut) -> Part | None:
        current = self._tracks.get(name)
        if current is None or not _same(current.track, track):
            current = self._tracks[name] = _CmafTrack(track, Mp4Muxer([track], in_band=False))
        samples = _of_one_format(current, samples)
        telling = next((sample for sample in samples if current.muxer.differs(sample)), None)
        if telling is not None:
            current.muxer.learn(telling)
        if current.muxer.missing:
            return None
        rendition = self.renditions.setdefault(name, Rendition(name, track.kind))
        if telling is not None or not current.init:
            self._set_init(current, rendition)
        following = cut.following.get(track.id)
        near = following is not None and following.dts_ticks - samples[-1].dts_ticks < GAP_TICKS
        ends = {track.id: following.dts_ticks} if following is not None and near else None
        fragment = current.muxer.fragment(self._sequence, samples, ends)
        if not fragment:
            return None
        start, end = cut.start_ticks, cut.end_ticks
        if track.kind is Kind.VIDEO:
            rendition.count_pictures(track, len(samples), cut)
        else:
            start = samples[0].pts_ticks
            end = following.pts_ticks if following is not None and near else _sounded(samples)
        return Part(STYP + fragment, start, max(end - start, 1), current.init)

    def _set_init(self, current: _CmafTrack, rendition: Rendition) -> None:
        data = current.muxer.init_segment()
        entry = current.muxer.entry(current.track.id)
        track = current.track
        if rendition.inits.get(rendition.init) != data:
            rendition.add_init(data)
        current.init = rendition.init
        if current.init > 1:
            current.muxer.keep_sets()
        rendition.codecs, rendition.language = entry.codecs, track.language
        rendition.channels, rendition.sample_rate = track.channels, entry.timescale
        if track.kind is Kind.VIDEO:
            rendition.describe_video(track, entry)


def _of_one_format(current: _CmafTrack, samples: list[Sample]) -> list[Sample]:
    """The frames of AAC that are as the last two are; of other codecs all samples.

    A job that takes over gives other channels or another rate, where the source has become another, later than its
    tracks are announced. Decoders stop at frames that are not as their initialization segment says.
    """
    formats = {_adts_format(sample) for sample in samples[-2:]}
    if current.track.codec is not Codec.AAC or len(formats) > 1:
        return samples
    (wanted,) = formats
    if wanted != current.format:
        current.format = wanted
        current.muxer.forget(current.track.id)
    return [sample for sample in samples if _adts_format(sample) == wanted]


def _adts_format(sample: Sample) -> bytes:
    """Profile, rate and channels in an ADTS header (13818-7, 6.2.1); empty for what has none."""
    data = sample.data
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return b""
    return bytes((data[2] & 0xFD, data[3] & 0xC0))


def _named(tracks: Tracks) -> list[tuple[str, Track]]:
    """Renditions by their place among the tracks: another track in this place carries on its playlist."""
    videos = [("video", track) for track in tracks.of_kind(Kind.VIDEO)[:1]]
    return videos + [(f"audio{n}", track) for n, track in enumerate(tracks.of_kind(Kind.AUDIO), start=1)]


def _same(before: Track, after: Track) -> bool:
    return (before.id, before.codec, before.sample_rate, before.channels, before.language) == (
        after.id,
        after.codec,
        after.sample_rate,
        after.channels,
        after.language,
    )


def _sounded(samples: Sequence[Sample]) -> int:
    """When the last frame has sounded, if it is as long as the one before it."""
    frame = samples[-1].pts_ticks - samples[-2].pts_ticks if len(samples) > 1 else 1
    return samples[-1].pts_ticks + frame


class Window:
    """The newest segments, and what is known of all."""

    def __init__(self, first_number: int, usual_ticks: int = 0) -> None:
        """`usual_ticks`: how long segments will be, where that is known; the first one may be shorter.

        Discontinuities are numbered from 0 on: hls.js 1.7 does not come to an end with large numbers (tried).
        """
        self.segments: deque[Segment] = deque()  # a few more than are listed
        self.next_number = first_number
        self.discontinuities = 0
        self.longest_ticks = usual_ticks  # of any part so far
        self.peak_bps = 0  # of any segment so far, with the largest sound
        self.periods: dict[int, int] = {}  # start of each span without discontinuity that has segments here
        self.wanted: int | None = None  # segments from this number on stay listed, as far as KEPT_BYTES allow
        self._bits = 0
        self._ticks = 0

    @property
    def average_bps(self) -> int:
        return self._bits * TICKS_PER_SECOND // self._ticks if self._ticks else 0

    @property
    def target_s(self) -> int:
        """EXT-X-TARGETDURATION: no part is longer, rounded to seconds (RFC 8216, 4.3.3.1)."""
        return max(1, rounded_s(self.longest_ticks))

    @property
    def end_ticks(self) -> int:
        last = self.segments[-1] if self.segments else None
        return last.start_ticks + last.duration_ticks if last else 0

    def add(self, cut: Cut, parts: Mapping[str, Part], discontinuity: bool) -> None:
        """The next segment; nothing where it has no parts. The oldest go."""
        if not parts:
            return
        discontinuity = discontinuity and bool(self.segments)
        self.discontinuities += discontinuity
        first = min(part.start_ticks for part in parts.values()) if not self.segments else cut.start_ticks
        self.periods.setdefault(self.discontinuities, min(first, cut.start_ticks))
        duration = cut.end_ticks - cut.start_ticks
        self.segments.append(
            Segment(
                self.next_number,
                cut.start_ticks,
                duration,
                cut.independent,
                discontinuity,
                self.discontinuities,
                dict(parts),
            )
        )
        self.next_number += 1
        self.longest_ticks = max(self.longest_ticks, duration, *(part.duration_ticks for part in parts.values()))
        self._measure(parts, duration)
        self._evict()

    def listed(self) -> list[Segment]:
        """Those that playlists show."""
        least_ticks = LISTED_TARGETS * self.target_s * TICKS_PER_SECOND
        shown, ticks = 0, 0
        for segment in reversed(self.segments):
            enough = shown >= LISTED or (shown >= LEAST_KEPT and ticks >= LISTED_TICKS)
            unwanted = self.wanted is None or segment.number < self.wanted
            if enough and unwanted and ticks >= least_ticks:
                break
            shown += 1
            ticks += segment.duration_ticks
        return list(self.segments)[len(self.segments) - shown :]

    def get(self, number: int) -> Segment | None:
        at = number - self.segments[0].number if self.segments else -1
        return self.segments[at] if 0 <= at < len(self.segments) else None

    def is_next(self, name: str, *, number: int | None = None, ticks: int | None = None) -> bool:
        """Whether that is a rendition's part that is made now: by its number, or by when it begins.

        Players reckon either from the part before.
        """
        if number is not None:
            return number == self.next_number
        last = next((segment.parts[name] for segment in reversed(self.segments) if name in segment.parts), None)
        if last is None or ticks is None:
            return False
        return 0 <= ticks - last.start_ticks - last.duration_ticks < self.longest_ticks

    def _measure(self, parts: Mapping[str, Part], duration_ticks: int) -> None:
        sounds = [len(part.data) for name, part in parts.items() if name.startswith("audio")]
        others = sum(len(part.data) for name, part in parts.items() if not name.startswith("audio"))
        bits = 8 * (others + max(sounds, default=0))
        self._bits += bits
        self._ticks += duration_ticks
        if duration_ticks * 2 >= self.longest_ticks:  # RFC 8216, 4.1: of half to one and a half target durations
            self.peak_bps = max(self.peak_bps, bits * TICKS_PER_SECOND // duration_ticks)

    def _evict(self) -> None:
        size = sum(len(part.data) for segment in self.segments for part in segment.parts.values())
        while len(self.segments) > len(self.listed()) + KEPT or (size > KEPT_BYTES and len(self.segments) > LEAST_KEPT):
            size -= sum(len(part.data) for part in self.segments.popleft().parts.values())
        oldest = self.segments[0].discontinuities
        self.periods = {number: start for number, start in self.periods.items() if number >= oldest}
