"""Messages to bytes and back, without their envelopes.

What travels on a stream is an envelope with a `oneof`; what this module takes and gives is what stands in it. Samples
are the hot path: a `Batch` goes through protobuf's own upb classes, thirty times faster than dataclasses. Everything
else becomes a betterproto2 dataclass, after upb has read it: one strict parser decides what is malformed (betterproto2
takes truncated bytes without a word). The bytes are the same as those of the envelope written by either library.

Every `decode_*` raises `WireError` for bytes that can't be read, and returns None for an envelope whose content this
version does not know: within v1 kinds are only added, and a receiver skips new ones. Every `encode_*` raises
`WireError` for a value that does not fit into its field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import betterproto2
from google.protobuf.message import DecodeError, EncodeError, Message

from tvarr.errors import WireError
from tvarr.media.model import Sample
from tvarr.wire import messages as m
from tvarr.wire.v1 import ffmpegd, ffmpegd_pb2

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of anything on the wire; the gRPC limit on both sides
MAX_CONTROL_BYTES = 1024 * 1024  # of anything but samples: a thousand encoders take a tenth of it
MAX_SAMPLES_PER_BATCH = 65_536  # a batch of 256 KiB holds a few hundred


class Batch(NamedTuple):
    """Samples in the order in which they travel."""

    samples: list[Sample]
    sequence: int = 0  # of the first sample; each further one has one more


JobInputItem = Batch | m.TranscodeStart | m.InputComplete | m.TranscodeStop | m.TracksChanged
"""What travels towards a daemon on a job's stream."""

JobOutputItem = (
    Batch | m.WorkOpen | m.TranscodeAck | m.TranscodeStats | m.TranscodeError | m.OutputComplete | m.TracksChanged
)
"""What a daemon sends on a job's stream."""

DaemonItem = m.Register | m.Heartbeat | m.JobAccepted | m.JobRefused | m.CapabilitiesChanged | m.Draining
"""What a daemon sends on `Attach`."""

CoordinatorItem = m.Registered | m.StartJob | m.CancelJob | m.Drain | m.Activate | m.SetPace
"""What the coordinator sends on `Attach`."""

ItemT = TypeVar("ItemT")
MessageT = TypeVar("MessageT", bound=betterproto2.Message)
UpbT = TypeVar("UpbT", bound=Message)


class _Envelope(Generic[ItemT]):
    """One message with the oneof `kind`, in both libraries."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._upb: Any = getattr(ffmpegd_pb2, name)
        self._dataclass: Any = getattr(ffmpegd, name)
        fields = self._upb.DESCRIPTOR.oneofs_by_name["kind"].fields
        self._class_of: dict[str, Any] = {field.name: getattr(ffmpegd, field.message_type.name) for field in fields}
        self._field_of: dict[type, str] = {cls: field for field, cls in self._class_of.items()}

    def encode(self, item: ItemT) -> bytes:
        if isinstance(item, Batch):
            return self._encode_batch(item)
        field = self._field_of.get(type(item))
        if field is None:
            raise WireError(f"{self._name} carries no {type(item).__name__}")
        return encode_message(self._dataclass(**{field: item}))

    def _encode_batch(self, batch: Batch) -> bytes:
        if "batch" not in self._class_of:
            raise WireError(f"{self._name} carries no samples")
        envelope = self._upb()
        envelope.batch.SetInParent()
        add = envelope.batch.samples.add
        try:
            for sequence, (track, pts, dts, data, keyframe) in enumerate(batch.samples, batch.sequence):
                add(track=track, pts=pts, dts_delta=pts - dts, data=data, keyframe=keyframe, sequence=sequence)
            encoded: bytes = envelope.SerializeToString()
        except (EncodeError, TypeError, ValueError) as error:
            raise WireError(f"a sample does not fit into its message: {error}") from error
        return encoded

    def decode(self, data: bytes) -> ItemT | None:
        envelope: Any = _parsed(self._upb, data)
        field = envelope.WhichOneof("kind")
        if field == "batch":
            return cast("ItemT", _batch(envelope.batch.samples))
        if field is None:
            return None
        _check_size(data)
        return cast("ItemT", self._class_of[field].parse(_known(getattr(envelope, field))))


def _batch(wire: Sequence[Any]) -> Batch:
    """The samples of a parsed `SampleBatch`."""
    count = len(wire)
    if count == 0:
        return Batch([])
    if count > MAX_SAMPLES_PER_BATCH:
        raise WireError(f"a batch of {count} samples; {MAX_SAMPLES_PER_BATCH} are allowed")
    first = wire[0].sequence
    if wire[-1].sequence - first != count - 1:
        raise WireError(f"a batch of {count} samples whose sequence runs from {first} to {wire[-1].sequence}")
    return Batch([Sample(s.track, (pts := s.pts), pts - s.dts_delta, s.data, s.keyframe) for s in wire], first)


def _parsed(upb: type[UpbT], data: bytes) -> UpbT:
    try:
        return upb.FromString(data)
    except DecodeError as error:
        raise WireError(f"not a {upb.DESCRIPTOR.name}: {error}") from error


def _known(message: Message) -> bytes:
    """Without fields that are not of this version, or not of the type that they have in it: to upb both are unknown,
    and betterproto2 takes the latter at their word.
    """
    message.DiscardUnknownFields()  # type: ignore[no-untyped-call,unused-ignore]
    return message.SerializeToString()


def _check_size(data: bytes) -> None:
    if len(data) > MAX_CONTROL_BYTES:
        raise WireError(f"a control message of {len(data)} bytes; {MAX_CONTROL_BYTES} are allowed")


_JOB_INPUT: _Envelope[JobInputItem] = _Envelope("JobInput")
_JOB_OUTPUT: _Envelope[JobOutputItem] = _Envelope("JobOutput")
_DAEMON: _Envelope[DaemonItem] = _Envelope("DaemonMessage")
_COORDINATOR: _Envelope[CoordinatorItem] = _Envelope("CoordinatorMessage")


def encode_job_input(item: JobInputItem) -> bytes:
    return _JOB_INPUT.encode(item)


def decode_job_input(data: bytes) -> JobInputItem | None:
    return _JOB_INPUT.decode(data)


def encode_job_output(item: JobOutputItem) -> bytes:
    return _JOB_OUTPUT.encode(item)


def decode_job_output(data: bytes) -> JobOutputItem | None:
    return _JOB_OUTPUT.decode(data)


def encode_daemon(item: DaemonItem) -> bytes:
    return _DAEMON.encode(item)


def decode_daemon(data: bytes) -> DaemonItem | None:
    return _DAEMON.decode(data)


def encode_coordinator(item: CoordinatorItem) -> bytes:
    return _COORDINATOR.encode(item)


def decode_coordinator(data: bytes) -> CoordinatorItem | None:
    return _COORDINATOR.decode(data)


def encode_message(message: betterproto2.Message) -> bytes:
    """One message that travels alone, as in the unary calls of `Ffmpegd`."""
    try:
        return bytes(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a value does not fit into its {type(message).__name__}: {error}") from error


def decode_message(cls: type[MessageT], data: bytes) -> MessageT:
    """The message that `encode_message` wrote."""
    _check_size(data)
    return cls.parse(_known(_parsed(getattr(ffmpegd_pb2, cls.__name__), data)))
