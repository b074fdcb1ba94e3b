"""NAL units behind start codes, as tvarr has them, and behind lengths, as files have them (14496-15, 4.2.4)."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from tvarr.errors import MediaError
from tvarr.media.codecs import h264, hevc
from tvarr.media.codecs.annexb import START_CODE, nal_units
from tvarr.media.model import Codec

LENGTH_BYTES = 4  # of the lengths that are written
MAX_PARAMETER_SETS = 31  # of a kind, further ones are not looked at: avcC counts SPS in 5 bits


@dataclass(frozen=True, slots=True)
class NalFormat:
    """What differs between H.264 and HEVC: NAL unit types by the first byte of a unit."""

    set_types: tuple[int, ...]  # of parameter sets: all of them are needed to decode, PPS come last
    sets: frozenset[int]  # first bytes of parameter sets
    delimiters: frozenset[int]  # of access unit delimiters
    unwanted: frozenset[int]  # first bytes of units that files leave out: delimiters and filler data


def _first_bytes(codec: Codec, *types: int) -> frozenset[int]:
    if codec is Codec.H264:
        return frozenset(byte for byte in range(128) if byte & 0x1F in types)
    return frozenset(byte for byte in range(128) if hevc.nal_type(byte) in types)


_SPS = {
    Codec.H264: re.compile(rb"\x00\x00\x01[\x07\x27\x47\x67]"),
    Codec.HEVC: re.compile(rb"\x00\x00\x01\x42"),
}
_H264_FILLER, _HEVC_FILLER = 12, 38
FORMATS = {
    Codec.H264: NalFormat(
        (h264.SPS, h264.PPS),
        _first_bytes(Codec.H264, h264.SPS, h264.PPS),
        _first_bytes(Codec.H264, h264.AUD),
        _first_bytes(Codec.H264, h264.AUD, _H264_FILLER),
    ),
    Codec.HEVC: NalFormat(
        (hevc.VPS, hevc.SPS, hevc.PPS),
        _first_bytes(Codec.HEVC, hevc.VPS, hevc.SPS, hevc.PPS),
        _first_bytes(Codec.HEVC, hevc.AUD),
        _first_bytes(Codec.HEVC, hevc.AUD, _HEVC_FILLER),
    ),
}


def parameter_sets(codec: Codec, data: bytes) -> dict[int, list[bytes]]:
    """The parameter sets of an access unit in Annex B by their type, each once; empty where it is not complete."""
    wanted = FORMATS[codec]
    found: dict[int, list[bytes]] = {kind: [] for kind in wanted.set_types}
    for unit in nal_units(data):
        if unit[0] in wanted.sets:
            same = found[unit[0] & 0x1F if codec is Codec.H264 else hevc.nal_type(unit[0])]
            if unit not in same and len(same) < MAX_PARAMETER_SETS:
                same.append(unit)
    return found if all(found.values()) else {}


def has_sps(codec: Codec, data: bytes | bytearray) -> bool:
    """Whether an access unit in Annex B has a sequence parameter set: a keyframe without can't be joined at."""
    return _SPS[codec].search(data) is not None


def to_lengths(data: bytes, unwanted: Container[int], known_sets: Container[bytes] = frozenset()) -> bytes:
    """An access unit in Annex B as a sample of a file.

    Left out are units whose first byte is in `unwanted`, units that are in `known_sets`, zero bytes between units, and
    what comes before the first start code.
    """
    parts: list[bytes | memoryview] = []
    view = memoryview(data)
    at = data.find(b"\x00\x00\x01")
    while at >= 0:
        start = at + 3
        at = data.find(b"\x00\x00\x01", start)
        end = at if at >= 0 else len(data)
        while end > start and data[end - 1] == 0:
            end -= 1
        if end == start or data[start] in unwanted or (known_sets and data[start:end] in known_sets):
            continue
        parts.append((end - start).to_bytes(LENGTH_BYTES, "big"))
        parts.append(view[start:end])
    return b"".join(parts)


def to_annexb(data: bytes, length_bytes: int) -> bytearray:
    """A sample of a file as an access unit in Annex B; empty units are left out.

    Raises MediaError for a length that goes past the end.
    """
    if length_bytes != LENGTH_BYTES:
        return _rewritten(data, length_bytes)
    unit = bytearray(data)
    at, size = 0, len(unit)
    while at < size:
        length = int.from_bytes(unit[at : at + LENGTH_BYTES], "big")
        if length == 0 or at + LENGTH_BYTES + length > size:
            return _rewritten(data, length_bytes)
        unit[at : at + LENGTH_BYTES] = START_CODE
        at += LENGTH_BYTES + length
    return unit


def _rewritten(data: bytes, length_bytes: int) -> bytearray:
    unit, at, size = bytearray(), 0, len(data)
    while at < size:
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if at + length > size:
            raise MediaError("a NAL unit that is longer than its sample")
        if length:
            unit += START_CODE
            unit += data[at : at + length]
        at += length
    return unit
