"""HLS and DASH: segments at keyframes, playlists that are true, players that come and go."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

from tests.clips import assert_same_times, decode_errors, packets_of_mp4, probe, probe_bytes
from tests.conftest import program
from tests.harness import Cluster, cluster, eventually, watching
from tests.hls import Playing, get, open_hls, play_dash, play_hls, refresh
from tvarr.coordinator.adaptive import DASH_SEGMENTS

SUM_TICKS = 90  # EXTINF is true to 1 ms


def index(running: Cluster, slug: str, container: str = "ts", profile: str = "") -> str:
    query = f"container={container}" + (f"&profile={profile}" if profile else "")
    return f"{running.url}/stream/{slug}/index.m3u8?{query}"


def saved(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def variants(running: Cluster, slug: str) -> list[dict[str, Any]]:
    return [v for r in running.relays() if r["channel"]["slug"] == slug for v in r["variants"]]


def viewers(running: Cluster, slug: str) -> list[dict[str, Any]]:
    return [viewer for variant in variants(running, slug) for viewer in variant["viewers"]]


def first_times(playing: Playing, folder: Path) -> list[int]:
    """PTS of each segment's first picture, which must be a keyframe that can be decoded without what went before."""
    times = []
    for segment in playing.segments:
        path = saved(folder, "segment", playing.maps.get(segment.map, b"") + segment.data)
        (found,) = probe_first(path)
        assert "K" in found["flags"]
        times.append(int(found["pts"]))
    return times


