"""What daemons cost a coordinator that has nothing else to do, up to 1,000 of them: `python -m tests.bench daemons`.

The coordinator is the real role in a process of its own. Each daemon is a connection of its own with a real `Attach`
stream, which registers and then sends a heartbeat every 5 s; all of them evenly spread, from this process.
"""

from __future__ import annotations

import asyncio
import random
import resource
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.bench.bench import Bench, cluster
from tests.bench.choose import KINDS, machine
from tests.bench.cost import Cost, Counted, add_growth
from tests.bench.measure import CpuMeter, own_memory_mb, resident_mb
from tests.bench.report import at_most
from tests.harness import TOKEN, Cluster
from tvarr.cluster.model import Capabilities, Encoder, Family
from tvarr.errors import TvarrError
from tvarr.media.model import Codec
from tvarr.wire import convert, messages
from tvarr.wire.client import dial_attach
from tvarr.wire.protocol import PROTOCOL_VERSION, Endpoint
from tvarr.wire.streams import CoordinatorMessages

DAEMONS = Counted("daemon", "coordinator")
HEARTBEAT_S = 5.0
COME_A_SECOND = 16
TRIES = 5  # of one daemon to register
JOBS_EACH = 2
DECODERS = 530


async def daemon(number: int, endpoint: Endpoint, come_at: float, counts: Counter[str]) -> None:
    """Registers and sends heartbeats, at the pace that is asked for, until it is cancelled.

    One that can't register comes again, as real ones do: all of them share this process, which may be slow.
    """
    caps = capabilities_of(number)
    await asyncio.sleep(max(0.0, come_at - time.monotonic()))
    for again in range(TRIES):
        async with dial_attach(endpoint) as stream:
            try:
                await register(stream, number, caps)
            except TvarrError:
                if again == TRIES - 1:
                    raise
                counts["came again"] += 1
                continue
            counts["registered"] += 1
            try:
                await beat(stream, number, [gpu.id for gpu in caps.gpus], counts)
            finally:
                counts["registered"] -= 1


async def register(stream: CoordinatorMessages, number: int, caps: Capabilities) -> None:
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


async def beat(stream: CoordinatorMessages, number: int, gpus: list[str], counts: Counter[str]) -> None:
    pace, hurry = [HEARTBEAT_S], asyncio.Event()
    listening = asyncio.create_task(listen(stream, pace, hurry))
    sequence, due = 0, time.monotonic()
    try:
        while True:
            await stream.send(heartbeat(number, sequence, gpus))
            counts["heartbeats"] += 1
            sequence, due = sequence + 1, due + pace[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await hurry.wait()
                    hurry.clear()
                    due = time.monotonic()
    finally:
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


async def measure(bench: Bench, running: Cluster, counts: tuple[int, ...]) -> None:
    pid = running.roles["coordinator"].process.pid
    endpoint, seen, tasks = Endpoint("127.0.0.1", running.grpc_port, TOKEN), Counter[str](), list[asyncio.Task[None]]()
    alone_mb, costs = resident_mb(pid), []
    for count in counts:
        began, apart_s = time.monotonic(), 1 / COME_A_SECOND
        new = range(len(tasks), count)
        tasks += [asyncio.create_task(daemon(n, endpoint, began + (n - new[0]) * apart_s, seen)) for n in new]
        while seen["registered"] < count:
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        await asyncio.sleep(bench.pick(2.0, 5.0))
        meter, beats, began = CpuMeter({"coordinator": pid}), seen["heartbeats"], time.monotonic()
        await asyncio.sleep(bench.pick(6.0, 30.0))
        percent, rate = meter.percent()["coordinator"], (seen["heartbeats"] - beats) / (time.monotonic() - began)
        costs.append(Cost(count, percent, own_memory_mb(pid), resident_mb(pid)))
        assert seen["registered"] == count, "a daemon was cut off"
        more = f"{rate:.0f} heartbeats a second, the last {len(new)} registered in {took:.0f} s"
        more += f", {seen['came again']} came again" if seen["came again"] else ""
        aim = at_most(25) if count == 1_000 else None
        bench.report.add(DAEMONS.name(count), percent, "% of a core", aim=aim, more=more)
    shown = len(await asyncio.to_thread(running.get, "/api/v1/transcoders"))
    assert shown == counts[-1], f"the coordinator shows {shown} daemons"
    add_growth(bench.report, DAEMONS, costs)
    against, aim = ("without daemons", alone_mb), at_most(300) if counts[-1] == 1_000 else None
    name = f"{counts[-1]:,} daemons: coordinator's memory"
    bench.report.add(name, costs[-1].resident_mb, "MB", against=against, aim=aim, more="RSS")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(bench: Bench) -> None:
    """Needs about three file descriptors a daemon, here and in the coordinator."""
    counts = bench.pick((10, 50, 100), (10, 100, 1_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * counts[-1] + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"{counts[-1]} daemons need {wanted} file descriptors, and {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as running:
        asyncio.run(measure(bench, running, counts))
