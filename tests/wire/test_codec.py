"""The bytes are those of the whole envelope, in both directions, whichever library writes them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import batches, message
from tvarr.errors import WireError
from tvarr.media.model import Sample
from tvarr.wire import codec
from tvarr.wire import messages as m
from tvarr.wire.v1 import ffmpegd_pb2

ENVELOPES: dict[str, tuple[Any, Any, Any]] = {
    "JobInput": (ffmpegd_pb2.JobInput, codec.encode_job_input, codec.decode_job_input),
    "JobOutput": (ffmpegd_pb2.JobOutput, codec.encode_job_output, codec.decode_job_output),
    "DaemonMessage": (ffmpegd_pb2.DaemonMessage, codec.encode_daemon, codec.decode_daemon),
    "CoordinatorMessage": (ffmpegd_pb2.CoordinatorMessage, codec.encode_coordinator, codec.decode_coordinator),
}


def contents(upb: Any) -> st.SearchStrategy[Any]:
    fields = upb.DESCRIPTOR.oneofs_by_name["kind"].fields
    return st.one_of([batches if f.name == "batch" else message(f.message_type) for f in fields])


@pytest.mark.parametrize("name", ENVELOPES)
@given(data=st.data())
def test_every_item_survives_and_the_bytes_are_canonical(name: str, data: st.DataObject) -> None:
    upb, encode, decode = ENVELOPES[name]
    item = data.draw(contents(upb))
    encoded = encode(item)
    assert upb.FromString(encoded).SerializeToString(deterministic=True) == encoded
    assert decode(encoded) == item
    assert type(decode(encoded)) is type(item)


@given(batch=batches)
def test_a_batch_is_the_full_message(batch: codec.Batch) -> None:
    whole = ffmpegd_pb2.JobOutput()
    for number, sample in enumerate(batch.samples):
        whole.batch.samples.add(
            track=sample.track,
            pts=sample.pts_ticks,
            dts_delta=sample.pts_ticks - sample.dts_ticks,
            data=sample.data,
            keyframe=sample.keyframe,
            sequence=batch.sequence + number,
        )
    assert codec.encode_job_output(batch) == whole.SerializeToString()
    assert codec.decode_job_output(whole.SerializeToString()) == batch


@pytest.mark.parametrize("name", ENVELOPES)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_one_way(name: str, data: bytes) -> None:
    _, _, decode = ENVELOPES[name]
    with contextlib.suppress(WireError):
        decode(data)


def test_a_field_of_another_type_is_one_that_is_not_known() -> None:
    """`tracks` of TracksChanged as a number: bytes that parse, and no track."""
    assert codec.decode_job_input(b"\x2a\x02\x08\x07") == m.TracksChanged()
    assert codec.decode_message(m.TracksChanged, b"\x08\x07") == m.TracksChanged()


@given(batch=batches, at=st.integers(1, 40))
def test_a_truncated_batch_is_refused(batch: codec.Batch, at: int) -> None:
    encoded = codec.encode_job_input(batch)
    with pytest.raises(WireError):
        codec.decode_job_input(encoded[: -min(at, len(encoded) - 1)])


@pytest.mark.parametrize(
    "item",
    [m.InputComplete(), codec.Batch([]), m.TranscodeStop(), m.TracksChanged()],
    ids=lambda item: type(item).__name__,
)
def test_what_is_empty_keeps_its_kind(item: Any) -> None:
    assert codec.decode_job_input(codec.encode_job_input(item)) == item


def test_kinds_that_are_not_known_are_skipped() -> None:
    assert codec.decode_job_input(b"") is None
    assert codec.decode_job_input(b"\xfa\x01\x02\x08\x01") is None  # field 31


SAMPLE = Sample(track=256, pts_ticks=90_000, dts_ticks=86_400, data=b"\0\0\1")


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(codec.Batch([SAMPLE._replace(dts_ticks=90_001)]), id="decode time above presentation time"),
        pytest.param(codec.Batch([SAMPLE._replace(track=-1)]), id="negative track"),
        pytest.param(codec.Batch([SAMPLE._replace(pts_ticks=2**63, dts_ticks=2**63)]), id="time beyond 64 bits"),
        pytest.param(codec.Batch([SAMPLE], sequence=-1), id="negative sequence"),
        pytest.param(m.Register(), id="a message of another stream"),
        pytest.param(m.TranscodeStop(reason="\udcff"), id="text that is not Unicode"),
    ],
)
def test_what_does_not_fit_is_refused_when_written(item: Any) -> None:
    with pytest.raises(WireError):
        codec.encode_job_input(item)


def test_samples_do_not_travel_on_attach() -> None:
    with pytest.raises(WireError, match="no samples"):
        codec.encode_daemon(codec.Batch([SAMPLE]))  # type: ignore[arg-type]


def test_a_hole_in_a_batch_is_refused() -> None:
    whole = ffmpegd_pb2.JobInput()
    whole.batch.samples.add(sequence=4)
    whole.batch.samples.add(sequence=6)
    with pytest.raises(WireError, match="runs from 4 to 6"):
        codec.decode_job_input(whole.SerializeToString())


def test_sizes_are_capped() -> None:
    whole = ffmpegd_pb2.JobInput()
    for number in range(codec.MAX_SAMPLES_PER_BATCH + 1):
        whole.batch.samples.add(sequence=number)
    with pytest.raises(WireError, match="65537 samples"):
        codec.decode_job_input(whole.SerializeToString())
    long = m.TranscodeStop(reason="x" * codec.MAX_CONTROL_BYTES)
    with pytest.raises(WireError, match="control message"):
        codec.decode_job_input(codec.encode_job_input(long))


@given(message(ffmpegd_pb2.Capabilities.DESCRIPTOR))
def test_lone_messages_survive(capabilities: m.Capabilities) -> None:
    assert codec.decode_message(m.Capabilities, codec.encode_message(capabilities)) == capabilities


def test_a_malformed_lone_message_is_refused() -> None:
    with pytest.raises(WireError, match="not a Capabilities"):
        codec.decode_message(m.Capabilities, b"\x0a\x05ab")
