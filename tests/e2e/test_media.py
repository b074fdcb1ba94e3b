"""Real captures through every output: as they are with every packet, and as H.264 with every picture."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.captures import CAPTURES, Capture, packets, packets_by_track, pictures
from tests.clips import Probed, decode_errors, probe
from tests.fakes.sources import Origin
from tests.harness import Cluster, cluster, read_all, watching
from tests.hls import play_dash, play_hls

UNPLAYABLE = {
    "h264_1080i_scrambled_csa.ts": "the source is scrambled (DVB-CSA/CA); it needs a descrambler",
    "teletext_announced_but_absent.ts": "the source announces video (h264) and audio (mp2) but sends none",
    "hls_cmaf_fmp4/video_init.mp4": "the source announces video (h264) but sends none",
    "hls_cmaf_fmp4/video_1.m4s": "the source can't be read: an MP4 fragment without anything that says what it holds",
}
# Sources in which pictures share a time stamp, or have a damaged one: ffmpeg guesses, and shows a few less than we do.
DAMAGED = {"h264_noPCR_pmt_change_dts_wrap.ts", "offair_bad_reception.ts"}
# What ffmpeg says beside decoding: of two sounds at one time behind a hole, and of a subtitle's padding in the source.
NOT_OF_DECODING = re.compile(r"non monotonically increasing dts to muxer|Junk in packet")
# What is looked at is which pictures come: small ones are made and decoded sooner.
SMALL = {"name": "small", "video_codec": "h264", "audio_codec": "aac", "preset": "ultrafast", "width": 320}


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory, media_dir: Path) -> Iterator[Cluster]:
    """A coordinator with one daemon; channels read from the folder of captures."""
    with cluster(tmp_path_factory.mktemp("captures"), media_dir=media_dir) as running:
        running.start_daemon("worker")
        status, answer = running.request("POST", "/api/v1/profiles", SMALL)
        assert status == 201, answer
        yield running


@pytest.fixture
async def origin(media_dir: Path) -> AsyncIterator[Origin]:
    """A server of the captures."""
    async with Origin(media_dir) as server:
        yield server


async def stream_of(running: Cluster, origin: Origin, name: str, profile: str) -> str:
    """The stream's address, without what says which output, of a channel that is read as fast as viewers take it."""
    playlist = CAPTURES[name].playlist
    url = f"{origin.url}/{name}/{playlist}" if playlist else f"file:{name}"
    slug = await asyncio.to_thread(running.add_channel, f"{name} {profile}", url, pace="fast")
    return f"{running.url}/stream/{slug}"


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


async def renditions_of_hls(url: str) -> dict[str, bytes]:
    """A whole stream, as one file for each rendition."""
    _, lists = await play_hls(url)
    return {playing.url.rpartition("/")[2].partition(".")[0]: playing.file() for playing in lists}


def codecs(got: Probed, kind: str) -> set[str]:
    """Of the tracks of which something came: a capture may announce others."""
    counts = got.counts()
    return {str(s["codec_name"]) for s in got.streams if s.get("codec_type") == kind and counts[s["index"]]}


def pid_of_video(got: Probed) -> int:
    (video,) = [s for s in got.streams if s.get("codec_type") == "video"]
    return int(video["id"], 16)


@pytest.mark.parametrize("name", CAPTURES)
async def test_passed_through_a_capture_has_the_packets_of_the_manifest(
    captures: Cluster, origin: Origin, name: str, tmp_path: Path
) -> None:
    """In transport streams, endless and in segments."""
    url, expected = await stream_of(captures, origin, name, "passthrough"), CAPTURES[name]
    if not expected.ts:
        await assert_refused(url, ".ts", "/index.m3u8")
        return
    assert packets(saved(tmp_path / "received.ts", await read_all(f"{url}.ts"))) == expected.ts
    (whole,) = (await renditions_of_hls(f"{url}/index.m3u8")).values()
    assert packets(saved(tmp_path / "segments.ts", whole)) == in_segments(expected)


def in_segments(expected: Capture) -> dict[int, int]:
    """Packets by PID; the first one is that of the pictures where it matters."""
    first = next(iter(expected.ts))
    return {**expected.ts, first: expected.from_keyframe[0]} if expected.from_keyframe else expected.ts


