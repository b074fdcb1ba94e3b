"""The shell round the ledger, with daemons that are played over real gRPC streams on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from pydantic import TypeAdapter

from tests.cluster.build import capabilities, need
from tests.waiting import until
from tvarr.cluster.model import Capabilities, LimitSource, MoveKind
from tvarr.cluster.state import Settings
from tvarr.coordinator import views
from tvarr.coordinator.daemons import Daemons, JobSlot
from tvarr.coordinator.models import BUILTIN_PROFILES
from tvarr.coordinator.profiles import plan
from tvarr.coordinator.signals import Signal
from tvarr.coordinator.transcode import Begin, Feed, JobRun
from tvarr.coordinator.web.problems import answer_for
from tvarr.coordinator.web.schemas import TranscoderView
from tvarr.errors import ErrorCode, JobError, NoPlacement, QueueTimeout
from tvarr.media.model import Codec, Sample, Track, Tracks
from tvarr.media.ring import Ring
from tvarr.wire import convert, messages
from tvarr.wire.client import dial_attach, dial_work
from tvarr.wire.codec import Batch
from tvarr.wire.protocol import PROTOCOL_VERSION, Endpoint
from tvarr.wire.server import serve_coordinator
from tvarr.wire.streams import CoordinatorMessages, JobInputs

TOKEN = "a-token-of-this-test"
ONE_JOB = capabilities(max_cpu_jobs=1)
SOON_S = 0.2  # after a session frees, the job that waits for it starts

VIDEO = Track(256, Codec.MPEG2VIDEO, width=640, height=360, fps=25.0)


@dataclass
class Played:
    """A daemon's ends of its streams; what it says is up to the test."""

    name: str
    endpoint: Endpoint
    stream: CoordinatorMessages
    beats: int = 0

    async def next(self, kind: type) -> object:
        """The next message, which has to be of this kind."""
        item = await self.stream.receive()
        assert isinstance(item, kind), item
        return item

    async def started(self) -> messages.StartJob:
        start = await self.next(messages.StartJob)
        assert isinstance(start, messages.StartJob)
        return start

    @asynccontextmanager
    async def work(self, job_id: str) -> AsyncIterator[JobInputs]:
        async with dial_work(self.endpoint) as stream:
            opened = messages.WorkOpen(job_id=job_id, daemon_id=self.name, protocol_version=PROTOCOL_VERSION)
            await stream.send(opened)
            yield stream

    async def beat(self, *job_ids: str, pools: Sequence[messages.PoolUsage] = ()) -> None:
        jobs = [messages.ActiveJob(job_id=job_id, speed=1.0) for job_id in job_ids]
        await self.stream.send(messages.Heartbeat(sequence=self.beats, jobs=jobs, pools=list(pools)))
        self.beats += 1


class Site:
    """A coordinator's daemons, served."""

    def __init__(self, daemons: Daemons, port: int) -> None:
        self.daemons = daemons
        self.endpoint = Endpoint("127.0.0.1", port, TOKEN)

    @asynccontextmanager
    async def daemon(self, name: str, caps: Capabilities = ONE_JOB) -> AsyncIterator[Played]:
        async with dial_attach(self.endpoint) as stream:
            register = messages.Register(
                protocol_version=PROTOCOL_VERSION,
                daemon_id=name,
                instance_id=f"instance of {name}",
                name=name,
                machine_id=f"host of {name}",
                capabilities=convert.capabilities_to_wire(caps),
            )
            await stream.send(register)
            played = Played(name, self.endpoint, stream)
            await played.next(messages.Registered)
            yield played

    def place(self, job_id: str, policy: str = "queue") -> asyncio.Task[JobSlot]:
        return asyncio.create_task(self.daemons.place(job_id, need(policy=policy), f"work of {job_id}"))

    async def waits(self, job_id: str) -> None:
        await until(lambda: self.daemons.waiting(job_id) is not None)


