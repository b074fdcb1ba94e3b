"""Sample entries written box by box: what a file says of a track, and what becomes of its samples."""

from __future__ import annotations

import struct

import pytest

from tests.media.mp4_subjects import HEVC_SETS, PPS, SLICE, SPS, VIDEO, lengths
from tvarr.errors import MediaError
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4.boxes import box, children, full_box
from tvarr.media.fmp4.descriptions import Description, read_entry
from tvarr.media.model import Codec, Track


def visual(kind: bytes, *boxes: bytes, width: int = 0, height: int = 0) -> bytes:
    """12.1.3"""
    return box(kind, struct.pack(">6xH16xHH50x", 1, width, height), *boxes)


def sounding(kind: bytes, *boxes: bytes, version: int = 0, more: bytes = b"", channels: int = 2) -> bytes:
    """12.2.3, or of QuickTime, with `more` of its version."""
    return box(kind, struct.pack(">6xHH6xHHHHI", 1, version, channels, 16, 0, 0, 48_000 << 16), more, *boxes)


def descriptor(tag: int, *content: bytes) -> bytes:
    return bytes((tag, sum(map(len, content)))) + b"".join(content)


def esds(kind: int, specific: bytes = b"", *, flags: int = 0, more: bytes = b"") -> bytes:
    """14496-1, 7.2.6.5; `more` are the fields that `flags` announce."""
    config = descriptor(4, bytes((kind, 0x15)), bytes(11), descriptor(5, specific) if specific else b"")
    return full_box(b"esds", 0, 0, descriptor(3, struct.pack(">HB", 1, flags), more, config))


def avcc(*sets: list[bytes], size: int = 4) -> bytes:
    listed = [
        bytes((len(same) | first,)) + b"".join(map(sized, same)) for same, first in zip(sets, (0xE0, 0), strict=True)
    ]
    return box(b"avcC", bytes((1, 0x64, 0, 0x1E, 0xFC | size - 1)), *listed)


def hvcc(*arrays: list[bytes], size: int = 4) -> bytes:
    listed = [struct.pack(">BH", same[0][0] >> 1, len(same)) + b"".join(map(sized, same)) for same in arrays]
    return box(b"hvcC", bytes(21), bytes((0xFC | size - 1, len(arrays))), *listed)


def sized(unit: bytes) -> bytes:
    return len(unit).to_bytes(2, "big") + unit


def read(data: bytes) -> Description:
    return read_entry(data, next(children(data, 0, len(data))))


LC_44100 = b"\x12\x10"
STEREO = {"sample_rate": 44_100, "channels": 2}
MPEG2_HEADER = b"\x00\x00\x01\xb3\x14\x00\xf0\x13"
OPUS_51 = struct.pack(">BBHIhB", 0, 6, 312, 44_100, -256, 1) + bytes((4, 2, 0, 4, 1, 2, 3, 5))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(sounding(b"mp4a", esds(0x40, LC_44100)), Track(0, Codec.AAC, **STEREO), id="AAC"),
        pytest.param(sounding(b"mp4a", esds(0x68, LC_44100)), Track(0, Codec.AAC, **STEREO), id="MPEG-2 AAC"),
        pytest.param(sounding(b"mp4a", esds(0x40, b"\x0a\x10")), Track(0, Codec.AAC, **STEREO), id="AAC Main"),
        pytest.param(sounding(b"mp4a", esds(0x40, b"\x22\x10")), Track(0, Codec.AAC, **STEREO), id="AAC LTP"),
        pytest.param(
            sounding(b"mp4a", esds(0x40, LC_44100, flags=0xE0, more=b"\x00\x07\x03url\x00\x09")),
            Track(0, Codec.AAC, **STEREO),
            id="with all that an ES descriptor may have",
        ),
        pytest.param(
            sounding(b"mp4a", box(b"wave", box(b"frma", b"mp4a"), esds(0x40, LC_44100)), version=1, more=bytes(16)),
            Track(0, Codec.AAC, **STEREO),
            id="QuickTime, version 1",
        ),
        pytest.param(
            sounding(b"mp4a", esds(0x40, LC_44100), version=2, more=bytes(36)),
            Track(0, Codec.AAC, **STEREO),
            id="QuickTime, version 2",
        ),
        pytest.param(
            sounding(b".mp3", channels=1), Track(0, Codec.MP3, sample_rate=48_000, channels=1), id="MP3, QuickTime's"
        ),
        pytest.param(sounding(b"mp4a", esds(0x69)), Track(0, Codec.MP3, sample_rate=48_000, channels=2), id="MP3"),
        pytest.param(
            sounding(b"ac-3", box(b"dac3", bytes.fromhex("503dc0"))),
            Track(0, Codec.AC3, sample_rate=44_100, channels=6),
            id="AC-3 5.1",
        ),
        pytest.param(
            sounding(b"ec-3", box(b"dec3", bytes.fromhex("0c00600f00"))),
            Track(0, Codec.EAC3, sample_rate=44_100, channels=6),
            id="E-AC-3 5.1",
        ),
        pytest.param(
            sounding(b"Opus", box(b"dOps", OPUS_51)),
            Track(
                0,
                Codec.OPUS,
                sample_rate=48_000,
                channels=6,
                init=b"OpusHead" + struct.pack("<BBHIhB", 1, 6, 312, 44_100, -256, 1) + OPUS_51[11:],
            ),
            id="Opus 5.1",
        ),
        pytest.param(
            visual(b"mp4v", esds(0x61, MPEG2_HEADER), width=320, height=240),
            Track(0, Codec.MPEG2VIDEO, width=320, height=240, init=MPEG2_HEADER),
            id="MPEG-2",
        ),
        pytest.param(visual(b"vp09", width=320, height=240), Track(0, Codec.VP9, width=320, height=240), id="VP9"),
        pytest.param(
            visual(b"avc2", avcc([SPS], [PPS]), width=320, height=240),
            Track(0, Codec.H264, width=640, height=360, fps=30.0, init=VIDEO.init),
            id="H.264, by its own parameters",
        ),
        pytest.param(
            visual(b"avc3", avcc([], []), width=320, height=240),
            Track(0, Codec.H264, width=320, height=240),
            id="H.264 with all parameters in band",
        ),
        pytest.param(
            visual(b"avc3", avcc([b""], [b""]), width=320, height=240),
            Track(0, Codec.H264, width=320, height=240),
            id="H.264 with empty parameters",
        ),
        pytest.param(
            visual(b"avc3", box(b"avcC", avcc([SPS], [])[8:-1]), width=320, height=240),
            Track(0, Codec.H264, width=320, height=240),
            id="H.264 whose configuration ends before the number of PPS",
        ),
        pytest.param(
            visual(b"avc3", avcc([SPS[:3]], [PPS]), width=320, height=240),
            Track(0, Codec.H264, width=320, height=240),
            id="H.264 with damaged parameters",
        ),
    ],
)
def test_sample_entries(data: bytes, expected: Track) -> None:
    assert read(data).track == expected


