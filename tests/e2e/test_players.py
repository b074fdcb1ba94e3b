"""Programs that people watch with play what we send."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.clips import probe_bytes
from tests.conftest import program
from tests.harness import Cluster

PICTURES = 75  # watched: 3 s


@pytest.fixture
def url(tvarr: Cluster, request: pytest.FixtureRequest) -> str:
    """A live channel under profile `h264` that nobody has watched before."""
    slug = tvarr.add_channel(f"Played {request.node.name}", "file:clip.ts", loop=True)
    return tvarr.stream_url(slug, "h264")


def test_mpv_shows_every_picture(url: str, tmp_path: Path) -> None:
    command = [program("mpv"), "--no-config", "--ao=null", "--vo=image", f"--vo-image-outdir={tmp_path}"]
    command += ["--msg-level=all=error", f"--frames={PICTURES}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.jpg"))) == PICTURES
    assert done.stderr == ""


def test_vlc_plays(url: str, tmp_path: Path) -> None:
    """VLC without a screen: what it decodes goes through an encoder of its own to stdout."""
    chain = "#transcode{vcodec=mp2v,vb=800,acodec=mpga,ab=128}:std{access=file,mux=ts,dst=-}"
    command = [program("cvlc"), "-q", "--no-one-instance", f"--run-time={PICTURES / 25}", f"--sout={chain}"]
    command += [url, "vlc://quit"]
    user = "nobody" if os.getuid() == 0 else None  # VLC does not run as root
    home = {**os.environ, "HOME": "/"}
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd="/", env=home, user=user)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    got = probe_bytes(done.stdout, tmp_path)
    assert sorted(got.codecs()) == ["mp2", "mpeg2video"]
    assert len(got.pts("video")) > PICTURES // 2  # VLC's clock starts before its first picture does


def test_ffprobe_knows_the_streams_soon(url: str) -> None:
    """Within 2 s of media; unasked it takes 5 s, of ffmpeg's own streams too."""
    started = time.monotonic()
    command = [program("ffprobe"), "-v", "error", "-analyzeduration", "2000000", "-of", "json", "-show_streams", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    took_s = time.monotonic() - started
    streams = json.loads(done.stdout)["streams"]
    assert sorted(stream["codec_name"] for stream in streams) == ["aac", "h264"]
    (video,) = [stream for stream in streams if stream["codec_type"] == "video"]
    assert (video["width"], video["height"]) == (320, 180)
    assert done.stderr == ""
    assert took_s < 5.0
