"""What the finders of pictures take a stream's parameters from."""

from __future__ import annotations

import re

import pytest

from tests.media.ts_writer import AUD, bits_to_bytes, h264_slice
from tvarr.media.codecs.annexb import unescaped
from tvarr.media.mpegts.pictures import MAX_PARAMETER_SETS, H264Finder, HevcFinder

MARK = b"\x00\x00\x01"
HEVC_SPS = bytes.fromhex("42010101600000030090000003000003003ca00a080f16595952930bc05a020000030002000003003210")
HEVC_SLICE = MARK + b"\x26\x01\xaf" + b"\x55" * 50  # of an IDR picture


def ue(value: int) -> str:
    """An Exp-Golomb code (ITU-T H.264, 9.1)."""
    return "0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}"


def h264_sps(sps_id: int, width_mbs: int, height_mbs: int) -> bytes:
    """Baseline, frames only, frame_num and order count of 4 bits (7.3.2.1.1)."""
    size = ue(width_mbs - 1) + ue(height_mbs - 1)
    fields = f"{66:08b}{0:08b}{30:08b}" + ue(sps_id) + ue(0) + ue(0) + ue(0) + ue(1) + "0" + size + "11001"
    return MARK + b"\x67" + bits_to_bytes(fields)


def h264_pps(pps_id: int, sps_id: int) -> bytes:
    return MARK + b"\x68" + bits_to_bytes(ue(pps_id) + ue(sps_id) + "1" * 9)


def h264_idr(pps_id: int) -> bytes:
    return MARK + b"\x65" + bits_to_bytes(ue(0) + ue(7) + ue(pps_id) + "1" * 40) + b"\xaa" * 50


def hevc_sps(sps_id: int, width: int) -> bytes:
    """HEVC_SPS with another id and width; 12 bytes of profile_tier_level stand before these (7.3.2.2.1)."""
    bits = "".join(f"{byte:08b}" for byte in unescaped(HEVC_SPS))
    known = ue(0) + ue(1) + ue(320)
    assert bits[120:].startswith(known)
    made = bits_to_bytes(bits[:120] + ue(sps_id) + ue(1) + ue(width) + bits[120 + len(known) :])
    return MARK + re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", made)


def test_a_picture_goes_by_the_sps_that_its_pps_names() -> None:
    """Two encoders in turn, each with ids of its own; the sets of the first are not said again."""
    finder = H264Finder()
    sizes = []
    for unit in (
        h264_sps(0, 20, 15) + h264_pps(0, 0) + h264_idr(0),
        AUD + h264_slice(1),
        h264_sps(1, 40, 30) + h264_pps(1, 1) + h264_idr(1),
        h264_idr(0),
        h264_sps(0, 10, 10) + h264_idr(0),
    ):
        finder.pictures(unit, with_order=False)
        sizes.append((finder.info.width, finder.info.height))
    assert sizes == [(320, 240), (320, 240), (640, 480), (320, 240), (160, 160)]


def test_sets_that_come_before_their_picture_are_one_change() -> None:
    finder = H264Finder()
    finder.pictures(h264_sps(0, 20, 15) + h264_pps(0, 0) + h264_idr(0), with_order=False)
    finder.pictures(h264_sps(0, 40, 30), with_order=False)
    said = finder.info
    finder.pictures(h264_idr(0), with_order=False)
    assert (said.width, finder.info is said) == (640, True)


def test_a_second_sps_that_no_picture_uses_says_nothing() -> None:
    finder = H264Finder()
    finder.pictures(h264_sps(0, 20, 15) + h264_sps(1, 40, 30) + h264_pps(0, 0) + h264_idr(0), with_order=False)
    assert finder.info.width == 320
    said = finder.info
    finder.pictures(h264_sps(1, 80, 60) + h264_idr(0), with_order=False)
    assert (finder.info.width, finder.info.init != said.init) == (320, True)


def test_two_sps_alike_are_one_stream() -> None:
    finder = H264Finder()
    sets = h264_sps(0, 20, 15) + h264_pps(0, 0) + h264_sps(1, 20, 15) + h264_pps(1, 1)
    finder.pictures(sets + h264_idr(0), with_order=False)
    said = finder.info
    for pps_id in (1, 0, 1):
        finder.pictures(h264_idr(pps_id), with_order=False)
        assert finder.info is said


def test_a_picture_whose_pps_never_came_goes_by_the_sps_there_is() -> None:
    finder = H264Finder()
    finder.pictures(h264_sps(0, 20, 15) + h264_idr(5), with_order=False)
    assert finder.info.width == 320


@pytest.mark.parametrize("sps_id", [MAX_PARAMETER_SETS, 300])
def test_an_sps_with_an_id_that_cannot_be_says_nothing(sps_id: int) -> None:
    """It is a damaged one, and so is the size that it states (H.264, 7.4.2.1.1: up to 31; H.265, 7.4.3.2.1: 15)."""
    avc = H264Finder()
    avc.pictures(h264_sps(0, 20, 15) + h264_pps(0, 0) + h264_idr(0), with_order=False)
    avc.pictures(h264_sps(sps_id, 40, 30) + h264_idr(0), with_order=False)
    assert avc.info.width == 320
    finder = HevcFinder()
    finder.pictures(hevc_sps(0, 320) + HEVC_SLICE, with_order=False)
    said = finder.info
    finder.pictures(hevc_sps(sps_id, 640) + hevc_sps(1, 320) + HEVC_SLICE, with_order=False)
    finder.pictures(hevc_sps(sps_id, 640) + MARK + b"\x44\x01\xc1" + HEVC_SLICE, with_order=False)
    assert (said.width, finder.info.width) == (320, 320)
