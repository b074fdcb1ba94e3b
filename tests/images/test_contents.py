"""What the images have, what they don't, and how large they are."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.images.engine import Image
from tvarr import __version__

MB = 1e6
ENCODERS = re.compile(
    r"/lib(avcodec|avformat|avfilter|avutil|swscale|x264|x265|SvtAv1Enc|aom|vpx|va|vpl|mfx)\b[^/]*\.so"
)
TOOLS = {"ffmpeg", "ffprobe", "gcc", "cc", "c++", "g++", "clang", "as", "ld", "make", "pip", "pip3", "git", "curl"}


def names(image: Image) -> set[str]:
    return {PurePosixPath(path).name for path in image.files()}


def test_sizes(default: Image, coordinator: Image, ffmpegd: Image) -> None:
    sizes = {image.name: image.size() / MB for image in (default, coordinator, ffmpegd)}
    share = sizes["tvarr-coordinator"] / sizes["tvarr"]
    print(*(f"{name} {size:.0f} MB" for name, size in sizes.items()), f"share {share:.0%}", sep=", ")
    assert share <= 0.40
    assert sizes["tvarr-ffmpegd"] == pytest.approx(sizes["tvarr"], rel=0.01)


def test_the_coordinators_has_no_ffmpeg_and_no_tools(coordinator: Image) -> None:
    files = set(coordinator.files())
    assert not [path for path in files if ENCODERS.search(path)]
    assert not TOOLS & {PurePosixPath(path).name for path in files if "/bin/" in path or "/sbin/" in path}
    assert not [path for path in files if "imageio_ffmpeg" in path]


@pytest.mark.parametrize("name", ["default", "coordinator"])
def test_there_is_nothing_that_only_builds_or_tests(name: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    ours = [path for path in image.files() if path.startswith("/opt/tvarr/")]
    assert ours
    assert not [path for path in ours if re.search(r"/tests?/|/pip/|\.(pyi|pyx|pxd|c|h|whl)$|/bin/pip", path)]
    assert any(path.endswith(".pyc") for path in ours), "it would compile itself at each start"
    kept = [path for path in image.files() if re.match(r"/var/(lib/apt/lists|cache/apt)/.+|/root/\.cache/.+", path)]
    assert not kept


@pytest.mark.parametrize("name", ["default", "coordinator", "ffmpegd"])
def test_what_handles_media_is_compiled(name: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    modules = [
        path
        for path in image.files()
        if re.search(r"/site-packages/tvarr/media/.*\.py$", path) and not path.endswith("/__init__.py")
    ]
    assert modules
    compiled = {path.partition(".cpython-")[0] for path in image.files() if ".cpython-" in path}
    assert not {path.removesuffix(".py") for path in modules} - compiled
    done = image.run("python", "-c", "from tvarr.media.mpegts import demux; print(demux.__file__)")
    assert done.stdout.strip().endswith(".so"), done


def test_the_default_has_ffmpeg_and_the_drivers(default: Image) -> None:
    assert {"ffmpeg", "ffprobe", "iHD_drv_video.so", "radeonsi_drv_video.so", "libmfx-gen.so.1.2"} <= {
        re.sub(r"(libmfx-gen\.so\.1\.2).*", r"\1", name) for name in names(default)
    }
    done = default.run("ffmpeg", "-v", "error", "-encoders")
    assert done.returncode == 0
    for encoder in ("libx264", "libx265", "libsvtav1", "aac", "h264_nvenc", "hevc_nvenc", "h264_vaapi", "h264_qsv"):
        assert f" {encoder} " in done.stdout, encoder


@pytest.mark.parametrize(
    ("name", "title"), [("default", "tvarr"), ("coordinator", "tvarr-coordinator"), ("ffmpegd", "tvarr-ffmpegd")]
)
def test_what_the_image_says_of_itself(name: str, title: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    assert image.name == title
    config = image.config
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert set(config["Volumes"]) == {"/data"}
    assert config["Healthcheck"]["Test"] == ["CMD", "tvarr", "health"]
    assert config["StopSignal"] in {"SIGTERM", "15"}
    entrypoint = ["tini", "-s", "--", "as-user.sh", "run-roles.sh"]
    assert config["Entrypoint"] == [*entrypoint, "ffmpegd"] if name == "ffmpegd" else entrypoint
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == ("tvarr", __version__, "Apache-2.0")
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert re.fullmatch(r"\S+/debian:\d+\.\d+-slim", labels["base.name"])
    environment = image.environment
    assert (environment["TVARR_DATA_DIR"], environment["TVARR_LOG_FORMAT"]) == ("/data", "json")
    if name == "coordinator":
        assert not any(key.startswith("NVIDIA") for key in environment)
    else:
        assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
        assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"video", "compute", "utility"}


def test_nobody_but_root_can_change_the_program(default: Image) -> None:
    for path in (default.root / "opt/tvarr").rglob("*"):
        if not path.is_symlink():
            assert (path.stat().st_uid, path.stat().st_mode & 0o022) == (0, 0), path
