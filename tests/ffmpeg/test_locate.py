from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import lacking
from tvarr.errors import StartError
from tvarr.ffmpeg import locate
from tvarr.ffmpeg.locate import find_ffmpeg, parse_version

LIBRARIES = "built with gcc\nlibavutil      57. 28.100 / 57. 28.100\nlibavcodec     {} / {}\n"


def banner(version: str, libavcodec: str = "59. 37.100") -> str:
    return f"ffmpeg version {version} Copyright (c) 2000-2026 the FFmpeg developers\n" + LIBRARIES.format(
        libavcodec, libavcodec
    )


def stand_in(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "libavcodec", "release"),
    [
        ("5.1.9-0+deb12u1", "59. 37.100", (5, 1, 9)),
        ("n7.1", "61. 19.100", (7, 1, 0)),
        ("7.0.2-static", "61.  3.100", (7, 0, 2)),
        ("n9.0.2-17-g2a571b6068-20260930", "63.  1.102", (9, 0, 2)),
        ("4.4.2-0ubuntu0.22.04.1", "58.134.100", (4, 4, 2)),
        pytest.param("N-118193-g5f38c82536", "61. 33.100", (7, 0, 0), id="snapshot after 7.0"),
        pytest.param("git-2022-02-01-abcdef0", "59. 20.100", (5, 0, 0), id="snapshot before 5.1"),
        pytest.param("2022-09-01-git-abcdef0", "59. 42.100", (5, 1, 0), id="snapshot named by its date"),
    ],
)
def test_versions(version: str, libavcodec: str, release: tuple[int, ...]) -> None:
    assert parse_version(banner(version, libavcodec)) == (version, release)


@pytest.mark.parametrize("text", ["", "bash: no such file", "ffprobe version 5.1", "ffmpeg version unknowable"])
def test_what_is_not_ffmpeg(text: str) -> None:
    assert parse_version(text) is None


def test_the_one_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stand_in(tmp_path, "ffmpeg", f"print({banner('7.1.1')!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = find_ffmpeg()
    assert (binary.path, binary.version, binary.release, binary.found) == (str(path), "7.1.1", (7, 1, 1), "PATH")


def test_the_wheel_stands_in_for_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if locate._wheel() is None:
        lacking("the imageio-ffmpeg wheel")
    stand_in(tmp_path, "ffmpeg", f"print({banner('4.4', '58.134.100')!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = find_ffmpeg()
    assert binary.found == "imageio-ffmpeg wheel"
    assert binary.release >= locate.MINIMUM_RELEASE
    assert "would have been preferred: PATH" in caplog.text
    caplog.clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_ffmpeg() == binary
    assert not caplog.records


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f"print({banner('4.4', '58.134.100')!r})", "too old: 5.1 or newer"),
        ("print('hello')", "is not ffmpeg"),
        ("import time; time.sleep(60)", "did not answer"),
        (
            "import sys; sys.exit('libavdevice.so.59: cannot open shared object file')",
            "does not run: libavdevice.so.59: c",
        ),
        ("import os; os.kill(os.getpid(), 4)", "it died of signal 4"),
    ],
)
def test_an_explicit_one_that_is_no_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.setattr(locate, "VERSION_TIMEOUT_S", 0.5)
    path = stand_in(tmp_path, "myffmpeg", body)
    with pytest.raises(StartError, match=words) as raised:
        find_ffmpeg(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_directory_and_not_executable(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELFnot really")
    garbage.chmod(0o755)
    for path, words in [
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is not a file"),
        (plain, "is not executable"),
        (garbage, "can't be run"),
    ]:
        with pytest.raises(StartError, match=words):
            find_ffmpeg(str(path))


def test_one_that_this_user_may_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(StartError, match="can't be looked at: Permission denied"):
        find_ffmpeg(str(tmp_path / "ffmpeg"))


def test_nothing_anywhere_names_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(StartError) as raised:
        find_ffmpeg()
    assert str(tmp_path) in str(raised.value)
    assert "imageio-ffmpeg wheel: not installed (pip install imageio-ffmpeg)" in str(raised.value)
