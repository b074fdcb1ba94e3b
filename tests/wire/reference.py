"""The reference part of `proto/README.md`, made from the comments of the .proto: `python -m tests.wire.reference`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from tvarr.wire.generate import PROTO, PROTO_DIR

README = PROTO_DIR / "README.md"
PART = re.compile(r"(?<=<!-- reference: made by `make docs` -->\n).*?(?=<!-- /reference -->)", re.DOTALL)
_TYPES = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # field numbers of FileDescriptorProto
_FIELDS, _NESTED_ENUMS, _VALUES, _METHODS = 2, 4, 2, 2  # of the descriptors inside

Path_ = tuple[int, ...]


def file_with_comments() -> FileDescriptorProto:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "file"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO_DIR}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={out}", PROTO], check=True)
        return FileDescriptorSet.FromString(out.read_bytes()).file[0]


class Reference:
    """What the file says of each of its parts. `undocumented` names those of which it says nothing."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): _one_line(place.leading_comments or place.trailing_comments)
            for place in file.source_code_info.location
        }
        self.undocumented: list[str] = []

    def text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for number, service in enumerate(self._file.service):
            path = (_SERVICES, number)
            yield from (f"\n### Service `{service.name}`\n", self._say(service.name, path))
            yield from ("", "| call | |", "|---|---|")
            for at, method in enumerate(service.method):
                request = _stream(method.client_streaming) + _last(method.input_type)
                reply = _stream(method.server_streaming) + _last(method.output_type)
                words = self._say(f"{service.name}.{method.name}", (*path, _METHODS, at))
                yield f"| `{method.name}({request}) returns ({reply})` | {words} |"
        for number, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGES, number))
        for number, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, enum.name, (_ENUMS, number))
        yield ""

    def _message(self, message: DescriptorProto, path: Path_) -> Iterator[str]:
        yield from (f"\n### `{message.name}`\n", self._say(message.name, path))
        if message.field:
            yield from ("", "| field | type | |", "|---|---|---|")
        for at, field in enumerate(message.field):
            words = self._say(f"{message.name}.{field.name}", (*path, _FIELDS, at))
            yield f"| `{field.name}` = {field.number} | {_type(field)} | {words} |"
        for at, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{message.name}.{enum.name}", (*path, _NESTED_ENUMS, at))

    def _enum(self, enum: EnumDescriptorProto, name: str, path: Path_) -> Iterator[str]:
        yield from (f"\n### Values of `{name}`\n", self._say(name, path), "", "| value | |", "|---|---|")
        for at, value in enumerate(enum.value):
            words = self._say(f"{name}.{value.name}", (*path, _VALUES, at))
            yield f"| `{value.name}` = {value.number} | {words} |"

    def _say(self, name: str, path: Path_) -> str:
        words = self._comments.get(path, "")
        if not words:
            self.undocumented.append(name)
        return words


def _one_line(comment: str) -> str:
    """Without the headlines that part the file, and safe in a table."""
    lines = [line.strip() for line in comment.splitlines() if not line.strip().startswith("-----")]
    return " ".join(line for line in lines if line).replace("|", "\\|")


def _type(field: FieldDescriptorProto) -> str:
    name = f"`{_last(field.type_name)}`" if field.type_name else _TYPES[field.type]
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"{name}, any number"
    return f"{name}, may be absent" if field.proto3_optional else name


def _last(name: str) -> str:
    return name.removeprefix(".tvarr.v1.")


def _stream(streaming: bool) -> str:
    return "stream " if streaming else ""


def names(file: FileDescriptorProto) -> Iterable[str]:
    """Every message, field, call and value of the file."""
    for service in file.service:
        yield from (service.name, *(method.name for method in service.method))
    for message in file.message_type:
        yield from (message.name, *(field.name for field in message.field))
        for enum in message.enum_type:
            yield from (value.name for value in enum.value)
    for enum in file.enum_type:
        yield from (enum.name, *(value.name for value in enum.value))


def main() -> None:
    text = README.read_text()
    README.write_text(PART.sub(lambda _: Reference(file_with_comments()).text() + "\n", text))


if __name__ == "__main__":
    main()
