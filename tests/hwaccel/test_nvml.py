from __future__ import annotations

from collections.abc import Iterator

import pynvml
import pytest

from tests.fakes.nvml import Card, FakeNvmlLibrary, loaded
from tvarr.hwaccel.nvml import Nvml

ADA = Card("GPU-aaaa", "NVIDIA GeForce RTX 4090", pci_bus=0x65, sessions=2)
TURING = Card("GPU-bbbb", "Tesla T4", pci_bus=0x17, architecture=6)


@pytest.fixture
def library() -> Iterator[FakeNvmlLibrary]:
    with loaded(FakeNvmlLibrary((ADA, TURING))) as fake:
        yield fake


def test_lists_gpus(library: FakeNvmlLibrary) -> None:
    found = Nvml().gpus()
    assert found.driver == "550.54.14"
    assert found.reason == ""
    first, second = found.gpus
    assert (first.uuid, first.name, first.index) == ("GPU-aaaa", "NVIDIA GeForce RTX 4090", 0)
    assert (first.pci_address, first.architecture, first.memory_bytes) == ("0000:65:00.0", "Ada", 24 * 2**30)
    assert (second.uuid, second.index, second.architecture) == ("GPU-bbbb", 1, "Turing")


def test_tells_what_a_gpu_does(library: FakeNvmlLibrary) -> None:
    stats = Nvml().stats("GPU-aaaa")
    assert stats is not None
    assert (stats.utilization_percent, stats.encoder_percent, stats.decoder_percent) == (12.0, 34.0, 5.0)
    assert (stats.memory_used_bytes, stats.memory_total_bytes) == (6 * 2**30, 24 * 2**30)
    assert (stats.temperature_celsius, stats.power_watts, stats.encode_sessions) == (55.0, 123.4, 2)


def test_what_the_driver_refuses_is_none_and_the_rest_stays() -> None:
    refused = {
        "nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetEncoderUtilization": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetPciInfo_v3": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetArchitecture": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    }
    with loaded(FakeNvmlLibrary((Card("GPU-cccc", "NVIDIA A10", refuses=refused),))):
        nvml = Nvml()
        (gpu,) = nvml.gpus().gpus
        stats = nvml.stats("GPU-cccc")
    assert (gpu.pci_address, gpu.architecture, gpu.name) == ("", "", "NVIDIA A10")
    assert stats is not None
    assert (stats.power_watts, stats.encoder_percent) == (None, None)
    assert (stats.decoder_percent, stats.temperature_celsius) == (5.0, 55.0)


def test_a_gpu_that_may_not_be_used_does_not_hide_the_others() -> None:
    locked = Card("GPU-dddd", "NVIDIA A10", refuses={"nvmlDeviceGetUUID": pynvml.NVML_ERROR_NO_PERMISSION})
    with loaded(FakeNvmlLibrary((locked, TURING))):
        found = Nvml().gpus()
    assert [(gpu.uuid, gpu.index) for gpu in found.gpus] == [("GPU-bbbb", 1)]
    assert "GPU 0" in found.reason
    assert "may not be used by this user" in found.reason


def test_a_name_that_is_no_text() -> None:
    with loaded(FakeNvmlLibrary((Card("GPU-eeee", "\xff\xfe"),))):
        assert [gpu.name for gpu in Nvml().gpus().gpus] == ["NVIDIA GPU"]


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"{name}: cannot open")))
    nvml = Nvml()
    found = nvml.gpus()
    assert found.gpus == ()
    assert "no NVIDIA driver (libnvidia-ml.so.1 is missing)" in found.reason
    assert nvml.stats("GPU-aaaa") is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "kernel module is not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions"),
        (pynvml.NVML_ERROR_UNKNOWN, "restart the container"),
        (pynvml.NVML_ERROR_TIMEOUT, "NVML answers"),
    ],
)
def test_a_driver_that_does_not_start(error: int, said: str) -> None:
    with loaded(FakeNvmlLibrary((ADA,), init_error=error)):
        found = Nvml().gpus()
    assert found.gpus == ()
    assert said in found.reason


def test_a_driver_without_gpus() -> None:
    with loaded(FakeNvmlLibrary(())):
        assert Nvml().gpus().reason == "the NVIDIA driver sees no GPU"


def test_comes_back_after_the_driver_was_lost(library: FakeNvmlLibrary) -> None:
    nvml = Nvml()
    assert nvml.stats("GPU-aaaa") is not None
    library.lost = True
    assert nvml.stats("GPU-aaaa") is None
    assert "Unknown Error" in nvml.gpus().reason
    library.lost = False
    assert nvml.stats("GPU-aaaa") is not None
    nvml.close()
    assert library.opened == library.closed


def test_a_gpu_that_is_gone(library: FakeNvmlLibrary) -> None:
    assert Nvml().stats("GPU-none") is None
