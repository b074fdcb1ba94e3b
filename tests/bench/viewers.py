"""What viewers cost: `python -m tests.bench viewers`. One relay of 8 Mb/s, passed through, read by 1 to 500 of them.

The viewers are in another process, so that the coordinator's CPU time is its own; the machine may be busy with other
things. Where nginx is installed, it serves as many bytes a second from a file to as many. In the full form each is the
least of `ROUNDS`.
"""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from tests.bench.bench import ENCODED_S, SETTLED_S, Bench, cluster
from tests.bench.cost import Cost, Counted, add_growth, each_round, least
from tests.bench.measure import CpuMeter, own_memory_mb, resident_mb
from tests.bench.report import at_most
from tests.harness import Cluster

KBPS = 8000
ROUNDS = 3  # one after the other, each with all counts
SLOW_S = 45.0  # by then a viewer that reads a tenth is 16 MiB behind, and what the kernel holds for it
VIEWERS = Counted("viewer", "coordinator")
NGINX = "nginx, from a file"
AIM_PERCENT = {500: at_most(100)}


def watch(pids: Sequence[int], port: int, path: str, count: int, seconds: float) -> tuple[Cost, float]:
    """What a crowd of viewers costs, and the bytes a second of the one who got least."""
    with crowd(port, [path], count, seconds) as said:
        meter = CpuMeter({str(pid): pid for pid in pids})
        time.sleep(seconds / 2)
        own, resident = sum(map(own_memory_mb, pids)), sum(map(resident_mb, pids))
        each: list[float] = json.loads(said.readline())
        return Cost(count, sum(meter.percent().values()), own, resident), min(each)


@contextmanager
def crowd(port: int, paths: Sequence[str], count: int, seconds: float, slow: int = 0) -> Iterator[IO[str]]:
    """Viewers that have begun, `count` of each path; what they say in the end."""
    command = [sys.executable, "-m", "tests.bench.crowd", str(port), str(seconds), str(count), str(slow), *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", f"{count} viewers: they could not begin"
        yield process.stdout


@contextmanager
def nginx(folder: Path, file: Path, bytes_a_second: int, seconds: float) -> Iterator[tuple[int, list[int]]]:
    """Serves the file's bytes again and again at this rate to each connection; its port and processes."""
    port = _free_port()
    with (folder / "long.ts").open("wb") as long:
        data = file.read_bytes()
        for _ in range(round(bytes_a_second * 2 * seconds * 3 / len(data)) + 1):
            long.write(data)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{ worker_connections 2048; }}\nhttp {{ access_log off; sendfile on; server {{ "
        f"listen 127.0.0.1:{port}; root {folder}; limit_rate {bytes_a_second}; }} }}\n"
    )
    (folder).chmod(0o755)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + 10
        while not (workers := psutil.Process(process.pid).children()):
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.05)
        yield port, [process.pid, *(worker.pid for worker in workers)]
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(bench: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    counts, seconds = bench.pick((1, 100, 500), (1, 10, 100, 500)), bench.pick(4.0, 6.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = bench.stuffed(KBPS - 250)
        rate = file.stat().st_size / ENCODED_S
        others: list[Cost] = []
        if shutil.which("nginx"):
            with nginx(folder, file, round(rate), seconds) as (port, pids):
                served = [
                    [watch(pids, port, "/long.ts", count, seconds)[0] for count in counts]
                    for _ in range(bench.pick(1, ROUNDS))
                ]
            others = least(served)
        with cluster(folder, media_dir=file.parent) as running:
            slug = running.add_channel("Watched", f"file:{file.name}", loop=True)
            path = f"/stream/{slug}.ts"
            measure(bench, running, path, counts, seconds, rate, others)
            if bench.full:
                slow(bench, running, path, rate)


def measure(
    bench: Bench,
    running: Cluster,
    path: str,
    counts: Sequence[int],
    seconds: float,
    rate: float,
    others: list[Cost],
) -> None:
    with crowd(running.http_port, [path], 1, SETTLED_S) as said:
        said.readline()
    pid, shares = running.roles["coordinator"].process.pid, {other.count: (NGINX, other.percent) for other in others}
    rounds = [
        [watch([pid], running.http_port, path, count, seconds) for count in counts]
        for _ in range(bench.pick(1, ROUNDS))
    ]
    ours = least([[cost for cost, _ in made] for made in rounds])
    for at, cost in enumerate(ours):
        got = min(made[at][1] for made in rounds)
        more = f"who got least: {got * 8 / 1e6:.2f} of {rate * 8 / 1e6:.2f} Mb/s"
        if told := each_round([made[at][0].percent for made in rounds]):
            more += f"; {told}"
        against = shares.get(cost.count, "nginx is not installed")
        aim = AIM_PERCENT.get(cost.count)
        bench.report.add(VIEWERS.name(cost.count), cost.percent, "% of a core", against=against, aim=aim, more=more)
    add_growth(bench.report, VIEWERS, ours, others, NGINX)


def slow(bench: Bench, running: Cluster, path: str, rate: float) -> None:
    """One more viewer beside ten reads a tenth of the bytes."""
    let_go_s = -1.0
    with crowd(running.http_port, [path], 10, SLOW_S, round(rate / 10)) as said:
        began = time.monotonic()
        while let_go_s < 0 and time.monotonic() < began + SLOW_S - 1:
            time.sleep(0.5)
            viewers = [v for relay in running.relays() for variant in relay["variants"] for v in variant["viewers"]]
            if len(viewers) == 10:
                let_go_s = time.monotonic() - began
        got = min(json.loads(said.readline()))
    assert let_go_s >= 0, "the slow viewer was not let go"
    more = f"10 others got at least {got * 8 / 1e6:.2f} of {rate * 8 / 1e6:.2f} Mb/s"
    bench.report.add("a viewer that reads a tenth is let go after", let_go_s, "s", more=more)