def test_hevc_takes_nothing_but_parameter_sets_out_of_its_configuration() -> None:
    vps, sps, pps = HEVC_SETS
    arrays = [[vps], [sps], [b"\x4e\x01\x05\x01\xaa\x80"], [pps, b"\x44"]]
    found = read(visual(b"dvh1", hvcc(*arrays)))
    assert found.track.init == joined([*HEVC_SETS])
    assert found.convert(lengths(SLICE), True) == joined([*HEVC_SETS, SLICE])


def test_h264_keyframes_have_all_parameter_sets_of_the_configuration_that_are_no_empty_ones() -> None:
    many = [PPS + bytes((n,)) for n in range(1, 41)]
    found = read(visual(b"avc1", avcc([SPS, b""], [*many, b""])))
    assert found.convert(lengths(SLICE), True) == joined([SPS, *many, SLICE])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_units_behind_lengths_of_any_size(size: int) -> None:
    sample = b"".join(len(unit).to_bytes(size, "big") + unit for unit in (SLICE, SLICE))
    assert read(visual(b"avc1", avcc([SPS], [PPS], size=size))).convert(sample, False) == joined([SLICE, SLICE])
    hevc = read(visual(b"hvc1", hvcc(*([unit] for unit in HEVC_SETS), size=size)))
    assert hevc.convert(sample, False) == joined([SLICE, SLICE])
    assert hevc.convert(sample, True) == joined([*HEVC_SETS, SLICE, SLICE])


def test_av1_keyframes_have_their_sequence_header() -> None:
    header = bytes.fromhex("0a0a00000002affffe77a802")
    found = read(visual(b"av01", box(b"av1C", bytes.fromhex("81000c00"), header)))
    frame = b"\x32\x01\xaa"
    assert (found.track.init, found.track.width, found.track.height) == (header, 64, 64)
    assert found.convert(frame, True) == header + frame
    assert found.convert(frame, False) == frame
    assert found.convert(header + frame, True) == header + frame


def test_the_longest_frame_of_aac() -> None:
    convert = read(sounding(b"mp4a", esds(0x40, LC_44100))).convert
    assert len(convert(bytes(8191 - 7), True)) == 8191
    with pytest.raises(MediaError, match="too long for ADTS"):
        convert(bytes(8191 - 6), True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(box(b"avc1", bytes(77)), "avc1, cut off", id="an entry that is cut off"),
        pytest.param(box(b"mp4a", bytes(27)), "mp4a, cut off", id="another"),
        pytest.param(visual(b"avc1"), "0 bytes of avcC", id="no configuration"),
        pytest.param(visual(b"hvc1", box(b"hvcC", bytes(22))), "22 bytes of hvcC", id="a short one"),
        pytest.param(visual(b"avc1", box(b"avcC", bytes((1 << 16) + 1))), "65537 bytes of avcC", id="a long one"),
        pytest.param(visual(b"avc1", avcc([SPS], [PPS])[:-1]), "avcC of", id="one that goes on behind its entry"),
        pytest.param(
            visual(b"avc1", box(b"avcC", avcc([SPS], [PPS])[8:-1])), "configuration that is cut off", id="a cut unit"
        ),
        pytest.param(
            visual(b"avc1", box(b"avcC", bytes.fromhex("0164001effe10005"))), "that is cut off", id="a cut first unit"
        ),
        pytest.param(
            visual(b"avc1", box(b"avcC", bytes.fromhex("0164001effe100"))), "that is cut off", id="a cut length"
        ),
        pytest.param(sounding(b"mp4a", esds(0x40, b"\x12")), "object type 0x40", id="AAC without configuration"),
        pytest.param(sounding(b"mp4a", esds(0x40, b"\x12\x00")), "object type 2", id="AAC without channels"),
        pytest.param(sounding(b"mp4a", esds(0xDD)), "object type 0xdd", id="Vorbis"),
        pytest.param(sounding(b"mp4a", full_box(b"esds", 0, 0, b"\x04\x00")), "without a stream", id="no stream"),
        pytest.param(
            sounding(b"mp4a", full_box(b"esds", 0, 0, descriptor(3, bytes(3), descriptor(4, b"\x40" + bytes(11))))),
            "without a decoder configuration",
            id="a cut decoder configuration",
        ),
        pytest.param(box(b"encv", bytes(78)), "encv", id="encrypted, of nothing"),
    ],
)
def test_entries_that_can_not_be_used_say_why(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read(data)
