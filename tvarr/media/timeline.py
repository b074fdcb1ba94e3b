"""Maps a source's time stamps to a timeline on which they never jump.

The source's clock is followed as long as it behaves: at the start the timeline *is* the source's clock. The 33-bit
wrap is undone, jumps are absorbed, damaged time stamps replaced. An *epoch* is a stretch of the source's clock with one
offset to the timeline; all tracks share epochs, so that what belonged together before a jump does after it.

How a sample of an audio or video track is placed, by the distance of its DTS from where the track's next sample is
expected:

* within `TOLERANCE_TICKS`: it goes on.
* further off, but where a newer epoch or (after a long silence) the other tracks are: the track follows them.
* anything else may be a jump or damage, and one sample can't tell. It is shown where the next sample was expected (an
  *interpolated* time: nothing is lost and nothing moves), and what it says is kept as a proposal. The track's next
  sample, or one of another track, that agrees with the proposal makes it true: a step forward of up to `MAX_GAP_TICKS`
  is a hole in the source and stays one; any other is a new epoch that begins right at the interpolated time. If the
  next sample goes on as expected, the proposal was damage and is forgotten.

Samples of the old epoch that still arrive after a jump (audio comes late at a splice) go on in the old one.

Other tracks (subtitles, SCTE-35, data) are sparse: they follow the epoch that they are nearest to and never make one.
Where none is near, they have a clock of their own (real teletext does) or are damaged: they are shown when they come.
Before the first picture or sound they keep the source's times. None of them is ever dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample, Tracks, signed_33

# Further off than this, a DTS is not taken at its word. It is above what rounding, a lost PES packet or a source with
# PTS only and reordered pictures makes (0.2 s), and below a usual GOP: less is dropped after a small step back.
TOLERANCE_TICKS = TICKS_PER_SECOND // 2
# A hole up to here is a hole; beyond, it is a jump. FFmpeg draws the line there too (-dts_delta_threshold 10).
MAX_GAP_TICKS = 10 * TICKS_PER_SECOND
# How far the tracks of one epoch may lie apart at one place of the stream; FFmpeg's muxers interleave as far.
MAX_SKEW_TICKS = 10 * TICKS_PER_SECOND
# How near a sample of another track must be to a proposal to confirm it: decoder buffers hold 1 s (13818-1, 2.4.2.6),
# real muxers reach 2 s.
AGREEMENT_TICKS = 3 * TICKS_PER_SECOND
# After a join audio may lie this far before its own end; until it has caught up its frames are dropped as repeated.
# Video and what overlaps more move the epoch instead.
MAX_OVERLAP_TICKS = 3 * TICKS_PER_SECOND
# A track that the others have left behind by this was silent. One that still lives in an old epoch this long after
# the new one began comes over.
LINGER_TICKS = 5 * TICKS_PER_SECOND
MAX_REORDER_TICKS = 10 * TICKS_PER_SECOND  # a PTS further above its DTS is damaged
# What is joined is shown after what was, where that is shown at most this much after it is decoded: 16 pictures of
# H.264 (H.264, A.3.1) at 24 Hz are 0.7 s.
MAX_TAIL_TICKS = TICKS_PER_SECOND
DEFAULT_DURATION_TICKS = 3600  # a picture at 25 Hz, until two samples have shown the real distance

_NEVER = -(1 << 62)


@dataclass(slots=True)
class TimelineStats:
    """What was done to a source's time stamps; all but the first three count samples."""

    jumps: int = 0  # absorbed
    gaps: int = 0  # holes in the source, kept
    restarts: int = 0
    damaged: int = 0  # got an interpolated time, for good
    repeated: int = 0  # dropped: before the end of their own track
    strays: int = 0  # of sparse tracks, and near no epoch: got the time at which they came
    unannounced: int = 0  # dropped: of no track


@dataclass(slots=True, eq=False)
class _Epoch:
    offset: int  # timeline = source's clock + offset
    first: int  # DTS of its first sample by the source's clock, unwrapped
    latest: int  # the same of the last sample placed in it

    @property
    def position(self) -> int:
        """Where the timeline is, by this epoch."""
        return self.latest + self.offset

    def distance(self, ticks: int) -> int:
        """From its latest sample to a 33-bit time stamp."""
        return signed_33(ticks - self.latest)


