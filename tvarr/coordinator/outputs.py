"""A variant's samples as the bytes that players read, muxed once for all of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, cast

from tvarr.coordinator import metrics
from tvarr.coordinator.profiles import carried
from tvarr.coordinator.signals import Signal
from tvarr.errors import MediaError, TvarrError
from tvarr.media.fmp4.live import Fragment, Fragmenter
from tvarr.media.model import TICKS_PER_SECOND, Event, Sample, Tracks
from tvarr.media.mpegts.mux import Muxer, null_packets
from tvarr.media.ring import Chunk, ChunkRing, Lagged

OUTPUT_RING_BYTES = 16 * 1024 * 1024  # so far a viewer may fall behind the newest chunk,
OUTPUT_RING_TICKS = 20 * TICKS_PER_SECOND  # or so far, where that is more: a viewer begins as far back as a keyframe is
READ_BYTES = 1024 * 1024  # given to one viewer at once
SILENCE_S = 0.7  # without a new chunk for so long, and each time again, viewers get null packets: some leave after 3 s
SILENCE_PACKETS = 7  # as many as fit into a datagram

AtOnce = Callable[[bytes], bool]  # sends without waiting; False: something sent before has not left yet

_ids = itertools.count(1)


class ViewerTooSlow(TvarrError):
    """A viewer fell behind by more than the output keeps; it is let go, so that nobody waits for it."""


@dataclass(slots=True, eq=False)
class Viewer:
    """Somebody who watches one output, from a keyframe on."""

    output: StreamOutput
    address: str
    user_agent: str
    seq: int  # of the next chunk to send
    id: int = field(default_factory=lambda: next(_ids))
    connected_at: float = field(default_factory=time.time)
    sent_bytes: int = 0  # of media
    sent_at: float = 0.0  # of the loop's time; anything
    init: bytes = b""  # MP4: the initialization segment that was sent last

    async def read(self, at_once: AtOnce | None = None) -> bytes:
        """The next bytes, or none at the end of the stream. In a transport stream null packets while there is nothing
        to send: not before the first media, by which players tell what the stream is, and only to who asks.

        While it waits, what comes goes to `at_once`, and only what that can't take comes back from here.
        Raises the variant's failure where it ended by one, and `ViewerTooSlow`.
        """
        while not (data := self.take()):
            if self.output.ended:
                if self.output.failure is not None:
                    raise self.output.failure
                return b""
            if refused := await self.output.coming(self, at_once):
                return refused
        return data

    def take(self) -> bytes:
        """What there is to send now, counted as sent. Raises `ViewerTooSlow`."""
        output, at = self.output, self.seq
        try:
            chunks, self.seq = output.chunks.read(at, max_bytes=READ_BYTES)
        except Lagged as error:
            raise ViewerTooSlow(f"fell more than {output.chunks.bytes / (1 << 20):.0f} MiB behind") from error
        if chunks:
            data = output.joined(self, at, chunks)
            self.sent_bytes += len(data)
            self.sent_at = output.now()
            output.sent.inc(len(data))
            output.drained.set()
            return data
        if self.sent_bytes and output.filler and output.silent and output.now() - self.sent_at > SILENCE_S / 2:
            self.sent_at = output.now()
            return output.filler
        return b""

    @property
    def container(self) -> str:
        return self.output.container

    @property
    def behind_bytes(self) -> int:
        return self.output.chunks.bytes_since(self.seq)

    @property
    def lag_s(self) -> float:
        """How much media lies between the newest chunk and the next one for this viewer."""
        return self.output.chunks.ticks_since(self.seq) / TICKS_PER_SECOND


class StreamOutput:
    """One endless stream for any number of viewers.

    Overflow: the oldest chunks go, and a viewer that needed them is dropped.
    """

    container: ClassVar[str]
    filler: ClassVar[bytes] = b""  # what players skip; sent while there is nothing to send

    def __init__(self, drained: Signal, max_bytes: int = 0) -> None:
        """`max_bytes`: of what is held for viewers, where `OUTPUT_RING_TICKS` are more than `OUTPUT_RING_BYTES`."""
        self.chunks = ChunkRing(OUTPUT_RING_BYTES, OUTPUT_RING_TICKS, max_bytes)
        self.viewers: set[Viewer] = set()
        self._waiting: dict[Viewer, tuple[AtOnce | None, asyncio.Future[bytes]]] = {}
        self._handing_out = False  # will be done soon
        self.drained = drained  # set when a viewer has read something, or left
        self.sent = metrics.SENT_BYTES.labels(self.container)
        self.ended = False
        self.failure: TvarrError | None = None
        self.dropped = 0  # viewers that were too slow
        self.now = asyncio.get_running_loop().time
        self._written_at = self.now()
        self._joined_of, self._joined = (-1, 0), b""  # what viewers were given last
        self._framed_of, self._framed = b"", b""
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
                self._set_tracks(carried(cast("Tracks", event), self.container))
            except MediaError as error:
                self.end(error)
                return
        self._write(samples)

    def joined(self, viewer: Viewer, seq: int, chunks: list[Chunk]) -> bytes:
        """These chunks, numbered from `seq` on, as the viewer gets them."""
        return self._shared(seq, chunks)

    def _shared(self, seq: int, chunks: list[Chunk]) -> bytes:
        """The chunks' bytes: the same object for all viewers who come by for the same."""
        if len(chunks) == 1:
            return chunks[0].data
        which = seq, len(chunks)
        if which != self._joined_of:
            self._joined_of, self._joined = which, b"".join([chunk.data for chunk in chunks])
        return self._joined

    def framed(self, data: bytes) -> bytes:
        """What `joined` gave as a chunk of HTTP/1.1 (RFC 9112, 7.1), made once for all who were given the same."""
        if data is not self._framed_of:
            self._framed_of, self._framed = data, b"%x\r\n%b\r\n" % (len(data), data)
        return self._framed

    def _set_tracks(self, tracks: Tracks) -> None:
        """May raise MediaError."""
        raise NotImplementedError

    def _write(self, samples: list[Sample]) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        """Nothing more will come."""

    def _append(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self._hand_out_soon()
        self._written_at = self.now()

    async def coming(self, viewer: Viewer, at_once: AtOnce | None) -> bytes:
        """Waits until there is something for a viewer that `at_once` does not see to: bytes that it refused, or none
        where the viewer is to look for itself.
        """
        self._waiting[viewer] = at_once, asyncio.get_running_loop().create_future()
        try:
            return await self._waiting[viewer][1]
        finally:
            self._waiting.pop(viewer, None)

    def _hand_out_soon(self) -> None:
        """Once all that comes together is there."""
        if self._waiting and not self._handing_out:
            self._handing_out = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        """Gives those who wait what there is. Whoever takes it at once goes on waiting: to wake a task for each viewer
        and piece costs more than to send it.
        """
        self._handing_out = False
        for viewer, (at_once, woken) in list(self._waiting.items()):
            if woken.done():
                continue
            try:
                data = viewer.take() if at_once is not None else b""
                if at_once is None or not data or not at_once(data):
                    woken.set_result(data)
                elif self.ended or viewer.seq != self.chunks.next_seq:
                    woken.set_result(b"")
            except Exception as error:  # noqa: BLE001 - raised where the viewer's stream is answered
                woken.set_exception(error)

    def _listen(self) -> None:
        """Wakes the viewers where nothing was written for a while.

        One timer for all of them, which is not touched while media flow: it runs out, looks, and is set anew.
        """
        silent = self.silent
        if silent:
            self._hand_out_soon()
        due = (self.now() if silent else self._written_at) + SILENCE_S
        self._alarm = asyncio.get_running_loop().call_at(due, self._listen)

    def _stop_listening(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def end(self, failure: TvarrError | None = None) -> None:
        """No more samples: viewers read what is there, and then the end or the failure. The first end counts."""
        if self.ended:
            return
        if failure is None:
            self._flush()
        self.ended = True
        self.failure = failure
        self._stop_listening()
        self._hand_out_soon()

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

    def let_go(self) -> None:
        """Frees what every viewer has read, and a new one would not begin with."""
        self.chunks.let_go(min([self.chunks.join_seq(), *(viewer.seq for viewer in self.viewers)]))

    def room(self) -> bool:
        """Whether the slowest viewer could take more without being in danger of falling behind."""
        return all(viewer.behind_bytes < OUTPUT_RING_BYTES // 4 for viewer in self.viewers)


class TsOutput(StreamOutput):
    """MPEG-TS."""

    container = "ts"
    filler = null_packets(SILENCE_PACKETS)

    def __init__(self, service_name: str, drained: Signal, max_bytes: int = 0) -> None:
        super().__init__(drained, max_bytes)
        self._muxer = Muxer(service_name)

    def _set_tracks(self, tracks: Tracks) -> None:
        self._muxer.set_tracks(tracks)

    def _write(self, samples: list[Sample]) -> None:
        for chunk in self._muxer.mux(samples):
            self._append(chunk)


class Mp4Output(StreamOutput):
    """Endless fragmented MP4: an initialization segment, and again where it changes, then fragments."""

    container = "mp4"

    def __init__(self, drained: Signal, max_bytes: int = 0) -> None:
        super().__init__(drained, max_bytes)
        self._fragmenter = Fragmenter()
        self._inits: deque[tuple[int, bytes]] = deque()  # each with the first chunk that it is for

    def joined(self, viewer: Viewer, seq: int, chunks: list[Chunk]) -> bytes:
        if viewer.init is self._inits[-1][1] and self._inits[-1][0] <= seq:
            return self._shared(seq, chunks)
        parts: list[bytes] = []
        for number, chunk in enumerate(chunks, start=seq):
            init = next(init for first, init in reversed(self._inits) if first <= number)
            if init is not viewer.init:
                viewer.init = init
                parts.append(init)
            parts.append(chunk.data)
        return b"".join(parts)

    def _set_tracks(self, tracks: Tracks) -> None:
        self._take(self._fragmenter.set_tracks(tracks))

    def _write(self, samples: list[Sample]) -> None:
        self._take(self._fragmenter.push(samples))

    def _flush(self) -> None:
        self._take(self._fragmenter.flush())

    def _take(self, fragments: list[Fragment]) -> None:
        for fragment in fragments:
            if not self._inits or self._inits[-1][1] != fragment.init:
                self._inits.append((self.chunks.next_seq, fragment.init))
            self._append(Chunk(fragment.data, fragment.keyframe, fragment.dts_ticks))
            while len(self._inits) > 1 and self._inits[1][0] <= self.chunks.first_seq:
                self._inits.popleft()
