"""Half-open connections: viewers, pages and a source on a host that vanishes, of which nobody is told.

A worker that vanishes so is the fault `cut-network` of test_faults_takeover.py.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from tests.bench.faults.network import Host, hosts
from tests.clips import probe_bytes
from tests.harness import PASSWORD, Cluster, eventually, recorded

PATIENCE_S = 3.0  # with viewers, in place of two minutes
PICTURE_TICKS = 3600
REORDERED = 3  # pictures at most that come before one they are shown behind

IN_A_HURRY = f"""
from tvarr.coordinator import streaming
streaming.STUCK_S = {PATIENCE_S}
"""

SOURCE = """
import http.server, sys, time

class Source(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        while True:
            for at in range(0, len(data), len(data) // 160 // 188 * 188):
                self.wfile.write(data[at : at + len(data) // 160 // 188 * 188])
                time.sleep(0.05)

data = open(sys.argv[1], "rb").read()
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Source)
print("up", flush=True)
server.serve_forever()
"""

CLIENT = """
import sys, urllib.request

request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
with urllib.request.urlopen(request) as answer:
    print("up", flush=True)
    while answer.read(1000):
        pass
"""


@contextmanager
def running_there(host: Host, code: str, *arguments: str) -> Iterator[None]:
    command = [*host.prefix, sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()


def connections(running: Cluster, host: Host) -> int:
    """How many open ones the coordinator has with that host."""
    process = psutil.Process(running.roles["coordinator"].process.pid)
    found = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    return sum(c.raddr.ip.endswith(host.there) for c in found)


async def test_who_vanishes_is_let_go_and_a_source_that_comes_back_goes_on(tmp_path: Path, clips: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IN_A_HURRY)
    running = Cluster(tmp_path, media_dir=clips, host="0.0.0.0")
    with ExitStack() as stack:
        (far,) = stack.enter_context(hosts(1))
        stack.callback(running.stop)
        await asyncio.to_thread(running.start_coordinator, PYTHONPATH=str(tmp_path))
        running.host = "127.0.0.1"
        near = running.add_channel("near", "file:clip.ts", loop=True)
        distant = running.add_channel("distant", f"http://{far.there}:8000/")
        stack.enter_context(running_there(far, SOURCE, str(clips / "clip.ts")))
        for path in (f"/stream/{near}.ts", f"/stream/{near}.mp4", "/api/v1/events"):
            stack.enter_context(running_there(far, CLIENT, f"http://{far.here}:{running.http_port}{path}", PASSWORD))

        def distant_source() -> dict[str, Any]:
            (found,) = (relay["source"] for relay in running.relays() if relay["channel"]["slug"] == distant)
            return dict(found)

        async with recorded(running.stream_url(near)) as here, recorded(running.stream_url(distant)) as there:
            await asyncio.to_thread(eventually, lambda: connections(running, far) == 4 and there, "all are connected")
            far.cut()
            await asyncio.to_thread(eventually, lambda: connections(running, far) == 0, "all are let go")
            source = await asyncio.to_thread(distant_source)
            assert (source["state"], source["error"]) == ("reconnecting", "the source sent nothing for 10 s")
            far.heal()
            seen, seen_here = len(there), len(here)
            await asyncio.to_thread(eventually, lambda: len(there) > seen + 100_000, "the source is back")
            assert len(here) > seen_here
        log = running.roles["coordinator"].text()
    assert "Traceback" not in log
    pts = (await asyncio.to_thread(probe_bytes, bytes(here), tmp_path)).pts("video")
    whole = pts[: -2 * REORDERED]  # of the last pictures some are still to come, which are shown before others
    assert max(b - a for a, b in pairwise(whole)) < 2 * PICTURE_TICKS
