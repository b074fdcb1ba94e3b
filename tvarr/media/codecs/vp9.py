"""VP9: the uncompressed header of keyframes (VP9 Bitstream & Decoding Process Specification, 6.2)."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.errors import MediaError
from tvarr.media.codecs.bits import BitReader

_FRAME_MARKER, _SYNC_CODE, _SRGB = 2, 0x498342, 7

# Level, greatest luma samples a second, greatest luma picture size (annex A)
_LEVELS = (
    (10, 829_440, 36_864),
    (11, 2_764_800, 73_728),
    (20, 4_608_000, 122_880),
    (21, 9_216_000, 245_760),
    (30, 20_736_000, 552_960),
    (31, 36_864_000, 983_040),
    (40, 83_558_400, 2_228_224),
    (41, 160_432_128, 2_228_224),
    (50, 311_951_360, 8_912_896),
    (51, 588_251_136, 8_912_896),
    (52, 1_176_502_272, 8_912_896),
    (60, 1_176_502_272, 35_651_584),
    (61, 2_353_004_544, 35_651_584),
)
_HIGHEST_LEVEL = 62


@dataclass(frozen=True, slots=True)
class Keyframe:
    """What the header of a keyframe says; sizes in pixels."""

    profile: int
    bit_depth: int
    subsampling_x: int
    subsampling_y: int
    full_range: bool
    width: int
    height: int


def parse_keyframe(data: bytes) -> Keyframe:
    """Reads a keyframe's header. Raises MediaError where it is none or cut off."""
    bits = BitReader(data[:32])
    if bits.u(2) != _FRAME_MARKER:
        raise MediaError("no VP9 frame")
    profile = bits.u(1) | bits.u(1) << 1
    if profile == 3:
        bits.skip(1)
    if bits.flag() or bits.flag():  # an existing frame is shown, or it is no keyframe
        raise MediaError("no VP9 keyframe")
    bits.skip(2)
    if bits.u(24) != _SYNC_CODE:
        raise MediaError("no VP9 keyframe")
    depth = (12 if bits.flag() else 10) if profile >= 2 else 8
    srgb = bits.u(3) == _SRGB
    full_range = srgb or bits.flag()
    x, y = (0, 0) if srgb else (1, 1)
    if profile & 1:
        if not srgb:
            x, y = bits.u(1), bits.u(1)
        bits.skip(1)
    return Keyframe(profile, depth, x, y, full_range, bits.u(16) + 1, bits.u(16) + 1)


def level(width: int, height: int, fps: float) -> int:
    """The lowest level, times ten, whose picture size and rate suffice; 30 pictures a second where fps is 0."""
    size = width * height
    rate = size * (fps or 30.0)
    return next((number for number, most, largest in _LEVELS if rate <= most and size <= largest), _HIGHEST_LEVEL)