@pytest.mark.parametrize("name", CAPTURES)
async def test_passed_through_as_mp4_a_capture_has_the_packets_of_the_manifest(
    captures: Cluster, origin: Origin, name: str, tmp_path: Path
) -> None:
    """Endless, and in segments of HLS and of DASH."""
    url, expected = await stream_of(captures, origin, name, "passthrough"), CAPTURES[name]
    if not expected.mp4:
        await assert_refused(url, ".mp4", "/index.m3u8?container=fmp4", "/manifest.mpd")
        return
    assert packets_by_track(saved(tmp_path / "received.mp4", await read_all(f"{url}.mp4"))) == expected.mp4
    cut = (expected.from_keyframe[1], *expected.mp4[1:]) if expected.from_keyframe else expected.mp4
    names = ["video", *(f"audio{n}" for n in range(1, len(cut)))]
    played = await renditions_of_hls(f"{url}/index.m3u8?container=fmp4"), await play_dash(f"{url}/manifest.mpd")
    for files in played:
        counted = [packets_by_track(saved(tmp_path / "received.mp4", files[rendition])) for rendition in names]
        assert counted == [(count,) for count in cut]
        assert len(files) == len(names)


async def assert_refused(url: str, *outputs: str) -> None:
    """The container has no place for what the source carries."""
    for output in outputs:
        async with watching(url + output) as answer:
            assert answer.status == 406, output
            assert "mapping" in (await answer.json(content_type=None))["detail"]


@pytest.mark.parametrize("name", CAPTURES)
async def test_transcoded_a_capture_keeps_its_pictures(
    captures: Cluster, origin: Origin, media_dir: Path, name: str, tmp_path: Path
) -> None:
    """As H.264 it has every picture that ffmpeg gets out of it, from its first keyframe on, in each output."""
    url = await stream_of(captures, origin, name, "small")
    ts, mp4, whole, cmaf, dash = await asyncio.gather(  # at once: one job
        read_all(f"{url}.ts?profile=small"),
        read_all(f"{url}.mp4?profile=small"),
        renditions_of_hls(f"{url}/index.m3u8?profile=small"),
        renditions_of_hls(f"{url}/index.m3u8?profile=small&container=fmp4"),
        play_dash(f"{url}/manifest.mpd?profile=small"),
    )
    got = probe(saved(tmp_path / "received.ts", ts))
    made = sum(p.kind == "video" for p in got.packets)
    assert codecs(got, "video") == {"h264"}
    dts = got.dts("video")
    assert all(earlier < later for earlier, later in pairwise(dts))
    sounds = sum(p.kind == "audio" for p in got.packets)
    assert codecs(got, "audio") == ({"aac"} if sounds else set())
    expected = pictures_in(name, media_dir, pid_of_video(got))
    if name in DAMAGED:
        assert made >= expected
    else:
        assert made == expected
    assert cmaf == dash
    assert whole.keys() == {"main"}
    files = {"received.ts": ts, "segments.ts": whole["main"], "received.mp4": mp4, "video.mp4": cmaf["video"]}
    files |= {f"{rendition}.mp4": data for rendition, data in cmaf.items()}
    for file, data in files.items():
        path = saved(tmp_path / file, data)
        assert [line for line in decode_errors(path) if not NOT_OF_DECODING.search(line)] == [], file
    assert packets_by_track(tmp_path / "received.mp4")[0] == made
    assert packets_by_track(tmp_path / "video.mp4") == (made,)
    segmented = probe(tmp_path / "segments.ts")
    assert sum(p.kind == "video" for p in segmented.packets) == made
    assert sum(p.kind == "audio" for p in segmented.packets) == sounds


def pictures_in(name: str, media_dir: Path, pid: int) -> int:
    """How many pictures ffmpeg gets out of a capture, from its first keyframe on."""
    path = media_dir / name / CAPTURES[name].playlist
    return pictures(path, f"i:{pid:#x}" if path.suffix in (".ts", ".m2ts") else "v:0")


@pytest.mark.parametrize("profile", ["passthrough", "h264"])
@pytest.mark.parametrize("name", UNPLAYABLE)
async def test_what_can_t_be_played_is_told_in_words(captures: Cluster, name: str, profile: str) -> None:
    slug = captures.add_channel(f"{name} {profile}", f"file:{name}", pace="fast")
    async with watching(captures.stream_url(slug, profile)) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 502
        assert answer.content_type == "application/problem+json"
        assert UNPLAYABLE[name] in json.dumps(problem)
