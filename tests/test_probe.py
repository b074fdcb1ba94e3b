"""`tvarr probe` as a user sees it: on this machine with its real ffmpegs, and on invented hosts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.fakes.ffmpeg_trial import TEXTS, Answer, StandIn
from tests.fakes.nvml import Card, FakeNvmlLibrary, loaded
from tests.ffmpeg.support import FFMPEGS, require
from tests.hwaccel.sysfs import add_render_node
from tvarr import probe
from tvarr.errors import StartError
from tvarr.ffmpeg.locate import find_ffmpeg
from tvarr.hwaccel.capabilities import detect
from tvarr.hwaccel.inventory import take_inventory

CARDS = (
    Card("GPU-aaaa", "NVIDIA GeForce RTX 3090", pci_bus=0x65, architecture=7),
    Card("GPU-bbbb", "NVIDIA GeForce RTX 4090", pci_bus=0x17, architecture=8),
)


def invented(folder: Path, *, verify: bool = True) -> probe.Report:
    """Two GeForces of which one is full, an Intel GPU, and an AMD GPU whose node is missing."""
    add_render_node(folder, 128, address="0000:00:02.0", driver="i915", ids="8086:46a6")
    add_render_node(folder, 129, address="0000:03:00.0", driver="amdgpu", ids="1002:73bf", product_name="Radeon X")
    (folder / "dev/dri/renderD129").unlink()
    answers = [
        Answer(["h264_nvenc", "GPU-aaaa"], TEXTS["nvenc full (new driver)"], exits=1),
        Answer(["_qsv"], TEXTS["no mfx"], exits=1),
    ]
    names = ["libx264", "aac", "h264_nvenc", "av1_nvenc", "h264_vaapi", "h264_qsv", "hevc_qsv", "h264_v4l2m2m"]
    binary = find_ffmpeg(str(StandIn(names, answers).install(folder)))
    with loaded(FakeNvmlLibrary(CARDS)):
        inventory = take_inventory(sys_root=folder / "sys", dev_root=folder / "dev")
    return probe.Report(binary, asyncio.run(detect(binary, verify=verify, inventory=inventory)), inventory, verify)


def shown(report: probe.Report, width: int = 80) -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    probe.show(report, Console(file=out, width=width))
    out.seek(0)
    return [line.rstrip() for line in out.read().splitlines()]


def section(lines: list[str], title: str) -> list[str]:
    start = lines.index(title) + 1
    return lines[start : lines.index("", start)]


def test_what_is_printed(tmp_path: Path) -> None:
    report = invented(tmp_path)
    lines = shown(report)
    assert max(map(len, lines)) <= 80

    gpus = " ".join(" ".join(section(lines, "GPUs")).split())
    together = "at most 8 for 2 GPUs of this host together (driver table; driver 550.54.14: 8)"
    assert f"NVIDIA GeForce RTX 3090 id GPU-aaaa driver 550.54.14, Ampere memory 24.0 GiB sessions {together}" in gpus
    assert "Intel GPU 46a6 (i915) id 0000:00:02.0" in gpus
    assert "renderD129 is missing: give it to the container" in " ".join(shown(report, width=300))

    works = section(lines, "Encoders that work")
    assert works[0] == "  NVIDIA NVENC on NVIDIA GeForce RTX 3090"
    assert works[1].startswith("    ·  h264_nvenc          h264          present, but full now")
    assert "    ✓  libx264             h264" in works

    fails = section(lines, "Encoders that do not work here")
    assert (
        fails[fails.index("    ✗ h264_qsv, hevc_qsv") + 1].strip() == "the Quick Sync runtime or its device is missing"
    )
    assert "      no V4L2 device found: there is no /dev/video*" in fails
    assert lines[-1] == "6 of 11 encoders work; hardware: NVIDIA NVENC, VAAPI."


def test_without_trials_nothing_is_said_to_work(tmp_path: Path) -> None:
    lines = shown(invented(tmp_path, verify=False))
    assert not any("✓" in line for line in lines)
    assert "    ·  libx264             h264          listed" in section(lines, "Encoders in this build (not tried)")


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    probe.show(invented(tmp_path), Console(file=out, width=80))
    out.seek(0)
    text = out.read()
    assert "   ok  libx264" in text
    assert "    x h264_qsv" in text


def test_names_are_no_markup(tmp_path: Path) -> None:
    with loaded(FakeNvmlLibrary((Card("GPU-[red]", "Card [bold]X[/]"),))):
        inventory = take_inventory(sys_root=tmp_path, dev_root=tmp_path)
    binary = find_ffmpeg(str(StandIn(["aac"]).install(tmp_path)))
    report = probe.Report(binary, asyncio.run(detect(binary, verify=False, inventory=inventory)), inventory, False)
    gpus = section(shown(report), "GPUs")
    assert gpus[0] == "  Card [bold]X[/]"
    assert gpus[1].endswith("GPU-[red]")


def test_json_holds_the_same(tmp_path: Path) -> None:
    report = json.loads(json.dumps(probe.as_json(invented(tmp_path))))
    assert report["ffmpeg"] == {"path": str(tmp_path / "ffmpeg"), "version": "9.0.2", "found": "--ffmpeg"}
    assert [(p["id"], p["limit"], p["source"]) for p in report["pools"]] == [
        ("nvidia-host", 8, "driver_table"),
        ("0000:00:02.0", None, "unlimited"),
        ("0000:03:00.0", None, "unlimited"),
    ]
    assert "is missing" in report["gpus"][-1]["problem"]
    encoders = {(e["name"], e["device"]): e for e in report["encoders"]}
    assert encoders["libx264", ""]["verified"] is True
    assert encoders["h264_nvenc", "GPU-aaaa"]["verified"] is False
    assert "full" in encoders["h264_nvenc", "GPU-aaaa"]["reason"]


# ------------------------------------------------------------------------------------------------- on this machine


def command(*, json_output: bool, ffmpeg: str, verify: bool = True) -> list[str]:
    call = f"probe.run(json_output={json_output}, verify={verify}, ffmpeg={ffmpeg!r})"
    return [sys.executable, "-c", f"import sys; from tvarr import probe; sys.exit({call})"]


@pytest.mark.parametrize("path", FFMPEGS)
def test_a_real_run_in_json(path: str) -> None:
    done = subprocess.run(command(json_output=True, ffmpeg=require(path)), capture_output=True, check=True, timeout=120)
    report = json.loads(done.stdout)
    assert done.stderr == b""
    software = {e["name"]: e["reason"] for e in report["encoders"] if e["family"] == "software"}
    assert {"libx264", "aac"} <= software.keys()
    assert {reason for name, reason in software.items() if name != "libsvtav1"} == {""}  # Debian 12's is too old
    assert {"h264", "aac"} <= set(report["decoders"])
    assert all(e["verified"] or e["reason"] for e in report["encoders"])


def test_progress_shows_on_a_terminal_and_not_in_the_output() -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            command(json_output=False, ffmpeg=require(FFMPEGS[0].values[0])),
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            check=True,
            timeout=120,
        )
        os.close(theirs)
        terminal = b""
        while b"encoders" not in terminal:
            terminal += os.read(ours, 65536)
    finally:
        os.close(ours)
    assert b"Trying encoders" in terminal
    assert b"Trying" not in done.stdout
    assert "✓  libx264" in done.stdout.decode()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "does not exist"),
        ("#!/bin/sh\n", 0o644, "is not executable"),
        ("#!/bin/sh\necho ffmpeg version 4.4.2\n", 0o755, "too old"),
    ],
)
def test_an_ffmpeg_that_cannot_be_used(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    path = tmp_path / "ffmpeg"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(StartError, match=said) as caught:
        probe.run(json_output=True, verify=True, ffmpeg=str(path))
    assert str(path) in str(caught.value)
