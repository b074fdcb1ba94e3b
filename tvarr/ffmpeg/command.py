"""Builds the command line of one transcode. Pure.

Samples reach ffmpeg on its stdin and leave on its stdout, in the containers of `tvarr.ffmpeg.pipes`. Inside the process
time is T - base (`base_ticks`), small and positive, because MPEG-TS has 33 bits. `-copyts -fps_mode passthrough
-enc_time_base 1:90000` keep every PTS to the tick; without them ffmpeg rounds to the frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from tvarr.cluster.load import UNKNOWN_FPS, UNKNOWN_SIZE
from tvarr.cluster.model import Encoder, Family, Gpu, JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.families import AUDIO, VORBIS_LAYOUTS, Flags, flags_of
from tvarr.ffmpeg.pipes import FIRST_ID, OUTPUT, not_carried, pipe_for
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec, Kind

LEAD_TICKS = 10 * TICKS_PER_SECOND
"""Process time of the first sample: room for the negative DTS of encoders that reorder, and for audio priming."""

MAX_PROCESS_TICKS = TICKS_33BIT - 120 * TICKS_PER_SECOND
"""The end of a process: 2 minutes before the 33 bits wrap (26.5 h), which ffmpeg does not survive with sound: it takes
the wrap of each track for a jump of all of them (5.1 and 9.0, tried)."""

SOFTWARE_DECODER = "software"
BUFFER_S = 2.0  # of the bitrate: the encoder's rate buffer
ONE_THREAD_PIXELS_PER_S = 1920 * 1088 * 31
"""Up to here one thread decodes a live stream: each further one holds a picture back."""

LIVE_DECODER_THREADS = 4
VIDEO = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.MPEG2VIDEO})  # what a picture can be turned into
MPEG2_RATES = (23.976, 24, 25, 29.97, 30, 50, 59.94, 60)

_H264_1080P30_KBPS = 6000
_CODEC_FACTOR = {Codec.H264: 1.0, Codec.HEVC: 0.65, Codec.AV1: 0.5, Codec.VP9: 0.65, Codec.MPEG2VIDEO: 2.0}


@dataclass(frozen=True, slots=True)
class Start:
    """Where a process begins on the relay's timeline."""

    base_ticks: int  # what is taken from every time stamp
    first_video_ticks: int | None  # PTS of the first video keyframe that the process gets; None without video


