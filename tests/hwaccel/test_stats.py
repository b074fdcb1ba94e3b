from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.nvml import Card, FakeNvmlLibrary, loaded
from tests.hwaccel.sysfs import add_render_node
from tvarr.cluster.model import Gpu, SessionPool
from tvarr.hwaccel.model import OwnSessions, PoolUsage
from tvarr.hwaccel.stats import StatsReader, pressure_percent

FIRST = Gpu("GPU-aaaa", "NVIDIA GeForce RTX 3090", "nvidia", pool="nvidia-host", restricted=True)
SECOND = Gpu("GPU-bbbb", "NVIDIA GeForce RTX 4090", "nvidia", pool="nvidia-host", restricted=True)
AMD = Gpu("0000:03:00.0", "Radeon", "amd", pool="0000:03:00.0")
NOUVEAU = Gpu("0000:05:00.0", "NVIDIA GPU", "nvidia", driver="nouveau")
POOLS = (SessionPool("nvidia-host", 8), SessionPool("0000:03:00.0", None))


@pytest.fixture
def library() -> Iterator[FakeNvmlLibrary]:
    with loaded(FakeNvmlLibrary((Card("GPU-aaaa", "x", sessions=3), Card("GPU-bbbb", "y", sessions=0)))) as fake:
        yield fake


def test_gpus_and_pools(tmp_path: Path, library: FakeNvmlLibrary) -> None:
    add_render_node(tmp_path, 128, address=AMD.id, driver="amdgpu", ids="1002:73bf", gpu_busy_percent="37")
    reader = StatsReader((FIRST, SECOND, AMD, NOUVEAU), POOLS, sys_root=tmp_path / "sys")
    own = {"GPU-aaaa": OwnSessions(encode=1, decode=2), "GPU-bbbb": OwnSessions(encode=2), AMD.id: OwnSessions(1, 1)}
    read = reader.read(own)
    assert [gpu.id for gpu in read.gpus] == ["GPU-aaaa", "GPU-bbbb", AMD.id, NOUVEAU.id]
    assert [gpu.encode_sessions for gpu in read.gpus] == [3, 0, None, None]
    assert [gpu.decode_sessions for gpu in read.gpus] == [2, 0, 1, 0]
    assert read.gpus[2].utilization_percent == 37.0
    # Two of ours on the second GPU are younger than the driver's count.
    assert read.pools == (PoolUsage("nvidia-host", active=5, own=3), PoolUsage(AMD.id, active=1, own=1))


def test_a_driver_that_is_lost_leaves_what_we_know(tmp_path: Path, library: FakeNvmlLibrary) -> None:
    reader = StatsReader((FIRST,), POOLS[:1], sys_root=tmp_path)
    library.lost = True
    read = reader.read({"GPU-aaaa": OwnSessions(encode=1)})
    assert read.gpus[0].encode_sessions is None
    assert read.pools == (PoolUsage("nvidia-host", active=1, own=1),)
    library.lost = False
    assert reader.read().gpus[0].encode_sessions == 3
    reader.close()
    assert library.opened == library.closed


def test_the_host() -> None:
    reader = StatsReader()
    system = reader.read().system
    assert 0 <= system.cpu_percent <= 100
    assert 0 < system.memory_used_bytes < system.memory_total_bytes == psutil.virtual_memory().total
    assert system.process_memory_bytes > 2**20
    assert system.process_cpu_s > 0
    assert len(system.load_average) == 3
    busy = sum(i * i for i in range(300_000))
    later = reader.read().system
    assert busy
    assert later.process_cpu_s >= system.process_cpu_s
    assert later.uptime_s > system.uptime_s


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        (
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n",
            12.34,
        ),
        ("", None),
        ("some avg10=x\n", None),
        (None, None),
    ],
)
def test_pressure(tmp_path: Path, text: str | None, percent: float | None) -> None:
    file = tmp_path / "cpu"
    if text is not None:
        file.write_text(text)
    assert pressure_percent(file) == percent


def test_pressure_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("some avg10=3.50 avg60=0 avg300=0 total=1\n")
    system = StatsReader(pressure=tmp_path).read().system
    assert (system.cpu_pressure_percent, system.memory_pressure_percent, system.io_pressure_percent) == (
        None,
        3.5,
        None,
    )
