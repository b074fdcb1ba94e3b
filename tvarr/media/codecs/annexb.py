"""NAL units in a byte stream (ITU-T H.264 and H.265, annex B)."""

from __future__ import annotations

START_CODE = b"\x00\x00\x00\x01"


def nal_units(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream, without start codes and the zero bytes after a unit."""
    units = []
    at = data.find(b"\x00\x00\x01")
    while at >= 0:
        end = data.find(b"\x00\x00\x01", at + 3)
        unit = (data[at + 3 : end] if end >= 0 else data[at + 3 :]).rstrip(b"\x00")
        if unit:
            units.append(unit)
        at = end
    return units


def nal_at(data: bytes, at: int) -> bytes:
    """The NAL unit whose first byte is data[at], up to the next start code."""
    end = data.find(b"\x00\x00\x01", at)
    return (data[at:end] if end >= 0 else data[at:]).rstrip(b"\x00")


def unescaped(nal: bytes) -> bytes:
    """Without the emulation prevention bytes (7.4.1): 00 00 03 becomes 00 00."""
    return nal.replace(b"\x00\x00\x03", b"\x00\x00")


def joined(units: list[bytes]) -> bytes:
    """A byte stream of these units."""
    return b"".join(START_CODE + unit for unit in units)
