"""`tvarr probe`: what this host can encode, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, SessionPool
from tvarr.ffmpeg.locate import FfmpegBinary, find_ffmpeg
from tvarr.hwaccel.capabilities import detect
from tvarr.hwaccel.families import FAMILIES
from tvarr.hwaccel.inventory import Inventory, take_inventory

_TITLES = {row.family: row.title for row in FAMILIES}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed, in either form."""

    binary: FfmpegBinary
    capabilities: Capabilities
    inventory: Inventory
    verified: bool  # whether trials ran


def run(*, json_output: bool, verify: bool, ffmpeg: str | None) -> int:
    """Looks at the host, prints what it found to stdout and returns the exit code, 0 also without a GPU.

    A progress bar shows on stderr meanwhile where that is a terminal. Raises `StartError` where no ffmpeg can be used.
    """
    binary = find_ffmpeg(ffmpeg)
    report = asyncio.run(_examine(binary, verify=verify))
    if json_output:
        sys.stdout.write(json.dumps(as_json(report), indent=2) + "\n")
    else:
        show(report, Console())
    return 0


async def _examine(binary: FfmpegBinary, *, verify: bool) -> Report:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Looking for devices", total=None, last="")
        inventory: Inventory = await asyncio.to_thread(take_inventory)
        bar.update(task, description="Trying encoders")
        capabilities = await detect(
            binary,
            verify=verify,
            inventory=inventory,
            progress=lambda done, total, name: bar.update(task, completed=done, total=total, last=name),
        )
    return Report(binary, capabilities, inventory, verify)


# ---------------------------------------------------------------------------------------------------- for scripts


def as_json(report: Report) -> dict[str, object]:
    """The report as one JSON object; the fields have the names of `tvarr.cluster.model`."""
    found = report.capabilities
    return {
        "ffmpeg": {
            "path": report.binary.path,
            "version": report.binary.version,
            "found": report.binary.found,
        },
        "verified": report.verified,
        "hwaccels": list(found.hwaccels),
        "gpus": [{**asdict(gpu), "problem": report.inventory.problems.get(gpu.id, "")} for gpu in found.gpus],
        "nvidia": report.inventory.nvidia_reason,  # why no NVIDIA GPU is listed, or not all
        "pools": [asdict(pool) for pool in found.pools],
        "encoders": [asdict(encoder) for encoder in found.encoders],
        "decoders": sorted(found.decoders),
        "max_jobs": found.max_jobs,
        "max_cpu_jobs": found.max_cpu_jobs,
        "cpu_count": found.cpu_count,
        "cpu_model": found.cpu_model,
        "memory_bytes": found.memory_bytes,
        "os": found.os,
    }


# ----------------------------------------------------------------------------------------------------- for people


@dataclass(frozen=True, slots=True)
class _Marks:
    works: str = "✓"
    listed: str = "·"
    fails: str = "✗"


def show(report: Report, console: Console) -> None:
    """Prints the report: the build, the devices, then encoders by family, those that work first."""
    found = report.capabilities
    marks = _Marks() if console.encoding.startswith("utf") else _Marks("ok", "-", "x")
    _heading(console, "FFmpeg")
    facts = _grid()
    facts.add_row("version", escape(report.binary.version))
    facts.add_row("path", escape(f"{report.binary.path} ({report.binary.found})"))
    facts.add_row("hwaccels", ", ".join(found.hwaccels) or "none in this build")
    console.print(facts)

    _heading(console, "Host")
    host = _grid()
    host.add_row("system", escape(found.os))
    host.add_row("processors", escape(f"{found.cpu_count} x {found.cpu_model}"))
    host.add_row("memory", _size(found.memory_bytes))
    host.add_row("jobs", f"{found.max_jobs} at once, {found.max_cpu_jobs} of them encoding video in software")
    console.print(host)

    _heading(console, "GPUs")
    for line in _gpu_lines(found, report.inventory):
        console.print(line)

    working = [encoder for encoder in found.encoders if encoder.usable]
    failed = [encoder for encoder in found.encoders if not encoder.usable]
    _heading(console, "Encoders that work" if report.verified else "Encoders in this build (not tried)")
    for line in _working_lines(working, found.gpus, marks):
        console.print(line)
    if failed:
        _heading(console, "Encoders that do not work here" if report.verified else "Encoders without a device here")
        for line in _failed_lines(failed, found.gpus, marks):
            console.print(line)
    console.print()
    console.print(_summary(report, working))


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=14)
    grid.add_column(overflow="fold")
    return grid


