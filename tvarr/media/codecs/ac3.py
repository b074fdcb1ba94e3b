"""AC-3 and E-AC-3 (ETSI TS 102 366): the head of a frame."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.errors import MediaError
from tvarr.media.codecs.bits import BitReader
from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import Codec

HEADER_BYTES = 7
SYNC = b"\x0b\x77"

_RATES = (48000, 44100, 32000)
_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_CHANNELS = (2, 1, 2, 3, 3, 4, 4, 5)  # by acmod, without the effects channel
_BLOCKS = (1, 2, 3, 6)
_BLOCK_SAMPLES = 256
_DEPENDENT = 1  # strmtyp
_LAST_AC3_BSID, _LAST_BSID = 10, 16


@dataclass(frozen=True, slots=True)
class Head:
    """The fields that an MP4 sample entry needs (TS 102 366, annex F)."""

    bsid: int
    fscod: int
    bsmod: int
    acmod: int
    lfe: bool
    bit_rate_code: int  # AC-3 only
    size_bytes: int
    samples: int
    sample_rate: int
    dependent: bool  # E-AC-3: a substream that extends the frame before it
    substream: int

    @property
    def channels(self) -> int:
        return channels(self.acmod, self.lfe)


def channels(acmod: int, lfe: bool) -> int:
    """With the effects channel (4.4.2.3)."""
    return _CHANNELS[acmod] + lfe


def sample_rate(fscod: int) -> int:
    """In Hz (4.4.1.3); 0 for the code that says that it is told elsewhere."""
    return _RATES[fscod] if fscod < len(_RATES) else 0


def parse_head(data: bytes, at: int = 0) -> Head | None:
    """The syncframe at data[at], or None where there is none (AC-3: 4.3; E-AC-3: E.1.2)."""
    if data[at : at + 2] != SYNC or at + HEADER_BYTES > len(data):
        return None
    bsid = data[at + 5] >> 3
    if bsid <= _LAST_AC3_BSID:
        return _ac3(data, at, bsid)
    return _eac3(data, at, bsid) if bsid <= _LAST_BSID else None


def _ac3(data: bytes, at: int, bsid: int) -> Head | None:
    fscod, size_code = data[at + 4] >> 6, data[at + 4] & 0x3F
    if fscod == 3 or size_code >= 2 * len(_KBPS):
        return None
    rate, kbps = _RATES[fscod], _KBPS[size_code >> 1]
    words = kbps * 96_000 // rate + (size_code & 1 if fscod == 1 else 0)
    bits = BitReader(data[at + 5 : at + HEADER_BYTES])
    bits.skip(5)
    bsmod, acmod = bits.u(3), bits.u(3)
    if acmod & 1 and acmod != 1:
        bits.skip(2)
    if acmod & 4:
        bits.skip(2)
    if acmod == 2:
        bits.skip(2)
    rate >>= max(bsid - 8, 0)
    return Head(bsid, fscod, bsmod, acmod, bits.flag(), size_code >> 1, 2 * words, 6 * _BLOCK_SAMPLES, rate, False, 0)


def _eac3(data: bytes, at: int, bsid: int) -> Head | None:
    stream_type, substream = data[at + 2] >> 6, data[at + 2] >> 3 & 7
    size = 2 * (((data[at + 2] & 7) << 8 | data[at + 3]) + 1)
    fscod, code = data[at + 4] >> 6, data[at + 4] >> 4 & 3
    if stream_type == 3 or size < HEADER_BYTES or (fscod == 3 and code == 3):
        return None
    rate, blocks = (_RATES[code] // 2, 6) if fscod == 3 else (_RATES[fscod], _BLOCKS[code])
    return Head(
        bsid=bsid,
        fscod=fscod,
        bsmod=0,
        acmod=data[at + 4] >> 1 & 7,
        lfe=bool(data[at + 4] & 1),
        bit_rate_code=0,
        size_bytes=size,
        samples=blocks * _BLOCK_SAMPLES,
        sample_rate=rate,
        dependent=stream_type == _DEPENDENT,
        substream=substream,
    )


def parse(data: bytes, at: int = 0) -> AudioFrame | None:
    """As `parse_head`, in the form that all audio parsers share."""
    try:
        head = parse_head(data, at)
    except MediaError:
        return None
    if head is None:
        return None
    codec = Codec.AC3 if head.bsid <= _LAST_AC3_BSID else Codec.EAC3
    extra = head.dependent or head.substream > 0
    return AudioFrame(codec, head.size_bytes, head.samples, head.sample_rate, head.channels, extra)
