"""Trial encodes: what is tried, on which device, and what came of it.

A device that can be opened proves nothing (Vulkan's software renderer opens), so each encoder encodes some pictures.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from tvarr.cluster.model import Encoder, Family, Gpu
from tvarr.errors import ErrorCode
from tvarr.ffmpeg import child
from tvarr.ffmpeg.command import environment
from tvarr.ffmpeg.errors import Failure, classify, not_started
from tvarr.hwaccel.build import Build
from tvarr.hwaccel.families import FAMILIES, WILFUL, FamilyRow, Needs, obeyed, trial_arguments
from tvarr.hwaccel.inventory import Inventory
from tvarr.hwaccel.limits import NVIDIA_HOST_POOL
from tvarr.hwaccel.nvidia_models import lacks_codec
from tvarr.media.model import Codec

TIMEOUT_S = 15.0
CONCURRENCY = 4  # trials at once; each one is a process
MAX_OUTPUT_BYTES = 64 * 1024  # ten packets take 1 KiB; of stderr the first specific line tells the cause

Progress = Callable[[int, int, str], None]
"""Called with the number of trials done, their total, and the name of the one that just ended."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One encoder on one device, still to be tried."""

    encoder: Encoder  # as it is listed, not verified
    attempts: tuple[tuple[str, tuple[str, ...]], ...]  # the option to note where it works, and ffmpeg's arguments
    environment: Mapping[str, str] = field(default_factory=dict)
    lane: str = ""  # trials of one lane run one after another; empty: no lane


@dataclass(frozen=True, slots=True)
class Plan:
    """What to try, and what is known without."""

    trials: tuple[Trial, ...]
    settled: tuple[Encoder, ...]  # not usable, with the reason


def plan_trials(build: Build, inventory: Inventory) -> Plan:
    """Every encoder of the build that tvarr can use, on every device that its family encodes on.

    An encoder whose family finds no device here, and a GPU that can't do it by what is known of it, is settled with the
    reason instead.
    """
    trials: list[Trial] = []
    settled: list[Encoder] = []
    for row in FAMILIES:
        gpus, why_none = _devices(row.needs, inventory)
        for codec, name in row.encoders.items():
            if name not in build.encoders:
                continue
            if not gpus:
                settled.append(Encoder(name, codec, row.family, usable=False, reason=why_none))
            for gpu in gpus:
                encoder = Encoder(name, codec, row.family, device="" if gpu is None else gpu.id)
                problem = "" if gpu is None else _known_problem(row, codec, gpu, inventory)
                if problem:
                    settled.append(replace(encoder, usable=False, reason=problem))
                else:
                    trials.append(_trial(row, encoder, gpu))
    return Plan(tuple(trials), tuple(settled))


def _devices(needs: Needs, inventory: Inventory) -> tuple[Sequence[Gpu | None], str]:
    """The devices for a family (None stands for no particular one), and in words why there are none."""
    nvml = [gpu for gpu in inventory.gpus if gpu.id.startswith("GPU-")]
    render = [gpu for gpu in inventory.gpus if gpu.node and gpu.vendor != "nvidia"]
    match needs:
        case Needs.NOTHING:
            return [None], ""
        case Needs.NVIDIA:
            return nvml, f"no NVIDIA GPU found: {inventory.nvidia_reason or 'the driver sees none'}"
        case Needs.RENDER:
            return render, "no GPU with a render node found (/dev/dri/renderD*)"
        case Needs.INTEL:
            return [gpu for gpu in render if gpu.vendor == "intel"], "no Intel GPU with a render node found"
        case Needs.AMD:
            return [gpu for gpu in render if gpu.vendor == "amd"][:1], "no AMD GPU with a render node found"
        case Needs.V4L2:
            return [None] if inventory.v4l2 else [], "no V4L2 device found: there is no /dev/video*"
        case Needs.MPP:
            return [None] if inventory.mpp else [], "no Rockchip encoder found: there is no /dev/mpp_service"
        case Needs.MACOS:
            return [None] if inventory.platform == "darwin" else [], "VideoToolbox is part of macOS only"
        case Needs.ONE_GPU:
            if len(inventory.gpus) > 1:
                return [], "not tried: with several GPUs Vulkan's order of them is not known"
            return inventory.gpus, "no GPU found"


def _known_problem(row: FamilyRow, codec: Codec, gpu: Gpu, inventory: Inventory) -> str:
    if problem := inventory.problems.get(gpu.id, ""):
        return problem
    if row.family is not Family.NVENC:
        return ""
    if not gpu.engines and not gpu.restricted:
        return f"{gpu.name} has no video encoder"
    return lacks_codec(gpu.architecture, codec)


def _trial(row: FamilyRow, encoder: Encoder, gpu: Gpu | None) -> Trial:
    node = "" if gpu is None else gpu.node
    attempts = tuple((a.option, trial_arguments(row, encoder, a, node)) for a in row.attempts)
    if row.family is not Family.NVENC or gpu is None:
        return Trial(encoder, attempts, environment(encoder))
    return Trial(encoder, attempts, environment(encoder), lane=NVIDIA_HOST_POOL if gpu.restricted else gpu.id)


async def run_trials(path: str, trials: Sequence[Trial], *, progress: Progress | None = None) -> list[Encoder]:
    """Runs all trials, `CONCURRENCY` at a time, and returns the encoders in the same order, as they turned out.

    Trials that need one of few sessions wait for each other, so that they don't report each other as a full GPU.
    """
    slots = asyncio.Semaphore(CONCURRENCY)
    lanes: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))
    done = 0

    async def one(trial: Trial) -> Encoder:
        nonlocal done
        async with lanes[trial.lane] if trial.lane else nullcontext(), slots:
            encoder = await run_trial(path, trial)
        done += 1
        if progress is not None:
            progress(done, len(trials), encoder.name)
        return encoder

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(trial)) for trial in trials]
    return [task.result() for task in tasks]


async def run_trial(path: str, trial: Trial, *, timeout_s: float = TIMEOUT_S) -> Encoder:
    """Tries one encoder, each of its attempts for `timeout_s` at most; the first attempt that works ends it.

    Of several failures the first is told. A GPU that is full is a healthy one: usable, not verified, with the reason.
    """
    reasons: list[str] = []
    for attempt, arguments in trial.attempts:
        failure = await _try([path, *arguments], trial, timeout_s)
        if failure is None:
            return replace(trial.encoder, verified=True, options=(attempt,) if attempt else ())
        if failure.code is ErrorCode.SESSION_LIMIT:
            return replace(trial.encoder, reason=f"present, but full now: {failure.message}")
        reasons.append(failure.message)
        if failure.code is ErrorCode.STALLED:
            break
    return replace(trial.encoder, usable=False, reason=reasons[0])


async def _try(argv: Sequence[str], trial: Trial, timeout_s: float) -> Failure | None:
    """Why one encode failed; None where it worked."""
    try:
        done = await child.run(
            argv, within_s=timeout_s, most_bytes=MAX_OUTPUT_BYTES, env={**os.environ, **trial.environment}
        )
    except TimeoutError:
        message = f"the trial encode did not end within {timeout_s:g} s and was killed"
        return Failure(ErrorCode.STALLED, message, retry_elsewhere=True, retry_in_software=True)
    except OSError as error:
        return not_started(error)
    if done.returncode != 0:
        return classify(done.stderr.splitlines(), done.returncode)
    if trial.encoder.name in WILFUL and not obeyed(done.stdout):
        return Failure(ErrorCode.UNSUPPORTED, "it makes no keyframe where one is asked for", True, False)
    return None
