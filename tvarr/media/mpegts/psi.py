"""Program specific information: what reader and writer of MPEG-TS share.

Sections and their CRC, the tables PAT, PMT and SDT, descriptors, and the one table that ties codecs to
stream types. Clauses are those of ISO/IEC 13818-1 (13818-1) and ETSI EN 300 468 (DVB).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from tvarr.errors import CannotCarry, MediaError
from tvarr.media.model import Codec, Track

PACKET_BYTES = 188
SYNC_BYTE = 0x47
NULL_PID = 0x1FFF  # also: "no PCR" as a PMT's pcr_pid

PAT_PID = 0x0000
SDT_PID = 0x0011
PAT_TABLE = 0x00
PMT_TABLE = 0x02
SDT_TABLE = 0x42  # of the actual transport stream
SCTE_35_TABLE = 0xFC

MAX_PSI_SECTION_BYTES = 1024  # PAT and PMT (13818-1, 2.4.4.4)
MAX_SECTION_BYTES = 4096  # private sections (13818-1, 2.4.4.10)

REGISTRATION = 0x05
ISO_639_LANGUAGE = 0x0A
METADATA = 0x26
SERVICE = 0x48
TELETEXT = 0x56
SUBTITLING = 0x59
AC3 = 0x6A
EAC3 = 0x7A
DTS = 0x7B
EXTENSION = 0x7F
OPUS_EXTENSION = 0x80  # descriptor_tag_extension of Opus in MPEG-TS

PRIVATE_PES = 0x06  # stream_type of PES packets that only descriptors explain
UNEXPLAINED = (PRIVATE_PES, 0x82)  # what they are shows in the payload; 0x82: DTS outside of Blu-ray, or SCTE 27

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32_mpeg(data: bytes) -> int:
    """CRC-32/MPEG-2 (13818-1, annex A): 0 over a whole undamaged section.

    zlib computes the bit-reversed sister of the same polynomial; reversing bits going in and out gives this one.
    """
    reflected = crc32(data.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")


# Descriptors


def descriptor(tag: int, body: bytes) -> bytes:
    """One descriptor; `body` has at most 255 bytes."""
    return bytes((tag, len(body))) + body


def descriptors_in(loop: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each descriptor of a loop; ends silently at one that is cut off."""
    at = 0
    while at + 2 <= len(loop):
        end = at + 2 + loop[at + 1]
        if end > len(loop):
            return
        yield loop[at], loop[at + 2 : end]
        at = end


def language_of(descriptors: bytes) -> str:
    """The first ISO 639-2 code that the descriptors of a stream give, in lower case, or "" where there is none."""
    for tag, body in descriptors_in(descriptors):
        if tag in (ISO_639_LANGUAGE, TELETEXT, SUBTITLING) and len(body) >= 3:
            code = body[:3].decode("latin-1").lower()
            if code.isascii() and code.isalpha():
                return code
    return ""


def _language_bytes(language: str) -> bytes:
    return language.encode("ascii", "replace")[:3].ljust(3, b" ") if language else b"und"


# Which codec a PMT entry announces, and which entry announces a codec

_BY_STREAM_TYPE = {
    0x01: Codec.MPEG1VIDEO,
    0x02: Codec.MPEG2VIDEO,
    0x03: Codec.MP2,  # the layer shows in the frame header only
    0x04: Codec.MP2,
    0x0F: Codec.AAC,
    0x11: Codec.AAC_LATM,
    0x15: Codec.TIMED_ID3,
    0x1B: Codec.H264,
    0x24: Codec.HEVC,
    0x81: Codec.AC3,  # ATSC A/53 part 3; HDMV agrees
    0x86: Codec.SCTE_35,
    0x87: Codec.EAC3,  # ATSC A/52 annex G
    0x8A: Codec.DTS,
}
_BY_STREAM_TYPE_HDMV = {  # Blu-ray, where the program's registration descriptor says HDMV; others as above
    0x82: Codec.DTS,
    0x84: Codec.EAC3,
    0x85: Codec.DTS,  # with an extension, DTS-HD
    0x86: Codec.DTS,  # the same without loss; not SCTE-35
    0xA1: Codec.EAC3,
}
_BY_REGISTRATION = {
    b"AC-3": Codec.AC3,
    b"EAC3": Codec.EAC3,
    b"DTS1": Codec.DTS,
    b"DTS2": Codec.DTS,
    b"DTS3": Codec.DTS,
    b"Opus": Codec.OPUS,
    b"HEVC": Codec.HEVC,
    b"CUEI": Codec.SCTE_35,
    b"ID3 ": Codec.TIMED_ID3,
}
_BY_DESCRIPTOR = {  # of private PES (EN 300 468, annex D; 6.2)
    TELETEXT: Codec.DVB_TELETEXT,
    SUBTITLING: Codec.DVB_SUBTITLE,
    AC3: Codec.AC3,
    EAC3: Codec.EAC3,
    DTS: Codec.DTS,
}
_SECTION_STREAM_TYPES = frozenset({0x05, 0x0A, 0x0B, 0x0C, 0x0D, 0x14, 0x16, 0x86, 0x90, 0x95, 0xC0})


