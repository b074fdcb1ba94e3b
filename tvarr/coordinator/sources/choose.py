"""Which of a source's sound tracks are taken. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvarr.coordinator.sources.languages import canonical
from tvarr.media.model import Kind, Track, Tracks


class AudioChoice:
    """Sound in the wanted languages, the most wanted first; all of it where there is none that can be read.

    Everything but sound is taken.
    """

    def __init__(self, languages: Sequence[str] = ()) -> None:
        self._rank = {canonical(language): rank for rank, language in reversed(list(enumerate(languages)))}
        self.left_out: frozenset[int] = frozenset()  # ids of the tracks that are not taken

    def of(self, offered: Tracks) -> Tracks:
        """The tracks that are taken of those that are offered now."""
        sound = offered.of_kind(Kind.AUDIO)
        wanted = sorted((t for t in sound if self._is_wanted(t)), key=lambda t: self._rank[canonical(t.language)])
        if not any(not track.scrambled for track in wanted):
            self.left_out = frozenset()
            return offered
        self.left_out = frozenset(track.id for track in sound) - {track.id for track in wanted}
        in_order = iter(wanted)
        taken = [t if t.kind is not Kind.AUDIO else next(in_order, None) for t in offered.tracks]
        return replace(offered, tracks=tuple(track for track in taken if track is not None))

    def _is_wanted(self, track: Track) -> bool:
        return canonical(track.language) in self._rank
