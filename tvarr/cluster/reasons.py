"""Why each daemon was taken or not, in words."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

from tvarr.cluster.model import Considered
from tvarr.cluster.offers import CHUNK, Offer, Score, Verdict, Verdicts


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


class Reasons(Sequence[Considered]):
    """Every daemon with the reason for or against it, in the order in which they joined.

    The words are made when somebody reads them: among 1,000 daemons they would take longer than the choice.
    """

    __slots__ = ("_best", "_near", "_reason", "_score", "_special", "_verdicts")

    def __init__(
        self,
        verdicts: Verdicts,
        special: Mapping[str, Special],
        best: Verdict | None = None,
        offer: Offer | None = None,
        reason: str = "",
        near: Container[str] = frozenset(),
    ) -> None:
        self._verdicts = verdicts
        self._special = special
        self._best = best
        self._score = offer.score if offer is not None else None
        self._reason = reason
        self._near = near

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._verdicts)

    @overload
    def __getitem__(self, index: int) -> Considered: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Considered]: ...
    def __getitem__(self, index: int | slice) -> Considered | Sequence[Considered]:
        if isinstance(index, slice):
            return tuple(self)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._considered(self._verdicts[index // CHUNK][index % CHUNK])

    def __iter__(self) -> Iterator[Considered]:
        return map(self._considered, chain.from_iterable(self._verdicts))

    def _considered(self, verdict: Verdict) -> Considered:
        chosen = verdict is self._best
        return Considered(verdict.daemon_id, verdict.name, chosen, self._reason if chosen else self._words(verdict))

    def _words(self, verdict: Verdict) -> str:
        offer = verdict.hardware or verdict.software
        if reason := self._special.get(verdict.daemon_id):
            more = reason.words
        elif offer is None:
            more = ""
        elif self._score is None:
            more = "hardware is wanted"
        else:
            more = self._why_not(verdict, offer, self._score)
        words = offer.words if offer is not None else verdict.words
        if offer is not None and verdict.hardware is None and verdict.words:
            words += f" ({verdict.words})"
        return f"{words}; {more}" if words and more else words or more

    def _why_not(self, verdict: Verdict, offer: Offer, best: Score) -> str:
        """By which of the comparisons it lost."""
        for mine, its, words in zip(offer.score, best, _BETTER, strict=True):
            if mine != its:
                return words
        near = self._best is not None and self._best.daemon_id in self._near and verdict.daemon_id not in self._near
        return "another has the same source" if near else "another was used less recently"
