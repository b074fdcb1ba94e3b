"""Another coordinator: waits for one tvarr daemon, and has it work on the video of an MPEG-TS file.

TVARR_AUTH_TOKEN=... python coordinator.py HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]

Then start a worker: TVARR_COORDINATOR_URL=grpc://TOKEN@HOST:PORT tvarr ffmpegd
"""

from __future__ import annotations

import asyncio
import hmac
import os
import sys
from collections.abc import AsyncIterator

import ffmpegd_pb2 as pb
import ffmpegd_pb2_grpc as rpc
import grpc
from ts import pictures

BATCH_BYTES = 256 * 1024  # samples travel in batches of about this size; the limit of a message is 16 MiB
HEARTBEAT_S = 5.0
LOST_AFTER_S = 3 * HEARTBEAT_S  # of silence


class Coordinator(rpc.CoordinatorServicer):
    """Has one job, and gives it to the daemon that registers first."""

    def __init__(self, source: str, destination: str, codec: str) -> None:
        self.source, self.destination, self.codec = source, destination, codec
        self.given = False
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def Attach(self, messages: AsyncIterator[pb.DaemonMessage], context: grpc.aio.ServicerContext) -> None:
        """A daemon's life: it registers, we answer and give it the job, it sends heartbeats."""
        await authenticate(context)
        first = await anext(messages)
        if first.register.protocol_version != 1:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "only protocol version 1 is spoken here")
        registered = pb.Registered(daemon_id=first.register.daemon_id, heartbeat_interval_s=HEARTBEAT_S)
        await context.write(pb.CoordinatorMessage(registered=registered))
        print(f"{first.register.name} is here")
        usable = [e for e in first.register.capabilities.encoders if e.usable and e.codec == self.codec]
        if not self.given and (usable or self.codec == "copy"):
            self.given = True
            self.encoder, self.device = (usable[0].name, usable[0].device) if usable else ("", "")
            start = pb.StartJob(job_id="job", encoder=self.encoder, device=self.device)
            await context.write(pb.CoordinatorMessage(start=start))
        while message := await asyncio.wait_for(anext(messages, None), LOST_AFTER_S):
            if message.WhichOneof("kind") == "refused":
                self.done.set_result(f"refused: {message.refused.error.message}")

    async def Work(self, outputs: AsyncIterator[pb.JobOutput], context: grpc.aio.ServicerContext) -> None:
        """A job's stream, which the daemon dials: input goes down while output comes up."""
        await authenticate(context)
        if (await anext(outputs)).open.job_id != "job":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody wants this job")
        feeding = asyncio.create_task(self.feed(context))
        pictures = 0
        with open(self.destination, "wb") as out:
            async for output in outputs:
                match output.WhichOneof("kind"):
                    case "ack":
                        print(f"encoded by {output.ack.encoder or 'nobody'}")
                    case "batch":
                        pictures += len(output.batch.samples)
                        out.writelines(sample.data for sample in output.batch.samples)
                    case "error":
                        feeding.cancel()
                        name = pb.TranscodeError.Code.Name(output.error.code)
                        self.done.set_result(f"{name}: {output.error.message}")
                    case "complete":
                        self.done.set_result(f"{pictures} pictures")

    async def feed(self, context: grpc.aio.ServicerContext) -> None:
        start = pb.TranscodeStart(
            job_id="job",
            protocol_version=1,
            tracks=[pb.Track(id=1, codec="h264")],
            targets=[pb.Target(track_id=1, codec=self.codec, preset="veryfast")],
            encoder=self.encoder,
            device=self.device,
            full_speed=True,
        )
        await context.write(pb.JobInput(start=start))
        batch, size = pb.SampleBatch(), 0
        with open(self.source, "rb") as file:
            for number, (pts, dts, data, keyframe) in enumerate(pictures(file)):
                batch.samples.add(track=1, pts=pts, dts_delta=pts - dts, data=data, keyframe=keyframe, sequence=number)
                size += len(data)
                if size >= BATCH_BYTES:
                    await context.write(pb.JobInput(batch=batch))
                    batch, size = pb.SampleBatch(), 0
        await context.write(pb.JobInput(batch=batch))
        await context.write(pb.JobInput(complete=pb.InputComplete()))


async def authenticate(context: grpc.aio.ServicerContext) -> None:
    given = dict(context.invocation_metadata()).get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {os.environ['TVARR_AUTH_TOKEN']}".encode()):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this call needs authorization: Bearer TOKEN")


async def main(address: str, source: str, destination: str, codec: str = "copy") -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 16 << 20)])
    coordinator = Coordinator(source, destination, codec)
    rpc.add_CoordinatorServicer_to_server(coordinator, server)
    print(f"waiting for a daemon on port {server.add_insecure_port(address)}", flush=True)
    await server.start()
    print(await coordinator.done)
    await server.stop(grace=1.0)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or "TVARR_AUTH_TOKEN" not in os.environ:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
