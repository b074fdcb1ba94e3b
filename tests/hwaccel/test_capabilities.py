"""Everything put together: an invented host, an executable stand-in for ffmpeg, and what is remembered of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.ffmpeg_trial import TEXTS, Answer, StandIn, calls
from tests.fakes.nvml import Card, FakeNvmlLibrary, loaded
from tests.hwaccel.sysfs import add_render_node
from tvarr.cluster.model import Encoder, Family, LimitSource
from tvarr.ffmpeg.locate import FfmpegBinary, find_ffmpeg
from tvarr.hwaccel.cache import FILE_NAME, key_of, load, save
from tvarr.hwaccel.capabilities import cpu_model, detect
from tvarr.hwaccel.inventory import Inventory, take_inventory
from tvarr.hwaccel.limits import AUDIO_JOBS_PER_CPU, SESSIONS_OF_UNLIMITED_GPU
from tvarr.media.model import Codec

CARDS = (
    Card("GPU-aaaa", "NVIDIA GeForce RTX 3090", pci_bus=0x65, architecture=7),
    Card("GPU-bbbb", "NVIDIA GeForce RTX 4090", pci_bus=0x17, architecture=8),
    Card("GPU-cccc", "NVIDIA A100-PCIE-40GB", pci_bus=0x99, architecture=7),
)
NAMES = ["h264_nvenc", "av1_nvenc", "h264_vaapi", "libx264", "aac"]


@pytest.fixture
def host(tmp_path: Path) -> Inventory:
    """Two GeForces, one A100 and an Intel GPU; the first GeForce has a render node too."""
    add_render_node(tmp_path, 128, address="0000:00:02.0", driver="i915", ids="8086:46a6")
    add_render_node(tmp_path, 129, address="0000:65:00.0", driver="nvidia", ids="10de:2204")
    with loaded(FakeNvmlLibrary(CARDS)):
        return take_inventory(sys_root=tmp_path / "sys", dev_root=tmp_path / "dev")


def install(folder: Path, *answers: Answer, encoders: list[str] = NAMES) -> FfmpegBinary:
    return find_ffmpeg(str(StandIn(encoders, list(answers)).install(folder)))


def test_an_inventory_knows_each_gpu_once(host: Inventory) -> None:
    assert [(gpu.id, gpu.vendor, Path(gpu.node).name) for gpu in host.gpus] == [
        ("GPU-aaaa", "nvidia", "renderD129"),
        ("GPU-bbbb", "nvidia", ""),
        ("GPU-cccc", "nvidia", ""),
        ("0000:00:02.0", "intel", "renderD128"),
    ]
    assert [(gpu.restricted, gpu.engines) for gpu in host.gpus] == [(True, 1), (True, 2), (False, 0), (False, 1)]
    assert host.gpus[0].driver == "550.54.14"
    assert host.gpus[0].architecture == "Ampere"


def test_a_host_without_a_driver_still_lists_its_render_nodes(tmp_path: Path) -> None:
    add_render_node(tmp_path, 128, address="0000:01:00.0", driver="nouveau", ids="10de:2204")
    (tmp_path / "dev" / "video11").touch()
    with loaded(FakeNvmlLibrary((), init_error=9)):
        inventory = take_inventory(sys_root=tmp_path / "sys", dev_root=tmp_path / "dev")
    assert [(gpu.id, gpu.vendor, gpu.driver, gpu.engines) for gpu in inventory.gpus] == [
        ("0000:01:00.0", "nvidia", "nouveau", 0)
    ]
    assert "kernel module" in inventory.nvidia_reason
    assert inventory.v4l2 == (str(tmp_path / "dev" / "video11"),)


def test_an_unknown_model_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with loaded(FakeNvmlLibrary((Card("GPU-x", "NVIDIA Something 9"),))):
        (gpu,) = take_inventory(sys_root=tmp_path, dev_root=tmp_path).gpus
    assert gpu.restricted
    assert "unknown NVIDIA model" in caplog.text


async def test_the_whole(tmp_path: Path, host: Inventory) -> None:
    binary = install(tmp_path, Answer(["h264_nvenc", "GPU-bbbb"], TEXTS["nvenc full (old driver)"], exits=1))
    found = await detect(binary, inventory=host)
    assert {(e.name, e.device): (e.usable, e.verified) for e in found.encoders} == {
        ("h264_nvenc", "GPU-aaaa"): (True, True),
        ("h264_nvenc", "GPU-bbbb"): (True, False),
        ("h264_nvenc", "GPU-cccc"): (False, False),
        ("av1_nvenc", "GPU-aaaa"): (False, False),
        ("av1_nvenc", "GPU-bbbb"): (True, True),
        ("av1_nvenc", "GPU-cccc"): (False, False),
        ("h264_vaapi", "0000:00:02.0"): (True, True),
        ("libx264", ""): (True, True),
        ("aac", ""): (True, True),
    }
    by_card = [(name, f"GPU-{card * 4}") for card in "abc" for name in ("h264_nvenc", "av1_nvenc")]
    assert [(e.name, e.device) for e in found.encoders] == [
        *by_card,
        ("h264_vaapi", "0000:00:02.0"),
        ("libx264", ""),
        ("aac", ""),
    ]
    assert [(p.id, p.limit, p.source) for p in found.pools] == [
        ("nvidia-host", 8, LimitSource.DRIVER_TABLE),
        ("0000:00:02.0", None, LimitSource.UNLIMITED),
    ]
    assert found.ffmpeg_version == "9.0.2"
    assert found.hwaccels == ("cuda", "vaapi")
    assert found.decoders == {"h264"}
    assert found.max_cpu_jobs == found.cpu_count >= 1
    assert found.max_jobs == found.cpu_count + 8 + SESSIONS_OF_UNLIMITED_GPU + AUDIO_JOBS_PER_CPU * found.cpu_count
    assert found.memory_bytes > 2**20
    assert found.cpu_model
    assert found.os


async def test_what_is_set_counts(tmp_path: Path, host: Inventory, caplog: pytest.LogCaptureFixture) -> None:
    found = await detect(
        install(tmp_path),
        verify=False,
        inventory=host,
        gpu_max_sessions={"GPU-bbbb": 20, "GPU-none": 1},
        max_jobs=7,
        max_cpu_jobs=0,
    )
    assert (found.max_jobs, found.max_cpu_jobs) == (7, 0)
    assert [(p.id, p.limit) for p in found.pools] == [("nvidia-host", 8), ("GPU-bbbb", 20), ("0000:00:02.0", None)]
    assert "GPU-none" in caplog.text
    no_video = await detect(install(tmp_path), verify=False, inventory=host, max_cpu_jobs=0)
    automatic = await detect(install(tmp_path), verify=False, inventory=host)
    assert no_video.max_jobs == automatic.max_jobs - automatic.cpu_count


async def test_without_trials_encoders_are_listed(tmp_path: Path, host: Inventory) -> None:
    binary = install(tmp_path, Answer([], TEXTS["no v4l2"], exits=1))
    found = await detect(binary, verify=False, inventory=host)
    assert calls(Path(binary.path)) == []
    assert not any(e.verified for e in found.encoders)
    assert {e.name for e in found.encoders if e.usable} == set(NAMES)


# ------------------------------------------------------------------------------------------------------ the cache


async def tried_again(binary: FfmpegBinary, host: Inventory, cache: Path) -> list[str]:
    """Detects once more and returns what was tried."""
    before = len(calls(Path(binary.path)))
    await detect(binary, inventory=host, cache_dir=cache)
    names = [word for call in calls(Path(binary.path))[before:] for word in call["args"] if word in NAMES]
    return sorted(names)


async def test_only_failures_are_tried_again(tmp_path: Path, host: Inventory) -> None:
    answers = [Answer(["h264_vaapi", "-low_power"]), Answer(["vaapi"], TEXTS["no entrypoint"], exits=1)]
    binary = install(tmp_path, *answers, Answer(["libx264"], TEXTS["no v4l2"], exits=1))
    cache = tmp_path / "new" / "cache"
    first = await detect(binary, inventory=host, cache_dir=cache)
    assert await tried_again(binary, host, cache) == ["libx264"]
    assert await tried_again(binary, host, cache) == ["libx264"], "what was not tried is not forgotten"
    second = await detect(binary, inventory=host, cache_dir=cache)
    assert second.encoders == first.encoders
    assert next(e.options for e in second.encoders if e.name == "h264_vaapi") == ("low_power",)


def test_a_change_makes_another_key(tmp_path: Path, host: Inventory) -> None:
    binary = install(tmp_path)
    with loaded(FakeNvmlLibrary(CARDS, driver="590.10")):
        newer_driver = take_inventory(sys_root=tmp_path / "sys", dev_root=tmp_path / "dev")
    add_render_node(tmp_path, 131, address="0000:04:00.0", driver="amdgpu", ids="1002:73bf")
    with loaded(FakeNvmlLibrary(CARDS)):
        another_device = take_inventory(sys_root=tmp_path / "sys", dev_root=tmp_path / "dev")
    keys = [key_of(binary, inventory) for inventory in (host, newer_driver, another_device)]
    keys.append(key_of(replace(binary, version="9.0.3"), host))
    Path(binary.path).write_text(Path(binary.path).read_text() + "\n")
    keys.append(key_of(binary, host))
    assert len(set(keys)) == 5
    assert key_of(binary, host) == keys[-1]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'{"key": 1}', b"[" * 100_000, b'"' + b"x" * 2**21 + b'"'),
        *(b'{"key": "k"}', b'{"key": "k", "passed": [[1]]}', b'{"key": "k", "passed": 1}'),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_broken_cache_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert load(tmp_path, "k") == {}


def test_a_cache_of_another_key_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, "k", [Encoder("libx264", Codec.H264, Family.SOFTWARE, verified=True)])
    assert load(tmp_path, "k") == {("libx264", ""): ()}
    assert load(tmp_path, "other") == {}
    assert load(tmp_path / "none", "k") == {}


async def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, host: Inventory, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a file"
    file.touch()
    with caplog.at_level(logging.WARNING):
        found = await detect(install(tmp_path), inventory=host, cache_dir=file)
    assert any(e.verified for e in found.encoders)
    assert "can't write" in caplog.text


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    assert cpu_model(cpuinfo) == "Some CPU @ 3 GHz"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 48.00\n")
    assert cpu_model(cpuinfo) != ""
