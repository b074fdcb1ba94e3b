"""What a daemon answers to clients that do something wrong, as `proto/README.md` says, and that it lives on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.clips import make_clip
from tests.harness import TOKEN, eventually
from tests.listening import Listening, listening
from tvarr.client import Kind, read_ts
from tvarr.wire.codec import MAX_MESSAGE_BYTES, MAX_SAMPLES_PER_BATCH
from tvarr.wire.v1 import ffmpegd_pb2 as pb

METADATA = (("authorization", f"Bearer {TOKEN}"),)
WITHIN_S = 30.0
Code = pb.TranscodeError.Code


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("box"), "--max-jobs", "2") as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(box: Listening) -> Iterator[None]:
    yield
    with calls(box) as channel:
        ask = channel.unary_unary("/tvarr.v1.Ffmpegd/GetStats", response_deserializer=pb.Heartbeat.FromString)
        eventually(lambda: not ask(b"", metadata=METADATA, timeout=WITHIN_S).jobs, "no job is left", within_s=10)
    box.idle()


@contextmanager
def calls(box: Listening) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(box.target, options=options) as channel:
        yield channel


class Job:
    """A job's stream as any client has it."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = METADATA) -> None:
        self._inputs: SimpleQueue[pb.JobInput | None] = SimpleQueue()
        self._call = channel.stream_stream(
            "/tvarr.v1.Ffmpegd/Transcode",
            request_serializer=pb.JobInput.SerializeToString,
            response_deserializer=pb.JobOutput.FromString,
        )(iter(self._inputs.get, None), metadata=metadata, timeout=WITHIN_S)

    def send(self, *items: pb.JobInput | None) -> None:
        """Sends; None ends the client's side of the stream."""
        for item in items:
            self._inputs.put(item)

    def until(self, kind: str) -> pb.JobOutput:
        return next(output for output in self._call if output.WhichOneof("kind") == kind)

    def end(self) -> tuple[list[pb.JobOutput], grpc.StatusCode, str]:
        """All that comes still, and the call's status."""
        outputs = []
        with suppress(grpc.RpcError):
            outputs += self._call
        return outputs, self._call.code(), self._call.details()


def start(codec: str = "h264", version: int = 1) -> pb.JobInput:
    item = pb.JobInput()
    item.start.protocol_version = version
    item.start.tracks.add(id=1, codec="h264", width=320, height=180, fps=25)
    item.start.targets.add(track_id=1, codec=codec, preset="ultrafast")
    item.start.hw_accel = "none"
    item.start.full_speed = True
    return item


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pb.JobInput:
    """A batch with two seconds of pictures, the longer part of which comes out at once."""
    clip = make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=2, size="320x180")
    item = pb.JobInput()
    with clip.open("rb") as file:
        tracks, samples = read_ts(file)
        (video,) = tracks.of_kind(Kind.VIDEO)
        for track, pts, dts, data, keyframe in samples:
            if track == video.id:
                number = len(item.batch.samples)
                item.batch.samples.add(
                    track=1, pts=pts, dts_delta=pts - dts, data=data, keyframe=keyframe, sequence=number
                )
    return item


def complete() -> pb.JobInput:
    return pb.JobInput(complete=pb.InputComplete())


def stop() -> pb.JobInput:
    return pb.JobInput(stop=pb.TranscodeStop(reason="enough"))


def too_many() -> pb.JobInput:
    item = pb.JobInput()
    item.batch.samples.extend(pb.Sample(track=1, sequence=n) for n in range(MAX_SAMPLES_PER_BATCH + 1))
    return item


def too_large() -> pb.JobInput:
    item = pb.JobInput()
    item.batch.samples.add(track=1, data=bytes(MAX_MESSAGE_BYTES))
    return item


@pytest.mark.parametrize(
    ("metadata", "item", "code", "words"),
    [
        ((), start(), grpc.StatusCode.UNAUTHENTICATED, "authorization: Bearer TOKEN"),
        ((("authorization", "Bearer wrong"),), start(), grpc.StatusCode.UNAUTHENTICATED, "authorization"),
        (METADATA, start(version=2), grpc.StatusCode.FAILED_PRECONDITION, "protocol version 2 is not spoken here"),
        (METADATA, complete(), grpc.StatusCode.INVALID_ARGUMENT, "first message must be TranscodeStart"),
        (METADATA, pb.JobInput(batch=pb.SampleBatch()), grpc.StatusCode.INVALID_ARGUMENT, "must be TranscodeStart"),
        (METADATA, too_large(), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
    ids=["no token", "wrong token", "wrong version", "input before start", "samples before start", "oversized"],
)
def test_a_call_that_makes_no_job_has_a_status(
    box: Listening, metadata: tuple[tuple[str, str], ...], item: pb.JobInput, code: grpc.StatusCode, words: str
) -> None:
    with calls(box) as channel:
        job = Job(channel, metadata)
        job.send(item)
        outputs, status, details = job.end()
    assert (outputs, status) == ([], code)
    assert words in details


@pytest.mark.parametrize("method", ["Register", "GetStats", "Probe"])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)], ids=["no token", "wrong token"])
def test_every_call_needs_the_token(box: Listening, method: str, metadata: tuple[tuple[str, str], ...]) -> None:
    with calls(box) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/tvarr.v1.Ffmpegd/{method}")(b"", metadata=metadata, timeout=WITHIN_S)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_wrong_version_at_registration(box: Listening) -> None:
    request = pb.RegisterRequest(protocol_version=7).SerializeToString()
    with calls(box) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tvarr.v1.Ffmpegd/Register")(request, metadata=METADATA, timeout=WITHIN_S)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_bytes_that_are_no_message(box: Listening) -> None:
    with calls(box) as channel:
        call = channel.stream_stream("/tvarr.v1.Ffmpegd/Transcode")(iter([b"\xff" * 9]), metadata=METADATA)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("codec", ["h264", "copy"])
