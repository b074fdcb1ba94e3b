"""Sample entries: what a file says of a track so that a decoder can be set up, and the same for playlists (RFC 6381).

One function a codec. What they need comes from the track, or from its first sample where that says more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvarr.errors import CannotCarry, MediaError
from tvarr.media.codecs import aac, ac3, av1, h264, hevc, opus, vp9
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.fmp4.nal import LENGTH_BYTES, parameter_sets
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Track

_AVCC_HIGH_PROFILES = frozenset({100, 110, 122, 144, 244})
_VP9_CHROMA = {(1, 1): 1, (1, 0): 2, (0, 0): 3}  # VP Codec ISO Media File Format Binding, chromaSubsampling
_UNSPECIFIED_COLOUR = 2
_AAC_OBJECT_TYPE_INDICATION = 0x40  # 14496-1, table 5: ISO/IEC 14496-3
_AUDIO_STREAM_TYPE = 5 << 2 | 1


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """How one track is described. A file whose entry has the same `key` can hold the track's samples as well."""

    box: bytes  # for the sample description
    key: bytes  # the entry without the parameter sets that may change in band
    codecs: str  # for playlists: RFC 6381
    timescale: int  # units a second
    width: int = 0  # as shown: with the shape of the pixels
    height: int = 0
    sets: tuple[bytes, ...] = ()  # NAL units that the entry holds


def carries(codec: Codec) -> bool:
    """Whether files can hold this codec, as tvarr writes them."""
    return codec in _DESCRIBE


def describe(track: Track, data: bytes = b"", *, in_band: bool = True) -> SampleEntry | None:
    """The entry of a track, of which `data` is a sample, for video a keyframe; None where more must be seen.

    `in_band`: see `mux.Muxer`. Raises CannotCarry, naming the codec.
    """
    if track.codec not in _DESCRIBE:
        raise CannotCarry(f"MP4 cannot carry {track.codec}")
    try:
        return _DESCRIBE[track.codec](track, data, in_band)
    except MediaError:
        return None


# Video


def _visual(kind: bytes, width: int, height: int, aspect: tuple[int, int], *content: bytes) -> bytes:
    """VisualSampleEntry (14496-12, 12.1.3) with the shape of pixels, where these aren't square."""
    if not (0 <= width <= 0xFFFF and 0 <= height <= 0xFFFF):
        raise MediaError(f"pictures of {width}x{height}")
    fixed = struct.pack(">6xH16xHHIII H32xHh", 1, width, height, 72 << 16, 72 << 16, 0, 1, 24, -1)
    shape = (box(b"pasp", struct.pack(">II", *aspect)),) if aspect[0] != aspect[1] else ()
    return box(kind, fixed, *content, *shape)


def _shown_width(width: int, aspect: tuple[int, int]) -> int:
    return min(round(width * aspect[0] / aspect[1]), 0xFFFF)


def _parameter_sets(track: Track, data: bytes) -> dict[int, list[bytes]]:
    """Those of the keyframe where it is complete, else those that the track came with."""
    sets = parameter_sets(track.codec, data) or parameter_sets(track.codec, track.init)
    if not sets:
        raise MediaError("parameter sets are missing")
    return sets


def _sized(units: Sequence[bytes]) -> bytes:
    if any(len(unit) > 0xFFFF for unit in units):
        raise MediaError("a parameter set that is too long")
    return b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)


