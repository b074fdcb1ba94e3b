"""Where pictures begin in the bytes of a video stream, and what their headers say; one finder a codec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from tvarr.errors import MediaError
from tvarr.media.codecs import h264, hevc, mpegvideo
from tvarr.media.codecs.annexb import joined, nal_at
from tvarr.media.model import Codec
from tvarr.media.mpegts.units import Order, StreamInfo

MAX_PARAMETER_SETS = 64  # of a kind; further ones are not looked at
MAX_PARAMETER_SET_BYTES = 4096  # nor are longer ones
MAX_MARKS = 4096  # start codes of a payload that are looked at; what follows belongs to the last picture
_MAX_SEI_BYTES = 512  # of an SEI NAL unit that are looked at


class Picture(NamedTuple):
    """One coded picture, a frame or a field: data[start:end] of the bytes that it was found in."""

    start: int
    end: int
    head_bytes: int  # from its header on; 0: the header is missing
    keyframe: bool = False
    parity: int = 0  # 1 top field, 2 bottom field, 0 a frame
    frame: int = 0  # the same in both fields of a frame
    order: Order | None = None


class PictureFinder(Protocol):
    """What a finder keeps of a stream is its parameter sets."""

    info: StreamInfo

    def pictures(self, data: bytes, *, with_order: bool) -> list[Picture]:
        """The pictures that start in `data`, without a hole; bytes before the first belong to the one before."""
        ...


@dataclass(slots=True)
class _Found:
    """A picture while its parts are being met."""

    start: int
    head_at: int = -1  # of the first slice, or of MPEG's picture header
    parameters: bool = False  # SPS or sequence header
    recovery: bool = False


def _marks(pattern: re.Pattern[bytes], data: bytes) -> Iterator[int]:
    """Where the pattern's start codes are."""
    return (match.start() for match in islice(pattern.finditer(data), MAX_MARKS))


def _start(data: bytes, at: int) -> int:
    """A start code may have a zero byte more in front."""
    return at - 1 if at and data[at - 1] == 0 else at


def _with_ends(found: list[_Found], size: int) -> list[tuple[_Found, int]]:
    ends = [f.start for f in found[1:]] + [size] * bool(found)
    return list(zip(found, ends, strict=True))


class _ParameterSets:
    """VPS, SPS and PPS as they came, by NAL unit type and id."""

    def __init__(self) -> None:
        self._raw: dict[tuple[int, int], bytes] = {}

    def has(self, nal: bytes) -> bool:
        """Whether exactly this one came last of its type and id: the usual case, which needs no parsing."""
        return nal in self._raw.values()

    def take(self, nal_type: int, set_id: int, nal: bytes, *, announces: bool) -> bool:
        """Whether this is new, or with `announces` differs from the one known by that id."""
        known = self._raw.get((nal_type, set_id))
        if known == nal or (known is None and len(self._raw) >= 3 * MAX_PARAMETER_SETS):
            return False
        self._raw[nal_type, set_id] = nal
        return known is None or announces

    def annexb(self) -> bytes:
        return joined([self._raw[key] for key in sorted(self._raw)])


