"""The main job, measured from outside: throughput against ffmpeg alone, own CPU, time to the first picture."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.bench.report import Report, full_hd, median
from tests.clips import make_clip, probe
from tests.conftest import program
from tests.harness import Cluster, cluster, read_all, watching
from tvarr.media.model import Kind, Sample, Tracks
from tvarr.media.mpegts.demux import Demuxer

FULL_HD_S = 24.0
CPU_S = 30.0
STARTS = 10
PIPELINE_RUNS = 3


def run(report: Report) -> None:
    asyncio.run(_run(report))


async def _run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = full_hd(folder / "hd.ts", FULL_HD_S)
        make_clip(folder / "small.ts", seconds=10)
        with cluster(folder, media_dir=folder) as running:
            await asyncio.to_thread(running.start_daemon, "bench")
            await pipeline(report, running, clip, folder)
            await own_cpu(report, running)
            await starts(report, running)


async def pipeline(report: Report, running: Cluster, clip: Path, folder: Path) -> None:
    """The file through coordinator and daemon, and through the same ffmpeg command alone, in turns."""
    later = shifted(clip, folder / "shifted.ts")
    slug = running.add_channel("HD fast", f"file:{clip.name}", pace="fast")
    url = running.stream_url(slug, "h264")
    command = ""
    ratios, walls = [], []
    for _ in range(PIPELINE_RUNS):
        started = time.monotonic()
        data, command = await read_with_command(running, url)
        ours = time.monotonic() - started
        (folder / "ours.ts").write_bytes(data)
        alone = await asyncio.to_thread(ffmpeg_alone, command, later)
        ratios.append(ours / alone)
        walls.append(alone)
    report.add(
        "pipeline, 1080p30 8 Mb/s, libx264 veryfast: wall time",
        median(ratios),
        "x",
        compared=f"the same ffmpeg command alone ({median(walls):.1f} s)",
        aim="at most 1.05",
    )
    report.add(
        "pictures whose PTS changed or which are missing",
        len(set(probe(clip).pts("video")) ^ set(probe(folder / "ours.ts").pts("video"))),
        "",
        compared="the source file",
        aim="0",
    )


async def read_with_command(running: Cluster, url: str) -> tuple[bytes, str]:
    """The whole stream, and the ffmpeg command of its job."""
    reading = asyncio.create_task(read_all(url, timeout_s=300))
    command = ""
    while not command and not reading.done():
        await asyncio.sleep(0.2)
        for relay in await asyncio.to_thread(running.relays):
            for variant in relay["variants"]:
                command = (variant["job"] or {}).get("command", "") or command
    return await reading, command


def shifted(clip: Path, path: Path) -> Path:
    """The clip as a daemon gives it to ffmpeg: from 10 s on, before which the command trims."""
    command = [program("ffmpeg"), "-v", "error", "-y", "-i", str(clip), "-c", "copy", "-output_ts_offset", "10"]
    subprocess.run([*command, "-f", "mpegts", str(path)], check=True, timeout=60)
    return path


def ffmpeg_alone(command: str, clip: Path) -> float:
    """Wall time of the command on a file, stdin to stdout."""
    words = shlex.split(command)
    if "-progress" in words:
        at = words.index("-progress")
        del words[at : at + 2]
    with clip.open("rb") as source:
        started = time.monotonic()
        subprocess.run(words, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.monotonic() - started


async def own_cpu(report: Report, running: Cluster) -> None:
    """CPU of both Python processes for one live transcode; the encoder's own is not ours."""
    slug = running.add_channel("HD live", "file:hd.ts", loop=True)
    processes = {name: psutil.Process(running.roles[name].process.pid) for name in ("coordinator", "bench")}
    idle = await cpu_share(processes, 10.0)
    async with watching(running.stream_url(slug, "h264-low"), timeout_s=300) as response:
        reader = asyncio.create_task(swallow(response))
        await asyncio.sleep(5)
        busy = await cpu_share(processes, CPU_S)
        reader.cancel()
    for name, share in busy.items():
        report.add(
            f"own CPU, {name}, one live 8 Mb/s transcode", share, "% of a core", compared=f"idle {idle[name]:.2f}"
        )
    report.add("own CPU, both together", sum(busy.values()), "% of a core", aim="at most 3")


async def cpu_share(processes: dict[str, psutil.Process], seconds: float) -> dict[str, float]:
    before = {name: sum(p.cpu_times()[:2]) for name, p in processes.items()}
    started = time.monotonic()
    await asyncio.sleep(seconds)
    wall = time.monotonic() - started
    return {name: 100 * (sum(p.cpu_times()[:2]) - before[name]) / wall for name, p in processes.items()}


async def swallow(response: object) -> None:
    while await response.content.readany():  # type: ignore[attr-defined]
        pass


async def starts(report: Report, running: Cluster) -> None:
    """From the request to the first keyframe, with nothing running before, and into a running variant."""
    cold, warm = [], []
    for number in range(STARTS):
        slug = running.add_channel(f"Cold {number}", "file:small.ts", loop=True)
        url = running.stream_url(slug, "h264")
        started = time.monotonic()
        async with watching(url) as first:
            await first_keyframe(first)
            cold.append(time.monotonic() - started)
            reader = asyncio.create_task(swallow(first))
            started = time.monotonic()
            async with watching(url) as second:
                await first_keyframe(second)
                warm.append(time.monotonic() - started)
            reader.cancel()
    report.add("cold start to the first keyframe, median", median(cold), "s", aim="at most 1.0")
    report.add("cold start to the first keyframe, worst", max(cold), "s", aim="at most 1.0")
    report.add("joining a running variant, median", median(warm), "s", aim="at most 0.2")
    report.add("joining a running variant, worst", max(warm), "s", aim="at most 0.2")


async def first_keyframe(response: object) -> None:
    """Reads a stream until a whole video keyframe has come."""
    demuxer, video = Demuxer(), -1
    while data := await response.content.readany():  # type: ignore[attr-defined]
        for event in demuxer.feed(data):
            if isinstance(event, Tracks):
                video = next((t.id for t in event.of_kind(Kind.VIDEO)), -1)
            elif isinstance(event, Sample) and event.track == video and event.keyframe:
                return
    raise AssertionError(f"no keyframe from {urlsplit(str(getattr(response, 'url', '')))}")
