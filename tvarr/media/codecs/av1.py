"""AV1: open bitstream units and the sequence header (AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tvarr.errors import MediaError
from tvarr.media.codecs.bits import BitReader

# obu_type (6.2.2)
SEQUENCE_HEADER, TEMPORAL_DELIMITER, FRAME_HEADER, FRAME = 1, 2, 3, 6

_MAX_LEB128_BYTES = 8
_SRGB = (1, 13, 0)  # colour primaries, transfer and matrix for which 4:4:4 is implied
_UNSPECIFIED = (2, 2, 2)


class Obu(NamedTuple):
    """One unit: data[start:end] with its header, its payload from `payload` on."""

    type: int
    start: int
    payload: int
    end: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence header says (5.5.1); sizes in pixels, fps 0.0 where not stated."""

    profile: int
    level_idx: int  # of the first operating point
    tier: int
    bit_depth: int
    monochrome: bool
    subsampling_x: int
    subsampling_y: int
    chroma_sample_position: int
    width: int
    height: int
    fps: float


def obus(data: bytes) -> Iterator[Obu]:
    """The units of a temporal unit in the low-overhead format (5.2). Raises MediaError for one that is cut off."""
    at, size = 0, len(data)
    while at < size:
        header = data[at]
        payload = at + 1 + (header >> 2 & 1)
        end = size
        if header & 2:
            length, payload = _leb128(data, payload)
            end = payload + length
        if end > size or payload > size:
            raise MediaError("an OBU that is cut off")
        yield Obu(header >> 3 & 15, at, payload, end)
        at = end


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """The number at data[at] and where it ends (4.10.5)."""
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_LEB128_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, at + index + 1
    raise MediaError("an OBU whose size can't be read")


def sequence_header(data: bytes) -> bytes:
    """The sequence header OBU of a temporal unit, whole; empty where there is none or the unit is damaged."""
    try:
        return next((data[obu.start : obu.end] for obu in obus(data) if obu.type == SEQUENCE_HEADER), b"")
    except MediaError:
        return b""


def without_delimiters(data: bytes) -> bytes:
    """Without temporal delimiters, which files leave out; data that can't be read stays as it is."""
    if not data or data[0] >> 3 & 15 != TEMPORAL_DELIMITER:
        return data
    try:
        return b"".join(data[obu.start : obu.end] for obu in obus(data) if obu.type != TEMPORAL_DELIMITER)
    except MediaError:
        return data


def is_keyframe(data: bytes) -> bool:
    """Whether a temporal unit begins with a shown key frame (5.9.2, 7.6.2): decoding can start there.

    False for what can't be read, and for single pictures with a reduced header.
    """
    try:
        first = next((obu for obu in obus(data) if obu.type in (FRAME, FRAME_HEADER) and obu.payload < obu.end), None)
    except MediaError:
        return False
    # show_existing_frame, two bits of frame_type (0: key frame), show_frame
    return first is not None and data[first.payload] >> 4 == 0b0001


def parse_sequence(obu: bytes) -> Sequence:
    """Reads a sequence header OBU. Raises MediaError for one that is cut off."""
    first = next(obus(obu), None)
    if first is None or first.type != SEQUENCE_HEADER:
        raise MediaError("no AV1 sequence header")
    bits = BitReader(obu[first.payload : first.end])
    profile = bits.u(3)
    bits.skip(1)
    reduced = bits.flag()
    level_idx, tier, fps = (bits.u(5), 0, 0.0) if reduced else _operating_points(bits)
    width_bits, height_bits = bits.u(4) + 1, bits.u(4) + 1
    width, height = bits.u(width_bits) + 1, bits.u(height_bits) + 1
    if not reduced and bits.flag():
        bits.skip(7)
    bits.skip(3)
    if not reduced:
        _skip_tools(bits)
    bits.skip(3)
    return Sequence(profile, level_idx, tier, *_color(bits, profile), width, height, fps)


def _operating_points(bits: BitReader) -> tuple[int, int, float]:
    """Level and tier of the first operating point, and pictures per second."""
    fps, delay_bits = 0.0, 0
    if bits.flag():
        units_in_tick, time_scale = bits.u(32), bits.u(32)
        if bits.flag():
            units_in_tick *= bits.ue() + 1
            fps = time_scale / units_in_tick if units_in_tick else 0.0
        if bits.flag():
            delay_bits = bits.u(5) + 1
            bits.skip(32 + 5 + 5)
    initial_delay = bits.flag()
    points = []
    for _ in range(bits.u(5) + 1):
        bits.skip(12)
        level_idx = bits.u(5)
        points.append((level_idx, bits.u(1) if level_idx > 7 else 0))
        if delay_bits and bits.flag():
            bits.skip(2 * delay_bits + 1)
        if initial_delay and bits.flag():
            bits.skip(4)
    return *points[0], fps


def _skip_tools(bits: BitReader) -> None:
    """enable_interintra_compound to order_hint_bits."""
    bits.skip(4)
    order_hint = bits.flag()
    if order_hint:
        bits.skip(2)
    screen_content = bits.flag() or bits.flag()
    if screen_content and not bits.flag():
        bits.skip(1)
    if order_hint:
        bits.skip(3)


def _color(bits: BitReader, profile: int) -> tuple[int, bool, int, int, int]:
    """color_config() (5.5.2): bit depth, monochrome, subsampling and chroma sample position."""
    high = bits.flag()
    depth = 12 if profile == 2 and high and bits.flag() else 10 if high else 8
    monochrome = profile != 1 and bits.flag()
    described = (bits.u(8), bits.u(8), bits.u(8)) if bits.flag() else _UNSPECIFIED
    if monochrome:
        return depth, True, 1, 1, 0
    if described == _SRGB:
        return depth, False, 0, 0, 0
    bits.skip(1)
    if profile == 2 and depth == 12:
        x = bits.u(1)
        y = bits.u(1) if x else 0
    else:
        x, y = ((1, 1), (0, 0), (1, 0))[min(profile, 2)]
    return depth, False, x, y, bits.u(2) if x and y else 0