@asynccontextmanager
async def site(**settings: float) -> AsyncIterator[Site]:
    made = Settings(promote=False, **settings)  # type: ignore[arg-type]
    daemons = Daemons(heartbeat_interval_s=5, unhealthy_after_s=30, settings=made)
    server = await serve_coordinator(daemons, "127.0.0.1", 0, TOKEN)
    try:
        async with asyncio.timeout(20):
            yield Site(daemons, server.port)
        daemons.ledger.validate()
    finally:
        daemons.close()
        await server.stop()


CANCELLED = messages.TranscodeError(code=messages.TranscodeErrorCode.CANCELLED, message="as asked")


# ---------------------------------------------------------------------------------------------------- the queue


async def test_a_job_waits_and_starts_when_the_one_before_it_has_ended() -> None:
    async with site() as here, here.daemon("one") as one:
        first = await here.place("first")
        assert (await one.started()).job_id == "first"
        second, third = here.place("second"), here.place("third")
        await here.waits("third")
        assert [here.daemons.ledger.position(job) for job in ("second", "third")] == [1, 2]
        waiting = here.daemons.waiting("second")
        assert waiting is not None
        assert "all of its 1 software job slots are taken" in waiting.considered[0].reason
        async with one.work("first") as stream:
            await here.daemons.open(first)
            here.daemons.cancel(first, "nobody watches")
            cancel = await one.next(messages.CancelJob)
            assert cancel == messages.CancelJob(job_id="first", reason="nobody watches")
            assert not second.done()  # ffmpeg may still run
            ended_at = time.monotonic()
            await stream.send(CANCELLED)
            assert (await one.started()).job_id == "second"
            assert time.monotonic() - ended_at < SOON_S
        assert (await second).waited_s > 0
        assert here.daemons.ledger.position("third") == 1
        third.cancel()


async def test_a_heartbeat_without_the_job_frees_its_place_too() -> None:
    async with site() as here, here.daemon("one") as one:
        first = await here.place("first")
        await one.started()
        await one.beat("first")
        second = here.place("second")
        await here.waits("second")
        here.daemons.cancel(first, "nobody watches")
        await one.next(messages.CancelJob)
        await one.beat("first")
        await one.beat()
        assert (await one.started()).job_id == "second"
        assert (await second).placement.daemon_id == "one"


async def test_a_cancelled_job_that_only_begins_is_turned_away_and_holds_nothing() -> None:
    async with site() as here, here.daemon("one") as one:
        first = await here.place("first")
        await one.started()
        here.daemons.cancel(first, "nobody watches")
        await one.next(messages.CancelJob)
        second = here.place("second")
        await here.waits("second")
        async with one.work("first") as stream:
            with pytest.raises(JobError, match="no job first is waiting"):
                await stream.receive()
        assert (await one.started()).job_id == "second"
        await second


async def test_who_leaves_the_queue_gets_nothing() -> None:
    async with site() as here, here.daemon("one") as one:
        first = await here.place("first")
        await one.started()
        second = here.place("second")
        await here.waits("second")
        second.cancel()
        await asyncio.wait({second})
        assert here.daemons.waiting("second") is None
        first.said = True
        here.daemons.finished(first)
        assert here.daemons.ledger.jobs == {}


async def test_a_new_daemon_takes_what_waits() -> None:
    async with site() as here, here.daemon("one") as one:
        await here.place("first")
        await one.started()
        second = here.place("second")
        await here.waits("second")
        async with here.daemon("two") as two:
            assert (await two.started()).job_id == "second"
            assert (await second).placement.daemon_id == "two"


async def test_who_leaves_as_a_place_frees_gives_it_back() -> None:
    async with site() as here, here.daemon("one") as one:
        first = await here.place("first")
        await one.started()
        second, third = here.place("second"), here.place("third")
        await here.waits("third")
        second.cancel()
        first.said = True
        here.daemons.finished(first)  # in the same breath: the ledger gives the place to the second
        assert "second" in here.daemons.ledger.jobs
        await asyncio.wait({second})
        assert second.cancelled()
        start = await one.started()
        assert start.job_id == "second"
        await one.next(messages.CancelJob)
        refusal = convert.error_to_wire(JobError(ErrorCode.CANCELLED, "as asked"))
        await one.stream.send(messages.JobRefused(job_id="second", error=refusal))
        assert (await one.started()).job_id == "third"
        await third


