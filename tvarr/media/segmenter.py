"""Cuts a stream of samples into the segments of HLS and DASH: at keyframes, by media time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Track, Tracks

TARGET_TICKS = 2 * TICKS_PER_SECOND
LATE_TICKS = TICKS_PER_SECOND  # a segment waits this long for sound that a multiplex carries behind its pictures
PATIENCE_TICKS = TICKS_PER_SECOND  # sound alone begins a segment where no picture came for so long
PICTURE_PATIENCE_TICKS = 10 * TICKS_PER_SECOND  # so long pictures wait for their first keyframe, as those of MP4 do
SILENT_TICKS = 2 * TICKS_PER_SECOND  # a track this far behind another one has stopped; pictures, a frame more
GAP_TICKS = TICKS_PER_SECOND  # a segment is not lengthened over a hole that is longer
MAX_SEGMENT_TICKS = 20 * TICKS_PER_SECOND  # then it is cut without a keyframe
LONGER_TICKS = 2 * TICKS_PER_SECOND // 5  # so much over whole seconds is rounded away, a frame of sound more too
MAX_SEGMENT_BYTES = 32 << 20  # then too; with twice as much, what is neither picture nor leading sound is dropped

Configuration = Callable[[Track, bytes], bytes | None]
"""What a decoder must be set up with for a keyframe, to compare; None where it does not tell."""


def usual_ticks(gop_s: float) -> int:
    """How long segments of a picture get that has a keyframe each `gop_s` seconds."""
    return round(ceil(TARGET_TICKS / TICKS_PER_SECOND / gop_s - 0.001) * gop_s * TICKS_PER_SECOND)


def rounded_s(ticks: int) -> int:
    """To whole seconds, as durations are compared with EXT-X-TARGETDURATION (RFC 8216, 4.3.3.1)."""
    return (ticks * 2 + TICKS_PER_SECOND) // (2 * TICKS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Cut:
    """What one segment is made of."""

    start_ticks: int  # PTS of its keyframe; without pictures, of its first sound
    end_ticks: int  # PTS of the next one's; at the end, and before a hole, when its last picture has been shown
    tracks: Tracks
    samples: tuple[Sample, ...]  # tracks mixed, each in decode order
    following: Mapping[int, Sample]  # the first sample behind it, of the tracks of which one came
    independent: bool  # begins with a keyframe
    discontinuity: bool  # decoders must be set up anew: other tracks, another configuration


@dataclass(slots=True)
class _Open:
    """A segment under way."""

    tracks: Tracks
    discontinuity: bool = False
    start_ticks: int | None = None
    end_ticks: int = 0
    leader: int | None = None  # the track by which it is cut
    independent: bool = True
    midway: bool = False  # may begin without a keyframe: only the sound became another
    samples: list[Sample] = field(default_factory=list)
    bytes: int = 0
    shown_ticks: int = 0  # the greatest PTS of the leader
    awaited: set[int] = field(default_factory=set)  # tracks that have not reached the end
    following: dict[int, Sample] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.bytes += len(sample.data)
        if sample.track == self.leader:
            self.shown_ticks = max(self.shown_ticks, sample.pts_ticks)


class Segmenter:
    """Events in, cuts out.

    * A segment ends at the first keyframe of the first video track that is `TARGET_TICKS` or more (by less than half a
      frame less) behind its start; without pictures, or while they have stopped, at the first frame of the first sound.
      Where tracks change, or a keyframe's configuration, it ends at that keyframe whatever its length, and so it does
      where it had to begin without one, once a keyframe is shown behind its start. The one behind such a change ends
      early where it would get longer than all before it until the next keyframe: the target duration of a playlist must
      not change (RFC 8216, 6.2.1).
    * Other samples belong to the segment in whose time they are shown, however a multiplex mixes them. For those that
      come late a segment is held back, `LATE_TICKS` at most.
    * Pictures before the first keyframe are left out, for `PICTURE_PATIENCE_TICKS` at most; sound is not.
    """

    def __init__(self, configuration: Configuration | None = None) -> None:
        self._configuration = configuration
        self._tracks = Tracks(())
        self._first_video: Track | None = None
        self._awaits_keyframe = True  # none of the first video has come yet
        self._pictures_at: int | None = None  # DTS of the first picture that was left out for that
        self._open = _Open(self._tracks)
        self._closing: _Open | None = None
        self._early: list[Sample] = []  # of tracks that belong to the next segment
        self._changed = False  # the tracks, since the open segment began
        self._last: dict[int, Sample] = {}  # by track
        self._frame_ticks: dict[int, int] = {}  # from the last sample but one to the last one
        self._configurations: dict[int, bytes] = {}
        self._longest_ticks = TARGET_TICKS  # of any segment so far
        self._group_ticks = 0  # the longest from keyframe to keyframe in the last segment that was not cut by a change

    def push(self, events: Iterable[Event]) -> list[Cut]:
        out: list[Cut] = []
        for event in events:
            if isinstance(event, Tracks):
                self._set_tracks(event, out)
            elif (track := self._tracks.get(event.track)) is not None:
                self._take(track, event, out)
        return out

    def end(self) -> list[Cut]:
        """What is left: the last segment."""
        out: list[Cut] = []
        if self._open.start_ticks is None:
            self._begin_with_sound()
        self._split(out)
        return out

    # Tracks

    def _set_tracks(self, tracks: Tracks, out: list[Cut]) -> None:
        before = self._tracks
        recast = any((old := before.get(t.id)) is not None and old.codec is not t.codec for t in tracks.tracks)
        self._tracks = tracks
        self._first_video = leading = next(iter(tracks.of_kind(Kind.VIDEO)), None)
        kept = leading is not None and (old := before.get(leading.id)) is not None and old.codec is leading.codec
        if not kept:
            self._awaits_keyframe, self._pictures_at = True, None
        if not self._open.samples:
            self._open.tracks = tracks
        elif recast:
            self._split(out)
            self._open.midway = kept
        elif self._changed or _differ(before, tracks):
            self._changed = True
        else:
            self._open.tracks = tracks

    def _split(self, out: list[Cut]) -> None:
        """Ends the segment here, wherever that is."""
        self._finish_closing(out)
        done = self._open
        if done.start_ticks is not None and done.samples:
            done.end_ticks = self._when_shown(done)
            out.append(_cut(done))
        self._changed = False
        self._early, early = [], self._early
        self._open = _Open(self._tracks, discontinuity=done.start_ticks is not None or done.discontinuity)
        for sample in early:
            self._open.add(sample)

    # Samples

    def _take(self, track: Track, sample: Sample, out: list[Cut]) -> None:
        before = self._last.get(sample.track)
        if before is not None:
            ticks = sample.dts_ticks - before.dts_ticks
            if 0 < ticks <= GAP_TICKS:
                self._frame_ticks[sample.track] = ticks
        self._last[sample.track] = sample
        if self._comes_early(track, sample):
            return
        if self._open.start_ticks is None:
            if not self._begins(track, sample):
                return
        elif self._ends_before(track, sample):
            self._cut_before(sample, out)
        self._put(track, sample)
        self._see_late(sample, out)

    def _comes_early(self, track: Track, sample: Sample) -> bool:
        """Whether this is a picture before the first keyframe, while that is waited for."""
        if not self._awaits_keyframe or self._first_video is None or track.id != self._first_video.id:
            return False
        if not sample.keyframe:
            if self._pictures_at is None:
                self._pictures_at = sample.dts_ticks
            if sample.dts_ticks - self._pictures_at < PICTURE_PATIENCE_TICKS:
                return True
        self._awaits_keyframe = False
        return False

    def _begins(self, track: Track, sample: Sample) -> bool:
        """Begins the open segment if the sample can; says whether it belongs to it at all."""
        opened = self._open
        if self._first_video is not None and track.id == self._first_video.id:
            begins = sample.keyframe or opened.midway or self._pictures_at is not None  # then it has waited enough
            if begins:
                self._start(sample)
            if sample.keyframe:
                self._is_reconfigured(track, sample)
            return begins
        if opened.bytes > MAX_SEGMENT_BYTES:
            opened.samples, opened.bytes = [], 0
        if track.kind is Kind.AUDIO:
            first = next((s for s in opened.samples if s.track == track.id), sample)
            if self._first_video is None or sample.dts_ticks - first.dts_ticks >= PATIENCE_TICKS:
                self._start(first)
                opened.shown_ticks = sample.pts_ticks
        return True

    def _begin_with_sound(self) -> None:
        for sample in self._open.samples:
            track = self._open.tracks.get(sample.track)
            if track is not None and track.kind is Kind.AUDIO:
                self._start(sample)
                self._open.shown_ticks = max(s.pts_ticks for s in self._open.samples if s.track == sample.track)
                return

    def _start(self, sample: Sample) -> None:
        self._open.start_ticks = self._open.shown_ticks = sample.pts_ticks
        self._open.leader, self._open.independent = sample.track, sample.keyframe

    def _leader(self, sample: Sample) -> int | None:
        """The track by which to cut at the time of this sample."""
        video = self._first_video
        if video is not None:
            last = self._last.get(video.id)
            silent_ticks = SILENT_TICKS + self._frame_ticks.get(video.id, 0)
            if last is not None and sample.dts_ticks - last.dts_ticks < silent_ticks:
                return video.id
        alive = (
            track.id
            for track in self._tracks.of_kind(Kind.AUDIO)
            if (last := self._last.get(track.id)) is not None and sample.dts_ticks - last.dts_ticks < SILENT_TICKS
        )
        return next(alive, None)

    def _ends_before(self, track: Track, sample: Sample) -> bool:
        opened = self._open
        assert opened.start_ticks is not None
        if sample.track != self._leader(sample):
            return False
        length = sample.pts_ticks - opened.start_ticks
        over = length >= MAX_SEGMENT_TICKS or opened.bytes >= MAX_SEGMENT_BYTES
        if not sample.keyframe:
            return over
        reconfigured = track.kind is Kind.VIDEO and self._is_reconfigured(track, sample)
        back = track.kind is Kind.VIDEO and opened.leader != track.id and length > 0
        if reconfigured or self._changed or back or over or not opened.independent:
            self._changed = self._changed or reconfigured
            return True
        half_ticks = self._frame_ticks.get(sample.track, 0) // 2
        if length >= TARGET_TICKS - min(half_ticks, TARGET_TICKS // 2):
            return True
        most = rounded_s(self._longest_ticks) * TICKS_PER_SECOND + LONGER_TICKS
        return opened.discontinuity and length + self._group_ticks > most

    def _is_reconfigured(self, track: Track, sample: Sample) -> bool:
        if self._configuration is None or (new := self._configuration(track, sample.data)) is None:
            return False
        old = self._configurations.get(track.id)
        self._configurations[track.id] = new
        return old is not None and old != new

    def _cut_before(self, sample: Sample, out: list[Cut]) -> None:
        self._finish_closing(out)
        closing = self._closing = self._open
        opened = self._open = _Open(self._tracks, discontinuity=self._changed)
        self._start(sample)
        closing.end_ticks = end = self._end_before(closing, sample)
        self._measure(closing)
        self._changed = False
        closing.following[sample.track] = sample
        held, closing.samples, closing.bytes = closing.samples, [], 0
        for other in held:
            later = other.pts_ticks >= end and other.track not in (closing.leader, sample.track)
            (opened if later else closing).add(other)
            if later:
                closing.following.setdefault(other.track, other)
        for other in self._early:
            opened.add(other)
        self._early = []
        closing.awaited = {
            other.track
            for other in self._last.values()
            if other.track != sample.track
            and other.pts_ticks < end
            and sample.dts_ticks - other.dts_ticks < SILENT_TICKS
            and (track := self._tracks.get(other.track)) is not None
            and track.kind in (Kind.VIDEO, Kind.AUDIO)
        }

    def _measure(self, closing: _Open) -> None:
        assert closing.start_ticks is not None
        self._longest_ticks = max(self._longest_ticks, closing.end_ticks - closing.start_ticks)
        if not self._changed:
            keys = [s.pts_ticks for s in closing.samples if s.keyframe and s.track == closing.leader]
            times = [closing.start_ticks, *keys, closing.end_ticks]
            self._group_ticks = max(later - earlier for earlier, later in pairwise(times))

    def _when_shown(self, done: _Open) -> int:
        """When the leader's last frame has been shown."""
        return done.shown_ticks + max(self._frame_ticks.get(done.leader or 0, 0), 1)

    def _end_before(self, closing: _Open, sample: Sample) -> int:
        assert closing.start_ticks is not None
        shown = self._when_shown(closing)
        if sample.track == closing.leader and sample.pts_ticks > shown + GAP_TICKS:
            return shown
        return max(sample.pts_ticks, closing.start_ticks + 1)

    def _put(self, track: Track, sample: Sample) -> None:
        closing, opened = self._closing, self._open
        if opened.bytes >= 2 * MAX_SEGMENT_BYTES and sample.track != opened.leader:
            return
        if closing is not None and sample.track != opened.leader and sample.pts_ticks < closing.end_ticks:
            if closing.tracks.get(sample.track) is not None:
                closing.add(sample)
                return
        elif self._changed and opened.tracks.get(sample.track) is None:
            if track.kind is not Kind.VIDEO:
                self._early.append(sample)
                opened.bytes += len(sample.data)
            return
        opened.add(sample)

    def _see_late(self, sample: Sample, out: list[Cut]) -> None:
        """Gives out the closing segment when every track has passed its end, or had the time for it."""
        closing = self._closing
        if closing is None:
            return
        if sample.pts_ticks >= closing.end_ticks:
            closing.awaited.discard(sample.track)
            closing.following.setdefault(sample.track, sample)
        late = sample.track == self._open.leader and sample.dts_ticks >= closing.end_ticks + LATE_TICKS
        if late or not closing.awaited:
            self._finish_closing(out)

    def _finish_closing(self, out: list[Cut]) -> None:
        if self._closing is not None:
            out.append(_cut(self._closing))
            self._closing = None


def _cut(done: _Open) -> Cut:
    assert done.start_ticks is not None
    return Cut(
        done.start_ticks,
        done.end_ticks,
        done.tracks,
        tuple(done.samples),
        done.following,
        done.independent,
        done.discontinuity,
    )


def _differ(before: Tracks, after: Tracks) -> bool:
    """Whether pictures or sounds are others; what only becomes known is no difference."""
    old, new = ([t for t in tracks.tracks if t.kind in (Kind.VIDEO, Kind.AUDIO)] for tracks in (before, after))
    if [(t.id, t.codec) for t in old] != [(t.id, t.codec) for t in new]:
        return True
    known = (
        pair
        for mine, theirs in zip(old, new, strict=True)
        for pair in (
            (mine.width, theirs.width),
            (mine.height, theirs.height),
            (mine.sample_rate, theirs.sample_rate),
            (mine.channels, theirs.channels),
        )
    )
    return any(one and other and one != other for one, other in known)
