"""One endless fragmented MP4 file from samples as they come: what `<video src>` and other players read over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.mux import Muxer
from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample, Track, Tracks

FRAGMENT_TICKS = TICKS_PER_SECOND // 2  # as long as a fragment gets between keyframes; half of it is latency
PATIENCE_TICKS = TICKS_PER_SECOND  # an announced track that nothing has described by then is left out
# The same for all pictures: they begin with a keyframe, and most players can't add them to a file that began without.
PICTURE_PATIENCE_TICKS = 10 * TICKS_PER_SECOND
HELD_BYTES = 16 << 20  # until then samples are held; with more, what was described so far is all there is
SILENT_TICKS = 2 * TICKS_PER_SECOND  # a picture this far behind the sound has stopped: viewers start without it


class Fragment(NamedTuple):
    """`keyframe`: a player can start with `init` and then this."""

    init: bytes  # the initialization segment in force
    data: bytes
    keyframe: bool
    dts_ticks: int  # of its last sample


class Fragmenter:
    """Samples in, fragments out; `set_tracks` comes first.

    A fragment ends before each keyframe of the first video track, and when it has `FRAGMENT_TICKS` of any track. The
    initialization segment changes with the tracks, with a video track's format, and where a track that was left out
    shows itself after all. Decode times go on over all of that.
    """

    def __init__(self) -> None:
        self._tracks: dict[int, Track] = {}
        self._described: dict[int, Sample] = {}  # the sample by which each track was described last
        self._muxer: Muxer | None = None  # of the described tracks; None while more are waited for
        self._init = b""
        self._pending: list[Sample] = []
        self._first_dts: dict[int, int] = {}  # of each track in `_pending`
        self._pending_bytes = 0
        self._sequence = 0
        self._leading: Track | None = None  # viewers start at its keyframes
        self._leading_dts = 0

    def set_tracks(self, tracks: Tracks) -> list[Fragment]:
        """The tracks from here on, of codecs that MP4 carries; returns what was under way."""
        wanted = {track.id: track for track in tracks.tracks if entries.carries(track.codec)}
        if wanted == self._tracks:
            return []
        out = self.flush()
        self._described = {
            track_id: sample
            for track_id, sample in self._described.items()
            if track_id in wanted and wanted[track_id] == self._tracks[track_id]
        }
        self._tracks = wanted
        self._muxer = None
        return out

    def push(self, samples: Iterable[Sample]) -> list[Fragment]:
        """What is complete now. Samples of other tracks are left out."""
        out: list[Fragment] = []
        for sample in samples:
            if sample.track in self._tracks:
                self._take(sample, out)
        return out

    def flush(self) -> list[Fragment]:
        """What was under way, as a last fragment or before a pause."""
        out: list[Fragment] = []
        if self._muxer is None and self._described:
            self._start(out)
        self._close(out)
        return out

    def _take(self, sample: Sample, out: list[Fragment]) -> None:
        new = sample.track not in self._described
        if new and self._describes(sample):
            self._described[sample.track] = sample
            new = False
            if self._muxer is not None:
                self._close(out)
                self._make_muxer()
        if self._muxer is None:
            self._hold(sample)
            if len(self._described) == len(self._tracks) or self._is_overdue(sample):
                self._start(out)
            return
        if new:
            return
        self._write(self._muxer, sample, out)

    def _describes(self, sample: Sample) -> bool:
        return sample.keyframe and entries.describe(self._tracks[sample.track], sample.data) is not None

    def _hold(self, sample: Sample) -> None:
        self._first_dts.setdefault(sample.track, sample.dts_ticks)
        self._pending.append(sample)
        self._pending_bytes += len(sample.data)
        if self._muxer is None and self._pending_bytes > HELD_BYTES:
            self._let_go_of_pictures()

    def _let_go_of_pictures(self) -> None:
        """Those before the one that describes them, which nobody can decode: their keyframe is waited for still."""
        kept = [s for s in self._pending if s.track in self._described or self._tracks[s.track].kind is not Kind.VIDEO]
        self._pending, self._pending_bytes = kept, sum([len(s.data) for s in kept])

    def _is_overdue(self, sample: Sample) -> bool:
        waited = sample.dts_ticks - self._first_dts[sample.track]
        if self._described:
            videos = [track_id for track_id, track in self._tracks.items() if track.kind is Kind.VIDEO]
            shows = not videos or any(track_id in self._described for track_id in videos)
            return waited >= (PATIENCE_TICKS if shows else PICTURE_PATIENCE_TICKS) or self._pending_bytes > HELD_BYTES
        if waited >= PATIENCE_TICKS or self._pending_bytes > HELD_BYTES:
            self._forget_pending()
        return False

    def _start(self, out: list[Fragment]) -> None:
        """Writes what was held until the tracks were known."""
        held = self._pending
        self._forget_pending()
        muxer = self._make_muxer()
        for sample in held:
            if sample.track in self._described:
                self._write(muxer, sample, out)

    def _make_muxer(self) -> Muxer:
        tracks = [track for track_id, track in self._tracks.items() if track_id in self._described]
        muxer = self._muxer = Muxer(tracks)
        for sample in self._described.values():
            muxer.learn(sample)
        self._init = muxer.init_segment()
        videos = [track for track in tracks if track.kind is Kind.VIDEO]
        self._leading = (videos or tracks)[0]
        return muxer

    def _write(self, muxer: Muxer, sample: Sample, out: list[Fragment]) -> None:
        leads = self._leading is not None and sample.track == self._leading.id
        starts = leads and sample.keyframe and self._tracks[sample.track].kind is Kind.VIDEO
        first = self._first_dts.get(sample.track, sample.dts_ticks)
        if muxer.differs(sample):
            self._close(out, sample)
            muxer.learn(sample)
            self._described[sample.track] = sample
            self._init = muxer.init_segment()
        elif starts or sample.dts_ticks - first >= FRAGMENT_TICKS:
            self._close(out, sample)
        if leads:
            self._leading_dts = sample.dts_ticks
        self._hold(sample)

    def _close(self, out: list[Fragment], following: Sample | None = None) -> None:
        samples = self._pending
        self._forget_pending()
        if not samples or self._muxer is None or self._leading is None:
            return
        ends = {following.track: following.dts_ticks} if following is not None else None
        data = self._muxer.fragment(self._sequence + 1, samples, ends)
        if not data:
            return
        self._sequence += 1
        first, last = samples[0], samples[-1].dts_ticks
        video = self._leading.kind is Kind.VIDEO and last - self._leading_dts < SILENT_TICKS
        keyframe = (first.track == self._leading.id and first.keyframe) if video else True
        out.append(Fragment(self._init, data, keyframe, last))

    def _forget_pending(self) -> None:
        self._pending, self._first_dts, self._pending_bytes = [], {}, 0