async def test_who_waits_too_long_is_told_so_with_the_reasons() -> None:
    async with site(queue_timeout_s=0.1) as here, here.daemon("one") as one:
        await here.place("first")
        await one.started()
        with pytest.raises(QueueTimeout, match="no daemon was free") as caught:
            await here.place("second")
        assert caught.value.reasons == ("one: all of its 1 software job slots are taken",)
        answer = answer_for(caught.value)
        assert answer.status == 504
        assert "software job slots" in (answer.text or "")


# -------------------------------------------------------------------------------------------------- refusals


async def test_a_refusal_has_the_reasons_and_when_to_come_again() -> None:
    async with site(retry_after_s=7.2) as here:
        with pytest.raises(NoPlacement, match="no daemon is connected"):
            await here.place("early")
        async with here.daemon("one") as one:
            await here.place("first")
            await one.started()
            with pytest.raises(NoPlacement) as caught:
                await here.place("second", policy="reject")
            assert caught.value.reasons == ("one: all of its 1 software job slots are taken",)
            answer = answer_for(caught.value)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "8")
            assert here.daemons.ledger.waiting() == ()


async def test_a_daemon_without_room_is_not_asked_again_at_once() -> None:
    async with site() as here, here.daemon("one") as one, here.daemon("two") as two:
        first = await here.place("first")
        daemons = {"one": one, "two": two}
        chosen = daemons.pop(first.placement.daemon_id)
        (other,) = daemons.values()
        start = await chosen.started()
        full = JobError(ErrorCode.CAPACITY, "all of its 1 job slots are taken")
        await chosen.stream.send(messages.JobRefused(job_id=start.job_id, error=convert.error_to_wire(full)))
        with pytest.raises(JobError) as caught:
            await here.daemons.open(first)
        assert caught.value.code is ErrorCode.CAPACITY
        here.daemons.failed(first, caught.value)
        again = asyncio.create_task(here.daemons.place("again", need(), "work of first"))
        assert (await other.started()).job_id == "again"
        reasons = {c.daemon_name: c.reason for c in (await again).placement.considered}
        assert "failed this job (capacity: all of its 1 job slots are taken)" in reasons[chosen.name]


# ----------------------------------------------------------------------------------------------- a whole job


def pictures(count: int) -> list[Sample]:
    return [Sample(256, 3_600 * n, 3_600 * n, b"picture", n == 0) for n in range(count)]


class Watched:
    """A job's run over a source of ten pictures, and what comes out of it."""

    def __init__(self, daemons: Daemons) -> None:
        source = Ring(1 << 20)
        source.append(Tracks((VIDEO,)))
        for picture in pictures(10):
            source.append(picture)
        self.got: list[Sample] = []
        self.run = JobRun(
            name="clip/h264",
            owner=self,
            daemons=daemons,
            work="the work",
            plan=plan(BUILTIN_PROFILES["h264"], Tracks((VIDEO,))),
            planned=partial(plan, BUILTIN_PROFILES["h264"]),
            need=need(track=VIDEO),
            feed=Feed(source, Signal(), lambda: True, True, 0.0, 0.0, 1 << 20),
            start_seq=0,
        )
        self.task = asyncio.create_task(self.run.go())

    def begins(self, run: JobRun, waited_s: float) -> Begin:
        return Begin(0, None)

    def take(self, run: JobRun, samples: Sequence[Sample]) -> bool:
        self.got.extend(samples)
        return True

    async def room(self) -> None:
        return

    def fed(self, run: JobRun, seq: int) -> None:
        return

    def move(self, run: JobRun, kind: MoveKind, reason: str) -> None:
        raise AssertionError(f"{run.id} should move: {reason}")


async def input_of(stream: JobInputs) -> list[Sample]:
    """All that a job's stream brings, from its start to the end of the input."""
    assert isinstance(await stream.receive(), messages.TranscodeStart)
    samples: list[Sample] = []
    while isinstance(item := await stream.receive(), Batch):
        samples += item.samples
    assert isinstance(item, messages.InputComplete)
    return samples


