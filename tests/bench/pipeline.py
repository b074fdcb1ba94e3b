"""A file through coordinator and daemon, and through the same ffmpeg command alone, in turns.

`python -m tests.bench pipeline`. Each pair runs one right after the other, so that what else the machine does weighs on
both, and every other pair the other way round; the ratio is the median of the pairs' ratios. Our wall time has the
viewer in it, and all that comes before the first picture. CPU time is that of our processes and their ffmpeg, without
the viewer or client; a busy machine changes it less.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.bench import ENCODED_S, Bench, cluster
from tests.bench.measure import cpu_s
from tests.bench.report import Aim, at_most, ratio_at_most
from tests.clips import probe
from tests.conftest import program
from tests.harness import Cluster, eventually, read_all
from tests.listening import listening
from tvarr.client import TsWriter, connect, copy, read_ts

ENCODES = (
    ("1280x720", "veryfast"),
    ("1920x1080", "ultrafast"),
    ("1280x720", "ultrafast"),
    ("1920x1080", "veryfast"),
)
RATIO = 1.05  # at most
RATIO_OF_LONGEST = 1.03  # what comes before and after it weighs least
COPY_REPEATS = 9  # 72 s
SAME = "the same ffmpeg command alone"
COPY = "ffmpeg -c copy alone"


@dataclass(frozen=True, slots=True)
class Took:
    wall_s: float
    cpu_s: float


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
            bench.report.add("pictures that are missing or have another PTS", wrong, against="sources", aim=at_most(0))
            pass_through(bench, running)
        copy_job(bench, folder)


def encode(bench: Bench, running: Cluster, folder: Path, size: str, preset: str) -> int:
    """How many pictures are missing or have another PTS."""
    clip = bench.camera(size, seconds=bench.pick(ENCODED_S, 60.0))
    later = shifted(clip, folder / "shifted.ts")
    slug = running.add_channel(f"{size} {preset}", f"file:{clip.name}", pace="fast")
    command: list[str] = []

    async def ours() -> None:
        reading = asyncio.create_task(read_all(running.stream_url(slug, preset), timeout_s=300))
        while not command and not reading.done():
            await asyncio.sleep(0.2)
            command.extend(await asyncio.to_thread(running_command, running))
        (folder / "ours.ts").write_bytes(await reading)

    name = f"{size.partition('x')[2]}p30, 8 Mb/s, libx264 {preset}"
    pairs = in_turns(bench, lambda: timed(ours, pids(running)), lambda: alone(command, later))
    aim = RATIO_OF_LONGEST if (size, preset) == ENCODES[-1] else RATIO
    add(bench, name, clip, pairs, SAME, ratio_at_most(aim))
    return len(set(probe(clip).pts("video")) ^ set(probe(folder / "ours.ts").pts("video")))


def pass_through(bench: Bench, running: Cluster) -> None:
    """Demuxed and muxed by the coordinator."""
    clip = bench.camera(repeats=COPY_REPEATS)
    slug = running.add_channel("Passed", f"file:{clip.name}", pace="fast")

    async def ours() -> None:
        assert len(await read_all(running.stream_url(slug))) > clip.stat().st_size / 2

    pairs = in_turns(bench, lambda: timed(ours, pids(running)), lambda: alone(ffmpeg_copy(), clip))
    add(bench, "1080p30, 8 Mb/s, passed through by a coordinator", clip, pairs, COPY)


def copy_job(bench: Bench, folder: Path) -> None:
    """All tracks through a daemon that serves clients, from container to container."""
    clip = bench.camera(repeats=COPY_REPEATS)
    with listening(folder) as box, clip.open("rb") as file, Path(os.devnull).open("wb") as out:

        async def ours() -> None:
            file.seek(0)
            tracks, samples = read_ts(file)
            async with connect(box.url) as daemon:
                writer = TsWriter(out, tracks.tracks)
                async for sample in daemon.transcode(samples, [copy(track) for track in tracks.tracks]):
                    writer.write(sample)

        pairs = in_turns(bench, lambda: timed(ours, [box.role.process.pid]), lambda: alone(ffmpeg_copy(), clip))
    add(bench, "1080p30, 8 Mb/s, a daemon's copy job, client in Python", clip, pairs, COPY)


def in_turns(bench: Bench, ours: Callable[[], Took], other: Callable[[], Took]) -> list[tuple[Took, Took]]:
    pairs = [(ours(), other())]  # in this order: the other one may need to know what ours ran
    for number in range(1, bench.pick(2, 4)):
        if number % 2:
            theirs = other()
            pairs.append((ours(), theirs))
        else:
            pairs.append((ours(), other()))
    return pairs


def add(
    bench: Bench, name: str, clip: Path, pairs: list[tuple[Took, Took]], against: str, aim: Aim | None = None
) -> None:
    wall_s = statistics.median(one.wall_s for one, _ in pairs)
    bench.report.add(
        f"{name}: wall time",
        wall_s,
        "s",
        against=(against, statistics.median(other.wall_s for _, other in pairs)),
        ratio=statistics.median(one.wall_s / other.wall_s for one, other in pairs),
        aim=aim,
        more=f"{len(probe(clip).pts('video')) / 30 / wall_s:.2f} x real time",
    )
    bench.report.add(
        f"{name}: CPU time",
        statistics.median(one.cpu_s for one, _ in pairs),
        "s",
        against=(against, statistics.median(other.cpu_s for _, other in pairs)),
        ratio=statistics.median(one.cpu_s / other.cpu_s for one, other in pairs),
    )


def pids(running: Cluster) -> list[int]:
    return [role.process.pid for role in running.roles.values()]


def timed(what: Callable[[], Awaitable[None]], pids: Sequence[int]) -> Took:
    """What something took these processes and the children that they had for it."""

    async def done() -> None:
        await what()

    before, began = worked_s(pids), time.monotonic()
    asyncio.run(done())
    wall_s = time.monotonic() - began
    eventually(lambda: not any(psutil.Process(pid).children() for pid in pids), "ffmpeg is over")
    return Took(wall_s, worked_s(pids) - before)


def worked_s(pids: Sequence[int]) -> float:
    """CPU time of processes and of their children that have ended."""
    ended = (psutil.Process(pid).cpu_times() for pid in pids)
    return sum(map(cpu_s, pids)) + sum(times.children_user + times.children_system for times in ended)


def alone(words: Sequence[str], clip: Path) -> Took:
    """A command on a file, stdin to stdout."""
    with clip.open("rb") as source:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(words, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        return Took(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def running_command(running: Cluster) -> list[str]:
    """The ffmpeg command of the job that runs, without the pipe to which it tells its progress; or nothing."""
    jobs = (variant["job"] or {} for relay in running.relays() for variant in relay["variants"])
    words = shlex.split(next((str(job["command"]) for job in jobs if job.get("command")), ""))
    if "-progress" in words:
        at = words.index("-progress")
        del words[at : at + 2]
    return words


def ffmpeg_copy() -> list[str]:
    return [program("ffmpeg"), "-v", "error", "-i", "pipe:0", "-map", "0", "-c", "copy", "-f", "mpegts", "pipe:1"]


def shifted(clip: Path, path: Path) -> Path:
    """The clip as a daemon gives it to ffmpeg: from 10 s on, before which the command trims."""
    command = [program("ffmpeg"), "-v", "error", "-y", "-i", str(clip), "-c", "copy", "-output_ts_offset", "10"]
    subprocess.run([*command, "-f", "mpegts", str(path)], check=True, timeout=60)
    return path
