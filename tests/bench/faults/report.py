"""The bench's table on the terminal and as JSON under the build folder."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.faults.rounds import Tally
from tests.bench.faults.use import COUNTED
from tests.bench.measure import quantile
from tests.bench.report import BUILD, machine

LOSSES = (
    ("missing", "missing"),
    ("repeated", "repeated"),
    ("invented", "invented"),
    ("dts_steps_back", "DTS back"),
    ("continuity_errors", "cc errors"),
    ("decode_errors", "decode errors"),
    ("audio_gaps", "audio gaps"),
    ("audio_overlaps", "audio overlaps"),
)
PLOTTED = {
    "rss_bytes": ("memory, MB", 1e6),
    "fds": ("descriptors", 1),
    "threads": ("threads", 1),
    "tasks": ("tasks", 1),
    "ffmpegs": ("ffmpeg processes", 1),
}
"""What of a soak's samples is drawn: in words, and what one step of the axis is."""
SHARES = ((0.5, "p50"), (0.95, "p95"), (1.0, "max"))


def figures(tally: Tally) -> dict[str, Any]:
    """A case as plain JSON values; times in seconds."""
    case, pauses = tally.case, tally.pauses_s
    return {
        "fault": case.name,
        "relays_watched": len(tally.rounds),
        "pictures": tally.sum_of("pictures"),
        **{name: tally.sum_of(name) for name, _ in LOSSES},
        "without_output_s": {words: round(quantile(pauses, share), 3) for share, words in SHARES},
        "source_without_output_s": round(source_pause_s(tally), 3),
        "aims_s": {
            "median": case.most_median_s,
            "p95": case.most_p95_s,
            "max": case.most_s,
            "above_source": case.most_above_s,
        },
        "missed_aims": missed(tally),
        "endings": dict(tally.codes),
        "trouble": [r.verdict.trouble for r in tally.rounds if r.verdict.trouble],
    }


def source_pause_s(tally: Tally) -> float:
    """The longest that the source's own viewer waited: what is normal."""
    return max((r.verdict.source_pause_s for r in tally.rounds), default=0.0)


def missed(tally: Tally) -> list[str]:
    """Aims for the time without output that were not reached."""
    case, pauses = tally.case, tally.pauses_s
    above = source_pause_s(tally) + case.most_above_s if case.most_above_s else 0.0
    aims = (("p50", 0.5, case.most_median_s), ("p95", 0.95, case.most_p95_s), ("max", 1.0, case.most_s or above))
    return [
        f"{words} {quantile(pauses, share):.2f} s, aimed at {aim:.3g} s"
        for words, share, aim in aims
        if aim and quantile(pauses, share) > aim
    ]


def show(tallies: list[Tally], title: str) -> None:
    table = Table(title=f"{title}, {machine()}")
    for column in (
        "fault",
        "rounds",
        "pictures",
        *(words for _, words in LOSSES),
        *(words for _, words in SHARES),
        "source max",
    ):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for tally in tallies:
        table.add_row(
            tally.case.name,
            str(len(tally.rounds)),
            str(tally.sum_of("pictures")),
            *(str(tally.sum_of(name)) for name, _ in LOSSES),
            *(f"{quantile(tally.pauses_s, share):.2f} s" for share, _ in SHARES),
            f"{source_pause_s(tally):.2f} s",
        )
    Console(width=200).print(table)
    for tally in tallies:
        for words in missed(tally):
            print(f"{tally.case.name}: without output {words}")


def show_soak(found: dict[str, Any]) -> None:
    faults = ", ".join(f"{count} {name}" for name, count in found["faults"].items())
    print(f"{found['minutes']:g} minutes, {found['pictures']} pictures, {found['missing']} missing; {faults}")
    print(f"longest time without output {found['longest_without_output_s']:.2f} s")
    for name in found["judged"]:
        use = found["use"][name]
        first, last = use["rss_bytes"]
        counted = (f"{use[what][0]:.3g} to {use[what][1]:.3g} {what}" for what in COUNTED)
        print(f"{name}: {first / 1e6:.1f} to {last / 1e6:.1f} MB, {', '.join(counted)}")
        before, after = use["before"], use["after"]
        print(
            f"{name} without viewers: {before['rss_bytes'] / 1e6:.1f} MB before, {after['rss_bytes'] / 1e6:.1f} after, "
            + ", ".join(f"{before[what]} and {after[what]} {what}" for what in COUNTED)
        )
    for complaint in found["complaints"]:
        print(complaint)
    print("not level, or something was lost" if found["complaints"] else "level, and nothing was lost")


def plot(found: dict[str, Any]) -> None:
    """Writes build/faults-soak.png: each figure over time. Needs the extra `bench`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: install the extra `bench`")
        return
    figure = Figure(figsize=(10, 12), layout="constrained")
    axes = figure.subplots(len(PLOTTED), sharex=True)
    for (what, (words, unit)), axis in zip(PLOTTED.items(), axes, strict=True):
        for name, use in found["use"].items():
            samples = use["samples"]
            judged = name in found["judged"]
            axis.plot(
                [s["at_s"] / 60 for s in samples],
                [s[what] / unit for s in samples],
                label=name if judged else f"{name}, which begins anew",
                linewidth=1.8 if judged else 0.7,
            )
        axis.set_ylabel(words)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    axes[0].set_title(f"{found['relays']} relays, {sum(found['faults'].values())} faults, {machine()}")
    axes[-1].set_xlabel("minutes")
    path = BUILD / "faults-soak.png"
    figure.savefig(path, dpi=100)
    print(f"written to {path}")


def save(name: str, document: dict[str, Any]) -> None:
    """Writes build/faults-NAME.json."""
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"faults-{name}.json"
    head = {"machine": machine(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    path.write_text(json.dumps({**head, **document}, indent=2) + "\n")
    print(f"written to {path}")