def probe_first(path: Path) -> list[dict[str, Any]]:
    command = [program("ffprobe"), "-v", "error", "-of", "json", "-select_streams", "v", "-show_entries"]
    command += ["packet=pts,flags", "-read_intervals", "%+#1", str(path)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packets"]
    return found


@pytest.mark.parametrize("profile", ["passthrough", "h264"])
async def test_transport_stream_segments_together_are_the_stream(
    tvarr: Cluster, clips: Path, tmp_path: Path, profile: str
) -> None:
    slug = tvarr.add_channel(f"HLS {profile}", "file:clip.ts", pace="fast")
    text, (playing,) = await play_hls(index(tvarr, slug, "ts", profile))
    got = probe_bytes(playing.file(), tmp_path)
    source = probe(clips / "clip.ts")
    assert got.pts("video") == source.pts("video")
    assert got.pts("audio") == source.pts("audio")
    assert got.dts("video") == sorted(set(got.dts("video")))
    assert decode_errors(tmp_path / "received.ts") == []
    starts = first_times(playing, tmp_path)
    shown = [round(segment.duration_s * 90_000) for segment in playing.segments]
    steps = [later - earlier for earlier, later in pairwise(starts)]
    assert all(abs(step - length) <= SUM_TICKS for step, length in zip(steps, shown[:-1], strict=True))
    assert abs(sum(shown) - (source.pts("video")[-1] + 3600 - source.pts("video")[0])) <= SUM_TICKS
    assert all(1.96 <= segment.duration_s <= 2.04 for segment in playing.segments[1:-1])
    assert playing.segments[0].duration_s < 4  # from where the stream begins to the timeline's next even second
    assert not any(segment.discontinuity for segment in playing.segments)
    assert 'CODECS="avc1.' in text
    assert "RESOLUTION=320x180,FRAME-RATE=25.000" in text
    bits = [len(segment.data) * 8 / segment.duration_s for segment in playing.segments]
    told = re.search(r":BANDWIDTH=(\d+),AVERAGE-BANDWIDTH=(\d+)", text)
    assert told is not None
    assert bits[0] * 0.99 <= int(told[1]) <= max(bits) * 1.01


async def test_cmaf_segments_have_every_packet_of_the_stream(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("CMAF", "file:clip.ts", pace="fast")
    text, (sound, pictures) = await play_hls(index(tvarr, slug, "fmp4"))
    source = probe(clips / "clip.ts")
    video = saved(tmp_path, "video.mp4", pictures.file())
    audio = saved(tmp_path, "audio.mp4", sound.file())
    (seen,) = packets_of_mp4(video).values()
    (heard,) = packets_of_mp4(audio).values()
    assert seen == source.pts("video")
    assert_same_times(heard, source.pts("audio"))
    assert decode_errors(video) == decode_errors(audio) == []
    assert len(pictures.maps) == len(sound.maps) == 1
    assert [s.number for s in pictures.segments] == [s.number for s in sound.segments]
    assert re.search(r'CODECS="avc1\.[0-9a-f]{6},mp4a\.40\.2",RESOLUTION=320x180,FRAME-RATE=25\.000', text)
    length = sum(segment.duration_s for segment in sound.segments)
    assert length == pytest.approx((source.pts("audio")[-1] + 1920 - source.pts("audio")[0]) / 90_000, abs=0.001)
    starts = first_times(pictures, tmp_path)
    steps = [later - earlier for earlier, later in pairwise(starts)]
    told = [round(segment.duration_s * 90_000) for segment in pictures.segments]
    assert all(abs(step - one) <= SUM_TICKS for step, one in zip(steps, told[:-1], strict=True))


async def test_dash_has_every_packet_of_the_stream(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("DASH", "file:clip.ts", pace="fast")
    files = await play_dash(f"{tvarr.url}/stream/{slug}/manifest.mpd?profile=h264")
    assert set(files) == {"video", "audio1"}
    source = probe(clips / "clip.ts")
    assert packets_of_mp4(saved(tmp_path, "video.mp4", files["video"]))["h264"] == source.pts("video")
    heard = packets_of_mp4(saved(tmp_path, "audio.mp4", files["audio1"]))["aac"]
    assert_same_times(heard, source.pts("audio"))
    assert decode_errors(tmp_path / "video.mp4") == []


async def test_hevc(tvarr: Cluster, tmp_path: Path) -> None:
    slug = tvarr.add_channel("As HEVC", "file:clip.ts", pace="fast")
    profile = {"name": "tiny-hevc", "video_codec": "hevc", "width": 160, "height": 90, "preset": "ultrafast"}
    status, value = tvarr.request("POST", "/api/v1/profiles", profile)
    assert status == 201, value
    text, (_, pictures) = await play_hls(index(tvarr, slug, "fmp4", "tiny-hevc"))
    named = r"hvc1\.1\.[0-9A-F.]+L\d+[0-9A-F.]*,mp4a\.40\.2"
    assert re.search(rf'CODECS="{named}",RESOLUTION=160x90,FRAME-RATE=25\.000', text)
    path = saved(tmp_path, "video.mp4", pictures.file())
    assert len(packets_of_mp4(path)["hevc"]) == 200
    assert decode_errors(path) == []


async def test_what_a_container_can_t_hold_is_refused_with_what_would_do(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("AV1", "file:clip.ts", pace="fast")
    async with watching(index(tvarr, slug, "ts", "av1")) as answer:
        assert answer.status == 406
        assert "HLS with container=fmp4" in (await answer.json(content_type=None))["detail"]


async def test_radio(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("Radio HLS", "file:radio.ts", pace="fast")
    _, (whole,) = await play_hls(index(tvarr, slug))
    assert probe_bytes(whole.file(), tmp_path).pts("audio") == probe(clips / "radio.ts").pts("audio")
    text, (only,) = await play_hls(index(tvarr, slug, "fmp4"))
    assert "RESOLUTION" not in text
    assert len(packets_of_mp4(saved(tmp_path, "radio.mp4", only.file()))["aac"]) > 200


async def test_a_player_is_a_viewer(tvarr: Cluster) -> None:
    """It counts with what it has got, and another one has an address of its own."""
    slug = tvarr.add_channel("Live HLS", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession(headers={"User-Agent": "a player"}) as session:
        _, (one,) = await open_hls(session, index(tvarr, slug))
        _, (other,) = await open_hls(session, index(tvarr, slug))
        assert one.url != other.url
        await refresh(session, one)
        seen = viewers(tvarr, slug)
        assert [v["container"] for v in seen] == ["hls-ts", "hls-ts"]
        assert {v["user_agent"] for v in seen} == {"a player"}
        assert sorted(v["bytes"] for v in seen) == [0, sum(len(s.data) for s in one.segments)]
        unknown = Playing(re.sub(r"ts/[^/]+/", "ts/somebody/", one.url))
        await refresh(session, unknown)
        assert len(viewers(tvarr, slug)) == 3
        for _ in range(2):  # again and again, as players do
            await get(session, f"{tvarr.url}/stream/{slug}/manifest.mpd")
        assert [v["container"] for v in viewers(tvarr, slug)] == ["hls-ts"] * 3 + ["dash"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        pytest.param("nothing/index.m3u8", 404, "nothing", id="no such channel"),
        pytest.param("{slug}/index.m3u8?profile=nothing", 404, "nothing", id="no such profile"),
        pytest.param("{slug}/index.m3u8?container=avi", 400, "container", id="no such container"),
        pytest.param("{slug}/hls/passthrough/ts/somebody/main-7.ts", 404, "main-7.ts", id="no such segment"),
        pytest.param("{slug}/hls/passthrough/ts/somebody/x.exe", 404, "x.exe", id="no such file"),
        pytest.param("{slug}/hls/passthrough/ts/somebody/audio9.m3u8", 404, "audio9", id="no such track"),
        pytest.param(
            "{slug}/dash/passthrough/somebody-else/video.m3u8", 404, "no file video.m3u8", id="no playlist of DASH"
        ),
        pytest.param("{mute}/manifest.mpd", 502, "refuses", id="no such source"),
    ],
)
async def test_what_can_t_be_had_is_refused_in_words(tvarr: Cluster, path: str, status: int, words: str) -> None:
    slugs = {c["slug"] for c in tvarr.get("/api/v1/channels")}
    slug = "plain-hls" if "plain-hls" in slugs else tvarr.add_channel("P", "file:clip.ts", slug="plain-hls", loop=True)
    mute = "mute" if "mute" in slugs else tvarr.add_channel("M", "http://127.0.0.1:1/x.ts", slug="mute")
    async with watching(f"{tvarr.url}/stream/{path.format(slug=slug, mute=mute)}") as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == status, problem
        assert words in json.dumps(problem)


async def test_who_asks_for_the_segment_that_is_made_now_waits_for_it(tvarr: Cluster) -> None:
    """FFmpeg and GStreamer reckon when it begins, and ask for it before any manifest names it."""
    slug = tvarr.add_channel("Ahead", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:

        async def ask(url: str) -> tuple[int, int]:
            async with session.get(url) as answer:
                return answer.status, len(await answer.read())

        _, (playing,) = await open_hls(session, index(tvarr, slug))
        await refresh(session, playing)
        newest = playing.segments[-1].number
        assert (await ask(playing.url.replace("main.m3u8", f"main-{newest + 20}.ts")))[0] == 404
        status, size = await ask(playing.url.replace("main.m3u8", f"main-{newest + 1}.ts"))
        assert (status, size > 0) == (200, True)

        manifest = (await get(session, f"{tvarr.url}/stream/{slug}/manifest.mpd"))[1].decode()
        folder = f"{tvarr.url}/stream/{slug}/" + re.findall("<BaseURL>(.*)</BaseURL>", manifest)[0]
        video = manifest.partition('id="video"')[2].partition("</Representation>")[0]
        start, duration = map(int, re.findall(r't="(\d+)" d="(\d+)"', video)[-1])
        assert (await ask(f"{folder}video-t{start + 20 * duration}.m4s"))[0] == 404
        status, size = await ask(f"{folder}video-t{start + duration}.m4s")
        assert (status, size > 0) == (200, True)


async def test_heads_and_headers(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Heads", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        for path, content_type in (
            ("index.m3u8", "application/vnd.apple.mpegurl"),
            ("manifest.mpd", "application/dash+xml"),
        ):
            async with session.head(f"{tvarr.url}/stream/{slug}/{path}") as answer:
                assert (answer.status, answer.content_type) == (200, content_type)
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert answer.headers["Cache-Control"] == "no-store"
        assert viewers(tvarr, slug) == []
        _, (playing,) = await open_hls(session, index(tvarr, slug))
        await refresh(session, playing)
        segment = playing.url.replace("main.m3u8", f"main-{playing.segments[0].number}.ts")
        sent = [v["bytes"] for v in viewers(tvarr, slug)]
        for url, status in (
            (segment, 200),
            (playing.url.replace("main.m3u8", f"main-{playing.segments[-1].number + 3}.ts"), 404),
            (re.sub(r"ts/[^/]+/", "ts/nobody-at-all/", playing.url), 404),
        ):
            async with session.head(url) as answer:
                assert answer.status == status
                if status == 200:
                    assert answer.content_type == "video/mp2t"
                    assert int(answer.headers["Content-Length"]) == len(playing.segments[0].data)
                    assert answer.headers["Cache-Control"] == "max-age=60"
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert [v["bytes"] for v in viewers(tvarr, slug)] == sent, "who only looks is no viewer, and gets nothing"


async def test_what_files_are_said_to_be(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Types", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        text, _ = await open_hls(session, f"{tvarr.url}/stream/{slug}/index.m3u8")
        assert text.splitlines()[-1].endswith("/main.m3u8"), "transport stream, where nothing is asked for"
        _, (sound, pictures) = await open_hls(session, index(tvarr, slug, "fmp4"))
        for playing, content_type in ((sound, "audio/mp4"), (pictures, "video/mp4")):
            await refresh(session, playing)
            addresses = [*playing.maps, urljoin(playing.url, playing.text.split()[-1])]
            assert [(await get(session, url))[0] for url in addresses] == [content_type] * 2


async def test_a_session_is_read_as_it_was_begun(tvarr: Cluster) -> None:
    """A playlist of one container is not answered with the segments of another."""
    slug = tvarr.add_channel("Two containers", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        _, (playing,) = await open_hls(session, index(tvarr, slug))
        for other in ("hls/passthrough/fmp4", "dash/passthrough"):
            assert await status_of(session, playing.url.replace("hls/passthrough/ts", other)) == 404
        assert len(viewers(tvarr, slug)) == 1


async def test_the_first_manifest_has_as_much_as_it_suggests_to_play_behind(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Behind", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        manifest = (await get(session, f"{tvarr.url}/stream/{slug}/manifest.mpd"))[1].decode()
    video = manifest.partition('id="video"')[2].partition("</Representation>")[0]
    assert video.count("<S t=") >= DASH_SEGMENTS


async def test_a_key_is_asked_for_and_handed_on(tmp_path: Path, clips: Path) -> None:
    with cluster(tmp_path, media_dir=clips, coordinator_flags=("--stream-key", "sec&ret")) as running:
        slug = running.add_channel("Locked", "file:clip.ts", pace="fast")
        async with watching(index(running, slug)) as answer:
            assert answer.status == 401
        _, (playing,) = await play_hls(index(running, slug) + "&key=sec%26ret")
        assert len(playing.segments) >= 4
        async with watching(playing.url.partition("?")[0]) as answer:
            assert answer.status == 401
        assert set(await play_dash(f"{running.url}/stream/{slug}/manifest.mpd?key=sec%26ret")) == {"video", "audio1"}


async def test_a_takeover_leaves_no_hole(two: Cluster, tmp_path: Path) -> None:
    """The daemon is killed: segments go on with their numbers, lengths add up, and every picture is there once.

    Who asks for nothing any more is no viewer soon after, and what nobody watches ends.
    """
    slug = two.add_channel("Taken over", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        _, (sound, pictures) = await open_hls(session, index(two, slug, "fmp4", "h264-low"))
        _, (whole,) = await open_hls(session, index(two, slug, "ts", "h264-low"))
        lists = (sound, pictures, whole)
        await open_hls(session, index(two, slug, "ts", "h264-low"))
        assert len(viewers(two, slug)) == 3

        async def play(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                for playing in lists:
                    assert await refresh(session, playing)
                await asyncio.sleep(0.2)

        await play(1.0)
        two.roles[variants(two, slug)[0]["job"]["daemon_name"]].process.kill()
        await play(10.5)
        assert variants(two, slug)[0]["takeovers"] == 1
        assert len(viewers(two, slug)) == 2
    for playing in lists:
        numbers = [segment.number for segment in playing.segments]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    got = probe_bytes(whole.file(), tmp_path)
    assert_every_picture_once(got.pts("video"), whole)
    assert decode_errors(tmp_path / "received.ts") == []
    video = saved(tmp_path, "video.mp4", pictures.file())
    assert_every_picture_once(packets_of_mp4(video)["h264"], pictures)
    assert decode_errors(video) == []
    assert len(pictures.maps) == 1
    assert not any(segment.discontinuity for segment in pictures.segments)
    await asyncio.to_thread(eventually, lambda: not two.relays(), "nobody watches any more")


async def test_a_player_that_asks_again_after_a_failure_is_served_again(two: Cluster, clips: Path) -> None:
    """A session that stayed with the stream that failed would ask in vain for as long as it asks."""
    slug = two.add_channel("Failed", "file:late.ts", loop=True)
    manifest = f"{two.url}/stream/{slug}/manifest.mpd"
    async with aiohttp.ClientSession() as session:
        assert await status_of(session, manifest) == 502
        shutil.copy(clips / "clip.ts", clips / "late.ts")
        assert await status_of(session, manifest) == 200


async def test_a_player_that_is_not_known_any_more_is_one_viewer_whatever_it_asks_for_at_once(two: Cluster) -> None:
    """It asks for its sound and its pictures together: after a pause, or when the coordinator was started again."""
    slug = two.add_channel("Forgotten", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession() as session:
        _, lists = await open_hls(session, index(two, slug, "fmp4"))
        urls = [re.sub(r"fmp4/[^/]+/", "fmp4/forgotten/", playing.url) for playing in lists]
        await asyncio.gather(*(get(session, url) for url in urls * 8))
        assert len(viewers(two, slug)) == 2
    await asyncio.to_thread(eventually, lambda: not two.relays(), "nobody watches any more")


async def status_of(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        return answer.status


async def test_an_output_that_nobody_watches_any_more_ends(two: Cluster) -> None:
    """The variant goes on for the others."""
    slug = two.add_channel("Left", "file:clip.ts", loop=True)
    async with watching(two.stream_url(slug)) as one:
        await one.content.readany()
        async with watching(f"{two.url}/stream/{slug}.mp4") as other:
            await other.content.readany()
            assert variants(two, slug)[0]["outputs"] == ["ts", "mp4"]
        await asyncio.to_thread(eventually, lambda: variants(two, slug)[0]["outputs"] == ["ts"], "it has ended")
        assert await one.content.readany()


def assert_every_picture_once(times: list[int], playing: Playing) -> None:
    steps = [later - earlier for earlier, later in pairwise(times)]
    odd = [step for step in steps if step != 3600]
    assert all(3600 < step < 7200 for step in odd), odd  # the loop's seam
    assert len(odd) <= 2
    shown = sum(segment.duration_s for segment in playing.segments)
    assert shown > 7.0
    assert shown * 90_000 == pytest.approx(times[-1] + 3600 - times[0], abs=SUM_TICKS)


def test_mpv_plays_it(tvarr: Cluster, tmp_path: Path) -> None:
    slug = tvarr.add_channel("HLS by mpv", "file:clip.ts", loop=True)
    command = [program("mpv"), "--no-config", "--ao=null", "--vo=image", f"--vo-image-outdir={tmp_path}"]
    command += ["--msg-level=all=error", "--frames=75", index(tvarr, slug)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.jpg"))) == 75


async def test_ffmpeg_plays_it(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("By ffmpeg", "file:clip.ts", loop=True)

    async def play(path: str) -> None:
        command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", f"{tvarr.url}/stream/{slug}/{path}", "-t", "4"]
        command += ["-map", "0:v", "-map", "0:a", "-f", "framecrc", "-"]
        run = asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        done = await run
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr.lower()
        frames = [line for line in done.stdout.splitlines() if not line.startswith("#")]
        assert sum(line.startswith("0,") for line in frames) >= 95
        assert sum(line.startswith("1,") for line in frames) >= 180

    await asyncio.gather(*map(play, ("index.m3u8", "index.m3u8?container=fmp4", "manifest.mpd")))
