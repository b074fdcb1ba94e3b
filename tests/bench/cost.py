"""What a process costs with so many of something, and what each more of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def add_growth(report: Report, what: str, costs: Sequence[Cost], others: Sequence[Cost] = (), other: str = "") -> None:
    """What each more costs (`measure.growth`), `others` being what something else costs with as many."""
    each, flat = growth([(cost.count, cost.percent) for cost in costs])
    against = (other, growth([(cost.count, cost.percent) for cost in others])[0]) if others else ""
    report.add(f"each more {what}: CPU", each, "% of a core", against=against)
    first, before_last, last = costs[0], costs[-2], costs[-1]
    name = f"one more {what} between {before_last.count} and {last.count}: CPU"
    than = f"one more between {first.count} and {before_last.count}"
    report.add(name, flat, "x", against=than, aim=at_most(MOST_DEARER))
    span = last.count - first.count
    own, resident = ((b - a) / span for a, b in ((first.own_mb, last.own_mb), (first.resident_mb, last.resident_mb)))
    report.add(f"each more {what}: memory", 1000 * own, "kB", more=f"USS; RSS {1000 * resident:,.0f} kB")
