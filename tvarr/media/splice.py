"""Joining the output of one job to that of the job before, so that viewers get every picture once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample

DEFAULT_AUDIO_TICKS = 1024 * TICKS_PER_SECOND // 48_000  # an AAC frame, until two frames have shown the real length


@dataclass(slots=True)
class _Released:
    """What viewers have of one track."""

    frontier_ticks: int  # greatest PTS
    dts_ticks: int  # last DTS
    duration_ticks: int = 0  # of the last frame, by its distance from the one before
    joined: bool = False  # the present job has reached the point where it goes on
    shift_ticks: int = 0  # added to the present job's time stamps, at most half an audio frame


@dataclass(slots=True)
class Splice:
    """The released part of a variant's transcoded tracks.

    Samples of the first job pass as they are. After `restart`, samples that viewers have already are dropped; video
    goes on with a keyframe, and audio with the first frame that begins at the end of the last one, give or take half
    a frame, moved there exactly.
    """

    missing: int = 0  # pictures that came after the frontier and could not be shown, for want of a keyframe
    repeated: int = 0  # samples that were dropped because viewers had them
    _tracks: dict[int, _Released] = field(default_factory=dict)

    def restart(self) -> None:
        """Another job's output comes from here on."""
        for track in self._tracks.values():
            track.joined = False
            track.shift_ticks = 0

    def resume_ticks(self, kinds: Mapping[int, Kind]) -> int | None:
        """Where the next job has to go on: the first PTS that a viewer does not have; None: nothing was released.

        With video among the tracks its frontier decides, and the keyframe is forced there.
        """
        video = [t.frontier_ticks + 1 for id_, t in self._tracks.items() if kinds.get(id_) is Kind.VIDEO]
        audio = [t.frontier_ticks + 1 for id_, t in self._tracks.items() if kinds.get(id_) is Kind.AUDIO]
        return min(video or audio, default=None)

    def take(self, sample: Sample, kind: Kind) -> Sample | None:
        """The sample as viewers get it, or None where they have it or can't use it."""
        released = self._tracks.get(sample.track)
        if released is None:
            self._tracks[sample.track] = _Released(sample.pts_ticks, sample.dts_ticks, joined=True)
            return sample
        if not released.joined and not self._join(released, sample, kind):
            return None
        pts = sample.pts_ticks + released.shift_ticks
        dts = sample.dts_ticks + released.shift_ticks
        if dts <= released.dts_ticks:
            dts = released.dts_ticks + 1
            if dts > pts:
                self.repeated += 1
                return None
        released.duration_ticks = pts - released.frontier_ticks
        released.frontier_ticks = max(released.frontier_ticks, pts)
        released.dts_ticks = dts
        if pts == sample.pts_ticks and dts == sample.dts_ticks:
            return sample
        return sample._replace(pts_ticks=pts, dts_ticks=dts)

    def _join(self, released: _Released, sample: Sample, kind: Kind) -> bool:
        if kind is Kind.AUDIO:
            length = released.duration_ticks or DEFAULT_AUDIO_TICKS
            end = released.frontier_ticks + length
            if sample.pts_ticks < end - length // 2:
                self.repeated += 1
                return False
            if sample.pts_ticks < end + length:
                released.shift_ticks = end - sample.pts_ticks
        elif sample.pts_ticks <= released.frontier_ticks:
            self.repeated += 1
            return False
        elif not sample.keyframe:
            self.missing += 1
            return False
        released.joined = True
        return True