def _h264(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    sets = _parameter_sets(track, data)
    sps, pps = sets[h264.SPS], sets[h264.PPS]
    head = h264.parse_sps(sps[0])
    profile = bytes((head.profile_idc, head.constraint_flags, head.level_idc))
    counted = bytes((0xE0 | len(sps),)) + _sized(sps) + bytes((len(pps),)) + _sized(pps)
    extension = b""
    if head.profile_idc in _AVCC_HIGH_PROFILES:
        depths = 0xF8 | head.bit_depth_luma - 8 & 7, 0xF8 | head.bit_depth_chroma - 8 & 7
        extension = bytes((0xFC | head.chroma_format_idc & 3, *depths, 0))
    fixed = b"\x01" + profile + bytes((0xFC | LENGTH_BYTES - 1,))
    kind = b"avc3" if in_band else b"avc1"
    entry = _visual(
        kind, head.width, head.height, head.pixel_aspect, box(b"avcC", fixed, counted, extension)
    )  # 14496-15, 5.3.3.1
    key = _visual(kind, head.width, head.height, head.pixel_aspect, fixed, extension) if in_band else entry
    codecs = f"{kind.decode()}.{profile.hex()}"
    shown = _shown_width(head.width, head.pixel_aspect)
    return SampleEntry(entry, key, codecs, TICKS_PER_SECOND, shown, head.height, (*sps, *pps))


def _hevc(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    sets = _parameter_sets(track, data)
    head = hevc.parse_sps(sets[hevc.SPS][0])
    fixed = b"\x01" + head.profile_tier + bytes((head.level_idc, 0xF0, 0, 0xFC, 0xFC | head.chroma_format_idc & 3))
    fixed += bytes((0xF8 | head.bit_depth_luma - 8 & 7, 0xF8 | head.bit_depth_chroma - 8 & 7, 0, 0))
    fixed += bytes((head.temporal_layers << 3 | head.temporal_id_nesting << 2 | LENGTH_BYTES - 1,))
    arrays = b"".join(
        struct.pack(">BH", (not in_band) << 7 | kind, len(units)) + _sized(units) for kind, units in sets.items()
    )
    kind = b"hev1" if in_band else b"hvc1"
    entry = _visual(
        kind, head.width, head.height, head.pixel_aspect, box(b"hvcC", fixed, bytes((len(sets),)), arrays)
    )  # 14496-15, 8.3.3.1
    key = _visual(kind, head.width, head.height, head.pixel_aspect, fixed) if in_band else entry
    every = tuple(unit for units in sets.values() for unit in units)
    shown = _shown_width(head.width, head.pixel_aspect)
    return SampleEntry(entry, key, hevc_codecs(kind.decode(), head), TICKS_PER_SECOND, shown, head.height, every)


def hevc_codecs(kind: str, sps: hevc.Sps) -> str:
    """The codecs string of HEVC (14496-15, E.3): profile, flags backwards, tier and level, constraints."""
    first, flags, constraints = sps.profile_tier[0], sps.profile_tier[1:5], sps.profile_tier[5:].rstrip(b"\x00")
    space = ("", "A", "B", "C")[first >> 6]
    compatible = int(f"{int.from_bytes(flags, 'big'):032b}"[::-1], 2)
    tier = "H" if first & 0x20 else "L"
    parts = [kind, f"{space}{first & 0x1F}", f"{compatible:X}", f"{tier}{sps.level_idc}"]
    return ".".join(parts + [f"{byte:X}" for byte in constraints])


def _av1(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    header = av1.sequence_header(data) or av1.sequence_header(track.init)
    head = av1.parse_sequence(header)
    high, twelve = head.bit_depth > 8, head.bit_depth > 10
    flags = head.tier << 7 | high << 6 | twelve << 5 | head.monochrome << 4
    flags |= head.subsampling_x << 3 | head.subsampling_y << 2 | head.chroma_sample_position
    config = bytes((0x81, head.profile << 5 | head.level_idx, flags, 0))
    entry = _visual(b"av01", head.width, head.height, (1, 1), box(b"av1C", config, header))
    tier = "H" if head.tier else "M"
    codecs = f"av01.{head.profile}.{head.level_idx:02}{tier}.{head.bit_depth:02}"
    return SampleEntry(entry, entry, codecs, TICKS_PER_SECOND, head.width, head.height)


def _vp9(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    head = vp9.parse_keyframe(data)
    level = vp9.level(head.width, head.height, track.fps)
    chroma = _VP9_CHROMA.get((head.subsampling_x, head.subsampling_y), 1)
    formats = head.bit_depth << 4 | chroma << 1 | head.full_range
    config = bytes((head.profile, level, formats, *[_UNSPECIFIED_COLOUR] * 3, 0, 0))
    entry = _visual(b"vp09", head.width, head.height, (1, 1), full_box(b"vpcC", 1, 0, config))
    codecs = f"vp09.{head.profile:02}.{level:02}.{head.bit_depth:02}"
    return SampleEntry(entry, entry, codecs, TICKS_PER_SECOND, head.width, head.height)


# Audio


def _audio(kind: bytes, channels: int, rate: int, *content: bytes) -> bytes:
    """AudioSampleEntry (14496-12, 12.2.3); rates that don't fit in 16 bits are told by the codec only."""
    fixed = struct.pack(">6xH8xHHIHH", 1, channels, 16, 0, rate if rate <= 0xFFFF else 0, 0)
    return box(kind, fixed, *content)


def _sound(box_: bytes, codecs: str, rate: int) -> SampleEntry:
    return SampleEntry(box_, box_, codecs, rate)


def _aac(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    frame = aac.parse_adts(data)
    if frame is not None:
        config, rate, channels = aac.audio_specific_config(data), frame.sample_rate, frame.channels
    elif track.sample_rate in aac.SAMPLE_RATES and track.channels in aac.CHANNELS[1:]:
        rate, channels = track.sample_rate, track.channels
        config = aac.build_config(aac.LOW_COMPLEXITY, rate, channels)
    else:
        raise MediaError("no ADTS header")
    decoder = bytes((_AAC_OBJECT_TYPE_INDICATION, _AUDIO_STREAM_TYPE)) + bytes(11) + _descriptor(5, config)
    es = track.id & 0xFFFF
    stream = _descriptor(3, struct.pack(">HB", es, 0), _descriptor(4, decoder), _descriptor(6, b"\x02"))
    entry = _audio(b"mp4a", channels or 2, rate, full_box(b"esds", 0, 0, stream))
    return _sound(entry, f"mp4a.40.{config[0] >> 3}", rate)


def _descriptor(tag: int, *content: bytes) -> bytes:
    """A descriptor of 14496-1, 7.2.6, below 128 bytes."""
    data = b"".join(content)
    return bytes((tag, len(data))) + data


def _ac3(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    head = ac3.parse_head(data)
    if head is None:
        raise MediaError("no AC-3 frame")
    fields = head.fscod << 22 | head.bsid << 17 | head.bsmod << 14 | head.acmod << 11 | head.lfe << 10
    config = (fields | head.bit_rate_code << 5).to_bytes(3, "big")  # TS 102 366, F.4
    return _sound(_audio(b"ac-3", head.channels, head.sample_rate, box(b"dac3", config)), "ac-3", head.sample_rate)


def _eac3(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    frames = list(_eac3_frames(data))
    independent = list({head.substream: head for head in frames if not head.dependent}.values())
    if not independent:
        raise MediaError("no E-AC-3 frame")
    first = independent[0]
    size = sum(head.size_bytes for head in frames)
    kbps = min(round(size * 8 * first.sample_rate / first.samples / 1000), 0x1FFF)
    config = (kbps << 3 | len(independent) - 1 & 7).to_bytes(2, "big")  # TS 102 366, F.6
    for head in independent:
        dependents = sum(f.dependent and f.substream == head.substream for f in frames) & 15
        fields = head.fscod << 14 | head.bsid << 9 | head.bsmod << 4 | head.acmod << 1 | head.lfe
        config += fields.to_bytes(2, "big") + bytes((dependents << 1,)) + bytes(1 if dependents else 0)
    entry = _audio(b"ec-3", first.channels, first.sample_rate, box(b"dec3", config))
    return _sound(entry, "ec-3", first.sample_rate)


def _eac3_frames(data: bytes) -> Iterable[ac3.Head]:
    at = 0
    while (head := ac3.parse_head(data, at)) is not None:
        yield head
        at += head.size_bytes


def _opus(track: Track, data: bytes, in_band: bool) -> SampleEntry:
    head = track.init if track.init.startswith(b"OpusHead") and len(track.init) >= 19 else opus.head(track.channels)
    channels, pre_skip, rate, gain, family = struct.unpack_from("<BHIhB", head, 9)
    config = struct.pack(">BBHIhB", 0, channels, pre_skip, rate, gain, family) + head[19:]
    return _sound(_audio(b"Opus", channels, opus.SAMPLE_RATE, box(b"dOps", config)), "opus", opus.SAMPLE_RATE)


_DESCRIBE: dict[Codec, Callable[[Track, bytes, bool], SampleEntry]] = {
    Codec.H264: _h264,
    Codec.HEVC: _hevc,
    Codec.AV1: _av1,
    Codec.VP9: _vp9,
    Codec.AAC: _aac,
    Codec.AC3: _ac3,
    Codec.EAC3: _eac3,
    Codec.OPUS: _opus,
}

# A frame's length in samples at the track's rate
_LENGTHS: dict[Codec, Callable[[bytes], int]] = {
    Codec.AAC: lambda data: frame.samples if (frame := aac.parse_adts(data)) else 0,
    Codec.AC3: lambda data: frame.samples if (frame := ac3.parse(data)) else 0,
    Codec.EAC3: lambda data: frame.samples if (frame := ac3.parse(data)) else 0,
    Codec.OPUS: opus.samples,
}


def frame_samples(codec: Codec, data: bytes) -> int:
    """How long an audio frame lasts, in samples at its rate; 0 where that can't be told."""
    return _LENGTHS[codec](data) if codec.kind is Kind.AUDIO else 0
