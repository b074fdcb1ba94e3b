"""Sources that fall silent, break off, and come back the same or as something else: viewers stay and go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clips import Probed, decode_errors, make_clip, probe_bytes
from tests.fakes.sources import Script, ScriptedServer, endless, hang, reset
from tests.harness import Cluster, cluster, watching

CLIP_S = 4.0
CUT_S = 1.6  # where the first connection breaks off
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-b:v", "500k")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-g", "25", "-x265-params", "log-level=error")
TWO_SOUNDS = ("-map", "0:v", "-map", "1:a", "-map", "1:a", "-c:a", "aac", "-b:a", "96k")
CLIPS: dict[str, dict[str, Any]] = {
    "h264": {"video": X264},
    "mpeg2": {"video": ("-c:v", "mpeg2video", "-g", "25", "-b:v", "900k")},
    "hevc": {"video": X265},
    "two sounds": {"video": X264, "audio": (*TWO_SOUNDS, "-metadata:s:a:1", "language=fra")},
}
NULL = b"\x47\x1f\xff"
PIECES_A_SECOND = 20
AT_THE_CUT = ("error while decoding", "concealing", "corrupt", "Invalid level prefix", "negative", "left block")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sources")
    paths = {
        name: make_clip(folder / f"{name}.ts", seconds=CLIP_S, size="320x180", **how) for name, how in CLIPS.items()
    }
    return {name: path.read_bytes() for name, path in paths.items()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("tvarr"), coordinator_flags=("--idle-linger", "0.5")) as made:
        made.start_daemon("worker")
        yield made


def parts(clip: bytes, first_s: float, last_s: float) -> list[bytes]:
    """A part of a clip in pieces of whole packets, `PIECES_A_SECOND`."""
    first, last, step = (round(len(clip) * s / CLIP_S / 188) * 188 for s in (first_s, last_s, 1 / PIECES_A_SECOND))
    return [clip[at : min(at + step, last)] for at in range(first, last, step)]


def live(clip: bytes, first_s: float, last_s: float, then: Script) -> Script:
    """A part of a clip at its own speed."""
    return endless(parts(clip, first_s, last_s), "Content-Type: video/mp2t", pause_s=1 / PIECES_A_SECOND, then=then)


@dataclass
class Watched:
    """What a viewer got: when, and what; and the ids of the jobs that ran."""

    data: bytes
    arrivals: list[tuple[float, bytes]]
    jobs: list[str]

    @property
    def longest_silence_s(self) -> float:
        return max(later - earlier for (earlier, _), (later, _) in pairwise(self.arrivals))

    def packets(self) -> list[bytes]:
        return [self.data[at : at + 188] for at in range(0, len(self.data), 188)]


async def watch(running: Cluster, slug: str, profile: str, media_s: float) -> Watched:
    """Watches until the stream has been silent for 2 s at its end; in the middle it may be for as long as it likes.

    `media_s`: how much there is to come.
    """
    arrivals: list[tuple[float, bytes]] = []
    jobs: list[str] = []

    def look() -> None:
        (relay,) = [relay for relay in running.relays() if relay["channel"]["slug"] == slug]
        (variant,) = [variant for variant in relay["variants"] if variant["profile"] == profile]
        if (job := variant.get("job")) and job["id"] not in jobs:
            jobs.append(job["id"])

    async with watching(running.stream_url(slug, profile)) as answer:
        assert answer.status == 200, await answer.text()
        looked = media_at = time.monotonic()
        began = media_at
        while time.monotonic() - began < media_s + 1.0 or time.monotonic() - media_at < 2.0:
            chunk = await answer.content.readany()
            assert chunk, "the stream ended"
            arrivals.append((time.monotonic(), chunk))
            if not chunk.startswith(NULL):
                media_at = time.monotonic()
            if profile != "passthrough" and time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                await asyncio.to_thread(look)
    data = b"".join(chunk for _, chunk in arrivals)
    return Watched(data[: len(data) // 188 * 188], arrivals, jobs)


def assert_one_timeline(got: Probed, video_index: int = 0) -> None:
    """Pictures are shown one after another, none twice, and decode times only grow."""
    pictures = [p for p in got.packets if p.stream == video_index]
    shown = sorted(p.pts for p in pictures if p.pts is not None)
    decoded = [p.dts for p in pictures if p.dts is not None]
    assert all(later - earlier >= 1800 for earlier, later in pairwise(shown))
    assert all(later > earlier for earlier, later in pairwise(decoded))
    heard = got.dts("audio")
    assert heard


async def watch_both(running: Cluster, slug: str, media_s: float) -> tuple[Watched, Watched]:
    """One viewer of the channel as it is, one of a transcode."""
    return await asyncio.gather(watch(running, slug, "passthrough", media_s), watch(running, slug, "h264", media_s))


async def test_a_silent_source_is_filled_with_null_packets(
    running: Cluster, pieces: dict[str, bytes], tmp_path: Path
) -> None:
    async def pause(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2.6)
        for part in parts(pieces["h264"], CUT_S, CLIP_S):
            writer.write(part)
            await asyncio.sleep(1 / PIECES_A_SECOND)
        await hang(writer)

    async with ScriptedServer(live(pieces["h264"], 0.0, CUT_S, pause)) as source:
        slug = await asyncio.to_thread(running.add_channel, "Silent", source.url)
        both = await watch_both(running, slug, CLIP_S + 2.6)
        assert len(source.requests) == 1
    for watched in both:
        packets = watched.packets()
        assert {packet[0] for packet in packets} == {0x47}
        silent = [number for number, packet in enumerate(packets) if packet.startswith(NULL)]
        media = [number for number, packet in enumerate(packets) if not packet.startswith(NULL)]
        assert media[0] < silent[0]
        assert sum(number < media[-1] for number in silent) >= 14  # two or three times in the pause
        assert watched.longest_silence_s < 1.5
        got = probe_bytes(watched.data, tmp_path)
        shown = got.pts("video")[:-3]  # the last ones are held while more may come
        assert {later - earlier for earlier, later in pairwise(shown)} == {3600}
        assert len(shown) > (CLIP_S - 0.5) * 25
        assert decode_errors(tmp_path / "received.ts") == []
    assert len(both[1].jobs) == 1


@pytest.mark.parametrize("second", CLIPS)
async def test_whatever_comes_back_viewers_go_on(
    running: Cluster, pieces: dict[str, bytes], tmp_path: Path, second: str
) -> None:
    first = live(pieces["h264"], 0.0, CUT_S, reset)
    async with ScriptedServer(first, live(pieces[second], 0.0, CLIP_S, hang)) as source:
        slug = await asyncio.to_thread(running.add_channel, f"Back as {second}", source.url)
        plain, transcoded = await watch_both(running, slug, CUT_S + CLIP_S)
        assert len(source.requests) == 2
    pictures = (CUT_S + CLIP_S - 1.0) * 25
    another_codec = second in {"mpeg2", "hevc"}

    # Of a transcode the viewer can't tell; one job does it, or a second one for another codec.
    got = probe_bytes(transcoded.data, tmp_path)
    assert got.codecs() == ["h264", "aac", *(["aac"] if second == "two sounds" else [])]
    assert_one_timeline(got)
    assert len(got.pts("video")) > pictures
    assert decode_errors(tmp_path / "received.ts") == []
    assert len(transcoded.jobs) == (2 if another_codec else 1)

    # As it is, a track that has changed its codec is a new one, which the old one's decoder does not see.
    got = probe_bytes(plain.data, tmp_path)
    more = {"h264": [], "mpeg2": ["mpeg2video"], "hevc": ["hevc"], "two sounds": ["aac"]}[second]
    assert got.codecs() == ["h264", "aac", *more]
    for index in [0, 2] if another_codec else [0]:
        assert_one_timeline(got, index)
    assert len(got.pts("video")) > pictures
    errors = [e for e in decode_errors(tmp_path / "received.ts") if not any(words in e for words in AT_THE_CUT)]
    assert errors == []
