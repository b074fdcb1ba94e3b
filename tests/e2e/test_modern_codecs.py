"""AV1, VP9 and Opus: made by a daemon, taken over, taken in, and played from every output that carries them."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clips import assert_same_times, decode_errors, packets_of_mp4, probe, probe_bytes, up_to_the_last_frame
from tests.e2e.test_adaptive import index, saved
from tests.e2e.two_daemons import PICTURE_TICKS, variant
from tests.harness import Cluster, read_all, read_on, watching
from tests.hls import play_dash, play_hls

SMALL = {"width": 160, "height": 90, "video_bitrate_kbps": 300, "audio_codec": "opus"}
PROFILES = ({"name": "av1-opus", "video_codec": "av1"}, {"name": "vp9-opus", "video_codec": "vp9"})
CODECS = {"av1": r"av01\.0\.\d\d[MH]\.08", "vp9": r"vp09\.00\.\d\d\.08"}


def profiled(running: Cluster) -> Cluster:
    for profile in PROFILES:
        status, value = running.request("POST", "/api/v1/profiles", {**SMALL, **profile})
        assert status in {201, 409}, value
    return running


@pytest.mark.parametrize("codec", ["av1", "vp9"])
async def test_every_output_has_every_picture(tvarr: Cluster, clips: Path, tmp_path: Path, codec: str) -> None:
    """Pictures with the source's own time stamps, sound without a gap, all of it decodable."""
    running, profile = profiled(tvarr), f"{codec}-opus"
    slug = running.add_channel(f"Modern {codec}", "file:clip.ts", pace="fast")
    source = probe(clips / "clip.ts").pts("video")
    url = f"{running.url}/stream/{slug}"
    whole, (text, (sound, pictures)), dash = await asyncio.gather(
        read_all(f"{url}.mp4?profile={profile}"),
        play_hls(index(running, slug, "fmp4", profile)),
        play_dash(f"{url}/manifest.mpd?profile={profile}"),
    )
    path = saved(tmp_path, "whole.mp4", whole)
    times = packets_of_mp4(path)
    assert set(times) == {codec, "opus"}
    assert times[codec] == source
    assert all(abs(b - a - 1800) <= 1 for a, b in pairwise(times["opus"]))
    assert decode_errors(path) == []
    heard = {}
    for name, video, audio in (("hls", pictures.file(), sound.file()), ("dash", dash["video"], dash["audio1"])):
        path = saved(tmp_path, f"{name}.mp4", video)
        assert packets_of_mp4(path)[codec] == source
        assert decode_errors(path) == []
        heard[name] = packets_of_mp4(saved(tmp_path, f"{name}-sound.mp4", audio))["opus"]
        assert_same_times(heard[name], times["opus"])
    assert re.search(rf'CODECS="{CODECS[codec]},opus",RESOLUTION=160x90,FRAME-RATE=25\.000', text), text
    assert all(1.96 <= segment.duration_s <= 2.04 for segment in pictures.segments[1:-1])


@pytest.mark.parametrize("codec", ["av1", "vp9"])
async def test_mpegts_is_refused_with_what_would_do(tvarr: Cluster, codec: str) -> None:
    running = profiled(tvarr)
    slug = running.add_channel(f"No TS {codec}", "file:clip.ts", pace="fast")
    async with watching(running.stream_url(slug, f"{codec}-opus")) as answer:
        assert answer.status == 406
        problem = await answer.json(content_type=None)
        assert all(words in problem["detail"] for words in (codec, ".mp4", "container=fmp4", "DASH")), problem


async def test_a_killed_daemon_costs_no_picture(two: Cluster, tmp_path: Path) -> None:
    running, codec = profiled(two), "av1"
    slug = running.add_channel("Killed", "file:clip.ts", loop=True)
    async with watching(f"{running.url}/stream/{slug}.mp4?profile={codec}-opus") as answer:
        assert answer.status == 200, await answer.text()
        data = await read_on(answer, 2.5)
        running.roles[variant(running, slug)["job"]["daemon_name"]].process.kill()
        data += await read_on(answer, 5.0)
        after = variant(running, slug)
    assert after["takeovers"] == 1
    assert [ending["code"] for ending in after["endings"]] == ["connection_lost"]
    path = saved(tmp_path, "received.mp4", data[: data.rindex(b"moof") - 4])
    times = packets_of_mp4(path)[codec]
    steps = [later - earlier for earlier, later in pairwise(times)]
    odd = [step for step in steps if step != PICTURE_TICKS]
    assert all(PICTURE_TICKS < step < 2 * PICTURE_TICKS for step in odd), odd  # the loop's seam
    assert len(odd) <= 2
    assert times[-1] - times[0] > 6 * 90_000
    assert decode_errors(path) == []


@pytest.mark.parametrize(("name", "codec"), [("offline_av1.mp4", "av1"), ("offline_vp9.mp4", "vp9")])
async def test_a_source_of_such_a_codec_becomes_h264(
    tvarr: Cluster, clips: Path, media_dir: Path, tmp_path: Path, name: str, codec: str
) -> None:
    (clips / name).write_bytes((media_dir / "mp4_small" / name).read_bytes())
    slug = tvarr.add_channel(f"From {codec}", f"file:{name}", pace="fast")
    got = probe_bytes(await read_all(tvarr.stream_url(slug, "h264-low")), tmp_path)
    copy = packets_of_mp4(saved(tmp_path, "copy.mp4", await read_all(f"{tvarr.url}/stream/{slug}.mp4")))
    assert got.codecs() == ["h264"]
    assert got.pts("video") == copy[codec]
    assert len(copy[codec]) == 30
    assert decode_errors(tmp_path / "received.ts") == []


async def test_hls_of_av1_becomes_h264(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    """tvarr's own HLS with CMAF segments of AV1 and Opus as the source of a second channel."""
    running = profiled(tvarr)
    first = running.add_channel("AV1 for others", "file:clip.ts", loop=True)
    second = running.add_channel("AV1 of others", index(running, first, "fmp4", "av1-opus"))
    async with watching(running.stream_url(second, "h264-low")) as answer:
        assert answer.status == 200, await answer.text()
        data = await read_on(answer, 3.0)
    got = probe_bytes(up_to_the_last_frame(data), tmp_path)
    assert sorted(got.codecs()) == ["aac", "h264"]
    steps = {later - earlier for earlier, later in pairwise(got.pts("video"))}
    assert steps == {PICTURE_TICKS}
    assert len(got.pts("video")) > 60
    assert decode_errors(tmp_path / "received.ts") == []
