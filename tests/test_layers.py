"""The layers of the code: imports go down only, and the pure packages do no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tvarr"

# What each part may import of tvarr, besides itself and `errors`.
MAY_IMPORT = {
    "errors": set(),
    "tls": set(),
    "media": set(),
    "cluster": {"media"},
    "ffmpeg": {"media", "cluster"},
    "hwaccel": {"media", "cluster", "ffmpeg"},
    "wire": {"media", "cluster", "tls"},
    "ffmpegd": {
        "media",
        "cluster",
        "ffmpeg",
        "hwaccel",
        "wire",
        "tls",
        "resources",
        "memory",
        "background",
        "listening",
    },
    "coordinator": {"media", "cluster", "wire", "tls", "resources", "memory", "background", "listening"},
    "client": {"media", "cluster", "wire", "tls"},
    "probe": {"media", "cluster", "ffmpeg", "hwaccel"},
    "status": {"tls"},
    "health": set(),
    "config": set(),
    "resources": set(),
    "memory": set(),
    "early": set(),
    "grpc_core": set(),
    "listening": set(),
    "background": {"memory"},
    "demo": {"media", "resources", "config", "tls"},
    "cli": {
        "early",
        "grpc_core",
        "config",
        "coordinator",
        "ffmpegd",
        "probe",
        "status",
        "health",
        "demo",
        "background",
        "hwaccel",
        "ffmpeg",
    },
}
PURE = {"media", "cluster", "ffmpeg/errors.py", "ffmpeg/progress.py"}  # and whatever says so of itself
IMPURE_MODULES = {"asyncio", "socket", "subprocess", "threading", "time", "random", "os", "grpc", "aiohttp"}


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "wire/v1" not in p.as_posix()]


def imported(path: Path) -> Iterator[str]:
    """Every module named by an import, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    part = part_of(relative)
    if part in {"__init__", "__main__"}:
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top != "tvarr" or target in {"", "errors", "__version__", part}:
            continue
        assert target in MAY_IMPORT[part], f"{relative} imports {name}"
        assert not rest.startswith("wire.v1") or part == "wire", f"{relative} imports generated code"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_pure_parts_do_no_io(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    says_so = "Pure." in (ast.get_docstring(ast.parse(path.read_text())) or "")
    if not says_so and not any(relative == pure or relative.startswith(pure + "/") for pure in PURE):
        return
    breaches = {name for name in imported(path) if name.partition(".")[0] in IMPURE_MODULES}
    assert not breaches, f"{relative} imports {breaches}"
