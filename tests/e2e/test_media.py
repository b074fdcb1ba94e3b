"""Real captures, all the way through: as they are with every packet, and as H.264 with every picture."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.captures import PACKETS, packets, pictures
from tests.clips import Probed, decode_errors, probe
from tests.harness import Cluster, cluster, read_all, watching

SEGMENTED = ("hls_h264_ac3", "hls_ts_rollover")  # folders of MPEG-TS segments; PACKETS has their sums
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
PLAYABLE = [name for name in PACKETS if name not in UNPLAYABLE and name not in SEGMENTED]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory, media_dir: Path) -> Iterator[Cluster]:
    """A coordinator with one daemon; channels read from the folder of captures."""
    with cluster(tmp_path_factory.mktemp("captures"), media_dir=media_dir) as running:
        running.start_daemon("worker")
        yield running


async def received(running: Cluster, name: str, profile: str, path: Path) -> Path:
    """The whole stream of a capture under a profile, as a file."""
    slug = running.add_channel(f"{name} {profile}", f"file:{name}", pace="fast")
    data = await read_all(running.stream_url(slug, profile))
    await asyncio.to_thread(path.write_bytes, data)
    return path


def segments(media_dir: Path, folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in sorted((media_dir / folder).glob("*.ts"))]


def codecs(got: Probed, kind: str) -> set[str]:
    """Of the tracks of which something came: a capture may announce others."""
    counts = got.counts()
    return {str(s["codec_name"]) for s in got.streams if s.get("codec_type") == kind and counts[s["index"]]}


def pid_of_video(got: Probed) -> int:
    (video,) = [s for s in got.streams if s.get("codec_type") == "video"]
    return int(video["id"], 16)


@pytest.mark.parametrize("name", PLAYABLE)
async def test_passed_through_a_capture_has_the_packets_of_the_manifest(
    captures: Cluster, name: str, tmp_path: Path
) -> None:
    assert packets(await received(captures, name, "passthrough", tmp_path / "received.ts")) == PACKETS[name]


@pytest.mark.parametrize("folder", SEGMENTED)
async def test_passed_through_segments_have_the_packets_of_the_manifest(
    captures: Cluster, media_dir: Path, folder: str, tmp_path: Path
) -> None:
    total: Counter[int] = Counter()
    for name in segments(media_dir, folder):
        counts = packets(await received(captures, name, "passthrough", tmp_path / "received.ts"))
        assert counts == packets(media_dir / name), name
        total.update(counts)
    assert total == PACKETS[folder]


async def check_transcode(captures: Cluster, source: Path, name: str, path: Path) -> None:
    """A capture under `h264` has every picture that ffmpeg gets out of the same capture, from its first keyframe on."""
    got = probe(await received(captures, name, "h264", path))
    made = sum(p.kind == "video" for p in got.packets)
    expected = pictures(source, pid_of_video(got))
    if name in DAMAGED:
        assert made >= expected
    else:
        assert made == expected
    assert codecs(got, "video") == {"h264"}
    assert codecs(got, "audio") == {"aac"}
    assert got.pts("audio")
    dts = got.dts("video")
    assert all(earlier < later for earlier, later in pairwise(dts))
    assert [line for line in decode_errors(path) if not NOT_OF_DECODING.search(line)] == []


@pytest.mark.parametrize("name", PLAYABLE)
async def test_transcoded_a_capture_keeps_its_pictures(
    captures: Cluster, media_dir: Path, name: str, tmp_path: Path
) -> None:
    await check_transcode(captures, media_dir / name, name, tmp_path / "received.ts")


@pytest.mark.parametrize("folder", SEGMENTED)
async def test_transcoded_segments_keep_their_pictures(
    captures: Cluster, media_dir: Path, folder: str, tmp_path: Path
) -> None:
    for name in segments(media_dir, folder):
        await check_transcode(captures, media_dir / name, name, tmp_path / "received.ts")


@pytest.mark.parametrize("profile", ["passthrough", "h264"])
@pytest.mark.parametrize("name", UNPLAYABLE)
async def test_what_can_t_be_played_is_told_in_words(captures: Cluster, name: str, profile: str) -> None:
    slug = captures.add_channel(f"{name} {profile}", f"file:{name}", pace="fast")
    async with watching(captures.stream_url(slug, profile)) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 502
        assert answer.content_type == "application/problem+json"
        assert UNPLAYABLE[name] in json.dumps(problem)
