"""A GPU's encoder sessions when a daemon works for a coordinator and for clients at once: they draw from one pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.test_gpu_sessions import coordinator, picture, pool
from tests.fakes.gpu_host import GpuHost
from tests.harness import TOKEN, eventually, watching
from tests.listening import port_of
from tvarr.client import Codec, ErrorCode, JobError, Kind, Sample, Target, connect, read_ts


async def test_clients_and_the_coordinator_share_the_sessions(tmp_path: Path) -> None:
    with coordinator(tmp_path) as running:
        host = GpuHost(tmp_path / "host", 2)
        role = host.start_daemon(running, "both", TVARR_LISTEN="127.0.0.1:0")
        slug = running.add_channel("Small", "file:small.ts", loop=True)
        with (tmp_path / "small.ts").open("rb") as file:
            tracks, samples = read_ts(file)
            video = tracks.of_kind(Kind.VIDEO)[0]
            given = [sample for sample in samples if sample.track == video.id]
        go_on = asyncio.Event()

        async def held() -> AsyncIterator[Sample]:
            for number, sample in enumerate(given):
                if number == 50:
                    await go_on.wait()
                yield sample

        async with connect(f"grpc://{TOKEN}@127.0.0.1:{port_of(role)}") as daemon:
            target = Target(video, Codec.H264, preset="ultrafast")

            async def whole() -> tuple[str, int]:
                job = daemon.transcode(held(), [target], hw_accel="nvenc")
                count = len([sample async for sample in job])
                return job.ack.encoder if job.ack else "", count

            client = asyncio.create_task(whole())
            await asyncio.to_thread(eventually, lambda: host.open_sessions() == 1, "the client has its session")
            await asyncio.to_thread(eventually, lambda: pool(running, "both")["in_use"] == 1, "the coordinator knows")

            async with watching(running.stream_url(slug, "reject")) as second:
                await picture(second)
                assert host.open_sessions() == 2
                with pytest.raises(JobError, match="all 2 encoder sessions of") as caught:
                    async for _ in daemon.transcode(given, [target], hw_accel="nvenc"):
                        pass
                assert caught.value.code is ErrorCode.CAPACITY
                async with watching(running.stream_url(slug, "fallback")) as third:
                    await picture(third)
                    jobs = {v["profile"]: v["job"]["encoder"] for r in running.relays() for v in r["variants"]}
                    assert jobs == {"reject": "h264_nvenc", "fallback": "libx264"}
                go_on.set()
                assert await client == ("h264_nvenc", len(given))
        assert [record for record in host.refusals() if record.purpose == "job"] == []
