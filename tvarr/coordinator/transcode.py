"""One job from its placement to its end: the relay's samples to a daemon, the daemon's back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast
from uuid import uuid4

from tvarr.cluster.model import JobSpec, Need, Placement
from tvarr.cluster.waiting import Waiting
from tvarr.coordinator.daemons import Daemons, JobSlot
from tvarr.coordinator.profiles import Plan
from tvarr.coordinator.signals import Signal
from tvarr.errors import ErrorCode, JobError
from tvarr.media.model import Event, Sample, Tracks
from tvarr.media.ring import Lagged, Ring
from tvarr.media.splice import Splice
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch
from tvarr.wire.streams import JobOutputs

log = logging.getLogger(__name__)

ACK_WITHIN_S = 20.0  # from `TranscodeStart` to `TranscodeAck`
LIVE_AFTER_S = 2.0  # a live job that waited longer in the queue begins with what is on then
LAST_WORDS_S = 1.0  # a stream that breaks while we send often has the daemon's reason still to be read


class JobRun:
    """One job's work. `go` returns when the daemon has given back all that was made of the input."""

    def __init__(
        self,
        *,
        daemons: Daemons,
        work: str,
        plan: Plan,
        serves: Callable[[Tracks], bool],
        need: Need,
        source: Ring,
        changed: Signal,
        source_ended: Callable[[], bool],
        start_seq: int,
        splice: Splice,
        full_speed: bool,
        batch_age_s: float,
        batch_bytes: int,
        went_live: Callable[[int], None],
    ) -> None:
        """`went_live` hears of a job that waited so long that it begins at this later place in the source's ring."""
        self.id = uuid4().hex[:12]
        self.plan = plan
        self.need = need
        self.start_seq = start_seq
        self.next_seq = start_seq  # of the first event that the job has not taken
        self.started_at = time.time()
        self.state = "placing"
        self.placement: Placement | None = None
        self.waited_s = 0.0  # in the queue, once it is over
        self.daemon_name = ""
        self.ack: messages.TranscodeAck | None = None
        self.stats: messages.TranscodeStats | None = None
        self.gave_output = False
        self.lost_samples = 0  # evicted before the job could take them
        self._daemons = daemons
        self._work = work
        self._went_live = went_live
        self._serves = serves
        self._source = source
        self._changed = changed
        self._source_ended = source_ended
        self._splice = splice
        self._full_speed = full_speed
        self._batch_age_s = batch_age_s
        self._batch_bytes = batch_bytes
        self._kinds = {target.track.id: target.track.kind for target in plan.targets}

    @property
    def waiting(self) -> Waiting | None:
        """What it waits for in the queue; None where it does not."""
        return self._daemons.waiting(self.id)

    @property
    def queue_position(self) -> int:
        """1 is next; 0: it does not wait."""
        return self._daemons.ledger.position(self.id)

    async def go(
        self,
        take: Callable[[Sequence[Sample]], None],
        room: Callable[[], Awaitable[None]],
        fed: Callable[[int], None],
    ) -> None:
        """Places the job, which may wait for that, and runs it to its end.

        `take` gets the output; `room` returns when viewers could take more (asked only at full speed); `fed` hears how
        far the source's ring was used. A session that the driver refuses is asked for elsewhere. Raises `NoPlacement`
        and `QueueTimeout`, or `JobError` where the job was lost.
        """
        try:
            slot = await self._daemons.place(self.id, self.need, self._work)
            while (refusal := await self._try(slot, take, room, fed)) is not None:
                log.warning("job %s: %s was refused a session: %s", self.id, self.daemon_name, refusal)
                self.state, self.placement, self.ack, self.stats = "placing", None, None, None
                slot = await self._daemons.place_again(slot, refusal)
                self.next_seq = self.restart_seq()
                fed(self.next_seq)
        finally:
            self.state = "ended"

    async def _try(
        self,
        slot: JobSlot,
        take: Callable[[Sequence[Sample]], None],
        room: Callable[[], Awaitable[None]],
        fed: Callable[[int], None],
    ) -> JobError | None:
        """Runs the job where it was placed. Returns the driver's refusal of a session, and raises any other error."""
        self.placement = slot.placement
        self.daemon_name = self._daemons.name_of(slot.placement.daemon_id)
        self.waited_s += slot.waited_s
        try:
            stream = await self._daemons.open(slot)
            self.state = "starting"
            if slot.waited_s > LIVE_AFTER_S:
                self._go_live()
            self._splice.restart()
            await stream.send(convert.start_to_wire(self._spec(slot)))
            await self._run(slot, stream, take, room, fed)
        except JobError as error:
            if slot.said and error.code is ErrorCode.SESSION_LIMIT:
                return error
            self._daemons.failed(slot, error)
            raise
        except BaseException:
            self._daemons.cancel(slot, "nobody watches any more")
            raise
        self._daemons.finished(slot)
        return None

    def _go_live(self) -> None:
        """After a wait nobody wants to see what was on when it began, unless viewers have seen a part of it."""
        seq = self._source.join_seq()
        tracks = self._source.tracks_at(seq)
        if self._full_speed or self._source_ended() or self._splice.resume_ticks(self._kinds) is not None:
            return
        if seq > self.next_seq and tracks is not None and self._serves(tracks):
            self.start_seq = self.next_seq = seq
            self._went_live(seq)

    def _spec(self, slot: JobSlot) -> JobSpec:
        encoder = slot.placement.encoder
        return JobSpec(
            job_id=self.id,
            targets=self.plan.targets,
            encoder=encoder.name if encoder else "",
            device=encoder.device if encoder else "",
            hw_accel=self.need.hw_accel,
            first_keyframe_ticks=self._splice.resume_ticks(self._kinds),
            batch_age_s=self._batch_age_s,
            batch_bytes=self._batch_bytes,
            full_speed=self._full_speed,
        )

    async def _run(
        self,
        slot: JobSlot,
        stream: JobOutputs,
        take: Callable[[Sequence[Sample]], None],
        room: Callable[[], Awaitable[None]],
        fed: Callable[[int], None],
    ) -> None:
        feed = asyncio.create_task(self._feed(stream, fed), name=f"feed of job {self.id}")
        drain = asyncio.create_task(self._drain(slot, stream, take, room), name=f"drain of job {self.id}")
        unacked = asyncio.get_running_loop().call_later(ACK_WITHIN_S, self._no_ack, slot)
        try:
            ends: set[asyncio.Future[Any]] = {drain, slot.lost}
            await asyncio.wait({feed, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if feed.done() and not drain.done():
                patience = None if feed.exception() is None else LAST_WORDS_S
                await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if drain.done():
                drain.result()
            elif slot.lost.done():
                raise slot.lost.result()
            else:
                feed.result()
        finally:
            unacked.cancel()
            feed.cancel()
            drain.cancel()
            await asyncio.gather(feed, drain, return_exceptions=True)

    def _no_ack(self, slot: JobSlot) -> None:
        if self.ack is None and not slot.lost.done():
            words = f"{self.daemon_name} did not start ffmpeg within {ACK_WITHIN_S:g} s"
            slot.lost.set_result(JobError(ErrorCode.STALLED, words))

    async def _feed(self, stream: JobOutputs, fed: Callable[[int], None]) -> None:
        """Sends what the job works on: at once where a batch is full, else when its oldest sample is old enough."""
        loop = asyncio.get_running_loop()
        sequence = 0
        sent_at = -self._batch_age_s
        while True:
            try:
                events, seq = self._source.read(self.next_seq, max_bytes=self._batch_bytes)
            except Lagged:
                seq = self._source.join_seq()
                self.lost_samples += seq - self.next_seq
                self.next_seq = seq
                continue
            change = self._change_in(events)
            if change is not None:
                seq -= len(events) - change
                events = events[:change]
            if events:
                samples = [e for e in events if type(e) is Sample and e.track in self._kinds]
                if samples:
                    await stream.send(Batch(samples, sequence))
                    sequence += len(samples)
                    sent_at = loop.time()
                self.next_seq = seq
                fed(seq)
            if change is None and self.next_seq < self._source.next_seq:
                continue
            if change is not None or self._source_ended():
                await stream.send(messages.InputComplete())
                return
            await self._changed.wait()
            if not self._full_speed and (pause := sent_at + self._batch_age_s - loop.time()) > 0:
                await asyncio.sleep(pause)

    def _change_in(self, events: Sequence[Event]) -> int | None:
        """Index of the first change of tracks that this job can't follow: its successor begins there."""
        for index, event in enumerate(events):
            if type(event) is not Sample and not self._serves(cast("Tracks", event)):
                return index
        return None

    async def _drain(
        self,
        slot: JobSlot,
        stream: JobOutputs,
        take: Callable[[Sequence[Sample]], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        splice, kinds = self._splice, self._kinds
        while True:
            item = await stream.receive()
            match item:
                case Batch():
                    released = [
                        out
                        for sample in item.samples
                        if (kind := kinds.get(sample.track)) is not None
                        and (out := splice.take(sample, kind)) is not None
                    ]
                    if released:
                        self.state, self.gave_output = "running", True
                        take(released)
                    if self._full_speed:
                        await room()
                case messages.TranscodeStats():
                    self.stats = item
                case messages.TranscodeAck():
                    self.ack = item
                    self._daemons.acked(slot)
                case messages.TranscodeError():
                    slot.said = True
                    raise convert.error_from_wire(item)
                case messages.OutputComplete():
                    slot.said = True
                    return
                case None:
                    raise JobError(ErrorCode.CONNECTION_LOST, f"{self.daemon_name} closed the job's stream")

    def restart_seq(self) -> int:
        """Where the job's successor has to begin reading so that no picture is lost."""
        ticks = self._splice.resume_ticks(self._kinds)
        if ticks is None:
            return max(self.start_seq, self._source.first_seq)
        seq = self._source.keyframe_at_or_before(ticks)
        return self._source.join_seq() if seq is None else seq