class H264Finder:
    """Access units by the NAL units that may begin one (ITU-T H.264, 7.4.1.2.3)."""

    # SEI, SPS, PPS, AUD, prefix; or the first slice of a picture: first_mb_in_slice 0 is a single 1 bit
    _MARKS = re.compile(
        rb"\x00\x00\x01(?:[\x06\x09\x0e\x27\x28\x2e\x47\x48\x4e\x67\x68\x6e]"
        rb"|[\x01\x21\x41\x61\x02\x22\x42\x62\x25\x45\x65][\x80-\xff])"
    )

    def __init__(self) -> None:
        self.info = StreamInfo(Codec.H264)
        self._sets = _ParameterSets()
        self._sps: dict[int, h264.Sps] = {}
        self._sps_of_pps: dict[int, int] = {}
        self._active: h264.Sps | None = None
        self._group = 0

    def pictures(self, data: bytes, *, with_order: bool) -> list[Picture]:
        found: list[_Found] = []
        changed = False
        for at in _marks(self._MARKS, data):
            if not found or found[-1].head_at >= 0:
                found.append(_Found(_start(data, at)))
            nal_type = data[at + 3] & 0x1F
            if nal_type <= h264.IDR:
                found[-1].head_at = at + 3
            elif nal_type == h264.SPS:
                found[-1].parameters = True
                changed |= self._take_sps(nal_at(data, at + 3))
            elif nal_type == h264.PPS:
                changed |= self._take_pps(nal_at(data, at + 3))
            elif nal_type == h264.SEI:
                found[-1].recovery |= h264.has_recovery_point(nal_at(data[at + 3 : at + 3 + _MAX_SEI_BYTES], 0))
        if self._activate(data, found) or changed:
            self._describe()
        return [self._picture(data, f, end, with_order) for f, end in _with_ends(found, len(data))]

    def _picture(self, data: bytes, found: _Found, end: int, with_order: bool) -> Picture:
        at = found.head_at
        if at < 0:
            return Picture(found.start, end, 0)
        head_bytes = len(data) - at
        idr = data[at] & 0x1F == h264.IDR
        self._group += idr
        keyframe = idr or found.recovery
        try:
            keyframe = keyframe or (found.parameters and h264.is_intra_slice(data, at))
            sps = self._sps_of_slice(data, at) if with_order or self.info.interlaced else None
            if sps is None:
                return Picture(found.start, end, head_bytes, keyframe)
            head = h264.parse_slice_head(data, at, sps)
        except MediaError:
            return Picture(found.start, end, head_bytes, keyframe)
        order = None if head.poc_lsb is None else Order(self._group, head.poc_lsb, sps.poc_lsb_bits, 2)
        parity = (1 + head.bottom) * head.field
        return Picture(found.start, end, head_bytes, keyframe, parity, head.frame_num << 1 | head.reference, order)

    def _sps_of_slice(self, data: bytes, at: int) -> h264.Sps | None:
        sps_id = self._sps_of_pps.get(h264.slice_pps_id(data, at))
        return self._sps.get(sps_id) if sps_id is not None else next(iter(self._sps.values()), None)

    def _take_sps(self, nal: bytes) -> bool:
        if len(nal) > MAX_PARAMETER_SET_BYTES or self._sets.has(nal):
            return False
        try:
            sps = h264.parse_sps(nal)
        except MediaError:
            return False
        if not sps.width or not sps.height or sps.id >= MAX_PARAMETER_SETS:
            return False
        self._sps[sps.id] = sps
        return self._sets.take(h264.SPS, sps.id, nal, announces=True)

    def _take_pps(self, nal: bytes) -> bool:
        """One that changes does not make the stream another: some encoders write a PPS of their own to each picture."""
        if len(nal) > MAX_PARAMETER_SET_BYTES or self._sets.has(nal):
            return False
        try:
            pps_id, sps_id = h264.pps_ids(nal)
        except MediaError:
            return False
        if pps_id > 255 or sps_id >= MAX_PARAMETER_SETS:
            return False
        self._sps_of_pps[pps_id] = sps_id
        return self._sets.take(h264.PPS, pps_id, nal, announces=False)

    def _activate(self, data: bytes, found: list[_Found]) -> bool:
        """Whether a picture that may (7.4.1.2.1: an IDR picture, or where sets are said again) goes by another SPS."""
        before = self._active
        for f in found:
            if f.head_at >= 0 and (f.parameters or data[f.head_at] & 0x1F == h264.IDR):
                try:
                    self._active = self._sps_of_slice(data, f.head_at)
                except MediaError:
                    continue
        return self._active is not before

    def _describe(self) -> None:
        """By the SPS in use, or what has come in its place since: its picture may be in the next payload."""
        sps = self._sps.get(self._active.id) if self._active else next(iter(self._sps.values()), None)
        if sps is not None:
            new = StreamInfo(Codec.H264, sps.width, sps.height, sps.fps, sps.interlaced, init=self._sets.annexb())
            self.info = self.info if new == self.info else new


