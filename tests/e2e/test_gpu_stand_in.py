"""The stand-in for an NVIDIA GPU itself: sessions are the kernel's, and what it says is what FFmpeg says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.clips import make_clip, probe
from tests.conftest import program
from tests.fakes import nvenc
from tests.fakes.gpu_host import GpuHost
from tests.harness import eventually
from tvarr.cluster.model import Encoder, Family, JobSpec, Target
from tvarr.errors import ErrorCode
from tvarr.ffmpeg.command import Start, build, decoders
from tvarr.ffmpeg.errors import classify
from tvarr.hwaccel.build import parse_codecs, parse_hwaccels
from tvarr.media.model import Codec, Track

ENDLESS = ["-f", "lavfi", "-re", "-i", "testsrc2=s=160x120:r=5", "-c:v", "h264_nvenc", "-f", "null", "-"]


def encode(host: GpuHost) -> subprocess.Popen[bytes]:
    """Starts an encoder that goes on for ever, and waits until it has asked for its session."""
    before = len(host.records())
    process = subprocess.Popen([host.ffmpeg, "-v", "error", *ENDLESS], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    eventually(lambda: len(host.records()) > before, "the encoder has asked for a session")
    return process


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate(timeout=10)


def test_a_session_is_held_by_the_process_and_free_with_its_end(tmp_path: Path) -> None:
    host = GpuHost(tmp_path / "host", 2)
    first, second = encode(host), encode(host)
    try:
        assert host.open_sessions() == 2
        refused = encode(host)
        stderr = refused.communicate(timeout=10)[1].decode()
        assert refused.returncode == nvenc.EXIT_CODE
        assert classify(stderr.splitlines(), refused.returncode).code is ErrorCode.SESSION_LIMIT
        assert [record.pid for record in host.refusals()] == [refused.pid]
        eventually(lambda: Path(f"/proc/{first.pid}/exe").resolve().name == "ffmpeg", "it is the real ffmpeg")
        end(first)
        assert host.open_sessions() == 1
        first = encode(host)
        assert host.open_sessions() == 2
        end(second, signal.SIGTERM)
        assert host.open_sessions() == 1
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert [record.granted for record in host.records()] == [True, True, False, True]


def test_a_driver_that_closes_sessions_slowly(tmp_path: Path) -> None:
    """The process ends as it would without; `tests.bench.gpu_sessions` shows that it ends later."""
    host = GpuHost(tmp_path / "host", 2, closes_within_s=0.3)
    command = [host.ffmpeg, "-v", "error", "-progress", "pipe:1", *ENDLESS]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGTERM)
        child.wait(5)
        assert process.wait(5) == 255  # what FFmpeg ends with when it is told to
    assert host.open_sessions() == 0


def test_other_programs_take_sessions_too(tmp_path: Path) -> None:
    host = GpuHost(tmp_path / "host", 2)
    with host.foreign(1), host.foreign(1, seen=False):
        assert host.open_sessions() == 2
        assert nvenc.count(str(host.folder), host.gpu) == 1
        assert encode(host).wait(10) == nvenc.EXIT_CODE
    assert host.open_sessions() == 0


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC])
@pytest.mark.parametrize("quality", [{}, {"crf": 30}, {"width": 160, "deinterlace": "on"}])
def test_a_command_of_ours_runs(tmp_path: Path, codec: Codec, quality: dict[str, object]) -> None:
    """As the daemon makes it, decoding on the GPU too: the pictures come out with the codec that was wanted."""
    host = GpuHost(tmp_path / "host", 2)
    clip = make_clip(tmp_path / "clip.ts", seconds=1, size="320x180", audio=("-an",), video=("-c:v", "libx264"))
    track = Track(0x100, Codec.H264, width=320, height=180, fps=25.0)
    spec = JobSpec("job", (Target(track, codec, **quality),), encoder=f"{codec.value}_nvenc", device=host.gpu)  # type: ignore[arg-type]
    encoder = Encoder(spec.encoder, codec, Family.NVENC, host.gpu)
    decoder = decoders(spec, encoder)[0]
    assert decoder == "cuda"
    command = build(str(host.ffmpeg), spec, Start(0, 0), encoder=encoder, decoder=decoder)
    done = subprocess.run(command, input=clip.read_bytes(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.ts").write_bytes(done.stdout)
    got = probe(tmp_path / "out.ts")
    assert got.codecs() == [codec.value]
    assert len(got.packets) == 25
    assert got.streams[0]["width"] == (160 if "width" in quality else 320)


def test_what_is_listed_and_what_is_passed_on(tmp_path: Path) -> None:
    host = GpuHost(tmp_path / "host", 2)

    def says(path: str | Path, question: str) -> str:
        command = [path, "-hide_banner", question]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout

    assert {"h264_nvenc", "hevc_nvenc", "libx264"} <= parse_codecs(says(host.ffmpeg, "-encoders"))
    assert "cuda" in parse_hwaccels(says(host.ffmpeg, "-hwaccels"))
    assert says(host.ffmpeg, "-version") == says(program("ffmpeg"), "-version")
    assert not host.records()


def test_hosts_are_apart(tmp_path: Path) -> None:
    """What a Python process finds on each."""
    code = "from tvarr.ffmpegd import describe as d; from tvarr.hwaccel.nvml import Nvml as n; g=n().gpus();"
    code += "print(d.machine_id(), g.gpus[0].uuid, g.driver, n().stats(g.gpus[0].uuid).encode_sessions)"

    def found(host: GpuHost) -> list[str]:
        environment = {**os.environ, **host.environment()}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    one, other = GpuHost(tmp_path / "one", 3), GpuHost(tmp_path / "other", 8)
    with one.foreign(2), one.foreign(1, seen=False):
        assert found(one)[1:] == [one.gpu, "525.60.13", "2"]
        assert found(other)[1:] == [other.gpu, "550.54.14", "0"]
    assert found(one)[0] == found(one)[0] != found(other)[0]
