"""The public Python API, against a real daemon."""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.clips import make_clip, probe
from tests.harness import TOKEN, cluster, eventually, watching
from tests.listening import Listening, listening, port_of
from tvarr.client import (
    Codec,
    Daemon,
    ErrorCode,
    JobError,
    Kind,
    MediaError,
    Refused,
    Sample,
    Target,
    TsWriter,
    connect,
    copy,
    read_ts,
)

FRAMES = 50


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("box"), "--max-jobs", "1") as running:
        yield running


@pytest.fixture
async def daemon(box: Listening) -> AsyncIterator[Daemon]:
    async with connect(box.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=FRAMES / 25, size="320x180")


async def test_what_a_daemon_says_of_itself(daemon: Daemon, box: Listening) -> None:
    assert daemon.name == "box"
    assert "libx264" in {encoder.name for encoder in daemon.capabilities.encoders if encoder.usable}
    assert daemon.capabilities.max_jobs == 1
    assert (await daemon.stats()).system.memory_total_bytes > 0
    known = daemon.capabilities
    assert await daemon.probe(max_age_s=3_600) == known
    assert await daemon.probe() == known


@pytest.mark.parametrize("sound", ["copied", "encoded"])
async def test_a_file_through_a_transcode(daemon: Daemon, clip: Path, tmp_path: Path, sound: str) -> None:
    with clip.open("rb") as file, (tmp_path / "out.ts").open("wb") as out:
        tracks, samples = read_ts(file)
        (video,), (audio,) = tracks.of_kind(Kind.VIDEO), tracks.of_kind(Kind.AUDIO)
        heard = copy(audio) if sound == "copied" else Target(audio, Codec.MP2)
        job = daemon.transcode(samples, [Target(video, Codec.H264, height=90, preset="ultrafast"), heard])
        writer: TsWriter | None = None
        async for sample in job:
            writer = writer or TsWriter(out, job.tracks)
            writer.write(sample)
    assert job.ack
    assert job.ack.encoder == "libx264"
    assert {track.id for track in job.tracks} == {video.id, audio.id}
    made, source = probe(tmp_path / "out.ts"), probe(clip)
    assert made.codecs() == ["h264", "aac" if sound == "copied" else "mp2"]
    assert made.streams[0]["height"] == 90
    assert made.pts("video") == source.pts("video")
    if sound == "copied":
        assert made.pts("audio") == source.pts("audio")
        assert abs(made.packets[0].dts - made.packets[1].dts) < 90_000  # interleaved


async def test_a_copied_picture_beside_an_encoded_sound(daemon: Daemon, clip: Path) -> None:
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)
        given = list(samples)
    (video,), (audio,) = tracks.of_kind(Kind.VIDEO), tracks.of_kind(Kind.AUDIO)
    received = [sample async for sample in daemon.transcode(given, [copy(video), Target(audio, Codec.MP2)])]
    assert [s for s in received if s.track == video.id] == [s for s in given if s.track == video.id]
    assert len([s for s in received if s.track == audio.id]) > FRAMES


async def test_a_live_source(daemon: Daemon, clip: Path) -> None:
    """A source that comes slowly: nothing waits for a batch to fill."""
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)
        given = [sample for sample in samples if tracks.get(sample.track) in tracks.of_kind(Kind.VIDEO)]
    seen = asyncio.Event()

    async def live() -> AsyncIterator[Sample]:
        yield given[0]
        await seen.wait()
        for sample in given[1:]:
            yield sample

    received = []
    async for sample in daemon.transcode(live(), [copy(t) for t in tracks.of_kind(Kind.VIDEO)]):
        received.append(sample)
        seen.set()
    assert received == given


async def test_a_loop_that_is_left_stops_its_job(daemon: Daemon, box: Listening, clip: Path) -> None:
    for _ in range(2):  # the slot is free again
        with clip.open("rb") as file:
            tracks, samples = read_ts(file)
            job = daemon.transcode(samples, [Target(tracks.of_kind(Kind.VIDEO)[0], Codec.H264)])
            async with aclosing(aiter(job)) as output:
                async for _ in output:
                    break
        while (await daemon.stats()).jobs:
            pass
        assert box.ffmpegs() == []


async def test_a_source_that_fails_is_what_the_loop_raises(daemon: Daemon, clip: Path) -> None:
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)

        def broken() -> Iterator[Sample]:
            yield next(samples)
            raise MediaError("the disk is gone")

        with pytest.raises(MediaError, match="the disk is gone"):
            async for _ in daemon.transcode(broken(), [copy(track) for track in tracks.tracks]):
                pass


