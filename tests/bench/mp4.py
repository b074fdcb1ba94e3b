"""How fast samples become fragmented MP4 and come back: 1080p30 H.264 at 8 Mb/s with AAC at 128 kb/s. MB/s of file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from time import process_time

from tests.bench.bench import Bench
from tests.bench.report import at_least
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.fmp4.mux import Muxer
from tvarr.media.model import TICKS_PER_SECOND, Codec, Sample, Track

VIDEO, AUDIO = 1, 2
FPS, GOP, VIDEO_KBPS, AUDIO_KBPS = 30, 60, 8000, 128
KEYFRAME_SHARE = 8  # a keyframe is as large as so many other pictures
CHUNK_BYTES = 1 << 16  # as they come from a socket
SPS, PPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96"), bytes.fromhex("68ebecb22c")
TRACKS = (Track(VIDEO, Codec.H264, init=joined([SPS, PPS])), Track(AUDIO, Codec.AAC, sample_rate=48_000, channels=2))


def one_gop() -> list[Sample]:
    """Two seconds of access units of plausible sizes, interleaved by DTS."""
    noise = random.Random(1)
    picture_bytes = VIDEO_KBPS * 125 * GOP // FPS // (GOP - 1 + KEYFRAME_SHARE)
    samples = []
    for n in range(GOP):
        body = noise.randbytes(picture_bytes * (KEYFRAME_SHARE if n == 0 else 1)).replace(b"\x00\x00", b"\x01\x01")
        units = [b"\x09\xf0", SPS, PPS, b"\x65" + body] if n == 0 else [b"\x09\xf0", b"\x41" + body]
        dts = n * TICKS_PER_SECOND // FPS
        samples.append(Sample(VIDEO, dts + 6000, dts, joined(units), n == 0))
    size = 7 + AUDIO_KBPS * 125 * 1024 // 48_000
    header = bytes((0xFF, 0xF1, 0x4C, 0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC))
    frame = header + noise.randbytes(size - 7)
    samples += [Sample(AUDIO, n * 1920, n * 1920, frame, True) for n in range(GOP * TICKS_PER_SECOND // FPS // 1920)]
    return sorted(samples, key=lambda s: s.dts_ticks)


def laps() -> Iterator[list[Sample]]:
    gop, lap = one_gop(), 0
    while True:
        yield [s._replace(pts_ticks=s.pts_ticks + lap, dts_ticks=s.dts_ticks + lap) for s in gop]
        lap += GOP * TICKS_PER_SECOND // FPS


def run(bench: Bench) -> None:
    muxer, written, spent, segments = Muxer(TRACKS), 0, 0.0, []
    for number, samples in enumerate(laps(), 1):
        begun = process_time()
        for sample in samples:
            if muxer.differs(sample):
                muxer.learn(sample)
        segment = muxer.fragment(number, samples)
        spent += process_time() - begun
        written += len(segment)
        segments = segments if number > 50 else [*segments, segment]
        if spent >= 2:
            break
    bench.report.add("mux MP4", written / spent / 1e6, "MB/s", aim=at_least(250), more=f"{written / 1e6:.0f} MB")
    data = muxer.init_segment() + b"".join(segments)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    read, spent = 0, 0.0
    while spent < 2:
        demuxer, begun = Demuxer(), process_time()
        read += sum(len(event.data) for chunk in chunks for event in demuxer.feed(chunk) if isinstance(event, Sample))
        spent += process_time() - begun
    bench.report.add("demux MP4", read / spent / 1e6, "MB/s", aim=at_least(250), more=f"{read / 1e6:.0f} MB")
