"""Headers as real encoders wrote them, and garbage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.errors import MediaError
from tvarr.media.codecs import aac, ac3, annexb, dts, h264, hevc, mpegaudio, mpegvideo, opus
from tvarr.media.codecs.bits import BitReader
from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import Codec

DVB_1080I_SPS = (
    "67640028ad90a47080320b8d0600e83a40e72120830347fc8c110808121424a101024146fff4d1020114e83c133b10161a390b12322070e1"
    "6132050263e160f06638cac158e04c2058d0a074418e2cc501e0113f780f0808080f8000000300800000194a"
)  # French DVB-T: scaling lists, VUI with HRD


@pytest.mark.parametrize(
    ("nal", "width", "height", "fps", "interlaced", "profile_idc", "chroma"),
    [
        pytest.param(DVB_1080I_SPS, 1920, 1080, 25.0, True, 100, 1, id="DVB 1080i"),
        pytest.param(
            "67640028ac72140780447de02d1000000300100000030329cb1c308580", 1920, 1080, 25.0, True, 100, 1, id="DVB-S"
        ),
        pytest.param("6764001eacd940a02ff9610000030001000003003c8f162d96", 640, 360, 30.0, False, 100, 1, id="x264"),
        pytest.param("67f4000d91968141fb011000000300100000030320f142aa", 320, 240, 25.0, False, 244, 3, id="4:4:4"),
        pytest.param("27640015ac5681e08fea6a0c020c04", 480, 270, 0.0, False, 100, 1, id="Apple, no timing"),
        pytest.param("67640015acd941410fcb808800000300080000030190f8a14cb0", 320, 240, 25.0, True, 100, 1, id="MBAFF"),
    ],
)
def test_h264_sps(
    nal: str, width: int, height: int, fps: float, interlaced: bool, profile_idc: int, chroma: int
) -> None:
    sps = h264.parse_sps(bytes.fromhex(nal))
    assert (sps.width, sps.height, sps.fps, sps.interlaced) == (width, height, fps, interlaced)
    assert (sps.profile_idc, sps.chroma_format_idc, sps.bit_depth_luma) == (profile_idc, chroma, 8)


@pytest.mark.parametrize(
    ("nal", "depth", "profile"),
    [
        ("42010101600000030090000003000003003ca00a080f16595952930bc05a020000030002000003003210", 8, 1),
        ("42010102200000030090000003000003003ca00a080f136595964932bc05a02000000300200000030321", 10, 2),
    ],
    ids=["main", "main 10"],
)
def test_hevc_sps(nal: str, depth: int, profile: int) -> None:
    sps = hevc.parse_sps(bytes.fromhex(nal))
    assert (sps.width, sps.height, sps.fps, sps.interlaced) == (320, 240, 25.0, False)
    assert (sps.bit_depth_luma, sps.profile_tier[0] & 0x1F, sps.level_idc, sps.temporal_layers) == (
        depth,
        profile,
        60,
        1,
    )


def test_mpeg_video_headers() -> None:
    mpeg2 = bytes.fromhex("000001b31400f023ffffe018000001b5148200010000000001b8")
    assert mpegvideo.parse_sequence(mpeg2) == mpegvideo.Sequence(320, 240, 25.0, True, True, 22)
    mpeg1 = bytes.fromhex("000001b31400f013ffffe018000001b800080040")
    assert mpegvideo.parse_sequence(mpeg1) == mpegvideo.Sequence(320, 240, 25.0, False, False, 12)
    field = bytes.fromhex("00000100008fffb8000001b58ffff9800000000101")
    assert mpegvideo.parse_picture(field, 0) == mpegvideo.Picture(2, 1, mpegvideo.TOP_FIELD)


@pytest.mark.parametrize(
    ("parse", "head", "frame"),
    [
        (aac.parse_adts, "fff14c8010fffc211145", AudioFrame(Codec.AAC, 135, 1024, 48000, 2)),
        (aac.parse_adts, "fff15c403e7ffcde02004c61", AudioFrame(Codec.AAC, 499, 1024, 22050, 1)),
        (aac.parse_loas, "56e0da200011881fe69ef010", AudioFrame(Codec.AAC_LATM, 221, 1024, 48000, 1)),
        (aac.parse_loas, "56e0daa00011881fe69ef010", AudioFrame(Codec.AAC_LATM, 221, 1024, 0, 0)),  # as before
        (mpegaudio.parse, "fffda4042eb06644", AudioFrame(Codec.MP2, 576, 1152, 48000, 2)),
        (mpegaudio.parse, "fffc44c0c2155333", AudioFrame(Codec.MP2, 192, 1152, 48000, 1)),
        (mpegaudio.parse, "fffb54c4000008dc", AudioFrame(Codec.MP3, 192, 1152, 48000, 1)),
        (mpegaudio.parse, "fff344c40011b082", AudioFrame(Codec.MP3, 96, 576, 24000, 1)),
        (mpegaudio.parse, "ffff90040011b082", AudioFrame(Codec.MP1, 312, 384, 44100, 2)),
        (dts.parse, "7ffe8001fc3c75b276c00538", AudioFrame(Codec.DTS, 1884, 512, 48000, 6)),
        (dts.parse, "645820250001e015200000", AudioFrame(Codec.DTS, 170, 0, 0, 0, dependent=True)),
        (ac3.parse, "0b7779b81e40ebf8403e", AudioFrame(Codec.AC3, 1792, 1536, 48000, 6)),
        (ac3.parse, "0b7700ff3485ffa8c390", AudioFrame(Codec.EAC3, 512, 1536, 48000, 2)),
        (ac3.parse, "0b77037f3f87c0002080", AudioFrame(Codec.EAC3, 1792, 1536, 48000, 6)),
        (ac3.parse, "0b7740ff3485ffa8c390", AudioFrame(Codec.EAC3, 512, 1536, 48000, 2, dependent=True)),
    ],
)
def test_audio_headers(parse: Callable[[bytes, int], AudioFrame | None], head: str, frame: AudioFrame) -> None:
    data = bytes.fromhex(head)
    assert parse(data, 0) == frame
    assert parse(b"\x00" + data, 1) == frame
    assert parse(data[:2], 0) is None
    assert parse(b"\x00" + data, 0) is None


def test_which_sets_an_h264_slice_and_a_pps_refer_to() -> None:
    """Exp-Golomb codes: first macroblock 0, an I or P slice, PPS 3; and a PPS 5 of SPS 1."""
    intra, inter = (bytes((0x41, *int(f"1{kind}00100".ljust(32, "1"), 2).to_bytes(4))) for kind in ("0001000", "00110"))
    assert (h264.slice_pps_id(intra, 0), h264.is_intra_slice(intra, 0)) == (3, True)
    assert (h264.slice_pps_id(b"\x00" + inter, 1), h264.is_intra_slice(b"\x00" + inter, 1)) == (3, False)
    assert h264.pps_ids(bytes((0x68, int("00110010", 2)))) == (5, 1)


@pytest.mark.parametrize("rate_index", [13, 14, 15])
def test_a_rate_that_adts_reserves_is_no_header(rate_index: int) -> None:
    assert aac.parse_adts(bytes((0xFF, 0xF1, 0x40 | rate_index << 2, 0x80, 0x10, 0xFF, 0xFC))) is None


def test_a_rate_without_a_number_has_no_adts_header() -> None:
    with pytest.raises(MediaError, match="2 channels at 44000 Hz"):
        aac.adts_header(aac.Config(2, 44_000, 2))


def test_aac_configuration_and_payload() -> None:
    adts = bytes.fromhex("fff14c8010fffc") + bytes(128)
    assert aac.audio_specific_config(adts) == b"\x11\x90"  # AAC-LC, 48 kHz, stereo
    assert aac.adts_payload(adts) == bytes(128)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (b"\xf8\x00", 960),  # CELT, 20 ms
        (b"\x08\x00", 960),  # SILK, 20 ms
        (b"\x18\x00", 2880),
        (b"\xe1\x00", 240),  # two frames of 2.5 ms
        (b"\xfb\x06\x00", 5760),  # six of 20 ms
        (b"", 0),
    ],
)
def test_opus_duration(packet: bytes, samples: int) -> None:
    assert opus.samples(packet) == samples


@given(st.integers(0, 2000), st.integers(1, 8))
def test_opus_packing(size: int, channels: int) -> None:
    header = opus.control_header(size)
    found = opus.parse_control_header(b"xx" + header + bytes(size), 2)
    assert found == opus.ControlHeader(2 + len(header), 2 + len(header) + size)
    head = opus.head(channels)
    assert head[:8] == b"OpusHead"
    assert head[9] == channels
    assert len(head) == 19 if channels <= 2 else 21 + channels


def test_opus_trimming_is_skipped() -> None:
    # start trim 120, end trim 240, then two bytes of control extension
    data = bytes.fromhex("7ffc03 0078 00f0 02aabb f80102")
    assert opus.parse_control_header(data) == opus.ControlHeader(10, 13)


def test_nal_units() -> None:
    data = bytes.fromhex("00000001 0910 000001 6764 00000001 68ce 00 000001 65")
    assert annexb.nal_units(data) == [b"\x09\x10", b"\x67\x64", b"\x68\xce", b"\x65"]
    assert annexb.nal_units(annexb.joined(annexb.nal_units(data))) == annexb.nal_units(data)
    assert annexb.unescaped(b"\x01\x00\x00\x03\x01\x00\x00\x03\x00") == b"\x01\x00\x00\x01\x00\x00\x00"


def test_recovery_point() -> None:
    assert h264.has_recovery_point(bytes.fromhex("0606 01 c4 80"))
    assert h264.has_recovery_point(bytes.fromhex("06 0101 42 0601 c4 80"))
    assert not h264.has_recovery_point(bytes.fromhex("06 0101 42 80"))


@given(st.lists(st.integers(0, 2**32 - 2), max_size=20))
def test_exp_golomb(values: list[int]) -> None:
    bits = "".join(f"{0:0{(v + 1).bit_length() - 1}b}{v + 1:b}" if v else "1" for v in values) + "1"
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    reader = BitReader(data)
    assert [reader.ue() for _ in values] == values


PARSERS: list[Callable[[bytes], object]] = [
    lambda data: h264.parse_sps(b"\x67" + data),
    lambda data: hevc.parse_sps(b"\x42\x01" + data),
    lambda data: hevc.pps_id(b"\x44\x01" + data),
    lambda data: h264.pps_ids(b"\x68" + data),
    lambda data: h264.parse_slice_head(b"\x65" + data, 0, h264.parse_sps(bytes.fromhex(DVB_1080I_SPS))),
    lambda data: mpegvideo.parse_sequence(b"\x00\x00\x01\xb3" + data),
    lambda data: mpegvideo.parse_picture(b"\x00\x00\x01\x00" + data, 0),
    lambda data: h264.has_recovery_point(b"\x06" + data),
    lambda data: aac.parse_adts(b"\xff\xf1" + data),
    lambda data: aac.parse_loas(b"\x56\xe0" + data),
    lambda data: mpegaudio.parse(b"\xff" + data),
    lambda data: ac3.parse(b"\x0b\x77" + data),
    lambda data: opus.parse_control_header(b"\x7f\xff" + data),
]


@pytest.mark.parametrize("parse", PARSERS)
@given(data=st.binary(max_size=80))
def test_garbage_is_a_media_error_at_most(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except MediaError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
