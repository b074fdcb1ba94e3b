"""What thirty jobs leave behind in a daemon: nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from tests.ffmpeg.support import wait_until
from tests.ffmpegd.job_support import COPY, SPEC, batches, binary, capabilities, children, pictures
from tvarr.cluster.model import JobSpec
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpegd.capacity import Capacity
from tvarr.ffmpegd.job import Job
from tvarr.ffmpegd.work import Jobs, ObservedStream
from tvarr.wire import convert, messages
from tvarr.wire.codec import Batch
from tvarr.wire.protocol import Endpoint
from tvarr.wire.server import AttachStream, JobStream, serve_coordinator

TOKEN = "a-token-of-this-test"
JOBS, AT_ONCE = 32, 8
CRASHING_KBPS = 333
BODY = f"if '{CRASHING_KBPS}k' in sys.argv:\n    os.write(1, os.read(0, 1 << 16))\n    sys.exit(1)\n" + COPY
SLACK = 6  # jobs that left one thing each, or all of one kind, would be 24, or 6


class Coordinator:
    """Feeds each job and ends it in the way that its number says."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.last_words: list[object] = []

    async def attach(self, register: messages.Register, peer: str, stream: AttachStream) -> None:
        raise AssertionError("no daemon attaches in these tests")

    async def work(self, opened: messages.WorkOpen, stream: JobStream) -> None:
        how = int(opened.job_id) % 4
        (target,) = SPEC.targets
        spec = JobSpec(opened.job_id, (replace(target, bitrate_kbps=CRASHING_KBPS) if how == 3 else target,))
        await stream.send(convert.start_to_wire(spec))
        first, *others = batches(pictures(20))
        await stream.send(Batch(first, 0))
        if how == 0:
            for number, samples in enumerate(others, 1):
                await stream.send(Batch(samples, number * len(first)))
            await stream.send(messages.InputComplete())
        while not isinstance(item := await stream.receive(), messages.OutputComplete | messages.TranscodeError):
            if isinstance(item, messages.TranscodeAck) and how == 1:
                self._jobs.cancel(opened.job_id, JobError(ErrorCode.CANCELLED, "enough"))
            elif isinstance(item, messages.TranscodeAck) and how == 2:
                return  # without a goodbye
        self.last_words.append(type(item))


def held() -> int:
    """Open file descriptors and tasks of this process, together."""
    gc.collect()
    return psutil.Process().num_fds() + len(asyncio.all_tasks())


async def settled() -> int:
    """What is held once connections have closed behind the last job."""
    now, before = held(), -1
    while now != before:
        await asyncio.sleep(0.2)
        now, before = held(), now
    return now


async def test_jobs_leave_no_descriptor_and_no_task(
    stand_in: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # a captured record keeps its error, and that one's frames and connection
    ffmpeg = binary(stand_in(BODY))

    async def run_job(spec: JobSpec, stream: ObservedStream) -> None:
        await Job(spec, stream, ffmpeg, capabilities()).run()

    jobs = Jobs(Capacity(capabilities()), run_job)
    coordinator = Coordinator(jobs)
    server = await serve_coordinator(coordinator, "127.0.0.1", 0, TOKEN)
    endpoint = Endpoint("127.0.0.1", server.port, TOKEN)
    before = 0
    for first in range(0, JOBS, AT_ONCE):
        for number in range(first, first + AT_ONCE):
            jobs.start(messages.StartJob(job_id=str(number)), endpoint, "daemon")
        await wait_until(lambda: not jobs.active(), 30)
        before = before or await settled()  # with what gRPC and the loop keep for good
    await jobs.close(JobError(ErrorCode.SHUTTING_DOWN, "the end"))
    await wait_until(lambda: held() < before + SLACK, 10)
    assert children() == []
    await server.stop()
    assert len(coordinator.last_words) == JOBS * 3 // 4
