"""What comes out of ffmpeg, as tracks and samples. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tvarr.errors import MediaError
from tvarr.ffmpeg.pipes import PRIVATE_IN_TS
from tvarr.media.codecs import av1, vp9
from tvarr.media.model import Codec, Event, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer

PROGRAM = 1  # as ffmpeg calls its only one, in which a demuxer that chose would find no picture


class Reader:
    """MPEG-TS bytes in, tracks and samples out, with those codecs put right that come as private data."""

    def __init__(self, codecs: Mapping[int, Codec]) -> None:
        """`codecs`: what each PID was asked to be."""
        self._private = {pid: codec for pid, codec in codecs.items() if codec in PRIVATE_IN_TS}
        self._demuxer = Demuxer(program=PROGRAM if self._private else None, as_they_are=self._private)
        self._tracks: dict[int, Track] = {}  # of `_private`, as their last keyframes said
        self._announced: Tracks | None = None  # as the demuxer did

    def feed(self, data: bytes) -> Sequence[Event]:
        """Raises MediaError for what is no MPEG-TS."""
        return self._put_right(self._demuxer.feed(data))

    def flush(self) -> Sequence[Event]:
        return self._put_right(self._demuxer.flush())

    def _put_right(self, events: Sequence[Event]) -> Sequence[Event]:
        if not self._private:
            return events
        out: list[Event] = []
        for event in events:
            if isinstance(event, Tracks):
                self._announced = event
                out.append(self._announcement(event))
            elif (codec := self._private.get(event.track)) is None:
                out.append(event)
            else:
                out += self._picture(event, codec)
        return out

    def _announcement(self, tracks: Tracks) -> Tracks:
        return replace(tracks, tracks=tuple(self._known(track) for track in tracks.tracks))

    def _known(self, track: Track) -> Track:
        codec = self._private.get(track.id)
        return track if codec is None else self._tracks.setdefault(track.id, Track(track.id, codec))

    def _picture(self, sample: Sample, codec: Codec) -> Iterable[Event]:
        """A picture as tvarr has it; before it the tracks, where its header says something new."""
        track = self._tracks.get(sample.track, Track(sample.track, codec))
        data, told = _READ[codec](sample.data, track)
        if told is not None and told != track:
            self._tracks[sample.track] = told
            if self._announced is not None:
                yield self._announcement(self._announced)
        yield sample._replace(data=data, keyframe=told is not None)


def _read_av1(data: bytes, track: Track) -> tuple[bytes, Track | None]:
    """The unit without its delimiter and the track as a keyframe says, which has a sequence header; else None."""
    data = av1.without_delimiters(data)
    if not av1.is_keyframe(data):
        return data, None
    header = av1.sequence_header(data)
    if not header:
        return track.init + data, track if track.init else None
    try:
        said = av1.parse_sequence(header)
    except MediaError:
        return data, None
    return data, replace(track, width=said.width, height=said.height, fps=said.fps, init=header)


def _read_vp9(data: bytes, track: Track) -> tuple[bytes, Track | None]:
    try:
        said = vp9.parse_keyframe(data)
    except MediaError:
        return data, None
    return data, replace(track, width=said.width, height=said.height)


_READ: dict[Codec, Callable[[bytes, Track], tuple[bytes, Track | None]]] = {
    Codec.AV1: _read_av1,
    Codec.VP9: _read_vp9,
}
