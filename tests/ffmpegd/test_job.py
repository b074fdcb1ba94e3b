"""Whole jobs through real ffmpegs: what goes in comes out, on the same timeline."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable

import pytest

from tests.conftest import lacking
from tests.ffmpeg.support import FFMPEGS, require
from tests.ffmpegd.job_support import Source, make_ts, read_ts, transcode
from tvarr.cluster.model import JobSpec, Target
from tvarr.media.model import TICKS_33BIT, Codec, Kind, Sample

START = 7 * TICKS_33BIT + 12_345  # far along: nothing may depend on a small T, or on one of 33 bits

SOURCES = {
    "25": ("testsrc2=s=320x180:r=25:d=3", "50"),
    "29.97": ("testsrc2=s=320x180:r=30000/1001:d=3", "60"),
    "50": ("testsrc2=s=320x180:r=50:d=2", "100"),
}


@pytest.fixture(params=FFMPEGS)
def ffmpeg(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """Clips with B-frames by their frame rate, each made once."""
    folder, made = tmp_path_factory.mktemp("sources"), dict[str, Source]()
    maker = next((p.values[0] for p in FFMPEGS if p.values[0]), None) or shutil.which("ffmpeg")

    def source(name: str) -> Source:
        if maker is None:
            lacking("an ffmpeg")
        if name not in made:
            picture, gop = SOURCES[name]
            inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=f=440:r=48000:d=3", "-shortest"]
            video = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", gop, "-pix_fmt", "yuv420p"]
            path = make_ts(str(maker), folder / f"{name}.ts", *inputs, *video, "-c:a", "aac", "-b:a", "96k")
            made[name] = read_ts(path, START)
        return made[name]

    return source


def spec(source: Source, video: Codec | None, audio: Codec | None = None, **more: object) -> JobSpec:
    targets = []
    if video:
        targets.append(Target(source.track(Kind.VIDEO), video, bitrate_kbps=400))
    if audio:
        targets.append(Target(source.track(Kind.AUDIO), audio))
    return JobSpec("test", tuple(targets), **more)  # type: ignore[arg-type]


def times(samples: list[Sample]) -> list[int]:
    return sorted(sample.pts_ticks for sample in samples)


def steps(samples: list[Sample]) -> set[int]:
    pts = [sample.pts_ticks for sample in samples]
    return {b - a for a, b in itertools.pairwise(pts)}


@pytest.mark.parametrize("rate", SOURCES)
@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC])
async def test_every_picture_keeps_its_time(
    ffmpeg: str, sources: Callable[[str], Source], rate: str, codec: Codec
) -> None:
    source = sources(rate)
    client = await transcode(ffmpeg, spec(source, codec, Codec.AAC), source.batches())
    video, audio = (client.samples_of(source.track(kind)) for kind in (Kind.VIDEO, Kind.AUDIO))
    assert times(video) == times(source.of(Kind.VIDEO))
    assert all(s.dts_ticks <= s.pts_ticks for s in video)
    assert video[0].keyframe
    assert steps(audio) == {1920}
    assert abs(audio[-1].pts_ticks - source.of(Kind.AUDIO)[-1].pts_ticks) <= 2 * 1920
