"""Whole jobs with codecs that MPEG-TS does not carry: in, out, and both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.conftest import SHARED_MEDIA, lacking
from tests.ffmpeg.support import FFMPEGS, require
from tests.ffmpegd.job_support import Client, Source, make_ts, read_ts, transcode
from tvarr.cluster.model import Encoder, JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.locate import find_ffmpeg
from tvarr.hwaccel.build import read_build
from tvarr.hwaccel.inventory import Inventory
from tvarr.hwaccel.trial import plan_trials, run_trials
from tvarr.media.codecs import av1, vp9
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Codec, Kind, Sample, Tracks

START = 7 * TICKS_33BIT + 12_345


@pytest.fixture(scope="module", params=FFMPEGS)
def ffmpeg(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """5 s at 29.97 pictures a second, H.264 with B-frames and AAC of 44.1 kHz."""
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30000/1001:d=5"]
    inputs += ["-f", "lavfi", "-i", "sine=f=440:r=44100:d=5"]
    video = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "60", "-pix_fmt", "yuv420p"]
    path = tmp_path_factory.mktemp("source") / "source.ts"
    return read_ts(make_ts(require(FFMPEGS[0].values[0]), path, *inputs, *video, "-c:a", "aac"), START)


async def encoders_of(ffmpeg: str, codec: Codec) -> list[Encoder]:
    """What this ffmpeg encodes the codec with, by trial encodes as a daemon makes them, best first."""
    found = find_ffmpeg(ffmpeg)
    trials = [t for t in plan_trials(await read_build(found), Inventory()).trials if t.encoder.codec is codec]
    return [encoder for encoder in await run_trials(ffmpeg, trials) if encoder.usable]


async def encoded(ffmpeg: str, codec: Codec, spec: JobSpec, batches: list[list[Sample]]) -> Client:
    usable = await encoders_of(ffmpeg, codec)
    if not usable:
        lacking(f"an ffmpeg that encodes {codec}")
    return await transcode(ffmpeg, replace(spec, encoder=usable[0].name), batches, encoders=usable)


def job(source: Source, codec: Codec, sound: Codec = Codec.AAC, **more: object) -> JobSpec:
    targets = (
        Target(source.track(Kind.VIDEO), codec, bitrate_kbps=400, gop_s=1.0),
        Target(source.track(Kind.AUDIO), sound),
    )
    return JobSpec("test", targets, **more)  # type: ignore[arg-type]


def times(samples: list[Sample]) -> list[int]:
    return sorted(sample.pts_ticks for sample in samples)


@pytest.mark.parametrize(("codec", "sound"), [(Codec.AV1, Codec.AAC), (Codec.VP9, Codec.OPUS)])
async def test_every_picture_keeps_its_time_and_keyframes_fall_where_they_are_forced(
    ffmpeg: str, source: Source, codec: Codec, sound: Codec
) -> None:
    shown = times(source.of(Kind.VIDEO))
    forced = shown[40]
    spec = job(source, codec, sound, first_keyframe_ticks=forced)
    client = await encoded(ffmpeg, codec, spec, source.batches())
    video, audio = (client.samples_of(source.track(kind)) for kind in (Kind.VIDEO, Kind.AUDIO))
    assert times(video) == shown
    assert all(sample.dts_ticks <= sample.pts_ticks for sample in video)
    grid = {b for a, b in itertools.pairwise(shown) if a // TICKS_PER_SECOND != b // TICKS_PER_SECOND}
    assert [sample.pts_ticks for sample in video if sample.keyframe] == sorted({shown[0], forced} | grid)
    frame = {Codec.AAC: 1024 / 44100, Codec.OPUS: 0.02}[sound] * TICKS_PER_SECOND
    assert all(abs(b - a - frame) <= 1 for a, b in itertools.pairwise(times(audio)))
    assert abs(times(audio)[0] - times(source.of(Kind.AUDIO))[0]) <= 2 * frame
    sizes = {(320, 180)}
    if codec is Codec.AV1:
        headers = [av1.parse_sequence(av1.sequence_header(s.data)) for s in video if s.keyframe]
        assert {(head.width, head.height) for head in headers} == sizes
    else:
        heads = [vp9.parse_keyframe(s.data) for s in video if s.keyframe]
        assert {(head.width, head.height) for head in heads} == sizes


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1])
async def test_it_begins_anywhere(ffmpeg: str, source: Source, codec: Codec) -> None:
    """With the bitrate that was asked for, also where ffmpeg's analysis sees no picture, and so no frame rate."""
    sound = source.of(Kind.AUDIO)[:20]
    pictures = source.of(Kind.VIDEO)[:30]
    filler = b"\x00\x00\x01\x0c" + b"\xff" * 70_000 + b"\x80"
    pictures[0] = pictures[0]._replace(data=pictures[0].data + filler)
    client = await encoded(ffmpeg, codec, job(source, codec), [[*sound, *pictures]])
    made = client.samples_of(source.track(Kind.VIDEO))
    assert times(made) == times(pictures)
    kbps = sum(len(sample.data) for sample in made) * 8 * 29.97 / len(made) / 1000
    assert 250 < kbps < 1000  # one second, with two keyframes


