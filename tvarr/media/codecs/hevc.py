"""HEVC (ITU-T H.265): parameter sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tvarr.errors import MediaError
from tvarr.media.codecs.annexb import unescaped
from tvarr.media.codecs.bits import BitReader
from tvarr.media.codecs.h264 import read_pixel_aspect

# nal_unit_type (table 7-1)
VPS: Final = 32
SPS: Final = 33
PPS: Final = 34
AUD: Final = 35
FIRST_IRAP, LAST_IRAP = 16, 23  # random access: BLA, IDR, CRA

_MAX_SHORT_TERM_SETS = 64
_MAX_PICTURES = 16


@dataclass(frozen=True, slots=True)
class Sps:
    """What a sequence parameter set says (7.3.2.2.1); sizes in pixels after cropping, fps 0.0 where not stated."""

    id: int
    profile_tier: bytes  # general_profile_space to general_constraint flags, 11 bytes as in hvcC
    level_idc: int
    temporal_layers: int
    temporal_id_nesting: bool
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    width: int
    height: int
    interlaced: bool
    fps: float
    pixel_aspect: tuple[int, int] = (1, 1)  # width to height of a pixel


def nal_type(first_byte: int) -> int:
    return first_byte >> 1 & 0x3F


def parse_sps(nal: bytes) -> Sps:
    """Reads an SPS NAL unit, its two header bytes first. Raises MediaError for one that is cut off."""
    bits = BitReader(unescaped(nal[2:]))
    bits.skip(4)
    sub_layers, nesting = bits.u(3), bits.flag()
    profile_tier = bits.u(88).to_bytes(11, "big")
    level_idc = bits.u(8)
    _skip_sub_layer_levels(bits, sub_layers)
    sps_id, chroma_format_idc = bits.ue(), bits.ue()
    separate = chroma_format_idc == 3 and bits.flag()
    width, height = bits.ue(), bits.ue()
    if bits.flag():
        unit_x = 2 if chroma_format_idc in (1, 2) and not separate else 1
        unit_y = 2 if chroma_format_idc == 1 and not separate else 1
        width -= unit_x * (bits.ue() + bits.ue())
        height -= unit_y * (bits.ue() + bits.ue())
    depth_luma, depth_chroma = 8 + bits.ue(), 8 + bits.ue()
    field_seq, fps, pixel_aspect = _rest_of_sps(bits, sub_layers)
    flags = profile_tier[5]  # progressive_source, interlaced_source, ...
    return Sps(
        id=sps_id,
        profile_tier=profile_tier,
        level_idc=level_idc,
        temporal_layers=sub_layers + 1,
        temporal_id_nesting=nesting,
        chroma_format_idc=chroma_format_idc,
        bit_depth_luma=depth_luma,
        bit_depth_chroma=depth_chroma,
        width=max(width, 0),
        height=max(height, 0),
        interlaced=field_seq or flags & 0xC0 == 0x40,
        fps=fps,
        pixel_aspect=pixel_aspect,
    )


def _skip_sub_layer_levels(bits: BitReader, sub_layers: int) -> None:
    """The rest of profile_tier_level() (7.3.3)."""
    present = [(bits.flag(), bits.flag()) for _ in range(sub_layers)]
    if sub_layers:
        bits.skip(2 * (8 - sub_layers))
    for profile, level in present:
        bits.skip(88 * profile + 8 * level)


def _rest_of_sps(bits: BitReader, sub_layers: int) -> tuple[bool, float, tuple[int, int]]:
    """From log2_max_pic_order_cnt_lsb to the VUI: field_seq_flag, frames per second and the shape of pixels.

    Everything before the VUI has been read by now, so trouble here leaves the rate unknown and no more.
    """
    try:
        poc_lsb_bits = 4 + bits.ue()
        for _ in range(sub_layers + 1 if bits.flag() else 1):
            for _ in range(3):
                bits.ue()
        for _ in range(6):
            bits.ue()
        if bits.flag() and bits.flag():
            _skip_scaling_lists(bits)
        bits.skip(2)
        if bits.flag():  # pcm
            bits.skip(8)
            bits.ue()
            bits.ue()
            bits.skip(1)
        _skip_short_term_sets(bits)
        if bits.flag():
            for _ in range(min(bits.ue(), 32)):
                bits.skip(poc_lsb_bits + 1)
        bits.skip(2)
        return _vui(bits) if bits.flag() else (False, 0.0, (1, 1))
    except MediaError:
        return False, 0.0, (1, 1)


def _skip_scaling_lists(bits: BitReader) -> None:
    """scaling_list_data() (7.3.4)."""
    for size_id in range(4):
        for _ in range(2 if size_id == 3 else 6):
            if not bits.flag():
                bits.ue()
                continue
            if size_id > 1:
                bits.se()
            for _ in range(min(64, 1 << 4 + 2 * size_id)):
                bits.se()


def _skip_short_term_sets(bits: BitReader) -> None:
    """st_ref_pic_set() for each of the sets (7.3.7); a set may be told by its difference to the one before it."""
    count, pictures = bits.ue(), 0
    if count > _MAX_SHORT_TERM_SETS:
        raise MediaError("an SPS with too many short-term sets")
    for index in range(count):
        if index and bits.flag():
            bits.skip(1)
            bits.ue()
            kept = 0
            for _ in range(pictures + 1):
                used = bits.flag()
                kept += used or bits.flag()
            pictures = kept
        else:
            pictures = bits.ue() + bits.ue()
            if pictures > _MAX_PICTURES:
                raise MediaError("an SPS with too many pictures in a set")
            for _ in range(pictures):
                bits.ue()
                bits.skip(1)


def _vui(bits: BitReader) -> tuple[bool, float, tuple[int, int]]:
    """vui_parameters() up to the timing (E.2.1)."""
    pixel_aspect = read_pixel_aspect(bits)
    if bits.flag():
        bits.skip(1)
    if bits.flag():
        bits.skip(4)
        if bits.flag():
            bits.skip(24)
    if bits.flag():
        bits.ue()
        bits.ue()
    bits.skip(1)
    field_seq = bits.flag()
    bits.skip(1)
    if bits.flag():
        for _ in range(4):
            bits.ue()
    if not bits.flag():
        return field_seq, 0.0, pixel_aspect
    units_in_tick, time_scale = bits.u(32), bits.u(32)
    return field_seq, time_scale / units_in_tick if units_in_tick else 0.0, pixel_aspect


def pps_id(nal: bytes) -> int:
    """pps_pic_parameter_set_id of a PPS NAL unit. Raises MediaError if cut off."""
    return BitReader(unescaped(nal[2:10])).ue()
