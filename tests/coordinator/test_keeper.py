"""A variant's jobs on daemons that echo their input: what viewers get when jobs are slow, lost, or have to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import chain, pairwise, repeat
from typing import Any

import pytest

from tests.fakes.third_party import ThirdParty, Treat, Work
from tests.waiting import until
from tvarr.cluster.model import MoveKind
from tvarr.coordinator import keeper as keeper_module
from tvarr.coordinator import pace
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.keeper import Keeper
from tvarr.coordinator.models import BUILTIN_PROFILES
from tvarr.coordinator.profiles import plan
from tvarr.coordinator.signals import Signal
from tvarr.coordinator.transcode import Feed
from tvarr.errors import ErrorCode, JobError, NoPlacement
from tvarr.media.model import Codec, Sample, Track, Tracks
from tvarr.media.ring import Ring
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch
from tvarr.wire.server import serve_coordinator

TOKEN = "a token of this test"
PICTURE, GOP = 3600, 25
VIDEO = Track(256, Codec.H264, width=320, height=180, fps=25.0)
PASSED = BUILTIN_PROFILES["h264"]


def echo(speed: float = 0.0, keyframes: bool = True) -> Treat:
    """A job whose output is its input, with a keyframe where one is forced; `speed`: of real time, 0 is at once."""

    async def treat(work: Work) -> None:
        loop, began, first, sent = asyncio.get_running_loop(), 0.0, -1, 0
        forced = work.start.first_keyframe_ticks
        due = forced is not None
        async for batch in work.batches():
            if first < 0:
                await work.acknowledge()
                began, first = loop.time(), batch.samples[0].dts_ticks
            for sample in batch.samples:
                key = sample.pts_ticks == first or (sample.keyframe and keyframes)
                if due and forced is not None and sample.pts_ticks >= forced:
                    key, due = True, False
                if speed:
                    await asyncio.sleep(began + (sample.dts_ticks - first) / 90_000 / speed - loop.time())
                await work.send(Batch([sample._replace(keyframe=key)], sent))
                sent += 1
        await work.send(messages.OutputComplete(samples=sent))

    return treat


def echo_once() -> Treat:
    """Echoes the first job, and gives back nothing of others."""

    async def swallow(work: Work) -> None:
        async for _ in work.batches():
            pass

    treats = chain([echo()], repeat(swallow))

    async def treat(work: Work) -> None:
        await next(treats)(work)

    return treat


class Channel:
    """A source of 25 pictures a second and a keeper of its one variant."""

    def __init__(self, daemons: Daemons, patience_s: float = 5.0) -> None:
        self.ring = Ring(1 << 22)
        self.ring.append(Tracks((VIDEO,)))
        self.changed = Signal()
        self.got: list[Sample] = []
        self.pictures = 0
        self.data = b"picture"
        self.group_size = GOP
        self._group = 0  # the number of a picture with which a group begins
        self._ended = False
        feed = Feed(self.ring, self.changed, lambda: self._ended, False, 0.02, 0.02, 1 << 18)
        self.keeper = Keeper(
            name="channel/h264",
            profile=PASSED,
            feed=feed,
            source_id="channel",
            daemons=daemons,
            exhausted_policy="fallback",
            max_takeovers=3,
            patience_s=patience_s,
            output=self,
        )
        self.keeper.current_plan = plan(PASSED, Tracks((VIDEO,)))

    def release(self, samples: Sequence[Sample]) -> None:
        self.got.extend(samples)

    def done_before(self, seq: int) -> None:
        return

    async def room_for_more(self) -> None:
        return

    def fed(self) -> None:
        return

    def went_live(self, seq: int) -> None:
        return

    async def play(self) -> None:
        """Pictures at real time, until it is cancelled."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            ticks = PICTURE * self.pictures
            key = (self.pictures - self._group) % self.group_size == 0
            self.ring.append(Sample(VIDEO.id, ticks, ticks, self.data, key))
            self.ring.let_go(self.keeper.needed_seq)  # at once, which a relay does now and then
            self.changed.set()
            self.pictures += 1
            await asyncio.sleep(began + self.pictures / 25 - loop.time())

    def become(self, width: int) -> int:
        """From the next picture on, a keyframe, the source has this width. Returns the change's number in the ring."""
        self._group = self.pictures
        return self.announce(replace(VIDEO, width=width))

    def announce(self, *tracks: Track) -> int:
        """Says that the source has these tracks. Returns the change's number in the ring."""
        self.keeper.current_plan = plan(PASSED, Tracks(tracks))
        return self.ring.append(Tracks(tracks))

    def edit(self, **changes: Any) -> None:
        """The profile is another from now on."""
        profile = PASSED.model_copy(update=changes)
        self.keeper.change(profile, plan(profile, Tracks((VIDEO,))))

    def end(self) -> None:
        self._ended = True
        self.changed.set()

    def assert_whole(self) -> None:
        assert [s.pts_ticks for s in self.got] == [PICTURE * n for n in range(self.pictures)]
        assert all(a.dts_ticks < b.dts_ticks for a, b in pairwise(self.got))
        assert self.keeper.splice.missing == 0


