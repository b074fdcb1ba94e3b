"""MP4 as a source: fragmented or with its index in front or behind, over HTTP and from files."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import aiohttp
import pytest
from aiohttp import web

from tests.conftest import program
from tests.coordinator.test_ingest import LIMITS, Taken, counts, take
from tests.fakes.sources import Origin, ScriptedServer, close, endless, hang, pieces_of
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.source import SourceSpec
from tvarr.coordinator.sources.http import client_session
from tvarr.media.model import Codec, Kind

SECONDS = 3
PICTURES = SECONDS * 25
FORMS = {"front": "+faststart", "behind": "+write_colr", "fragmented": "+frag_keyframe+empty_moov+default_base_moof"}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of H.264 with B-frames and AAC as MP4, in every form."""
    folder = tmp_path_factory.mktemp("mp4")
    ffmpeg = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i"]
    ffmpeg += [f"testsrc2=s=160x90:r=25:d={SECONDS}", "-f", "lavfi", "-i", f"sine=f=440:r=48000:d={SECONDS}"]
    ffmpeg += ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac"]
    for name, flags in FORMS.items():
        subprocess.run([*ffmpeg, "-movflags", flags, str(folder / f"{name}.mp4")], check=True)
    return folder


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session() as session:
        yield session


def assert_all_came(taken: Taken, laps: int = 1) -> None:
    assert taken.error == ""
    assert counts(taken)[Kind.VIDEO] >= PICTURES * laps
    assert counts(taken)[Kind.AUDIO] >= SECONDS * laps * 46
    assert {t.codec for t in taken.announcements[0].tracks} == {Codec.H264, Codec.AAC}
    assert max(taken.steps_s(Kind.VIDEO)) < 0.15, "the sound is longer, in the fragmented file by two pictures"
    assert max(taken.steps_s(Kind.AUDIO)) < 0.1
    assert taken.samples(Kind.VIDEO)[0].keyframe


@pytest.mark.parametrize("form", FORMS)
class TestEveryForm:
    async def test_from_a_file_and_in_a_loop(self, form: str, files: Path, session: aiohttp.ClientSession) -> None:
        url = f"file:{form}.mp4"
        taken = await take(Ingest(SourceSpec.parse(url, pace="fast", media_dir=files), LIMITS, session, Random(1)))
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert_all_came(taken)
        looped = Ingest(SourceSpec.parse(url, pace="fast", loop=True, media_dir=files), LIMITS, session, Random(1))
        taken = await take(looped, until=lambda taken: len(taken.samples(Kind.VIDEO)) >= 3 * PICTURES)
        assert_all_came(taken, laps=2)
        assert looped.status.laps >= 2
        assert len(taken.announcements) == 1

    async def test_over_http(self, form: str, files: Path, session: aiohttp.ClientSession) -> None:
        async with Origin(files) as origin:
            ingest = Ingest(SourceSpec.parse(f"{origin.url}/{form}.mp4"), LIMITS, session, Random(1))
            assert_all_came(await take(ingest))
            assert origin.most_at_once == 1
            assert len(origin.requests) == (4 if form == "behind" else 1)
        assert ingest.status.reconnections == 0

    async def test_at_real_time(self, form: str, files: Path, session: aiohttp.ClientSession) -> None:
        limits = replace(LIMITS, preroll_s=SECONDS - 0.5, slice_s=0.05)
        began = time.monotonic()
        taken = await take(Ingest(SourceSpec.parse(f"file:{form}.mp4", media_dir=files), limits, session, Random(1)))
        assert 0.4 <= time.monotonic() - began < 2.5
        assert_all_came(taken)


@pytest.mark.parametrize("form", ["front", "fragmented"])
async def test_encrypted(form: str, files: Path, session: aiohttp.ClientSession) -> None:
    secret = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "7" * 32, "-encryption_kid", "a" * 32)
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-i", str(files / f"{form}.mp4"), "-c", "copy"]
    command += [*secret, "-movflags", FORMS[form], str(files / "encrypted.mp4")]
    await asyncio.to_thread(subprocess.run, command, check=True)
    source = SourceSpec.parse("file:encrypted.mp4", pace="fast", media_dir=files)
    taken = await take(Ingest(source, LIMITS, session, Random(1)))
    assert taken.error == "the source is encrypted by DRM (Common Encryption), which can't be read"


