"""Keeps the transcoded tracks of a variant coming: job after job, and two at once for a moment where one is moved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from tvarr.cluster.model import MoveKind, Need
from tvarr.coordinator import metrics
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.endings import MAX_ENDINGS, Ending
from tvarr.coordinator.models import Profile
from tvarr.coordinator.profiles import Plan, plan
from tvarr.coordinator.transcode import Begin, Feed, JobRun
from tvarr.errors import Conflict, ErrorCode, JobError, NoPlacement
from tvarr.media.handover import Handover, Phase
from tvarr.media.model import Kind, Sample, Tracks
from tvarr.media.splice import Splice

log = logging.getLogger(__name__)

TAKEOVER_WINDOW_S = 600.0
SIZE_WITHIN_S = 5.0  # a picture's size is waited for so long before a job starts without it
RETRY_PAUSE_S = (0.0, 0.2, 1.0, 2.0, 5.0)  # before the nth new placement in a row
ASK_AGAIN_S = 0.25  # while there is nobody to take a job over
WELL_AFTER_S = 5.0  # a job that gave output for so long ends a row of failures
MOVE_WITHIN_S = 20.0  # a successor that viewers can't change to in this time is ended
SLOW_PAUSE_S = 30.0  # between two tries to move a slow job
LIVE_AFTER_S = 2.0  # a live job that waited longer in the queue begins with what is on then
PROFILE_CHANGED = "the profile was changed"

_NOT_BEGUN = frozenset({ErrorCode.CAPACITY, ErrorCode.SHUTTING_DOWN})  # a daemon that could not take the job


class _Uprooted(Exception):
    """The job has to leave its daemon, though no successor met it."""


class Output(Protocol):
    """Where a keeper's samples go."""

    def release(self, samples: Sequence[Sample]) -> None:
        """Samples for viewers, in decode order of each track."""

    def done_before(self, seq: int) -> None:
        """All that jobs make of the source's ring before `seq` was released."""

    async def room_for_more(self) -> None:
        """Returns when viewers could take more."""

    def fed(self) -> None:
        """The job has taken more of the source."""

    def went_live(self, seq: int) -> None:
        """The first job had to wait and begins here in the source's ring: what is copied should begin there too."""


@dataclass(slots=True)
class _Move:
    """A move under way: the successor and how viewers get from one job to the other."""

    kind: MoveKind
    reason: str
    run: JobRun
    task: asyncio.Task[None]
    give_up_at: float
    handover: Handover | None = None  # from the moment at which the successor has a place


