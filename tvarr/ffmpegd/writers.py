"""What turns samples into the bytes of ffmpeg's stdin: one writer for each container. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tvarr.errors import ErrorCode, JobError, MediaError
from tvarr.ffmpeg.pipes import Pipe
from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.mux import Muxer as Mp4Muxer
from tvarr.media.model import Kind, Sample, Track, Tracks
from tvarr.media.mpegts.mux import Muxer as TsMuxer


class Writer(Protocol):
    def set_tracks(self, tracks: Sequence[Track]) -> None:
        """The tracks from here on, of the same ids as before. Raises `JobError` where the container can't carry one."""

    def write(self, samples: Iterable[Sample]) -> bytes:
        """Raises `JobError` where the samples can't follow those before."""


def writer_for(pipe: Pipe) -> Writer:
    return TsWriter() if pipe is Pipe.TS else Mp4Writer()


class TsWriter:
    def __init__(self) -> None:
        self._muxer = TsMuxer()

    def set_tracks(self, tracks: Sequence[Track]) -> None:
        try:
            self._muxer.set_tracks(Tracks(tuple(tracks)))
        except MediaError as error:
            raise _not_carried(error) from error

    def write(self, samples: Iterable[Sample]) -> bytes:
        return b"".join([chunk.data for chunk in self._muxer.mux(samples)])


class Mp4Writer:
    """Fragmented MP4, one fragment for all samples that come together.

    ffmpeg reads one index and no second. Pictures bring their parameters with keyframes, whatever the index says; sound
    that becomes another kind of sound needs another process.
    """

    def __init__(self) -> None:
        self._tracks: Sequence[Track] = ()
        self._muxer: Mp4Muxer | None = None
        self._sounds: dict[int, tuple[Track, bytes]] = {}  # and what the index says of each
        self._sequence = 0

    def set_tracks(self, tracks: Sequence[Track]) -> None:
        if self._muxer is None:
            self._tracks = tracks

    def write(self, samples: Iterable[Sample]) -> bytes:
        samples = list(samples)
        if not samples:
            return b""
        muxer, head = self._muxer, b""
        if muxer is None:
            muxer = self._muxer = self._described_by(samples)
            head = muxer.init_segment()
        else:
            self._check(samples)
        self._sequence += 1
        return head + muxer.fragment(self._sequence, samples)

    def _described_by(self, samples: Sequence[Sample]) -> Mp4Muxer:
        """The first samples tell what the tracks are."""
        try:
            muxer = Mp4Muxer(self._tracks)
        except MediaError as error:
            raise _not_carried(error) from error
        for sample in samples:
            if any(track.id == sample.track for track in muxer.missing):
                muxer.learn(sample)
        if missing := muxer.missing:
            raise JobError(ErrorCode.BAD_INPUT, f"nothing in the input says what its {missing[0].codec} is")
        self._sounds = {t.id: (t, muxer.entry(t.id).key) for t in self._tracks if t.kind is Kind.AUDIO}
        return muxer

    def _check(self, samples: Iterable[Sample]) -> None:
        """Raises where a sound is not what the index says; the first sample of each speaks for all."""
        looked_at = dict[int, Sample]()
        for sample in samples:
            looked_at.setdefault(sample.track, sample)
        for track_id, (track, key) in self._sounds.items():
            first = looked_at.get(track_id)
            said = entries.describe(track, first.data) if first is not None else None
            if said is not None and said.key != key:
                words = "the sound is another than ffmpeg was started for"
                raise JobError(ErrorCode.BAD_INPUT, words, retry_elsewhere=True)


def _not_carried(error: MediaError) -> JobError:
    return JobError(ErrorCode.UNSUPPORTED, f"ffmpeg can't be given a track: {error}")