@pytest.mark.parametrize("codec", [Codec.AV1, Codec.VP9])
async def test_what_was_made_can_be_made_into_something_else(ffmpeg: str, source: Source, codec: Codec) -> None:
    """The output of one job is the input of the next: from MPEG-TS to MP4, from MP4 to each."""
    first = await encoded(ffmpeg, codec, job(source, codec), source.batches())
    tracks = tuple(replace(t, codec=codec if t.kind is Kind.VIDEO else Codec.AAC, init=b"") for t in source.tracks)
    made = Source(tracks, sorted(first.samples(), key=lambda sample: sample.dts_ticks))
    back = await encoded(ffmpeg, Codec.H264, job(made, Codec.H264), made.batches())
    again = await encoded(ffmpeg, codec, job(made, codec), made.batches())
    shown = times(source.of(Kind.VIDEO))
    for client in (back, again):
        assert times(client.samples_of(source.track(Kind.VIDEO))) == shown
        heard = times(client.samples_of(source.track(Kind.AUDIO)))
        assert abs(len(heard) - len(made.of(Kind.AUDIO))) <= 3
        frame = 1024 / 44100 * TICKS_PER_SECOND
        assert all(abs(b - a - frame) <= 1 for a, b in itertools.pairwise(heard))


@pytest.mark.parametrize("name", ["offline_av1.mp4", "offline_vp9.mp4"])
async def test_real_files(ffmpeg: str, name: str) -> None:
    if not SHARED_MEDIA.is_dir():
        lacking("the folder ../shared/media")
    demuxer = Demuxer()
    events = demuxer.feed((SHARED_MEDIA / "mp4_small" / name).read_bytes()) + demuxer.flush()
    (tracks,) = [event for event in events if isinstance(event, Tracks)]
    samples = [event for event in events if isinstance(event, Sample)]
    target = Target(tracks.tracks[0], Codec.H264, width=320, preset="ultrafast")
    client = await encoded(ffmpeg, Codec.H264, JobSpec("test", (target,)), [samples])
    assert times(client.samples()) == times(samples)


async def test_sound_that_changes_its_rate_needs_another_process(source: Source) -> None:
    """ffmpeg reads one index; what comes under another would sound wrong."""
    made = await encoded(ffmpeg_of(0), Codec.VP9, job(source, Codec.VP9), source.batches())
    tracks = tuple(replace(t, codec=Codec.VP9 if t.kind is Kind.VIDEO else Codec.AAC) for t in source.tracks)
    samples = sorted(made.samples(), key=lambda sample: sample.dts_ticks)
    sound = source.track(Kind.AUDIO).id
    half = len(samples) // 2

    def faster(sample: Sample) -> Sample:
        """Its ADTS header says 48 kHz (index 3 instead of 4)."""
        head = bytes([sample.data[2] & 0xC3 | 3 << 2])
        return sample._replace(data=sample.data[:2] + head + sample.data[3:])

    changed = samples[:half] + [faster(s) if s.track == sound else s for s in samples[half:]]
    with pytest.raises(JobError, match="the sound is another") as raised:
        await transcode(ffmpeg_of(0), job(Source(tracks, changed), Codec.H264), [changed[:half], changed[half:]])
    assert (raised.value.code, raised.value.retry_elsewhere) == (ErrorCode.BAD_INPUT, True)


def ffmpeg_of(number: int) -> str:
    return require(FFMPEGS[number].values[0])
