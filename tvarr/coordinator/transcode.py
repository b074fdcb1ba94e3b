"""One job from its placement to its end: the relay's samples to a daemon, the daemon's back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from tvarr.background import log_ids
from tvarr.cluster.model import JobSpec, MoveKind, Need
from tvarr.coordinator import metrics
from tvarr.coordinator.daemons import Daemons, JobSlot
from tvarr.coordinator.missed import Missed
from tvarr.coordinator.pace import Pace
from tvarr.coordinator.profiles import Plan
from tvarr.coordinator.run import LARGEST_SAMPLE_BYTES, Run
from tvarr.coordinator.signals import Signal
from tvarr.errors import ErrorCode, JobError
from tvarr.media.model import TICKS_PER_SECOND, Event, Kind, Sample, Tracks
from tvarr.media.ring import Lagged, Ring
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch
from tvarr.wire.streams import JobOutputs

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # a stream that breaks while we send often has the daemon's reason still to be read
BACK_TICKS = TICKS_PER_SECOND  # decode times of sound that step back by more are no encoder's doing
TELL_AGAIN_S = 60.0  # between two lines of the log about a job that takes less than comes
UNUSABLE_TICKS = 5 * TICKS_PER_SECOND  # so much output of which nothing could be used is no job
_SAMPLES_IN, _SAMPLES_OUT = (metrics.JOB_SAMPLES.labels(direction) for direction in ("in", "out"))
STRAY_TICKS = 10 * TICKS_PER_SECOND  # output lies at most so far outside the input that was there


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a relay's jobs read, and how they are sent what they read."""

    source: Ring
    changed: Signal  # new events in the ring, or the source's end
    ended: Callable[[], bool]
    full_speed: bool
    output_age_s: float  # the daemon may gather a settled job's output for so long
    batch_age_s: float
    batch_bytes: int


class Begin(NamedTuple):
    """Where a job begins."""

    seq: int  # in the source's ring
    first_keyframe_ticks: int | None  # forced there; None: at its first picture


class Owner(Protocol):
    """Who keeps a job: it hears of everything that the job does."""

    def begins(self, run: JobRun, waited_s: float) -> Begin:
        """The job has a place, `waited_s` after it asked, and is about to be sent its input; also when it was moved on
        by a refusal of the driver.
        """

    def take(self, run: JobRun, samples: Sequence[Sample]) -> bool:
        """Output of the job, as it came; whether any of its leading track could be used."""

    async def room(self) -> None:
        """Returns when viewers could take more; asked only at full speed."""

    def fed(self, run: JobRun, seq: int) -> None:
        """The job has taken everything before `seq`."""

    def passed_over(self, run: JobRun, pictures: int) -> None:
        """The source did not keep so many pictures until the job took them."""

    def move(self, run: JobRun, kind: MoveKind, reason: str) -> None:
        """There is, or should be, a better place for it."""