class Keeper:
    """Runs the jobs of one variant for as long as there is something to transcode.

    A job that is lost is placed again, from the keyframe before the last picture that was released, at most
    `max_takeovers` times in ten minutes; daemons that had no room for it do not count. A job that is better somewhere
    else goes on until its successor has reached it.
    """

    def __init__(
        self,
        *,
        name: str,
        profile: Profile,
        feed: Feed,
        source_id: str,
        daemons: Daemons,
        exhausted_policy: str,
        max_takeovers: int,
        patience_s: float,
        output: Output,
    ) -> None:
        """`patience_s`: how long viewers wait where nobody can take a lost job over, or everybody refuses the job."""
        self.run: JobRun | None = None  # the job that viewers see
        self.endings: deque[Ending] = deque(maxlen=MAX_ENDINGS)
        self.takeovers = 0
        self.moves = 0
        self.move_refused = ""  # why the latest move came to nothing
        self.splice = Splice()
        self._lost_pictures = 0  # of them, those that were counted
        self.feed_seq = feed.source.join_seq()
        self.current_plan: Plan | None = None  # what is to be done with the source's latest tracks
        self._name = name
        self._profile = profile
        self._feed = feed
        self._source_id = source_id
        self._daemons = daemons
        self._policy = exhausted_policy
        self._max_takeovers = max_takeovers
        self._patience_s = patience_s
        self._output = output
        self._work = uuid4().hex[:12]  # what all of its jobs do, for the ledger
        self._start_seq = self.feed_seq
        self._failures: deque[float] = deque()
        self._in_a_row = 0
        self._alone_since: float | None = None  # nobody can do a job that viewers had
        self._refused_since: float | None = None  # daemons that it was placed on have no room for it after all
        self._avoid: frozenset[str] = frozenset()
        self._move: _Move | None = None
        self._asked: tuple[MoveKind, str, str] | None = None  # kind, reason, to
        self._slow_again_at = 0.0
        self._news: asyncio.Future[None] | None = None  # wakes up `_follow`

    @property
    def successor(self) -> JobRun | None:
        """The job that shall take over, while one is moved."""
        return self._move.run if self._move is not None else None

    @property
    def needed_seq(self) -> int:
        """What lies before it in the source's ring is read by no job, and would not be by one that took over now."""
        if self.run is None:
            return self._start_seq
        restart, gap = self._restart_seq(self.run)
        if gap:
            return self._feed.source.first_seq
        runs = (self.run, self.successor)
        return min(restart, self.feed_seq, *(run.next_seq for run in runs if run is not None))

    async def keep(self) -> None:
        """Returns when the source has ended and all of it is done; raises what no other daemon can help."""
        await self._picture_size()
        while True:
            self._output.done_before(self.feed_seq)
            current = self._plan_at(self.feed_seq)
            if not current.targets:  # the picture is gone for a while, and the sound is copied
                change = self._feed.source.change_after(self.feed_seq)
                if change is not None:
                    self.feed_seq = self._start_seq = change
                elif self._feed.ended():
                    return
                else:
                    await self._feed.changed.wait()
                continue
            run = self.run = self._make(current, self.feed_seq)
            self._avoid = frozenset()
            try:
                run = await self._follow(run)
            except JobError as error:
                await self._after_failure(error)
                continue
            except _Uprooted as reason:
                self._note_move(self.run, str(reason))
                self.feed_seq = self._restart_seq(self.run)[0]  # it was fed more than it gave
                continue
            except NoPlacement as error:
                await self._until_somebody_comes(run, error)
                continue
            self._output.release(self.splice.finish())
            self.move_refused = ""
            self.endings.append(Ending("finished", "its input was used up", job_id=run.id, daemon_name=run.daemon_name))
            if self._feed.ended() and run.next_seq >= self._feed.source.next_seq:
                return
            self.feed_seq = self._start_seq = run.next_seq

    def ask_to_move(self, reason: str, to: str = "") -> None:
        """Moves the job while viewers watch, `to` a daemon if one is named. Raises `Conflict` where that can't be."""
        if self.run is None or self.run.state != "running":
            raise Conflict("there is no job that could be moved")
        if self._move is not None or self._asked is not None:
            raise Conflict("the job is being moved already")
        self._ask(MoveKind.ASKED, reason, to)

    def change(self, profile: Profile, current: Plan | None) -> None:
        """Jobs do from here on what this profile says, which is the `same_for_viewers`; `current` is what it makes of
        the source's latest tracks. The job that runs is replaced by one that does.
        """
        self._profile, self.current_plan = profile, current
        if self.run is not None:
            self._ask(MoveKind.CHANGED, PROFILE_CHANGED, "")

    # ---------------------------------------------------------------------------------------- what jobs tell

    def begins(self, run: JobRun, waited_s: float) -> Begin:
        source, self._alone_since = self._feed.source, None
        if self._move is not None and run is self._move.run:
            self._release(self._give_up_handover(self._move))
            self._move.handover = Handover(self.splice, run.kinds)
            return Begin(self._restart_seq(run)[0], None)
        seq, gap = self._restart_seq(run)
        ticks = self.splice.resume_ticks(run.kinds)
        if ticks is None and waited_s > LIVE_AFTER_S and not self._feed.full_speed and not self._feed.ended():
            live = source.join_seq()
            tracks = source.tracks_at(live)
            if live > seq and tracks is not None and run.plan.one_job_serves(self._planned(tracks)):
                seq = self._start_seq = live
                self._output.went_live(live)
        self.splice.restart(gap=gap)
        if ticks is not None:
            log.info("%s: goes on on %s", self._name, run.daemon_name, extra=_id_of(run))
        return Begin(seq, ticks)

    def take(self, run: JobRun, samples: Sequence[Sample]) -> bool:
        self._refused_since = None
        out: list[Sample] = []
        handover = self._move.handover if self._move is not None else None
        if handover is not None:
            give = handover.new if self._move is not None and run is self._move.run else handover.old
            for sample in samples:
                out += give(sample)
            if handover.phase is not Phase.RUNNING:
                self._wake()
        elif run is self.run:
            splice, kinds = self.splice, run.kinds
            for sample in samples:
                out += splice.take(sample, kinds[sample.track])
            if self._asked is not None:
                self._wake()
        self._release(out)
        self._count_lost()
        return handover is not None or any(sample.track == run.leading for sample in out)

    def passed_over(self, run: JobRun, pictures: int) -> None:
        if run is self.run:
            self.splice.missing += pictures
            self._count_lost()

    def _count_lost(self) -> None:
        if self.splice.missing > self._lost_pictures:
            metrics.LOST_PICTURES.inc(self.splice.missing - self._lost_pictures)
            self._lost_pictures = self.splice.missing

    async def room(self) -> None:
        await self._output.room_for_more()

    def fed(self, run: JobRun, seq: int) -> None:
        if run is self.run:
            self.feed_seq = seq
            self._output.fed()

    def move(self, run: JobRun, kind: MoveKind, reason: str) -> None:
        """A job should be somewhere else; one that is no longer seen, or moves already, stays as it is."""
        if run is not self.run or self._move is not None or self._asked is not None:
            return
        if kind is MoveKind.SLOW:
            now = time.monotonic()
            if now < self._slow_again_at:
                return
            self._slow_again_at = now + SLOW_PAUSE_S
        self._ask(kind, reason, "")

    # ------------------------------------------------------------------------------------------ following jobs

    async def _follow(self, run: JobRun) -> JobRun:
        """Runs a job, and whatever it is moved to; returns the one that used up its input."""
        loop = asyncio.get_running_loop()
        self._asked = None
        task = asyncio.create_task(run.go(), name=f"job {run.id}")
        try:
            while True:
                self._news = loop.create_future()
                self._begin_move(run)
                move = self._move
                waited: set[asyncio.Future[None]] = {task, self._news, *([move.task] if move else [])}
                timeout = max(0.0, move.give_up_at - loop.time()) if move else None
                await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if move is not None and move.handover is not None and move.handover.phase is Phase.SWITCHED:
                    old, run, old_task, task = run, move.run, task, move.task
                    self.run, self._move = run, None
                    await self._after_move(old, old_task, move)
                elif task.done():
                    await self._drop_move("the job that it should replace has ended")
                    task.result()
                    return run
                elif move is not None and self._is_over(move, loop.time()):
                    await self._move_failed(move)
        finally:
            await self._drop_move("nobody watches any more")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _ask(self, kind: MoveKind, reason: str, to: str) -> None:
        self._asked = (kind, reason, to)
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _begin_move(self, run: JobRun) -> None:
        """Starts the successor of a job that was asked to move, once it gives output."""
        if self._asked is None or self._move is not None:
            return
        if run.state != "running":
            if self._asked[0] is MoveKind.CHANGED and run.state in {"placing", "starting"}:
                run.leave_reason = self._asked[1]
                raise _Uprooted(run.leave_reason)
            return
        (kind, reason, to), self._asked = self._asked, None
        seq = max(self._start_seq, self._restart_seq(run)[0])
        current = self._plan_at(seq)
        if _kinds(current) != run.kinds:
            log.info("%s: not moved: its tracks are changing", self._name, extra=_id_of(run))
            return
        log.info("%s: to leave %s: %s", self._name, run.daemon_name, reason, extra=_id_of(run))
        successor = self._make(current, seq, replaces=run, move=kind, to=to)
        task = asyncio.create_task(successor.go(), name=f"job {successor.id}")
        self._move = _Move(kind, reason, successor, task, asyncio.get_running_loop().time() + MOVE_WITHIN_S)

    async def _after_move(self, old: JobRun, old_task: asyncio.Task[None], move: _Move) -> None:
        """Viewers see the successor: the old job ends."""
        old.leave_code, old.leave_reason = "moved", f"moved to {move.run.daemon_name}: {move.reason}"
        self._note_move(old, old.leave_reason)
        old_task.cancel()
        await asyncio.gather(old_task, return_exceptions=True)

    def _note_move(self, old: JobRun, reason: str) -> None:
        self.moves += 1
        metrics.MOVES.inc()
        self.move_refused = ""
        log.info("%s: on %s: %s", self._name, old.daemon_name or "nobody", reason, extra=_id_of(old))
        self.endings.append(Ending("moved", reason, job_id=old.id, daemon_name=old.daemon_name))

    def _is_over(self, move: _Move, now: float) -> bool:
        failed = move.handover is not None and move.handover.phase is Phase.FAILED
        return move.task.done() or failed or now >= move.give_up_at

    async def _move_failed(self, move: _Move) -> None:
        """The job stays where it is; one that has to leave is taken over as if it had been lost.

        Where its successor has used up all that both are for, it ends soon by itself, and the next begins elsewhere.
        """
        used_up = move.task.done() and move.task.exception() is None
        failure = move.task.exception() if move.task.done() else None
        await self._drop_move("it did not meet the job that it should replace")
        old, to = self.run, move.run.daemon_name or "another daemon"
        assert old is not None
        words = str(failure) if failure is not None else "viewers could not change to its successor"
        self.move_refused = f"not moved to {to}: {words}"
        log.info("%s: %s", self._name, self.move_refused, extra=_id_of(old))
        if used_up:
            return
        if move.kind is MoveKind.CHANGED or (failure is None and move.kind in {MoveKind.DRAIN, MoveKind.ASKED}):
            old.leave_reason = move.reason
            if move.kind is not MoveKind.CHANGED and old.placement is not None:
                self._avoid = frozenset({old.placement.daemon_id})
            raise _Uprooted(f"{move.reason}; what viewers lacked was made again")

    async def _drop_move(self, reason: str) -> None:
        """Ends a move that has not come to its end; the old job's output that was held back goes on."""
        move, self._move = self._move, None
        if move is None:
            return
        self._release(self._give_up_handover(move))
        move.run.leave_reason = reason
        move.task.cancel()
        await asyncio.gather(move.task, return_exceptions=True)

    def _give_up_handover(self, move: _Move) -> list[Sample]:
        handover, move.handover = move.handover, None
        return handover.give_up() if handover is not None else []

    def _release(self, samples: Sequence[Sample]) -> None:
        if samples:
            self._output.release(samples)

    # -------------------------------------------------------------------------------------------- making jobs

    def _make(
        self, current: Plan, seq: int, *, replaces: JobRun | None = None, move: MoveKind | None = None, to: str = ""
    ) -> JobRun:
        return JobRun(
            name=self._name,
            owner=self,
            daemons=self._daemons,
            work=self._work,
            plan=current,
            planned=self._planned,
            need=Need(
                current.targets,
                self._profile.hw_accel,
                self._profile.exhausted_policy or self._policy,
                self._source_id,
            ),
            feed=self._feed,
            start_seq=seq,
            replaces=replaces,
            move=move,
            to=to,
            avoid=self._avoid,
        )

    def _restart_seq(self, run: JobRun) -> tuple[int, bool]:
        """Where a job has to begin reading so that no picture is lost, and whether that is not kept any more.

        Not before the source became what the job is for: an encoder that gets a picture of another size first keeps
        that size, and where there was none a job would end again.
        """
        source = self._feed.source
        ticks = self.splice.resume_ticks(run.kinds)
        start = max(self._start_seq, source.first_seq)
        if ticks is None:
            return start, False
        seq = source.keyframe_at_or_before(ticks)
        if seq is not None and seq < start and not all(self._same_picture(run.plan, at) for at in (seq, start - 1)):
            return start, False
        if seq is not None:
            return seq, False
        return (start, False) if start == self._start_seq else (source.resume_seq(), True)

    def _same_picture(self, current: Plan, seq: int) -> bool:
        tracks = self._feed.source.tracks_at(seq)
        return tracks is not None and current.same_picture(self._planned(tracks))

    def _plan_at(self, seq: int) -> Plan:
        """The plan for a job that begins at `seq`; with what became known later, where one job serves both."""
        source, latest = self._feed.source, self.current_plan
        tracks = source.tracks_at(max(seq, source.first_seq))
        if tracks is None:
            return latest or self._planned(Tracks(()))
        then = self._planned(tracks)
        return latest if latest is not None and latest.one_job_serves(then) else then

    def _planned(self, tracks: Tracks) -> Plan:
        return plan(self._profile, tracks)

    async def _picture_size(self) -> None:
        """Waits for the size of the picture: a stream may be entered long before its parameter sets come by."""
        deadline = time.monotonic() + SIZE_WITHIN_S
        while not self._feed.ended() and (left := deadline - time.monotonic()) > 0:
            targets = self.current_plan.targets if self.current_plan else ()
            if all(t.track.width for t in targets if t.track.kind is Kind.VIDEO):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._feed.changed.wait(), left)

    async def _after_failure(self, error: JobError) -> None:
        """Gets ready for the next try, or raises `error` where none is left."""
        run, failures = self.run, self._failures
        assert run is not None
        name = run.daemon_name
        self.endings.append(Ending(error.code, str(error), job_id=run.id, daemon_name=name))
        log.warning(
            "%s: its job on %s ended: %s (%s)", self._name, name or "nobody", error, error.code, extra=_id_of(run)
        )
        self.feed_seq = self._restart_seq(run)[0]
        now = time.monotonic()
        if error.code in _NOT_BEGUN and run.output_since is None:
            self._refused_since = self._refused_since or now
            if now - self._refused_since >= self._patience_s:
                raise JobError(error.code, f"{name}: {error}", stderr=error.stderr)
            return  # the ledger does not ask that daemon again so soon
        failures.append(now)
        while failures and now - failures[0] > TAKEOVER_WINDOW_S:
            failures.popleft()
        if not (error.retry_elsewhere or error.retry_in_software):
            raise error
        if len(failures) > self._max_takeovers:
            raise self._given_up(error, len(failures))
        self.takeovers += 1
        metrics.TAKEOVERS.labels(error.code.value).inc()
        well = run.output_since is not None and now - run.output_since >= WELL_AFTER_S
        self._in_a_row = 1 if well else self._in_a_row + 1
        await asyncio.sleep(RETRY_PAUSE_S[min(self._in_a_row, len(RETRY_PAUSE_S)) - 1])

    async def _until_somebody_comes(self, run: JobRun, error: NoPlacement) -> None:
        """Viewers of a lost job wait for a place, as new ones would in the queue; raises `error` in the end."""
        if self.splice.resume_ticks(run.kinds) is None:
            raise error
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
            log.warning("%s: nobody can take the job over for now: %s", self._name, error, extra=_id_of(run))
        if now - self._alone_since >= self._patience_s:
            raise error
        run.state = "waiting"
        await asyncio.sleep(ASK_AGAIN_S)

    def _given_up(self, error: JobError, failures: int) -> JobError:
        """The last error, with the chain of those before it."""
        if failures == 1:
            return error
        chain = [ending for ending in self.endings if ending.is_failure][-failures:]
        words = "; ".join(f"{ending.daemon_name or 'nobody'}: {ending.reason}" for ending in chain)
        minutes = TAKEOVER_WINDOW_S / 60
        return JobError(error.code, f"given up after {failures} failures in {minutes:g} min: {words}")


def _id_of(run: JobRun) -> dict[str, str]:
    """For the log."""
    return {"job_id": run.id}


def _kinds(current: Plan) -> dict[int, Kind]:
    return {target.track.id: target.track.kind for target in current.targets}
