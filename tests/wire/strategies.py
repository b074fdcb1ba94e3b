"""Hypothesis strategies for any message of the wire, made from the descriptors."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from tvarr.media.model import Sample
from tvarr.wire import codec
from tvarr.wire.v1 import ffmpegd

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_UNSIGNED_32 = st.integers(0, 2**32 - 1)
_UNSIGNED_64 = st.integers(0, 2**64 - 1)

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT32: _UNSIGNED_32,
    FieldDescriptor.TYPE_UINT64: _UNSIGNED_64,
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
}


def value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return message(field.message_type)
    if field.enum_type is not None:
        enum: Any = getattr(ffmpegd, field.enum_type.full_name.removeprefix("tvarr.v1.").replace(".", ""))
        return st.sampled_from(sorted(enum))
    return _SCALARS[field.type]


def message(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Any betterproto2 message of this kind, with fields left out at random."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        one = value(field)
        fields[field.name] = st.lists(one, max_size=3) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: getattr(ffmpegd, descriptor.name)(**chosen))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    dts = draw(st.integers(-(2**62), 2**62))
    return Sample(
        track=draw(_UNSIGNED_32),
        pts_ticks=dts + draw(_UNSIGNED_32),
        dts_ticks=dts,
        data=draw(st.binary(max_size=40)),
        keyframe=draw(st.booleans()),
    )


batches = st.builds(codec.Batch, samples=st.lists(samples(), min_size=1, max_size=5), sequence=st.integers(0, 2**63))
