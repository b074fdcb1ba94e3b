"""The demo: its clip, its judgement, and the whole of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.harness import eventually
from tvarr.demo import CLIP, FPS, START_LIMIT_S, STOP_LIMIT_S, WATCH_S, Watched, _free_ports, faults
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer

VIDEO = Track(1, Codec.H264, width=640, height=360)
AUDIO = Track(2, Codec.AAC, sample_rate=48000)


def watched() -> Watched:
    """Ten seconds without a fault, with one picture in three shown before the one that it follows."""
    shown = [n + (1 if n % 3 == 1 else -1 if n % 3 == 2 else 0) for n in range(WATCH_S * FPS)]
    pictures = [Sample(1, 7200 + at * 3600, n * 3600, b"", keyframe=n == 0) for n, at in enumerate(shown)]
    frames = [Sample(2, 7200 + n * 1920, 7200 + n * 1920, b"", keyframe=True) for n in range(WATCH_S * 48000 // 1024)]
    return Watched((VIDEO, AUDIO), {1: pictures, 2: frames})


class TestFaults:
    def test_none(self) -> None:
        assert faults(watched()) == []

    def test_nothing_came(self) -> None:
        assert faults(Watched()) == [
            "the codecs are none instead of aac, h264",
            "the first picture is no keyframe",
        ]

    def test_codecs(self) -> None:
        got = watched()
        got.tracks = (replace(VIDEO, codec=Codec.HEVC), AUDIO)
        assert faults(got) == ["the codecs are aac, hevc instead of aac, h264"]

    def test_a_missing_picture(self) -> None:
        got = watched()
        del got.samples[1][30]
        assert faults(got) == ["video: at 1.160 s the next one follows after 0.080 s instead of 0.040 s"]

    def test_a_picture_that_came_twice(self) -> None:
        got = watched()
        got.samples[1].insert(30, got.samples[1][30])
        assert faults(got) == [
            "video: decoding times do not grow",
            "video: at 1.200 s the next one follows after 0.000 s instead of 0.040 s",
        ]

    def test_a_hole_in_the_sound(self) -> None:
        got = watched()
        del got.samples[2][100:102]
        assert faults(got) == ["audio: at 2.112 s the next one follows after 0.064 s instead of 0.021 s"]

    def test_no_sound(self) -> None:
        got = watched()
        got.samples[2].clear()
        assert faults(got) == ["audio: 0 frames are too few"]

    def test_a_start_in_the_middle_of_a_group(self) -> None:
        got = watched()
        del got.samples[1][0]
        assert faults(got)[0] == "the first picture is no keyframe"


def test_the_clip_loops_without_a_seam() -> None:
    demuxer = Demuxer()
    got = [*demuxer.feed(CLIP.read_bytes()), *demuxer.flush()]
    tracks = next(event for event in got if isinstance(event, Tracks))
    by_kind = {
        track.kind: [event for event in got if isinstance(event, Sample) and event.track == track.id]
        for track in tracks.tracks
    }
    assert {track.codec for track in tracks.tracks} == {Codec.H264, Codec.AAC}
    periods = {Kind.VIDEO: TICKS_PER_SECOND // FPS, Kind.AUDIO: TICKS_PER_SECOND * 1024 // 48000}
    spans = {}
    for kind, period in periods.items():
        shown = sorted(sample.pts_ticks for sample in by_kind[kind])
        assert shown == list(range(shown[0], shown[-1] + 1, period))
        spans[kind] = (shown[0], shown[-1] + period)
    assert spans[Kind.VIDEO] == spans[Kind.AUDIO]
    assert spans[Kind.VIDEO][1] - spans[Kind.VIDEO][0] == 9.6 * TICKS_PER_SECOND
    keyframes = [n for n, sample in enumerate(by_kind[Kind.VIDEO]) if sample.keyframe]
    assert keyframes == [0, 48, 96, 144, 192]
    assert CLIP.stat().st_size < 700_000


def test_the_demo_itself() -> None:
    """`make demo`, as a user runs it: both roles, ten seconds of the channel, the tables."""
    done = subprocess.run(
        [sys.executable, "-m", "tvarr.demo", "check"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pictures of h264 640x360" in done.stdout
    assert "1 daemon, 1 relay, 1 job, 1 viewer" in done.stdout


@pytest.mark.parametrize("name", ["TVARR_HTTP_PORT", "TVARR_GRPC_PORT"])
def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"TVARR_HTTP_PORT": "0", "TVARR_GRPC_PORT": "0", name: str(port)}
        done = subprocess.run(
            [sys.executable, "-m", "tvarr.demo", "run"],
            env={**os.environ, **ports, "TVARR_HOST": "127.0.0.1", "TVARR_DATA_DIR": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"demo: port {port} is in use; to take another: {name}={port + 1} make run\n"
    assert not (tmp_path / "data").exists()


def test_make_run_greets_over_tls(tmp_path: Path) -> None:
    cert, key = Authority.make(tmp_path).issue(tmp_path, "tv.example")
    http_port, grpc_port = _free_ports()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TVARR_")}
    environ |= {
        "TVARR_HOST": "127.0.0.1",
        "TVARR_HTTP_PORT": str(http_port),
        "TVARR_GRPC_PORT": str(grpc_port),
        "TVARR_DATA_DIR": str(tmp_path / "data"),
        "TVARR_WORK_DIR": str(tmp_path / "work"),
        "TVARR_TLS_CERT": str(cert),
        "TVARR_TLS_KEY": str(key),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tvarr.demo", "run"], env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: "Watch:" in log.read_text(), "it greets", START_LIMIT_S)
    finally:
        process.terminate()
        process.wait(STOP_LIMIT_S)
    text = log.read_text()
    assert f"Dashboard:       https://127.0.0.1:{http_port}/\n" in text
    assert "Admin password:  " in text
    stored = (tmp_path / "data" / "tvarr.db").read_bytes()
    assert b"file:demo.ts" in stored
    assert os.fsencode(CLIP.parent) not in stored, "a clone that is moved would lose its channel"
    assert f"'https://127.0.0.1:{http_port}/stream/demo.ts?profile=h264'" in text


@pytest.mark.parametrize("arguments", [[], ["walk"]])
def test_what_it_takes(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "tvarr.demo", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "demo: takes run or check\n")
