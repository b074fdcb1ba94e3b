"""Puts the video of an MPEG-TS file through a daemon, with plain grpcio-tools output.

TVARR_AUTH_TOKEN=... python client_grpcio.py HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import ffmpegd_pb2 as pb
import ffmpegd_pb2_grpc as rpc
import grpc
from ts import TICKS, pictures

BATCH_BYTES = 256 * 1024  # samples travel in batches of about this size; the limit of a message is 16 MiB


def inputs(path: str, codec: str) -> Iterator[pb.JobInput]:
    """What the daemon gets: the job, its samples, the end."""
    yield pb.JobInput(
        start=pb.TranscodeStart(
            protocol_version=1,
            tracks=[pb.Track(id=1, codec="h264")],
            targets=[pb.Target(track_id=1, codec=codec, preset="veryfast")],
            full_speed=True,  # as fast as the daemon takes it; without, FFmpeg is tuned for a live source
        )
    )
    batch, size = pb.SampleBatch(), 0
    with open(path, "rb") as file:
        for number, picture in enumerate(pictures(file)):
            batch.samples.add(
                track=1,
                pts=picture.pts,
                dts_delta=picture.pts - picture.dts,
                data=picture.data,
                keyframe=picture.keyframe,
                sequence=number,
            )
            size += len(picture.data)
            if size >= BATCH_BYTES:
                yield pb.JobInput(batch=batch)
                batch, size = pb.SampleBatch(), 0
    yield pb.JobInput(batch=batch)
    yield pb.JobInput(complete=pb.InputComplete())


def main(target: str, source: str, destination: str, codec: str = "copy") -> None:
    metadata = [("authorization", f"Bearer {os.environ['TVARR_AUTH_TOKEN']}")]
    options = [("grpc.max_receive_message_length", 16 << 20)]
    with grpc.insecure_channel(target, options=options) as channel, open(destination, "wb") as out:
        daemon = rpc.FfmpegdStub(channel)
        hello = daemon.Register(pb.RegisterRequest(protocol_version=1, client_name="grpcio"), metadata=metadata)
        print(f"{hello.name}: {', '.join(e.name for e in hello.capabilities.encoders if e.usable)}")
        began, times = time.monotonic(), []
        for output in daemon.Transcode(inputs(source, codec), metadata=metadata):
            match output.WhichOneof("kind"):
                case "ack":
                    print(f"encoded by {output.ack.encoder or 'nobody'}")
                case "batch":
                    times += [sample.pts for sample in output.batch.samples]
                    out.writelines(sample.data for sample in output.batch.samples)
                case "error":
                    name = pb.TranscodeError.Code.Name(output.error.code)
                    sys.exit(f"{name}: {output.error.message}")
        speed = (max(times) - min(times)) / TICKS / (time.monotonic() - began)
        print(f"{len(times)} pictures at {speed:.1f} times real time")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or "TVARR_AUTH_TOKEN" not in os.environ:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
