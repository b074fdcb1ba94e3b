"""DTS (ETSI TS 102 114): the head of a frame."""

from __future__ import annotations

from tvarr.errors import MediaError
from tvarr.media.codecs.bits import BitReader
from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import Codec

HEADER_BYTES = 11
CORE_SYNC = b"\x7f\xfe\x80\x01"  # words of 16 bits, big-endian: as transport streams have it
EXTENSION_SYNC = b"\x64\x58\x20\x25"

_RATES = (0, 8000, 16000, 32000, 0, 0, 11025, 22050, 44100, 0, 0, 12000, 24000, 48000, 96000, 192000)  # by SFREQ
_CHANNELS = (1, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6, 6, 6, 7, 8, 8)  # by AMODE, without the effects channel
_BLOCK_SAMPLES = 32
_LEAST_CORE_BYTES = 96
_WITH_EFFECTS = (1, 2)  # LFF


def parse(data: bytes, at: int = 0) -> AudioFrame | None:
    """The frame at data[at], or None where there is none: a core (5.3), or an extension of one (7.4.1)."""
    head = data[at : at + HEADER_BYTES]
    if len(head) < HEADER_BYTES:
        return None
    try:
        if head.startswith(CORE_SYNC):
            return _core(BitReader(head[4:]))
        return _extension(BitReader(head[4:])) if head.startswith(EXTENSION_SYNC) else None
    except MediaError:
        return None


def _core(bits: BitReader) -> AudioFrame | None:
    bits.skip(1 + 5 + 1)
    samples, size = (bits.u(7) + 1) * _BLOCK_SAMPLES, bits.u(14) + 1
    mode, rate = bits.u(6), _RATES[bits.u(4)]
    bits.skip(5 + 5 + 3 + 1 + 1)
    effects = bits.u(2) in _WITH_EFFECTS
    if size < _LEAST_CORE_BYTES or not rate:
        return None
    channels = _CHANNELS[mode] + effects if mode < len(_CHANNELS) else 0
    return AudioFrame(Codec.DTS, size, samples, rate, channels)


def _extension(bits: BitReader) -> AudioFrame | None:
    """It lasts as long as its core; one without a core tells neither its rate nor how long it lasts here."""
    bits.skip(8 + 2)
    wide = bits.flag()
    head, size = bits.u(12 if wide else 8) + 1, bits.u(20 if wide else 16) + 1
    return AudioFrame(Codec.DTS, size, 0, 0, 0, dependent=True) if HEADER_BYTES <= head <= size else None
