"""A variant's samples as the bytes that players read, muxed once for all of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from tvarr.coordinator.profiles import carried
from tvarr.coordinator.signals import Signal
from tvarr.errors import MediaError, TvarrError
from tvarr.media.model import TICKS_PER_SECOND, Event, Sample, Tracks
from tvarr.media.mpegts.mux import Muxer, null_packets
from tvarr.media.ring import ChunkRing, Lagged

OUTPUT_RING_BYTES = 16 * 1024 * 1024  # how far a viewer may fall behind the newest chunk
READ_BYTES = 1024 * 1024  # given to one viewer at once
SILENCE_S = 0.7  # without a new chunk for so long, and each time again, viewers get null packets: some leave after 3 s
SILENCE_PACKETS = 7  # as many as fit into a datagram

_ids = itertools.count(1)


class ViewerTooSlow(TvarrError):
    """A viewer fell behind by more than the output keeps; it is let go, so that nobody waits for it."""


@dataclass(slots=True, eq=False)
class Viewer:
    """Somebody who watches one output, from a keyframe on."""

    output: TsOutput
    address: str
    user_agent: str
    seq: int  # of the next chunk to send
    id: int = field(default_factory=lambda: next(_ids))
    connected_at: float = field(default_factory=time.time)
    sent_bytes: int = 0  # of media
    sent_at: float = 0.0  # of the loop's time; anything

    async def read(self) -> bytes:
        """The next bytes, or none at the end of the stream. Null packets while there is nothing to send: not before
        the first media, by which players tell what the stream is, and only to who asks.

        Raises the variant's failure where it ended by one, and `ViewerTooSlow`.
        """
        output = self.output
        while True:
            try:
                chunks, self.seq = output.chunks.read(self.seq, max_bytes=READ_BYTES)
            except Lagged as error:
                raise ViewerTooSlow(f"fell more than {OUTPUT_RING_BYTES >> 20} MiB behind") from error
            if chunks:
                data = chunks[0].data if len(chunks) == 1 else b"".join([chunk.data for chunk in chunks])
                self.sent_bytes += len(data)
                self.sent_at = output.now()
                output.drained.set()
                return data
            if output.ended:
                if output.failure is not None:
                    raise output.failure
                return b""
            if self.sent_bytes and output.silent and output.now() - self.sent_at > SILENCE_S / 2:
                self.sent_at = output.now()
                return null_packets(SILENCE_PACKETS)
            await output.changed.wait()

    @property
    def behind_bytes(self) -> int:
        return self.output.chunks.bytes_since(self.seq)

    @property
    def lag_s(self) -> float:
        """How much media lies between the newest chunk and the next one for this viewer."""
        return self.output.chunks.ticks_since(self.seq) / TICKS_PER_SECOND


class TsOutput:
    """MPEG-TS for any number of viewers. Overflow: the oldest chunks go, and a viewer that needed them is dropped."""

    container = "ts"

    def __init__(self, service_name: str, drained: Signal) -> None:
        self.chunks = ChunkRing(OUTPUT_RING_BYTES)
        self.viewers: set[Viewer] = set()
        self.changed = Signal()  # new chunks, the end, or `SILENCE_S` without either
        self.drained = drained  # set when a viewer has read something, or left
        self.ended = False
        self.failure: TvarrError | None = None
        self.dropped = 0  # viewers that were too slow
        self._muxer = Muxer(service_name)
        self.now = asyncio.get_running_loop().time
        self._written_at = self.now()
        self._alarm: asyncio.TimerHandle | None = None  # of a silence, while there are viewers

    @property
    def silent(self) -> bool:
        return self.now() - self._written_at >= SILENCE_S

    def push(self, events: Iterable[Event]) -> None:
        """Takes samples and changes of tracks in stream order; tracks that the container can't hold are left out."""
        if self.ended:
            return
        samples: list[Sample] = []
        for event in events:
            if type(event) is Sample:
                samples.append(event)
                continue
            self._write(samples)
            samples = []
            try:
                self._muxer.set_tracks(carried(cast("Tracks", event), self.container))
            except MediaError as error:
                self.end(error)
                return
        self._write(samples)

    def _write(self, samples: list[Sample]) -> None:
        for chunk in self._muxer.mux(samples):
            self.chunks.append(chunk)
            self.changed.set()
            self._written_at = self.now()

    def _listen(self) -> None:
        """Wakes the viewers where nothing was written for a while.

        One timer for all of them, which is not touched while media flow: it runs out, looks, and is set anew.
        """
        silent = self.silent
        if silent:
            self.changed.set()
        due = (self.now() if silent else self._written_at) + SILENCE_S
        self._alarm = asyncio.get_running_loop().call_at(due, self._listen)

    def _stop_listening(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def end(self, failure: TvarrError | None = None) -> None:
        """No more samples: viewers read what is there, and then the end or the failure."""
        self.ended = True
        self.failure = failure
        self._stop_listening()
        self.changed.set()

    def join(self, address: str, user_agent: str) -> Viewer:
        viewer = Viewer(self, address, user_agent, self.chunks.join_seq())
        self.viewers.add(viewer)
        if self._alarm is None and not self.ended:
            self._listen()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        if not self.viewers:
            self._stop_listening()
        self.drained.set()

    def room(self) -> bool:
        """Whether the slowest viewer could take more without being in danger of falling behind."""
        return all(viewer.behind_bytes < OUTPUT_RING_BYTES // 4 for viewer in self.viewers)
