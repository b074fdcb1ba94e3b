"""One relay's output under one profile: copied tracks straight through, the others by way of a daemon."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar, cast

from tvarr import memory
from tvarr.coordinator import metrics
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.endings import Ending
from tvarr.coordinator.keeper import Keeper
from tvarr.coordinator.models import Profile
from tvarr.coordinator.outputs import Mp4Output, StreamOutput, TsOutput
from tvarr.coordinator.profiles import Plan, must_carry, plan
from tvarr.coordinator.segmented import Container, SegmentOutput
from tvarr.coordinator.signals import Signal
from tvarr.coordinator.transcode import Feed
from tvarr.errors import ErrorCode, JobError, NoPlacement, QueueTimeout, TvarrError
from tvarr.media.batching import QUICK_S
from tvarr.media.changes import Changes
from tvarr.media.model import Event, Sample, Tracks
from tvarr.media.ring import Ring
from tvarr.media.segmenter import TARGET_TICKS

log = logging.getLogger(__name__)

Output: TypeAlias = StreamOutput | SegmentOutput
AnyOutput = TypeVar("AnyOutput", StreamOutput, TsOutput, Mp4Output, SegmentOutput)

HEAD_START_TICKS = 3 * TARGET_TICKS
VARIANT_RING_BYTES = 16 * 1024 * 1024  # of what a job made, or as much as of the source: for outputs that start later
HELD_BYTES = 32 * 1024 * 1024  # copied samples that wait for the transcoded ones; beyond it the oldest go on alone


@dataclass(frozen=True, slots=True)
class VariantLimits:
    max_takeovers: int
    exhausted_policy: str  # for profiles that name none
    patience_s: float  # of viewers whose job nobody can take over
    batch_time_s: float = 0.5  # for so long a settled job's output may be gathered
    batch_age_s: float = QUICK_S  # so long a job's input at most
    batch_bytes: int = 1024 * 1024


class Variant:
    """Takes a relay's events in stream order and keeps outputs of them.

    `profile` decides what is copied and what a daemon does; its `keeper` sees to it that somebody does.
    """

    def __init__(
        self,
        *,
        name: str,
        profile: Profile,
        service_name: str,
        source: Ring,
        source_changed: Signal,
        drained: Signal,
        source_id: str,
        full_speed: bool,
        daemons: Daemons,
        limits: VariantLimits,
    ) -> None:
        self.name = name
        self.profile = profile
        self.state = "starting"
        self.failure: TvarrError | None = None
        self.idle_since: float | None = time.monotonic()
        self._service_name = service_name
        self._source = source
        self._drained = drained
        self._full_speed = full_speed
        self._source_ended = False
        self._outputs: dict[str, Output] = {}
        self._unwatched: dict[str, float] = {}  # since when an output has had no viewer
        self._plan: Plan | None = None
        self._samples = source if _copies_all(profile) else Ring(max(VARIANT_RING_BYTES, source.max_bytes))
        self._changes = Changes(HELD_BYTES)
        self._source_ticks = 0  # DTS of the source's sample that was taken last
        self._jobs: asyncio.Task[None] | None = None
        self.keeper = Keeper(
            name=name,
            profile=profile,
            feed=Feed(
                source,
                source_changed,
                lambda: self._source_ended,
                full_speed,
                limits.batch_time_s,
                limits.batch_age_s,
                limits.batch_bytes,
            ),
            source_id=source_id,
            daemons=daemons,
            exhausted_policy=limits.exhausted_policy,
            max_takeovers=limits.max_takeovers,
            patience_s=limits.patience_s,
            output=self,
        )
        if not _copies_all(profile):
            self._catch_up()

    # ------------------------------------------------------------------------------------------------- viewers

    def ts(self) -> TsOutput:
        """The variant as MPEG-TS. Raises `CannotCarry` where a transport stream can't hold the profile's codec."""
        must_carry(self.profile, "ts")
        return self._output("ts", lambda: TsOutput(self._service_name, self._drained, self._source.max_bytes))

    def mp4(self) -> Mp4Output:
        """The variant as endless fragmented MP4. Raises `CannotCarry`."""
        must_carry(self.profile, "mp4")
        return self._output("mp4", lambda: Mp4Output(self._drained, self._source.max_bytes))

    def segments(self, container: Container) -> SegmentOutput:
        """The variant as segments for HLS, with `fmp4` for DASH as well. Raises `CannotCarry`.

        It begins some time back, where that is held: players want a few segments before they start.
        """
        must_carry(self.profile, "ts" if container == "ts" else "mp4")
        gop_s = 0.0 if self.profile.video_codec == "copy" else self.profile.gop_s
        make = partial(
            SegmentOutput, container, self._service_name, self._drained, full_speed=self._full_speed, gop_s=gop_s
        )
        return self._output(f"segments-{container}", make, HEAD_START_TICKS)

    def _output(self, kind: str, make: Callable[[], AnyOutput], back_ticks: int = 0) -> AnyOutput:
        """The output of this kind. Where it does not run yet, it begins at the latest keyframe, or so far back."""
        output = self._outputs.get(kind)
        if output is None:
            output = self._outputs[kind] = make()
            back = self._samples.start_seq(back_ticks) if back_ticks else None
            seq = self._samples.join_seq() if back is None else back
            if tracks := self._samples.tracks_at(seq):
                output.push([tracks])
            while seq < self._samples.next_seq:
                events, seq = self._samples.read(seq, max_bytes=VARIANT_RING_BYTES)
                output.push(events)
            if self.state in {"ended", "failed"}:
                output.end(self.failure)
        return cast("AnyOutput", output)

    @property
    def outputs(self) -> Sequence[Output]:
        return tuple(self._outputs.values())

    @property
    def watched(self) -> bool:
        return any(output.viewers for output in self._outputs.values())

    @property
    def jobs(self) -> set[str]:
        """Those that hold a place now."""
        runs = (self.keeper.run, self.keeper.successor)
        return {run.id for run in runs if run is not None and run.holds_place}

    def end_unwatched(self, now: float, after_s: float) -> None:
        """Ends outputs that nobody has watched for so long: each one that is there is muxed."""
        for kind, output in list(self._outputs.items()):
            if output.viewers:
                self._unwatched.pop(kind, None)
            elif now - self._unwatched.setdefault(kind, now) >= after_s:
                del self._outputs[kind], self._unwatched[kind]
                output.end()

    @property
    def needed_seq(self) -> int | None:
        """From where on its jobs need the source's ring; None: they need none of it."""
        done = self._samples is self._source or self.state in {"ended", "failed"}
        if done or (self._plan is not None and not self._transcodes):
            return None
        return self.keeper.needed_seq

    @property
    def _transcodes(self) -> bool:
        """Whether there is something to be made of what was taken."""
        targets = self._plan.targets if self._plan is not None else ()
        return (bool(targets) or self._changes.waiting) and self.state not in {"ended", "failed"}

    def let_go(self) -> None:
        """Frees what no output has use for, those that may start later included."""
        if self._samples is not self._source and (start := self._samples.start_seq(HEAD_START_TICKS)) is not None:
            self._samples.let_go(start)
        for output in self._outputs.values():
            if isinstance(output, StreamOutput):
                output.let_go()

    def room(self) -> bool:
        """Whether a source that can wait should go on: neither a viewer nor the job is far behind."""
        if self._transcodes and self._source.bytes_since(self.keeper.feed_seq) > self._source.max_bytes // 4:
            return False
        return all(output.room() for output in self._outputs.values())

    # -------------------------------------------------------------------------------------------------- source

    def take(self, events: Sequence[Event]) -> None:
        """The source's new events, already in the relay's ring."""
        if self._samples is self._source:
            self.state = "running"
            self._push(events)
            return
        self._take(events, self._source.next_seq - len(events))

    def _take(self, events: Sequence[Event], seq: int) -> None:
        """`seq`: the number of the first one in the relay's ring."""
        out: list[Event] = []
        for place, event in enumerate(events, seq):
            if isinstance(event, Tracks):
                out.extend(self._set_tracks(event, place))
                continue
            self._source_ticks = event.dts_ticks
            if self._plan is not None and event.track in self._plan.copied:
                out.extend(self._changes.copied(event))
        self._emit(out)

    def follow(self, profile: Profile) -> bool:
        """Goes on under a profile that was changed, if viewers get the same tracks and codecs by it."""
        if self.state in {"ended", "failed"} or _copies_all(profile) != _copies_all(self.profile):
            return False
        tracks = self._source.tracks_at(self._source.next_seq)
        new = plan(profile, tracks) if tracks is not None else None
        if self._plan is not None and (new is None or not self._plan.same_for_viewers(new)):
            return False
        self.profile = profile
        if self._plan is not None:
            self._plan = new
        self.keeper.change(profile, self._plan)
        return True

    def source_ended(self, failure: TvarrError | None) -> None:
        """No more events will come: what is under way is finished, unless nothing can be."""
        self._source_ended = True
        if self._jobs is None or failure is not None:
            if self._jobs is not None:
                self._jobs.cancel()
            self._finish(failure)

    def end(self, reason: str) -> None:
        """Ends the variant now: viewers get the end of the stream, and its job is cancelled."""
        if self._jobs is not None:
            self._jobs.cancel()
        if self.state not in {"ended", "failed"}:
            self.keeper.endings.append(Ending("closed", reason))
            self._finish(None)

    async def close(self, reason: str) -> None:
        """`end`, and waits until the job is cancelled. Nothing is held any more but what viewers have yet to read."""
        self.end(reason)
        if self._jobs is not None:
            await asyncio.gather(self._jobs, return_exceptions=True)
        self._outputs.clear()
        if self._samples is not self._source:
            self._samples.let_go(self._samples.next_seq)

    def _catch_up(self) -> None:
        """A variant of a relay that already runs begins at its latest keyframe."""
        seq = self.keeper.feed_seq
        if tracks := self._source.tracks_at(seq):
            self._take([tracks], seq)
        self._take_from(seq)

    def _take_from(self, seq: int) -> None:
        while seq < self._source.next_seq:
            events, following = self._source.read(seq, max_bytes=VARIANT_RING_BYTES)
            self._take(events, seq)
            seq = following

    def _set_tracks(self, tracks: Tracks, seq: int) -> Sequence[Event]:
        new, old = plan(self.profile, tracks), self._plan
        self._plan = self.keeper.current_plan = new
        same_job = old is not None and old.one_job_serves(new)
        if new.targets and self._jobs is None:
            self._jobs = asyncio.create_task(self._run_jobs(), name=f"jobs of {self.name}")
        elif not new.targets:
            self.state = "running"
        return self._changes.announce(
            new.output, new.target_ids, seq=seq, at_ticks=self._source_ticks, same_job=same_job
        )

    # ---------------------------------------------------------------------------------------------------- jobs

    async def _run_jobs(self) -> None:
        """Until the source is used up or nothing helps any more."""
        try:
            await self.keeper.keep()
        except (JobError, NoPlacement, QueueTimeout) as error:
            metrics.count_refusal(error)
            self._finish(error)
        except Exception as error:
            if memory.is_short(error):
                words = f"the coordinator has no {memory.what_lacks(error)} left for it"
                self._finish(JobError(ErrorCode.OUT_OF_MEMORY, words))
                return
            log.exception("%s: the variant ended by a defect", self.name)
            self._finish(JobError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            self._finish(None)

    def went_live(self, seq: int) -> None:
        tracks, waiting = self._source.tracks_at(seq), self._changes.waiting
        assert tracks is not None
        self._changes = Changes(HELD_BYTES)
        announced = self._set_tracks(tracks, seq)
        if waiting:
            self._emit(announced)
        self._take_from(seq)

    def fed(self) -> None:
        self._drained.set()

    def release(self, samples: Sequence[Sample]) -> None:
        if not samples:
            return
        self.state = "running"
        out: list[Event] = []
        for sample in samples:
            out.extend(self._changes.made(sample))
        self._emit(out)

    def done_before(self, seq: int) -> None:
        self._emit(self._changes.job_ended(seq))

    async def room_for_more(self) -> None:
        while not all(output.room() for output in self._outputs.values()):
            await self._drained.wait()

    # -------------------------------------------------------------------------------------------------- output

    def _emit(self, events: Sequence[Event]) -> None:
        if events:
            for event in events:
                self._samples.append(event)
            self._push(events)

    def _push(self, events: Sequence[Event]) -> None:
        for output in self._outputs.values():
            output.push(events)

    def _finish(self, failure: TvarrError | None) -> None:
        if self.state in {"ended", "failed"}:
            return
        if self._samples is not self._source and failure is None:
            self._emit(self._changes.flush())
        self.state = "failed" if failure is not None else "ended"
        self.failure = failure
        for output in self._outputs.values():
            output.end(failure)


def _copies_all(profile: Profile) -> bool:
    return profile.video_codec == profile.audio_codec == "copy"
