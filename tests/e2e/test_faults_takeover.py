"""Each fault of the bench once: whatever happens to a daemon in mid-stream, viewers get every picture once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bench.faults.rounds import CASES, go_on, moved_on, one_round, running_job
from tests.bench.faults.stage import GOP_S, Stage, make_clips, stage
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import watched
from tests.fakes.sources import Script, ScriptedServer, close, head
from tests.harness import eventually

AFTER_S = 2.0
ELSEWHERE = {"kill-daemon", "kill-ffmpeg", "terminate", "drain"}  # in test_failover and test_moves


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("moving"))


Stages = Callable[[bool, bool], Stage]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, moving: Path) -> Iterator[Stages]:
    """By `reorders` and `separate_hosts` the stage of all tests that want such a one."""
    with ExitStack() as stack:

        @cache
        def made(reorders: bool, separate_hosts: bool) -> Stage:
            folder = tmp_path_factory.mktemp("stage")
            return stack.enter_context(stage(folder, moving, reorders=reorders, separate_hosts=separate_hosts))

        yield made


@contextmanager
def left_as_found(made: Stage) -> Iterator[Stage]:
    """Where the block fails, the next test gets daemons of its own."""
    try:
        yield made
    except BaseException:
        made.start_over()
        raise


@pytest.mark.parametrize("name", sorted(CASES.keys() - ELSEWHERE))
async def test_a_fault_costs_no_picture(name: str, tmp_path: Path, stages: Stages) -> None:
    case = CASES[name]
    with left_as_found(stages(case.reorders, case.strike == "cut-network")) as made:
        rounds = await one_round(made, case, random.uniform(0.5, 0.5 + GOP_S), tmp_path)
        await asyncio.to_thread(eventually, lambda: not made.all_ffmpeg(), "no ffmpeg is left")
    for result in rounds:
        assert not result.verdict.lost, (result.verdict.words(), result.delay_s, result.codes)
        assert result.verdict.audio_gaps == result.verdict.audio_overlaps == 0
    assert len(rounds) == case.relays


def live(data: bytes, seconds: float, loop_began_at: float, lasts_s: Callable[[], Awaitable[None]]) -> Script:
    """An endless stream at its own speed, entered wherever it is by now, which breaks off when `lasts_s` returns."""

    async def play(writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        writer.write(head("200 OK", "Content-Type: video/mp2t", "Connection: close"))
        lasting = asyncio.ensure_future(lasts_s())
        sent = -1
        try:
            while not lasting.done():
                due = int((loop.time() - loop_began_at) / seconds * len(data)) // 188 * 188
                if sent < 0:
                    sent = max(0, due - len(data) // 30)
                writer.write(data[sent:due])
                sent = due
                await asyncio.sleep(0.02)
        finally:
            lasting.cancel()
        await close(writer)

    return play


async def test_the_source_breaks_off_while_a_job_is_taken_over(tmp_path: Path, moving: Path, stages: Stages) -> None:
    """The source comes back a moment later; both viewers see the same pictures all the same."""
    breaks, began_at = asyncio.Event(), asyncio.get_running_loop().time() - 4.0
    clip = (moving / "moving.ts").read_bytes()

    async def broken_off() -> None:
        await breaks.wait()

    async def for_ever() -> None:
        await asyncio.Event().wait()

    scripts = (live(clip, 60.0, began_at, broken_off), close, live(clip, 60.0, began_at, for_ever))
    with left_as_found(stages(False, False)) as made:
        made.start_missing()
        made.all_connected()
        async with ScriptedServer(*scripts) as server:
            slug = made.running.add_channel("Failing", server.url)
            async with watched(made.running, [slug], "h264") as (one,):
                job = await running_job(one, made)
                breaks.set()
                made.daemon(job["daemon_name"]).process.kill()
                await asyncio.to_thread(eventually, lambda: reconnected(made, slug), "the source is back")
                assert await moved_on(one, made, job["id"]), one.trouble
                await go_on([one], AFTER_S)
    steps = [later.pts - earlier.pts for earlier, later in pairwise(sorted(one.source.received.video))]
    assert max(steps) > 3600, "the source lost nothing: the case says nothing"
    verdict = judge(one.transcode.received, one.source.received, tmp_path, trouble=one.trouble)
    assert not verdict.lost, verdict.words()


def reconnected(made: Stage, slug: str) -> bool:
    (relay,) = (relay for relay in made.running.relays() if relay["channel"]["slug"] == slug)
    source = relay["source"]
    return bool(source["reconnections"] and source["state"] == "running")
