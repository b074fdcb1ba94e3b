"""From a request to the first keyframe, 640x360, transcoded: `python -m tests.bench starts`.

Cold: nothing of the channel runs, and no other channel does. Warm: a second viewer of what the first one watches. The
channel is a file, or a source over HTTP that sends at the pace of its clock from a keyframe on (`live`).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.bench import Bench, cluster
from tests.bench.measure import quantile
from tests.bench.report import at_most
from tests.bench.viewing import first_keyframe, swallow
from tests.clips import make_clip
from tests.harness import Cluster, eventually, watching

COLD_S, WARM_S = 0.8, 0.15


def run(bench: Bench) -> None:
    clip = make_clip(bench.folder / "small.ts", seconds=20)
    settings = {"media_dir": bench.folder, "coordinator_flags": ("--idle-linger", "0")}
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), **settings) as running, live(clip) as url:
        running.start_daemon("daemon")
        for source, where, loop in (("a file", f"file:{clip.name}", True), ("live HTTP", url, False)):
            slug = running.add_channel(f"Start {source}", where, loop=loop)
            asyncio.run(measure(bench, running, source, running.stream_url(slug, "h264")))


@contextmanager
def live(clip: Path) -> Iterator[str]:
    """The URL of a live source in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.live", str(clip)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/live.ts"
        finally:
            process.kill()


async def measure(bench: Bench, running: Cluster, source: str, url: str) -> None:
    cold, warm = [], []
    for _ in range(bench.pick(10, 30)):
        await asyncio.to_thread(eventually, lambda: not running.relays(), "the relay before is over")
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
    for what, seconds, aim_s in ((f"cold start from {source}", cold, COLD_S), ("joining what runs", warm, WARM_S)):
        name = what if what.startswith("cold") else f"{what}, {source}"
        more = f"of {len(seconds)}, the longest {max(seconds):.3f}"
        bench.report.add(f"{name}, p50", quantile(seconds, 0.5), "s")
        bench.report.add(f"{name}, p95", quantile(seconds, 0.95), "s", aim=at_most(aim_s), more=more)
