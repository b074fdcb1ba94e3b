"""What 1,000 daemons cost a coordinator that has nothing else to do: `python -m tests.bench daemons`, or with a number
`python -m tests.bench.daemons 200`.

The coordinator is the real role in a process of its own. Each daemon is a connection of its own with a real `Attach`
stream, which registers and then sends a heartbeat every 5 s; all of them evenly spread, from this process.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from tests.bench.choose import KINDS, machine
from tests.bench.report import Report
from tests.harness import TOKEN, cluster
from tvarr.cluster.model import Capabilities, Encoder, Family
from tvarr.media.model import Codec
from tvarr.wire import convert, messages
from tvarr.wire.client import dial_attach
from tvarr.wire.protocol import PROTOCOL_VERSION, Endpoint
from tvarr.wire.streams import CoordinatorMessages

DAEMONS = 1_000
HEARTBEAT_S = 5.0
REGISTER_S = 60.0  # over which the daemons come
SETTLE_S = 10.0
MEASURE_S = 60.0
JOBS_EACH = 2
DECODERS = 530


async def daemon(number: int, endpoint: Endpoint, come_at: float, counts: Counter[str]) -> None:
    """Registers and sends heartbeats, at the pace that is asked for, until it is cancelled."""
    caps = capabilities_of(number)
    await asyncio.sleep(max(0.0, come_at - time.monotonic()))
    async with dial_attach(endpoint) as stream:
        await stream.send(
            messages.Register(
                protocol_version=PROTOCOL_VERSION,
                daemon_id=f"daemon-{number}",
                instance_id=f"instance-{number}",
                name=f"daemon {number}",
                machine_id=f"machine-{number}",
                version="0.1.0",
                capabilities=convert.capabilities_to_wire(caps),
            )
        )
        assert isinstance(await stream.receive(), messages.Registered)
        counts["registered"] += 1
        pace, hurry = [HEARTBEAT_S], asyncio.Event()
        listening = asyncio.create_task(listen(stream, pace, hurry))
        sequence, due = 0, time.monotonic()
        try:
            while True:
                await stream.send(heartbeat(number, sequence, [gpu.id for gpu in caps.gpus]))
                counts["heartbeats"] += 1
                sequence, due = sequence + 1, due + pace[0]
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await hurry.wait()
                        hurry.clear()
                        due = time.monotonic()
        finally:
            counts["registered"] -= 1
            listening.cancel()


async def listen(stream: CoordinatorMessages, pace: list[float], hurry: asyncio.Event) -> None:
    """Takes what the coordinator asks for, as a daemon does: the time between heartbeats."""
    while (item := await stream.receive()) is not None:
        if isinstance(item, messages.SetPace):
            if item.heartbeat_interval_s < pace[0]:
                asyncio.get_running_loop().call_later(random.uniform(0, item.heartbeat_interval_s), hurry.set)
            pace[0] = item.heartbeat_interval_s


def capabilities_of(number: int) -> Capabilities:
    """As many encoders and decoders as an FFmpeg has that was built with everything."""
    caps = machine(number % KINDS, number)
    more = tuple(
        Encoder(f"{codec}_{family}", codec, family, gpu.id, usable=family is Family.NVENC, reason="no such device")
        for gpu in caps.gpus
        for codec in (Codec.HEVC, Codec.AV1, Codec.VP9)
        for family in (Family.NVENC, Family.VAAPI, Family.QSV)
    )
    sound = tuple(Encoder(f"lib{c}", c, Family.SOFTWARE) for c in (Codec.MP2, Codec.MP3, Codec.AC3, Codec.OPUS))
    names = frozenset({"h264", "hevc", "mpeg2video", "aac", "mp2", "ac3"} | {f"decoder_{n}" for n in range(DECODERS)})
    return replace(caps, encoders=(*caps.encoders, *more, *sound), decoders=names, cpu_model="a processor of some make")


def heartbeat(number: int, sequence: int, gpus: list[str]) -> messages.Heartbeat:
    """One in which every field that a busy daemon fills is filled."""
    return messages.Heartbeat(
        sequence=sequence,
        system=messages.SystemStats(
            cpu_percent=37.5 + sequence % 7,
            load_average=[1.5, 1.25, 1.0],
            memory_used_bytes=3_000_000_000 + sequence,
            memory_total_bytes=16_000_000_000,
            network_sent_bytes=10_000_000_000 + 1_000_000 * sequence,
            network_received_bytes=20_000_000_000 + 1_000_000 * sequence,
            cpu_pressure_percent=1.5,
            memory_pressure_percent=0.0,
            io_pressure_percent=0.5,
            uptime_s=5.0 * sequence,
            process_cpu_s=0.1 * sequence,
            process_memory_bytes=90_000_000,
        ),
        gpus=[
            messages.GpuStats(
                id=gpu,
                utilization_percent=40.0,
                encoder_percent=50.0,
                decoder_percent=30.0,
                memory_used_bytes=2_000_000_000,
                memory_total_bytes=8_000_000_000,
                temperature_celsius=61.0,
                power_watts=75.0,
                encode_sessions=JOBS_EACH,
                decode_sessions=JOBS_EACH,
            )
            for gpu in gpus
        ],
        pools=[messages.PoolUsage(id="nvidia-host", active=0, own=0)] if gpus else [],
        jobs=[
            messages.ActiveJob(job_id=f"job-{number}-{n}", encoder="libx264", speed=1.0, fps=25.0, age_s=5.0 * sequence)
            for n in range(JOBS_EACH)
        ],
    )


async def measure(report: Report, count: int) -> None:
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as running:
        process = psutil.Process(running.roles["coordinator"].process.pid)
        alone_bytes = process.memory_info().rss
        endpoint, counts, started = Endpoint("127.0.0.1", running.grpc_port, TOKEN), Counter[str](), time.monotonic()
        tasks = [
            asyncio.create_task(daemon(n, endpoint, started + n * REGISTER_S / count, counts)) for n in range(count)
        ]
        while counts["registered"] < count:
            assert not any(task.done() for task in tasks), "a daemon was turned away"
            await asyncio.sleep(0.1)
        took = time.monotonic() - started
        await asyncio.sleep(SETTLE_S)
        cpu, beats, began = sum(process.cpu_times()[:2]), counts["heartbeats"], time.monotonic()
        await asyncio.sleep(MEASURE_S)
        wall = time.monotonic() - began
        share = 100 * (sum(process.cpu_times()[:2]) - cpu) / wall
        rate = (counts["heartbeats"] - beats) / wall
        memory = process.memory_info().rss
        assert counts["registered"] == count, "a daemon was cut off"
        seen = len(await asyncio.to_thread(running.get, "/api/v1/transcoders"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == count, f"the coordinator shows {seen} daemons"
    compared = f"{rate:.0f} heartbeats a second, registered in {took:.0f} s"
    report.add(f"coordinator with {count} daemons: CPU", share, "% of a core", compared=compared, aim="at most 25")
    report.add(
        f"coordinator with {count} daemons: memory",
        memory / 1e6,
        "MB",
        compared=f"{alone_bytes / 1e6:.0f} without",
        aim="at most 300",
    )


def run(report: Report, count: int = DAEMONS) -> None:
    """Needs about three file descriptors a daemon, here and in the coordinator."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * count + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{count} daemons need {wanted} file descriptors, and {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    asyncio.run(measure(report, count))


if __name__ == "__main__":
    run(Report(), int(sys.argv[1]) if len(sys.argv) > 1 else DAEMONS)
