from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hwaccel.sysfs import add_render_node
from tvarr.hwaccel.drm import amdgpu_stats, problem_of, render_nodes


def test_lists_nodes_by_number(tmp_path: Path) -> None:
    add_render_node(tmp_path, 129, address="0000:03:00.0", driver="amdgpu", ids="1002:73bf", product_name="Radeon X")
    add_render_node(tmp_path, 128, address="0000:00:02.0", driver="i915", ids="8086:46a6")
    add_render_node(tmp_path, 130, address="fde60000.gpu", driver="panthor")
    intel, amd, arm = render_nodes(tmp_path / "sys", tmp_path / "dev")
    assert (intel.node, intel.address) == (str(tmp_path / "dev/dri/renderD128"), "0000:00:02.0")
    assert (intel.vendor, intel.driver, intel.name, intel.problem) == ("intel", "i915", "Intel GPU 46a6 (i915)", "")
    assert (amd.vendor, amd.name) == ("amd", "Radeon X")
    assert (arm.vendor, arm.address, arm.name) == ("panthor", "fde60000.gpu", "panthor GPU")


def test_a_host_without_graphics(tmp_path: Path) -> None:
    assert render_nodes(tmp_path / "sys", tmp_path / "dev") == ()


def test_attributes_that_are_garbage(tmp_path: Path) -> None:
    device = add_render_node(tmp_path, 128, address="0000:00:02.0", driver="i915")
    (device / "vendor").write_bytes(b"\xff\x00not a number" * 1000)
    (node,) = render_nodes(tmp_path / "sys", tmp_path / "dev")
    assert node.vendor == "i915"


def test_a_node_that_the_container_was_not_given(tmp_path: Path) -> None:
    add_render_node(tmp_path, 128, address="0000:00:02.0", driver="i915", ids="8086:46a6")
    (tmp_path / "dev/dri/renderD128").unlink()
    (node,) = render_nodes(tmp_path / "sys", tmp_path / "dev")
    assert "is missing" in node.problem
    assert "--device" in node.problem


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may open everything; what a plain user sees takes another effective user."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="tvarr-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("mode", "said"), [(0o060, "belongs to group"), (0o000, "its mode is 000")])
def test_a_node_without_permission(open_folder: Path, mode: int, said: str) -> None:
    node = open_folder / "renderD128"
    node.touch()
    node.chmod(mode)
    with as_nobody():
        problem = problem_of(node)
    assert problem.startswith(f"{node} may not be opened")
    assert said in problem
    if "group" in said:
        assert re.search(rf"group (\S+ \()?{node.stat().st_gid}\b", problem)


def test_what_an_amd_gpu_does(tmp_path: Path) -> None:
    device = add_render_node(
        tmp_path,
        128,
        address="0000:03:00.0",
        driver="amdgpu",
        ids="1002:73bf",
        gpu_busy_percent="37",
        mem_info_vram_used="1073741824",
        mem_info_vram_total="17163091968",
    )
    sensors = device / "hwmon" / "hwmon3"
    sensors.mkdir(parents=True)
    (sensors / "temp1_input").write_text("54000\n")
    (sensors / "power1_average").write_text("42000000\n")
    stats = amdgpu_stats("0000:03:00.0", device)
    assert (stats.utilization_percent, stats.memory_used_bytes) == (37.0, 2**30)
    assert (stats.memory_total_bytes, stats.temperature_celsius, stats.power_watts) == (17163091968, 54.0, 42.0)
    assert stats.encode_sessions is None
    (sensors / "power1_average").rename(sensors / "power1_input")
    assert amdgpu_stats("0000:03:00.0", device).power_watts == 42.0


def test_an_amd_gpu_that_tells_nothing(tmp_path: Path) -> None:
    stats = amdgpu_stats("0000:03:00.0", tmp_path / "gone")
    assert stats.utilization_percent is None
    assert stats.power_watts is None