def identify(stream_type: int, descriptors: bytes, program_descriptors: bytes = b"") -> Codec:
    """The codec that a PMT entry announces; PRIVATE where nothing known is said. The payload may disagree."""
    if _registration(program_descriptors) == b"HDMV" and stream_type in _BY_STREAM_TYPE_HDMV:
        return _BY_STREAM_TYPE_HDMV[stream_type]
    codec = _BY_STREAM_TYPE.get(stream_type)
    if codec is Codec.TIMED_ID3:
        return codec if _metadata_format(descriptors) in (b"", b"ID3 ") else Codec.PRIVATE
    if codec is not None or stream_type != PRIVATE_PES:
        return codec or Codec.PRIVATE
    for tag, body in descriptors_in(descriptors):
        codec = _BY_REGISTRATION.get(body[:4]) if tag == REGISTRATION else _BY_DESCRIPTOR.get(tag)
        if codec is not None:
            return codec
    return Codec.PRIVATE


def carries_sections(stream_type: int, program_descriptors: bytes = b"") -> bool:
    """Whether a stream of this type has sections in its packets, not PES."""
    if stream_type == 0x86 or stream_type == 0x90:
        return _registration(program_descriptors) != b"HDMV"
    return stream_type in _SECTION_STREAM_TYPES


def _registration(descriptors: bytes) -> bytes:
    return next((body[:4] for tag, body in descriptors_in(descriptors) if tag == REGISTRATION), b"")


def _metadata_format(descriptors: bytes) -> bytes:
    """The metadata_format_identifier (13818-1, 2.6.60), b"" where the descriptor is missing or has none."""
    for tag, body in descriptors_in(descriptors):
        if tag == METADATA and len(body) >= 2:
            at = 2 + 4 * (body[:2] == b"\xff\xff")
            return body[at + 1 : at + 5] if body[at : at + 1] == b"\xff" else b""
    return b""


class _Row(NamedTuple):
    stream_type: int
    descriptors: bytes = b""


_ANNOUNCED = {
    Codec.MPEG1VIDEO: _Row(0x01),
    Codec.MPEG2VIDEO: _Row(0x02),
    Codec.H264: _Row(0x1B),
    Codec.HEVC: _Row(0x24, descriptor(REGISTRATION, b"HEVC")),
    Codec.AAC: _Row(0x0F),
    Codec.AAC_LATM: _Row(0x11),
    Codec.MP1: _Row(0x03),
    Codec.MP2: _Row(0x03),
    Codec.MP3: _Row(0x03),
    Codec.AC3: _Row(0x81, descriptor(REGISTRATION, b"AC-3")),
    Codec.EAC3: _Row(0x87, descriptor(REGISTRATION, b"EAC3")),
    Codec.DTS: _Row(0x8A),
    Codec.OPUS: _Row(PRIVATE_PES, descriptor(REGISTRATION, b"Opus")),
    Codec.DVB_SUBTITLE: _Row(PRIVATE_PES),
    Codec.DVB_TELETEXT: _Row(PRIVATE_PES),
    Codec.SCTE_35: _Row(0x86, descriptor(REGISTRATION, b"CUEI")),
    Codec.TIMED_ID3: _Row(0x15, descriptor(METADATA, b"\xff\xffID3 \xffID3 \xff\x00\x0f")),
    Codec.PRIVATE: _Row(PRIVATE_PES),
}
LOW_RATE_MPEG_AUDIO = 0x04  # 13818-3: sampling rates below 32 kHz
_LANGUAGE_IN_OWN_DESCRIPTOR = {
    Codec.DVB_SUBTITLE: (
        SUBTITLING,
        b"\x10\x00\x01\x00\x01",
    ),  # normal, no aspect ratio; composition and ancillary page
    Codec.DVB_TELETEXT: (TELETEXT, b"\x09\x00"),  # initial page 100
}


