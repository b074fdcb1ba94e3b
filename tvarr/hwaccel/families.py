"""Families of encoders: one row each, with the encoders' names, what they need of the host and how one is tried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tvarr.cluster.model import Encoder, Family
from tvarr.ffmpeg.families import Flags, flags_of
from tvarr.media.model import Codec, Kind


class Needs(StrEnum):
    """What a family encodes on. Each of these is looked for before anything is tried."""

    NOTHING = "nothing"
    NVIDIA = "nvidia"  # a GPU that NVML lists
    RENDER = "render"  # a render node of another driver than NVIDIA's, which has no VAAPI encoder
    INTEL = "intel"  # an Intel GPU with a render node
    AMD = "amd"  # an AMD GPU with a render node
    V4L2 = "v4l2"  # a /dev/video node
    MPP = "mpp"  # Rockchip's /dev/mpp_service
    MACOS = "macos"
    ONE_GPU = "one_gpu"  # exactly one GPU of any make


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to try an encoder; `option` is kept in `Encoder.options` where it was this way that worked."""

    option: str = ""
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family. How its device is made and pictures get there stands in `tvarr.ffmpeg.families`."""

    family: Family
    title: str  # for people
    needs: Needs
    encoders: Mapping[Codec, str]  # ffmpeg's name of the encoder of each codec
    attempts: tuple[Attempt, ...] = (Attempt(),)  # in this order, until one works
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by encoder: what makes it fast or quiet


def _names(suffix: str, *codecs: Codec) -> dict[Codec, str]:
    prefixes = {Codec.MPEG2VIDEO: "mpeg2"}
    return {codec: f"{prefixes.get(codec, codec.value)}_{suffix}" for codec in codecs}


_MODERN = (Codec.H264, Codec.HEVC, Codec.AV1)

FAMILIES: tuple[FamilyRow, ...] = (
    FamilyRow(
        Family.NVENC,
        "NVIDIA NVENC",
        Needs.NVIDIA,
        _names("nvenc", *_MODERN),
        (Attempt(arguments=("-preset", "p1")),),
    ),
    FamilyRow(Family.QSV, "Intel Quick Sync", Needs.INTEL, _names("qsv", *_MODERN, Codec.VP9, Codec.MPEG2VIDEO)),
    FamilyRow(
        Family.VAAPI,
        "VAAPI",
        Needs.RENDER,
        _names("vaapi", *_MODERN, Codec.VP9, Codec.MPEG2VIDEO),
        (Attempt(), Attempt("low_power", ("-low_power", "1"))),
    ),
    FamilyRow(Family.AMF, "AMD AMF", Needs.AMD, _names("amf", *_MODERN)),
    FamilyRow(
        Family.VIDEOTOOLBOX,
        "Apple VideoToolbox",
        Needs.MACOS,
        _names("videotoolbox", Codec.H264, Codec.HEVC),
        (Attempt(arguments=("-allow_sw", "0")),),
    ),
    FamilyRow(Family.RKMPP, "Rockchip MPP", Needs.MPP, _names("rkmpp", Codec.H264, Codec.HEVC)),
    FamilyRow(Family.V4L2M2M, "V4L2 memory to memory", Needs.V4L2, _names("v4l2m2m", Codec.H264, Codec.HEVC)),
    FamilyRow(Family.VULKAN, "Vulkan Video", Needs.ONE_GPU, _names("vulkan", *_MODERN)),
    FamilyRow(
        Family.SOFTWARE,
        "Software",
        Needs.NOTHING,
        {
            Codec.H264: "libx264",
            Codec.HEVC: "libx265",
            Codec.AV1: "libsvtav1",
            Codec.VP9: "libvpx-vp9",
            Codec.MPEG2VIDEO: "mpeg2video",
            Codec.AAC: "aac",
            Codec.AC3: "ac3",
            Codec.EAC3: "eac3",
            Codec.OPUS: "libopus",
            Codec.MP2: "mp2",
            Codec.MP3: "libmp3lame",
        },
        arguments={
            "libx264": ("-preset", "ultrafast"),
            "libx265": ("-preset", "ultrafast", "-x265-params", "log-level=error"),
            "libsvtav1": ("-preset", "12"),
            "libvpx-vp9": ("-cpu-used", "8"),
        },
    ),
    # A second encoder of one codec, for builds whose first is missing or of no use.
    FamilyRow(
        Family.SOFTWARE,
        "Software",
        Needs.NOTHING,
        {Codec.AV1: "libaom-av1"},
        arguments={"libaom-av1": ("-cpu-used", "8")},
    ),
)
"""Best first: the order in which encoders are listed."""

WILFUL = frozenset({"libsvtav1", "libaom-av1", "libvpx-vp9"})
"""Encoders of which some versions put keyframes where they like; their trial looks for one that was forced."""

_VIDEO_SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25")
_AUDIO_SOURCE = ("-f", "lavfi", "-i", "sine=r=48000:d=0.2")
_FORCED_PICTURE = 5
_FORCED_KEYFRAME = ("-g", "9999", "-force_key_frames", f"expr:gte(n,n_forced*{_FORCED_PICTURE})")
_PACKET = re.compile(r"^0, *-?\d+, *-?\d+,.*?(?:, F=0x([0-9A-F]+).*)?$", re.MULTILINE)  # without flags: a keyframe


def trial_arguments(row: FamilyRow, encoder: Encoder, attempt: Attempt, node: str = "") -> tuple[str, ...]:
    """The arguments of one trial encode: ten pictures of a test pattern, or 0.2 s of a tone, into nothing.

    The device is made and the pictures are brought there with the flags of a live encode. A `WILFUL` encoder gets all
    of a live encode's flags, has to make a keyframe of the sixth picture, and its packets are listed on stdout.
    """
    flags = flags_of(encoder) or Flags(formats=("yuv420p", "yuv420p"))
    start = ("-hide_banner", "-nostdin", "-v", "error", *(argument.format(node=node) for argument in flags.init))
    end = (*row.arguments.get(encoder.name, ()), *attempt.arguments, "-f", "null", "-")
    if encoder.name in WILFUL:
        always = (part.format(rate=25, scale=1) for part in flags.always)
        live = (*always, *(part.format(kbps=500, max=500, buffer=1000) for part in flags.bitrate))
        end = (*live, *_FORCED_KEYFRAME, *end[:-3], "-f", "framecrc", "-")
    if encoder.codec.kind is Kind.AUDIO:
        return (*start, *_AUDIO_SOURCE, "-c:a", encoder.name, *end)
    filters = ",".join(filter(None, (f"format={flags.formats[0]}", flags.upload)))
    return (*start, *_VIDEO_SOURCE, "-vf", filters, "-frames:v", "10", "-c:v", encoder.name, *end)


def obeyed(packets: str) -> bool:
    """Whether a `WILFUL` encoder made the keyframe that its trial forced; `packets` is what ffmpeg listed."""
    found = [not flags or bool(int(flags, 16) & 1) for flags in _PACKET.findall(packets)]
    return len(found) > _FORCED_PICTURE and found[0] and found[_FORCED_PICTURE]
