"""GStreamer and ffprobe read every output of a running channel."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import program
from tests.harness import Cluster, eventually

WIDTH, HEIGHT = 32, 18
PICTURES, SOUND_BYTES = 75, 2 * 48_000 * 2  # 3 s, 2 s
OUTPUTS = {
    "transport stream": ".ts",
    "MP4": ".mp4",
    "HLS": "/index.m3u8",
    "HLS with CMAF": "/index.m3u8?container=fmp4",
    "DASH": "/manifest.mpd",
}


@pytest.fixture
def stream(tvarr: Cluster) -> str:
    """A new channel at real time, as it is; its address without what says which output.

    Of DASH that has run for longer than the manifest lists, 12 s, GStreamer 1.22 shows nothing: where it looks up the
    segment of a time (`gst_mpd_client_stream_seek`) it counts the start of the first one listed as well, and asks for
    what is as far ahead. That is so of any live timeline whose first segment isn't at 0.
    """
    return f"{tvarr.url}/stream/{tvarr.add_channel('For many players', 'file:clip.ts', loop=True)}"


@contextlib.contextmanager
def decoding(url: str, kind: str, chain: str, path: Path) -> Iterator[Path]:
    """GStreamer while it writes the decoded pictures or sound of a stream to a file; what it says is behind it.

    One process for each: with both in one pipeline gst-launch pauses them in turn while one is buffered.
    """
    command = [program("gst-launch-1.0"), "-q", "uridecodebin", f"uri={url}", f"caps={kind}/x-raw", "!", *chain.split()]
    command += ["!", "filesink", f"location={path}", "buffer-mode=unbuffered", "sync=false"]
    with path.with_suffix(".log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as player:
        try:
            yield path
        finally:
            player.kill()


@pytest.mark.parametrize("output", OUTPUTS)
def test_gstreamer_decodes_pictures_and_sound(stream: str, output: str, tmp_path: Path) -> None:
    """With the elements that `uridecodebin` finds: tsdemux, qtdemux, hlsdemux, dashdemux."""
    small = f"videoconvert ! videoscale ! video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT}"
    plain = "audioconvert ! audio/x-raw,format=S16LE,rate=48000,channels=1"
    url = stream + OUTPUTS[output]
    with (
        decoding(url, "video", small, tmp_path / "pictures") as pictures,
        decoding(url, "audio", plain, tmp_path / "sound") as sound,
    ):
        eventually(lambda: _size(pictures) >= PICTURES * WIDTH * HEIGHT, "there are pictures", within_s=60)
        eventually(lambda: _size(sound) >= SOUND_BYTES, "there is sound", within_s=60)
    data = pictures.read_bytes()
    frames = {data[at : at + WIDTH * HEIGHT] for at in range(0, PICTURES * WIDTH * HEIGHT, WIDTH * HEIGHT)}
    assert len(frames) > PICTURES * 0.6  # it moves; dashdemux may read its first segment twice
    assert "ERROR" not in pictures.with_suffix(".log").read_text() + sound.with_suffix(".log").read_text()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_ffprobe_finds_picture_and_sound(stream: str, output: str) -> None:
    command = [program("ffprobe"), "-v", "error", "-analyzeduration", "2000000", "-of", "json", "-show_streams"]
    done = subprocess.run([*command, stream + OUTPUTS[output]], capture_output=True, text=True, timeout=30, check=True)
    found = sorted(json.loads(done.stdout)["streams"], key=lambda s: s["codec_type"])
    assert [(s["codec_name"], s["codec_type"]) for s in found] == [("aac", "audio"), ("h264", "video")]
    assert (found[1]["width"], found[1]["height"], found[0]["sample_rate"]) == (320, 180, "48000")
    assert done.stderr == ""