@dataclass(slots=True, eq=False)
class _TrackState:
    kind: Kind
    last: int = _NEVER  # DTS given out last, on the timeline
    greatest_pts: int = _NEVER  # given out
    duration: int = 0  # of its last sample, 0 until two have shown it
    reorder: int = 0  # PTS - DTS of its last sample
    epoch: _Epoch | None = None
    source: int = 0  # DTS of its last sample by the clock of `epoch`, unwrapped
    proposed: _Epoch | None = None
    lap_first: int | None = None  # DTS of its first sample since the last restart
    lap_reorder: int = 0  # PTS - DTS of that sample
    old_lap_first: int | None = None  # the same in the lap before

    @property
    def dense(self) -> bool:
        return self.kind in (Kind.VIDEO, Kind.AUDIO)

    @property
    def started(self) -> bool:
        return self.last > _NEVER

    @property
    def step(self) -> int:
        return min(self.duration or DEFAULT_DURATION_TICKS, TICKS_PER_SECOND)

    @property
    def end(self) -> int:
        """Where its next sample would lie on the timeline."""
        return self.last + self.step

    def joint(self, reorder: int) -> int:
        """The least DTS of a sample that comes behind a restart and is shown `reorder` after it.

        A source may be cut off behind a picture that was decoded long before it is shown.
        """
        shown = min(self.greatest_pts, self.last + MAX_TAIL_TICKS)
        return max(self.end, shown + self.step - reorder)


