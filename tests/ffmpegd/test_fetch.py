"""Sources that a daemon fetches: real senders, a real ffmpeg, and the samples that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.clips import make_clip
from tests.fakes.senders import RtspServer, free_port, sending
from tests.fakes.sources import ScriptedServer, answer
from tests.ffmpeg.support import FFMPEGS, require, wait_until
from tests.ffmpegd.job_support import Client, binary, capabilities, children
from tvarr.cluster.model import JobSpec, Source
from tvarr.cluster.schemes import NEEDS
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpegd.fetch import FetchJob
from tvarr.media.model import Kind, Sample, Track
from tvarr.media.mpegts.demux import Demuxer
from tvarr.wire import convert, messages

HALF_S = 12  # pictures
VIDEO = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-b:v", "300k")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("fetch") / "clip.ts", seconds=3, size="320x180", video=VIDEO)


@asynccontextmanager
async def fetching(
    ffmpeg: str, url: str, *, silence_s: float = 10.0, **source: object
) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    client = Client()
    spec = JobSpec("fetch", (), fetch=Source(url, **source))  # type: ignore[arg-type]
    able = replace(capabilities(), protocols=frozenset(NEEDS))
    job = FetchJob(spec, client.stream, binary(ffmpeg), able, silence_s=silence_s)
    before = set(children())
    collecting = asyncio.create_task(client.collect())
    task = asyncio.create_task(job.run())
    try:
        yield client, task
    finally:
        task.cancel()
        collecting.cancel()
        await asyncio.gather(task, collecting, return_exceptions=True)
        await client.stream.close()
    await wait_until(lambda: set(children()) <= before)


def tracks_of(client: Client) -> dict[Kind, Track]:
    latest = client.all_of(messages.TracksChanged)[-1]
    return {track.kind: track for track in convert.tracks_from_wire(latest.tracks)}


async def pictures(client: Client, task: asyncio.Task[None], least: int) -> int:
    """Waits for so many; they are those of the clip."""

    def enough() -> bool:
        if task.done():
            task.result()
        if not client.all_of(messages.TracksChanged):
            return False
        track = tracks_of(client).get(Kind.VIDEO)
        return track is not None and track.width > 0 and len(client.samples_of(track)) >= least

    await wait_until(enough, 20.0)
    return len(client.samples_of(tracks_of(client)[Kind.VIDEO]))


@pytest.mark.parametrize("name", ["udp", "multicast", "rtp", "tcp", "srt", "srt-secret", "rtmp", "mkv"])
async def test_what_is_sent_comes_back_as_samples(name: str, clip: Path) -> None:
    with sending(name, clip, loops=2) as url:
        async with fetching(require(FFMPEGS[0].values[0]), url) as (client, task):
            await pictures(client, task, HALF_S)
            ack = client.all_of(messages.TranscodeAck)[0]
            running = [
                " ".join(child.cmdline()) for child in psutil.Process().children() if "pipe:1" in child.cmdline()
            ]
    found = tracks_of(client)
    assert {kind: track.codec.value for kind, track in found.items()} == {Kind.VIDEO: "h264", Kind.AUDIO: "aac"}
    assert (found[Kind.VIDEO].width, found[Kind.VIDEO].height) == (320, 180)
    video = client.samples_of(found[Kind.VIDEO])
    steps = [later.dts_ticks - earlier.dts_ticks for earlier, later in pairwise(video)]
    assert all(3500 < step < 3700 for step in steps), steps  # FLV and Matroska round to 1 ms
    assert "sesame" not in ack.command
    assert running
    assert "sesame" not in " ".join(running)


@pytest.mark.parametrize("ffmpeg", FFMPEGS[1:])
async def test_the_wheels_ffmpeg_fetches_too(ffmpeg: str, clip: Path) -> None:
    with sending("rtmp", clip) as url:
        async with fetching(require(ffmpeg), url) as (client, task):
            await asyncio.wait_for(task, 20)
    assert len(client.samples_of(tracks_of(client)[Kind.VIDEO])) == 75
    assert isinstance(client.received[-1], messages.OutputComplete)


async def test_a_source_is_read_to_its_end_and_nothing_is_lost(clip: Path) -> None:
    with sending("tcp", clip) as url:
        async with fetching(require(FFMPEGS[0].values[0]), url) as (client, task):
            await asyncio.wait_for(task, 20)
    video = client.samples_of(tracks_of(client)[Kind.VIDEO])
    assert len(video) == 75
    assert sum(sample.keyframe for sample in video) == 3
    assert client.received[-1] == messages.OutputComplete(samples=len(client.samples()))


@pytest.mark.parametrize("ffmpeg", FFMPEGS)
async def test_rtsp_with_pictures_out_of_order(ffmpeg: str, clip: Path) -> None:
    """RTP says when they are shown, and not when they are decoded."""
    server = RtspServer(clip, "-c:v", "copy", "-c:a", "aac")
    async with server.serving() as url, fetching(require(ffmpeg), url) as (client, task):
        await pictures(client, task, 30)
    video = client.samples_of(tracks_of(client)[Kind.VIDEO])
    steps = [later.dts_ticks - earlier.dts_ticks for earlier, later in pairwise(video)]
    assert all(3500 < step < 3700 for step in steps), steps
    assert all(sample.dts_ticks <= sample.pts_ticks for sample in video)
    assert sum(sample.dts_ticks < sample.pts_ticks for sample in video) > 10


async def test_rtsp_with_credentials_and_a_codec_that_is_encoded(clip: Path) -> None:
    """A camera: MPEG-4 pictures and G.711 sound, behind a password."""
    secret = "Basic YWRtaW46c2VzYW1l"  # admin:sesame
    codecs = ("-c:v", "mpeg4", "-c:a", "pcm_alaw", "-ar", "8000")
    server = RtspServer(clip, *codecs, credentials=secret)
    async with server.serving() as url:
        with_secret = url.replace("//", "//admin:sesame@")
        async with fetching(require(FFMPEGS[0].values[0]), with_secret) as (client, task):
            await pictures(client, task, HALF_S)
            running = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        assert server.most_open == 1
    found = tracks_of(client)
    assert {kind: track.codec.value for kind, track in found.items()} == {Kind.VIDEO: "h264", Kind.AUDIO: "aac"}
    assert not any("admin" in line or "YWRtaW4" in line for line in running)


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("tcp://127.0.0.1:{p}", ErrorCode.SOURCE_GONE, "refuses the connection"),
        ("rtsp://admin:sesame@127.0.0.1:{p}/cam", ErrorCode.SOURCE_GONE, "refuses the connection"),
        ("rtmp://nowhere.invalid/live/sesame", ErrorCode.SOURCE_UNREACHABLE, "host name is not known"),
        ("udp://127.0.0.1:{p}", ErrorCode.SOURCE_UNREACHABLE, "sent nothing"),
        ("file:/etc/passwd", ErrorCode.BAD_REQUEST, "file: sources are not fetched"),
        ("concat:/etc/passwd", ErrorCode.BAD_REQUEST, "concat: sources are not fetched"),
        ("rtmpe://127.0.0.1:{p}/live/sesame", ErrorCode.UNSUPPORTED, "does not read rtmpe:"),
    ],
)
async def test_what_can_not_be_fetched(url: str, code: ErrorCode, words: str) -> None:
    client = Client()
    spec = JobSpec("fetch", (), fetch=Source(url.format(p=free_port())))
    able = replace(capabilities(), protocols=frozenset(NEEDS) - {"rtmpe"})
    job = FetchJob(spec, client.stream, binary(require(FFMPEGS[0].values[0])), able, silence_s=1.0)
    with pytest.raises(JobError, match=words) as raised:
        await asyncio.wait_for(job.run(), 15)
    assert raised.value.code is code
    assert "sesame" not in "".join([str(raised.value), *raised.value.stderr])
    await client.stream.close()


@pytest.mark.parametrize("name", ["file:{file}", "{file}"])
@pytest.mark.parametrize("kind", ["ffconcat", "m3u8"])
async def test_a_source_that_names_files_of_the_worker_does_not_get_them(clip: Path, kind: str, name: str) -> None:
    named = name.format(file=clip)
    text = {
        "ffconcat": f"ffconcat version 1.0\nfile '{named}'\n",
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{named}\n#EXT-X-ENDLIST\n",
    }[kind]
    async with ScriptedServer(answer(text.encode())) as server:
        async with fetching(require(FFMPEGS[0].values[0]), server.url) as (client, task):
            with pytest.raises(JobError):
                await asyncio.wait_for(asyncio.shield(task), 20)
        assert server.requests
    assert not client.all_of(messages.TracksChanged)


async def test_a_camera_that_wants_another_password(clip: Path) -> None:
    ffmpeg, server = require(FFMPEGS[0].values[0]), RtspServer(clip, credentials="Basic other")
    async with server.serving() as url:
        secret = url.replace("//", "//admin:sesame@")
        async with fetching(ffmpeg, secret) as (_, task):
            with pytest.raises(JobError, match="wants other credentials") as raised:
                await asyncio.wait_for(asyncio.shield(task), 15)
    assert raised.value.code is ErrorCode.SOURCE_DENIED


async def test_it_stops_when_it_is_told(clip: Path) -> None:
    with sending("udp", clip, loops=-1) as url:
        async with fetching(require(FFMPEGS[0].values[0]), url) as (client, task):
            await pictures(client, task, 1)
            await client.send(messages.TranscodeStop())
            await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("name", ["h264_aac_scte35_80s.ts", "mpts_8prog_dvb_it.ts"])
async def test_a_transport_stream_arrives_untouched(media_dir: Path, name: str) -> None:
    """SCTE-35, teletext and private data too: as when it is demuxed here."""
    data = (media_dir / name).read_bytes()
    demuxer = Demuxer()
    here = [event for event in [*demuxer.feed(data), *demuxer.flush()] if isinstance(event, Sample)]

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with fetching(require(FFMPEGS[0].values[0]), url) as (client, task):
            await asyncio.wait_for(task, 60)
            await wait_until(lambda: isinstance(client.received[-1], messages.OutputComplete))
    assert [(s.track, s.data) for s in client.samples()] == [(s.track, s.data) for s in here]
