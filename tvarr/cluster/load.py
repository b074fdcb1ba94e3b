"""How much of a host's processors a job takes: an estimate by a table, corrected by how fast the jobs really run.

The table is core seconds a megapixel, measured with FFmpeg 9.0.2 on one x86-64 server core (75 pictures of film,
720x576, user time of `-benchmark`, decoding and reading apart, zerolatency where the encoder has it): at 0.0155
H.264 of 1920x1080 at 30 pictures a second takes one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvarr.cluster.model import Encoder, Family, Need, Target
from tvarr.media.model import Codec, Kind

UNKNOWN_SIZE = (1920, 1080)  # what a picture of which nothing is known is taken for
UNKNOWN_FPS = 25.0

ENCODING: Mapping[str, Mapping[str, float]] = {
    "libx264": {
        "ultrafast": 0.0058,
        "superfast": 0.0113,
        "": 0.0155,  # veryfast
        "veryfast": 0.0155,
        "faster": 0.031,
        "fast": 0.047,
        "medium": 0.058,
        "slow": 0.111,
        "slower": 0.186,
        "veryslow": 0.405,
        "placebo": 0.8,
    },
    "libx265": {
        "ultrafast": 0.041,
        "": 0.097,  # superfast
        "superfast": 0.097,
        "veryfast": 0.097,
        "faster": 0.098,
        "fast": 0.112,
        "medium": 0.143,
        "slow": 0.391,
        "slower": 0.8,
        "veryslow": 1.2,
        "placebo": 2.5,
    },
    "libsvtav1": {"": 0.025, "ultrafast": 0.0205, "medium": 0.0665, "slow": 0.08, "slower": 0.097, "veryslow": 0.15},
    "libaom-av1": {"": 0.04, "fast": 0.06, "medium": 0.06, "slow": 0.09, "slower": 0.09, "veryslow": 0.13},
    "libvpx-vp9": {"": 0.0185},
    "mpeg2video": {"": 0.0037},
}
"""By software encoder and preset; the empty preset is the encoder's default in `tvarr.ffmpeg.families`. The slowest
presets, and what is missing, are extrapolated."""

UNKNOWN_ENCODER = 0.05
DECODING: Mapping[Codec, float] = {
    Codec.H264: 0.006,
    Codec.HEVC: 0.008,
    Codec.MPEG1VIDEO: 0.0012,
    Codec.MPEG2VIDEO: 0.0012,
    Codec.AV1: 0.0068,
    Codec.VP9: 0.0056,
}
UNKNOWN_DECODER = 0.008
TRANSFER = 0.001  # pictures that software decoded, up to a hardware encoder
FULL_HARDWARE = 0.0003  # pictures never leave the device: what remains is packets
AUDIO_CORES = 0.02  # one sound track, decoded and encoded
FETCH_CORES = 0.04  # a source fetched, copied and sent on, at 8 Mb/s

SLOW_BELOW = 0.95  # a job that runs slower than this does not keep up
EASE = 0.05  # by which a correction goes back to 1 with each heartbeat in which all jobs keep up
FACTORS = (0.1, 10.0)  # bounds of the correction


def fitted(target: Target) -> tuple[int, int]:
    """The size of a target's picture: the source's, made smaller where it does not fit into the target's box."""
    track = target.track
    width, height = (track.width, track.height) if track.width and track.height else UNKNOWN_SIZE
    scale = min(1.0, (target.width or width) / width, (target.height or height) / height)
    return round(width * scale), round(height * scale)


def cost_cores(need: Need, encoder: Encoder | None, *, hw_decode: bool) -> float:
    """Processors that the job keeps busy at real time, by the table."""
    return FETCH_CORES * bool(need.protocol) + sum(
        _video_cost(target, encoder, hw_decode) if target.track.kind is Kind.VIDEO else AUDIO_CORES
        for target in need.targets
    )


def _video_cost(target: Target, encoder: Encoder | None, hw_decode: bool) -> float:
    track = target.track
    fps_in = track.fps or target.fps or UNKNOWN_FPS
    in_width, in_height = (track.width, track.height) if track.width and track.height else UNKNOWN_SIZE
    width, height = fitted(target)
    pixels_in = in_width * in_height * fps_in / 1e6
    pixels_out = width * height * (target.fps or fps_in) / 1e6
    if hw_decode:
        return pixels_in * FULL_HARDWARE
    decoding = pixels_in * DECODING.get(track.codec, UNKNOWN_DECODER)
    return decoding + pixels_out * encoding_factor(encoder, target.preset)


def encoding_factor(encoder: Encoder | None, preset: str) -> float:
    """Core seconds a megapixel."""
    if encoder is None:
        return 0.0
    if encoder.family is not Family.SOFTWARE:
        return TRANSFER
    presets = ENCODING.get(encoder.name)
    if presets is None:
        return UNKNOWN_ENCODER
    return presets.get(preset, presets[""])


def corrected(factor: float, cpu_count: int, load_cores: float, speeds: Sequence[tuple[float, float]]) -> float:
    """What the work of a host really costs over the table, seen from its jobs.

    `load_cores` is all work by the table, `speeds` has (speed, cost by the table) of the jobs that were measured; the
    others are taken to run at 1. A host that does `d` cores' worth of the table's work has a factor of at most
    `cpu_count / d`, or it could not do so much; where a job does not keep up, its processors are busy, and the factor
    is just that. While all keep up, a factor above 1 goes back slowly, so that one bad hour is not for ever.
    """
    if cpu_count <= 0 or not speeds:
        return factor
    measured = sum(cost for _, cost in speeds)
    done = sum(speed * cost for speed, cost in speeds) + max(0.0, load_cores - measured)
    if done <= 0:
        return factor
    most = cpu_count / done
    if any(speed < SLOW_BELOW for speed, _ in speeds):
        factor = (factor + most) / 2
    else:
        factor = min(factor + (1.0 - factor) * EASE, most)
        if abs(factor - 1.0) < 0.01:
            factor = 1.0
    return min(max(factor, FACTORS[0]), FACTORS[1])
