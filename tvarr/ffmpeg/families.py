"""The flags of each encoder family for a live encode: one row each. Pure.

Sources: the options of FFmpeg 5.1 and 9.0 (`ffmpeg -h encoder=NAME`); the rows of software encoders were run with both.
In `init` stands `{node}` for the render node, in filters `{w}` and `{h}` for expressions of the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tvarr.cluster.model import Encoder, Family
from tvarr.media.model import Codec

X264_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"),
)
"""Fastest first; the names that a profile uses for every family, of which each has its own scale."""


def _scale(*names: str) -> dict[str, str]:
    """Maps x264's ten names onto another scale, fastest first, and each of its own names onto itself."""
    spread = {name: names[round(i * (len(names) - 1) / 9)] for i, name in enumerate(X264_PRESETS)}
    return spread | {name: name for name in names}


@dataclass(frozen=True, slots=True)
class Flags:
    """What an encoder wants. Where an entry is empty, there is nothing to say.

    `bitrate` takes {kbps}, {max} and {buffer}; `quality` takes {q}, and {max} and {buffer} where it can cap the rate;
    `always` takes {rate} and {scale}, the pictures a second as a fraction.
    """

    bitrate: tuple[str, ...] = ("-b:v", "{kbps}k", "-maxrate", "{max}k", "-bufsize", "{buffer}k")
    quality: tuple[str, ...] = ()  # empty: the encoder has no such mode, a bitrate is used instead
    default_q: int | None = None  # where a profile asks for nothing; None: a bitrate is better
    always: tuple[str, ...] = ("-bf", "0")
    live: tuple[str, ...] = ()  # no delay of pictures
    full_speed: tuple[str, ...] = ()
    preset_flag: str = ""
    presets: Mapping[str, str] = field(default_factory=dict)  # a profile's name to the encoder's
    default_preset: str = ""
    gop: int = 9999  # out of the way: keyframes are forced
    formats: tuple[str, str] = ("nv12", "p010le")  # pictures as the encoder takes them: 8 bits, 10 bits
    # The device.
    init: tuple[str, ...] = ()
    hwaccel: str = ""  # decoding on the same device; empty: none
    hwaccel_flags: tuple[str, ...] = ()
    decodes: frozenset[Codec] = frozenset()
    upload: str = ""  # after the filters where decoding is in software
    deinterlace: str = ""  # filters for pictures that are on the device already
    scale: str = ""
    convert: str = ""  # to 8 bits
    stays_on_device: bool = True  # decoded pictures stay there, so that its filters are needed


_LAVC_DECODES = frozenset({Codec.H264, Codec.HEVC, Codec.MPEG2VIDEO, Codec.VP9, Codec.AV1})

_CONSTANT = ("-b:v", "{kbps}k", "-minrate", "{kbps}k", "-maxrate", "{max}k", "-bufsize", "{buffer}k")

