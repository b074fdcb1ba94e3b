from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.ffmpeg.support import FFMPEGS, require
from tvarr.cluster.hardware import OTHER_DECODERS
from tvarr.errors import StartError
from tvarr.ffmpeg.locate import FfmpegBinary, find_ffmpeg
from tvarr.hwaccel.build import parse_codecs, parse_demuxers, parse_hwaccels, parse_protocols, read_build
from tvarr.media.model import Codec, Kind

ENCODERS = """Encoders:
 V..... = Video
 A..... = Audio
 .F.... = Frame-level multithreading
 .....D = Supports direct rendering method 1
 ------
 V....D libx264              libx264 H.264 / AVC / MPEG-4 AVC / MPEG-4 part 10 (codec h264)
 V..... h264_v4l2m2m         V4L2 mem2mem H.264 encoder wrapper (codec h264)
 A..X.D opus                 Opus
 VFS..D ffv1                 FFmpeg video codec #1
 S..... dvbsub               DVB subtitles (codec dvb_subtitle)
"""


def test_names_of_codecs() -> None:
    assert parse_codecs(ENCODERS) == {"libx264", "h264_v4l2m2m", "opus", "ffv1", "dvbsub"}


def test_names_of_accelerators() -> None:
    assert parse_hwaccels("Hardware acceleration methods:\nvdpau\ncuda\nvaapi\n\n") == ("vdpau", "cuda", "vaapi")
    assert parse_hwaccels("Hardware acceleration methods:\n\n") == ()


def test_names_of_protocols_and_demuxers() -> None:
    text = "Supported file protocols:\nInput:\n  file\n  srt\nOutput:\n  tee\n"
    assert parse_protocols(text) == {"file", "srt"}
    old = (
        "File formats:\n D. = Demuxing supported\n --\n D  matroska,webm   Matroska / WebM\n D  rtsp            RTSP\n"
    )
    new = (
        "Formats:\n D.. = Demuxing supported\n ..d = Is a device\n ---\n D   rtsp    RTSP input\n D d alsa      ALSA\n"
    )
    assert parse_demuxers(old) == {"matroska", "webm", "rtsp"}
    assert parse_demuxers(new) == {"rtsp", "alsa"}


@pytest.mark.parametrize("path", FFMPEGS)
async def test_a_real_build(path: str) -> None:
    build = await read_build(find_ffmpeg(require(path)))
    assert {"libx264", "aac"} <= build.encoders
    assert {"h264", "hevc", "mpeg2video", "aac", "ac3"} <= build.decoders
    assert "=" not in build.encoders | build.decoders
    assert len(build.decoders) > 100
    assert {"rtsp", "rtmp", "udp", "tcp", "rtp", "http", "https"} <= build.schemes
    assert "file" not in build.schemes


@pytest.mark.parametrize("path", FFMPEGS)
async def test_a_real_build_decodes_every_picture_and_sound_that_we_know(path: str) -> None:
    build = await read_build(find_ffmpeg(require(path)))
    codecs = [codec for codec in Codec if codec.kind in (Kind.VIDEO, Kind.AUDIO)]
    assert not [codec for codec in codecs if not build.decoders & {codec.value, *OTHER_DECODERS.get(codec.value, ())}]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho no lists here\n", "does not list its encoders"),
        ("#!/nonexistent/interpreter\n", "can't be run"),
    ],
)
async def test_what_is_no_ffmpeg(tmp_path: Path, script: str, said: str) -> None:
    path = tmp_path / "ffmpeg"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(StartError, match=said):
        await read_build(FfmpegBinary(str(path), "9.0", (9, 0, 0), "--ffmpeg"))
