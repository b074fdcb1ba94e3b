"""What is in the wheel, and that the code finds it there and in a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tvarr import __version__, resources

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installation has it: a wheel of pure Python is unpacked into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if "__pycache__" not in name}


def test_name_and_version(wheel: Path) -> None:
    assert wheel.name == f"tvarr-{__version__}-py3-none-any.whl"


@pytest.mark.parametrize("name", ["templates", "proto", "examples/media"])
def test_the_wheel_has_every_file(unpacked: Path, name: str) -> None:
    assert files_below(ROOT / name)
    assert files_below(unpacked / "tvarr/_data" / name) == files_below(ROOT / name)


def test_the_wheel_has_all_code_and_nothing_of_the_tests(unpacked: Path) -> None:
    code = {name for name in files_below(unpacked / "tvarr") if not name.startswith("_data/")}
    assert code == files_below(ROOT / "tvarr")
    assert {path.name for path in unpacked.iterdir()} == {"tvarr", f"tvarr-{__version__}.dist-info"}


def test_commands_and_license(unpacked: Path) -> None:
    info = unpacked / f"tvarr-{__version__}.dist-info"
    assert (info / "entry_points.txt").read_text().split() == [
        *("[console_scripts]", "tvarr", "=", "tvarr.cli:main", "tvarr-ffmpegd", "=", "tvarr.cli:ffmpegd_main")
    ]
    assert (info / "licenses/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_an_installed_wheel_finds_its_own_files(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "from tvarr import resources\n"
        "for name in ('templates', 'proto', 'examples'): print(resources.path(name))\n"
        "from tvarr.wire import messages\n"
        "from tvarr.cli import main; import sys; sys.argv = ['tvarr', '--version']; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,  # not the checkout, which would come first
        env={**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    data = unpacked / "tvarr/_data"
    assert done.stdout.split() == [str(data / n) for n in ("templates", "proto", "examples")] + ["tvarr", __version__]


def test_a_checkout_finds_its_files() -> None:
    """The tests run on an editable install, which is one."""
    assert resources.path("templates") == ROOT / "templates"
    assert (resources.path("proto") / "tvarr/v1/ffmpegd.proto").is_file()
    assert (resources.path("examples") / "media/demo.ts").is_file()


def test_a_broken_install_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "tvarr")
    with pytest.raises(FileNotFoundError, match="tvarr's own folder 'proto' is missing"):
        resources.path("proto")


def test_the_images_install_what_the_package_needs() -> None:
    """`container/requirements.txt` pins each dependency, to a version that is allowed: `make lock` makes it so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "container/requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in project["dependencies"]:
        needed = Requirement(text)
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), text
