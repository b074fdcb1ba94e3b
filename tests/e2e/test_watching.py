"""A channel is watched: as it is, transcoded, by one and by many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from tests.clips import decode_errors, make_clip, probe, probe_bytes
from tests.harness import Cluster, eventually, read_all, read_for, watching
from tvarr.media.model import TICKS_33BIT, TICKS_PER_SECOND, Kind, Sample, Tracks
from tvarr.media.mpegts.demux import Demuxer


async def test_passthrough_brings_every_packet_with_its_time(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("Fast", "file:clip.ts", pace="fast")
    got = probe_bytes(await read_all(tvarr.stream_url(slug)), tmp_path)
    source = probe(clips / "clip.ts")
    assert got.codecs() == source.codecs() == ["h264", "aac"]
    assert got.pts("video") == source.pts("video")
    assert got.pts("audio") == source.pts("audio")
    assert got.dts("video") == source.dts("video")
    assert decode_errors(tmp_path / "received.ts") == []


async def test_old_players_get_the_bytes_alone(tvarr: Cluster) -> None:
    """HTTP/1.0 knows no chunks: the body ends where the connection does (RFC 9112, 6.3)."""
    slug = tvarr.add_channel("Old player", "file:clip.ts", pace="fast")
    reader, writer = await asyncio.open_connection("127.0.0.1", tvarr.http_port)
    writer.write(f"GET /stream/{slug}.ts HTTP/1.0\r\n\r\n".encode())
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"chunked" not in head
    assert body == await read_all(tvarr.stream_url(slug))


@pytest.mark.parametrize(("profile", "codec"), [("h264", "h264"), ("hevc", "hevc")])
async def test_a_transcode_keeps_every_picture_at_its_time(
    tvarr: Cluster, clips: Path, tmp_path: Path, profile: str, codec: str
) -> None:
    slug = tvarr.add_channel(f"Fast {profile}", "file:clip.ts", pace="fast")
    got = probe_bytes(await read_all(tvarr.stream_url(slug, profile)), tmp_path)
    source = probe(clips / "clip.ts")
    assert got.codecs() == [codec, "aac"]
    assert got.pts("video") == source.pts("video")
    assert got.pts("audio") == source.pts("audio")  # AAC already: copied around the daemon
    assert got.dts("video") == sorted(set(got.dts("video")))
    assert decode_errors(tmp_path / "received.ts") == []


async def test_sound_alone_is_transcoded_and_the_picture_copied(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("MP2", "file:mp2.ts", pace="fast")
    got = probe_bytes(await read_all(tvarr.stream_url(slug, "aac")), tmp_path)
    source = probe(clips / "mp2.ts")
    assert got.codecs() == ["h264", "aac"]
    assert got.pts("video") == source.pts("video")
    heard = got.pts("audio")
    assert abs(heard[-1] - source.pts("audio")[-1]) < 9000
    assert {later - earlier for earlier, later in pairwise(heard)} == {1920}
    assert decode_errors(tmp_path / "received.ts") == []


async def test_radio(tvarr: Cluster, clips: Path, tmp_path: Path) -> None:
    slug = tvarr.add_channel("Radio", "file:radio.ts", pace="fast")
    got = probe_bytes(await read_all(tvarr.stream_url(slug)), tmp_path)
    assert got.codecs() == ["aac"]
    assert got.pts("audio") == probe(clips / "radio.ts").pts("audio")


async def test_a_loop_has_no_seam(tvarr: Cluster, tmp_path: Path) -> None:
    slug = tvarr.add_channel("Loop", "file:clip.ts", pace="realtime", loop=True)
    data = await read_for(tvarr.stream_url(slug), 9.5)
    seen = probe_bytes(data, tmp_path).pts("video")
    assert len(seen) > 8 * 25
    steps = [later - earlier for earlier, later in pairwise(seen[:-3])]
    assert all(3600 <= step < 7200 for step in steps)  # the sound is up to a frame longer than the picture
    assert sum(step != 3600 for step in steps) <= 1


async def test_a_file_is_shown_at_its_own_speed(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Real time", "file:clip.ts")
    started = time.monotonic()
    await read_all(tvarr.stream_url(slug))
    assert 6.0 < time.monotonic() - started < 12.0


async def test_viewers_share_one_job_and_late_ones_start_at_a_keyframe(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Shared", "file:clip.ts", loop=True)
    url = tvarr.stream_url(slug, "h264-low")
    async with watching(url) as first:
        assert first.status == 200
        assert first.content_type == "video/mp2t"
        await first.content.readany()
        started = time.monotonic()
        async with watching(url) as second:
            head = await second.content.readany()
            joined_s = time.monotonic() - started
            while len(head) < 30_000:
                head += await second.content.readany()
            relay = next(r for r in tvarr.relays() if r["channel"]["slug"] == slug)
            assert len(relay["variants"]) == 1
            variant = relay["variants"][0]
            assert len(variant["viewers"]) == 2
            assert variant["job"]["daemon_name"] == "worker"
            assert variant["job"]["encoder"] == "libx264"
            assert variant["placement"]["considered"][0]["chosen"] is True
    assert joined_s < 2.0
    events = Demuxer().feed(head)
    tracks = next(e for e in events if isinstance(e, Tracks))
    video = tracks.of_kind(Kind.VIDEO)[0]
    assert (video.width, video.height) == (320, 180)
    assert next(e for e in events if isinstance(e, Sample) and e.track == video.id).keyframe


async def test_a_relay_ends_when_nobody_watches(tmp_path: Path, clips: Path) -> None:
    running = Cluster(tmp_path, media_dir=clips, coordinator_flags=("--idle-linger", "0.5"))
    try:
        running.start_coordinator()
        slug = running.add_channel("Idle", "file:clip.ts", loop=True)
        await read_for(running.stream_url(slug), 0.2)
        await asyncio.to_thread(eventually, lambda: not running.relays(), "the relay has ended")
    finally:
        await asyncio.to_thread(running.stop)


def test_the_description_has_what_players_ask_for(tvarr: Cluster) -> None:
    described = tvarr.get("/api/openapi.json")["paths"]
    streams = {path: item["get"] for path, item in described.items() if path.startswith("/stream/")}
    assert {path: next(iter(get["responses"]["200"]["content"])) for path, get in streams.items()} == {
        "/stream/{channel}.ts": "video/mp2t",
        "/stream/{channel}.mp4": "video/mp4",
        "/stream/{channel}/index.m3u8": "application/vnd.apple.mpegurl",
        "/stream/{channel}/manifest.mpd": "application/dash+xml",
    }
    for get in streams.values():
        assert {"404", "502", "503", "504"} <= set(get["responses"])
        assert {"channel", "profile"} <= {parameter["name"] for parameter in get["parameters"]}
        assert get["security"] == []


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        pytest.param("/stream/nothing.ts", 404, "nothing", id="no such channel"),
        pytest.param("/stream/{slug}.ts?profile=nothing", 404, "nothing", id="no such profile"),
        pytest.param("/stream/{slug}.ts?profile=av1", 406, "av1", id="a codec that MPEG-TS can't hold"),
    ],
)
async def test_what_can_t_be_had_is_refused_in_words(tvarr: Cluster, path: str, status: int, words: str) -> None:
    channels = {c["slug"] for c in tvarr.get("/api/v1/channels")}
    slug = "plain" if "plain" in channels else tvarr.add_channel("Plain", "file:clip.ts", slug="plain")
    async with watching(tvarr.url + path.format(slug=slug)) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert words in json.dumps(await answer.json(content_type=None))


async def test_without_a_daemon_a_transcode_is_refused_at_once_and_passthrough_works(
    tmp_path: Path, clips: Path
) -> None:
    running = Cluster(tmp_path, media_dir=clips)
    try:
        running.start_coordinator()
        slug = running.add_channel("Alone", "file:clip.ts", loop=True)
        async with watching(running.stream_url(slug, "h264")) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert (await answer.json(content_type=None))["title"]
        assert len(await read_for(running.stream_url(slug), 1.0)) > 50_000
    finally:
        await asyncio.to_thread(running.stop)


async def test_a_viewer_who_reads_nothing_disturbs_nobody(tvarr: Cluster) -> None:
    slug = tvarr.add_channel("Slow", "file:clip.ts", loop=True)
    async with aiohttp.ClientSession(read_bufsize=1024) as session, session.get(tvarr.stream_url(slug)) as stuck:
        await stuck.content.read(188)
        data = await read_for(tvarr.stream_url(slug), 4.0)
        with contextlib.suppress(aiohttp.ClientError):
            stuck.close()
    assert len(data) > 150_000


async def test_a_viewer_who_reads_a_tenth_is_let_go_and_disturbs_nobody(tvarr: Cluster, clips: Path) -> None:
    """It has fallen behind by more than an output keeps; the other one gets everything, in time."""
    rate_bytes = 120_000_000 // 8
    filled = ("-x264-params", "nal-hrd=cbr", "-b:v", "120M", "-minrate", "120M", "-maxrate", "120M", "-bufsize", "60M")
    video = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", *filled)
    await asyncio.to_thread(make_clip, clips / "large.ts", seconds=2, size="320x180", video=video)
    slug = tvarr.add_channel("Large", "file:large.ts", loop=True)

    def agents() -> list[str]:
        relays = [relay for relay in tvarr.relays() if relay["channel"]["slug"] == slug]
        return sorted(v["user_agent"] for relay in relays for v in relay["variants"][0]["viewers"])

    async with watching(tvarr.stream_url(slug)) as good:
        demuxer, seen = Demuxer(), list[Sample]()

        async def watch() -> None:
            async for data in good.content.iter_any():
                seen.extend(event for event in demuxer.feed(data) if isinstance(event, Sample))

        watcher = asyncio.create_task(watch())
        slow = asyncio.create_task(read_slowly(tvarr, slug, rate_bytes // 10))
        try:
            before, began = too_slow(tvarr), time.monotonic()
            await asyncio.to_thread(eventually, lambda: "slow" in agents(), "both watch")
            await asyncio.to_thread(eventually, lambda: "slow" not in agents(), "the slow one is let go")
            took = time.monotonic() - began
            assert too_slow(tvarr) == before + 1
            await asyncio.to_thread(eventually, lambda: span_s(seen) > took - 1.0, "the other one has it all")
        finally:
            watcher.cancel()
            slow.cancel()
            await asyncio.gather(watcher, slow, return_exceptions=True)
    assert demuxer.stats.continuity_errors == 0


def span_s(seen: list[Sample]) -> float:
    return (seen[-1].dts_ticks - seen[0].dts_ticks) % TICKS_33BIT / TICKS_PER_SECOND if seen else 0.0


async def read_slowly(tvarr: Cluster, slug: str, bytes_a_second: int) -> None:
    """A player on a thin line: what waits for it stays with the sender, not with this machine."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, (tvarr.host, tvarr.http_port))
        request = f"GET /stream/{slug}.ts HTTP/1.1\r\nHost: {tvarr.host}\r\nUser-Agent: slow\r\n\r\n"
        await loop.sock_sendall(line, request.encode())
        with contextlib.suppress(ConnectionError):
            data = b"-"
            while data:
                data = await loop.sock_recv(line, bytes_a_second // 20)
                await asyncio.sleep(1 / 20)


def too_slow(tvarr: Cluster) -> float:
    with urllib.request.urlopen(f"{tvarr.url}/metrics", timeout=20) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines()]
    return sum(float(line[1]) for line in lines if line[0] == 'tvarr_viewer_dropped_total{reason="too_slow"}')
