"""What every case is given: where its figures go, in which form it runs, and clips."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests import harness
from tests.bench.report import Report
from tests.clips import make_clip
from tests.conftest import program
from tvarr.media.batching import RAMP_S, SETTLE_S

T = TypeVar("T")
ENCODED_S = 8.0
SETTLED_S = SETTLE_S + RAMP_S + 1.0  # a stream that has run for so long gathers as much as it ever does

cluster = partial(harness.cluster, log_level="info")
"""What is measured runs as users run it."""


@dataclass(slots=True)
class Bench:
    """`full`: the full form, else the quick one. `folder` holds what cases share."""

    report: Report
    full: bool
    folder: Path

    def pick(self, quick: T, full: T) -> T:
        return full if self.full else quick

    def camera(self, size: str = "1920x1080", *, seconds: float = ENCODED_S, repeats: int = 1) -> Path:
        """30 pictures a second at about 8 Mb/s, H.264 with B-frames and AAC. It has noise, so that its bits are real.

        `repeats`: that many times in a row. ffmpeg loses pictures where it decodes such a join: for copying alone.
        """
        once = self.folder / f"camera-{size}-{seconds:g}.ts"
        if not once.exists():
            video = ("-vf", "noise=alls=12:allf=t", "-c:v", "libx264", "-preset", "veryfast", "-g", "60", "-bf", "2")
            make_clip(once, seconds=seconds, size=size, fps="30", video=(*video, *constant(8000, 8000)))
        return once if repeats == 1 else self._repeated(once, repeats)

    def stuffed(self, kbps: int, seconds: float = ENCODED_S, size: str = "320x180") -> Path:
        """A small picture whose bits are filled up to the rate."""
        path = self.folder / f"stuffed-{kbps}-{seconds:g}-{size}.ts"
        if not path.exists():
            video = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-bf", "0")
            make_clip(path, seconds=seconds, size=size, video=(*video, *constant(kbps, kbps // 2)))
        return path

    def _repeated(self, clip: Path, times: int) -> Path:
        """The clip so many times in a row, on one timeline."""
        path = clip.with_stem(f"{clip.stem}-{times}-times")
        if not path.exists():
            command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-stream_loop", str(times - 1)]
            command += ["-i", str(clip), "-map", "0", "-c", "copy", "-f", "mpegts", str(path)]
            subprocess.run(command, check=True, timeout=120)
        return path


def constant(kbps: int, buffer_kb: int) -> tuple[str, ...]:
    """libx264's options for a rate that never falls."""
    rate = ("-b:v", f"{kbps}k", "-minrate", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{buffer_kb}k")
    return (*rate, "-x264-params", "nal-hrd=cbr")
