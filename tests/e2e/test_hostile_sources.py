"""Transport streams that are something else each second, everything at once, or one picture without end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest

from tests.clips import decode_errors, make_clip, packets_of_mp4, probe_bytes
from tests.fakes.sources import ScriptedServer, answer
from tests.harness import Cluster, cluster, read_all
from tests.hls import play_hls
from tests.media.ts_writer import Writer, pes
from tvarr.media.mpegts import psi

CLIP_S, FPS = 6, 25
VIDEO, AUDIO, PMT_PID = 0x100, 0x101, 0x1000  # as ffmpeg numbers them
H264, AAC = psi.PmtStream(0x1B, VIDEO), psi.PmtStream(0x0F, AUDIO)
SUBTITLES = psi.PmtStream(psi.PRIVATE_PES, 0x150, psi.descriptor(psi.SUBTITLING, b"deu\x10\0\1\0\1"))
GROWTH_BYTES = 128 << 20  # a source's ring holds 64 MiB


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Packets of H.264 with a keyframe a second, and AAC."""
    video = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", str(FPS), "-b:v", "300k")
    path = make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=CLIP_S, size="160x90", video=video)
    data = path.read_bytes()
    return [data[at : at + 188] for at in range(0, len(data), 188)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("tvarr")) as made:
        yield made


def pid(packet: bytes) -> int:
    return (packet[1] & 0x1F) << 8 | packet[2]


async def stream_of(running: Cluster, source: ScriptedServer, name: str) -> str:
    slug = await asyncio.to_thread(running.add_channel, name, source.url, pace="fast")
    return f"{running.url}/stream/{slug}"


async def test_a_pmt_that_changes_each_second(running: Cluster, clip: list[bytes], tmp_path: Path) -> None:
    """The pictures go on in each output, whatever comes and goes beside them."""
    writer, beside = Writer(), ((AAC,), (), (AAC, SUBTITLES), (SUBTITLES,))
    data, keyframes = bytearray(), 0
    for packet in clip:
        if pid(packet) == PMT_PID:
            streams = (H264, *beside[keyframes % len(beside)])
            packet = writer.section(PMT_PID, psi.build_pmt(psi.Pmt(1, keyframes % 32, VIDEO, b"", streams)))
        elif pid(packet) == VIDEO and packet[3] & 0x20 and packet[4] and packet[5] & 0x40:  # random access
            keyframes += 1
        data += packet
    assert keyframes == CLIP_S
    async with ScriptedServer(answer(bytes(data), "Content-Type: video/mp2t")) as source:
        url = await stream_of(running, source, "Changes")
        got = probe_bytes(await read_all(f"{url}.ts"), tmp_path)
        assert len(got.pts("video")) == CLIP_S * FPS
        assert got.pts("audio")
        assert decode_errors(tmp_path / "received.ts") == []
        _, (whole,) = await play_hls(f"{url}/index.m3u8")
        assert len(probe_bytes(whole.file(), tmp_path).pts("video")) == CLIP_S * FPS
        _, lists = await play_hls(f"{url}/index.m3u8?container=fmp4")
        (pictures,) = [playing for playing in lists if "video" in playing.url]
        (tmp_path / "video.mp4").write_bytes(pictures.file())
        assert len(packets_of_mp4(tmp_path / "video.mp4")["h264"]) == CLIP_S * FPS
        assert decode_errors(tmp_path / "video.mp4") == []
        assert (await read_all(f"{url}.mp4")).count(b"moof") > CLIP_S


async def test_packets_on_every_pid_there_is(running: Cluster, clip: list[bytes], tmp_path: Path) -> None:
    writer = Writer()
    others = cycle([number for number in range(0x20, 0x1FFF) if number not in (VIDEO, AUDIO, PMT_PID)])
    mixed = bytearray()
    for packet in clip:
        mixed += packet
        for number in islice(others, 10):
            mixed += writer.write(number, pes(bytes(100), 0))
    async with ScriptedServer(answer(bytes(mixed), "Content-Type: video/mp2t")) as source:
        url = await stream_of(running, source, "Everywhere")
        got = probe_bytes(await read_all(f"{url}.ts"), tmp_path)
    assert got.codecs() == ["h264", "aac"]
    assert len(got.pts("video")) == CLIP_S * FPS
    assert decode_errors(tmp_path / "received.ts") == []


async def test_a_picture_without_end(running: Cluster, clip: list[bytes], tmp_path: Path) -> None:
    """What came before it is watched, and the coordinator does not keep the rest."""
    writer = Writer()
    endless = writer.packets(VIDEO, pes(b"\0\0\0\1\x41" + b"\x9a" * (1 << 20), 10 * 90_000))
    rest = b"".join(bytes((p[0], p[1] & 0xBF, *p[2:])) for p in endless[1:])
    process = psutil.Process(running.roles["coordinator"].process.pid)
    before = process.memory_info().rss
    async with ScriptedServer(answer(b"".join(clip) + endless[0] + rest * 200, "Content-Type: video/mp2t")) as source:
        url = await stream_of(running, source, "Without end")
        got = probe_bytes(await read_all(f"{url}.ts"), tmp_path)
    assert CLIP_S * FPS <= len(got.pts("video")) <= CLIP_S * FPS + 2
    assert process.memory_info().rss - before < GROWTH_BYTES
