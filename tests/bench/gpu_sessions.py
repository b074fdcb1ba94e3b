"""`python -m tests.bench.gpu_sessions [STARTS [SEED]]`: viewers come and go on three hosts with few GPU sessions.

The hosts allow 3, 5 and 8 sessions; heartbeats are delayed, lost and reordered. Viewers ask for a channel at random,
stay for a moment and leave, until so many hardware sessions were begun and ended. First nobody else uses the GPUs, and
then another program takes sessions now and then. It prints counts, and ends with exit code 1 where a job hit a session
limit in the first part, or where a viewer in either part did not get what the profile promises.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.bench.viewing import first_keyframe
from tests.clips import make_clip
from tests.fakes.gpu_host import GpuHost, Record
from tests.fakes.network import BadNetwork, bad_network
from tests.harness import Cluster, cluster, eventually, watching

LIMITS = (3, 5, 8)
VIEWERS = 22  # at once, more than there are sessions
POLICIES = ("queue", "fallback", "reject")
STAY_S, PAUSE_S = (0.0, 2.5), (0.0, 1.2)
IMPATIENT = 0.15  # the share of viewers that leave without waiting for a picture
PICTURE_WITHIN_S = 40.0
CLOSES_WITHIN_S = 0.5  # what the drivers take to close a session
FOREIGN_S = (0.2, 3.0)  # how long another program keeps its sessions


@dataclass
class Tally:
    """What came of the visits."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)  # what a viewer must not see
    waited_s: list[float] = field(default_factory=list)  # for the first picture


@dataclass
class Setup:
    """What is running."""

    cluster: Cluster
    hosts: Sequence[GpuHost]
    network: BadNetwork
    channels: list[str]
    rng: random.Random


@asynccontextmanager
async def three_hosts(folder: Path, rng: random.Random) -> AsyncIterator[Setup]:
    """A coordinator and three daemons, each on a host of its own, behind a bad network."""
    make_clip(folder / "small.ts", size="160x120", seconds=8)
    flags = ("--idle-linger", "0.2", "--heartbeat-interval", "0.5", "--queue-timeout", "60")
    with cluster(folder, media_dir=folder, coordinator_flags=flags) as running:
        target = f"{running.host}:{running.grpc_port}"
        async with bad_network(target, rng) as (network, port):
            hosts = [GpuHost(folder / f"host{limit}", limit, closes_within_s=CLOSES_WITHIN_S) for limit in LIMITS]
            for host in hosts:
                flags = ("--max-jobs", "64", "--max-cpu-jobs", str(VIEWERS))  # software has room for everybody
                url = f"127.0.0.1:{port}"
                host.start_daemon(running, f"gpu{host.sessions}", *flags, wait=False, TVARR_COORDINATOR_URL=url)
            for host in hosts:
                connected = f"gpu{host.sessions}"
                await asyncio.to_thread(
                    eventually, lambda name=connected: running.daemon_state(name) == "connected", connected
                )
            yield Setup(running, hosts, network, await asyncio.to_thread(_catalogue, running), rng)
            await asyncio.to_thread(_stop_daemons, running)


def _catalogue(running: Cluster) -> list[str]:
    for policy in POLICIES:
        fields = {"name": policy, "video_codec": "h264", "preset": "ultrafast", "exhausted_policy": policy}
        status, answer = running.request("POST", "/api/v1/profiles", fields)
        assert status == 201, answer
    return [running.add_channel(f"Channel {n}", "file:small.ts", loop=True) for n in range(VIEWERS)]


def _stop_daemons(running: Cluster) -> None:
    for name, role in running.roles.items():
        if name != "coordinator":
            role.stop()


async def storm(setup: Setup, starts: int, *, foreign: bool = False) -> Tally:
    """Visits until so many hardware sessions were begun, and then everything at rest again.

    `foreign`: another program takes sessions meanwhile.
    """
    tally = Tally()
    enough = len(_sessions(setup)) + starts
    other = asyncio.create_task(_another_program(setup)) if foreign else None
    try:
        async with asyncio.TaskGroup() as group:
            for channel in setup.channels:
                group.create_task(_viewer(setup, channel, enough, tally))
    finally:
        if other is not None:
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
    await asyncio.to_thread(eventually, lambda: _at_rest(setup), "everything is at rest again")
    return tally


def _sessions(setup: Setup) -> list[Record]:
    """Hardware sessions that jobs have begun."""
    return [r for host in setup.hosts for r in host.records() if r.purpose == "job" and r.granted]


