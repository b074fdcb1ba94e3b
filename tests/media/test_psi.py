"""Tables and sections: known bytes first, then that what is built is what is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.errors import CannotCarry, MediaError
from tvarr.media.model import Codec, Track
from tvarr.media.mpegts import psi

# A PAT as FFmpeg writes it: transport stream 1, program 1 on PID 0x1000.
FFMPEG_PAT = bytes.fromhex("00b00d0001c100000001f0002ab104b2")


def test_crc_check_value() -> None:
    assert psi.crc32_mpeg(b"123456789") == 0x0376E6E7


def test_pat_as_ffmpeg_writes_it() -> None:
    pat = psi.parse_pat(psi.parse_section(FFMPEG_PAT))
    assert pat == psi.Pat(transport_stream_id=1, version=0, programs={1: 0x1000})
    assert psi.build_pat(pat) == FFMPEG_PAT


@pytest.mark.parametrize("at", range(len(FFMPEG_PAT)))
def test_any_flipped_bit_is_noticed(at: int) -> None:
    damaged = bytearray(FFMPEG_PAT)
    damaged[at] ^= 0x10
    with pytest.raises(MediaError):
        psi.parse_section(bytes(damaged))


streams = st.lists(
    st.builds(psi.PmtStream, st.integers(0, 255), st.integers(0x10, 0x1FFE), st.binary(max_size=40)),
    max_size=12,
    unique_by=lambda stream: stream.pid,
).map(tuple)


@given(
    st.builds(
        psi.Pmt, st.integers(1, 0xFFFF), st.integers(0, 31), st.integers(0, 0x1FFF), st.binary(max_size=60), streams
    )
)
def test_pmt_round_trip(pmt: psi.Pmt) -> None:
    assert psi.parse_pmt(psi.parse_section(psi.build_pmt(pmt))) == pmt


@given(st.binary(max_size=300))
def test_a_pmt_of_garbage_is_an_error_or_a_pmt(body: bytes) -> None:
    section = psi.Section(psi.PMT_TABLE, 1, 0, True, 0, 0, body)
    try:
        pmt = psi.parse_pmt(section)
    except MediaError:
        return
    assert len({stream.pid for stream in pmt.streams}) == len(pmt.streams)


def test_a_pmt_that_needs_two_sections_is_refused() -> None:
    long = tuple(psi.PmtStream(6, pid, bytes(200)) for pid in range(256, 262))
    with pytest.raises(MediaError, match="does not fit"):
        psi.build_pmt(psi.Pmt(1, 0, 256, b"", long))


def reg(name: bytes) -> bytes:
    return psi.descriptor(psi.REGISTRATION, name)


@pytest.mark.parametrize(
    ("stream_type", "descriptors", "program_descriptors", "codec"),
    [
        pytest.param(0x1B, b"", b"", Codec.H264, id="h264"),
        pytest.param(0x06, psi.descriptor(0x6A, b"\x00"), b"", Codec.AC3, id="dvb ac3"),
        pytest.param(0x06, b"\x52\x01\x05" + psi.descriptor(0x7A, b"\x00"), b"", Codec.EAC3, id="dvb eac3, second"),
        pytest.param(0x06, psi.descriptor(0x59, b"fra\x10\0\1\0\1"), b"", Codec.DVB_SUBTITLE, id="dvb subtitles"),
        pytest.param(0x06, psi.descriptor(0x56, b"ita\x09\0"), b"", Codec.DVB_TELETEXT, id="teletext"),
        pytest.param(0x06, reg(b"Opus") + b"\x7f\x02\x80\x02", b"", Codec.OPUS, id="opus"),
        pytest.param(0x06, reg(b"HEVC"), b"", Codec.HEVC, id="hevc by registration"),
        pytest.param(0x06, b"", b"", Codec.PRIVATE, id="private without a word"),
        pytest.param(0x06, b"\x6a\x40", b"", Codec.PRIVATE, id="a descriptor that is cut off"),
        pytest.param(0x86, b"", b"", Codec.SCTE_35, id="scte 35"),
        pytest.param(0x86, b"", reg(b"HDMV"), Codec.DTS, id="DTS-HD on Blu-ray"),
        pytest.param(0x84, b"", reg(b"HDMV"), Codec.EAC3, id="eac3 on Blu-ray"),
        pytest.param(0x82, b"", reg(b"HDMV"), Codec.DTS, id="DTS on Blu-ray"),
        pytest.param(0x82, b"", b"", Codec.PRIVATE, id="DTS, or subtitles of SCTE 27"),
        pytest.param(0x8A, b"", b"", Codec.DTS, id="DTS"),
        pytest.param(0x06, reg(b"DTS2"), b"", Codec.DTS, id="DTS by registration"),
        pytest.param(0x06, psi.descriptor(0x7B, b"\x00" * 5), b"", Codec.DTS, id="DVB DTS"),
        pytest.param(0x15, b"", b"", Codec.TIMED_ID3, id="metadata without a word"),
        pytest.param(0x15, psi.descriptor(0x26, b"\x01\x00\xffKLVA\x00\x0f"), b"", Codec.PRIVATE, id="KLV metadata"),
        pytest.param(0x0B, b"", b"", Codec.PRIVATE, id="DSM-CC"),
    ],
)
def test_identify(stream_type: int, descriptors: bytes, program_descriptors: bytes, codec: Codec) -> None:
    assert psi.identify(stream_type, descriptors, program_descriptors) is codec


MAPPED = [codec for codec in Codec if codec not in (Codec.AV1, Codec.VP9)]


@pytest.mark.parametrize("codec", MAPPED)
def test_what_is_announced_is_identified(codec: Codec) -> None:
    entry = psi.announce(Track(257, codec, language="fra", channels=2))
    announced = Codec.MP2 if codec in (Codec.MP1, Codec.MP3) else codec  # one stream type for all layers
    assert psi.identify(entry.stream_type, entry.descriptors) is announced
    assert psi.language_of(entry.descriptors) == "fra"
    assert entry.pid == 257
    assert psi.carries_sections(entry.stream_type) == (codec is Codec.SCTE_35)


def test_the_sources_entry_is_kept_only_while_it_is_true() -> None:
    ac3 = Track(300, Codec.AC3, stream_type=6, descriptors=psi.descriptor(psi.AC3, b"\x40\x00"))
    assert psi.announce(ac3) == psi.PmtStream(6, 300, ac3.descriptors)
    private = Track(301, Codec.PRIVATE, stream_type=0xAB, descriptors=b"\x52\x01\x07")
    assert psi.announce(private) == psi.PmtStream(0xAB, 301, b"\x52\x01\x07")
    liar = Track(100, Codec.AAC, stream_type=4)
    assert psi.announce(liar).stream_type == 0x0F


@pytest.mark.parametrize("codec", [Codec.AV1, Codec.VP9])
def test_codecs_without_a_mapping(codec: Codec) -> None:
    with pytest.raises(CannotCarry, match=codec):
        psi.announce(Track(257, codec))


def packets_of(sections: list[bytes], size: int, pointer: int) -> list[tuple[bytes, bool]]:
    """Payloads of `size` bytes; `pointer` bytes of an older section come first."""
    data = bytes(pointer) + b"".join(sections)
    starts = [pointer + sum(map(len, sections[:i])) for i in range(len(sections))]
    packets, at = [], 0
    while at < len(data):
        first = next((start for start in starts if at <= start < at + size - 1), None)
        full = size if at + size - 1 not in starts else size - 1  # a section's start needs a pointer: next packet
        part = data[at : at + full] if first is None else bytes((first - at,)) + data[at : at + size - 1]
        packets.append((part, first is not None))
        at += len(part) - (first is not None)
    return packets


@given(st.integers(2, 184), st.integers(0, 200), st.integers(0, 30))
def test_sections_come_out_of_any_packet_size(size: int, pointer: int, stuffing: int) -> None:
    sections = [FFMPEG_PAT, psi.build_sdt(1, {1: "Télé"}, provider="tvarr"), FFMPEG_PAT]
    assembler = psi.SectionAssembler()
    packets = packets_of(sections, size, pointer)
    packets[-1] = (packets[-1][0] + b"\xff" * stuffing, packets[-1][1])
    assert [section for payload, start in packets for section in assembler.push(payload, start)] == sections


def test_a_new_section_ends_an_unfinished_one() -> None:
    assembler = psi.SectionAssembler()
    assert assembler.push(b"\x00" + FFMPEG_PAT[:10], True) == []
    assert assembler.push(b"\x00" + FFMPEG_PAT, True) == [FFMPEG_PAT]
    assert assembler.push(b"\x00" + FFMPEG_PAT[:10], True) == []
    assembler.reset()
    assert assembler.push(FFMPEG_PAT[10:], False) == []


@given(st.lists(st.tuples(st.binary(max_size=184), st.booleans()), max_size=60))
def test_garbage_sections_stay_capped(packets: list[tuple[bytes, bool]]) -> None:
    assembler = psi.SectionAssembler()
    for payload, start in packets:
        for section in assembler.push(payload, start):
            assert len(section) <= psi.MAX_SECTION_BYTES