def announce(track: Track) -> PmtStream:
    """The PMT entry for a track, its PID being `track.id`.

    The source's own stream type and descriptors are kept where they say what the track is; else the entry is made.
    Raises CannotCarry for a codec that MPEG-TS has no mapping for.
    """
    if track.stream_type and identify(track.stream_type, track.descriptors) is _announced_as(track.codec):
        return PmtStream(track.stream_type, track.id, track.descriptors)
    row = _ANNOUNCED.get(track.codec)
    if row is None:
        raise CannotCarry(f"MPEG-TS has no mapping for {track.codec}")
    stream_type, loop = row
    if stream_type == 0x03 and 0 < track.sample_rate < 32_000:
        stream_type = LOW_RATE_MPEG_AUDIO
    if track.codec is Codec.OPUS:  # channel_config_code is the number of channels for the usual layouts
        loop += descriptor(EXTENSION, bytes((OPUS_EXTENSION, min(track.channels, 8) or 2)))
    if track.codec in _LANGUAGE_IN_OWN_DESCRIPTOR:
        tag, rest = _LANGUAGE_IN_OWN_DESCRIPTOR[track.codec]
        loop += descriptor(tag, _language_bytes(track.language) + rest)
    elif track.language:
        loop += descriptor(ISO_639_LANGUAGE, _language_bytes(track.language) + b"\x00")
    return PmtStream(stream_type, track.id, loop)


def _announced_as(codec: Codec) -> Codec:
    return Codec.MP2 if codec in (Codec.MP1, Codec.MP3) else codec


# Sections and tables


@dataclass(frozen=True, slots=True)
class Section:
    """A section with the long header, CRC checked and stripped (13818-1, 2.4.4.11)."""

    table_id: int
    extension: int  # transport_stream_id of a PAT, program_number of a PMT
    version: int
    current: bool  # False: this section will apply later
    number: int
    last_number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pat:
    """The programs of a transport stream: number -> PID of the PMT, in the order of the table."""

    transport_stream_id: int
    version: int
    programs: Mapping[int, int]


class PmtStream(NamedTuple):
    stream_type: int
    pid: int
    descriptors: bytes = b""


@dataclass(frozen=True, slots=True)
class Pmt:
    program: int
    version: int
    pcr_pid: int
    descriptors: bytes
    streams: tuple[PmtStream, ...]


def parse_section(data: bytes) -> Section:
    """A whole section with the long header. Raises MediaError for a wrong length, syntax or CRC."""
    if len(data) < 12 or len(data) != 3 + ((data[1] & 0x0F) << 8 | data[2]) or not data[1] & 0x80:
        raise MediaError("a section of wrong length or syntax")
    if crc32_mpeg(data):
        raise MediaError("a section with a wrong CRC")
    return Section(
        table_id=data[0],
        extension=data[3] << 8 | data[4],
        version=data[5] >> 1 & 0x1F,
        current=bool(data[5] & 1),
        number=data[6],
        last_number=data[7],
        body=data[8:-4],
    )


def build_section(section: Section, *, private: bool = False) -> bytes:
    """The section with header and CRC; `private` sets the bit that DVB's tables (SDT) have and PAT and PMT lack.

    Raises MediaError where the body does not fit into one section.
    """
    length = 5 + len(section.body) + 4
    if 3 + length > (MAX_SECTION_BYTES if private else MAX_PSI_SECTION_BYTES):
        raise MediaError(f"table {section.table_id:#x} does not fit into one section")
    head = bytes(
        (
            section.table_id,
            (0xF0 if private else 0xB0) | length >> 8,
            length & 0xFF,
            section.extension >> 8,
            section.extension & 0xFF,
            0xC0 | section.version << 1 | section.current,
            section.number,
            section.last_number,
        )
    )
    data = head + section.body
    return data + crc32_mpeg(data).to_bytes(4, "big")


def parse_pat(section: Section) -> Pat:
    """One section of a PAT (13818-1, 2.4.4.3); the network PID's entry (program 0) is left out."""
    body = section.body
    entries = (
        (body[i] << 8 | body[i + 1], (body[i + 2] & 0x1F) << 8 | body[i + 3]) for i in range(0, len(body) - 3, 4)
    )
    return Pat(section.extension, section.version, {number: pid for number, pid in entries if number})


