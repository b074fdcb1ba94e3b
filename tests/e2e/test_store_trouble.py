"""The disk that the store is on fills up, or breaks: viewers are served as before, and editors hear why they can't."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.disk import Disk, ext4_disk, small_disk
from tests.harness import Cluster, cluster, eventually, read_for, recorded

LONG = {f"X-{number}": "a" * 4000 for number in range(8)}  # so that no page that is there has room for it


@contextmanager
def stored_on(disk: Disk, clips: Path) -> Iterator[Cluster]:
    with cluster(disk.folder.parent, media_dir=clips, prefix=disk.prefix) as running:
        yield running


def is_refused(running: Cluster, status: int, reason: str) -> None:
    """Every kind of edit is, in words, and nothing of it stays."""
    channels, groups = running.get("/api/v1/channels"), running.get("/api/v1/groups")
    edits = [
        ("POST", "/api/v1/channels", {"name": "b", "url": "http://127.0.0.1/b", "headers": LONG}),
        ("PATCH", "/api/v1/channels/clip", {"headers": LONG}),
    ]
    for method, path, body in edits:
        got, answer = running.request(method, path, body)
        assert (got, reason in answer["detail"]) == (status, True), answer
    assert (running.get("/api/v1/channels"), running.get("/api/v1/groups")) == (channels, groups)


async def test_a_full_disk_refuses_edits_until_there_is_room(tmp_path: Path, clips: Path) -> None:
    with small_disk(tmp_path / "data", kilobytes=1024) as disk, stored_on(disk, clips) as running:
        running.add_channel("clip", "file:clip.ts", loop=True)
        async with recorded(running.stream_url("clip")) as data:
            filler = disk.fill()
            await asyncio.to_thread(is_refused, running, 507, "full")
            seen = len(data)
            await asyncio.to_thread(eventually, lambda: len(data) > seen, "the viewer gets more")
        assert await read_for(running.stream_url("clip"), 0.5)

        assert running.roles["coordinator"].stop() == 0
        running.start_coordinator()
        assert [c["slug"] for c in running.get("/api/v1/channels")] == ["clip"]
        is_refused(running, 507, "full")
        filler.unlink()
        running.add_channel("clip", "file:clip.ts")
        assert [c["slug"] for c in running.get("/api/v1/channels")] == ["clip", "clip-2"]
    assert "Traceback" not in running.roles["coordinator"].log.read_text()


async def test_a_disk_that_breaks_refuses_edits_and_the_next_start(tmp_path: Path, clips: Path) -> None:
    with ext4_disk(tmp_path / "data") as disk, stored_on(disk, clips) as running:
        running.start_daemon("worker")
        running.add_channel("clip", "file:clip.ts", loop=True)
        async with recorded(running.stream_url("clip")) as data:
            disk.break_down()
            await asyncio.to_thread(is_refused, running, 503, "Read-only file system")
            seen = len(data)
            await asyncio.to_thread(eventually, lambda: len(data) > seen, "the viewer gets more")

        (worker,) = running.get("/api/v1/transcoders")
        assert running.request("POST", f"/api/v1/transcoders/{worker['id']}/drain")[0] == 200
        assert running.daemon_state("worker") == "draining"
        assert running.roles["coordinator"].stop() == 0
        assert "Traceback" not in running.roles["coordinator"].text()
        again = running.run("coordinator", "coordinator", "--data-dir", str(disk.folder), "--http-port", "0")
        assert again.wait(within_s=20) == 1
        assert again.text().strip() == f"tvarr: --data-dir {disk.folder} can't be written: Read-only file system"