class Site:
    def __init__(self, daemons: Daemons, port: int) -> None:
        self.daemons = daemons
        self._port = port

    def daemon(self, name: str, treat: Treat) -> ThirdParty:
        return ThirdParty(f"127.0.0.1:{self._port}", TOKEN, name, treat)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """On the air until the block ends; then all that was shown must have come."""
        channel = Channel(self.daemons)
        source, kept = asyncio.create_task(channel.play()), asyncio.create_task(channel.keeper.keep())
        try:
            yield channel
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)
            channel.end()
            async with asyncio.timeout(15):
                await kept
            channel.assert_whole()
        finally:
            for task in (source, kept):
                task.cancel()
            await asyncio.gather(source, kept, return_exceptions=True)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    daemons = Daemons(heartbeat_interval_s=0.2, unhealthy_after_s=30)
    server = await serve_coordinator(daemons, "127.0.0.1", 0, TOKEN)
    try:
        yield Site(daemons, server.port)
        daemons.ledger.validate()
    finally:
        daemons.close()
        await server.stop()


def on(channel: Channel) -> str:
    """The daemon that viewers see."""
    run = channel.keeper.run
    return run.daemon_name if run is not None and run.state == "running" else ""


async def test_a_slow_job_moves_to_where_it_is_fast(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SLOW_S", 1.0)
    monkeypatch.setattr(pace, "BEHIND_TICKS", 0)
    monkeypatch.setattr(pace, "LOOK_EVERY_S", 0.2)
    async with site.daemon("slow", echo(speed=0.5)), AsyncExitStack() as later, site.channel() as channel:
        await until(lambda: on(channel) == "slow")
        await later.enter_async_context(site.daemon("fast", echo()))
        await until(lambda: on(channel) == "fast")
        (ending,) = channel.keeper.endings
        assert ending.code == "moved"
        assert "times real time" in ending.reason
        assert (channel.keeper.moves, channel.keeper.takeovers) == (1, 0)


async def test_a_job_that_must_leave_is_taken_over_where_its_successor_never_meets_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "MOVE_WITHIN_S", 1.5)
    async with site.daemon("old", echo()), AsyncExitStack() as later, site.channel() as channel:
        await until(lambda: on(channel) == "old")
        await later.enter_async_context(site.daemon("new", echo(keyframes=False)))
        run = channel.keeper.run
        assert run is not None
        channel.keeper.move(run, MoveKind.DRAIN, "its daemon drains")
        await until(lambda: on(channel) == "new")
        (ending,) = channel.keeper.endings
        assert (ending.code, ending.daemon_name) == ("moved", "old")
        assert (channel.keeper.moves, channel.keeper.takeovers) == (1, 0)


async def hang(work: Work) -> None:
    """Gives back its first input, and nothing of what follows."""
    begun = False
    async for batch in work.batches():
        if not begun:
            await work.acknowledge()
            await work.send(batch)
            begun = True
    await asyncio.Event().wait()


async def drained_at_a_change(channel: Channel) -> int:
    """Its picture becomes larger while the job that shall replace its job runs; DTS of the first such picture."""
    run = channel.keeper.run
    assert run is not None
    channel.keeper.move(run, MoveKind.DRAIN, "its daemon drains")
    await until(lambda: channel.keeper.successor is not None and channel.keeper.successor.state == "running")
    changed_at = PICTURE * channel.pictures
    channel.become(width=640)
    return changed_at


async def test_a_job_that_must_leave_where_the_picture_changes_is_made_again_as_it_was_before_that(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "MOVE_WITHIN_S", 1.0)
    treats = chain([hang], repeat(echo()))
    widths: list[int] = []  # for which jobs are set up

    async def note(work: Work) -> None:
        widths.append(work.start.tracks[0].width)
        await next(treats)(work)

    async with site.daemon("old", hang), AsyncExitStack() as later, site.channel() as channel:
        await until(lambda: on(channel) == "old")
        await later.enter_async_context(site.daemon("new", note))
        changed_at = await drained_at_a_change(channel)
        await until(lambda: on(channel) == "new" and channel.got[-1].pts_ticks > changed_at)
        assert widths == [320, 320, 640]


