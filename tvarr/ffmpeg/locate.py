"""Finds the ffmpeg that a role will run: the one that was named, else PATH's, else the `imageio-ffmpeg` wheel's."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tvarr.errors import StartError

log = logging.getLogger(__name__)

MINIMUM_RELEASE = (5, 1)
"""`-fps_mode passthrough` came with 5.1; without it and `-enc_time_base` time stamps do not survive a transcode."""

VERSION_TIMEOUT_S = 10.0
MAX_WORDS = 200  # characters of what a program says instead

_BANNER = re.compile(r"^ffmpeg version (\S+)")
_RELEASE = re.compile(r"^n?(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])")
_LIBAVCODEC = re.compile(r"^libavcodec\s+(\d+)\.\s*(\d+)\.", re.MULTILINE)
# FFmpeg 5.0 carries libavcodec 59.18 and 5.1 59.37; each later major version of the two grew by one together.
_LIBAVCODEC_OF_5 = 59
_LIBAVCODEC_MINOR_OF_5_1 = 37


@dataclass(frozen=True, slots=True)
class FfmpegBinary:
    """An ffmpeg that runs and is new enough."""

    path: str
    version: str  # as the banner says it: "5.1.9-0+deb12u1", "N-118193-g5f38c82536"
    release: tuple[int, ...]  # (5, 1, 9); for a git snapshot the release that its libavcodec belongs to
    found: str  # how it was found: "--ffmpeg", "PATH", "imageio-ffmpeg wheel"


class _UnusableError(Exception):
    """Why one candidate can't be used, in words."""


def parse_version(banner: str) -> tuple[str, tuple[int, ...]] | None:
    """Reads the output of `ffmpeg -version`.

    Returns the version string and the release as numbers, or None where it is not ffmpeg's output. Snapshots of git
    ("N-118193-g5f38c82536") name no release; libavcodec's version stands in for it.
    """
    named = _BANNER.match(banner)
    if named is None:
        return None
    version = named[1]
    if release := _RELEASE.match(version):
        return version, tuple(int(number) for number in release.groups(default="0"))
    library = _LIBAVCODEC.search(banner)
    if library is None:
        return None
    major = int(library[1]) - _LIBAVCODEC_OF_5 + 5
    minor = int(major == 5 and int(library[2]) >= _LIBAVCODEC_MINOR_OF_5_1)
    return version, (major, minor, 0)


def find_ffmpeg(explicit: str | None = None) -> FfmpegBinary:
    """Finds a usable ffmpeg. `explicit` (a path, or a name on PATH) is the only one tried where it is given.

    Raises `StartError` with one line that names what was tried and why it can't be used.
    """
    if explicit:
        candidates: list[tuple[str, str | None]] = [("--ffmpeg", shutil.which(explicit) or explicit)]
    else:
        candidates = [("PATH", shutil.which("ffmpeg")), ("imageio-ffmpeg wheel", _wheel())]
    failures: list[str] = []
    for found, path in candidates:
        try:
            binary = _examine(path, found)
        except _UnusableError as unusable:
            failures.append(f"{found}: {unusable}")
            continue
        if failures and candidates[0][1] is not None:
            log.warning("another ffmpeg would have been preferred: %s", failures[0])
        return binary
    raise StartError("no usable ffmpeg: " + "; ".join(failures))


def _wheel() -> str | None:
    """The path of the binary inside the wheel; None where the wheel or the binary for this platform is missing."""
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def _examine(path: str | None, found: str) -> FfmpegBinary:
    if path is None:
        if found == "PATH":
            raise _UnusableError(f"no executable ffmpeg in {os.environ.get('PATH', '') or 'an empty PATH'}")
        raise _UnusableError("not installed (pip install imageio-ffmpeg)")
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _UnusableError(f"{path} does not exist") from None
    except OSError as error:
        raise _UnusableError(f"{path} can't be looked at: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise _UnusableError(f"{path} is not a file")
    if not os.access(path, os.X_OK):
        why = " by this user, or its disk is mounted noexec" if mode & 0o111 else ""
        raise _UnusableError(f"{path} is not executable{why}")
    version, release = _version(path)
    if release[:2] < MINIMUM_RELEASE:
        raise _UnusableError(f"{path} is version {version}, too old: 5.1 or newer is needed for -fps_mode")
    return FfmpegBinary(path=path, version=version, release=release, found=found)


def _version(path: str) -> tuple[str, tuple[int, ...]]:
    try:
        done = subprocess.run(
            [path, "-hide_banner", "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _UnusableError(f"{path} did not answer `-version` within {VERSION_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _UnusableError(f"{path} can't be run: {error.strerror or error}") from None
    if parsed := parse_version(done.stdout.decode(errors="replace")):
        return parsed
    if done.returncode < 0:
        raise _UnusableError(f"{path} did not answer `-version`: it died of signal {-done.returncode}")
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode and said:
        raise _UnusableError(f"{path} does not run: {said[-1][:MAX_WORDS]}")
    raise _UnusableError(f"{path} is not ffmpeg: `-version` does not answer as ffmpeg does")
