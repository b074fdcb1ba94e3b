"""What a process costs with so many of something, and what each more of them costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.bench.measure import growth
from tests.bench.report import Report, at_most

MOST_DEARER = 1.15


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one or more processes together."""

    count: int
    percent: float  # of a core
    own_mb: float  # USS
    resident_mb: float


def least(rounds: Sequence[Sequence[Cost]]) -> list[Cost]:
    """Of each count, in the order of the first round.

    What else a machine does only adds, and lasts for minutes where machines share one: the round that took least CPU
    says most about us. Memory is the first round's, for what one round has freed hides what the next one needs.
    """
    return [
        replace(first, percent=min(cost.percent for made in rounds for cost in made if cost.count == first.count))
        for first in rounds[0]
    ]


def each_round(values: Sequence[float]) -> str:
    """What every round gave, for those who want to know how even they were; nothing where there was but one."""
    return f"rounds: {', '.join(f'{value:.3g}' for value in values)}" if len(values) > 1 else ""


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is more and more of, and whose cost that is: `Counted("relay", "coordinator", " passed through")`."""

    noun: str
    who: str
    how: str = ""

    def name(self, count: int) -> str:
        return f"{count:,} {self.noun}{'' if count == 1 else 's'}{self.how}: {self.who}'s CPU"

    def each(self, what: str) -> str:
        return f"each more {self.noun}{self.how}: {self.who}'s {what}"


def add_growth(
    report: Report, counted: Counted, costs: Sequence[Cost], others: Sequence[Cost] = (), other: str = ""
) -> None:
    """What each more costs (`measure.growth`), `others` being what something else costs with as many."""
    each, flat = growth([(cost.count, cost.percent) for cost in costs])
    against = (other, growth([(cost.count, cost.percent) for cost in others])[0]) if others else ""
    report.add(counted.each("CPU"), each, "% of a core", against=against)
    first, before_last, last = costs[0], costs[-2], costs[-1]
    if not math.isfinite(flat):
        print(f"  {counted.each('CPU')}: up to {before_last.count} there is none that could be told from noise")
    else:
        name = f"{counted.each('CPU')}, from {before_last.count:,} to {last.count:,}"
        than = f"from {first.count:,} to {before_last.count:,}"
        report.add(name, flat, "x", against=than, aim=at_most(MOST_DEARER))
    span = last.count - first.count
    own, resident = ((b - a) / span for a, b in ((first.own_mb, last.own_mb), (first.resident_mb, last.resident_mb)))
    report.add(counted.each("memory"), 1000 * own, "kB", more=f"USS; RSS {1000 * resident:,.0f} kB")