async def test_a_job_whose_successor_comes_to_a_change_of_the_source_first_ends_there_itself(site: Site) -> None:
    """What it has yet to give comes a little later."""
    finished = asyncio.Event()

    async def late(work: Work) -> None:
        await work.acknowledge()
        batches = [batch async for batch in tell(work) if batch.sequence]
        await finished.wait()
        for batch in batches:
            await work.send(batch)
        await work.send(messages.OutputComplete())

    async def tell(work: Work) -> AsyncIterator[Batch]:
        async for batch in work.batches():
            if not batch.sequence:
                await work.send(batch)
            yield batch

    async def early(work: Work) -> None:
        await echo()(work)
        finished.set()

    treats = chain([late], repeat(echo()))

    async def treat(work: Work) -> None:
        await next(treats)(work)

    async with site.daemon("old", treat), AsyncExitStack() as later, site.channel() as channel:
        channel.group_size = 1000
        await until(lambda: on(channel) == "old")
        await later.enter_async_context(site.daemon("new", early))
        changed_at = await drained_at_a_change(channel)
        await until(lambda: channel.got[-1].pts_ticks > changed_at)
        assert [ending.code for ending in channel.keeper.endings] == ["finished"]
        assert (channel.keeper.moves, channel.keeper.takeovers) == (0, 0)
        assert channel.keeper.move_refused == ""


async def test_an_edited_profile_brings_a_job_of_its_own_on_the_same_daemon(site: Site) -> None:
    async with site.daemon("only", echo()), site.channel() as channel:
        await until(lambda: on(channel) == "only" and len(channel.got) > 5)
        first = channel.keeper.run
        channel.edit(crf=30)
        await until(lambda: channel.keeper.run is not first and on(channel) == "only")
        assert channel.keeper.run is not None
        assert [target.crf for target in channel.keeper.run.plan.targets] == [30]
        (ending,) = channel.keeper.endings
        assert (ending.code, ending.reason) == ("moved", "moved to only: the profile was changed")
        assert (channel.keeper.moves, channel.keeper.takeovers) == (1, 0)


async def test_an_edited_profile_is_followed_also_where_the_two_jobs_never_meet(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "MOVE_WITHIN_S", 1.5)
    treats = chain([echo(), echo(keyframes=False)], repeat(echo()))

    async def treat(work: Work) -> None:
        await next(treats)(work)

    async with site.daemon("only", treat), site.channel() as channel:
        await until(lambda: on(channel) == "only" and len(channel.got) > 5)
        channel.edit(crf=30)
        await until(lambda: bool(channel.keeper.moves) and on(channel) == "only")
        assert channel.keeper.run is not None
        assert [target.crf for target in channel.keeper.run.plan.targets] == [30]
        assert channel.keeper.takeovers == 0


async def test_two_edits_in_a_row_end_with_the_last(site: Site) -> None:
    async with site.daemon("only", echo()), site.channel() as channel:
        channel.edit(crf=29)  # before there is a job
        await until(lambda: on(channel) == "only" and len(channel.got) > 5)
        channel.edit(crf=30)
        await until(lambda: channel.keeper.successor is not None)
        channel.edit(crf=31)

        def crf() -> list[int | None]:
            run = channel.keeper.run
            return [target.crf for target in run.plan.targets] if run is not None else []

        await until(lambda: crf() == [31] and on(channel) == "only")


async def test_the_source_is_kept_while_it_may_be_needed(site: Site) -> None:
    def kept() -> int:
        return len(channel.ring)

    async with AsyncExitStack() as later:
        async with AsyncExitStack() as first:
            await first.enter_async_context(site.daemon("first", echo()))
            channel = await later.enter_async_context(site.channel())
            await until(lambda: channel.pictures > 4 * GOP)
            assert kept() < 2 * GOP
        await until(lambda: kept() > 3 * GOP)
        async with site.daemon("second", echo()):
            await until(lambda: on(channel) == "second" and kept() < 2 * GOP)
            await later.aclose()


async def test_a_job_that_is_lost_where_the_picture_changed_lacks_nothing(site: Site) -> None:
    """Its successor can't use the keyframe before the change, which is let go."""
    async with AsyncExitStack() as later:
        async with AsyncExitStack() as first:
            await first.enter_async_context(site.daemon("first", echo_once()))
            channel = await later.enter_async_context(site.channel())
            await until(lambda: len(channel.got) > GOP)
            change = channel.become(width=640)
            await until(lambda: channel.ring.first_seq == change and channel.ring.next_seq > change + 2 * GOP)
        async with site.daemon("second", echo()):
            await until(lambda: on(channel) == "second")
            await later.aclose()


