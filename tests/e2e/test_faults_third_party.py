"""A daemon that acknowledges a job and answers with nothing, or with garbage: viewers see every picture once anyway."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import Watched, watched
from tests.conftest import program
from tests.fakes.third_party import ThirdParty, Treat, Work
from tests.harness import TOKEN, Cluster, cluster, eventually
from tvarr.media.model import Sample
from tvarr.wire.codec import MAX_MESSAGE_BYTES, Batch

GOOD_FOR = 75  # samples that a bad daemon gives back as they should be, before the garbage
AFTER_S = 2.0  # how long a stream is watched after the good daemon took over
PICTURE_TICKS = 3600  # of clip.ts
AAC_TICKS = 1920


async def silent(work: Work) -> None:
    """Takes everything and answers nothing."""
    await work.acknowledge()
    async for _ in work.batches():
        pass


async def deaf(work: Work) -> None:
    """Does not even take its input."""
    await work.acknowledge()
    await asyncio.Event().wait()


def garbage(spoil: Callable[[Sample], Sample], *, good_for: int = GOOD_FOR) -> Treat:
    """Gives back each picture as it came, which is a fair transcode to the same codec, and then spoils them."""

    async def treat(work: Work) -> None:
        await work.acknowledge()
        count = 0
        async for batch in work.batches():
            for sequence, sample in enumerate(batch.samples, batch.sequence):
                await work.send(Batch([sample if count < good_for else spoil(sample)], sequence))
                count += 1

    return treat


async def sound_alone(work: Work) -> None:
    """After a while nothing more of the picture comes, as where an encoder hangs and the rest of ffmpeg goes on."""
    await work.acknowledge()
    sounds = {target.track_id for target in work.start.targets if target.codec == "aac"}
    frame, due_ticks, sequence = silence(), 0, 0
    async for batch in work.batches():
        for sample in batch.samples:
            out = [sample] if sequence < GOOD_FOR else []
            if sample.track in sounds:
                due_ticks = due_ticks or sample.pts_ticks
                out = []
                while due_ticks <= sample.pts_ticks:
                    out.append(Sample(sample.track, due_ticks, due_ticks, frame, True))
                    due_ticks += AAC_TICKS
            await work.send(Batch(out, sequence))
            sequence += len(out)


def silence() -> bytes:
    """One frame of AAC in ADTS."""
    command = [program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "anullsrc=r=48000:cl=mono", "-t", "0.3"]
    adts = subprocess.run([*command, "-c:a", "aac", "-f", "adts", "-"], check=True, capture_output=True).stdout
    frames = []
    while adts:
        length = (adts[3] & 3) << 11 | adts[4] << 3 | adts[5] >> 5  # ISO/IEC 13818-7, 6.2
        frames.append(adts[:length])
        adts = adts[length:]
    return frames[5]


def earlier(ticks: int) -> Callable[[Sample], Sample]:
    return lambda sample: sample._replace(pts_ticks=sample.pts_ticks - ticks, dts_ticks=sample.dts_ticks - ticks)


def reversed_time() -> Callable[[Sample], Sample]:
    """Each sample a picture earlier than the one before it."""
    newest: list[int] = []

    def spoil(sample: Sample) -> Sample:
        newest.append(newest[-1] - PICTURE_TICKS if newest else sample.dts_ticks - PICTURE_TICKS)
        return sample._replace(pts_ticks=newest[-1], dts_ticks=newest[-1])

    return spoil


def frozen_time() -> Callable[[Sample], Sample]:
    """Each sample at the time of the first."""
    first: list[Sample] = []

    def spoil(sample: Sample) -> Sample:
        first.append(sample)
        return sample._replace(pts_ticks=first[0].pts_ticks, dts_ticks=first[0].dts_ticks)

    return spoil


def wrong_track(sample: Sample) -> Sample:
    return sample._replace(track=sample.track + 1000)


def swollen(size: int) -> Callable[[Sample], Sample]:
    data = bytes(size)
    return lambda sample: sample._replace(data=data)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[Cluster]:
    """A coordinator with one good daemon."""
    folder = tmp_path_factory.mktemp("tvarr")
    with cluster(folder, media_dir=clips, coordinator_flags=("--idle-linger", "0.2")) as made:
        made.start_daemon("good")
        yield made


def transcoder(running: Cluster, name: str) -> dict[str, Any]:
    (found,) = (t for t in running.get("/api/v1/transcoders") if t["name"] == name)
    return dict(found)


def order(running: Cluster, what: str) -> None:
    status, answer = running.request("POST", f"/api/v1/transcoders/{transcoder(running, 'good')['id']}/{what}")
    assert status == 200, answer


async def taken_over(one: Watched, running: Cluster) -> dict[str, Any]:
    """The variant, once its job runs at the good daemon."""
    deadline = time.monotonic() + 15.0
    while True:
        variant = await asyncio.to_thread(one.variant, running)
        job = variant.get("job") or {}
        if (job.get("daemon_name"), job.get("state")) == ("good", "running"):
            return variant
        assert not one.trouble, one.trouble
        assert time.monotonic() < deadline, f"the good daemon did not take over: {variant}"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("treat", "clip"),
    [
        pytest.param(sound_alone, "mp2.ts", id="only sound any more"),
        pytest.param(silent, "clip.ts", id="never answers"),
        pytest.param(deaf, "clip.ts", id="never reads"),
        pytest.param(garbage(wrong_track), "clip.ts", id="wrong track"),
        pytest.param(garbage(reversed_time()), "clip.ts", id="time running backwards"),
        pytest.param(garbage(frozen_time()), "clip.ts", id="time standing still"),
        pytest.param(garbage(earlier(5 * 90_000)), "clip.ts", id="five seconds back"),
        pytest.param(garbage(earlier(-3600 * 90_000)), "clip.ts", id="an hour ahead"),
        pytest.param(garbage(swollen(MAX_MESSAGE_BYTES)), "clip.ts", id="samples larger than a message"),
        pytest.param(garbage(swollen(15_000_000)), "clip.ts", id="15 MB samples"),
        pytest.param(garbage(wrong_track, good_for=0), "clip.ts", id="wrong track from the start"),
    ],
)
async def test_a_bad_daemon_is_set_aside_and_costs_no_picture(
    running: Cluster, tmp_path: Path, request: pytest.FixtureRequest, treat: Treat, clip: str
) -> None:
    name = str(request.node.callspec.id).replace(" ", "-")
    slug = running.add_channel(f"Watched {name}", f"file:{clip}", loop=True)
    order(running, "drain")
    bad = ThirdParty(f"127.0.0.1:{running.grpc_port}", TOKEN, name, treat)
    try:
        async with bad, contextlib.AsyncExitStack() as stack:
            entering = asyncio.create_task(stack.enter_async_context(watched(running, [slug], "h264")))
            await asyncio.to_thread(eventually, lambda: bad.jobs, "the bad daemon has the job")
            order(running, "activate")
            (one,) = await entering
            variant = await taken_over(one, running)
            aim = one.source.newest_ticks + int(AFTER_S * 90_000)
            assert await one.until_ticks(aim, 30.0), one.trouble or "the pictures did not go on"
            if treat is not sound_alone:  # a hang may befall the best
                # a stream that broke off counts as the daemon's fault once that is heard again
                await asyncio.to_thread(eventually, lambda: transcoder(running, name)["set_aside"], "it is set aside")
    finally:
        order(running, "activate")
    verdict = judge(one.transcode.received, one.source.received, tmp_path)
    assert not verdict.lost, verdict.words()
    assert verdict.audio_gaps == verdict.audio_overlaps == 0
    endings = [ending for ending in variant["endings"] if ending["daemon_name"] == name]
    assert endings, variant
    await asyncio.to_thread(eventually, lambda: not running.relays(), "the relay has ended")