def _gpu_lines(found: Capabilities, inventory: Inventory) -> Iterator[Text | Table]:
    pools = {pool.id: pool for pool in found.pools}
    if not found.gpus:
        yield Text("  none found")
    for gpu in found.gpus:
        yield Text(f"  {gpu.name}", style="cyan")
        facts = _grid()
        facts.add_row("    id", escape(gpu.id))
        if gpu.driver:
            facts.add_row("    driver", escape(", ".join(filter(None, (gpu.driver, gpu.architecture)))))
        if gpu.memory_bytes:
            facts.add_row("    memory", _size(gpu.memory_bytes))
        if gpu.node:
            facts.add_row("    node", escape(gpu.node))
        if problem := inventory.problems.get(gpu.id):
            facts.add_row("    problem", Text(problem, style="red"))
        facts.add_row("    sessions", escape(_sessions(pools.get(gpu.pool), found.gpus)))
        yield facts
    if inventory.nvidia_reason:
        yield Text(f"  NVIDIA: {inventory.nvidia_reason}", style="dim")


def _sessions(pool: SessionPool | None, gpus: Iterable[Gpu]) -> str:
    if pool is None:
        return "none: no video encoder"
    if pool.limit is None:
        return f"no limit ({pool.detail})"
    sharing = sum(gpu.pool == pool.id for gpu in gpus)
    shared = f" for {sharing} GPUs of this host together" if sharing > 1 else ""
    return f"at most {pool.limit}{shared} ({pool.source.replace('_', ' ')}; {pool.detail})"


def _working_lines(encoders: Iterable[Encoder], gpus: Iterable[Gpu], marks: _Marks) -> Iterator[Text | Table]:
    names = {gpu.id: gpu.name for gpu in gpus}
    for (family, device), group in groupby(encoders, key=lambda e: (e.family, e.device)):
        yield _title(_TITLES[family], names.get(device, ""))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=5, justify="right")
        table.add_column(min_width=18, no_wrap=True)
        table.add_column(min_width=12, no_wrap=True)
        table.add_column(overflow="fold")
        for encoder in group:
            mark = Text(marks.works, style="green") if encoder.verified else Text(marks.listed, style="yellow")
            note = encoder.reason or ", ".join(encoder.options) or ("" if encoder.verified else "listed")
            table.add_row(mark, encoder.name, encoder.codec.value, escape(note))
        yield table


def _failed_lines(encoders: Iterable[Encoder], gpus: Iterable[Gpu], marks: _Marks) -> Iterator[Text | Table]:
    """Encoders of one family and device that fail for one reason stand together."""
    names = {gpu.id: gpu.name for gpu in gpus}
    for (family, device), group in groupby(encoders, key=lambda e: (e.family, e.device)):
        yield _title(_TITLES[family], names.get(device, ""))
        by_reason: dict[str, list[str]] = {}
        for encoder in group:
            by_reason.setdefault(encoder.reason, []).append(encoder.name)
        for reason, encoder_names in by_reason.items():
            table = Table.grid(padding=(0, 1, 0, 0))
            table.add_column(width=5, justify="right")
            table.add_column(overflow="fold")
            table.add_row(Text(marks.fails, style="red"), ", ".join(encoder_names))
            table.add_row("", Text(reason, style="dim"))
            yield table


def _title(family: str, gpu: str) -> Text:
    return Text.assemble("  ", (family, "cyan"), f" on {gpu}" if gpu else "")


def _summary(report: Report, working: Iterable[Encoder]) -> Text:
    works = list(working)
    if not works:
        return Text("No encoder of this ffmpeg works here.", style="red")
    hardware = sorted(
        {_TITLES[encoder.family] for encoder in works if encoder.device or encoder.family is not Family.SOFTWARE}
    )
    how = "work" if report.verified else "are listed"
    where = f"hardware: {', '.join(hardware)}" if hardware else "all in software, no hardware encoder"
    return Text(f"{len(works)} of {len(report.capabilities.encoders)} encoders {how}; {where}.")


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB"