def _at_rest(setup: Setup) -> bool:
    """No relay, and no session held, by the coordinator's books and by the drivers' count."""
    if setup.cluster.relays() or any(host.open_sessions() for host in setup.hosts):
        return False
    pools = [pool for daemon in setup.cluster.get("/api/v1/transcoders") for pool in daemon["pools"]]
    return not any(pool["in_use"] for pool in pools)


async def _viewer(setup: Setup, channel: str, enough: int, tally: Tally) -> None:
    rng = random.Random(setup.rng.random())
    while len(_sessions(setup)) < enough:
        await asyncio.sleep(rng.uniform(*PAUSE_S))
        profile = rng.choice(POLICIES)
        patience_s = rng.uniform(0.0, 0.6) if rng.random() < IMPATIENT else None
        try:
            async with asyncio.timeout(patience_s):
                outcome = await _visit(setup.cluster.stream_url(channel, profile), profile, rng, tally)
        except TimeoutError:
            outcome = "left without waiting"
        tally.outcomes[outcome] += 1


async def _visit(url: str, profile: str, rng: random.Random, tally: Tally) -> str:
    asked_at = time.monotonic()
    try:
        async with watching(url, timeout_s=120) as answer:
            if answer.status == 503 and profile == "reject":
                problem = await answer.json(content_type=None)
                if not problem.get("reasons") or int(answer.headers.get("Retry-After", "0")) <= 0:
                    tally.problems.append(f"{profile}: 503 without reasons or Retry-After: {problem}")
                return "rejected"
            if answer.status != 200:
                tally.problems.append(f"{profile}: {answer.status}: {await answer.text()}")
                return "failed"
            await _picture(answer)
            tally.waited_s.append(time.monotonic() - asked_at)
            if not await _stay(answer, rng.uniform(*STAY_S)):
                tally.problems.append(f"{profile}: the stream ended while it was watched")
                return "failed"
    except (aiohttp.ClientError, AssertionError) as error:
        tally.problems.append(f"{profile}: {type(error).__name__}: {error}")
        return "failed"
    return "watched"


async def _picture(answer: aiohttp.ClientResponse) -> None:
    try:
        await asyncio.wait_for(first_keyframe(answer), PICTURE_WITHIN_S)
    except TimeoutError:
        raise AssertionError(f"no picture within {PICTURE_WITHIN_S:g} s") from None


async def _stay(answer: aiohttp.ClientResponse, seconds: float) -> bool:
    """Watches for so long; False where the stream ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not await answer.content.readany():
            return False
    return True


async def _another_program(setup: Setup) -> None:
    """Takes one or two sessions on some host for a moment, again and again."""
    rng = random.Random(setup.rng.random())
    while True:
        with rng.choice(setup.hosts).foreign(rng.randint(1, 2)):
            await asyncio.sleep(rng.uniform(*FOREIGN_S))
        await asyncio.sleep(rng.uniform(0.0, 0.5))


def show(name: str, setup: Setup, tally: Tally, seconds: float, since: float) -> int:
    """Prints a part's figures and returns how many session-limit errors the drivers gave in it."""
    begun = sum(record.at >= since for record in _sessions(setup))
    refused = sum(record.at >= since for host in setup.hosts for record in host.refusals())
    waits = sorted(tally.waited_s) or [0.0]
    print(f"{name}, {seconds:.0f} s: hardware sessions begun {begun}, refused by the driver {refused}")
    print(f"  {tally.outcomes.total()} visits: {dict(tally.outcomes)}")
    print(f"  to the first picture: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
    print(f"  what a viewer must not see: {len(tally.problems)}")
    for problem in tally.problems[:20]:
        print(f"    {problem}")
    return refused


async def main(starts: int, seed: int) -> int:
    print(f"seed {seed}")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        async with three_hosts(Path(folder), random.Random(seed)) as setup:
            for name, foreign in (("alone", False), ("beside another program", True)):
                began = time.monotonic()
                tally = await storm(setup, starts, foreign=foreign)
                refused = show(name, setup, tally, time.monotonic() - began, began)
                failed |= bool(tally.problems) or (refused > 0 and not foreign)
            network = setup.network
            print(
                f"heartbeats: {network.heartbeats}, lost {network.heartbeats_lost}, "
                f"overtaken by a younger one {network.heartbeats_overtaken}"
            )
    return int(failed)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(asyncio.run(main(numbers[0] if numbers else 1000, numbers[1] if len(numbers) > 1 else time.time_ns())))
