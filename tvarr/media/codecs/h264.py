"""H.264 (ITU-T H.264): parameter sets and the head of slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tvarr.media.codecs.annexb import unescaped
from tvarr.media.codecs.bits import BitReader

# nal_unit_type (table 7-1)
SLICE: Final = 1
PARTITION_A: Final = 2
IDR: Final = 5
SEI: Final = 6
SPS: Final = 7
PPS: Final = 8
AUD: Final = 9

RECOVERY_POINT = 6  # SEI payload type (D.1.8)
_I_SLICES = frozenset({2, 4, 7, 9})  # I and SI (table 7-6)
_EXTENDED_SAR = 255
_PIXEL_ASPECTS = (  # by aspect_ratio_idc (table E-1)
    *((1, 1), (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11), (80, 33), (18, 11)),
    *((15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1)),
)
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


@dataclass(frozen=True, slots=True)
class Sps:
    """What a sequence parameter set says (7.3.2.1.1); sizes in pixels after cropping, fps 0.0 where not stated."""

    id: int
    profile_idc: int
    constraint_flags: int
    level_idc: int
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    width: int
    height: int
    interlaced: bool  # pictures may be fields
    fps: float
    separate_colour_plane: bool
    frame_num_bits: int
    poc_type: int
    poc_lsb_bits: int  # 0 unless poc_type is 0
    pixel_aspect: tuple[int, int] = (1, 1)  # width to height of a pixel


@dataclass(frozen=True, slots=True)
class SliceHead:
    """The first fields of a slice header (7.3.3)."""

    reference: bool  # others may be predicted from it
    intra: bool
    frame_num: int
    field: bool
    bottom: bool
    poc_lsb: int | None  # None where the stream counts in another way than poc_type 0


def parse_sps(nal: bytes) -> Sps:
    """Reads an SPS NAL unit, its header byte first. Raises MediaError for one that is cut off."""
    bits = BitReader(unescaped(nal[1:]))
    profile_idc, constraint_flags, level_idc, sps_id = bits.u(8), bits.u(8), bits.u(8), bits.ue()
    chroma_format_idc, separate_colour_plane, depth_luma, depth_chroma = 1, False, 8, 8
    if profile_idc in _HIGH_PROFILES:
        chroma_format_idc = bits.ue()
        if chroma_format_idc == 3:
            separate_colour_plane = bits.flag()
        depth_luma, depth_chroma = 8 + bits.ue(), 8 + bits.ue()
        bits.skip(1)
        if bits.flag():
            for index in range(8 if chroma_format_idc != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = 4 + bits.ue()
    poc_type, poc_lsb_bits = bits.ue(), 0
    if poc_type == 0:
        poc_lsb_bits = 4 + bits.ue()
    elif poc_type == 1:
        bits.skip(1)
        bits.se()
        bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()
    bits.ue()
    bits.skip(1)
    width_mbs, height_units = bits.ue() + 1, bits.ue() + 1
    frame_mbs_only = bits.flag()
    if not frame_mbs_only:
        bits.skip(1)
    bits.skip(1)
    left, right, top, bottom = (bits.ue(), bits.ue(), bits.ue(), bits.ue()) if bits.flag() else (0, 0, 0, 0)
    planar = separate_colour_plane or chroma_format_idc == 0
    unit_x = 1 if planar or chroma_format_idc == 3 else 2
    unit_y = (2 if not planar and chroma_format_idc == 1 else 1) * (2 - frame_mbs_only)
    fps, pixel_aspect = _vui(bits) if bits.left and bits.flag() else (0.0, (1, 1))
    return Sps(
        id=sps_id,
        profile_idc=profile_idc,
        constraint_flags=constraint_flags,
        level_idc=level_idc,
        chroma_format_idc=chroma_format_idc,
        bit_depth_luma=depth_luma,
        bit_depth_chroma=depth_chroma,
        width=max(16 * width_mbs - unit_x * (left + right), 0),
        height=max(16 * height_units * (2 - frame_mbs_only) - unit_y * (top + bottom), 0),
        interlaced=not frame_mbs_only,
        fps=fps,
        separate_colour_plane=separate_colour_plane,
        frame_num_bits=frame_num_bits,
        poc_type=poc_type,
        poc_lsb_bits=poc_lsb_bits,
        pixel_aspect=pixel_aspect,
    )


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _vui(bits: BitReader) -> tuple[float, tuple[int, int]]:
    """The frame rate of the VUI (E.1.1), a frame lasts two ticks, and the shape of its pixels."""
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
    if not bits.flag():
        return 0.0, pixel_aspect
    units_in_tick, time_scale = bits.u(32), bits.u(32)
    return time_scale / (2 * units_in_tick) if units_in_tick else 0.0, pixel_aspect


def read_pixel_aspect(bits: BitReader) -> tuple[int, int]:
    """aspect_ratio_info_present_flag to sar_height (E.1.1; the same in H.265); 1 to 1 where not stated."""
    if not bits.flag():
        return 1, 1
    idc = bits.u(8)
    if idc == _EXTENDED_SAR:
        width, height = bits.u(16), bits.u(16)
        return (width, height) if width and height else (1, 1)
    return _PIXEL_ASPECTS[idc] if idc < len(_PIXEL_ASPECTS) else (1, 1)


def parse_slice_head(data: bytes, at: int, sps: Sps) -> SliceHead:
    """Reads the slice NAL unit whose header byte is data[at]. Raises MediaError for one that is cut off."""
    nal_type = data[at] & 0x1F
    bits = BitReader(unescaped(data[at + 1 : at + 33]))
    bits.ue()
    intra = bits.ue() in _I_SLICES
    bits.ue()
    if sps.separate_colour_plane:
        bits.skip(2)
    frame_num = bits.u(sps.frame_num_bits)
    field = sps.interlaced and bits.flag()
    bottom = field and bits.flag()
    if nal_type == IDR:
        bits.ue()
    poc_lsb = bits.u(sps.poc_lsb_bits) if sps.poc_type == 0 else None
    return SliceHead(bool(data[at] & 0x60), intra, frame_num, field, bottom, poc_lsb)


def is_intra_slice(data: bytes, at: int) -> bool:
    """Whether the slice NAL unit whose header byte is data[at] is an I slice. Raises MediaError if cut off."""
    bits = BitReader(data[at + 1 : at + 9])
    bits.ue()
    return bits.ue() in _I_SLICES


def pps_ids(nal: bytes) -> tuple[int, int]:
    """pic_parameter_set_id and seq_parameter_set_id of a PPS NAL unit. Raises MediaError if cut off."""
    bits = BitReader(unescaped(nal[1:17]))
    return bits.ue(), bits.ue()


def slice_pps_id(data: bytes, at: int) -> int:
    """pic_parameter_set_id of the slice NAL unit whose header byte is data[at]. Raises MediaError if cut off."""
    bits = BitReader(unescaped(data[at + 1 : at + 17]))
    bits.ue()
    bits.ue()
    return bits.ue()


def has_recovery_point(sei: bytes) -> bool:
    """Whether an SEI NAL unit has a recovery point message (D.1.8)."""
    data, at = unescaped(sei), 1
    while at + 2 < len(data):
        payload_type = 0
        while at < len(data) and data[at] == 0xFF:
            payload_type, at = payload_type + 255, at + 1
        payload_type += data[at] if at < len(data) else 0
        at += 1
        size = 0
        while at < len(data) and data[at] == 0xFF:
            size, at = size + 255, at + 1
        size += data[at] if at < len(data) else 0
        if payload_type == RECOVERY_POINT and size:
            return True
        at += 1 + size
    return False
