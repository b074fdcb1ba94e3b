"""What is committed is what the `.proto` says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tvarr.wire import generate
from tvarr.wire.v1 import ffmpegd, ffmpegd_pb2


def test_generated_code_is_as_generated() -> None:
    assert generate.differences() == []


def test_a_stale_module_is_found(tmp_path: Path) -> None:
    for path in generate.OUTPUT.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "ffmpegd.py").write_text("")
    (tmp_path / "left_over.py").write_text("")
    assert generate.differences(tmp_path) == ["ffmpegd.py", "left_over.py"]


def test_both_modules_hold_the_same_messages_and_fields() -> None:
    for name, descriptor in ffmpegd_pb2.DESCRIPTOR.message_types_by_name.items():
        fields = {field.name for field in dataclasses.fields(getattr(ffmpegd, name))}
        assert fields == {field.name for field in descriptor.fields}
        assert getattr(ffmpegd_pb2, name).DESCRIPTOR is descriptor
