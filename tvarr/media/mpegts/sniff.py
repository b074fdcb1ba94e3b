"""Which codec a payload really is, whatever the PMT says."""

from __future__ import annotations

import re

from tvarr.errors import MediaError
from tvarr.media.codecs import h264, hevc, mpegvideo
from tvarr.media.codecs.annexb import nal_at
from tvarr.media.model import Codec, Kind
from tvarr.media.mpegts.audio import FORMATS, confirmed

MAX_CANDIDATES = 32  # places of a payload at which an audio header is tried
_START_CODE = re.compile(rb"\x00\x00\x01")
_MAX_START_CODES = 16
# The unlikelier sync word first; MP2 stands for all layers.
_AUDIO = (Codec.DTS, Codec.AC3, Codec.AAC, Codec.AAC_LATM, Codec.MP2)


def sniff(data: bytes, announced: Codec) -> Codec | None:
    """The codec of an audio or video payload, or None where these bytes don't tell.

    The announced one needs less evidence than any other.
    """
    if announced.kind is Kind.VIDEO and _plausible_video(data, announced):
        return announced
    if announced in FORMATS and (found := _audio(data, announced)) is not None:
        return found
    for codec in _AUDIO:
        if (found := _audio(data, codec)) is not None:
            return found
    return _video(data)


def _audio(data: bytes, codec: Codec) -> Codec | None:
    """The codec that the first two frames in a row agree on, in the format of `codec`."""
    form = FORMATS[codec]
    at = 0
    for _ in range(MAX_CANDIDATES):
        match = form.sync.search(data, at)
        if match is None:
            return None
        at = match.start()
        frame = form.parse(data, at)
        if frame is not None and at + frame.size_bytes <= len(data) and confirmed(form, data, at, frame):
            return frame.codec
        at += 1
    return None


def _plausible_video(data: bytes, codec: Codec) -> bool:
    """Whether a payload begins as one of this codec may."""
    head = data[:8].lstrip(b"\x00")
    if len(data) < 8 or head[:1] != b"\x01" or len(head) < 3 or len(data[:8]) - len(head) < 2:
        return False
    first, second = head[1], head[2]
    if codec in (Codec.MPEG1VIDEO, Codec.MPEG2VIDEO):
        return first in (mpegvideo.PICTURE, mpegvideo.SEQUENCE, mpegvideo.GROUP)
    if codec is Codec.H264:
        nal_type, reference = first & 0x1F, bool(first & 0x60)
        if first & 0x80 or not 1 <= nal_type <= 14:
            return False
        return reference == (nal_type in (h264.IDR, h264.SPS, h264.PPS)) or nal_type in (1, 2, 3, 4, 13, 14)
    nal_type = hevc.nal_type(first)
    in_base_layer = not first & 0x81 and not second >> 3 and bool(second & 7)
    return in_base_layer and (nal_type <= 9 or 16 <= nal_type <= 21 or hevc.VPS <= nal_type <= 40)


def _video(data: bytes) -> Codec | None:
    """A video codec that shows parameters: nothing less counts against the announcement."""
    for match, _ in zip(_START_CODE.finditer(data), range(_MAX_START_CODES), strict=False):
        at = match.end()
        if at + 8 > len(data):
            return None
        try:
            if data[at] == mpegvideo.SEQUENCE:
                sequence = mpegvideo.parse_sequence(data, at - 3)
                return Codec.MPEG2VIDEO if sequence.mpeg2 else Codec.MPEG1VIDEO
            if data[at] in (0x27, 0x47, 0x67) and h264.parse_sps(nal_at(data, at)[:256]).width:
                return Codec.H264
            if data[at : at + 2] == b"\x42\x01" and hevc.parse_sps(nal_at(data, at)[:512]).width:
                return Codec.HEVC
        except MediaError:
            continue
    return None
