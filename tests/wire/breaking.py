"""What a change of the protocol breaks: `python -m tests.wire.breaking` keeps it as it is now, when it is released."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from tvarr.wire.generate import PROTO_DIR
from tvarr.wire.v1 import ffmpegd_pb2

RELEASED = PROTO_DIR / "released.binpb"
"""The FileDescriptorProto of the last release, without comments."""


def released() -> FileDescriptorProto:
    return FileDescriptorProto.FromString(RELEASED.read_bytes())


def present() -> FileDescriptorProto:
    return FileDescriptorProto.FromString(ffmpegd_pb2.DESCRIPTOR.serialized_pb)


def breaks(old: FileDescriptorProto, new: FileDescriptorProto) -> list[str]:
    """What somebody who was built for `old` can't rely on any more in `new`, in words. What was added breaks nothing.

    Numbers and types are what travels; names are what generated code and JSON go by.
    """
    lines = [] if old.package == new.package else [f"the package is {new.package}, not {old.package}"]
    lines += _all("message", old.message_type, new.message_type, _message)
    lines += _all("enum", old.enum_type, new.enum_type, _enum)
    return lines + _all("service", old.service, new.service, _service)


def _all(what: str, old: Sequence[Any], new: Sequence[Any], compare: Any, within: str = "") -> list[str]:
    there = {item.name: item for item in new}
    lines = []
    for item in old:
        name = within + item.name
        lines += compare(name, item, there[item.name]) if item.name in there else [f"{what} {name} is gone"]
    return lines


def _message(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    there = {field.number: field for field in new.field}
    for field in old.field:
        what = f"{name}.{field.name} = {field.number}"
        if field.number not in there:
            yield f"field {what} is gone"
            continue
        now = there[field.number]
        before, after = _shape(field, old), _shape(now, new)
        yield from (
            f"field {what}: {key} is {after[key]}, not {before[key]}" for key in before if before[key] != after[key]
        )
    yield from _all("message", old.nested_type, new.nested_type, _message, f"{name}.")
    yield from _all("enum", old.enum_type, new.enum_type, _enum, f"{name}.")


def _shape(field: FieldDescriptorProto, message: DescriptorProto) -> dict[str, str]:
    """What may not change. A oneof has one name, made up where a field is `optional`."""
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "none"
    return {
        "its name": field.name,
        "its type": FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower(),
        "its message or enum": field.type_name or "none",
        "its label": FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower(),
        "its presence": "explicit" if field.proto3_optional else "implicit",
        "its oneof": oneof,
    }


def _enum(name: str, old: EnumDescriptorProto, new: EnumDescriptorProto) -> Iterator[str]:
    there = {value.number: value.name for value in new.value}
    for value in old.value:
        if there.get(value.number) != value.name:
            yield f"value {name}.{value.name} = {value.number} is {there.get(value.number, 'gone')}"


def _service(name: str, old: ServiceDescriptorProto, new: ServiceDescriptorProto) -> Iterator[str]:
    there = {method.name: method for method in new.method}
    for method in old.method:
        now = there.get(method.name)
        if now is None:
            yield f"call {name}.{method.name} is gone"
            continue
        for key in ("input_type", "output_type", "client_streaming", "server_streaming"):
            if getattr(method, key) != getattr(now, key):
                yield f"call {name}.{method.name}: {key} is {getattr(now, key)}, not {getattr(method, key)}"


def main() -> None:
    RELEASED.write_bytes(present().SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
