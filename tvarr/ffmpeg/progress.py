"""Reads what ffmpeg writes to `-progress`: blocks of `key=value` lines, each closed by `progress=continue` or `end`.

Pure: bytes in, `Progress` out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_BLOCK_BYTES = 64 * 1024
"""A block has about 300 bytes; more than this without an end is not ffmpeg's and is thrown away."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is of use in one block. What ffmpeg does not know (`N/A`) or does not say (frames without video) is zero."""

    frames: int = 0
    fps: float = 0.0
    out_time_us: int = 0  # end of the output so far, under -copyts an absolute time
    speed: float = 0.0  # media time over wall time
    ended: bool = False  # the last block


@dataclass(slots=True)
class ProgressParser:
    """Takes bytes as they come from the pipe, cut anywhere."""

    _rest: bytes = b""
    _block: dict[str, str] = field(default_factory=dict)
    _block_bytes: int = 0

    def feed(self, data: bytes) -> list[Progress]:
        """Returns the blocks that `data` completes, oldest first."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        done = []
        for line in lines:
            key, _, value = line.decode(errors="replace").strip().partition("=")
            if key == "progress":
                done.append(_progress(self._block, ended=value == "end"))
                self._clear()
                continue
            self._block[key] = value.strip()
            self._block_bytes += len(line)
            if self._block_bytes > MAX_BLOCK_BYTES:
                self._clear()
        if len(self._rest) > MAX_BLOCK_BYTES:
            self._rest = b""
        return done

    def _clear(self) -> None:
        self._block, self._block_bytes = {}, 0


def _progress(block: dict[str, str], *, ended: bool) -> Progress:
    return Progress(
        frames=int(_number(block.get("frame", ""))),
        fps=_number(block.get("fps", "")),
        out_time_us=int(_number(block.get("out_time_us", ""))),
        speed=_number(block.get("speed", "").removesuffix("x")),
        ended=ended,
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if abs(value) < 1e18 else 0.0  # also false for nan
