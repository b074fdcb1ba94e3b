"""Reading sample entries: what a file says of a track, and how its samples become what tvarr calls samples."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tvarr.errors import MediaError
from tvarr.media.codecs import aac, ac3, av1, h264, hevc, opus
from tvarr.media.codecs.annexb import joined, nal_units
from tvarr.media.fmp4.boxes import Box, children, find, name
from tvarr.media.fmp4.nal import FORMATS, has_sps, parameter_sets, to_annexb
from tvarr.media.model import Codec, Track

Convert = Callable[[bytes, bool], bytes]
"""A sample of the file and whether it is a keyframe -> the sample. Raises MediaError for one that is damaged."""

MAX_CONFIG_BYTES = 1 << 16  # of a decoder configuration: parameter sets are copied into keyframes

_VISUAL_BYTES, _AUDIO_BYTES = 78, 28  # of a sample entry before its boxes (14496-12, 12.1.3 and 12.2.3)
_QUICKTIME_AUDIO_BYTES = {1: 16, 2: 36}  # more, by the version of QuickTime's sound description
_ENCRYPTED = (b"encv", b"enca")
_OBJECT_TYPES = {  # objectTypeIndication (14496-1, table 5; mp4ra.org)
    0x40: Codec.AAC,
    **dict.fromkeys((0x66, 0x67, 0x68), Codec.AAC),
    **dict.fromkeys((0x69, 0x6B), Codec.MP3),
    **dict.fromkeys((0x60, 0x61, 0x62, 0x63, 0x64, 0x65), Codec.MPEG2VIDEO),
    0x6A: Codec.MPEG1VIDEO,
    0xA5: Codec.AC3,
    0xA6: Codec.EAC3,
}
_ADTS_OBJECT_TYPES = range(1, 5)  # what an ADTS header can name


def _as_it_is(data: bytes, keyframe: bool) -> bytes:
    return data


@dataclass(frozen=True, slots=True)
class Description:
    """One sample entry. `track` has no id and no language yet."""

    track: Track
    convert: Convert = field(default=_as_it_is)


def read_entry(data: bytes, entry: Box) -> Description:
    """Reads a sample entry. Raises MediaError, naming it, where tvarr has no name for the codec or it is damaged."""
    kind = entry.kind
    if kind in _ENCRYPTED:
        video = kind == b"encv"
        inner = Box(kind, _boxes_at(data, entry, video), entry.end)
        original = find(data, inner, b"sinf", b"frma")
        kind = bytes(data[original.start : original.start + 4]) if original else b""
    reader = _READERS.get(kind)
    if reader is None:
        raise MediaError(name(kind or entry.kind))
    read, video = reader
    description = read(data, Box(kind, _boxes_at(data, entry, video), entry.end))
    track = description.track
    if not track.width and video:
        width, height = struct.unpack_from(">HH", data, entry.start + 24)
        track = replace(track, width=width, height=height)
    if not track.sample_rate and not video:
        channels, rate = struct.unpack_from(">H6xI", data, entry.start + 16)
        track = replace(track, sample_rate=rate >> 16, channels=channels)
    return replace(description, track=replace(track, scrambled=entry.kind in _ENCRYPTED))


def _boxes_at(data: bytes, entry: Box, video: bool) -> int:
    """Where the boxes of an entry begin."""
    start = entry.start + (_VISUAL_BYTES if video else _AUDIO_BYTES)
    if start > entry.end:
        raise MediaError(f"{name(entry.kind)}, cut off")
    if not video:
        start += _QUICKTIME_AUDIO_BYTES.get(int.from_bytes(data[entry.start + 8 : entry.start + 10], "big"), 0)
    return start


def _config(data: bytes, entry: Box, *path: bytes, least: int) -> bytes:
    found = find(data, entry, *path)
    content = bytes(data[found.start : found.end]) if found is not None else b""
    if not least <= len(content) <= MAX_CONFIG_BYTES:
        raise MediaError(f"{name(entry.kind)} with {len(content)} bytes of {name(path[-1])}")
    return content


# Video


def _h264(data: bytes, entry: Box) -> Description:
    config = _config(data, entry, b"avcC", least=7)
    sets, at = [], 5
    for mask in (0x1F, 0xFF):
        count, at = (config[at] & mask if at < len(config) else 0), at + 1
        for _ in range(count):
            unit, at = _sized(config, at)
            sets.append(unit)
    init = joined([unit for unit in sets if unit])
    track = retold(Track(0, Codec.H264), init)
    return Description(track, _nal_converter(Codec.H264, (config[4] & 3) + 1, init))


def _hevc(data: bytes, entry: Box) -> Description:
    config = _config(data, entry, b"hvcC", least=23)
    sets, at = [], 23
    for _ in range(config[22]):
        count, at = int.from_bytes(config[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            unit, at = _sized(config, at)
            sets.append(unit)
    sets = [unit for unit in sets if len(unit) > 2 and unit[0] in FORMATS[Codec.HEVC].sets]
    init = joined(sets)
    track = retold(Track(0, Codec.HEVC), init)
    return Description(track, _nal_converter(Codec.HEVC, (config[21] & 3) + 1, init))


def retold(track: Track, data: bytes) -> Track:
    """The track as the parameter sets in an access unit say, or as it was where they say nothing new.

    Another PPS alone makes no other track: some encoders write one of its own to each picture.
    """
    sets = parameter_sets(track.codec, data)
    *others, _ = sets.values() or [[], []]
    if all(unit in track.init for same in others for unit in same):
        return track
    first_sps = others[-1][0]
    try:
        s = h264.parse_sps(first_sps) if track.codec is Codec.H264 else hevc.parse_sps(first_sps)
    except MediaError:
        return track
    init = joined([unit for same in sets.values() for unit in same])
    return replace(track, width=s.width, height=s.height, fps=s.fps, interlaced=s.interlaced, init=init)


def _sized(config: bytes, at: int) -> tuple[bytes, int]:
    """The NAL unit behind a length of 16 bits, and where it ends."""
    size = int.from_bytes(config[at : at + 2], "big")
    end = at + 2 + size
    if at + 2 > len(config) or end > len(config):
        raise MediaError("a decoder configuration that is cut off")
    return config[at + 2 : end], end


def _nal_converter(codec: Codec, length_bytes: int, init: bytes) -> Convert:
    """Annex B, with parameter sets in keyframes: behind the delimiter, if there is one."""
    delimiters = FORMATS[codec].delimiters

    def convert(data: bytes, keyframe: bool) -> bytes:
        unit = to_annexb(data, length_bytes)
        if keyframe and init and not has_sps(codec, unit):
            at = 0
            if len(unit) > 4 and unit[4] in delimiters:
                at = 4 + len(nal_units(bytes(unit[:16]))[0])
            unit[at:at] = init
        return bytes(unit)

    return convert


def _av1(data: bytes, entry: Box) -> Description:
    config = _config(data, entry, b"av1C", least=4)
    header = av1.sequence_header(config[4:])
    track = Track(0, Codec.AV1, init=header)
    if header:
        s = av1.parse_sequence(header)
        track = replace(track, width=s.width, height=s.height, fps=s.fps)

    def convert(data: bytes, keyframe: bool) -> bytes:
        return header + data if keyframe and header and not av1.sequence_header(data) else data

    return Description(track, convert)


def _plain(codec: Codec) -> Callable[[bytes, Box], Description]:
    return lambda data, entry: Description(Track(0, codec))


# Audio


def _mpeg4(data: bytes, entry: Box) -> Description:
    """mp4a and mp4v: an elementary stream descriptor says what it is (14496-14, 5.6)."""
    path = (b"wave", b"esds") if find(data, entry, b"esds") is None else (b"esds",)
    kind, specific = _decoder_config(_config(data, entry, *path, least=5)[4:])
    codec = _OBJECT_TYPES.get(kind)
    if codec is None or (codec is Codec.AAC and len(specific) < 2):
        raise MediaError(f"{name(entry.kind)}, object type {kind:#x}")
    if codec is not Codec.AAC:
        return Description(Track(0, codec, init=specific if codec in (Codec.MPEG2VIDEO, Codec.MPEG1VIDEO) else b""))
    config = aac.parse_config(specific)
    if config.object_type not in _ADTS_OBJECT_TYPES or not config.channels:
        raise MediaError(f"AAC that ADTS has no header for (object type {config.object_type})")
    header = aac.adts_header(config)

    def convert(data: bytes, keyframe: bool) -> bytes:
        size = aac.ADTS_HEADER_BYTES + len(data)
        if size > aac.MAX_ADTS_BYTES:
            raise MediaError("an AAC frame that is too long for ADTS")
        return (header | size << 13).to_bytes(aac.ADTS_HEADER_BYTES, "big") + data

    return Description(Track(0, Codec.AAC, sample_rate=config.sample_rate, channels=config.channels), convert)


def _decoder_config(data: bytes) -> tuple[int, bytes]:
    """objectTypeIndication and DecoderSpecificInfo of an ES_Descriptor (14496-1, 7.2.6.5)."""
    tag, at, end = _descriptor(data, 0)
    if tag != 3 or at + 3 > end:
        raise MediaError("esds without a stream")
    flags = data[at + 2]
    at += 3 + 2 * bool(flags & 0x80)
    if flags & 0x40 and at < end:
        at += 1 + data[at]
    at += 2 * bool(flags & 0x20)
    tag, at, end = _descriptor(data, at)
    if tag != 4 or at + 13 > end:
        raise MediaError("esds without a decoder configuration")
    kind, at = data[at], at + 13
    if at < end:
        tag, start, stop = _descriptor(data, at)
        if tag == 5:
            return kind, data[start:stop]
    return kind, b""


def _descriptor(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the descriptor at data[at]; its size takes up to four bytes."""
    tag, size, start = data[at] if at < len(data) else 0, 0, at + 1
    for start in range(at + 2, at + 6):
        byte = data[start - 1] if start <= len(data) else 0
        size = size << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return tag, start, min(start + size, len(data))


