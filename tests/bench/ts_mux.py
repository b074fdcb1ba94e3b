"""How fast samples become packets: 1080p30 H.264 at 8 Mb/s with AAC at 128 kb/s. MB/s of output."""

from __future__ import annotations

from time import process_time

from tests.bench.bench import Bench
from tests.bench.report import at_least
from tvarr.media.model import TICKS_PER_SECOND, Codec, Sample, Track, Tracks
from tvarr.media.mpegts.mux import Muxer

VIDEO, AUDIO = 256, 257
TRACKS = Tracks((Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC, language="eng")))
FPS, GOP, VIDEO_KBPS, AUDIO_KBPS = 30, 60, 8000, 128
KEYFRAME_SHARE = 8  # a keyframe is as large as so many other pictures


def one_gop() -> list[Sample]:
    """Two seconds of access units of plausible sizes, interleaved by DTS."""
    picture_bytes = VIDEO_KBPS * 125 * GOP // FPS // (GOP - 1 + KEYFRAME_SHARE)
    samples = []
    for n in range(GOP):
        size = picture_bytes * (KEYFRAME_SHARE if n == 0 else 1)
        dts = n * TICKS_PER_SECOND // FPS
        data = b"\x00\x00\x00\x01\x09\xf0\x00\x00\x00\x01\x67" + bytes(size)
        samples.append(Sample(VIDEO, dts + 6000, dts, data, n == 0))
    frame = b"\xff\xf1" + bytes(AUDIO_KBPS * 125 * 1024 // 48_000)
    samples += [Sample(AUDIO, n * 1920, n * 1920, frame, True) for n in range(GOP * TICKS_PER_SECOND // FPS // 1920)]
    return sorted(samples, key=lambda s: s.dts_ticks)


def run(bench: Bench) -> None:
    gop, length = one_gop(), GOP * TICKS_PER_SECOND // FPS
    muxer = Muxer()
    muxer.set_tracks(TRACKS)
    written, spent, lap = 0, 0.0, 0
    while spent < 2:
        shifted = [s._replace(pts_ticks=s.pts_ticks + lap, dts_ticks=s.dts_ticks + lap) for s in gop]
        batches = [shifted[at : at + 5] for at in range(0, len(shifted), 5)]
        begun = process_time()
        written += sum(len(chunk.data) for batch in batches for chunk in muxer.mux(batch))
        spent += process_time() - begun
        lap += length
    bench.report.add("mux MPEG-TS", written / spent / 1e6, "MB/s", aim=at_least(250), more=f"{written / 1e6:.0f} MB")
