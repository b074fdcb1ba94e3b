"""`.mp4`: one endless file for browsers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.clips import Probed, assert_same_times, decode_errors, packets_of_mp4, probe_bytes
from tests.harness import Cluster, eventually, read_all, read_for, watching


def watch(tvarr: Cluster, path: str) -> str:
    return tvarr.url + "/stream/" + path


@pytest.mark.parametrize("profile", ["passthrough", "h264-low"])
async def test_it_has_every_packet_of_the_transport_stream(tvarr: Cluster, tmp_path: Path, profile: str) -> None:
    slug = tvarr.add_channel(f"MP4 {profile}", "file:clip.ts", pace="fast")
    got, reference = await asyncio.gather(
        read_all(watch(tvarr, f"{slug}.mp4?profile={profile}")),
        read_all(watch(tvarr, f"{slug}.ts?profile={profile}")),
    )
    expected: Probed = probe_bytes(reference, tmp_path)
    path = tmp_path / "received.mp4"
    path.write_bytes(got)
    times = packets_of_mp4(path)
    assert set(times) == {"h264", "aac"}
    assert times["h264"] == expected.pts("video")
    assert_same_times(times["aac"], expected.pts("audio"))
    assert decode_errors(path) == []


async def test_a_late_viewer_begins_with_the_headers_and_a_keyframe(tvarr: Cluster, tmp_path: Path) -> None:
    slug = tvarr.add_channel("MP4 late", "file:clip.ts", loop=True)
    url = watch(tvarr, f"{slug}.mp4")
    async with watching(url) as first:
        assert first.status == 200
        assert first.content_type == "video/mp4"
        await first.content.readany()
        data = await read_for(url, 3.0)
        (relay,) = [r for r in tvarr.relays() if r["channel"]["slug"] == slug]
        assert [v["container"] for v in relay["variants"][0]["viewers"]] == ["mp4"]
    assert data[4:8] == b"ftyp"
    path = tmp_path / "late.mp4"
    path.write_bytes(data[: data.rindex(b"moof") - 4])
    times = packets_of_mp4(path)
    assert len(times["h264"]) > 50
    assert decode_errors(path) == []


async def test_what_mp4_has_no_place_for_is_refused_with_what_would_do(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("MP4 of MP2", "file:mp2.ts", pace="fast")
    async with watching(watch(tvarr, f"{slug}.mp4")) as answer:
        assert answer.status == 406
        assert "MP4 has no mapping for mp2" in (problem := (await answer.json(content_type=None))["detail"])
        assert ".ts" in problem
    assert len(await read_all(watch(tvarr, f"{slug}.mp4?profile=aac"))) > 100_000


async def test_who_leaves_is_no_viewer_any_more(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("MP4 left", "file:clip.ts", loop=True)
    await read_for(watch(tvarr, f"{slug}.mp4"), 0.2)

    def gone() -> bool:
        relays = [r for r in tvarr.relays() if r["channel"]["slug"] == slug]
        return not any(v["viewers"] for r in relays for v in r["variants"])

    await asyncio.to_thread(eventually, gone, "the viewer is gone")