@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        (start, Code.CODE_BAD_REQUEST, "TranscodeStart came in the middle of the job"),
        (stop, Code.CODE_CANCELLED, "stopped by the other side"),
        (too_many, Code.CODE_BAD_REQUEST, "65537 samples"),
    ],
    ids=["two starts", "stop", "too many samples"],
)
def test_a_job_that_goes_wrong_ends_with_its_reason(
    box: Listening,
    pictures: pb.JobInput,
    codec: str,
    mistake: Callable[[], pb.JobInput],
    code: int,
    words: str,
) -> None:
    with calls(box) as channel:
        job = Job(channel)
        job.send(start(codec), pictures)
        job.until("ack")
        assert len(box.ffmpegs()) == (codec != "copy")
        job.send(mistake())
        outputs, status, _ = job.end()
    assert status is grpc.StatusCode.OK
    assert outputs[-1].error.code == code
    assert words in outputs[-1].error.message


@pytest.mark.parametrize("codec", ["h264", "copy"])
def test_a_batch_of_more_than_16_mib_ends_the_call(box: Listening, pictures: pb.JobInput, codec: str) -> None:
    with calls(box) as channel:
        job = Job(channel)
        job.send(start(codec), pictures)
        job.until("ack")
        job.send(too_large())
        _, status, details = job.end()
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details


@pytest.mark.parametrize("codec", ["h264", "copy"])
def test_a_client_that_leaves_in_the_middle(box: Listening, pictures: pb.JobInput, codec: str) -> None:
    with calls(box) as channel:
        job = Job(channel)
        job.send(start(codec), pictures)
        job.until("ack")
        job.send(None)
        outputs, status, _ = job.end()
    assert status is grpc.StatusCode.OK
    assert outputs[-1].error.code == Code.CODE_CONNECTION_LOST


def test_a_client_whose_connection_is_gone(box: Listening, pictures: pb.JobInput) -> None:
    with calls(box) as channel:
        job = Job(channel)
        job.send(start(), pictures)
        job.until("ack")
        assert box.ffmpegs()


def test_jobs_beyond_the_limit_are_refused(box: Listening, pictures: pb.JobInput) -> None:
    with calls(box) as channel:
        running = [Job(channel) for _ in range(2)]
        for job in running:
            job.send(start("copy"), pictures)
            job.until("ack")
        late = Job(channel)
        late.send(start("copy"))
        (refusal,), status, _ = late.end()
        assert status is grpc.StatusCode.OK
        assert refusal.error.code == Code.CODE_CAPACITY
        for job in running:
            job.send(complete(), None)
            outputs, _, _ = job.end()
            assert outputs[-1].complete.samples == len(pictures.batch.samples)


def test_a_copy_is_what_it_was_and_needs_no_ffmpeg(box: Listening, pictures: pb.JobInput) -> None:
    with calls(box) as channel:
        job = Job(channel)
        job.send(start("copy"), pictures, complete(), None)
        outputs, status, _ = job.end()
    assert status is grpc.StatusCode.OK
    assert [output.WhichOneof("kind") for output in outputs] == ["ack", "batch", "complete"]
    assert outputs[0].ack.encoder == ""
    assert outputs[1].batch == pictures.batch


def test_standard_tools_can_look(box: Listening) -> None:
    with calls(box) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tvarr.v1.Ffmpegd"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), metadata=METADATA)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listed,) = stub.ServerReflectionInfo(requests, metadata=METADATA)
        assert {s.name for s in listed.list_services_response.service} == {
            "tvarr.v1.Ffmpegd",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


def test_health_says_not_serving_while_the_daemon_leaves(tmp_path: Path, pictures: pb.JobInput) -> None:
    """A job that runs holds it for a moment; health says at once that there will be no more."""
    with listening(tmp_path) as leaving, calls(leaving) as channel:
        job = Job(channel)
        job.send(start("copy"), pictures)
        job.until("ack")
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="tvarr.v1.Ffmpegd"), metadata=METADATA, timeout=WITHIN_S
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        leaving.role.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert leaving.role.process.poll() is None
        job.send(complete(), None)
        outputs, status, _ = job.end()
        assert (outputs[-1].WhichOneof("kind"), status) == ("complete", grpc.StatusCode.OK)
        assert leaving.role.wait(within_s=5) == 0