async def test_changes_of_sound_that_follow_at_once_are_all_followed(site: Site) -> None:
    """Each job begins at the same keyframe, before all of the changes, and goes through to where the last one was."""
    first, second = Track(257, Codec.MP2), Track(258, Codec.MP2)
    sounds = [[first], [first, second], [first]]
    async with site.daemon("only", echo()) as daemon, site.channel() as channel:
        channel.group_size = 1000
        for tracks in sounds:
            await until(lambda: on(channel) == "only")
            channel.announce(VIDEO, *tracks)
            shown = channel.pictures * PICTURE
            await until(lambda shown=shown: channel.got[-1].pts_ticks > shown)
        assert channel.keeper.run is not None
        assert channel.keeper.run.plan.target_ids == (VIDEO.id, first.id)
        assert len(daemon.jobs) == 1 + len(sounds)


async def test_viewers_of_a_lost_job_wait_for_a_daemon_to_come(site: Site) -> None:
    async with AsyncExitStack() as later:
        async with AsyncExitStack() as first:
            await first.enter_async_context(site.daemon("first", echo()))
            channel = await later.enter_async_context(site.channel())
            await until(lambda: len(channel.got) > 10)
        await until(lambda: channel.keeper.run is not None and channel.keeper.run.state == "waiting")
        async with site.daemon("second", echo()):
            await until(lambda: on(channel) == "second")
            assert channel.keeper.takeovers == 1
            await later.aclose()


async def test_they_do_not_wait_for_ever(site: Site) -> None:
    channel = Channel(site.daemons, patience_s=0.5)
    source = asyncio.create_task(channel.play())
    async with site.daemon("first", echo()):
        kept = asyncio.create_task(channel.keeper.keep())
        await until(lambda: len(channel.got) > 10)
    with pytest.raises(NoPlacement):
        await kept
    source.cancel()
    await asyncio.gather(source, return_exceptions=True)


async def no_room(work: Work) -> None:
    """What a daemon says that may start no more processes."""
    await work.send(convert.error_to_wire(JobError(ErrorCode.CAPACITY, "full")))


async def test_a_daemon_that_has_no_room_after_all_is_asked_again(site: Site) -> None:
    treats = chain([no_room] * 2, repeat(echo()))
    async with site.daemon("full", lambda work: next(treats)(work)), site.channel() as channel:
        await until(lambda: on(channel) == "full")
        assert [ending.code for ending in channel.keeper.endings] == [ErrorCode.CAPACITY] * 2
        assert channel.keeper.takeovers == 0


async def test_a_daemon_that_never_has_room_is_not_asked_for_ever(site: Site) -> None:
    channel = Channel(site.daemons, patience_s=0.3)
    source = asyncio.create_task(channel.play())
    async with site.daemon("first", no_room), asyncio.timeout(5):
        with pytest.raises(JobError, match=r"^first: full$") as raised:
            await channel.keeper.keep()
    assert raised.value.code is ErrorCode.CAPACITY
    source.cancel()
    await asyncio.gather(source, return_exceptions=True)


async def test_pictures_that_were_gone_before_a_slow_daemon_took_them_are_counted(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """4 MiB of the source are kept, and a stream's window takes a little."""
    taken = asyncio.Event()

    async def late(work: Work) -> None:
        await taken.wait()
        await echo()(work)

    channel = Channel(site.daemons)
    channel.data, channel.group_size = bytes(400_000), 5
    source = asyncio.create_task(channel.play())
    async with site.daemon("slow", late), asyncio.timeout(30):
        kept = asyncio.create_task(channel.keeper.keep())
        await until(lambda: (run := channel.keeper.run) is not None and channel.ring.first_seq > run.next_seq + 10)
        taken.set()
        await until(lambda: channel.keeper.splice.missing > 0)
        source.cancel()
        await asyncio.gather(source, return_exceptions=True)
        channel.end()
        await kept
    assert channel.keeper.splice.missing == channel.pictures - len(channel.got)
    assert "slow, or the network to it, takes less than comes" in caplog.text


async def test_without_a_daemon_a_new_channel_is_refused_at_once(site: Site) -> None:
    channel = Channel(site.daemons)
    source = asyncio.create_task(channel.play())
    with pytest.raises(NoPlacement, match="no daemon is connected"):
        await channel.keeper.keep()
    source.cancel()
    await asyncio.gather(source, return_exceptions=True)