class Timeline:
    """One relay's timeline.

    `map` returns samples whose DTS strictly grows in each track and is never above PTS, whatever comes in. Times are
    unwrapped; negative ones, of at most MAX_SKEW_TICKS, come where a source's first sample lies just behind a wrap and
    another track's before it. `set_tracks` comes before the samples of those tracks. A few hundred bytes are kept for
    each track ever announced (a PID that comes back must not step back): at most 8192 of them.
    """

    def __init__(self) -> None:
        self.stats = TimelineStats()
        self._known: dict[int, _TrackState] = {}
        self._tracks: dict[int, _TrackState] = {}  # those announced now
        self._current: _Epoch | None = None
        self._lap: _Epoch | None = None  # the first epoch since the last restart

    def set_tracks(self, tracks: Tracks) -> None:
        """Samples of these tracks are mapped from here on, all others dropped."""
        self._tracks = {}
        for track in tracks.tracks:
            state = self._known.setdefault(track.id, _TrackState(track.kind))
            if state.kind is not track.kind:
                state.kind, state.epoch, state.proposed = track.kind, None, None
            self._tracks[track.id] = state
        for track_id, state in self._known.items():
            if track_id not in self._tracks:
                state.epoch = state.proposed = None

    def restart(self) -> None:
        """The source begins anew (it was reconnected, or a file is looped): its clock means nothing any more.

        What comes next is joined right behind what was. A lap that begins with the DTS that the last one began with is
        taken for the same file: no track overlaps itself and the longest has no gap. Else the first sample is put at
        the greatest end of all tracks.
        """
        if self._lap is None:
            return
        self.stats.restarts += 1
        self._current = self._lap = None
        for state in self._known.values():
            state.epoch = state.proposed = None
            state.old_lap_first, state.lap_first = state.lap_first, None

    def map(self, sample: Sample) -> Sample | None:
        """The sample with its times on the timeline, or None where it has no place there (counted in `stats`)."""
        track = self._tracks.get(sample.track)
        if track is None:
            self.stats.unannounced += 1
            return None
        dts, reorder = sample.dts_ticks, signed_33(sample.pts_ticks - sample.dts_ticks)
        if -MAX_REORDER_TICKS <= reorder < 0:  # decoded after it is shown: can't be, and what is shown counts
            dts, reorder = sample.pts_ticks, 0
        elif not 0 <= reorder <= MAX_REORDER_TICKS:
            reorder = track.reorder
        track.reorder = reorder
        placed = self._place_dense(track, dts) if track.dense else self._place_sparse(dts)
        return self._give_out(sample, track, placed, placed + reorder)

    def _give_out(self, sample: Sample, track: _TrackState, dts: int, pts: int) -> Sample | None:
        """Makes DTS grow.

        Of audio and video, what is shown later than all before is not dropped for its DTS alone. PTS is moved only for
        sparse tracks, which often say the same time twice.
        """
        if dts <= track.last:
            if track.dense and pts <= track.greatest_pts:
                self.stats.repeated += 1
                return None
            dts = track.last + 1
            pts = max(pts, dts)
        track.last, track.greatest_pts = dts, max(track.greatest_pts, pts)
        return sample._replace(pts_ticks=pts, dts_ticks=dts)

    def _place_sparse(self, dts: int) -> int:
        if self._current is None:
            ends = self._ends()
            return max(ends) if ends else dts
        epochs = [self._current, *(state.epoch for state in self._tracks.values() if state.epoch is not None)]
        nearest = min(epochs, key=lambda epoch: abs(epoch.distance(dts)))
        distance = nearest.distance(dts)
        if abs(distance) <= MAX_SKEW_TICKS:
            return nearest.position + distance
        self.stats.strays += 1
        return self._current.position

    def _place_dense(self, track: _TrackState, dts: int) -> int:
        """The DTS on the timeline of an audio or video sample; the rules are those in the module's docstring."""
        if self._current is None:
            return self._enter(track, self._begin_lap(track, dts), dts)
        own, current = track.epoch, self._current
        follows = own is not None and self._follows(track, own, dts)
        lags = own is not None and own is not current
        if own is not None and follows and not (lags and self._left_behind(track, own, dts)):
            return self._go_on(track, own, dts)
        silent = current.position - track.end > LINGER_TICKS
        if (own is None or lags or silent) and self._fits(current, dts):
            return self._enter(track, current, dts)
        if own is not None and follows:
            return self._go_on(track, own, dts)
        for state in (track, *self._tracks.values()):
            if state.proposed is not None and self._agrees(state is track, state.proposed, dts):
                if state is track:
                    track.duration = state.proposed.distance(dts)
                self._accept(state, state.proposed)
                return self._place_dense(track, dts)
        return self._propose(track, current, dts)

    def _follows(self, track: _TrackState, epoch: _Epoch, dts: int) -> bool:
        """Whether the track's last sample may well be followed by this DTS."""
        source = epoch.latest + epoch.distance(dts)
        limit = track.duration + TOLERANCE_TICKS if track.duration else MAX_GAP_TICKS
        reaches = not track.started or source + epoch.offset >= track.last - MAX_OVERLAP_TICKS
        return reaches and -TOLERANCE_TICKS <= source - track.source <= limit

    def _left_behind(self, track: _TrackState, epoch: _Epoch, dts: int) -> bool:
        """Whether a track in an old epoch should rather come over to the current one."""
        assert self._current is not None
        lingered = self._current.latest - self._current.first > LINGER_TICKS
        return lingered or not 0 < epoch.latest + epoch.distance(dts) - track.source <= track.step + TOLERANCE_TICKS

    def _fits(self, epoch: _Epoch, dts: int) -> bool:
        """Whether the other tracks of the epoch are near, so that the track may enter it."""
        return abs(epoch.distance(dts)) <= MAX_SKEW_TICKS

    def _agrees(self, same_track: bool, proposed: _Epoch, dts: int) -> bool:
        distance = proposed.distance(dts)
        return 0 < distance <= MAX_GAP_TICKS if same_track else abs(distance) <= AGREEMENT_TICKS

    def _begin_lap(self, track: _TrackState, dts: int) -> _Epoch:
        known = [state for state in self._known.values() if state.dense and state.started]
        joints = [(state, state.joint(track.reorder if state is track else state.lap_reorder)) for state in known]
        if not joints:
            offset = 0
        elif track.old_lap_first == dts:
            offset = max(at - state.old_lap_first for state, at in joints if state.old_lap_first is not None)
        else:
            offset = max(at for _, at in joints) - dts
        self._current = self._lap = _Epoch(offset, dts, dts)
        return self._current

    def _ends(self) -> list[int]:
        """Where the audio and video tracks that have begun end by now."""
        return [state.end for state in self._known.values() if state.dense and state.started]

    def _enter(self, track: _TrackState, epoch: _Epoch, dts: int) -> int:
        """Puts the track into an epoch by the other tracks' clock.

        Video that would overlap its own past moves the epoch: dropping its first keyframe would cost a whole GOP.
        Audio does so only where much would be dropped.
        """
        self._forget_proposal(track)
        source = epoch.latest + epoch.distance(dts)
        joins = epoch is self._lap and track.lap_first is None
        spared = 0 if track.kind is Kind.VIDEO else MAX_OVERLAP_TICKS
        if track.started and source + epoch.offset <= track.last - spared:
            epoch.offset = track.end - source
        if joins:
            if track.kind is Kind.VIDEO and track.started:
                epoch.offset = max(epoch.offset, track.joint(track.reorder) - source)
            track.lap_first, track.lap_reorder = source, track.reorder
        track.epoch, track.source, epoch.latest = epoch, source, source
        return source + epoch.offset

    def _go_on(self, track: _TrackState, epoch: _Epoch, dts: int) -> int:
        self._forget_proposal(track)
        source = epoch.latest + epoch.distance(dts)
        if source > track.source:
            track.duration = source - track.source
        track.source = epoch.latest = source
        return source + epoch.offset

    def _propose(self, track: _TrackState, current: _Epoch, dts: int) -> int:
        """Keeps what the sample says as a proposal and gives it the time at which the next one was expected."""
        self._forget_proposal(track)
        silent = current.position - track.end > LINGER_TICKS
        at = track.end if track.started and not silent else current.position
        if track.epoch is not None:
            track.source = at - track.epoch.offset if silent else track.source + track.step
        track.proposed = _Epoch(at - dts, dts, dts)
        return at

    def _accept(self, track: _TrackState, proposed: _Epoch) -> None:
        own, track.proposed = track.epoch, None
        gap = signed_33(proposed.first - track.source)
        if own is not None and 0 < gap <= MAX_GAP_TICKS:
            self.stats.gaps += 1
            track.source += gap
            own.latest = track.source
            return
        self.stats.jumps += 1
        track.epoch = self._current = proposed
        track.source = proposed.first

    def _forget_proposal(self, track: _TrackState) -> None:
        if track.proposed is not None:
            self.stats.damaged += 1
            track.proposed = None
