"""The pictures of an MPEG-TS file (ISO/IEC 13818-1), as plain as it goes; the examples beside it read with this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

PACKET = 188
TICKS = 90_000  # a second


class Picture(NamedTuple):
    pts: int  # when it is shown and when it is decoded: ticks of 90 kHz that don't wrap
    dts: int
    data: bytes  # an access unit in Annex B
    keyframe: bool


def pictures(file: BinaryIO) -> Iterator[Picture]:
    """Those of the first video track. Each PES packet has to hold one picture, as encoders write it."""
    video, unit, keyframe, dts = -1, bytearray(), False, 0
    while len(packet := file.read(PACKET)) == PACKET:
        pid, payload, random_access = (packet[1] & 0x1F) << 8 | packet[2], 4, False
        if packet[3] & 0x20:  # an adaptation field
            payload += 1 + packet[4]
            random_access = packet[4] > 0 and bool(packet[5] & 0x40)
        if packet[1] & 0x40 and packet[payload : payload + 3] == b"\0\0\1" and packet[payload + 3] & 0xF0 == 0xE0:
            video = pid if video < 0 else video
            if pid == video and unit:
                yield (picture := _picture(unit, keyframe, dts))
                dts = picture.dts
            if pid == video:
                unit, keyframe = bytearray(), random_access
        if pid == video and packet[3] & 0x10:
            unit += packet[payload:]
    if unit:
        yield _picture(unit, keyframe, dts)


def _picture(pes: bytearray, keyframe: bool, previous_dts: int) -> Picture:
    """Takes the header off (2.4.3.6), and puts the 33-bit time stamps where they are nearest to the one before."""
    pts = _time(pes[9:14])
    dts = _time(pes[14:19]) if pes[7] & 0x40 else pts
    reorder = (pts - dts) % (1 << 33)
    dts = previous_dts + (dts - previous_dts + (1 << 32)) % (1 << 33) - (1 << 32) if previous_dts else dts
    return Picture(dts + reorder, dts, bytes(pes[9 + pes[8] :]), keyframe)


def _time(field: bytearray) -> int:
    return (field[0] >> 1 & 7) << 30 | field[1] << 22 | (field[2] >> 1) << 15 | field[3] << 7 | field[4] >> 1
