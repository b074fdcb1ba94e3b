"""From a source's bytes to events on the relay's timeline, over all connections of its life. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from tvarr.coordinator.source import SourceFailure
from tvarr.coordinator.sources.choose import AudioChoice
from tvarr.coordinator.sources.container import Container, Media, add_stats
from tvarr.coordinator.sources.identity import Identities
from tvarr.coordinator.sources.sniff import ENOUGH_BYTES, HEAD_BYTES, is_foreign, recognise
from tvarr.errors import MediaError, MoovBehind, NotTransportStream
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.audio import is_cut_off
from tvarr.media.mpegts.receive import DemuxStats
from tvarr.media.timeline import Timeline

HELD_EVENTS = 4096  # so many wait for the first picture or sound; of those that follow only the tracks do
PROGRAMS_NAMED = 20
KEYFRAME_WAIT_TICKS = 10 * TICKS_PER_SECOND  # video that has no keyframe for so long is passed on as it is

_PLAYABLE = (Kind.VIDEO, Kind.AUDIO)
_NO_MEDIA = "is not MPEG-TS, MP4 or HLS"
_UNKNOWN = (Codec.PRIVATE, "", b"", 0)  # values of a track's fields


class Intake:
    """Demuxes each connection anew and joins them on one timeline.

    Nothing is passed on before the source's first picture or sound; where a connection ends without one, nothing of it
    ever is. Tracks are announced again only where they changed, and keep their ids where the source gives them others.
    After a join, video is dropped up to its next keyframe: a decoder would show the rest as garbage.
    """

    def __init__(self, program: int | None = None, audio_languages: Sequence[str] = ()) -> None:
        self.timeline = Timeline()
        self.media_samples = 0  # of video and audio, all connections
        self.dropped_samples = 0  # of video, before the first keyframe after a join
        self._program = program
        self._audio = AudioChoice(audio_languages)
        self._past_stats = DemuxStats()  # of the connections before this one
        self._identities = Identities()
        self._container = Container(program)
        self._media: Media = self._container
        self.begin()

    def begin(self, content_type: str = "", *, moov: bytes = b"", media: Media | None = None) -> None:
        """A new connection, or the next lap of a loop: nothing of what came before is continued in it.

        `media`: what demuxes it, where that is not done here; its events are given to `place`. `moov`: see `Container`;
        one that can't be read raises `SourceFailure`.
        """
        self._past_stats = self.demux_stats
        try:
            self._container = Container(self._program, moov=moov)
        except MediaError as error:
            raise SourceFailure(_words(error)) from error
        self._media = media or self._container
        self.has_media = False  # this connection gave video or audio
        self._content_type = content_type
        self._head = b""  # the first bytes, at most HEAD_BYTES, until tracks are known
        self._tracks: Tracks | None = None  # of this connection
        self._playable: dict[int, Kind] = {}  # by track
        self._awaited: dict[int, int | None] = {}  # video tracks that wait for a keyframe: DTS of the first dropped
        self._joins = self.media_samples > 0
        if self._joins:
            self.timeline.restart()
            return
        self.timeline = Timeline()
        self._identities = Identities()
        self._announced: Tracks | None = None  # what was passed on last, or is held
        self._held: list[Event] = []  # until the first picture or sound; the caller limits the bytes they come from

    @property
    def demux_stats(self) -> DemuxStats:
        """What was demuxed, all connections."""
        return add_stats(self._past_stats, self._media.stats)

    @property
    def received_bytes(self) -> int:
        """What this connection brought."""
        return self._media.stats.bytes

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes; raises `SourceFailure` as soon as they are known to be no media.

        Raises `MoovBehind` where the index of an MP4 must be had first.
        """
        if self._tracks is None and len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            if len(self._head) >= ENOUGH_BYTES:
                self._recognise()
        try:
            events = self._container.feed(data)
        except MoovBehind:
            raise
        except MediaError as error:
            self._recognise()
            raise SourceFailure(_words(error)) from error
        return self.place(events)

    def end(self, *, whole: bool = True) -> list[Event]:
        """The connection ended in good order: what the demuxer still holds is passed on.

        Not `whole`: nothing says that this was to be the end. Then sound that is cut off within a frame is left out,
        and a picture that is known to be unfinished.
        """
        try:
            events = self.place(self._media.flush() if whole else self._container.flush(cut=True))
        except MediaError as error:
            raise SourceFailure(_words(error)) from error
        return events if whole else [event for event in events if not self._is_cut_off(event)]

    def _is_cut_off(self, event: Event) -> bool:
        if isinstance(event, Tracks) or self._tracks is None:
            return False
        track = self._tracks.get(event.track)
        return track is not None and is_cut_off(track.codec, event.data)

    def trouble(self) -> SourceFailure:
        """Why this connection gave nothing playable so far."""
        if not self.received_bytes:
            return SourceFailure("the source answered with nothing", gone=True)
        try:
            rest = self._media.flush()  # what it still waited to learn more of
        except MediaError as error:
            return SourceFailure(_words(error))
        announced = (self._identities.of(event) for event in rest if isinstance(event, Tracks))
        tracks = next(announced, self._tracks)
        if tracks is None:
            try:
                self._recognise()
            except SourceFailure as failure:
                return failure
            return SourceFailure(self._without_tracks())
        playable = [t for t in tracks.tracks if t.kind in _PLAYABLE]
        if not playable:
            return SourceFailure("the source announces neither video nor audio")
        if any(t.scrambled for t in playable):
            if any(t.scrambled and t.stream_type for t in playable):  # of a transport stream
                return SourceFailure("the source is scrambled (DVB-CSA/CA); it needs a descrambler")
            return SourceFailure("the source is encrypted by DRM (Common Encryption), which can't be read")
        kinds = [kind for kind in _PLAYABLE if any(t.kind is kind for t in playable)]
        named = " and ".join(f"{kind} ({', '.join(_codecs(playable, kind))})" for kind in kinds)
        came = {self._identities.id_of(event.track) for event in rest if isinstance(event, Sample)}
        if {t.id for t in playable} & came:
            return SourceFailure(f"the source announces {named} but sends too little of it", passing=True)
        return SourceFailure(f"the source announces {named} but sends none")

    def _without_tracks(self) -> str:
        if not self._media.stats.packets:
            return f"what the source sends {_NO_MEDIA}"
        if self._program is not None:
            there = ", ".join(map(str, self._container.programs[:PROGRAMS_NAMED]))
            return f"the source has no program {self._program}" + (f"; it has {there}" if there else "")
        return "the source sends no table of programs (PAT, PMT): it can't be told what is in it"

    def _recognise(self) -> None:
        if self._tracks is None and (what := recognise(self._head, self._content_type)):
            first, _, advice = what.partition("; ")
            words = f"the source sends {first}, not video" + (f"; {advice}" if advice else "")
            raise SourceFailure(words, foreign=is_foreign(what))

    def place(self, events: list[Event]) -> list[Event]:
        """What of a demuxer's events is passed on, on the timeline."""
        placed: list[Event] = []
        for event in events:
            if isinstance(event, Tracks):
                taken = self._identities.of(self._audio.of(event))
                if self._announced is None or not _adds_nothing(taken, self._announced):
                    self._announced = taken
                    placed.append(taken)
                self._learn(self._announced)
                continue
            if event.track in self._audio.left_out:
                continue
            if (track := self._identities.id_of(event.track)) != event.track:
                event = event._replace(track=track)
            if event.track in self._playable:
                self.has_media = True
                self.media_samples += 1
            sample = self.timeline.map(event)
            if sample is None:
                continue
            if event.track in self._awaited and not self._can_start(sample):
                self.dropped_samples += 1
                continue
            placed.append(sample)
        return placed if self._joins else self._hold(placed)

    def _hold(self, events: list[Event]) -> list[Event]:
        """What of the first connection's events can be passed on: all from the first picture or sound on."""
        if not self.has_media:
            for event in events:
                if isinstance(event, Tracks) and self._held and isinstance(self._held[-1], Tracks):
                    self._held[-1] = event
                elif isinstance(event, Tracks) or len(self._held) < HELD_EVENTS:
                    self._held.append(event)
            return []
        if self._held:
            held, self._held = self._held, []
            return held + events
        return events

    def _learn(self, tracks: Tracks) -> None:
        known = self._playable
        self._tracks = tracks
        self._head = b""
        self.timeline.set_tracks(tracks)
        self._playable = {t.id: t.kind for t in tracks.tracks if t.kind in _PLAYABLE}
        if self._joins:
            self._awaited |= {i: None for i, kind in self._playable.items() if kind is Kind.VIDEO and i not in known}

    def _can_start(self, sample: Sample) -> bool:
        """Whether `sample` is where its video goes on after a join."""
        first_ticks = self._awaited[sample.track]
        if first_ticks is None:
            first_ticks = self._awaited[sample.track] = sample.dts_ticks
        if not sample.keyframe and sample.dts_ticks - first_ticks < KEYFRAME_WAIT_TICKS:
            return False
        del self._awaited[sample.track]
        return True


def _words(error: MediaError) -> str:
    if isinstance(error, NotTransportStream):
        return f"what the source sends {_NO_MEDIA}: {error}"
    return f"the source can't be read: {error}"


def _codecs(tracks: list[Track], kind: Kind) -> list[str]:
    return sorted({t.codec.value for t in tracks if t.kind is kind})


def _adds_nothing(new: Tracks, old: Tracks) -> bool:
    """The same tracks, though on a new connection some details may not be known yet."""
    return (
        new.program == old.program
        and [t.id for t in new.tracks] == [t.id for t in old.tracks]
        and all(
            value == getattr(before, name) or (name != "scrambled" and value in _UNKNOWN)
            for now, before in zip(new.tracks, old.tracks, strict=True)
            for name, value in ((f.name, getattr(now, f.name)) for f in fields(Track))
        )
    )
