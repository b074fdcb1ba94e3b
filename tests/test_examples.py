"""Every example, made from `proto/` alone, does a real job whose output ffprobe accepts."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import decode_errors, make_clip, probe, probe_bytes
from tests.examples import CLIENTS, EXAMPLES, make, pictures_and_speed, run, start
from tests.harness import TOKEN, Cluster, cluster, eventually, read_all, watching
from tests.listening import Listening, listening

FRAMES = 100
PAGE_LINES = {".py": 120, ".mjs": 140, ".go": 160}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("box")) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=FRAMES / 25, size="320x180")


@pytest.mark.parametrize("codec", ["copy", "hevc"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_puts_a_file_through_a_daemon(
    box: Listening, clip: Path, tmp_path: Path, name: str, codec: str
) -> None:
    language, command = CLIENTS[name]
    make(language)
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), codec)
    assert code == 0, output
    assert pictures_and_speed(output)[0] == FRAMES
    made = probe(tmp_path / "out")
    assert made.codecs() == ["h264" if codec == "copy" else "hevc"]
    assert (made.streams[0]["width"], made.streams[0]["height"]) == (320, 180)
    assert len(made.packets) == FRAMES
    assert decode_errors(tmp_path / "out") == []
    box.idle()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_is_turned_away_says_why(box: Listening, clip: Path, tmp_path: Path, name: str) -> None:
    language, command = CLIENTS[name]
    make(language)
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), token="wrong")
    assert code == 1, output
    assert "unauthenticated" in output.lower()
    assert len(output.splitlines()) == 1
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), "nonsense")
    assert code == 1, output
    assert "BAD_REQUEST" in output
    code, output = run(*command, box.target)
    assert code == 1, output
    assert "HOST:PORT IN.ts OUT.h264" in output


def test_every_example_is_a_page_long_and_has_its_line() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    written = [
        path
        for language in ("python", "node", "go")
        for path in (EXAMPLES / language).glob("*.*")
        if path.suffix in PAGE_LINES and "pb2" not in path.name
    ]
    assert written
    for path in written:
        assert len(path.read_text().splitlines()) <= PAGE_LINES[path.suffix], path
        assert path.relative_to(EXAMPLES).as_posix() in readme, path


def test_a_worker_of_another_make_does_a_coordinators_job(tmp_path: Path, clip: Path) -> None:
    make("node")
    with cluster(tmp_path, media_dir=clip.parent) as running:
        worker = start("node", "node/worker.mjs", f"127.0.0.1:{running.grpc_port}", "copier")
        try:
            eventually(lambda: running.daemon_state("copier") == "connected", "the worker is registered")
            slug = running.add_channel("Clip", f"file:{clip.name}", pace="fast")
            data = asyncio.run(read_all(running.stream_url(slug, "h264")))
            assert probe_bytes(data, tmp_path).pts("video") == probe(clip).pts("video")
            assert decode_errors(tmp_path / "received.ts") == []

            assert "nonsense" not in running.roles["coordinator"].text()
            status, _ = running.request("PATCH", f"/api/v1/channels/{slug}", {"loop": True, "pace": "realtime"})
            assert status == 200
            asyncio.run(a_picture(running.stream_url(slug, "h264")))
            worker.terminate()
            eventually(lambda: running.daemon_state("copier") != "connected", "the worker drains")
            assert worker.wait(10) == 0
        finally:
            worker.kill()
        assert worker.stdout
        said = worker.stdout.read()
        assert "registered as" in said
        assert re.search(r"job \w+: \d+ samples", said), said


async def a_picture(url: str) -> None:
    async with watching(url) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()


@pytest.mark.parametrize("codec", ["copy", "hevc"])
def test_a_coordinator_of_another_make_gives_a_daemon_a_job(tmp_path: Path, clip: Path, codec: str) -> None:
    make("python")
    coordinator = start(sys.executable, "python/coordinator.py", "127.0.0.1:0", str(clip), str(tmp_path / "out"), codec)
    assert coordinator.stdout
    made = Cluster(tmp_path)
    try:
        waiting = re.search(r"on port (\d+)", coordinator.stdout.readline())
        assert waiting
        daemon = made.run(
            "worker",
            "ffmpegd",
            "--work-dir",
            str(tmp_path),
            TVARR_COORDINATOR_URL=f"grpc://{TOKEN}@127.0.0.1:{waiting[1]}",
        )
        said, _ = coordinator.communicate(timeout=60)
        assert f"{FRAMES} pictures" in said, said + daemon.text()
        assert coordinator.returncode == 0
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.text()
    finally:
        coordinator.kill()
        made.stop()
    assert len(probe(tmp_path / "out").packets) == FRAMES
    assert decode_errors(tmp_path / "out") == []
