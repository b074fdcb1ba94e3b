"""Makes `tvarr/wire/v1` from `proto/tvarr/v1/ffmpegd.proto`: `python -m tvarr.wire.generate`, `--check` to compare.

Two modules come out of one file:

* `ffmpegd.py`: betterproto2's dataclasses, for everything that people read and write.
* `ffmpegd_pb2.py`: the same messages as classes of protobuf's own runtime (upb), for sample batches and reflection.
  It holds the serialized descriptor and makes the classes through the runtime's public API. protoc's own Python output
  refuses runtimes older than itself and warns on newer ones; this module works with each runtime that pip allows, and
  does not change with the version of protoc that made it.

Needs the `dev` extra (grpcio-tools, betterproto2-compiler, ruff).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
PROTO_DIR = ROOT / "proto"
PROTO = "tvarr/v1/ffmpegd.proto"
OUTPUT = Path(__file__).parent / "v1"

_HEADER = "# Made by `python -m tvarr.wire.generate` from proto/tvarr/v1/ffmpegd.proto. Do not edit.\n"
_POOL_IMPORT = "from ...message_pool import default_message_pool\n"
_OWN_POOL = "default_message_pool = betterproto2.MessagePool()\n"
_HEADLINE = re.compile(r"^ *-{20,} .*\n\n?", re.MULTILINE)  # of a section of the file, not of the class after it
_BYTES_PER_LINE = 30


def generate() -> dict[str, str]:
    """Runs protoc and returns the text of each module of `tvarr/wire/v1` by file name."""
    with tempfile.TemporaryDirectory(prefix="tvarr-wire-") as folder:
        descriptors = Path(folder) / "descriptors.bin"
        _protoc(Path(folder), descriptors)
        dataclasses = (Path(folder) / "tvarr" / "v1" / "__init__.py").read_text()
        files = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    if dataclasses.count(_POOL_IMPORT) != 1:
        raise SystemExit("betterproto2's output has another shape than this script knows: no import of the pool")
    return {
        "__init__.py": f'{_HEADER}"""Generated code of the wire protocol."""\n',
        "ffmpegd.py": _HEADER + _HEADLINE.sub("", dataclasses).replace(_POOL_IMPORT, _OWN_POOL),
        "ffmpegd_pb2.py": "\n".join([*_upb_module(files[0]), ""]),
    }


def _protoc(folder: Path, descriptors: Path) -> None:
    """Writes betterproto2's package into `folder`, and the file's descriptor without comments to `descriptors`."""
    programs = Path(sys.executable).parent  # the plugin and ruff, which the plugin runs, stand beside the interpreter
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO_DIR}"),
        f"--plugin=protoc-gen-python_betterproto2={programs / 'protoc-gen-python_betterproto2'}",
        f"--python_betterproto2_out={folder}",
        "--python_betterproto2_opt=client_generation=none,server_generation=none",
        f"--descriptor_set_out={descriptors}",
        PROTO,
    ]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"protoc failed:\n{done.stdout}{done.stderr}")


def _upb_module(file: FileDescriptorProto) -> Iterator[str]:
    """The lines of the module with protobuf's own classes."""
    yield _HEADER.rstrip()
    yield '"""The messages as classes of protobuf\'s own runtime."""\n'
    yield "from google.protobuf import descriptor_pool, message_factory\n"
    yield "DESCRIPTOR = descriptor_pool.Default().AddSerializedFile("
    serialized = file.SerializeToString(deterministic=True)
    for start in range(0, len(serialized), _BYTES_PER_LINE):
        yield f"    {serialized[start : start + _BYTES_PER_LINE]!r}"
    yield ")\n"
    for message in sorted(message.name for message in file.message_type):
        yield f'{message} = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["{message}"])'


def differences(folder: Path = OUTPUT) -> list[str]:
    """Names the files of `folder` that are not what would be made now; empty when all are."""
    made = generate()
    there = {path.name: path.read_text() for path in folder.glob("*.py")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes tvarr/wire/v1 from the .proto file.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would change")
    if parser.parse_args().check:
        if stale := differences():
            sys.stderr.write(f"not as generated: {', '.join(stale)}; run `python -m tvarr.wire.generate`\n")
        return 1 if stale else 0
    OUTPUT.mkdir(exist_ok=True)
    for name, text in generate().items():
        (OUTPUT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
