"""What a job does to samples on their way into ffmpeg and back. Pure.

The relay's time T becomes the process's time T - base, and tracks get ids of the pipe's; behind ffmpeg both are
restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tvarr.cluster.model import JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.command import MAX_PROCESS_TICKS, Start, start_at
from tvarr.ffmpeg.pipes import FIRST_ID, pipe_for
from tvarr.ffmpegd.reader import Reader
from tvarr.ffmpegd.writers import writer_for
from tvarr.media.model import TICKS_PER_SECOND, Kind, Sample, Track, Tracks

AUDIO_WAIT_TICKS = 1 * TICKS_PER_SECOND
"""A sound track of which nothing came in this much of the others is left out: ffmpeg would wait for it for ever."""

KEYFRAME_WAIT_TICKS = 10 * TICKS_PER_SECOND
"""Video without a keyframe for so long is tried as it is; without any picture, the job starts without it."""

OPENING_BYTES = 16 * 1024 * 1024
"""Held at most before ffmpeg starts; when it is full, ffmpeg starts with what is there."""


@dataclass(slots=True)
class Opening:
    """Holds a job's first samples until it is known what its process begins with."""

    spec: JobSpec
    held: list[Sample] = field(default_factory=list)
    dropped: int = 0  # pictures before the first keyframe
    _bytes: int = 0
    _first_dts: int | None = None
    _span_ticks: int = 0  # of the samples that came, held or not
    _seen: set[int] = field(default_factory=set)  # tracks that have something in `held`
    _video: frozenset[int] = field(init=False)
    _all: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._all = frozenset(target.track.id for target in self.spec.targets)
        self._video = frozenset(t.track.id for t in self.spec.targets if t.track.kind is Kind.VIDEO)

    def push(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if sample.track not in self._all:
                continue
            if self._first_dts is None:
                self._first_dts = sample.dts_ticks
            self._span_ticks = max(self._span_ticks, sample.dts_ticks - self._first_dts)
            if sample.track in self._video and sample.track not in self._seen and not self._can_start(sample):
                self.dropped += 1
                continue
            self._seen.add(sample.track)
            self.held.append(sample)
            self._bytes += len(sample.data)

    def _can_start(self, sample: Sample) -> bool:
        return sample.keyframe or self._span_ticks >= KEYFRAME_WAIT_TICKS

    @property
    def ready(self) -> bool:
        """Whether the process can be started."""
        if not self._seen:
            return False
        missing = self._all - self._seen
        wait = KEYFRAME_WAIT_TICKS if missing & self._video else AUDIO_WAIT_TICKS
        return not missing or self._span_ticks >= wait or self._bytes >= OPENING_BYTES

    def begin(self) -> tuple[JobSpec, Start]:
        """The job without the tracks that are missing, and where it starts; something has to be held."""
        present = replace(self.spec, targets=tuple(t for t in self.spec.targets if t.track.id in self._seen))
        first_video = next((s.pts_ticks for s in self.held if s.track in self._video), None)
        first = min(sample.dts_ticks for sample in self.held)
        return present, start_at(present, first_ticks=first, first_video_ticks=first_video)


class Inlet:
    """Samples in, bytes for ffmpeg's stdin out."""

    def __init__(self, spec: JobSpec, start: Start) -> None:
        self.dropped = 0  # samples of no time that the process has
        self._base_ticks = start.base_ticks
        self._ids = {target.track.id: FIRST_ID + n for n, target in enumerate(spec.targets)}
        self._writer = writer_for(pipe_for(target.track.codec for target in spec.targets))
        self.set_tracks([target.track for target in spec.targets])

    def set_tracks(self, tracks: Iterable[Track]) -> None:
        """Raises `JobError` where the container can't carry one of them to ffmpeg."""
        self._writer.set_tracks([replace(t, id=self._ids[t.id], descriptors=b"") for t in tracks if t.id in self._ids])

    def mux(self, samples: Iterable[Sample]) -> bytes:
        """Raises `JobError` when the process has come to the end of its time, or can't follow the input."""
        base, ids = self._base_ticks, self._ids
        moved = []
        for track, pts, dts, data, keyframe in samples:
            own = ids.get(track)
            if own is None or dts < base:
                self.dropped += 1
                continue
            if pts - base > MAX_PROCESS_TICKS:
                raise JobError(ErrorCode.FFMPEG_EXITED, "26 hours are over, after which MPEG-TS's time stamps repeat")
            moved.append(Sample(own, pts - base, dts - base, data, keyframe))
        return self._writer.write(moved)


class Outlet:
    """Bytes of ffmpeg's stdout in, samples and tracks on the relay's timeline out.

    Process time stays below 2^33, so that nothing has to be unwrapped.
    """

    def __init__(self, spec: JobSpec, start: Start) -> None:
        self._base_ticks = start.base_ticks
        self._targets = {FIRST_ID + n: target for n, target in enumerate(spec.targets)}
        self._reader = Reader({track_id: target.codec for track_id, target in self._targets.items()})

    def feed(self, data: bytes) -> list[Sample | Tracks]:
        return self._restore(self._reader.feed(data))

    def flush(self) -> list[Sample | Tracks]:
        return self._restore(self._reader.flush())

    def _restore(self, events: Sequence[Sample | Tracks]) -> list[Sample | Tracks]:
        base, targets = self._base_ticks, self._targets
        restored: list[Sample | Tracks] = []
        for event in events:
            if isinstance(event, Tracks):
                own = (_output_track(targets[t.id], t) for t in event.tracks if t.id in targets)
                restored.append(Tracks(tuple(own)))
                continue
            target = targets.get(event.track)
            if target is None:
                continue
            pts, dts = event.pts_ticks + base, event.dts_ticks + base
            restored.append(Sample(target.track.id, pts, dts, event.data, event.keyframe))
        return restored


def output_tracks(targets: Iterable[Target]) -> tuple[Track, ...]:
    """What a job's tracks will be, as far as that is known before it runs."""
    return tuple(
        Track(
            id=target.track.id,
            codec=target.codec,
            language=target.track.language,
            fps=target.fps or target.track.fps,
            sample_rate=target.track.sample_rate,
            channels=target.channels or target.track.channels,
        )
        for target in targets
    )


def _output_track(target: Target, found: Track) -> Track:
    fps = found.fps or target.fps or target.track.fps
    return replace(found, id=target.track.id, language=target.track.language, fps=fps, descriptors=b"")
