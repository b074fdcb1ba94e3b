"""Opus (RFC 6716), its identification header (RFC 7845, 5.1) and its packing in MPEG-TS.

The packing is that of the draft "ETSI TS Opus 0.1.3" (opus-codec.org): a control header that tells the size before
each packet, and a descriptor in the PMT that tells the channels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

SAMPLE_RATE = 48_000  # Opus decodes at this rate whatever was coded
PRE_SKIP = 312  # 6.5 ms: what libopus needs, used where the stream doesn't say
MAX_CHANNELS = 8
_PREFIX = 0x3FF  # the first 11 bits of a control header

# Streams, coupled streams and mapping of 1 to 8 channels in mapping family 1 (RFC 7845, 5.1.1.2)
_LAYOUTS = (
    (1, 0, b"\x00"),
    (1, 1, b"\x00\x01"),
    (2, 1, b"\x00\x02\x01"),
    (2, 2, b"\x00\x01\x02\x03"),
    (3, 2, b"\x00\x04\x01\x02\x03"),
    (4, 2, b"\x00\x04\x01\x02\x03\x05"),
    (4, 3, b"\x00\x04\x01\x02\x03\x05\x06"),
    (5, 3, b"\x00\x06\x01\x02\x03\x04\x05\x07"),
)
_SILK_SAMPLES = (480, 960, 1920, 2880)
_HYBRID_SAMPLES = (480, 960)
_CELT_SAMPLES = (120, 240, 480, 960)


class ControlHeader(NamedTuple):
    """One header of the MPEG-TS packing: the Opus packet is data[start:end]."""

    start: int
    end: int


def head(channels: int, pre_skip: int = PRE_SKIP) -> bytes:
    """OpusHead for 1 to 8 channels in Vorbis order."""
    channels = min(max(channels, 1), MAX_CHANNELS)
    family = 0 if channels <= 2 else 1
    data = b"OpusHead" + struct.pack("<BBHIhB", 1, channels, pre_skip, SAMPLE_RATE, 0, family)
    streams, coupled, mapping = _LAYOUTS[channels - 1]
    return data + bytes((streams, coupled)) + mapping if family else data


def samples(packet: bytes) -> int:
    """How many samples at 48 kHz a packet lasts, by its TOC byte (RFC 6716, 3.1); 0 for an empty one."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        size = _SILK_SAMPLES[config & 3]
    elif config < 16:
        size = _HYBRID_SAMPLES[config & 1]
    else:
        size = _CELT_SAMPLES[config & 3]
    if code == 3:
        return size * (packet[1] & 0x3F) if len(packet) > 1 else 0
    return size if code == 0 else 2 * size


def control_header(packet_bytes: int) -> bytes:
    """The header for an Opus packet of this size, without trimming."""
    count, rest = divmod(packet_bytes, 255)
    return (_PREFIX << 5).to_bytes(2, "big") + b"\xff" * count + bytes((rest,))


def parse_control_header(data: bytes, at: int = 0) -> ControlHeader | None:
    """The control header at data[at] and the packet that it announces, which may be cut off; None if there is none."""
    if at + 3 > len(data) or (data[at] << 8 | data[at + 1]) >> 5 != _PREFIX:
        return None
    flags = data[at + 1]
    at += 2
    size = 0
    while at < len(data) and data[at] == 0xFF:
        size, at = size + 255, at + 1
    size += data[at] if at < len(data) else 0
    at += 1
    at += 2 * (flags >> 4 & 1) + 2 * (flags >> 3 & 1)  # start and end trim
    if flags >> 2 & 1:  # control extension
        at += 1 + (data[at] if at < len(data) else 0)
    return ControlHeader(at, at + size)
