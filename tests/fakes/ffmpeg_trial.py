"""An executable that stands in for ffmpeg where a test needs hardware: it lists encoders and answers trial encodes.

What it says on stderr (`TEXTS`) is what FFmpeg 5.1.9 and 9.0.2 say on machines that lack the hardware, and for NVENC,
VAAPI's drivers and Quick Sync the lines of their sources. It keeps a log of how it was called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TEXTS = {
    "nvenc full (old driver)": (
        "[h264_nvenc @ 0x55d0c8a3d2c0] OpenEncodeSessionEx failed: out of memory (10): (no details)\n"
        "[h264_nvenc @ 0x55d0c8a3d2c0] No capable devices found\n"
    ),
    "nvenc full (new driver)": (
        "[h264_nvenc @ 0x55d0c8a3d2c0] OpenEncodeSessionEx failed: incompatible client key (21): (no details)\n"
        "[h264_nvenc @ 0x55d0c8a3d2c0] No capable devices found\n"
    ),
    "nvenc unsupported": (
        "[h264_nvenc @ 0x55d0c8a3d2c0] OpenEncodeSessionEx failed: unsupported device (2): (no details)\n"
        "[h264_nvenc @ 0x55d0c8a3d2c0] No capable devices found\n"
    ),
    "driver too old": (
        "[h264_nvenc @ 0x55d0c8a3d2c0] Driver does not support the required nvenc API version. "
        "Required: 13.1 Found: 12.2\n"
        "[h264_nvenc @ 0x55d0c8a3d2c0] The minimum required Nvidia driver for nvenc is 610.00 or newer\n"
    ),
    "no libnvidia-encode": "[h264_nvenc @ 0x55d0c8a3d2c0] Cannot load libnvidia-encode.so.1\n",
    "no vaapi driver": (
        "[VAAPI @ 0x560837b8ed80] Failed to initialise VAAPI connection: -1 (unknown libva error).\n"
        "Device creation failed: -5.\n"
        "Failed to set value 'vaapi=va:/dev/dri/renderD128' for option 'init_hw_device': Input/output error\n"
        "Error parsing global options: Input/output error\n"
    ),
    "no entrypoint": (
        "[h264_vaapi @ 0x55a1c0] No usable encoding entrypoint found for profile VAProfileH264High (7).\n"
        "[vost#0:0/h264_vaapi @ 0x55a1c0] [enc:h264_vaapi @ 0x55a1d0] Error while opening encoder - maybe incorrect "
        "parameters such as bit_rate, rate, width or height.\n"
    ),
    "no mfx": (
        "[AVHWDeviceContext @ 0x5581] Error creating a MFX session: -9.\nDevice creation failed: -1313558101.\n"
    ),
    "no v4l2": (
        "[h264_v4l2m2m @ 0x55da2ffad200] Could not find a valid device\n"
        "[h264_v4l2m2m @ 0x55da2ffad200] can't configure encoder\n"
        "Error initializing output stream 0:0 -- Error while opening encoder for output stream #0:0 - maybe incorrect "
        "parameters such as bit_rate, rate, width or height\n"
    ),
    "no amf": (
        "[AMF @ 0x7f1d18004400] DLL libamfrt64.so.1 failed to open\n"
        "[h264_amf @ 0x556e455e5b80] Failed to create  hardware device context (AMF) : Unknown error occurred\n"
        "[vost#0:0/h264_amf @ 0x556e455e4c40] [enc:h264_amf @ 0x556e455e5680] Error while opening encoder - maybe "
        "incorrect parameters such as bit_rate, rate, width or height.\n"
        "[vf#0:0 @ 0x556e455e6c00] Error sending frames to consumers: Unknown error occurred\n"
    ),
    "no vulkan encode": (
        "[h264_vulkan @ 0x564685b63380] Device does not support the VK_KHR_video_encode_queue extension!\n"
        "[vost#0:0/h264_vulkan @ 0x564685b62800] [enc:h264_vulkan @ 0x564685b632c0] Error while opening encoder - "
        "maybe incorrect parameters such as bit_rate, rate, width or height.\n"
        "[vf#0:0 @ 0x564685b63740] Error sending frames to consumers: Function not implemented\n"
    ),
}


@dataclass
class Answer:
    """How a trial ends whose arguments and chosen GPU contain all of `where`; the first that fits counts."""

    where: list[str]
    says: str = ""
    exits: int = 0
    takes_s: float = 0.0
    forks: bool = False  # leaves a child that holds stderr open


@dataclass
class StandIn:
    """What the executable lists and answers. A trial that no answer fits succeeds."""

    encoders: list[str]
    answers: list[Answer] = field(default_factory=list)
    hwaccels: list[str] = field(default_factory=lambda: ["cuda", "vaapi"])
    version: str = "9.0.2"

    def install(self, folder: Path) -> Path:
        """Writes the executable into `folder` and returns its path."""
        scenario = folder / "scenario.json"
        scenario.write_text(json.dumps(asdict(self)))
        path = folder / "ffmpeg"
        path.write_text(
            f"#!{sys.executable} -S\nimport sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
            f"from tests.fakes.ffmpeg_trial import main\nmain({str(scenario)!r})\n"
        )
        path.chmod(0o755)
        return path


def calls(binary: Path) -> list[dict[str, Any]]:
    """The trials that ran, in the order in which they ended: `args`, `gpu`, `pid`, `began`, `ended`, `child`."""
    log = binary.with_name("calls.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(scenario_path: str) -> None:
    folder = Path(scenario_path).parent
    scenario = json.loads(Path(scenario_path).read_text())
    args = sys.argv[1:]
    if "-version" in args:
        print(f"ffmpeg version {scenario['version']} Copyright (c) 2000-2026 the FFmpeg developers")
    elif "-hwaccels" in args:
        print("Hardware acceleration methods:", *scenario["hwaccels"], "", sep="\n")
    elif "-encoders" in args:
        print("Encoders:\n V..... = Video\n A..... = Audio\n ------")
        print(*(f" V....D {name:<20} An encoder (codec x)" for name in scenario["encoders"]), sep="\n")
    elif "-decoders" in args:
        print("Decoders:\n V..... = Video\n ------\n VFS..D h264                 H.264 / AVC")
    elif "-protocols" in args:
        print("Supported file protocols:\nInput:\n  file\n  tcp\n  udp\nOutput:\n  file")
    elif "-demuxers" in args:
        print("File formats:\n D. = Demuxing supported\n --\n D  rtsp            RTSP input")
    else:
        _trial(folder, scenario, args)


def _trial(folder: Path, scenario: dict[str, Any], args: list[str]) -> None:
    began = time.monotonic()
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    words = [*args, gpu]
    answer = next((a for a in scenario["answers"] if all(any(w in word for word in words) for w in a["where"])), None)
    child = 0
    if answer is not None:
        if answer["forks"]:
            child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid
        sys.stderr.write(answer["says"])
        sys.stderr.flush()
    record = {"args": args, "gpu": gpu, "pid": os.getpid(), "child": child, "began": began}
    if child or (answer is not None and answer["takes_s"] > 60):
        _log(folder, record)  # it won't get to the end
    time.sleep(answer["takes_s"] if answer is not None else 0.0)
    if not child:
        _log(folder, {**record, "ended": time.monotonic()})
    sys.exit(answer["exits"] if answer is not None else 0)


def _log(folder: Path, record: dict[str, Any]) -> None:
    with (folder / "calls.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")