class HevcFinder:
    """Access units by the NAL units that may begin one (ITU-T H.265, 7.4.2.4.4), of the base layer."""

    # VPS, SPS, PPS, AUD, prefix SEI; or a slice with first_slice_segment_in_pic_flag
    _MARKS = re.compile(
        rb"\x00\x00\x01(?:[\x40\x42\x44\x46\x4e][\x01-\x07]"
        rb"|[\x00\x02\x04\x06\x08\x0a\x0c\x0e\x10\x12\x20\x22\x24\x26\x28\x2a][\x01-\x07][\x80-\xff])"
    )

    def __init__(self) -> None:
        self.info = StreamInfo(Codec.HEVC)
        self._sets = _ParameterSets()
        self._sps: hevc.Sps | None = None

    def pictures(self, data: bytes, *, with_order: bool) -> list[Picture]:
        found: list[_Found] = []
        changed = False
        for at in _marks(self._MARKS, data):
            if not found or found[-1].head_at >= 0:
                found.append(_Found(_start(data, at)))
            nal_type = hevc.nal_type(data[at + 3])
            if nal_type < hevc.VPS:
                found[-1].head_at = at + 3
            elif nal_type <= hevc.PPS:
                changed |= self._take_set(nal_type, nal_at(data, at + 3))
        if changed:
            self._describe()
        return [self._picture(data, f, end) for f, end in _with_ends(found, len(data))]

    def _picture(self, data: bytes, found: _Found, end: int) -> Picture:
        if found.head_at < 0:
            return Picture(found.start, end, 0)
        keyframe = hevc.FIRST_IRAP <= hevc.nal_type(data[found.head_at]) <= hevc.LAST_IRAP
        return Picture(found.start, end, len(data) - found.head_at, keyframe)

    def _take_set(self, nal_type: int, nal: bytes) -> bool:
        if len(nal) > MAX_PARAMETER_SET_BYTES or self._sets.has(nal):
            return False
        set_id = 0
        try:
            if nal_type == hevc.PPS:
                set_id = hevc.pps_id(nal)
            elif nal_type == hevc.SPS:
                sps = hevc.parse_sps(nal)
                set_id = sps.id
                if not sps.width or not sps.height or set_id >= MAX_PARAMETER_SETS:
                    return False
                self._sps = sps
            else:
                set_id = nal[2] >> 4 if len(nal) > 2 else 0
        except MediaError:
            return False
        return set_id < MAX_PARAMETER_SETS and self._sets.take(nal_type, set_id, nal, announces=nal_type != hevc.PPS)

    def _describe(self) -> None:
        if self._sps is not None:
            s = self._sps
            self.info = StreamInfo(Codec.HEVC, s.width, s.height, s.fps, s.interlaced, init=self._sets.annexb())


class MpegVideoFinder:
    """Pictures of MPEG-1 and MPEG-2 with the sequence and group headers before them (13818-2, 6.2.2)."""

    _MARKS = re.compile(rb"\x00\x00\x01[\x00\xb3\xb8]")

    def __init__(self) -> None:
        self.info = StreamInfo(Codec.MPEG2VIDEO)
        self._group = 0

    def pictures(self, data: bytes, *, with_order: bool) -> list[Picture]:
        found: list[_Found] = []
        for at in _marks(self._MARKS, data):
            if not found or found[-1].head_at >= 0:
                found.append(_Found(at))
            code = data[at + 3]
            if code == mpegvideo.PICTURE:
                found[-1].head_at = at
            elif code == mpegvideo.SEQUENCE:
                found[-1].parameters = True
                self._take_sequence(data, at)
        return [self._picture(data, f, end) for f, end in _with_ends(found, len(data))]

    def _take_sequence(self, data: bytes, at: int) -> None:
        try:
            sequence = mpegvideo.parse_sequence(data, at)
        except MediaError:
            return
        codec = Codec.MPEG2VIDEO if sequence.mpeg2 else Codec.MPEG1VIDEO
        new = (codec, sequence.width, sequence.height, sequence.fps, sequence.interlaced)
        old = self.info
        if sequence.width and sequence.height and new != (old.codec, old.width, old.height, old.fps, old.interlaced):
            self.info = StreamInfo(*new, init=data[at : at + sequence.size_bytes])

    def _picture(self, data: bytes, found: _Found, end: int) -> Picture:
        at = found.head_at
        if at < 0:
            return Picture(found.start, end, 0)
        try:
            head = mpegvideo.parse_picture(data, at)
        except MediaError:
            return Picture(found.start, end, len(data) - at)
        self._group += at > found.start  # a sequence or group header is in front: temporal_reference starts anew
        keyframe = head.coding_type == mpegvideo.INTRA and found.parameters
        parity = 0 if head.structure == mpegvideo.FRAME else head.structure
        order = Order(self._group, head.temporal_reference, 10, 1)
        return Picture(found.start, end, len(data) - at, keyframe, parity, head.temporal_reference, order)
