"""Joining the output of one job to that of the job before, so that viewers get every picture once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample

DEFAULT_AUDIO_TICKS = 1024 * TICKS_PER_SECOND // 48_000  # an AAC frame, until two frames have shown the real length
MAX_HELD_PICTURES = 32  # twice what a decoder may reorder (ITU-T H.264, A.3.1; H.265, A.4.2); beyond it they just pass


@dataclass(slots=True)
class _Released:
    """What viewers have of one track."""

    frontier_ticks: int  # greatest PTS
    dts_ticks: int  # last DTS
    begun: bool = False  # there is a released sample; until then the figures are those just before the first one
    duration_ticks: int = 0  # of the last frame, by its distance from the one before
    joined: bool = False  # the present job has reached the point where it goes on
    shift_ticks: int = 0  # added to the present job's time stamps, at most half an audio frame


@dataclass(slots=True)
class Splice:
    """The released part of a variant's transcoded tracks, and the joint to what comes next.

    Pictures are released in closed groups: none before one that is shown after it, so that what was released ends at
    one moment, and a keyframe can go on there. Without B-frames that is each picture as it comes; with them the last
    few are held back until what is to be shown before them has come.

    Samples of the first job pass as they are. After `restart`, samples that viewers have already are dropped; video
    goes on with a keyframe, and audio with the first frame that begins at the end of the last one, give or take half
    a frame, moved there exactly.
    """

    missing: int = 0  # pictures that viewers did not get: no keyframe to go on with, or no source kept to make them of
    repeated: int = 0  # samples that were dropped because viewers had them
    _tracks: dict[int, _Released] = field(default_factory=dict)
    _held: dict[int, list[Sample]] = field(default_factory=dict)  # pictures in decode order that are not closed yet
    _gap: bool = False  # the source from where the last job stopped is not kept any more

    def restart(self, *, gap: bool = False) -> None:
        """Another job's output comes from here on. `gap`: it was not given what comes next, but what comes later."""
        self._held.clear()
        self._gap = gap
        for track in self._tracks.values():
            track.joined = False
            track.shift_ticks = 0

    def finish(self) -> list[Sample]:
        """The job has given all of its output: what was held back, in decode order."""
        held, self._held = self._held, {}
        released = [self._release(self._tracks[track], sample) for track, rest in held.items() for sample in rest]
        return [sample for sample in released if sample is not None]

    def resume_ticks(self, kinds: Mapping[int, Kind]) -> int | None:
        """Where the next job has to go on: the first PTS that a viewer does not have; None: nothing was released.

        With video among the tracks its frontier decides, and the keyframe is forced there.
        """
        video = [t.frontier_ticks + 1 for id_, t in self._tracks.items() if kinds.get(id_) is Kind.VIDEO]
        audio = [t.frontier_ticks + 1 for id_, t in self._tracks.items() if kinds.get(id_) is Kind.AUDIO]
        return min(video or audio, default=None)

    def has(self, sample: Sample, kind: Kind) -> bool:
        """Whether viewers have this sample of another job's output, or what is shown in its place."""
        released = self._tracks.get(sample.track)
        if released is None:
            return False
        if kind is Kind.AUDIO:
            length = released.duration_ticks or DEFAULT_AUDIO_TICKS
            return sample.pts_ticks < released.frontier_ticks + length - length // 2
        return sample.pts_ticks <= released.frontier_ticks

    def take(self, sample: Sample, kind: Kind) -> list[Sample]:
        """What viewers get now: nothing, this sample, or it after others that waited for it."""
        released = self._tracks.get(sample.track)
        if released is None:
            released = self._tracks[sample.track] = _Released(sample.pts_ticks - 1, sample.dts_ticks - 1, joined=True)
        elif not released.joined and not self._join(released, sample, kind):
            return []
        if kind is Kind.VIDEO:
            held = self._held.get(sample.track)
            if held or sample.pts_ticks != sample.dts_ticks:
                return self._take_reordered(released, sample)
        out = self._release(released, sample)
        return [] if out is None else [out]

    def _take_reordered(self, released: _Released, sample: Sample) -> list[Sample]:
        """A picture still to come has a PTS above the last DTS; those here are closed up to what is shown before that
        and before all behind them.
        """
        held = self._held.setdefault(sample.track, [])
        held.append(sample)
        closed, greatest = 0, held[0].pts_ticks
        for count, picture in enumerate(held, 1):
            greatest = max(greatest, picture.pts_ticks)
            if greatest <= sample.dts_ticks and all(greatest < later.pts_ticks for later in held[count:]):
                closed = count
        if len(held) > MAX_HELD_PICTURES:
            closed = len(held)
        out = [self._release(released, picture) for picture in held[:closed]]
        del held[:closed]
        return [picture for picture in out if picture is not None]

    def _release(self, released: _Released, sample: Sample) -> Sample | None:
        pts = sample.pts_ticks + released.shift_ticks
        dts = sample.dts_ticks + released.shift_ticks
        if dts <= released.dts_ticks:
            dts = released.dts_ticks + 1
            if dts > pts:
                self.repeated += 1
                return None
        if released.begun:
            released.duration_ticks = dts - released.dts_ticks
        released.begun = True
        released.frontier_ticks = max(released.frontier_ticks, pts)
        released.dts_ticks = dts
        if pts == sample.pts_ticks and dts == sample.dts_ticks:
            return sample
        return sample._replace(pts_ticks=pts, dts_ticks=dts)

    def _join(self, released: _Released, sample: Sample, kind: Kind) -> bool:
        if self.has(sample, kind):
            self.repeated += 1
            return False
        if kind is Kind.AUDIO:
            length = released.duration_ticks or DEFAULT_AUDIO_TICKS
            end = released.frontier_ticks + length
            if sample.pts_ticks < end + length:
                released.shift_ticks = end - sample.pts_ticks
        elif not sample.keyframe:
            self.missing += 1
            return False
        elif self._gap and released.duration_ticks:
            self.missing += max(0, round((sample.pts_ticks - released.frontier_ticks) / released.duration_ticks) - 1)
        released.joined = True
        return True
