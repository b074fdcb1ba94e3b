"""MPEG-1 and MPEG-2 audio, layers I to III (ISO/IEC 11172-3, 2.4.2.3; 13818-3)."""

from __future__ import annotations

from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import Codec

HEADER_BYTES = 4

_V1_RATES = (44100, 48000, 32000)
_LAYERS = {3: Codec.MP1, 2: Codec.MP2, 1: Codec.MP3}  # by the two bits of the header
_KBPS_V1 = {
    Codec.MP1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    Codec.MP2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    Codec.MP3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_KBPS_V2_LAYER1 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_KBPS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def parse(data: bytes, at: int = 0) -> AudioFrame | None:
    """The header at data[at], or None where there is none, or one of free format, whose size nothing tells."""
    if at + HEADER_BYTES > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, _LAYERS.get(data[at + 1] >> 1 & 3)  # version 3: 1, 2: 2, 0: 2.5
    kbps_index, rate_index = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer is None or kbps_index in (0, 15) or rate_index == 3:
        return None
    if version == 3:
        kbps, rate = _KBPS_V1[layer][kbps_index], _V1_RATES[rate_index]
    else:
        kbps = (_KBPS_V2_LAYER1 if layer is Codec.MP1 else _KBPS_V2)[kbps_index]
        rate = _V1_RATES[rate_index] // (2 if version == 2 else 4)
    padding = data[at + 2] >> 1 & 1
    if layer is Codec.MP1:
        samples, size = 384, 4 * (12_000 * kbps // rate + padding)
    else:
        samples = 576 if layer is Codec.MP3 and version != 3 else 1152
        size = samples * 125 * kbps // rate + padding
    return AudioFrame(layer, size, samples, rate, 1 if data[at + 3] >> 6 == 3 else 2)