def _ac3(data: bytes, entry: Box) -> Description:
    bits = int.from_bytes(_config(data, entry, b"dac3", least=3)[:3], "big")
    channels = ac3.channels(bits >> 11 & 7, bool(bits >> 10 & 1))
    return Description(Track(0, Codec.AC3, sample_rate=ac3.sample_rate(bits >> 22), channels=channels))


def _eac3(data: bytes, entry: Box) -> Description:
    bits = int.from_bytes(_config(data, entry, b"dec3", least=5)[2:5], "big") >> 8
    channels = ac3.channels(bits >> 1 & 7, bool(bits & 1))
    return Description(Track(0, Codec.EAC3, sample_rate=ac3.sample_rate(bits >> 14), channels=channels))


def _opus(data: bytes, entry: Box) -> Description:
    config = _config(data, entry, b"dOps", least=11)
    _, channels, pre_skip, rate, gain, family = struct.unpack_from(">BBHIhB", config)
    init = b"OpusHead" + struct.pack("<BBHIhB", 1, channels, pre_skip, rate, gain, family) + config[11:]
    return Description(Track(0, Codec.OPUS, sample_rate=opus.SAMPLE_RATE, channels=channels, init=init))


_READERS: dict[bytes, tuple[Callable[[bytes, Box], Description], bool]] = {  # and whether it is video
    **dict.fromkeys((b"avc1", b"avc2", b"avc3", b"avc4", b"dva1", b"dvav"), (_h264, True)),
    **dict.fromkeys((b"hvc1", b"hev1", b"dvh1", b"dvhe"), (_hevc, True)),
    b"av01": (_av1, True),
    b"vp09": (_plain(Codec.VP9), True),
    b"mp4v": (_mpeg4, True),
    b"mp4a": (_mpeg4, False),
    b".mp3": (_plain(Codec.MP3), False),
    b"ac-3": (_ac3, False),
    b"ec-3": (_eac3, False),
    b"Opus": (_opus, False),
}


def entries_of(data: bytes, stsd: Box) -> Iterator[Box]:
    """The sample entries of a sample description box."""
    return children(data, min(stsd.start + 8, stsd.end), stsd.end)
