from __future__ import annotations

import functools
import itertools
import math
import re
import subprocess
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import lacking
from tests.ffmpeg.support import ffmpegs
from tvarr.cluster.model import Encoder, Family, Gpu, JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg import command
from tvarr.ffmpeg.command import (
    LEAD_TICKS,
    SOFTWARE_DECODER,
    Start,
    build,
    check,
    decoders,
    default_kbps,
    environment,
    force_keyframes,
    frame_rate,
    start_at,
)
from tvarr.ffmpeg.families import AUDIO, FLAGS, X264_PRESETS, flags_of
from tvarr.media.model import TICKS_PER_SECOND, Codec, Track

VIDEO = Track(7, Codec.H264, width=1920, height=1080, fps=25.0)
AUDIO_TRACK = Track(9, Codec.AC3, sample_rate=48000, channels=6)
MP2_TO_AAC = Target(replace(AUDIO_TRACK, codec=Codec.MP2), Codec.AAC)
X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
GPU = Gpu("GPU-1234", "Some GPU", "nvidia", node="/dev/dri/renderD129")
START = Start(900_000, 1_800_000)

HARDWARE = {
    "av1_nvenc": Family.NVENC,
    "av1_vaapi": Family.VAAPI,
    "vp9_vaapi": Family.VAAPI,
    "av1_qsv": Family.QSV,
    "vp9_qsv": Family.QSV,
    "av1_amf": Family.AMF,
    "h264_nvenc": Family.NVENC,
    "hevc_nvenc": Family.NVENC,
    "h264_vaapi": Family.VAAPI,
    "hevc_vaapi": Family.VAAPI,
    "h264_qsv": Family.QSV,
    "hevc_qsv": Family.QSV,
    "h264_amf": Family.AMF,
    "hevc_amf": Family.AMF,
    "h264_vulkan": Family.VULKAN,
    "hevc_vulkan": Family.VULKAN,
    "h264_v4l2m2m": Family.V4L2M2M,
    "h264_rkmpp": Family.RKMPP,
    "h264_videotoolbox": Family.VIDEOTOOLBOX,
}


def encoder(name: str, device: str = "GPU-1234") -> Encoder:
    return Encoder(name, Codec(name.partition("_")[0]), HARDWARE[name], device)


def job(*targets: Target, **more: object) -> JobSpec:
    return JobSpec("job", targets or (Target(VIDEO, Codec.H264),), **more)  # type: ignore[arg-type]


def arguments(spec: JobSpec, chosen: Encoder | None = X264, **more: object) -> list[str]:
    return build("ffmpeg", spec, START, encoder=chosen, **more)  # type: ignore[arg-type]


def after(flag: str, argv: list[str]) -> str:
    assert argv.count(flag) == 1, f"{flag} in {argv}"
    return argv[argv.index(flag) + 1]


def test_a_live_software_encode() -> None:
    argv = arguments(job(Target(VIDEO, Codec.H264, bitrate_kbps=3000), Target(AUDIO_TRACK, Codec.AAC)), progress_fd=5)
    assert argv[0] == "ffmpeg"
    assert after("-progress", argv) == "pipe:5"
    assert [argv[i + 1] for i, a in enumerate(argv) if a == "-map"] == ["0:i:0x100", "0:i:0x101"]
    assert [argv[i + 1] for i, a in enumerate(argv) if a == "-streamid"] == ["0:256", "1:257"]
    assert (after("-b:v", argv), after("-maxrate", argv), after("-bufsize", argv)) == ("3000k", "3000k", "6000k")
    assert after("-tune", argv) == "zerolatency"
    assert after("-filter:v", argv) == "trim=start_pts=900000,format=yuv420p"
    assert after("-fps_mode", argv) == "passthrough"
    assert after("-enc_time_base:v", argv) == "1:90000"
    assert (after("-c:a:0", argv), after("-b:a:0", argv), after("-ac:a:0", argv)) == ("aac", "384k", "6")
    assert "nobuffer" not in argv
    assert "-copyts" in argv[: argv.index("-i")]
    assert argv[-1] == "pipe:1"