async def test_a_sample_that_can_not_be_is_refused_here(daemon: Daemon, clip: Path) -> None:
    with clip.open("rb") as file:
        tracks, _ = read_ts(file)
    upside_down = Sample(tracks.tracks[0].id, 0, 90_000, b"")
    with pytest.raises(JobError, match="does not fit") as caught:
        async for _ in daemon.transcode([upside_down], [copy(tracks.tracks[0])]):
            pass
    assert caught.value.code is ErrorCode.BAD_REQUEST


async def test_a_job_that_can_not_be_done(daemon: Daemon, clip: Path) -> None:
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)
        video = tracks.of_kind(Kind.VIDEO)[0]
        with pytest.raises(JobError, match="no encoder nonsense") as caught:
            async for _ in daemon.transcode(samples, [Target(video, Codec.H264)], encoder="nonsense"):
                pass
    assert caught.value.code is ErrorCode.UNSUPPORTED


async def test_a_source_that_the_daemon_reads(daemon: Daemon, clip: Path) -> None:
    data = await asyncio.to_thread(clip.read_bytes)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    assert "tcp" in daemon.capabilities.protocols
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as source:
        job = daemon.fetch(f"tcp://127.0.0.1:{source.sockets[0].getsockname()[1]}")
        received = [sample async for sample in job]
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)
        assert received == list(samples)
    assert [track.codec for track in job.tracks] == [track.codec for track in tracks.tracks]


async def test_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    cert, key = authority.issue(tmp_path, "127.0.0.1")
    with listening(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as secured:
        async with connect(f"grpcs://{TOKEN}@{secured.target}", tls_ca=authority.file) as daemon:
            assert daemon.name == "box"
        with pytest.raises(JobError, match="its certificate is not trusted"):
            async with connect(f"grpcs://{TOKEN}@{secured.target}"):
                pass


async def test_who_is_turned_away(box: Listening) -> None:
    with pytest.raises(Refused, match="does not take the token"):
        async with connect(box.url.replace(TOKEN, "wrong")):
            pass
    with pytest.raises(JobError) as caught:
        async with connect(f"grpc://{TOKEN}@127.0.0.1:1"):
            pass
    assert caught.value.code is ErrorCode.CONNECTION_LOST


async def test_a_daemon_works_for_a_coordinator_and_for_clients(tmp_path: Path, clip: Path) -> None:
    """Both draw from the same slots, and a coordinator that comes back leaves clients' jobs alone."""
    with cluster(tmp_path, media_dir=clip.parent) as running:
        role = running.start_daemon(
            "both", "--max-jobs", "1", "--max-cpu-jobs", "1", TVARR_LISTEN="127.0.0.1:0", TVARR_LOG_LEVEL="debug"
        )
        url = f"grpc://{TOKEN}@127.0.0.1:{port_of(role)}"
        slug = running.add_channel("Clip", f"file:{clip.name}", loop=True)
        async with connect(url) as daemon:
            with clip.open("rb") as file:
                tracks, samples = read_ts(file)
                given = list(samples)
            video = tracks.of_kind(Kind.VIDEO)[0]
            go_on = asyncio.Event()

            async def held() -> AsyncIterator[Sample]:
                yield given[0]
                await go_on.wait()
                for sample in given[1:]:
                    yield sample

            async def whole() -> list[Sample]:
                return [sample async for sample in daemon.transcode(held(), [copy(t) for t in tracks.tracks])]

            client = asyncio.create_task(whole())
            while not (await daemon.stats()).jobs:
                pass
            await asyncio.to_thread(running.roles["coordinator"].stop)
            coordinator = await asyncio.to_thread(running.start_coordinator)
            await asyncio.to_thread(eventually, lambda: running.daemon_state("both") == "connected", "it is back")

            async def view() -> None:
                async with watching(running.stream_url(slug, "h264-low")) as response:
                    assert response.status == 200, await response.text()
                    await response.content.readany()
                    with pytest.raises(JobError, match="job slots are taken") as caught:
                        async for _ in daemon.transcode(given, [Target(video, Codec.H264)]):
                            pass
                    assert caught.value.code is ErrorCode.CAPACITY

            viewer = asyncio.create_task(view())
            refused = "on both ended: all of its 1 job slots are taken"
            await asyncio.to_thread(eventually, lambda: refused in coordinator.text(), "the viewer's job is refused")
            go_on.set()
            assert await asyncio.wait_for(client, 30) == given
            await asyncio.wait_for(viewer, 30)


async def test_the_readmes_example_is_true(box: Listening, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = example.replace("grpc://secret@127.0.0.1:9091", box.url).replace("in.ts", str(clip))
    scope: dict[str, Any] = {}
    exec("async def example():\n" + textwrap.indent(program, "    "), scope)
    await scope["example"]()
    assert len(capsys.readouterr().out.splitlines()) > 2 * FRAMES
