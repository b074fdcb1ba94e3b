"""Whole jobs through real ffmpegs: what goes in comes out, on the same timeline."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import lacking
from tests.ffmpeg.support import FFMPEGS, require
from tests.ffmpegd.job_support import Source, make_ts, read_ts, transcode, without_reorder_hint
from tvarr.cluster.model import JobSpec, Target
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec, Kind, Sample
from tvarr.wire import messages

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


async def test_sound_alone(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    source = sources("25")
    track = source.track(Kind.AUDIO)
    client = await transcode(ffmpeg, spec(source, None, Codec.AC3), source.batches())
    samples = client.samples_of(track)
    assert client.samples() == samples
    assert steps(samples) == {2880}  # 1536 samples of 48 kHz
    assert abs(times(samples)[0] - times(source.of(Kind.AUDIO))[0]) <= 2880
    (ack,) = client.all_of(messages.TranscodeAck)
    assert (ack.encoder, ack.decoder) == ("", "software")


async def test_picture_alone(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    source = sources("25")
    client = await transcode(ffmpeg, spec(source, Codec.MPEG2VIDEO), source.batches())
    assert times(client.samples()) == times(source.of(Kind.VIDEO))
    changed = client.all_of(messages.TracksChanged)[-1]
    (track,) = changed.tracks
    assert (track.id, track.codec, track.width, track.height) == (source.track(Kind.VIDEO).id, "mpeg2video", 320, 180)


@pytest.mark.parametrize("codec", [Codec.AAC, Codec.AC3, Codec.EAC3, Codec.OPUS, Codec.MP2, Codec.MP3])
async def test_every_codec_of_sound_comes_without_a_gap(sources: Callable[[str], Source], codec: Codec) -> None:
    source = sources("25")
    client = await transcode(require(FFMPEGS[0].values[0]), spec(source, None, codec), source.batches())
    samples = client.samples()
    assert len(steps(samples)) == 1
    covered = samples[-1].pts_ticks - samples[0].pts_ticks + steps(samples).pop()
    assert abs(covered - 3 * TICKS_PER_SECOND) < TICKS_PER_SECOND // 8
    assert client.all_of(messages.TracksChanged)[-1].tracks[0].codec == codec.value


async def test_sound_in_latm_beside_a_large_picture(ffmpeg: str, tmp_path: Path) -> None:
    """ffmpeg believes LATM only after several frames; many bytes of pictures come before that."""
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=2,noise=alls=60:allf=t"]
    inputs += ["-f", "lavfi", "-i", "sine=f=440:r=48000:d=2"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-b:v", "8M", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    path = make_ts(require(ffmpeg), tmp_path / "latm.ts", *inputs, *codecs, "-mpegts_flags", "latm")
    source = read_ts(path, START)
    assert source.track(Kind.AUDIO).codec is Codec.AAC_LATM
    client = await transcode(ffmpeg, spec(source, Codec.H264, Codec.AAC), source.batches())
    assert times(client.samples_of(source.track(Kind.VIDEO))) == times(source.of(Kind.VIDEO))
    assert steps(client.samples_of(source.track(Kind.AUDIO))) == {1920}


async def test_sound_in_dts(ffmpeg: str, tmp_path: Path) -> None:
    """FFmpeg announces it by a stream type that only the payload explains."""
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=2", "-f", "lavfi", "-i", "sine=f=440:r=48000:d=2"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-af", "aformat=channel_layouts=5.1", "-c:a", "dca"]
    source = read_ts(make_ts(require(ffmpeg), tmp_path / "dts.ts", *inputs, *codecs, "-strict", "-2"), START)
    track = source.track(Kind.AUDIO)
    assert (track.codec, track.sample_rate, track.channels) == (Codec.DTS, 48_000, 6)
    client = await transcode(ffmpeg, spec(source, Codec.H264, Codec.AAC), source.batches())
    assert times(client.samples_of(source.track(Kind.VIDEO))) == times(source.of(Kind.VIDEO))
    assert steps(client.samples_of(track)) == {1920}
    assert client.all_of(messages.TracksChanged)[-1].tracks[1].codec == "aac"


async def test_lost_sound_becomes_silence(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    source = sources("25")
    audio = source.of(Kind.AUDIO)
    lost = {*audio[20:21], *audio[50:60]}
    kept = [sample for sample in source.samples if sample not in lost]
    client = await transcode(ffmpeg, spec(source, None, Codec.AAC), [kept])
    assert steps(client.samples()) == {1920}


async def test_keyframes_fall_on_the_timeline_and_where_they_are_forced(
    ffmpeg: str, sources: Callable[[str], Source]
) -> None:
    source = sources("25")
    shown = times(source.of(Kind.VIDEO))
    forced = shown[33]
    for codec in (Codec.H264, Codec.HEVC):
        wanted = spec(source, codec, first_keyframe_ticks=forced - 1)
        wanted = replace(wanted, targets=tuple(replace(t, gop_s=1.0) for t in wanted.targets))
        client = await transcode(ffmpeg, wanted, source.batches())
        grid = {b for a, b in itertools.pairwise(shown) if a // 90_000 != b // 90_000}
        got = [sample.pts_ticks for sample in client.samples() if sample.keyframe]
        assert got == sorted({shown[0], forced} | grid)


async def test_a_second_job_continues_the_first_at_any_picture(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    """What design/TAKEOVER.md needs of a job: cut at picture 47, resumed from the keyframe before it."""
    source = sources("29.97")
    video = source.of(Kind.VIDEO)
    shown = times(video)
    frontier = shown[47]
    key = max(n for n, s in enumerate(source.samples) if s in video and s.keyframe and s.pts_ticks <= frontier)
    resumed = spec(source, Codec.H264, Codec.AAC, first_keyframe_ticks=frontier + 1)
    first = await transcode(ffmpeg, spec(source, Codec.H264, Codec.AAC), source.batches())
    second = await transcode(ffmpeg, resumed, [source.samples[key:]])
    track = source.track(Kind.VIDEO)
    released = [s for s in first.samples_of(track) if s.pts_ticks <= frontier]
    added = [s for s in second.samples_of(track) if s.pts_ticks > frontier]
    assert added[0].keyframe
    assert [s.pts_ticks for s in released + added] == shown
    assert added[0].dts_ticks > released[-1].dts_ticks
    audio = source.track(Kind.AUDIO)
    a, b = ({s.pts_ticks for s in client.samples_of(audio)} for client in (first, second))
    assert {t for t in a if t > frontier + 9000} == {t for t in b if t > frontier + 9000}


async def test_a_changed_frame_rate_gives_the_same_grid_in_every_job(
    ffmpeg: str, sources: Callable[[str], Source]
) -> None:
    source = sources("50")
    key = max(n for n, s in enumerate(source.samples) if s.track == source.track(Kind.VIDEO).id and s.keyframe)
    wanted = spec(source, Codec.H264)
    wanted = replace(wanted, targets=tuple(replace(t, fps=29.97) for t in wanted.targets))
    whole, tail = [await transcode(ffmpeg, wanted, [source.samples[at:]]) for at in (0, key)]
    assert steps(whole.samples()) == {3003}
    assert all(sample.pts_ticks % 3003 == 0 for sample in whole.samples() + tail.samples())
    assert [s.pts_ticks for s in tail.samples()] == [s.pts_ticks for s in whole.samples()][-len(tail.samples()) :]


async def test_the_picture_fits(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    source = sources("25")
    wanted = spec(source, Codec.H264)
    wanted = replace(wanted, targets=tuple(replace(t, width=200, height=200) for t in wanted.targets))
    client = await transcode(ffmpeg, wanted, source.batches())
    (track,) = client.all_of(messages.TracksChanged)[-1].tracks
    assert (track.width, track.height) == (200, 112)


async def test_full_speed_may_reorder_and_loses_nothing(ffmpeg: str, sources: Callable[[str], Source]) -> None:
    source = sources("25")
    client = await transcode(ffmpeg, spec(source, Codec.H264, Codec.AAC, full_speed=True), source.batches())
    video = client.samples_of(source.track(Kind.VIDEO))
    assert times(video) == times(source.of(Kind.VIDEO))
    dts = [sample.dts_ticks for sample in video]
    assert dts == sorted(set(dts))
    assert client.received[-1] == messages.OutputComplete(samples=len(client.samples()))


async def test_a_job_without_input(sources: Callable[[str], Source]) -> None:
    source = sources("25")
    client = await transcode(require(FFMPEGS[0].values[0]), spec(source, Codec.H264), [])
    assert [type(item) for item in client.received] == [messages.OutputComplete]


async def test_pictures_stay_in_order_where_the_stream_does_not_say_how_they_are_reordered(
    ffmpeg: str, sources: Callable[[str], Source]
) -> None:
    source = sources("25")
    track = source.track(Kind.VIDEO)
    blind = [without_reorder_hint(s) if s.track == track.id and s.keyframe else s for s in source.samples]
    client = await transcode(ffmpeg, spec(source, Codec.H264), [blind])
    assert times(client.samples()) == times(source.of(Kind.VIDEO))
    assert not any("DTS" in line for stats in client.all_of(messages.TranscodeStats) for line in stats.warnings)


@pytest.mark.parametrize("name", ["h264_aac_scte35_80s", "mpeg2_mp2_pcr_own_pid", "wrong_streamtype_no_pcr"])
async def test_real_captures(ffmpeg: str, media_dir: Path, name: str) -> None:
    """Broadcast MPEG-2 is interlaced, begins within a group of pictures and has B-frames."""
    whole = read_ts(media_dir / f"{name}.ts", START)
    end = START + 8 * TICKS_PER_SECOND
    source = replace(whole, samples=[sample for sample in whole.samples if sample.dts_ticks < end])
    video = source.of(Kind.VIDEO)
    first = next(sample.pts_ticks for sample in video if sample.keyframe)
    wanted = spec(source, Codec.H264, Codec.AAC)
    wanted = replace(wanted, targets=tuple(replace(t, preset="ultrafast") for t in wanted.targets))
    client = await transcode(ffmpeg, wanted, source.batches())
    got = times(client.samples_of(source.track(Kind.VIDEO)))
    assert got == [pts for pts in times(video) if pts >= first]
    assert steps(client.samples_of(source.track(Kind.AUDIO))) == {1920}
