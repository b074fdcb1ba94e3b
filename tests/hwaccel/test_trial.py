"""Trial encodes with an executable stand-in for hardware, and with every real ffmpeg of this machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from tests.fakes.ffmpeg_trial import TEXTS, Answer, StandIn, calls
from tests.ffmpeg.support import FFMPEGS, require
from tests.waiting import until
from tvarr.cluster.model import Encoder, Family, Gpu
from tvarr.ffmpeg.locate import find_ffmpeg
from tvarr.hwaccel.build import Build, read_build
from tvarr.hwaccel.families import obeyed
from tvarr.hwaccel.inventory import Inventory
from tvarr.hwaccel.trial import Trial, plan_trials, run_trial, run_trials

GEFORCE = Gpu("GPU-aaaa", "NVIDIA GeForce RTX 3090", "nvidia", architecture="Ampere", engines=1, restricted=True)
SECOND = Gpu("GPU-bbbb", "NVIDIA GeForce RTX 4090", "nvidia", architecture="Ada", engines=2, restricted=True)
H100 = Gpu("GPU-cccc", "NVIDIA H100 PCIe", "nvidia", architecture="Hopper")
INTEL = Gpu("0000:00:02.0", "Intel GPU 46a6", "intel", driver="i915", node="/dev/dri/renderD128", engines=1)
AMD = Gpu("0000:03:00.0", "Radeon", "amd", driver="amdgpu", node="/dev/dri/renderD129", engines=1)
NOTHING = Inventory(platform="linux", nvidia_reason="no NVIDIA driver (libnvidia-ml.so.1 is missing)")


def build(*encoders: str) -> Build:
    return Build((), frozenset(encoders), frozenset())


def trials_for(inventory: Inventory, *encoders: str) -> tuple[Trial, ...]:
    plan = plan_trials(build(*encoders), inventory)
    assert not plan.settled
    return plan.trials


async def outcome(binary: Path, inventory: Inventory, encoder: str, timeout_s: float = 10.0) -> Encoder:
    (trial,) = trials_for(inventory, encoder)
    return await run_trial(str(binary), trial, timeout_s=timeout_s)


# ------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("h264_nvenc", "no NVIDIA GPU found: no NVIDIA driver (libnvidia-ml.so.1 is missing)"),
        ("h264_vaapi", "no GPU with a render node found"),
        ("h264_qsv", "no Intel GPU"),
        ("h264_amf", "no AMD GPU"),
        ("h264_v4l2m2m", "there is no /dev/video*"),
        ("h264_rkmpp", "there is no /dev/mpp_service"),
        ("h264_videotoolbox", "macOS only"),
        ("h264_vulkan", "no GPU found"),
    ],
)
def test_nothing_is_tried_without_a_device(encoder: str, said: str) -> None:
    plan = plan_trials(build(encoder), NOTHING)
    assert plan.trials == ()
    (settled,) = plan.settled
    assert (settled.name, settled.usable, settled.verified, settled.device) == (encoder, False, False, "")
    assert said in settled.reason


def test_only_what_tvarr_can_use_is_tried() -> None:
    plan = plan_trials(build("libx264", "mjpeg_vaapi", "flac", "h264_omx", "aac"), NOTHING)
    assert [trial.encoder.name for trial in plan.trials] == ["libx264", "aac"]
    assert plan.settled == ()


def test_each_encoder_is_tried_on_each_device_of_its_family() -> None:
    inventory = Inventory((GEFORCE, SECOND, INTEL, AMD), v4l2=("/dev/video10",), platform="linux")
    names = ("h264_nvenc", "h264_vaapi", "h264_qsv", "h264_amf", "h264_v4l2m2m")
    tried = {(t.encoder.name, t.encoder.device) for t in trials_for(inventory, *names)}
    assert tried == {
        ("h264_nvenc", "GPU-aaaa"),
        ("h264_nvenc", "GPU-bbbb"),
        ("h264_vaapi", "0000:00:02.0"),
        ("h264_vaapi", "0000:03:00.0"),
        ("h264_qsv", "0000:00:02.0"),
        ("h264_amf", "0000:03:00.0"),
        ("h264_v4l2m2m", ""),
    }


def test_nvenc_gpus_are_chosen_by_uuid_and_render_nodes_by_path() -> None:
    nvidia, *_, vaapi = trials_for(Inventory((GEFORCE, AMD)), "h264_nvenc", "h264_vaapi")
    assert nvidia.environment == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}
    assert "cuda=cu:0" in nvidia.attempts[0][1]
    assert "vaapi=va:/dev/dri/renderD129" in vaapi.attempts[0][1]
    assert [option for option, _ in vaapi.attempts] == ["", "low_power"]


def test_what_is_known_of_a_gpu_is_not_tried() -> None:
    denied = "/dev/dri/renderD128 may not be opened: it belongs to group render (105), and this user is not in it"
    inventory = Inventory((GEFORCE, H100, INTEL), problems={INTEL.id: denied})
    plan = plan_trials(build("av1_nvenc", "h264_nvenc", "h264_vaapi"), inventory)
    assert [(t.encoder.name, t.encoder.device) for t in plan.trials] == [("h264_nvenc", "GPU-aaaa")]
    reasons = {(e.name, e.device): e.reason for e in plan.settled}
    assert reasons["av1_nvenc", "GPU-aaaa"] == "Ampere GPUs don't encode AV1: that takes Ada or newer"
    assert reasons["h264_nvenc", "GPU-cccc"] == "NVIDIA H100 PCIe has no video encoder"
    assert reasons["h264_vaapi", INTEL.id] == denied


# ----------------------------------------------------------------------------------------------- failures in words


@pytest.mark.parametrize(
    ("inventory", "encoder", "text", "said"),
    [
        (Inventory((GEFORCE,)), "h264_nvenc", "nvenc unsupported", "this GPU can't be used for NVENC"),
        (Inventory((GEFORCE,)), "h264_nvenc", "driver too old", "driver is older than"),
        (Inventory((GEFORCE,)), "h264_nvenc", "no libnvidia-encode", "NVIDIA_DRIVER_CAPABILITIES"),
        (Inventory((INTEL,)), "h264_vaapi", "no vaapi driver", "libva driver"),
        (Inventory((INTEL,)), "h264_vaapi", "no entrypoint", "does not encode this codec"),
        (Inventory((INTEL,)), "h264_qsv", "no mfx", "Quick Sync runtime"),
        (Inventory((AMD,)), "h264_amf", "no amf", "AMF runtime"),
        (Inventory((AMD,)), "h264_vulkan", "no vulkan encode", "no video encoder"),
        (Inventory(v4l2=("/dev/video0",)), "h264_v4l2m2m", "no v4l2", "V4L2"),
    ],
)
async def test_failures_are_told_in_words(
    tmp_path: Path, inventory: Inventory, encoder: str, text: str, said: str
) -> None:
    binary = StandIn([encoder], [Answer([encoder], TEXTS[text], exits=187)]).install(tmp_path)
    tried = await outcome(binary, inventory, encoder)
    assert (tried.usable, tried.verified) == (False, False)
    assert said in tried.reason


@pytest.mark.parametrize("text", ["nvenc full (old driver)", "nvenc full (new driver)"])
async def test_a_full_gpu_is_usable(tmp_path: Path, text: str) -> None:
    binary = StandIn(["h264_nvenc"], [Answer(["h264_nvenc"], TEXTS[text], exits=1)]).install(tmp_path)
    tried = await outcome(binary, Inventory((GEFORCE,)), "h264_nvenc")
    assert (tried.usable, tried.verified, tried.device) == (True, False, "GPU-aaaa")
    assert "present, but full now" in tried.reason


async def test_low_power_is_found_and_kept(tmp_path: Path) -> None:
    answers = [Answer(["h264_vaapi", "-low_power"]), Answer(["h264_vaapi"], TEXTS["no entrypoint"], exits=218)]
    binary = StandIn(["h264_vaapi"], answers).install(tmp_path)
    tried = await outcome(binary, Inventory((INTEL,)), "h264_vaapi")
    assert (tried.verified, tried.options, tried.reason) == (True, ("low_power",), "")


async def test_only_the_broken_gpu_fails(tmp_path: Path) -> None:
    answers = [Answer(["h264_nvenc", "GPU-aaaa"], TEXTS["nvenc unsupported"], exits=1)]
    binary = StandIn(["h264_nvenc"], answers).install(tmp_path)
    tried = await run_trials(str(binary), trials_for(Inventory((GEFORCE, SECOND)), "h264_nvenc"))
    assert [(e.device, e.verified) for e in tried] == [("GPU-aaaa", False), ("GPU-bbbb", True)]


async def test_a_flood_of_words_is_capped_and_its_first_line_counts(tmp_path: Path) -> None:
    flood = TEXTS["driver too old"] + "No capable devices found\n" * 200_000
    binary = StandIn(["h264_nvenc"], [Answer(["h264_nvenc"], flood, exits=1)]).install(tmp_path)
    tried = await outcome(binary, Inventory((GEFORCE,)), "h264_nvenc")
    assert "driver is older than" in tried.reason


async def test_a_binary_that_vanished(tmp_path: Path) -> None:
    tried = await outcome(tmp_path / "gone", NOTHING, "libx264")
    assert tried.reason == "ffmpeg can't be run: No such file or directory"


# -------------------------------------------------------------------------------------------------- the processes


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(*pids: int) -> None:
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    binary = StandIn(["libx264"], [Answer(["libx264"], takes_s=600, forks=True)]).install(tmp_path)
    tried = await outcome(binary, NOTHING, "libx264", timeout_s=1.0)
    assert not tried.usable
    assert tried.reason == "the trial encode did not end within 1 s and was killed"
    (call,) = calls(binary)
    await gone(call["pid"], call["child"])


async def test_one_that_hangs_is_not_tried_another_way(tmp_path: Path) -> None:
    binary = StandIn(["h264_vaapi"], [Answer([], takes_s=600)]).install(tmp_path)
    tried = await outcome(binary, Inventory((INTEL,)), "h264_vaapi", timeout_s=0.5)
    assert "did not end" in tried.reason
    assert len(calls(binary)) == 1


async def test_a_child_that_holds_stderr_does_not_hold_the_trial(tmp_path: Path) -> None:
    binary = StandIn(["libx264"], [Answer(["libx264"], forks=True)]).install(tmp_path)
    tried = await outcome(binary, NOTHING, "libx264", timeout_s=10.0)
    assert tried.usable
    await gone(*(call["child"] for call in calls(binary)))


async def test_cancelling_leaves_no_process(tmp_path: Path) -> None:
    binary = StandIn(["libx264", "libx265"], [Answer([], takes_s=600)]).install(tmp_path)
    running = asyncio.create_task(run_trials(str(binary), trials_for(NOTHING, "libx264", "libx265")))
    await until(lambda: len(calls(binary)) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(*(call["pid"] for call in calls(binary)))


async def test_trials_run_side_by_side_but_not_where_sessions_are_few(tmp_path: Path) -> None:
    names = ["h264_nvenc", "hevc_nvenc", "h264_vaapi", "hevc_vaapi"]
    binary = StandIn(names, [Answer([], takes_s=0.3)]).install(tmp_path)
    progress: list[tuple[int, int]] = []
    trials = trials_for(Inventory((GEFORCE, INTEL)), *names)
    began = time.monotonic()
    tried = await run_trials(str(binary), trials, progress=lambda done, total, _: progress.append((done, total)))
    assert all(e.verified for e in tried)
    assert [e.name for e in tried] == names
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]

    spans = {
        family: sorted(span(c) for c in calls(binary) if family in " ".join(c["args"])) for family in names_of(names)
    }
    assert not overlap(*spans["nvenc"]), "two trials at once could fill a GeForce"
    assert overlap(*spans["vaapi"]), "the others run at the same time"
    assert began < spans["nvenc"][0][0]


def names_of(encoders: list[str]) -> set[str]:
    return {encoder.partition("_")[2] for encoder in encoders}


def span(call: dict[str, float]) -> tuple[float, float]:
    return call["began"], call["ended"]


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return second[0] < first[1]


# ---------------------------------------------------------------------------------------------------- real ffmpegs


@pytest.mark.parametrize("path", FFMPEGS)
async def test_software_encodes_for_real(path: str) -> None:
    binary = find_ffmpeg(require(path))
    plan = plan_trials(await read_build(binary), NOTHING)
    tried = {e.name: e for e in await run_trials(binary.path, plan.trials)}
    assert tried.keys() >= {"libx264", "mpeg2video", "aac", "ac3", "eac3", "mp2"}
    svt = tried.pop("libsvtav1", None)
    assert svt is None or svt.verified or "libaom-av1" in tried, "old ones are of no use: 1.4 of Debian 12"
    assert {name: e.reason for name, e in tried.items() if not e.verified} == {}
    assert {e.family for e in tried.values()} == {Family.SOFTWARE}


@pytest.mark.parametrize("path", FFMPEGS)
async def test_hardware_that_is_not_there_for_real(path: str) -> None:
    """The GPUs are invented, the words are this ffmpeg's own."""
    binary = find_ffmpeg(require(path))
    nowhere = Gpu("0000:00:02.0", "Invented", "intel", node="/dev/dri/renderD250", engines=1)
    trials = trials_for(Inventory((GEFORCE, nowhere)), "h264_nvenc", "h264_vaapi", "h264_qsv")
    nvenc, qsv, vaapi = await run_trials(binary.path, trials)
    assert [nvenc.usable, qsv.usable, vaapi.usable] == [False, False, False]
    assert "NVIDIA" in nvenc.reason or "CUDA" in nvenc.reason
    assert "/dev/dri/renderD250 can't be opened" in vaapi.reason
    assert "/dev/dri/renderD250 can't be opened" in qsv.reason


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        pytest.param(["", ", F=0x0", ", F=0x0", ", F=0x0", ", F=0x0", "", ", F=0x0"], True, id="5.1"),
        pytest.param(["", ", F=0x10", ", F=0x0", ", F=0x10", ", F=0x0", "", ", F=0x10"], True, id="SVT-AV1 4, 9.0"),
        pytest.param(["", *[", F=0x0"] * 9], False, id="one keyframe only"),
        pytest.param(["", ", F=0x0", ", F=0x0", "", ", F=0x0", ", F=0x0"], False, id="somewhere else"),
        pytest.param([""], False, id="one picture"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_a_forced_keyframe_is_looked_for(flags: list[str], verdict: bool) -> None:
    """As framecrc lists packets: flags stand only where a packet is no plain keyframe."""
    lines = [f"0,{n:11},{n:11},{1:9},{1382:9}, 0x2822b2cc{flag}, S=1,        8" for n, flag in enumerate(flags)]
    assert obeyed("\n".join(["#software: Lavf59.27.100", "#tb 0: 1/25", *lines])) is verdict