# The frame rate is told to encoders that take it: ffmpeg's short analysis may see no picture, or one that does not
# state it, and then says 90,000 a second (5.1 and 9.0, tried). libx264 and libx265 made 15 and 45 kb/s of 400 of that,
# and claimed level 6.2; SVT-AV1 refuses it.
FLAGS: dict[str, Flags] = {
    # Live: zerolatency has no lookahead, no B-frames and slices instead of frame threads, so that a picture leaves as
    # it comes. A lookahead of 10 pictures would cost 0.4 s at 25 fps and bring 0.6 dB of SSIM (film, 720x576, 1.5 Mb/s,
    # veryfast: 18.21 dB against 18.84 dB); slices cost 0.05 dB on two cores.
    "libx264": Flags(
        quality=("-crf", "{q}", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        default_q=23,
        always=("-x264-params", "fps={rate}/{scale}"),
        live=("-tune", "zerolatency"),
        preset_flag="-preset",
        presets={name: name for name in X264_PRESETS},
        default_preset="veryfast",
        formats=("yuv420p", "yuv420p"),
    ),
    # An open GOP would let pictures after a splice refer to what is before it. x265 prints its own log.
    "libx265": Flags(
        quality=("-crf", "{q}", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        default_q=26,
        always=("-forced-idr", "1", "-x265-params", "open-gop=0:log-level=warning:fps={rate}/{scale}"),
        live=("-tune", "zerolatency"),
        preset_flag="-preset",
        presets={name: name for name in X264_PRESETS},
        default_preset="superfast",
        formats=("yuv420p", "yuv420p10le"),
    ),
    # Low delay, without which it holds back 16 or 32 pictures. Its constant bitrate is what ffmpeg asks of it where
    # -maxrate equals -b:v. Version 1.4 of Debian 12 has no such mode, and puts keyframes by itself wherever others are
    # forced: its trial fails, and libaom does the work.
    "libsvtav1": Flags(
        quality=("-crf", "{q}", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        default_q=35,
        always=("-svtav1-params", "pred-struct=1:lookahead=0:fps-num={rate}:fps-denom={scale}"),
        preset_flag="-preset",
        presets=dict(zip(X264_PRESETS, ("12", "11", "10", "10", "9", "8", "7", "6", "5", "4"), strict=True)),
        default_preset="10",
        formats=("yuv420p", "yuv420p10le"),
    ),
    # Pictures leave as they come; -minrate makes the rate constant. 5.1 knows -cpu-used up to 8, and only above 4 the
    # library is as fast as live needs. Without a bound on keyframes (per cent of a picture's share) libaom 3.6 made
    # ones of 1.5 s of the rate, and 28 % too much of all (noise, 426x240, 600 kb/s); with it 1 %.
    "libaom-av1": Flags(
        bitrate=_CONSTANT,
        quality=("-crf", "{q}", "-b:v", "{max}k"),
        default_q=35,
        always=("-usage", "realtime", "-lag-in-frames", "0", "-row-mt", "1", "-aom-params", "max-intra-rate=600"),
        preset_flag="-cpu-used",
        presets=dict(zip(X264_PRESETS, ("8", "8", "8", "8", "7", "7", "6", "6", "5", "5"), strict=True)),
        default_preset="8",
        formats=("yuv420p", "yuv420p10le"),
    ),
    "libvpx-vp9": Flags(
        bitrate=_CONSTANT,
        quality=("-crf", "{q}", "-b:v", "{max}k"),
        default_q=35,
        always=(
            *("-deadline", "realtime", "-lag-in-frames", "0", "-auto-alt-ref", "0", "-row-mt", "1"),
            *("-max-intra-rate", "600"),
        ),
        preset_flag="-cpu-used",
        presets=dict(zip(X264_PRESETS, ("8", "8", "8", "7", "7", "6", "6", "5", "5", "5"), strict=True)),
        default_preset="8",
        formats=("yuv420p", "yuv420p"),
    ),
    # A GOP above 600 is refused (mpegvideo_enc.c). Without B-frames every group is closed.
    "mpeg2video": Flags(
        always=("-bf", "0"),
        gop=600,
        formats=("yuv420p", "yuv420p"),
    ),
    Family.NVENC: Flags(
        bitrate=("-rc", "cbr", "-b:v", "{kbps}k", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        quality=("-rc", "vbr", "-cq", "{q}", "-b:v", "0", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        always=("-bf", "0", "-forced-idr", "1"),
        live=("-tune", "ll", "-rc-lookahead", "0", "-delay", "0", "-zerolatency", "1"),
        full_speed=("-tune", "hq"),
        preset_flag="-preset",
        presets=_scale(*(f"p{n}" for n in range(1, 8))),
        default_preset="p4",
        # CUDA's indexes differ from NVML's: the GPU is chosen by CUDA_VISIBLE_DEVICES and is always 0 here.
        init=("-init_hw_device", "cuda=cu:0"),
        hwaccel="cuda",
        hwaccel_flags=(
            *("-hwaccel", "cuda", "-hwaccel_device", "cu", "-hwaccel_output_format", "cuda"),
            *("-extra_hw_frames", "8"),
        ),
        decodes=_LAVC_DECODES | {Codec.MPEG1VIDEO},
        deinterlace="yadif_cuda=mode=send_frame:deint={deint}",
        scale="scale_cuda=w={w}:h={h}",
        convert="scale_cuda=format=nv12",
    ),
    # Without -rc_mode the encoder takes CBR where the driver has it, then VBR, then constant quality.
    Family.VAAPI: Flags(
        quality=("-rc_mode", "CQP", "-qp", "{q}"),
        always=("-bf", "0"),
        live=("-async_depth", "1"),
        init=("-init_hw_device", "vaapi=va:{node}", "-filter_hw_device", "va"),
        hwaccel="vaapi",
        hwaccel_flags=("-hwaccel", "vaapi", "-hwaccel_device", "va", "-hwaccel_output_format", "vaapi"),
        decodes=_LAVC_DECODES,
        upload="hwupload",
        deinterlace="deinterlace_vaapi=rate=frame",
        scale="scale_vaapi=w={w}:h={h}",
        convert="scale_vaapi=format=nv12",
    ),
    Family.QSV: Flags(
        quality=("-global_quality", "{q}"),
        always=("-bf", "0", "-forced_idr", "1"),
        live=("-async_depth", "1", "-low_delay_brc", "1"),
        preset_flag="-preset",
        presets=_scale("veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
        default_preset="veryfast",
        init=(
            *("-init_hw_device", "vaapi=va:{node}", "-init_hw_device", "qsv=qs@va"),
            *("-filter_hw_device", "qs"),
        ),
        hwaccel="qsv",
        hwaccel_flags=("-hwaccel", "qsv", "-hwaccel_device", "qs", "-hwaccel_output_format", "qsv"),
        decodes=_LAVC_DECODES,
        upload="hwupload=extra_hw_frames=16",
        deinterlace="vpp_qsv=deinterlace=advanced",
        scale="vpp_qsv=w={w}:h={h}",
        convert="vpp_qsv=format=nv12",
    ),
    Family.AMF: Flags(
        bitrate=("-rc", "cbr", "-b:v", "{kbps}k", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        quality=("-rc", "cqp", "-qp_i", "{q}", "-qp_p", "{q}"),
        always=("-bf", "0", "-forced_idr", "1"),
        live=("-usage", "lowlatency"),
        preset_flag="-quality",
        presets=_scale("speed", "balanced", "quality"),
        default_preset="speed",
    ),
    Family.V4L2M2M: Flags(bitrate=("-b:v", "{kbps}k"), always=(), formats=("yuv420p", "yuv420p")),
    Family.RKMPP: Flags(always=(), quality=("-rc_mode", "CQP", "-qp_init", "{q}")),
    Family.VULKAN: Flags(
        bitrate=("-rc_mode", "cbr", "-b:v", "{kbps}k", "-maxrate", "{max}k", "-bufsize", "{buffer}k"),
        quality=("-rc_mode", "cqp", "-qp", "{q}"),
        live=("-tune", "ll", "-async_depth", "1"),
        init=("-init_hw_device", "vulkan=vk:0", "-filter_hw_device", "vk"),
        upload="hwupload",
    ),
    # Its decoder hands the pictures over in ordinary memory.
    Family.VIDEOTOOLBOX: Flags(
        quality=("-q:v", "{q}"),
        live=("-realtime", "1"),
        init=("-init_hw_device", "videotoolbox=vt"),
        hwaccel="videotoolbox",
        hwaccel_flags=("-hwaccel", "videotoolbox", "-hwaccel_device", "vt"),
        decodes=_LAVC_DECODES - {Codec.AV1},
        stays_on_device=False,
    ),
}
"""By the encoder's name, or by its family."""

# Their quality is on a scale of its own.
FLAGS |= {name: replace(FLAGS[Family.VAAPI], quality=()) for name in ("av1_vaapi", "vp9_vaapi")}
FLAGS["vp9_qsv"] = replace(FLAGS[Family.QSV], live=("-async_depth", "1"))


def flags_of(encoder: Encoder) -> Flags | None:
    """The row of an encoder; None for one that is not known."""
    own = FLAGS.get(encoder.name)
    return own if own is not None or encoder.family is Family.SOFTWARE else FLAGS.get(encoder.family)


@dataclass(frozen=True, slots=True)
class AudioFlags:
    """An audio encoder of ffmpeg and what it takes."""

    encoder: str
    rates: tuple[int, ...]  # Hz
    max_channels: int
    kbps_per_channel: int  # where a profile names no bitrate
    bitrates: tuple[int, ...] = ()  # kbps, where only certain ones exist
    layouts: bool = False  # takes the Vorbis order's layouts only (RFC 7845, 5.1.1.2), not 5.1 with side speakers


VORBIS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")  # of 1 to 8 channels

_LAYER2_KBPS = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)  # ISO/IEC 11172-3, 2.4.2.3

AUDIO: dict[Codec, AudioFlags] = {
    Codec.AAC: AudioFlags("aac", (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000), 6, 64),
    Codec.AC3: AudioFlags("ac3", (48000, 44100, 32000), 6, 96),
    Codec.EAC3: AudioFlags("eac3", (48000, 44100, 32000), 6, 80),
    Codec.OPUS: AudioFlags("libopus", (48000,), 8, 64, layouts=True),
    Codec.MP2: AudioFlags("mp2", (48000, 44100, 32000), 2, 96, _LAYER2_KBPS),
    Codec.MP3: AudioFlags("libmp3lame", (48000, 44100, 32000), 2, 80),
}
"""What sound can be turned into. AAC ends at 5.1: of more channels ffmpeg makes what ADTS has no header for."""