async def test_a_refused_session_is_had_elsewhere_and_the_limit_is_learned() -> None:
    gpu = capabilities(sessions=8, max_jobs=8)
    async with site() as here, here.daemon("gpu", gpu) as one, here.daemon("cpu") as two:
        watched = Watched(here.daemons)
        start = await one.started()
        assert start.encoder == "h264_nvenc"
        async with one.work(start.job_id) as stream:
            assert len(await input_of(stream)) == 10
            await stream.send(messages.TranscodeAck(encoder="h264_nvenc"))
            refusal = JobError(ErrorCode.SESSION_LIMIT, "OpenEncodeSessionEx failed: out of memory (10)")
            await stream.send(convert.error_to_wire(refusal))
        again = await two.started()
        assert (again.job_id, again.encoder) == (start.job_id, "libx264")
        async with two.work(again.job_id) as stream:
            assert len(await input_of(stream)) == 10
            await stream.send(messages.TranscodeAck(encoder="libx264"))
            await stream.send(Batch(pictures(10), 0))
            await stream.send(messages.OutputComplete(samples=10))
            await watched.task
        assert watched.got == pictures(10)
        (pool,) = here.daemons.ledger.daemons["gpu"].pools.values()
        assert (pool.limit, pool.source) == (0, LimitSource.LEARNED)
        assert here.daemons.ledger.jobs == {}


async def test_an_ack_confirms_and_the_last_word_frees() -> None:
    async with site() as here, here.daemon("one") as one:
        watched = Watched(here.daemons)
        start = await one.started()
        (job,) = here.daemons.ledger.jobs_on("one")
        async with one.work(start.job_id) as stream:
            await input_of(stream)
            assert not job.acked
            await stream.send(messages.TranscodeAck(encoder="libx264"))
            await until(lambda: job.acked)
            await stream.send(messages.OutputComplete())
            await watched.task
        assert here.daemons.ledger.cluster.held_by("one") == []
        assert here.daemons.links["one"].jobs_done == 1


async def test_a_broken_job_stream_is_a_failure_and_the_place_stays_taken_until_the_daemon_speaks() -> None:
    async with site() as here, here.daemon("one") as one:
        watched = Watched(here.daemons)
        start = await one.started()
        await one.beat(start.job_id)
        async with one.work(start.job_id) as stream:
            await input_of(stream)
        with pytest.raises(JobError) as caught:
            await watched.task
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        cancel = await one.next(messages.CancelJob)
        assert isinstance(cancel, messages.CancelJob)
        assert cancel.job_id == start.job_id
        assert len(here.daemons.ledger.cluster.held_by("one")) == 1
        await one.beat()
        await until(lambda: not here.daemons.ledger.cluster.held_by("one"))
        assert here.daemons.links["one"].jobs_failed == 1


async def test_a_lost_daemon_s_jobs_are_lost_with_it() -> None:
    async with site() as here:
        async with here.daemon("one") as one:
            watched = Watched(here.daemons)
            await one.started()
        with pytest.raises(JobError, match="one: its stream ended") as caught:
            await watched.task
        assert caught.value.code is ErrorCode.CONNECTION_LOST
        assert here.daemons.ledger.daemons["one"].state == "disconnected"


async def test_figures_of_pools_are_the_ledger_s() -> None:
    async with site() as here, here.daemon("gpu", capabilities(sessions=8)) as one:
        await here.place("first")
        await one.started()
        await one.beat("first", pools=[messages.PoolUsage(id="nvidia-host", active=3, own=1)])
        await until(lambda: here.daemons.links["gpu"].heartbeat is not None)
        view = views.transcoder(here.daemons.links["gpu"], here.daemons, {})
        (pool,) = TypeAdapter(TranscoderView).validate_python(view).pools
        assert (pool.limit, pool.limit_source, pool.detail) == (8, "driver_table", "driver 550.54")
        assert (pool.held, pool.foreign, pool.in_use, pool.free) == (1, 2, 3, 5)
        assert (pool.active, pool.own) == (3, 1)
