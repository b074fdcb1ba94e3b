"""A file through coordinator and daemon, and through the same ffmpeg command alone, in turns: wall time.

`python -m tests.bench pipeline`. Each pair runs one right after the other, so that what else the machine does weighs on
both; the ratio is the median of the pairs' ratios. Ours has the viewer in it, and all that comes before the first
picture.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.report import at_most, ratio_at_most
from tests.clips import probe
from tests.conftest import program
from tests.harness import Cluster, cluster, read_all
from tests.listening import listening
from tvarr.client import TsWriter, connect, copy, read_ts

ENCODES = (
    ("1280x720", "veryfast"),
    ("1920x1080", "ultrafast"),
    ("1280x720", "ultrafast"),
    ("1920x1080", "veryfast"),
)
COPY_REPEATS = 9  # 72 s
ALONE = "the same ffmpeg command alone"


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with cluster(folder, media_dir=bench.folder, coordinator_flags=("--idle-linger", "0")) as running:
            running.start_daemon("daemon")
            for preset in ("veryfast", "ultrafast"):
                fields = {"name": preset, "video_codec": "h264", "audio_codec": "aac", "preset": preset}
                assert running.request("POST", "/api/v1/profiles", fields)[0] == 201
            wrong = 0
            for size, preset in bench.pick(ENCODES[:2], ENCODES):
                wrong += encode(bench, running, folder, size, preset)
            name = "pictures which are missing or whose PTS changed"
            bench.report.add(name, wrong, against="the source files", aim=at_most(0))
            pass_through(bench, running)
        copy_job(bench, folder)


def in_turns(bench: Bench, ours: Callable[[], float], alone: Callable[[], float]) -> tuple[float, float, float]:
    """The median wall time of each, and of the pairs' ratios."""
    pairs = [(ours(), alone()) for _ in range(bench.pick(2, 3))]
    walls = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return walls[0], walls[1], statistics.median(one / other for one, other in pairs)


def encode(bench: Bench, running: Cluster, folder: Path, size: str, preset: str) -> int:
    """How many pictures are missing or have another PTS."""
    clip = bench.camera(size, bench.pick(1, 3))
    later = shifted(clip, folder / "shifted.ts")
    slug = running.add_channel(f"{size} {preset}", f"file:{clip.name}", pace="fast")
    command = ""

    async def whole() -> None:
        nonlocal command
        reading = asyncio.create_task(read_all(running.stream_url(slug, preset), timeout_s=300))
        while not command and not reading.done():
            await asyncio.sleep(0.2)
            command = await asyncio.to_thread(running_command, running)
        (folder / "ours.ts").write_bytes(await reading)

    wall, other, ratio = in_turns(bench, lambda: timed(whole), lambda: ffmpeg(command_line(command), later))
    bench.report.add(
        f"{size.partition('x')[2]}p30, 8 Mb/s, libx264 {preset}",
        wall,
        "s",
        against=(ALONE, other),
        ratio=ratio,
        aim=ratio_at_most(1.05),
        more=f"{seconds_of(clip) / wall:.2f} x real time",
    )
    return len(set(probe(clip).pts("video")) ^ set(probe(folder / "ours.ts").pts("video")))


def running_command(running: Cluster) -> str:
    """The ffmpeg command of the job that runs, or nothing."""
    jobs = (variant["job"] or {} for relay in running.relays() for variant in relay["variants"])
    return next((str(job["command"]) for job in jobs if job.get("command")), "")


def command_line(command: str) -> list[str]:
    """As it was run, without the pipe to which it tells its progress."""
    words = shlex.split(command)
    if "-progress" in words:
        at = words.index("-progress")
        del words[at : at + 2]
    return words


def timed(what: Callable[[], object]) -> float:
    """Wall time of a coroutine function."""
    started = time.monotonic()
    asyncio.run(what())  # type: ignore[arg-type]
    return time.monotonic() - started


def ffmpeg(words: list[str], clip: Path) -> float:
    """Wall time of a command on a file, stdin to stdout."""
    with clip.open("rb") as source:
        started = time.monotonic()
        subprocess.run(words, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.monotonic() - started


def shifted(clip: Path, path: Path) -> Path:
    """The clip as a daemon gives it to ffmpeg: from 10 s on, before which the command trims."""
    command = [program("ffmpeg"), "-v", "error", "-y", "-i", str(clip), "-c", "copy", "-output_ts_offset", "10"]
    subprocess.run([*command, "-f", "mpegts", str(path)], check=True, timeout=60)
    return path


def seconds_of(clip: Path) -> float:
    return len(probe(clip).pts("video")) / 30


def ffmpeg_copy() -> list[str]:
    return [program("ffmpeg"), "-v", "error", "-i", "pipe:0", "-map", "0", "-c", "copy", "-f", "mpegts", "pipe:1"]


def pass_through(bench: Bench, running: Cluster) -> None:
    """Demuxed and muxed by the coordinator."""
    clip = bench.camera(repeats=COPY_REPEATS)
    slug = running.add_channel("Passed", f"file:{clip.name}", pace="fast")

    async def whole() -> None:
        assert len(await read_all(running.stream_url(slug))) > clip.stat().st_size / 2

    add_copy(bench, "passed through by a coordinator", clip, lambda: timed(whole))


def copy_job(bench: Bench, folder: Path) -> None:
    """All tracks through a daemon that serves clients, from container to container."""
    clip = bench.camera(repeats=COPY_REPEATS)
    with listening(folder) as box, clip.open("rb") as file, Path(os.devnull).open("wb") as out:

        async def whole() -> None:
            file.seek(0)
            tracks, samples = read_ts(file)
            async with connect(box.url) as daemon:
                writer = TsWriter(out, tracks.tracks)
                async for sample in daemon.transcode(samples, [copy(track) for track in tracks.tracks]):
                    writer.write(sample)

        add_copy(bench, "copied by a daemon's job, client in Python", clip, lambda: timed(whole))


def add_copy(bench: Bench, what: str, clip: Path, ours: Callable[[], float]) -> None:
    wall, other, ratio = in_turns(bench, ours, lambda: ffmpeg(ffmpeg_copy(), clip))
    more = f"{clip.stat().st_size / 1e6:.0f} MB, {seconds_of(clip) / wall:.0f} x real time"
    bench.report.add(
        f"1080p30, 8 Mb/s, {what}", wall, "s", against=("ffmpeg -c copy alone", other), ratio=ratio, more=more
    )
