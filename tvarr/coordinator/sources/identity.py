"""Which of a source's tracks is which, where it numbers them anew. Pure."""

from __future__ import annotations

from dataclasses import replace

from tvarr.media.model import Kind, Track, Tracks

MAX_KNOWN = 1024  # tracks; a source that has had more gets the id of any other language
NO_TRACK = -1

_NO_LANGUAGE = ("", "und")


class Identities:
    """Gives each track of a source an id that stays its own.

    An encoder that was restarted, or the provider's other one, often has other PIDs for the same picture and sound, or
    has them the other way round. Players go on with the PIDs that they know, and so does a job. So a track that is new
    goes on as the one of its kind that has gone, if it may be the same; ids never change their kind.
    """

    def __init__(self) -> None:
        self._known: dict[int, Track] = {}  # by the id given, as announced last
        self._ids: dict[int, int] = {}  # given, by the source's own; of all that there ever were
        self._now: dict[int, int] = {}  # of those announced last

    def of(self, tracks: Tracks) -> Tracks:
        """The tracks of an announcement with the ids given to them."""
        given: dict[int, int] = {}
        for track in tracks.tracks:
            known = self._known.get(self._ids.get(track.id, -1))
            if known is not None and known.kind is track.kind and known.id not in given.values():
                given[track.id] = known.id
        for track in tracks.tracks:
            if track.id not in given:
                given[track.id] = self._new(track, set(given.values()))
        self._ids |= given
        self._now = given
        named = tuple(replace(track, id=given[track.id]) for track in tracks.tracks)
        self._known |= {track.id: track for track in named}
        return replace(tracks, tracks=named)

    def id_of(self, own: int) -> int:
        """The id given to the track that the source calls `own` now; that of no track where there is none."""
        return self._now.get(own, NO_TRACK)

    def _new(self, track: Track, taken: set[int]) -> int:
        """The id of one that has gone, the track's own, or one that is free."""
        gone = [known for known in self._known.values() if known.id not in taken]
        alike = [known for known in gone if self._may_be(known, track)]
        if alike:
            return min(alike, key=lambda known: (known.language != track.language, known.codec is not track.codec)).id
        own = track.id
        while own in self._known or own in taken:
            own += 1
        return own

    def _may_be(self, known: Track, track: Track) -> bool:
        if known.kind is not track.kind or (track.kind in (Kind.SUBTITLE, Kind.DATA) and known.codec != track.codec):
            return False
        languages = {known.language, track.language}
        return len(languages) == 1 or bool(languages & set(_NO_LANGUAGE)) or len(self._known) >= MAX_KNOWN