def start_at(spec: JobSpec, *, first_ticks: int, first_video_ticks: int | None) -> Start:
    """Chooses the base: at least `LEAD_TICKS` before `first_ticks`, the least time stamp that the process will get.

    Pictures at a constant rate lie on a grid that counts from the process's zero. Where a target changes the rate, the
    base is a whole number of its frames, so that the grid counts from T = 0, the same in every job; where it keeps the
    rate, the source's pictures make the grid.
    """
    unit, offset = 1, 0
    video = _video(spec)
    if video and (rate := _constant_rate(video)):
        ticks = TICKS_PER_SECOND * rate.denominator
        unit = ticks // math.gcd(ticks, rate.numerator)
        offset = 0 if video.fps or first_video_ticks is None else first_video_ticks % unit
    return Start((first_ticks - LEAD_TICKS - offset) // unit * unit + offset, first_video_ticks)


def _constant_rate(target: Target) -> Fraction | None:
    """The rate that a target's pictures have to have; None where each keeps its own time.

    MPEG-2 has a few rates, and no time stamps between them (ISO/IEC 13818-2, table 6-4; FFmpeg refuses others).
    """
    if target.codec is Codec.MPEG2VIDEO:
        wanted = target.fps or target.track.fps or UNKNOWN_FPS
        return min(map(frame_rate, MPEG2_RATES), key=lambda rate: abs(float(rate) - wanted))
    return frame_rate(target.fps) if target.fps else None


def frame_rate(fps: float) -> Fraction:
    """The exact rate that a rounded one means: 29.97 is 30000/1001."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if ntsc and abs(float(ntsc) - fps) < 0.005 and abs(round(fps) - fps) > 0.005:
        return ntsc
    return Fraction(fps).limit_denominator(1000)


def check(spec: JobSpec, encoder: Encoder | None) -> None:
    """Raises `JobError` for a job that no command line can do."""
    video = [target for target in spec.targets if target.codec.kind is Kind.VIDEO]
    if len(video) > 1:
        raise _refused(ErrorCode.BAD_REQUEST, "a job has at most one video track")
    for target in spec.targets:
        if target.codec.kind is not target.track.kind or target.track.kind not in {Kind.VIDEO, Kind.AUDIO}:
            raise _refused(ErrorCode.BAD_REQUEST, f"{target.track.codec} can't become {target.codec}")
        if target.codec not in VIDEO and target.codec not in AUDIO:
            raise _refused(ErrorCode.UNSUPPORTED, f"there is no encoder for {target.codec}")
    if missing := not_carried(target.track.codec for target in spec.targets):
        raise _refused(ErrorCode.UNSUPPORTED, f"ffmpeg can't be given {missing[0]} beside such a picture")
    if video and (encoder is None or flags_of(encoder) is None):
        name = encoder.name if encoder else "none"
        raise _refused(ErrorCode.UNSUPPORTED, f"no flags are known for the encoder {name}", elsewhere=True)
    if video and encoder is not None and encoder.codec is not video[0].codec:
        raise _refused(ErrorCode.BAD_REQUEST, f"{encoder.name} does not encode {video[0].codec}")


def decoders(spec: JobSpec, encoder: Encoder | None) -> tuple[str, ...]:
    """The ways to decode that are worth trying, best first: on the encoder's device, then in software."""
    flags = flags_of(encoder) if encoder else None
    video = _video(spec)
    if flags and video and flags.hwaccel and video.track.codec in flags.decodes:
        return (flags.hwaccel, SOFTWARE_DECODER)
    return (SOFTWARE_DECODER,)


def environment(encoder: Encoder | None) -> dict[str, str]:
    """What the process's environment needs beside the daemon's own. CUDA numbers GPUs otherwise than NVML does; SVT-AV1
    prints its own log, of which only errors are wanted.
    """
    if encoder is not None and encoder.name == "libsvtav1":
        return {"SVT_LOG": "1"}
    if encoder is not None and encoder.family is Family.NVENC and encoder.device.startswith("GPU-"):
        return {"CUDA_VISIBLE_DEVICES": encoder.device}
    return {}


def build(
    path: str,
    spec: JobSpec,
    start: Start,
    *,
    encoder: Encoder | None,
    gpu: Gpu | None = None,
    decoder: str = SOFTWARE_DECODER,
    progress_fd: int | None = None,
) -> list[str]:
    """The whole command, `path` first.

    `encoder` encodes the video target, if there is one; `gpu` is its device; `decoder` is one of `decoders`.
    Raises `JobError` as `check` does.
    """
    check(spec, encoder)
    flags = flags_of(encoder) if encoder and _video(spec) else None
    arguments = [path, "-hide_banner", "-nostdin", "-nostats", "-v", "warning"]
    if progress_fd is not None:
        arguments += ["-progress", f"pipe:{progress_fd}", "-stats_period", "1"]
    if flags:
        node = gpu.node if gpu else ""
        arguments += [argument.format(node=node) for argument in flags.init]
        if decoder != SOFTWARE_DECODER:
            arguments += flags.hwaccel_flags
    arguments += _input(spec)
    for number in range(len(spec.targets)):
        arguments += ["-map", f"0:i:{FIRST_ID + number:#x}", "-streamid", f"{number}:{FIRST_ID + number}"]
    audio = 0
    for target in spec.targets:
        if target.codec.kind is Kind.AUDIO:
            arguments += _audio(target, audio)
            audio += 1
        elif flags and encoder:
            arguments += _encode(spec, target, start, encoder, flags, decoder)
    return arguments + _output()


def _video(spec: JobSpec) -> Target | None:
    return next((target for target in spec.targets if target.codec.kind is Kind.VIDEO), None)


def _input(spec: JobSpec) -> list[str]:
    """A short analysis, as the tracks are known. Not `-fflags nobuffer`: it loses the first keyframe. Of LATM ffmpeg
    believes only several frames, and refuses the track without them: it may look for so long, and ends sooner.

    `strict` makes the H.264 decoder hold back as many pictures as the level allows where the stream does not say how
    many it reorders. It guesses otherwise, from pictures that a short analysis does not reach, and a wrong guess gives
    pictures in the wrong order (French DVB-T, tried).
    """
    video = _video(spec)
    codecs = {target.track.codec for target in spec.targets}
    size, duration_us = (5_000_000, 2_000_000) if Codec.AAC_LATM in codecs else (50_000, 100_000)
    analysis = ["-probesize", str(size), "-analyzeduration", str(duration_us), "-fpsprobesize", "0"]
    # Broken pictures are no reason to end with an error.
    pipe = pipe_for(codecs)
    arguments = [*analysis, "-max_error_rate", "1", "-copyts", "-f", pipe.value, "-i", "pipe:0"]
    if video:
        arguments = ["-strict:v", "strict", *arguments]
    if spec.full_speed:
        return arguments
    many = video is not None and _pixels_per_s(video) > ONE_THREAD_PIXELS_PER_S
    return ["-threads", str(LIVE_DECODER_THREADS if many else 1), *arguments]


def _output() -> list[str]:
    return [
        *("-fps_mode", "passthrough", "-max_muxing_queue_size", "4096"),
        *("-max_interleave_delta", "100000", "-avoid_negative_ts", "disabled", *OUTPUT),
    ]


def _encode(spec: JobSpec, target: Target, start: Start, encoder: Encoder, flags: Flags, decoder: str) -> list[str]:
    first = start.first_video_ticks if start.first_video_ticks is not None else start.base_ticks + LEAD_TICKS
    filters = _filters(target, first - start.base_ticks, flags, decoder)
    arguments = ["-filter:v", ",".join(filters), "-c:v", encoder.name]
    preset = flags.presets.get(target.preset, flags.default_preset)
    if flags.preset_flag and preset:
        arguments += [flags.preset_flag, preset]
    fps = _constant_rate(target) or frame_rate(target.track.fps or UNKNOWN_FPS)
    arguments += [argument.format(rate=fps.numerator, scale=fps.denominator) for argument in flags.always]
    arguments += flags.full_speed if spec.full_speed else flags.live
    if "low_power" in encoder.options:
        arguments += ["-low_power", "1"]
    arguments += _rate(target, flags)
    keyframes = force_keyframes(target, first, spec.first_keyframe_ticks)
    rate = _constant_rate(target) if target.codec is Codec.MPEG2VIDEO else None
    time_base = f"{rate.denominator}:{rate.numerator}" if rate else "1:90000"
    return [*arguments, "-enc_time_base:v", time_base, "-g", str(flags.gop), "-force_key_frames", keyframes]


def force_keyframes(target: Target, first_ticks: int, forced_ticks: int | None) -> str:
    """The expression that puts keyframes at the first picture, at or after `forced_ticks`, and at each multiple of
    `gop_s` of T. In it `t` counts from the first picture that is encoded (5.1 and 9.0, tried).
    """
    if target.fps and (rate := _constant_rate(target)):  # the fps filter moves it to the nearest point of the grid
        first_ticks = _nearest(_nearest(first_ticks * rate / TICKS_PER_SECOND) * TICKS_PER_SECOND / rate)
    gop_ticks = max(target.gop_s * TICKS_PER_SECOND, 1.0)
    offset_s = first_ticks % gop_ticks / TICKS_PER_SECOND
    grid = "floor(({t}+" + f"{offset_s:.6f})/{target.gop_s:g}+1e-6)"
    due = f"gt({grid.format(t='t')},{grid.format(t='prev_forced_t')})"
    if forced_ticks is not None and forced_ticks > first_ticks:
        forced_s = (forced_ticks - first_ticks - 0.5) / TICKS_PER_SECOND  # half a tick early, against rounding
        due = f"if(gte(t,{forced_s:.6f})*lt(prev_forced_t,{forced_s:.6f}),1,{due})"
    return f"expr:if(isnan(prev_forced_t),1,{due})"


def _nearest(value: Fraction) -> int:
    """Rounds halves away from zero, as av_rescale_q_rnd does with AV_ROUND_NEAR_INF."""
    return math.floor(value + Fraction(1, 2)) if value >= 0 else -math.floor(-value + Fraction(1, 2))


def _filters(target: Target, first_process_ticks: int, flags: Flags, decoder: str) -> list[str]:
    """Pictures before the first keyframe (an open group's leading ones) are broken, and dropped first of all."""
    on_device = decoder != SOFTWARE_DECODER and flags.stays_on_device
    filters = [f"trim=start_pts={first_process_ticks}"]
    if target.deinterlace == "on" or (target.deinterlace == "auto" and target.track.interlaced):
        deint = "all" if target.deinterlace == "on" else "interlaced"
        template = flags.deinterlace if on_device else "bwdif=mode=send_frame:deint={deint}"
        filters.append(template.format(deint=deint))
    if rate := _constant_rate(target):
        filters.append(f"fps={rate.numerator}/{rate.denominator}")
    odd = target.track.width % 2 or target.track.height % 2
    if target.width or target.height or odd:
        width, height = _size_expressions(target)
        filters.append((flags.scale if on_device else "scale=w={w}:h={h}").format(w=width, h=height))
    shallow, deep = flags.formats
    if on_device:
        filters += [flags.convert] if target.codec is not Codec.HEVC else []
    else:
        filters.append(f"format={shallow}" if target.codec is not Codec.HEVC else f"format={shallow}|{deep}")
        filters += [flags.upload] if flags.upload else []
    return filters


def _size_expressions(target: Target) -> tuple[str, str]:
    """Width and height that fit into the target's, keep the shape, are even, and enlarge nothing."""
    limits = [f"{limit}/{name}" for limit, name in ((target.width, "iw"), (target.height, "ih")) if limit]
    factor = "1"
    for limit in limits:
        factor = f"min({factor}\\,{limit})"
    return f"max(2\\,round(iw*{factor}/2)*2)", f"max(2\\,round(ih*{factor}/2)*2)"


def _rate(target: Target, flags: Flags) -> list[str]:
    """A bitrate: constant, with a short buffer. A quality: capped where the encoder can. Neither: by the size."""
    kbps = target.bitrate_kbps or default_kbps(target)
    cap = kbps if target.bitrate_kbps else 2 * kbps
    quality = target.crf
    if quality is None and not target.bitrate_kbps:
        quality = flags.default_q
    template = flags.quality if quality is not None and flags.quality else flags.bitrate
    if template is flags.bitrate:
        cap = kbps
    values = {"kbps": kbps, "max": cap, "buffer": round(cap * BUFFER_S), "q": quality}
    return [argument.format(**values) for argument in template]


def default_kbps(target: Target) -> int:
    """The bitrate for a picture's size and rate where nobody named one: 6 Mb/s for H.264 at 1080p30, less than in
    proportion for larger pictures and more for smaller ones; our own choice.
    """
    relative = _pixels_per_s(target, fitted=True) / (1920 * 1080 * 30)
    return max(200, round(_H264_1080P30_KBPS * _CODEC_FACTOR[target.codec] * math.pow(relative, 0.8)))


def _pixels_per_s(target: Target, *, fitted: bool = False) -> float:
    """Of the source, or `fitted` as it is encoded."""
    width, height = target.track.width, target.track.height
    if not (width and height):
        width, height = UNKNOWN_SIZE
    fps = target.track.fps or UNKNOWN_FPS
    if not fitted:
        return width * height * fps
    factor = min(1.0, target.width / width if target.width else 1.0, target.height / height if target.height else 1.0)
    return width * height * factor * factor * (target.fps or fps)


def _audio(target: Target, number: int) -> list[str]:
    """The nth sound. The filter turns a hole or an overlap of more than 20 ms into silence or a cut, so that frames
    come without a gap: one lost AAC frame is 21 ms.
    """
    flags = AUDIO[target.codec]
    channels = min(target.channels or target.track.channels or 2, flags.max_channels)
    rate = target.track.sample_rate if target.track.sample_rate in flags.rates else flags.rates[0]
    kbps = target.bitrate_kbps or flags.kbps_per_channel * channels
    if flags.bitrates:
        kbps = min(flags.bitrates, key=lambda allowed: abs(allowed - kbps))
    filters = "aresample=async=1:min_hard_comp=0.02"
    if flags.layouts:
        filters += f",aformat=channel_layouts={VORBIS_LAYOUTS[channels - 1]}"
    return [
        *(f"-filter:a:{number}", filters, f"-c:a:{number}", flags.encoder),
        *(f"-b:a:{number}", f"{kbps}k", f"-ac:a:{number}", str(channels), f"-ar:a:{number}", str(rate)),
    ]


def _refused(code: ErrorCode, message: str, *, elsewhere: bool = False) -> JobError:
    return JobError(code, message, retry_elsewhere=elsewhere)
