"""Within v1 the protocol only grows: nothing that was released is taken back or changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from tests.wire.breaking import breaks, present, released


def test_the_protocol_breaks_nothing_that_was_released() -> None:
    assert breaks(released(), present()) == []


def message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def field(file: FileDescriptorProto, name: str) -> FieldDescriptorProto:
    owner, _, own = name.partition(".")
    return next(field for field in message(file, owner).field if field.name == own)


def codes(file: FileDescriptorProto) -> EnumDescriptorProto:
    return message(file, "TranscodeError").enum_type[0]


def without(items: object, number: int = 0) -> None:
    del items[number]  # type: ignore[attr-defined]


CHANGES: dict[str, tuple[Callable[[FileDescriptorProto], object], str]] = {
    "a field's number": (lambda f: setattr(field(f, "Sample.pts"), "number", 99), "field Sample.pts = 2 is gone"),
    "a field's name": (lambda f: setattr(field(f, "Sample.pts"), "name", "when"), "its name is when, not pts"),
    "a field's type": (
        lambda f: setattr(field(f, "Sample.pts"), "type", FieldDescriptorProto.TYPE_INT64),
        "field Sample.pts = 2: its type is int64, not sint64",
    ),
    "a field's label": (
        lambda f: setattr(field(f, "Sample.pts"), "label", FieldDescriptorProto.LABEL_REPEATED),
        "its label is repeated, not optional",
    ),
    "a field's message": (
        lambda f: setattr(field(f, "JobInput.stop"), "type_name", ".tvarr.v1.InputComplete"),
        "its message or enum is .tvarr.v1.InputComplete",
    ),
    "a field's presence": (
        lambda f: field(f, "Target.crf").ClearField("proto3_optional"),
        "field Target.crf = 7: its presence is implicit",
    ),
    "a field out of its oneof": (
        lambda f: field(f, "JobInput.stop").ClearField("oneof_index"),
        "its oneof is none, not kind",
    ),
    "a field less": (lambda f: without(message(f, "Sample").field, 3), "field Sample.data = 4 is gone"),
    "a message less": (lambda f: without(f.message_type), "message DaemonMessage is gone"),
    "a message's name": (lambda f: setattr(message(f, "Drain"), "name", "Flow"), "message Drain is gone"),
    "an enum less": (lambda f: without(f.enum_type), "enum Family is gone"),
    "an error code less": (lambda f: without(codes(f).value, 3), "TranscodeError.Code.CODE_CAPACITY = 3 is gone"),
    "an error code's number": (
        lambda f: setattr(codes(f).value[3], "number", 77),
        "TranscodeError.Code.CODE_CAPACITY = 3 is gone",
    ),
    "an error code's name": (lambda f: setattr(codes(f).value[3], "name", "CODE_FULL"), "is CODE_FULL"),
    "a call less": (lambda f: without(f.service[1].method, 2), "call Ffmpegd.Probe is gone"),
    "a call's request": (
        lambda f: setattr(f.service[1].method[2], "input_type", ".tvarr.v1.StatsRequest"),
        "call Ffmpegd.Probe: input_type is .tvarr.v1.StatsRequest",
    ),
    "a call's streaming": (
        lambda f: setattr(f.service[0].method[0], "client_streaming", False),
        "call Coordinator.Attach: client_streaming is False",
    ),
    "a service less": (lambda f: without(f.service), "service Coordinator is gone"),
    "the package": (lambda f: setattr(f, "package", "tvarr.v2"), "the package is tvarr.v2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_break_others(change: str) -> None:
    alter, words = CHANGES[change]
    new = released()
    alter(new)
    found = breaks(released(), new)
    assert len(found) == 1
    assert words in found[0]


def test_what_is_added_breaks_nothing() -> None:
    new = released()
    message(new, "Sample").field.add(name="more", number=900, type=FieldDescriptorProto.TYPE_BYTES)
    codes(new).value.add(name="CODE_NEW", number=900)
    new.message_type.add(name="New")
    new.enum_type.add(name="Kind").value.add(name="KIND_UNSPECIFIED", number=0)
    new.service[0].method.add(name="Call", input_type=".tvarr.v1.New", output_type=".tvarr.v1.New")
    new.service.add(name="Other")
    new.message_type.sort(key=lambda m: m.name)
    assert breaks(released(), new) == []
