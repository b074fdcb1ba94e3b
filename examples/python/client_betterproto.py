"""Puts the video of an MPEG-TS file through a daemon, with dataclasses made by betterproto2 and nothing else.

TVARR_AUTH_TOKEN=... python client_betterproto.py HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import grpc
from gen.tvarr.v1 import (
    InputComplete,
    JobInput,
    JobOutput,
    RegisterReply,
    RegisterRequest,
    Sample,
    SampleBatch,
    Target,
    Track,
    TranscodeStart,
)
from ts import TICKS, pictures

BATCH_BYTES = 256 * 1024  # samples travel in batches of about this size; the limit of a message is 16 MiB


def inputs(path: str, codec: str) -> Iterator[JobInput]:
    """What the daemon gets: the job, its samples, the end."""
    yield JobInput(
        start=TranscodeStart(
            protocol_version=1,
            tracks=[Track(id=1, codec="h264")],
            targets=[Target(track_id=1, codec=codec, preset="veryfast")],
            full_speed=True,  # as fast as the daemon takes it; without, FFmpeg is tuned for a live source
        )
    )
    batch: list[Sample] = []
    with open(path, "rb") as file:
        for number, (pts, dts, data, keyframe) in enumerate(pictures(file)):
            batch.append(Sample(track=1, pts=pts, dts_delta=pts - dts, data=data, keyframe=keyframe, sequence=number))
            if sum(len(sample.data) for sample in batch) >= BATCH_BYTES:
                yield JobInput(batch=SampleBatch(samples=batch))
                batch = []
    yield JobInput(batch=SampleBatch(samples=batch))
    yield JobInput(complete=InputComplete())


def main(target: str, source: str, destination: str, codec: str = "copy") -> None:
    metadata = [("authorization", f"Bearer {os.environ['TVARR_AUTH_TOKEN']}")]
    options = [("grpc.max_receive_message_length", 16 << 20)]
    with grpc.insecure_channel(target, options=options) as channel, open(destination, "wb") as out:
        register = channel.unary_unary("/tvarr.v1.Ffmpegd/Register", bytes, RegisterReply.FromString)
        transcode = channel.stream_stream("/tvarr.v1.Ffmpegd/Transcode", bytes, JobOutput.FromString)
        hello = register(RegisterRequest(protocol_version=1, client_name="betterproto"), metadata=metadata)
        print(f"{hello.name}: {', '.join(e.name for e in hello.capabilities.encoders if e.usable)}")
        began, times = time.monotonic(), []
        for output in transcode(inputs(source, codec), metadata=metadata):
            if output.ack:
                print(f"encoded by {output.ack.encoder or 'nobody'}")
            elif output.batch:
                times += [sample.pts for sample in output.batch.samples]
                out.writelines(sample.data for sample in output.batch.samples)
            elif output.error:
                sys.exit(f"{output.error.code.name}: {output.error.message}")
        speed = (max(times) - min(times)) / TICKS / (time.monotonic() - began)
        print(f"{len(times)} pictures at {speed:.1f} times real time")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or "TVARR_AUTH_TOKEN" not in os.environ:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
