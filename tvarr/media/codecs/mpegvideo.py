"""MPEG-1 and MPEG-2 video (ISO/IEC 11172-2, 13818-2): sequence and picture headers."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.errors import MediaError

# start codes (13818-2, table 6-1)
PICTURE, USER_DATA, SEQUENCE, EXTENSION, GROUP = 0x00, 0xB2, 0xB3, 0xB5, 0xB8

INTRA = 1  # picture_coding_type (table 6-12)
TOP_FIELD, BOTTOM_FIELD, FRAME = 1, 2, 3  # picture_structure (table 6-14)

_SEQUENCE_EXTENSION, _PICTURE_EXTENSION = 1, 8  # extension_start_code_identifier
_FRAME_RATES = (0.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence header and its extension; `mpeg2` is False where the extension is missing."""

    width: int
    height: int
    fps: float
    interlaced: bool
    mpeg2: bool
    size_bytes: int  # from the start code to the end of the extension


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture header (6.3.9) and the structure from its coding extension (6.3.10)."""

    temporal_reference: int
    coding_type: int  # 1 I, 2 P, 3 B
    structure: int


def parse_sequence(data: bytes, at: int = 0) -> Sequence:
    """Reads the sequence header whose start code is at data[at].

    Raises MediaError for one that is cut off, and for one that is damaged: without the extension that MPEG-2 has
    (6.1.1.6), though what follows is MPEG-2's or nothing that could follow.
    """
    head = data[at : at + 12]
    if len(head) < 12 or head[:4] != b"\x00\x00\x01\xb3":
        raise MediaError("a sequence header that is cut off")
    width, height = head[4] << 4 | head[5] >> 4, (head[5] & 0x0F) << 8 | head[6]
    rate_code = head[7] & 0x0F
    fps = _FRAME_RATES[rate_code] if rate_code < len(_FRAME_RATES) else 0.0
    end = data.find(b"\x00\x00\x01", at + 8)
    extension = data[end : end + 10] if end >= 0 else b""
    if len(extension) < 10 or extension[3] != EXTENSION or extension[4] >> 4 != _SEQUENCE_EXTENSION:
        if end >= 0 and not _follows_in_mpeg1(data, end):
            raise MediaError("a sequence header whose extension is damaged")
        return Sequence(width, height, fps, False, False, (end if end >= 0 else len(data)) - at)
    width |= ((extension[5] & 1) << 1 | extension[6] >> 7) << 12
    height |= (extension[6] >> 5 & 3) << 12
    fps *= ((extension[9] >> 5 & 3) + 1) / ((extension[9] & 0x1F) + 1)
    return Sequence(width, height, fps, not extension[5] & 0x08, True, end + 10 - at)


def _follows_in_mpeg1(data: bytes, at: int) -> bool:
    """Whether what begins at data[at] may stand behind a sequence header of MPEG-1, as far as there is of it."""
    if at + 3 < len(data) and data[at + 3] not in {USER_DATA, GROUP, PICTURE}:
        return False
    picture = data.find(b"\x00\x00\x01\x00", at)
    return picture < 0 or _picture_extension(data, picture) < 0


def _picture_extension(data: bytes, at: int) -> int:
    """Where the coding extension of the picture at data[at] is, which MPEG-2 has always (6.1.1.9); -1: nowhere."""
    extension = data.find(b"\x00\x00\x01\xb5", at + 8, at + 24)
    found = extension >= 0 and len(data) > extension + 6 and data[extension + 4] >> 4 == _PICTURE_EXTENSION
    return extension if found else -1


def parse_picture(data: bytes, at: int) -> Picture:
    """Reads the picture header whose start code is at data[at]. Raises MediaError for one that is cut off."""
    if at + 6 > len(data):
        raise MediaError("a picture header that is cut off")
    temporal_reference = data[at + 4] << 2 | data[at + 5] >> 6
    extension = _picture_extension(data, at)
    structure = data[extension + 6] & 3 or FRAME if extension >= 0 else FRAME
    return Picture(temporal_reference, data[at + 5] >> 3 & 7, structure)