def test_sound_alone_has_no_video_flags() -> None:
    argv = arguments(job(Target(AUDIO_TRACK, Codec.AAC), Target(replace(AUDIO_TRACK, id=10), Codec.AC3)), None)
    assert not {"-filter:v", "-c:v", "-force_key_frames"} & set(argv)
    assert (after("-c:a:0", argv), after("-c:a:1", argv)) == ("aac", "ac3")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({}, ["-crf", "23", "-maxrate", "10372k"]),
        ({"crf": 20}, ["-crf", "20", "-maxrate", "10372k"]),
        ({"crf": 20, "bitrate_kbps": 4000}, ["-crf", "20", "-maxrate", "4000k"]),
        ({"bitrate_kbps": 4000}, ["-b:v", "4000k", "-maxrate", "4000k"]),
    ],
)
def test_rate_control(target: dict[str, int], expected: list[str]) -> None:
    argv = arguments(job(Target(VIDEO, Codec.H264, **target)))  # type: ignore[arg-type]
    at = argv.index(expected[0])
    assert argv[at : at + 4] == expected
    assert ("-b:v" in argv) != ("-crf" in argv)


def test_the_default_bitrate_grows_with_the_picture() -> None:
    sizes = [(640, 360), (1280, 720), (1920, 1080), (3840, 2160)]
    rates = [default_kbps(Target(replace(VIDEO, width=w, height=h, fps=30), Codec.H264)) for w, h in sizes]
    assert rates == sorted(rates)
    assert rates[2] == 6000
    fitted = Target(replace(VIDEO, fps=30), Codec.H264, width=1280, height=720)
    assert default_kbps(fitted) == rates[1]
    assert default_kbps(replace(fitted, codec=Codec.HEVC)) < rates[1]


@pytest.mark.parametrize(
    ("track", "target", "expected"),
    [
        ({}, {}, ""),
        ({"interlaced": True}, {}, "bwdif=mode=send_frame:deint=interlaced"),
        ({"interlaced": True}, {"deinterlace": "off"}, ""),
        ({}, {"deinterlace": "on"}, "bwdif=mode=send_frame:deint=all"),
        ({}, {"fps": 29.97}, "fps=30000/1001"),
        ({}, {"fps": 25.0}, "fps=25/1"),
    ],
)
def test_filters(track: dict[str, bool], target: dict[str, object], expected: str) -> None:
    spec = job(Target(replace(VIDEO, **track), Codec.H264, **target))  # type: ignore[arg-type]
    chain = after("-filter:v", arguments(spec)).split(",")
    assert chain[1:-1] == ([expected] if expected else [])


