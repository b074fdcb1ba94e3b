"""What splitters make of PES payloads: access units, timed where the stream says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tvarr.media.model import Codec


class Order(NamedTuple):
    """Where a picture is shown, relative to others of its group."""

    group: int  # pictures of different groups can't be compared
    number: int
    bits: int  # `number` wraps at 2**bits
    step: int  # by how much it grows from a frame to the next


class Unit(NamedTuple):
    """One access unit; without time stamps where no PES header gave any."""

    data: bytes
    pts_ticks: int | None
    dts_ticks: int | None
    keyframe: bool = True
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream says of itself in band; zero and empty mean not known."""

    codec: Codec
    width: int = 0
    height: int = 0
    fps: float = 0.0
    interlaced: bool = False
    sample_rate: int = 0
    channels: int = 0
    init: bytes = b""

    @property
    def complete(self) -> bool:
        """Whether a decoder could be set up."""
        return bool(self.width or self.sample_rate)
