"""Packed audio: segments of plain frames with their time in an ID3 tag before them (8216bis, 3.1.1). Pure."""

from __future__ import annotations

import re

from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec, Event, Sample, Track, Tracks
from tvarr.media.mpegts.audio import FORMATS, Format, confirmed
from tvarr.media.mpegts.receive import DemuxStats

TRACK_ID = 0x101
MAX_TAG_BYTES = 1 << 16  # larger ID3 tags are looked through for frames

_TAG_HEADER_BYTES = 10
_OWNER = b"com.apple.streaming.transportStreamTimestamp\x00"
_TIME_BYTES = 8
_TAG = b"ID3"
_STARTS = re.compile(rb"[\xff\x0b]|ID3")
_CODECS = (Codec.AAC, Codec.AC3, Codec.MP3)


def looks_like_packed_audio(head: bytes) -> bool:
    """It begins with an ID3 tag or with audio frames."""
    return head.startswith(_TAG) or _format_at(head, 0)[0] is not None


class PackedAudio:
    """The bytes of such segments, one after another, to one track. Between tags, time goes by what frames last."""

    def __init__(self) -> None:
        self.stats = DemuxStats()
        self._rest = b""
        self._format: Format | None = None
        self._announced: tuple[Codec, int, int] | None = None
        self._begin_ticks = 0
        self._samples = 0  # since then
        self._frame: Sample | None = None  # to which dependent frames may yet belong

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes; what is no frame is left out."""
        self.stats.bytes += len(data)
        return self._take(self._rest + data, final=False)

    def flush(self) -> list[Event]:
        """The end: the last frame."""
        return self._take(self._rest, final=True) + self._finish()

    def _take(self, data: bytes, *, final: bool) -> list[Event]:
        events: list[Event] = []
        at = 0
        while at < len(data):
            if data.startswith(_TAG, at):
                size = _tag_size(data, at)
                if size is None or (at + size > len(data) and not final):
                    break
                self._take_tag(data[at : at + size])
                at += size
                continue
            undecided = len(data) - at < _TAG_HEADER_BYTES
            if self._format is None:
                self._format, more = _format_at(data, at)
                undecided |= more
            frame = self._format.parse(data, at) if self._format else None
            if frame is None:
                if undecided and not final:
                    break
                start = _STARTS.search(data, at + 1)
                at = start.start() if start else len(data)
                continue
            if at + frame.size_bytes > len(data):
                break
            events += self._add(frame, data[at : at + frame.size_bytes])
            at += frame.size_bytes
        self._rest = b"" if final else data[at:]
        return events

    def _take_tag(self, tag: bytes) -> None:
        at = tag.find(_OWNER)
        time = tag[at + len(_OWNER) : at + len(_OWNER) + _TIME_BYTES]
        if at >= 0 and len(time) == _TIME_BYTES:
            self._begin_ticks, self._samples = int.from_bytes(time, "big") % TICKS_33BIT, 0

    def _add(self, frame: AudioFrame, data: bytes) -> list[Event]:
        if frame.dependent and self._frame is not None:
            self._frame = self._frame._replace(data=self._frame.data + data)
            return []
        events = self._finish()
        kind = (frame.codec, frame.sample_rate, frame.channels)
        if kind != self._announced:
            self._announced = kind
            events.append(Tracks((Track(TRACK_ID, frame.codec, sample_rate=kind[1], channels=kind[2]),)))
        ticks = (self._begin_ticks + self._samples * TICKS_PER_SECOND // (frame.sample_rate or 1)) % TICKS_33BIT
        self._samples += frame.samples
        self._frame = Sample(TRACK_ID, ticks, ticks, data, keyframe=True)
        return events

    def _finish(self) -> list[Event]:
        frame, self._frame = self._frame, None
        return [frame] if frame is not None else []


def _format_at(data: bytes, at: int) -> tuple[Format | None, bool]:
    """Of the frames that begin at data[at], where another one or a tag follows; and whether more bytes may tell."""
    undecided = False
    for codec in _CODECS:
        form = FORMATS[codec]
        frame = form.parse(data, at)
        if frame is None:
            continue
        verdict = confirmed(form, data, at, frame)
        if verdict or data.startswith(_TAG, at + frame.size_bytes):
            return form, False
        undecided |= verdict is None
    return None, undecided


def _tag_size(data: bytes, at: int) -> int | None:
    """Of an ID3v2 tag with its header (id3.org, ID3v2.4, 3.1); None where more bytes are needed."""
    header = data[at : at + _TAG_HEADER_BYTES]
    if len(header) < _TAG_HEADER_BYTES:
        return None
    size = 0
    for byte in header[6:]:
        size = size << 7 | byte & 0x7F
    return _TAG_HEADER_BYTES + (size if size <= MAX_TAG_BYTES else 0)