@given(
    size=st.tuples(st.integers(2, 8192), st.integers(2, 8192)),
    box=st.tuples(st.sampled_from([0, 426, 640, 1280, 1920]), st.sampled_from([0, 240, 360, 720, 1080])),
)
def test_a_picture_fits_keeps_its_shape_and_is_even(size: tuple[int, int], box: tuple[int, int]) -> None:
    target = Target(replace(VIDEO, width=size[0], height=size[1]), Codec.H264, width=box[0], height=box[1])

    def evaluate(expression: str) -> int:
        names = {"iw": size[0], "ih": size[1], "min": min, "max": max, "round": lambda x: math.floor(x + 0.5)}
        return int(eval(expression.replace("\\,", ","), {}, names))

    width, height = (evaluate(expression) for expression in command._size_expressions(target))
    assert width % 2 == height % 2 == 0
    for side, source, limit in zip((width, height), size, box, strict=True):
        assert 2 <= side <= max(source + 1, 2)
        assert not limit or side <= max(limit, 2)
    factor = min([1.0, *(limit / side for side, limit in zip(size, box, strict=True) if limit)])
    assert abs(width - size[0] * factor) <= 2
    assert abs(height - size[1] * factor) <= 2


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (25, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (29.97003, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (30, Fraction(30)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_frame_rates(fps: float, rate: Fraction) -> None:
    assert frame_rate(fps) == rate


@given(first=st.integers(0, 1 << 62), fps=st.sampled_from([0.0, 12.5, 23.976, 25.0, 29.97, 30.0, 50.0, 59.94]))
def test_the_base_leaves_room_and_keeps_the_grid(first: int, fps: float) -> None:
    start = start_at(job(Target(VIDEO, Codec.H264, fps=fps)), first_ticks=first, first_video_ticks=first)
    assert LEAD_TICKS <= first - start.base_ticks < LEAD_TICKS + TICKS_PER_SECOND
    if fps:
        assert (start.base_ticks * frame_rate(fps) / TICKS_PER_SECOND).denominator == 1


@given(first=st.integers(0, 1 << 40), fps=st.sampled_from([0.0, 23.976, 25.0, 29.97, 48.0]))
def test_mpeg2_gets_one_of_its_rates_on_the_grid_of_the_source(first: int, fps: float) -> None:
    spec = job(Target(replace(VIDEO, fps=fps), Codec.MPEG2VIDEO))
    start = start_at(spec, first_ticks=first, first_video_ticks=first + 5)
    argv = build("ffmpeg", spec, start, encoder=Encoder("mpeg2video", Codec.MPEG2VIDEO, Family.SOFTWARE))
    duration, _, scale = after("-enc_time_base:v", argv).partition(":")
    rate = Fraction(int(scale), int(duration))
    assert float(rate) == pytest.approx({0.0: 25, 48.0: 50}.get(fps, fps), abs=0.001)
    assert f"fps={rate.numerator}/{rate.denominator}" in after("-filter:v", argv)
    assert ((first + 5 - start.base_ticks) * rate / TICKS_PER_SECOND).denominator == 1
    assert first - start.base_ticks >= LEAD_TICKS


def keyframes(expression: str, times_s: list[float]) -> list[float]:
    """What ffmpeg makes of the expression: `times_s` are the pictures', absolute."""
    names = {
        "floor": math.floor,
        "isnan": math.isnan,
        "gt": lambda a, b: float(a > b),
        "gte": lambda a, b: float(a >= b),
    }
    names |= {"lt": lambda a, b: float(a < b), "choose": lambda c, a, b: a if c else b}  # type: ignore[dict-item]
    code = compile(re.sub(r"\bif\(", "choose(", expression.removeprefix("expr:")), "expr", "eval")
    names["floor"] = lambda x: 0.0 if math.isnan(x) else math.floor(x)  # ffmpeg does not evaluate what it skips
    forced, previous = [], math.nan
    for time_s in times_s:
        t = time_s - times_s[0]
        if eval(code, {}, names | {"t": t, "prev_forced_t": previous}):
            forced.append(time_s)
            previous = t
    return forced


@given(
    first=st.integers(0, 1 << 50),
    gop_s=st.sampled_from([1.0, 2.0, 2.5, 4.0]),
    step=st.sampled_from([1800, 3003, 3600, 3754]),
    forced_after=st.none() | st.integers(0, 200),
)
def test_keyframes_fall_on_the_grid_and_where_they_are_forced(
    first: int, gop_s: float, step: int, forced_after: int | None
) -> None:
    pictures = [first + n * step for n in range(300)]
    forced_ticks = None if forced_after is None else pictures[forced_after]
    expression = force_keyframes(Target(VIDEO, Codec.H264, gop_s=gop_s), first, forced_ticks)
    times = [(p - first) / TICKS_PER_SECOND for p in pictures]
    got = {pictures[times.index(t)] for t in keyframes(expression, times)}
    gop = gop_s * TICKS_PER_SECOND
    expected = {pictures[0]} | {b for a, b in itertools.pairwise(pictures) if a // gop != b // gop}
    expected |= {forced_ticks} if forced_ticks is not None else set()
    assert got == expected


@pytest.mark.parametrize("name", HARDWARE)
@pytest.mark.parametrize("full_speed", [False, True])
def test_every_family_has_a_command(name: str, full_speed: bool) -> None:
    codec = encoder(name).codec
    targets = (Target(VIDEO, codec, width=1280, height=720, preset="slow"), Target(AUDIO_TRACK, Codec.AAC))
    spec = job(*targets, full_speed=full_speed, first_keyframe_ticks=2_000_000)
    for decoder in decoders(spec, encoder(name)):
        argv = build("ffmpeg", spec, START, encoder=encoder(name), gpu=GPU, decoder=decoder)
        assert after("-c:v", argv) == name
        assert not any(argument == "" or "{" in argument for argument in argv)
        assert ("-hwaccel" in argv) == (decoder != SOFTWARE_DECODER)
        if HARDWARE[name] in {Family.VAAPI, Family.QSV}:
            assert "vaapi=va:/dev/dri/renderD129" in argv
        chain = after("-filter:v", argv)
        assert ("hwupload" in chain) == (bool(FLAGS[HARDWARE[name]].upload) and decoder == SOFTWARE_DECODER)


@pytest.mark.parametrize(("codec", "container"), [(Codec.AV1, "mp4"), (Codec.VP9, "mp4"), (Codec.HEVC, "mpegts")])
def test_a_source_comes_in_what_ffmpeg_knows_it_in(codec: Codec, container: str) -> None:
    argv = arguments(job(Target(replace(VIDEO, codec=codec), Codec.H264)))
    assert [argv[n + 1] for n, argument in enumerate(argv) if argument == "-f"] == [container, "mpegts"]


def test_ways_to_decode() -> None:
    assert decoders(job(), encoder("h264_nvenc")) == ("cuda", SOFTWARE_DECODER)
    assert decoders(job(), X264) == (SOFTWARE_DECODER,)
    assert decoders(job(Target(AUDIO_TRACK, Codec.AAC)), None) == (SOFTWARE_DECODER,)


def test_cuda_sees_the_one_gpu_by_its_uuid() -> None:
    assert environment(encoder("h264_nvenc")) == {"CUDA_VISIBLE_DEVICES": "GPU-1234"}
    assert environment(X264) == environment(None) == environment(encoder("h264_vaapi", "0000:00:02.0")) == {}


def test_low_power_is_asked_for_where_the_trial_needed_it() -> None:
    chosen = replace(encoder("h264_vaapi"), options=("low_power",))
    assert after("-low_power", arguments(job(), chosen, gpu=GPU)) == "1"
    assert "-low_power" not in arguments(job(), encoder("h264_vaapi"), gpu=GPU)


@pytest.mark.parametrize("row", [name for name, flags in FLAGS.items() if flags.preset_flag])
def test_every_preset_of_a_profile_means_something(row: str) -> None:
    flags = FLAGS[row]
    assert set(X264_PRESETS) <= set(flags.presets)
    assert flags.default_preset in flags.presets.values()


@pytest.mark.parametrize(
    ("spec", "chosen", "code", "elsewhere"),
    [
        (job(Target(VIDEO, Codec.H264), Target(replace(VIDEO, id=8), Codec.H264)), X264, ErrorCode.BAD_REQUEST, False),
        (job(Target(VIDEO, Codec.AAC)), X264, ErrorCode.BAD_REQUEST, False),
        (job(Target(Track(1, Codec.DVB_SUBTITLE), Codec.DVB_SUBTITLE)), None, ErrorCode.BAD_REQUEST, False),
        (job(Target(VIDEO, Codec.MPEG1VIDEO)), X264, ErrorCode.UNSUPPORTED, False),
        (job(Target(replace(VIDEO, codec=Codec.AV1), Codec.H264), MP2_TO_AAC), X264, ErrorCode.UNSUPPORTED, False),
        (job(Target(AUDIO_TRACK, Codec.AAC_LATM)), None, ErrorCode.UNSUPPORTED, False),
        (job(), None, ErrorCode.UNSUPPORTED, True),
        (job(), Encoder("libkvazaar", Codec.H264, Family.SOFTWARE), ErrorCode.UNSUPPORTED, True),
        (job(), Encoder("libx265", Codec.HEVC, Family.SOFTWARE), ErrorCode.BAD_REQUEST, False),
    ],
)
def test_what_can_not_be_done_is_said(spec: JobSpec, chosen: Encoder | None, code: ErrorCode, elsewhere: bool) -> None:
    with pytest.raises(JobError) as raised:
        check(spec, chosen)
    assert raised.value.code is code
    assert raised.value.retry_elsewhere is elsewhere


@pytest.mark.parametrize("codec", AUDIO)
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (22050, 1), (0, 0), (96000, 8)])
def test_sound_gets_a_rate_and_channels_that_its_encoder_takes(codec: Codec, rate: int, channels: int) -> None:
    track = replace(AUDIO_TRACK, sample_rate=rate, channels=channels)
    argv = arguments(job(Target(track, codec, bitrate_kbps=150)), None)
    flags = AUDIO[codec]
    assert int(after("-ar:a:0", argv)) in flags.rates
    assert 1 <= int(after("-ac:a:0", argv)) <= flags.max_channels
    assert after("-b:a:0", argv) == ("160k" if codec is Codec.MP2 else "150k")  # the nearest that there is


@functools.cache
def described(ffmpeg: str, what: str) -> str:
    done = subprocess.run([ffmpeg, "-hide_banner", "-h", what], capture_output=True, text=True, timeout=20)
    return done.stdout


GENERIC = {"-b:v", "-maxrate", "-bufsize", "-bf", "-flags", "-global_quality", "-q:v", "-g"}


@pytest.mark.parametrize("name", [name for name in HARDWARE if not name.endswith(("rkmpp", "videotoolbox"))])
def test_the_encoder_knows_its_flags(name: str) -> None:
    """Nothing can be encoded here without the hardware, but a build that has the encoder lists its options."""
    texts = [described(path, f"encoder={name}") for path in ffmpegs()]
    texts = [text for text in texts if f"Encoder {name}" in text]
    if not texts:
        lacking(f"an ffmpeg with {name}")
    flags = flags_of(encoder(name))
    assert flags is not None
    used = [*flags.bitrate, *flags.quality, *flags.always, *flags.live, *flags.full_speed, flags.preset_flag]
    for text in texts:
        for flag in used:
            if re.fullmatch(r"-[a-z][\w:-]*", flag) and flag not in GENERIC:
                assert re.search(rf"^\s+{flag}\s", text, re.MULTILINE), flag
        for preset in set(flags.presets.values()):
            assert re.search(rf"^\s+{preset}\s", text, re.MULTILINE), preset
