"""An MPEG-TS as a viewer got it: every PES packet with its times, and when its first byte came.

Written for measuring alone: nothing of the product's own reading of streams is used here.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

PACKET_BYTES = 188
SYNC = 0x47
PAT_PID, NULL_PID = 0, 0x1FFF
VIDEO_TYPES = {0x01, 0x02, 0x1B, 0x24}  # MPEG-1, MPEG-2, H.264, HEVC (ISO/IEC 13818-1, table 2-34)
AUDIO_TYPES = {0x03, 0x04, 0x0F, 0x11, 0x81}  # MPEG-1, MPEG-2, AAC in ADTS and in LATM, AC-3


class Pes(NamedTuple):
    """The head of one PES packet."""

    pts: int  # ticks of 90 kHz
    dts: int
    at: float  # when its first byte came, seconds of a monotonic clock
    random_access: bool  # random_access_indicator of its first packet


class Received:
    """Takes a stream's bytes as they come."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.kinds: dict[int, str] = {}  # "video" or "audio" by PID
        self.pes: dict[int, list[Pes]] = defaultdict(list)
        self.video_arrivals: list[float] = []  # of chunks with a packet of video in them
        self.continuity_errors: list[str] = []
        self.signalled: int = 0  # discontinuity indicators
        self.sync_errors = 0
        self._parsed = 0
        self._pmt_pid = -1
        self._counters: dict[int, int] = {}

    def feed(self, data: bytes, at: float) -> None:
        self.data += data
        video = False
        while len(self.data) - self._parsed >= PACKET_BYTES:
            packet = bytes(self.data[self._parsed : self._parsed + PACKET_BYTES])
            self._parsed += PACKET_BYTES
            pid = self._packet(packet, at)
            video = video or self.kinds.get(pid) == "video"
        if video:
            self.video_arrivals.append(at)

    def of_kind(self, kind: str) -> list[list[Pes]]:
        """The PES packets of each track of this kind."""
        return [self.pes[pid] for pid, its in self.kinds.items() if its == kind]

    @property
    def video(self) -> list[Pes]:
        return next(iter(self.of_kind("video")), [])

    def save(self, path: Path) -> Path:
        """Writes what came, up to the last frame, which may have come in part only."""
        end = len(self.data) // PACKET_BYTES * PACKET_BYTES
        while end > 0:
            end -= PACKET_BYTES
            head = self.data[end : end + 4]
            if head[1] & 0x40 and (head[1] & 0x1F) << 8 | head[2] in self.kinds:
                break
        path.write_bytes(self.data[:end])
        return path

    def _packet(self, packet: bytes, at: float) -> int:
        """Reads one packet (13818-1, 2.4.3.2) and returns its PID."""
        if packet[0] != SYNC:
            self.sync_errors += 1
            return -1
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        starts, control, counter = packet[1] & 0x40, packet[3] >> 4 & 3, packet[3] & 15
        payload, flags = 4, 0
        if control & 2:
            payload = 5 + packet[4]
            flags = packet[5] if packet[4] else 0
        if pid == NULL_PID:
            return pid
        self._count(pid, counter, at, has_payload=bool(control & 1), signalled=bool(flags & 0x80))
        if not control & 1 or not starts:
            return pid
        if pid == PAT_PID:
            self._pat(packet, payload)
        elif pid == self._pmt_pid:
            self._pmt(packet, payload)
        elif pid in self.kinds:
            self._pes(pid, packet[payload:], at, random_access=bool(flags & 0x40))
        return pid

    def _count(self, pid: int, counter: int, at: float, *, has_payload: bool, signalled: bool) -> None:
        """The counter grows by one with each packet that has a payload, and stays otherwise (2.4.3.3)."""
        last = self._counters.get(pid)
        self._counters[pid] = counter
        if signalled:
            self.signalled += 1
        elif last is not None and counter != (last + has_payload) & 15:
            self.continuity_errors.append(f"PID {pid}: {counter} after {last} at {at:.3f}")

    def _pat(self, packet: bytes, payload: int) -> None:
        section = packet[payload + 1 + packet[payload] :]
        programs = section[8 : 3 + ((section[1] & 15) << 8 | section[2]) - 4]
        for index in range(0, len(programs), 4):
            if programs[index] << 8 | programs[index + 1]:
                self._pmt_pid = (programs[index + 2] & 0x1F) << 8 | programs[index + 3]
                return

    def _pmt(self, packet: bytes, payload: int) -> None:
        section = packet[payload + 1 + packet[payload] :]
        end = 3 + ((section[1] & 15) << 8 | section[2]) - 4
        index = 12 + ((section[10] & 15) << 8 | section[11])
        while index < end:
            pid = (section[index + 1] & 0x1F) << 8 | section[index + 2]
            if section[index] in VIDEO_TYPES:
                self.kinds[pid] = "video"
            elif section[index] in AUDIO_TYPES:
                self.kinds[pid] = "audio"
            index += 5 + ((section[index + 3] & 15) << 8 | section[index + 4])

    def _pes(self, pid: int, pes: bytes, at: float, *, random_access: bool) -> None:
        assert pes[:3] == b"\0\0\1", f"PID {pid}: no PES packet begins here"
        if pes[7] & 0x80:
            pts = _ticks(pes[9:14])
            self.pes[pid].append(Pes(pts, _ticks(pes[14:19]) if pes[7] & 0x40 else pts, at, random_access))


def _ticks(five: bytes) -> int:
    """A time stamp of 33 bits (2.4.3.7)."""
    return (five[0] >> 1 & 7) << 30 | five[1] << 22 | five[2] >> 1 << 15 | five[3] << 7 | five[4] >> 1
