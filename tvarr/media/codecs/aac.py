"""AAC in its two streaming formats: ADTS (ISO/IEC 13818-7, 6.2) and LOAS/LATM (ISO/IEC 14496-3, 1.7)."""

from __future__ import annotations

from dataclasses import dataclass

from tvarr.errors import MediaError
from tvarr.media.codecs.bits import BitReader
from tvarr.media.codecs.frames import AudioFrame
from tvarr.media.model import Codec

SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)  # by channel_configuration; 0: told by the payload

ADTS_HEADER_BYTES = 7
MAX_ADTS_BYTES = (1 << 13) - 1  # of a frame with its header
_VARIABLE_RATE = 0x7FF  # adts_buffer_fullness
LOAS_HEADER_BYTES = 3
LOW_COMPLEXITY = 2  # audio object type (14496-3, table 1.17)
_SAMPLES = 1024
_SBR, _PS, _ESCAPE = 5, 29, 31  # audio object types
_LOAS_PROBE_BYTES = 64


def parse_adts(data: bytes, at: int = 0) -> AudioFrame | None:
    """The ADTS header at data[at], or None where there is none."""
    if at + ADTS_HEADER_BYTES > len(data) or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return None
    rate_index = data[at + 2] >> 2 & 0x0F
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    if rate_index >= len(SAMPLE_RATES) or size < ADTS_HEADER_BYTES:
        return None
    channels = CHANNELS[(data[at + 2] & 1) << 2 | data[at + 3] >> 6]
    return AudioFrame(Codec.AAC, size, _SAMPLES * ((data[at + 6] & 3) + 1), SAMPLE_RATES[rate_index], channels)


def adts_payload(frame: bytes) -> bytes:
    """The raw AAC of an ADTS frame: without its header and CRC."""
    return frame[7 if frame[1] & 1 else 9 :]


def audio_specific_config(adts: bytes) -> bytes:
    """The AudioSpecificConfig (14496-3, 1.6.2.1) that says what an ADTS header says, 2 bytes."""
    object_type = (adts[2] >> 6) + 1
    rate_index = adts[2] >> 2 & 0x0F
    channels = (adts[2] & 1) << 2 | adts[3] >> 6
    return (object_type << 11 | rate_index << 7 | channels << 3).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Config:
    """The head of an AudioSpecificConfig: of the core where the stream is SBR's or PS's."""

    object_type: int
    sample_rate: int
    channels: int  # 0: told by the payload


def parse_config(data: bytes) -> Config:
    """Reads an AudioSpecificConfig (1.6.2.1). Raises MediaError for one that is cut off or reserved."""
    bits = BitReader(data)
    object_type, rate, channels = _object_type(bits), _sample_rate(bits), bits.u(4)
    if object_type in (_SBR, _PS):
        _sample_rate(bits)
        object_type = _object_type(bits)
    return Config(object_type, rate, CHANNELS[channels] if channels < len(CHANNELS) else 0)


def adts_header(config: Config) -> int:
    """An ADTS header for frames of this kind as a number of 7 bytes; their size is added, 13 bits behind.

    Raises MediaError for a rate or channels that ADTS has no number for.
    """
    if config.sample_rate not in SAMPLE_RATES or config.channels not in CHANNELS:
        raise MediaError(f"ADTS has no number for {config.channels} channels at {config.sample_rate} Hz")
    rate, channels = SAMPLE_RATES.index(config.sample_rate), CHANNELS.index(config.channels)
    return 0xFFF1 << 40 | config.object_type - 1 << 38 | rate << 34 | channels << 30 | _VARIABLE_RATE << 2


def build_config(object_type: int, sample_rate: int, channels: int) -> bytes:
    """The AudioSpecificConfig, 2 bytes, for a rate of SAMPLE_RATES and channels of CHANNELS."""
    return (object_type << 11 | SAMPLE_RATES.index(sample_rate) << 7 | CHANNELS.index(channels) << 3).to_bytes(2, "big")


def parse_loas(data: bytes, at: int = 0) -> AudioFrame | None:
    """The LOAS header at data[at], or None where there is none.

    Rate and channels are 0 in frames that refer to an earlier StreamMuxConfig, and 1024 samples are assumed there.
    """
    if at + LOAS_HEADER_BYTES > len(data) or data[at] != 0x56 or data[at + 1] & 0xE0 != 0xE0:
        return None
    size = LOAS_HEADER_BYTES + ((data[at + 1] & 0x1F) << 8 | data[at + 2])
    if size == LOAS_HEADER_BYTES:
        return None
    head = data[at + LOAS_HEADER_BYTES : at + min(size, _LOAS_PROBE_BYTES)]
    try:
        subframes, rate, channels, samples = _stream_mux_config(BitReader(head))
    except MediaError:
        subframes, rate, channels, samples = 1, 0, 0, _SAMPLES
    return AudioFrame(Codec.AAC_LATM, size, subframes * samples, rate, channels)


def _stream_mux_config(bits: BitReader) -> tuple[int, int, int, int]:
    """Subframes, core sample rate, channels and samples a subframe (1.7.3.1). MediaError where it is not repeated."""
    if bits.flag():
        raise MediaError("the configuration is that of an earlier frame")
    version = bits.u(1)
    if version and bits.flag():
        raise MediaError("audioMuxVersionA is reserved")
    if version:
        _latm_value(bits)
    bits.skip(1)
    subframes = bits.u(6) + 1
    bits.skip(4 + 3)
    if version:
        _latm_value(bits)
    object_type, rate, channels = _object_type(bits), _sample_rate(bits), CHANNELS[min(bits.u(4), 7)]
    if object_type in (_SBR, _PS):
        _sample_rate(bits)
        _object_type(bits)
    return subframes, rate, channels, 960 if bits.flag() else _SAMPLES


def _latm_value(bits: BitReader) -> int:
    return bits.u(8 * (bits.u(2) + 1))


def _object_type(bits: BitReader) -> int:
    object_type = bits.u(5)
    return 32 + bits.u(6) if object_type == _ESCAPE else object_type


def _sample_rate(bits: BitReader) -> int:
    index = bits.u(4)
    if index == 15:
        return bits.u(24)
    if index >= len(SAMPLE_RATES):
        raise MediaError("a reserved sampling frequency")
    return SAMPLE_RATES[index]