def build_pat(pat: Pat) -> bytes:
    body = b"".join(bytes((n >> 8, n & 0xFF, 0xE0 | pid >> 8, pid & 0xFF)) for n, pid in pat.programs.items())
    return build_section(Section(PAT_TABLE, pat.transport_stream_id, pat.version, True, 0, 0, body))


def parse_pmt(section: Section) -> Pmt:
    """A PMT (13818-1, 2.4.4.8). Raises MediaError where its loops don't add up; a PID listed twice counts once."""
    body = section.body
    if len(body) < 4:
        raise MediaError("a PMT that is cut off")
    at = 4 + ((body[2] & 0x0F) << 8 | body[3])
    program_descriptors = body[4:at]
    streams: dict[int, PmtStream] = {}
    while at + 5 <= len(body):
        pid = (body[at + 1] & 0x1F) << 8 | body[at + 2]
        end = at + 5 + ((body[at + 3] & 0x0F) << 8 | body[at + 4])
        if end > len(body):
            raise MediaError("a PMT whose descriptors run over its end")
        streams.setdefault(pid, PmtStream(body[at], pid, body[at + 5 : end]))
        at = end
    if at != len(body):
        raise MediaError("a PMT whose lengths don't add up")
    return Pmt(
        section.extension,
        section.version,
        (body[0] & 0x1F) << 8 | body[1],
        program_descriptors,
        tuple(streams.values()),
    )


def build_pmt(pmt: Pmt) -> bytes:
    """Raises MediaError where streams and descriptors need more than one section, which a PMT can't have."""
    parts = [_pid_and_length(pmt.pcr_pid, pmt.descriptors)]
    for stream in pmt.streams:
        parts += [bytes((stream.stream_type,)), _pid_and_length(stream.pid, stream.descriptors)]
    return build_section(Section(PMT_TABLE, pmt.program, pmt.version, True, 0, 0, b"".join(parts)))


def _pid_and_length(pid: int, descriptors: bytes) -> bytes:
    size = len(descriptors)
    return bytes((0xE0 | pid >> 8, pid & 0xFF, 0xF0 | size >> 8, size & 0xFF)) + descriptors


def build_sdt(transport_stream_id: int, services: Mapping[int, str], *, provider: str = "", version: int = 0) -> bytes:
    """An SDT that names programs (EN 300 468, 5.2.3): program number -> service name; all are "digital television"."""
    body = b"\xff\x01\xff"  # original_network_id, reserved
    for number, name in services.items():
        names = b"".join(bytes((len(text),)) + text for text in (_dvb_text(provider), _dvb_text(name)))
        loop = descriptor(SERVICE, b"\x01" + names)
        running = 4 << 13 | len(loop)  # running, not scrambled
        body += bytes((number >> 8, number & 0xFF, 0xFC, running >> 8, running & 0xFF)) + loop
    return build_section(Section(SDT_TABLE, transport_stream_id, version, True, 0, 0, body), private=True)


def _dvb_text(text: str) -> bytes:
    """EN 300 468, annex A: ASCII as it is, else UTF-8 after 0x15; at most 100 bytes, cut between characters."""
    data = text.encode("ascii") if text.isascii() else b"\x15" + text.encode()
    return data[:100].decode("utf-8", "ignore").encode()


class SectionAssembler:
    """Joins the payloads of one PID into sections (13818-1, 2.4.4.2). Holds at most one unfinished section."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def reset(self) -> None:
        """After a gap: what is unfinished is lost."""
        self._data.clear()

    def push(self, payload: bytes, unit_start: bool) -> list[bytes]:
        """The sections that this packet's payload completes, header to CRC, unchecked."""
        if not unit_start:
            if not self._data:
                return []
            self._data += payload
            return self._take()
        pointer = payload[0] if payload else 0
        sections: list[bytes] = []
        if self._data:
            self._data += payload[1 : 1 + pointer]
            sections = self._take()
        self._data[:] = payload[1 + pointer :]
        return sections + self._take()

    def _take(self) -> list[bytes]:
        sections, data, at = [], self._data, 0
        while len(data) - at >= 3 and data[at] != 0xFF:  # 0xFF: stuffing up to the packet's end
            end = at + 3 + ((data[at + 1] & 0x0F) << 8 | data[at + 2])
            if end > len(data):
                break
            if end - at <= MAX_SECTION_BYTES:
                sections.append(bytes(data[at:end]))
            at = end
        if at < len(data) and data[at] == 0xFF:
            at = len(data)
        del data[:at]
        return sections