class JobRun(Run):
    """One transcode's work. `go` returns when the daemon has given back all that was made of the input."""

    def __init__(
        self,
        *,
        name: str,
        owner: Owner,
        daemons: Daemons,
        work: str,
        plan: Plan,
        planned: Callable[[Tracks], Plan],
        need: Need,
        feed: Feed,
        start_seq: int,
        replaces: JobRun | None = None,
        move: MoveKind | None = None,
        to: str = "",
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        """`name`: channel and profile, for people. `planned` says what is to be done with other tracks; `plan` is for
        those at `start_seq`. `replaces`: the job that it shall take over from while that runs on, by a move of the kind
        `move`, `to` the daemon of this id, if one is named.
        """
        super().__init__(name, daemons)
        self.plan = plan
        self.need = need
        self.next_seq = start_seq  # of the first event that the job has not taken
        self.output_since: float | None = None  # by the monotonic clock
        self.leave_reason = "nobody watches any more"  # told to the daemon where the job is cancelled
        self.leave_code = "closed"
        self.kinds = {target.track.id: target.track.kind for target in plan.targets}
        self.replaces = replaces
        self._move = move
        self._to = to
        self._avoid = avoid
        self._owner = owner
        self._work = work
        self._planned = planned
        self._feed = feed
        self._plan_seq = start_seq
        self._pace: Pace | None = None
        self._start_ticks = 0
        self._usable_ticks = 0  # from here on viewers lack what it makes
        self._used = False  # some of its output was
        self._tell_again_at = 0.0  # that it is given more than it takes
        self._whole_ticks: int | None = None  # of pictures shown later it was not given all
        videos = [track for track, kind in self.kinds.items() if kind is Kind.VIDEO]
        self.leading = next(iter(videos or self.kinds), -1)  # the track that shows whether it lives

    @property
    def lag_s(self) -> float:
        return self._pace.lag_ticks / TICKS_PER_SECOND if self._pace is not None else 0.0

    async def go(self) -> None:
        """Places the job, which may wait for that, and runs it to its end.

        A session that the driver refuses is asked for elsewhere. Raises `NoPlacement` and `QueueTimeout`, or `JobError`
        where the job was lost.
        """
        with log_ids(job_id=self.id):
            await self._go()

    async def _go(self) -> None:
        replaces = self.replaces.id if self.replaces is not None else ""
        try:
            slot = await self._daemons.place(
                self.id, self.need, self._work, replaces=replaces, move=self._move, to=self._to, avoid=self._avoid
            )
            while (refusal := await self._try(slot)) is not None:
                log.warning("%s was refused a session: %s", self.daemon_name, refusal)
                self.state, self.placement, self.ack, self.stats = "placing", None, None, None
                slot = await self._daemons.place_again(slot, refusal)
        finally:
            self.state = "ended"

    async def _try(self, slot: JobSlot) -> JobError | None:
        """Runs the job where it was placed. Returns the driver's refusal of a session, and raises any other error."""
        self.placed(slot)
        slot.on_move = lambda kind, reason: self._owner.move(self, kind, reason)
        try:
            stream = await self._daemons.open(slot)
            self.state = "starting"
            begin = self._owner.begins(self, slot.waited_s)
            self.next_seq = begin.seq
            self._start_ticks = self._feed.source.ticks_at(begin.seq)
            self._usable_ticks = max(self._start_ticks, begin.first_keyframe_ticks or 0)
            self._whole_ticks = None
            await stream.send(convert.start_to_wire(self._spec(slot, begin)))
            await self._run(slot, stream)
        except JobError as error:
            self.remember(slot, error.code, str(error), error.stderr)
            if slot.said and error.code is ErrorCode.SESSION_LIMIT:
                return error
            self._daemons.failed(slot, error)
            raise
        except BaseException:
            self.remember(slot, self.leave_code, self.leave_reason)
            self._daemons.cancel(slot, self.leave_reason)
            raise
        self.remember(slot, "finished", "its input was used up")
        self._daemons.finished(slot)
        return None

    def _spec(self, slot: JobSlot, begin: Begin) -> JobSpec:
        encoder = slot.placement.encoder
        return JobSpec(
            job_id=self.id,
            targets=self.plan.targets,
            encoder=encoder.name if encoder else "",
            device=encoder.device if encoder else "",
            hw_accel=self.need.hw_accel,
            first_keyframe_ticks=begin.first_keyframe_ticks,
            batch_age_s=self._feed.output_age_s,
            batch_bytes=self._feed.batch_bytes,
            full_speed=self._feed.full_speed,
        )

    async def _run(self, slot: JobSlot, stream: JobOutputs) -> None:
        feed = asyncio.create_task(self._send(stream), name=f"feed of job {self.id}")
        drain = asyncio.create_task(self._drain(slot, stream), name=f"drain of job {self.id}")
        watch = asyncio.create_task(self._watch(), name=f"watch of job {self.id}")
        try:
            ends: set[asyncio.Future[Any]] = {drain, slot.lost, watch}
            await asyncio.wait({feed, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if feed.done() and not drain.done():
                patience = None if feed.exception() is None else LAST_WORDS_S
                await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if drain.done():
                drain.result()
            elif slot.lost.done():
                raise slot.lost.result()
            elif watch.done():
                watch.result()
            else:
                feed.result()
        finally:
            for task in (feed, drain, watch):
                task.cancel()
            await asyncio.gather(feed, drain, watch, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------ input

    async def _send(self, stream: JobOutputs) -> None:
        """Sends what the job works on: at once where a batch is full, else when its oldest sample is old enough."""
        loop = asyncio.get_running_loop()
        feed, source = self._feed, self._feed.source
        sequence = 0
        sent_at = -feed.batch_age_s
        following: Tracks | None = None  # that of the next job
        reached = self._start_ticks  # DTS of the leading track
        missed: Missed | None = None  # what was not there any more, until it is counted
        while True:
            try:
                events, seq = source.read(self.next_seq, max_bytes=feed.batch_bytes)
            except Lagged:
                seq = source.resume_seq()
                self._fell_behind(seq - self.next_seq)
                if missed is None and self.kinds.get(self.leading) is Kind.VIDEO:
                    missed = Missed(reached)
                elif missed is not None:
                    missed.again()
                self.next_seq = seq
                continue
            change = self._change_in(events, self.next_seq)
            if change is not None:
                following = cast("Tracks", events[change])
                seq -= len(events) - change
                events = events[:change]
            if events:
                samples = [e for e in events if type(e) is Sample and e.track in self.kinds]
                if samples:
                    if missed is not None:
                        pictures = missed.count(s.dts_ticks for s in samples if s.track == self.leading)
                        if pictures is not None:
                            self._owner.passed_over(self, pictures)
                            missed = None
                    await stream.send(Batch(samples, sequence))
                    reached = next((s.dts_ticks for s in reversed(samples) if s.track == self.leading), reached)
                    sequence += len(samples)
                    _SAMPLES_IN.inc(len(samples))
                    sent_at = loop.time()
                self.next_seq = seq
                self._owner.fed(self, seq)
            if following is None and self.next_seq < source.next_seq:
                continue
            if following is not None and self._picture_goes_on(following):
                self._whole_ticks = reached
            if following is not None or feed.ended():
                await stream.send(messages.InputComplete())
                return
            await feed.changed.wait()
            if not feed.full_speed and (pause := sent_at + feed.batch_age_s - loop.time()) > 0:
                await asyncio.sleep(pause)

    def _fell_behind(self, samples: int) -> None:
        self.lost_samples += samples
        now = time.monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + TELL_AGAIN_S
            log.warning(
                "%s: %s, or the network to it, takes less than comes: %d samples so far were gone before their turn",
                self.name,
                self.daemon_name,
                self.lost_samples,
            )

    def _change_in(self, events: Sequence[Event], seq: int) -> int | None:
        """Index of the first change of tracks that this job can't follow: its successor begins there.

        `seq`: the number of the first event. A change that lies before what the job is for was the end of another.
        """
        for index, event in enumerate(events):
            if type(event) is Sample or seq + index < self._plan_seq:
                continue
            if not self.plan.one_job_serves(self._planned(cast("Tracks", event))):
                return index
        return None

    def _picture_goes_on(self, tracks: Tracks) -> bool:
        """Whether pictures that are still to come with other tracks may be shown before some that are there."""
        return self.kinds.get(self.leading) is Kind.VIDEO and self.plan.same_picture(self._planned(tracks))

    # ------------------------------------------------------------------------------------------------ output

    async def _drain(self, slot: JobSlot, stream: JobOutputs) -> None:
        greatest: dict[int, int] = {}  # DTS of each track
        while True:
            item = await stream.receive()
            match item:
                case Batch():
                    if item.samples:
                        _SAMPLES_OUT.inc(len(item.samples))
                        self._take(item.samples, greatest)
                    if self._feed.full_speed:
                        await self._room()
                case messages.TranscodeStats():
                    self.reported(item)
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

    async def _room(self) -> None:
        await self._owner.room()
        if self._pace is not None:
            self._pace.held_up(asyncio.get_running_loop().time(), self._feed.source.newest_ticks)

    def _take(self, samples: Sequence[Sample], greatest: dict[int, int]) -> None:
        """Hands output on. Only pictures, where there are any, whose time goes on count as a sign of life."""
        before = greatest.get(self.leading)
        self._check(samples, greatest)
        if self.output_since is None:
            self.state, self.output_since = "running", time.monotonic()
        reached = greatest.get(self.leading)
        if self._pace is not None and reached is not None and (before is None or reached > before):
            now = asyncio.get_running_loop().time()
            self._pace.output_came(now, reached, self._feed.source.newest_ticks)
        if self._owner.take(self, self._whole(samples)):
            self._used = True
        elif not self._used and reached is not None and reached > self._usable_ticks + UNUSABLE_TICKS:
            raise self._garbage("no keyframe where one was asked for")

    def _whole(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Without the pictures from the first one on that may lack others before it, which the next job makes."""
        if self._whole_ticks is None:
            return samples
        whole: list[Sample] = []
        for sample in samples:
            if sample.track != self.leading or sample.pts_ticks <= self._whole_ticks:
                whole.append(sample)
            else:
                self._whole_ticks = min(self._whole_ticks, sample.dts_ticks)  # below what follows
        return whole

    def _check(self, samples: Sequence[Sample], greatest: dict[int, int]) -> None:
        """Raises where these samples can't have been made of the job's input; viewers must not get them."""
        least = self._start_ticks - STRAY_TICKS
        most = self._feed.source.newest_ticks + STRAY_TICKS
        for track, pts, dts, data, _ in samples:
            kind = self.kinds.get(track)
            if kind is None:
                raise self._garbage(f"a sample of track {track}, which the job does not have")
            if len(data) > LARGEST_SAMPLE_BYTES:
                raise self._garbage(f"a sample of {len(data) >> 20} MiB")
            if not least <= pts <= most or not least <= dts <= most:
                raise self._garbage(f"a sample of track {track} from a time that it was given nothing of")
            last = greatest.get(track)
            if last is None or dts > last:
                greatest[track] = dts
            elif kind is Kind.VIDEO or dts < last - BACK_TICKS:
                raise self._garbage(f"samples of track {track} whose time does not go on")

    def _garbage(self, what: str) -> JobError:
        return JobError(ErrorCode.BAD_OUTPUT, f"{self.daemon_name} sent {what}")

    # ------------------------------------------------------------------------------------------------ watching

    async def _watch(self) -> None:
        """Raises where the job has stalled; asks for another place where it falls behind."""
        loop, source = asyncio.get_running_loop(), self._feed.source
        pace = self._pace = Pace(
            full_speed=self._feed.full_speed,
            now=loop.time(),
            newest_ticks=source.newest_ticks,
            start_ticks=self._start_ticks,
        )
        while True:
            await asyncio.sleep(pace.look_in_s(loop.time()))
            if silent_s := pace.stalled_s(loop.time(), source.newest_ticks):
                words = f"{self.daemon_name} gave no output for {silent_s:.1f} s while its input went on"
                if self.ack is not None and self.output_since is None:  # encoders give their first picture at once
                    raise JobError(ErrorCode.BAD_OUTPUT, f"{words}, though it said that the encoder runs")
                raise JobError(ErrorCode.STALLED, words)
            if (speed := pace.slow_at(loop.time(), source.newest_ticks)) is not None:
                self._owner.move(self, MoveKind.SLOW, f"it ran at {speed:.2f} times real time for 10 s")
