"""Audio PES payloads to single frames, each with its own time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from tvarr.media.codecs import aac, ac3, dts, mpegaudio, opus
from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec
from tvarr.media.mpegts.receive import Pes
from tvarr.media.mpegts.units import StreamInfo, Unit


class Format(NamedTuple):
    """How the frames of a format are found."""

    parse: Callable[[bytes, int], AudioFrame | None]
    header_bytes: int
    sync: re.Pattern[bytes]  # what a header begins with


_MPEG_AUDIO = Format(
    mpegaudio.parse, mpegaudio.HEADER_BYTES, re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")
)
_AC3 = Format(ac3.parse, ac3.HEADER_BYTES, re.compile(rb"\x0b\x77"))

FORMATS: dict[Codec, Format] = {
    Codec.AAC: Format(aac.parse_adts, aac.ADTS_HEADER_BYTES, re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    Codec.AAC_LATM: Format(aac.parse_loas, aac.LOAS_HEADER_BYTES, re.compile(rb"\x56[\xe0-\xff]")),
    Codec.MP1: _MPEG_AUDIO,
    Codec.MP2: _MPEG_AUDIO,
    Codec.MP3: _MPEG_AUDIO,
    Codec.AC3: _AC3,
    Codec.EAC3: _AC3,
    Codec.DTS: Format(dts.parse, dts.HEADER_BYTES, re.compile(rb"\x7f\xfe\x80\x01")),
}


def confirmed(form: Format, data: bytes, at: int, frame: AudioFrame) -> bool | None:
    """Whether another header follows the frame at data[at]; None where there are too few bytes to tell."""
    end = at + frame.size_bytes
    if end + form.header_bytes > len(data):
        return True if end == len(data) else None
    after = form.parse(data, end)
    if after is None or after.codec is not frame.codec:
        return False
    return after.sample_rate == frame.sample_rate or not (after.sample_rate and frame.sample_rate)


def is_cut_off(codec: Codec, data: bytes) -> bool:
    """Whether the last frame in `data` says that it is longer than what there is of it."""
    form, at = FORMATS.get(codec), 0
    while form is not None and at < len(data):
        frame = form.parse(data, at)
        if frame is None:
            return False
        at += frame.size_bytes
    return at > len(data)


class _Clock:
    """Times of frames: those of PES headers, and between them what the frames before have lasted."""

    def __init__(self) -> None:
        self._anchor: int | None = None
        self._samples = 0  # since the anchor
        self._rate = 1

    def stamp(self, pts: int | None, samples: int, rate: int) -> int | None:
        """The time of a frame that lasts so many samples; `pts` where a header gives it."""
        if pts is not None:
            self._anchor, self._samples = pts, 0
        elif rate != self._rate and self._anchor is not None:
            self._anchor, self._samples = self._now(), 0
        self._rate = rate
        now = self._now()
        self._samples += samples
        return now

    def _now(self) -> int | None:
        if self._anchor is None:
            return None
        return (self._anchor + round(self._samples * TICKS_PER_SECOND / self._rate)) % TICKS_33BIT


class AudioSplitter:
    """Frames of a format that has a sync word. Holds about a frame; after a gap it looks for the next header."""

    def __init__(self, codec: Codec) -> None:
        self.info = StreamInfo(codec)
        self.skipped_bytes = 0  # since the last frame
        self.unit_ticks = 0.0  # how long the last frame lasts
        self._format = FORMATS[codec]
        self._rest = b""
        self._in_sync = False
        self._clock = _Clock()
        self._rate = 48_000
        self._other: StreamInfo | None = None  # what the last frames say, where it differs from `info`
        self._has_dependents = False
        self._held: list[Unit] = []  # at most one: the last frame, where dependent ones may follow

    def push(self, pes: Pes) -> list[Unit]:
        """The frames that this payload completes."""
        if pes.after_gap:
            self._rest, self._in_sync = b"", False
        own = len(self._rest)  # a PES packet's time stamp is that of the first frame that begins in it
        data, at, pts = self._rest + pes.data, 0, pes.pts_ticks
        units, self._held = self._held, []
        while True:
            frame = self._format.parse(data, at)
            sure = frame is not None and (self._in_sync or confirmed(self._format, data, at, frame))
            if frame is None or sure is False:
                if frame is None and len(data) - at < self._format.header_bytes:
                    break
                at = self._skip(data, at)
                continue
            end = at + frame.size_bytes
            if end > len(data) or sure is None:
                break
            self._in_sync, self.skipped_bytes = True, 0
            self._add(units, data[at:end], frame, pts if at >= own else None)
            if at >= own:
                pts = None
            at = end
        self._rest = data[at:]
        if self._has_dependents and units:
            self._held = [units.pop()]
        return units

    def flush(self) -> list[Unit]:
        """End of input: the last frames, also one that is cut off."""
        units, self._held = self._held, []
        frame = self._format.parse(self._rest, 0)
        if frame is not None and self._in_sync:
            self._add(units, self._rest, frame, None)
        self._rest = b""
        return units

    def _skip(self, data: bytes, at: int) -> int:
        """Goes to what may be the next header, or to the end."""
        self._in_sync = False
        match = self._format.sync.search(data, at + 1)
        to = match.start() if match else max(at + 1, len(data) - 2)
        self.skipped_bytes += to - at
        return to

    def _add(self, units: list[Unit], data: bytes, frame: AudioFrame, pts: int | None) -> None:
        if frame.dependent:
            self._has_dependents = True
            if units:
                units[-1] = units[-1]._replace(data=units[-1].data + data)
                return
        self._describe(frame)
        self._rate = frame.sample_rate or self._rate
        self.unit_ticks = frame.samples * TICKS_PER_SECOND / self._rate
        time = self._clock.stamp(pts, frame.samples, self._rate)
        units.append(Unit(data, time, time))

    def _describe(self, frame: AudioFrame) -> None:
        """Takes over what two frames in a row say: one alone may be damaged."""
        if not frame.sample_rate or frame.dependent:
            return
        said = (frame.codec, frame.sample_rate, frame.channels)
        if said == (self.info.codec, self.info.sample_rate, self.info.channels):
            self._other = None
            return
        new = StreamInfo(frame.codec, sample_rate=frame.sample_rate, channels=frame.channels)
        if not self.info.complete or new == self._other:
            self.info, self._other = new, None
        else:
            self._other = new


class OpusSplitter:
    """Opus packets without the control headers of the MPEG-TS packing."""

    def __init__(self, channels: int) -> None:
        self.info = StreamInfo(
            Codec.OPUS, sample_rate=opus.SAMPLE_RATE, channels=channels, init=opus.head(channels) if channels else b""
        )
        self.unit_ticks = 0.0
        self._clock = _Clock()

    def push(self, pes: Pes) -> list[Unit]:
        """The packets of this payload; one that is cut off is dropped."""
        units: list[Unit] = []
        data, at, pts = pes.data, 0, pes.pts_ticks
        while (header := opus.parse_control_header(data, at)) is not None and header.end <= len(data):
            packet = data[header.start : header.end]
            samples = opus.samples(packet)
            self.unit_ticks = samples * TICKS_PER_SECOND / opus.SAMPLE_RATE
            time = self._clock.stamp(pts, samples, opus.SAMPLE_RATE)
            if packet:
                units.append(Unit(packet, time, time))
            at, pts = header.end, None
        return units

    def flush(self) -> list[Unit]:
        return []
