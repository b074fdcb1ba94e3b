from __future__ import annotations

from pathlib import Path

import pytest

from tvarr.cluster.model import Encoder, Family, Gpu, LimitSource, SessionPool
from tvarr.hwaccel.limits import auto_cpu_jobs, auto_jobs, available_cpus, available_memory_bytes, session_pools
from tvarr.media.model import Codec


def nvidia(uuid: str, name: str, *, restricted: bool, engines: int = 1, driver: str = "550.54.14") -> Gpu:
    return Gpu(uuid, name, "nvidia", driver=driver, engines=engines, restricted=restricted)


GEFORCE = nvidia("GPU-a", "NVIDIA GeForce RTX 3090", restricted=True)
OTHER_GEFORCE = nvidia("GPU-b", "NVIDIA GeForce RTX 4090", restricted=True)
QUADRO = nvidia("GPU-q", "Quadro P4000", restricted=False)
H100 = nvidia("GPU-h", "NVIDIA H100 PCIe", restricted=False, engines=0)
INTEL = Gpu("0000:00:02.0", "Intel GPU", "intel", engines=1)


def test_geforces_share_one_pool_and_a_quadro_has_its_own() -> None:
    gpus, pools = session_pools((GEFORCE, OTHER_GEFORCE, QUADRO, H100, INTEL))
    assert [gpu.pool for gpu in gpus] == ["nvidia-host", "nvidia-host", "GPU-q", "", "0000:00:02.0"]
    host, quadro, intel = pools
    assert host == SessionPool("nvidia-host", 8, LimitSource.DRIVER_TABLE, "driver 550.54.14: 8")
    assert (quadro.limit, quadro.source) == (None, LimitSource.UNLIMITED)
    assert (intel.limit, intel.source) == (None, LimitSource.UNLIMITED)


def test_a_number_overrides_every_pool() -> None:
    _, pools = session_pools((GEFORCE, OTHER_GEFORCE, QUADRO), 3)
    assert [(p.id, p.limit, p.source) for p in pools] == [
        ("nvidia-host", 3, LimitSource.OVERRIDE),
        ("GPU-q", 3, LimitSource.OVERRIDE),
    ]


def test_one_gpu_is_overridden() -> None:
    gpus, pools = session_pools((GEFORCE, OTHER_GEFORCE), {"GPU-b": 40})
    assert [gpu.pool for gpu in gpus] == ["nvidia-host", "GPU-b"]
    assert [(p.id, p.limit, p.source) for p in pools] == [
        ("nvidia-host", 8, LimitSource.DRIVER_TABLE),
        ("GPU-b", 40, LimitSource.OVERRIDE),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_an_unknown_model_is_told(order: int) -> None:
    strange = nvidia("GPU-s", "NVIDIA Something 9", restricted=True)
    _, (pool,) = session_pools((strange, GEFORCE)[::order])
    assert pool.limit == 8
    assert pool.detail == "driver 550.54.14: 8; NVIDIA Something 9 is unknown and taken as restricted"


def test_an_unknown_driver_is_told() -> None:
    _, (pool,) = session_pools((nvidia("GPU-a", "NVIDIA GeForce RTX 3090", restricted=True, driver=""),))
    assert (pool.limit, pool.source) == (2, LimitSource.UNKNOWN)
    assert "lowest" in pool.detail


def test_a_restricted_card_whose_engines_nobody_counted_draws_from_the_pool() -> None:
    (gpu,), pools = session_pools((nvidia("GPU-a", "NVIDIA GeForce RTX 3090", restricted=True, engines=0),))
    assert (gpu.pool, len(pools)) == ("nvidia-host", 1)


def encoder(device: str, family: Family = Family.NVENC, *, usable: bool = True) -> Encoder:
    return Encoder("h264_x", Codec.H264, family, device, usable=usable)


@pytest.mark.parametrize(
    ("encoders", "jobs"),
    [
        pytest.param([encoder("", Family.SOFTWARE)], 4 + 8, id="software and audio"),
        pytest.param([encoder("GPU-a")], 4 + 8 + 8, id="the driver's sessions"),
        pytest.param([encoder("GPU-q")], 4 + 8 + 8, id="a guess where there is no limit"),
        pytest.param([encoder("GPU-a"), encoder("GPU-q")], 4 + 8 + 8 + 8, id="both"),
        pytest.param([encoder("GPU-a", usable=False)], 4 + 8, id="hardware that does not work"),
        pytest.param([encoder("", Family.V4L2M2M)], 4 + 8 + 8, id="a device that is no GPU"),
    ],
)
def test_jobs_by_what_works(encoders: list[Encoder], jobs: int) -> None:
    gpus, pools = session_pools((GEFORCE, QUADRO))
    assert auto_jobs(4, 4, gpus, pools, encoders) == jobs
    assert auto_jobs(1, 4, gpus, pools, encoders) == jobs - 3, "sound is encoded however few may encode video"


def test_one_software_encode_a_processor() -> None:
    assert [auto_cpu_jobs(count) for count in (0, 1, 16)] == [1, 1, 16]


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000\n", 1), ("100000 100000\n", 1), ("160000 100000\n", 2)])
def test_a_containers_quota_counts(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cpus(tmp_path) == min(expected, available_cpus(tmp_path / "none"))


@pytest.mark.parametrize("quota", ["max 100000\n", "999999999 100000\n", "garbage", "1 0\n", None])
def test_without_a_quota(tmp_path: Path, quota: str | None) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert available_cpus(tmp_path) == available_cpus(tmp_path / "none") >= 1


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    host = available_memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("104857600\n")
    assert available_memory_bytes(tmp_path) == 104857600 < host
    for unlimited in ("max\n", f"{1 << 62}\n"):
        (tmp_path / "memory.max").write_text(unlimited)
        assert available_memory_bytes(tmp_path) == host
