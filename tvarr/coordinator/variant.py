"""One relay's output under one profile: copied tracks straight through, the others by way of a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from tvarr.cluster.model import Need
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.models import Profile
from tvarr.coordinator.outputs import TsOutput
from tvarr.coordinator.profiles import IN_TS, Plan, plan
from tvarr.coordinator.signals import Signal
from tvarr.coordinator.transcode import JobRun
from tvarr.errors import CannotCarry, ErrorCode, JobError, NoPlacement, QueueTimeout, TvarrError
from tvarr.media.interleave import Interleaver
from tvarr.media.model import Event, Kind, Sample, Tracks
from tvarr.media.ring import Ring
from tvarr.media.splice import Splice

log = logging.getLogger(__name__)

VARIANT_RING_BYTES = 16 * 1024 * 1024  # a transcode's output kept for outputs that start later
HELD_BYTES = 32 * 1024 * 1024  # copied samples that wait for the transcoded ones; beyond it the oldest go on alone
MAX_ENDINGS = 20  # remembered for people
TAKEOVER_WINDOW_S = 600.0
SIZE_WITHIN_S = 5.0  # a picture's size is waited for so long before a job starts without it
RETRY_PAUSE_S = (0.0, 0.2, 1.0, 2.0, 5.0)  # before the nth new placement of one job


@dataclass(frozen=True, slots=True)
class Ending:
    """Why something ended; every ending has a reason."""

    code: str
    reason: str
    at: float = field(default_factory=time.time)
    job_id: str = ""
    daemon_name: str = ""


@dataclass(frozen=True, slots=True)
class VariantLimits:
    max_takeovers: int
    exhausted_policy: str  # for profiles that name none
    batch_age_s: float = 0.040
    batch_bytes: int = 256 * 1024


class Variant:
    """Takes a relay's events in stream order and keeps outputs of them.

    `profile` decides what is copied and what a daemon does. A job that is lost is placed again, from the keyframe
    before the last picture that was released, at most `max_takeovers` times in ten minutes; daemons that had no room
    for it do not count.
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
        self.endings: deque[Ending] = deque(maxlen=MAX_ENDINGS)
        self.run: JobRun | None = None  # the job that runs now
        self.takeovers = 0
        self.idle_since: float | None = time.monotonic()
        self._service_name = service_name
        self._source = source
        self._source_changed = source_changed
        self._drained = drained
        self._source_ended = False
        self._source_id = source_id
        self._work = uuid4().hex[:12]  # what all of its jobs do, for the ledger
        self._full_speed = full_speed
        self._daemons = daemons
        self._limits = limits
        self._outputs: dict[str, TsOutput] = {}
        self._plan: Plan | None = None
        self._tracks: Tracks | None = None
        self._samples = source if _copies_all(profile) else Ring(VARIANT_RING_BYTES)
        self._interleaver = Interleaver(max_bytes=HELD_BYTES)
        self._feed_seq = source.join_seq()
        self._jobs: asyncio.Task[None] | None = None
        self._splice = Splice()
        if not _copies_all(profile):
            self._catch_up()

    # ------------------------------------------------------------------------------------------------- viewers

    def ts(self) -> TsOutput:
        """The variant as MPEG-TS. Raises `CannotCarry` where a transport stream can't hold the profile's codec."""
        if self.profile.video_codec != "copy" and self.profile.video_codec not in IN_TS:
            raise CannotCarry(f"MPEG-TS has no mapping for {self.profile.video_codec}; ask for another profile")
        output = self._outputs.get("ts")
        if output is None:
            output = self._outputs["ts"] = TsOutput(self._service_name, self._drained)
            seq = self._samples.join_seq()
            if tracks := self._samples.tracks_at(seq):
                output.push([tracks])
            while seq < self._samples.next_seq:
                events, seq = self._samples.read(seq, max_bytes=VARIANT_RING_BYTES)
                output.push(events)
            if self.state in {"ended", "failed"}:
                output.end(self.failure)
        return output

    @property
    def outputs(self) -> Sequence[TsOutput]:
        return tuple(self._outputs.values())

    @property
    def watched(self) -> bool:
        return any(output.viewers for output in self._outputs.values())

    def room(self) -> bool:
        """Whether a source that can wait should go on: neither a viewer nor the job is far behind."""
        busy = self._plan is not None and bool(self._plan.targets) and self.state not in {"ended", "failed"}
        if busy and self._source.bytes_since(self._feed_seq) > self._source.max_bytes // 4:
            return False
        return all(output.room() for output in self._outputs.values())

    # -------------------------------------------------------------------------------------------------- source

    def take(self, events: Sequence[Event]) -> None:
        """The source's new events, already in the relay's ring."""
        if self._samples is self._source:
            self.state = "running"
            self._push(events)
            return
        out: list[Event] = []
        for event in events:
            if isinstance(event, Tracks):
                out.extend(self._set_tracks(event))
            elif self._plan is not None and event.track in self._plan.copied:
                out.extend(self._interleaver.push(event))
        self._emit(out)

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
            self.endings.append(Ending("closed", reason))
            self._finish(None)

    async def close(self, reason: str) -> None:
        """`end`, and waits until the job is cancelled."""
        self.end(reason)
        if self._jobs is not None:
            await asyncio.gather(self._jobs, return_exceptions=True)

    def _catch_up(self) -> None:
        """A variant of a relay that already runs begins at its latest keyframe."""
        seq = self._feed_seq
        if tracks := self._source.tracks_at(seq):
            self.take([tracks])
        while seq < self._source.next_seq:
            events, seq = self._source.read(seq, max_bytes=VARIANT_RING_BYTES)
            self.take(events)

    def _set_tracks(self, tracks: Tracks) -> list[Event]:
        new = plan(self.profile, tracks)
        self._tracks, self._plan = tracks, new
        if new.targets and self._jobs is None:
            self._jobs = asyncio.create_task(self._run_jobs(), name=f"jobs of {self.name}")
        elif not new.targets:
            self.state = "running"
        released: list[Event] = list(self._interleaver.set_tracks(new.target_ids))
        return [*released, new.output]

    # ---------------------------------------------------------------------------------------------------- jobs

    async def _run_jobs(self) -> None:
        """Keeps one job running after another until the source is used up or nothing helps any more."""
        failures: deque[float] = deque()
        try:
            await self._picture_size()
            while True:
                current = self._plan_at(self._feed_seq)
                if not current.targets:
                    if self._source_ended:
                        break
                    await self._source_changed.wait()
                    continue
                run = JobRun(
                    daemons=self._daemons,
                    work=self._work,
                    plan=current,
                    serves=partial(self._served_by, current),
                    need=Need(
                        current.targets,
                        self.profile.hw_accel,
                        self.profile.exhausted_policy or self._limits.exhausted_policy,
                        self._source_id,
                    ),
                    source=self._source,
                    changed=self._source_changed,
                    source_ended=lambda: self._source_ended,
                    start_seq=self._feed_seq,
                    splice=self._splice,
                    full_speed=self._full_speed,
                    batch_age_s=self._limits.batch_age_s,
                    batch_bytes=self._limits.batch_bytes,
                    went_live=self._go_live,
                )
                self.run = run
                try:
                    await run.go(self._take_output, self._output_room, self._fed)
                    self.endings.append(Ending("finished", "its input was used up", job_id=run.id))
                    if self._source_ended and run.next_seq >= self._source.next_seq:
                        break
                    self._feed_seq = run.next_seq
                except JobError as error:
                    await self._after_failure(error, run, failures)
        except (JobError, NoPlacement, QueueTimeout) as error:
            self._finish(error)
        except Exception as error:
            log.exception("%s: the variant ended by a defect", self.name)
            self._finish(JobError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            self._finish(None)
        finally:
            self.run = None

    def _plan_at(self, seq: int) -> Plan:
        """The plan for a job that begins at `seq`; with what became known later, where one job serves both."""
        tracks = self._source.tracks_at(max(seq, self._source.first_seq))
        latest = self._plan
        if tracks is None:
            return latest or plan(self.profile, Tracks(()))
        then = plan(self.profile, tracks)
        return latest if latest is not None and latest.one_job_serves(then) else then

    def _served_by(self, current: Plan, tracks: Tracks) -> bool:
        return current.one_job_serves(plan(self.profile, tracks))

    async def _picture_size(self) -> None:
        """Waits for the size of the picture: a stream may be entered long before its parameter sets come by."""
        deadline = time.monotonic() + SIZE_WITHIN_S
        while not self._source_ended and (left := deadline - time.monotonic()) > 0:
            videos = [t.track for t in (self._plan.targets if self._plan else ()) if t.track.kind is Kind.VIDEO]
            if all(track.width for track in videos):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._source_changed.wait(), left)

    async def _after_failure(self, error: JobError, run: JobRun, failures: deque[float]) -> None:
        """Gets ready for the next try, or raises `error` where none is left."""
        name = run.daemon_name
        self.endings.append(Ending(error.code, str(error), job_id=run.id, daemon_name=name))
        log.warning("%s: job %s on %s ended: %s (%s)", self.name, run.id, name or "nobody", error, error.code)
        self._feed_seq = run.restart_seq()
        if error.code is ErrorCode.CAPACITY and not run.gave_output:
            return  # the ledger does not ask that daemon again so soon
        now = time.monotonic()
        failures.append(now)
        while failures and now - failures[0] > TAKEOVER_WINDOW_S:
            failures.popleft()
        if len(failures) > self._limits.max_takeovers or not (error.retry_elsewhere or error.retry_in_software):
            raise error
        self.takeovers += 1
        await asyncio.sleep(RETRY_PAUSE_S[min(len(failures), len(RETRY_PAUSE_S)) - 1])

    def _go_live(self, seq: int) -> None:
        """The first job had to wait and begins at `seq`: what is copied begins there too."""
        current = self._plan
        assert current is not None
        self._interleaver = Interleaver(current.target_ids, HELD_BYTES)
        while seq < self._source.next_seq:
            events, seq = self._source.read(seq, max_bytes=VARIANT_RING_BYTES)
            for event in events:
                if not isinstance(event, Tracks) and event.track in current.copied:
                    self._emit(self._interleaver.push(event))

    def _fed(self, seq: int) -> None:
        """The job has taken everything before `seq`."""
        self._feed_seq = seq
        self._drained.set()

    def _take_output(self, samples: Sequence[Sample]) -> None:
        self.state = "running"
        out: list[Event] = []
        for sample in samples:
            out.extend(self._interleaver.push(sample))
        self._emit(out)

    async def _output_room(self) -> None:
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
            self._emit(self._interleaver.flush())
        self.state = "failed" if failure is not None else "ended"
        self.failure = failure
        for output in self._outputs.values():
            output.end(failure)


def _copies_all(profile: Profile) -> bool:
    return profile.video_codec == profile.audio_codec == "copy"