async def test_an_endless_one_that_breaks_off(files: Path, session: aiohttp.ClientSession) -> None:
    data = (files / "fragmented.mp4").read_bytes()
    cut = endless(pieces_of(data[: len(data) * 2 // 3], 5000), chunked=True, then=close)
    async with ScriptedServer(cut, endless(pieces_of(data, 5000), then=hang)) as server:
        ingest = Ingest(SourceSpec.parse(server.url, pace="fast"), LIMITS, session, Random(1))
        taken = await take(ingest, until=lambda taken: len(taken.samples(Kind.VIDEO)) >= PICTURES * 1.5)
    assert ingest.status.reconnections == 1
    assert max(taken.steps_s(Kind.VIDEO)) < 0.2


@pytest.mark.parametrize(
    ("name", "codec"), [("av1", Codec.AV1), ("h264", Codec.H264), ("h265", Codec.HEVC), ("vp9", Codec.VP9)]
)
async def test_captures(name: str, codec: Codec, media_dir: Path, session: aiohttp.ClientSession) -> None:
    url = f"file:mp4_small/offline_{name}.mp4"
    taken = await take(Ingest(SourceSpec.parse(url, pace="fast", media_dir=media_dir), LIMITS, session, Random(1)))
    assert taken.error == ""
    assert [t.codec for t in taken.announcements[-1].tracks] == [codec]
    assert counts(taken)[Kind.VIDEO] == 30


async def test_a_server_without_ranges(files: Path, session: aiohttp.ClientSession) -> None:
    data = (files / "behind.mp4").read_bytes()

    async def whole(_: web.Request) -> web.StreamResponse:
        return web.Response(body=data)

    async with Origin(files) as origin:
        origin.on("/whole", whole)
        assert_all_came(await take(Ingest(SourceSpec.parse(f"{origin.url}/whole"), LIMITS, session, Random(1))))


@pytest.mark.parametrize(
    ("form", "cut", "words"),
    [
        ("front", 0.02, "the source can't be read: an MP4 that ends before its index"),
        ("behind", 0.9, "the source can't be read: an MP4 without an index"),
    ],
)
async def test_one_that_is_cut_off(
    form: str, cut: float, words: str, files: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    data = (files / f"{form}.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * cut)])
    taken = await take(Ingest(SourceSpec.parse("file:cut.mp4", media_dir=tmp_path), LIMITS, session, Random(1)))
    assert words in taken.error
    assert not taken.events


def resized(data: bytes, kind: bytes, size: int) -> bytes:
    """The first box of this kind says another size."""
    at = data.index(kind) - 4
    return data[:at] + size.to_bytes(4, "big") + data[at + 4 :]


@pytest.mark.parametrize(
    ("form", "kind", "size", "words"),
    [
        ("front", b"moov", 0xFFFFFFFF, "an MP4 box moov of 4294967295 bytes"),
        ("front", b"moov", 4, "no MP4 box at byte 32"),
        ("front", b"stco", 8, "an MP4 box stco that is cut off"),
        ("front", b"trak", 9, "bytes where 3371 are"),
        ("fragmented", b"moof", 0x7FFFFFFF, "an MP4 box moof of 2147483647 bytes"),
        ("fragmented", b"traf", 0xFFFF, "an MP4 box traf of 65535 bytes where"),
        ("fragmented", b"trun", 12, "bytes where"),
        ("front", b"stsd", 0x7FFFFFFF, ""),  # of the picture: the sound is played
        ("front", b"stsz", 0xFFFF, ""),
    ],
)
async def test_boxes_that_lie_about_their_size(
    form: str, kind: bytes, size: int, words: str, files: Path, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "lies.mp4").write_bytes(resized((files / f"{form}.mp4").read_bytes(), kind, size))
    spec = SourceSpec.parse("file:lies.mp4", pace="fast", media_dir=tmp_path)
    taken = await take(Ingest(spec, LIMITS, session, Random(1)))
    assert words in taken.error
    assert bool(taken.error) != bool(taken.samples(Kind.AUDIO))
    assert not taken.samples(Kind.VIDEO)
    gc.collect()  # crashed the process where damage was found with views of the tables still about
