"""CPU that our own Python takes for one live stream of 8 Mb/s: `python -m tests.bench cpu`. ffmpeg's is not ours."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.bench.bench import SETTLED_S, Bench, cluster
from tests.bench.measure import CpuMeter
from tests.bench.report import at_most
from tests.bench.viewing import swallow
from tests.harness import Cluster, watching


def run(bench: Bench) -> None:
    clip = bench.camera()
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), media_dir=clip.parent) as running:
        running.start_daemon("daemon")
        slug = running.add_channel("HD live", f"file:{clip.name}", loop=True)
        asyncio.run(measure(bench, running, slug))


async def measure(bench: Bench, running: Cluster, slug: str) -> None:
    pids = {name: running.roles[name].process.pid for name in ("coordinator", "daemon")}
    idle = CpuMeter(pids)
    await asyncio.sleep(bench.pick(3.0, 10.0))
    resting = idle.percent()
    seconds = bench.pick(10.0, 40.0)
    for how, profile in (("passed through", "passthrough"), ("transcoded", "h264-low")):
        async with watching(running.stream_url(slug, profile), timeout_s=300) as response:
            reader = asyncio.create_task(swallow(response))
            await asyncio.sleep(SETTLED_S)
            meter = CpuMeter(pids)
            await asyncio.sleep(seconds)
            busy = meter.percent()
            assert not reader.done(), "the stream ended"
            reader.cancel()
        for name in pids:
            against = f"idle: {resting[name]:.2f} %"
            bench.report.add(f"one stream {how}: {name}'s CPU", busy[name], "% of a core", against=against)
        both = sum(busy.values())
        aim = at_most(1.5) if how == "transcoded" else None
        bench.report.add(f"one stream {how}: own CPU together", both, "% of a core", aim=aim)
