"""Who a daemon says it is, and what it tells."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from tvarr.cluster.model import Capabilities, Encoder, Family
from tvarr.ffmpegd import describe
from tvarr.hwaccel.model import GpuStats, HostStats, PoolUsage, SystemStats
from tvarr.hwaccel.stats import StatsReader
from tvarr.media.model import Codec
from tvarr.wire import codec, messages


def test_the_id_is_the_same_at_each_start_and_another_for_another_name(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("4e1243bd22c66e76c2ba9eddc1f91394e57f9f83\n")
    ids = [describe.daemon_id(name, tmp_path, installed=tmp_path / "machine-id") for name in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]
    assert UUID(ids[0]).version == 5
    assert not (tmp_path / "identity").exists()


def test_without_a_machine_id_the_identity_is_kept_in_the_work_folder(tmp_path: Path) -> None:
    missing, folder = tmp_path / "none", tmp_path / "state" / "tvarr"
    first = describe.daemon_id("a", folder, installed=missing)
    assert describe.daemon_id("a", folder, installed=missing) == first
    assert describe.daemon_id("a", tmp_path / "other", installed=missing) != first


def test_without_any_place_to_keep_it_the_host_name_has_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "sub"
    ids = {describe.daemon_id("a", folder, installed=tmp_path / "none") for _ in range(2)}
    assert len(ids) == 1


def test_the_machine_is_the_running_kernel(tmp_path: Path) -> None:
    boot, installed = tmp_path / "boot", tmp_path / "machine-id"
    installed.write_text("baked into an image")
    by_image = describe.machine_id(boot=boot, installed=installed)
    boot.write_text("f2c3")
    by_kernel = describe.machine_id(boot=boot, installed=installed)
    assert by_image != by_kernel
    installed.write_text("another container")
    assert describe.machine_id(boot=boot, installed=installed) == by_kernel
    assert "f2c3" not in by_kernel


def test_no_software_means_video_only() -> None:
    x264 = Encoder("libx264", Codec.H264, Family.SOFTWARE, verified=True)
    aac = Encoder("aac", Codec.AAC, Family.SOFTWARE)
    nvenc = Encoder("h264_nvenc", Codec.H264, Family.NVENC)
    changed = describe.without_software(Capabilities(encoders=(x264, aac, nvenc))).encoders
    assert [e.usable for e in changed] == [False, True, True]
    assert changed[0].reason == "forbidden by --max-cpu-jobs 0"


SYSTEM = SystemStats(12.5, (1.0, 0.5, 0.25), 1, 2, 3, 4, 0.5, None, 0.0, 10.0, 1.5, 100)


def test_a_heartbeat_holds_every_figure() -> None:
    gpu = GpuStats("GPU-a", utilization_percent=50.0, encode_sessions=2, decode_sessions=1)
    stats = HostStats(SYSTEM, (gpu,), (PoolUsage("geforce", 2, 1),))
    job = messages.ActiveJob(job_id="j1", encoder="libx264", speed=1.0)
    sent = describe.heartbeat(stats, [job], sequence=3)
    received = codec.decode_daemon(codec.encode_daemon(sent))
    assert isinstance(received, messages.Heartbeat)
    assert received.system is not None
    assert received.system.memory_pressure_percent is None
    assert received.system.io_pressure_percent == 0.0
    assert received.system.load_average == [1.0, 0.5, 0.25]
    assert {name: getattr(received.gpus[0], name) for name in asdict(gpu)} == asdict(gpu)
    assert (received.pools, received.jobs, received.sequence) == ([messages.PoolUsage("geforce", 2, 1)], [job], 3)


def test_the_figures_of_this_host_fit() -> None:
    reader = StatsReader()
    sent = describe.heartbeat(reader.read(), [], sequence=0)
    reader.close()
    assert codec.decode_daemon(codec.encode_daemon(sent))
