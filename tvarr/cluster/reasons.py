"""Why each daemon was taken or not, in words."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

from tvarr.cluster.model import Considered
from tvarr.cluster.offers import Score, Shape, missing_words, offer_words, verdict_of, way_of
from tvarr.cluster.standing import Standing, Standings


@dataclass(frozen=True, slots=True)
class Special:
    """What keeps one daemon from one job, for a time or (`until` None) at all, or only its hardware."""

    words: str
    until: float | None
    hardware_only: bool = False


_BETTER = (
    "another does more of it in hardware",
    "another has a larger share of its sessions free",
    "another is less busy",
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The daemon that was taken, and by what."""

    standing: Standing
    score: Score
    reason: str
    near: Container[str]  # daemons that got the same source already


class Reasons(Sequence[Considered]):
    """Every daemon with the reason for or against it, in the order in which they joined.

    The words are made when somebody reads them: among 1,000 daemons they would take longer than the choice.
    """

    __slots__ = ("_chosen", "_max_cpu_load", "_shape", "_special", "_standings")

    def __init__(
        self,
        standings: Standings,
        shape: Shape,
        max_cpu_load: float,
        special: Mapping[str, Special],
        chosen: Chosen | None = None,
    ) -> None:
        self._standings = standings
        self._shape = shape
        self._max_cpu_load = max_cpu_load
        self._special = special
        self._chosen = chosen

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._standings)

    @overload
    def __getitem__(self, index: int) -> Considered: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Considered]: ...
    def __getitem__(self, index: int | slice) -> Considered | Sequence[Considered]:
        everyone = tuple(chain.from_iterable(self._standings))
        if isinstance(index, slice):
            return tuple(map(self._considered, everyone[index]))
        return self._considered(everyone[index])

    def __iter__(self) -> Iterator[Considered]:
        return map(self._considered, chain.from_iterable(self._standings))

    def _considered(self, standing: Standing) -> Considered:
        if self._chosen is not None and standing is self._chosen.standing:
            return Considered(standing.id, standing.name, True, self._chosen.reason)
        return Considered(standing.id, standing.name, False, self._words(standing))

    def _words(self, standing: Standing) -> str:
        fit = self._shape.fit(standing)
        verdict = verdict_of(standing, fit, self._max_cpu_load)
        way, score = way_of(fit, verdict), verdict[0] or verdict[2]
        if reason := self._special.get(standing.id):
            more = reason.words
        elif score is None:
            more = ""
        else:
            more = self._why_not(standing, score)
        missing = missing_words(standing, fit, verdict, self._max_cpu_load)
        words = offer_words(standing, way, self._shape.need) if way is not None else missing
        if way is not None and verdict[0] is None and missing:
            words += f" ({missing})"
        return f"{words}; {more}" if words and more else words or more

    def _why_not(self, standing: Standing, score: Score) -> str:
        """By which of the comparisons it lost."""
        if self._chosen is None:
            return "the job wants hardware"
        for mine, its, words in zip(score, self._chosen.score, _BETTER, strict=True):
            if mine != its:
                return words
        near = self._chosen.near
        nearer = self._chosen.standing.id in near and standing.id not in near
        return "another has the same source" if nearer else "another was used less recently"


def lines_of(considered: Iterable[Considered]) -> tuple[str, ...]:
    """One line for each daemon that was considered."""
    return tuple(f"{one.daemon_name}: {one.reason}" for one in considered)
