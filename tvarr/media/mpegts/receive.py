"""From packets of one PID to PES payloads or sections: continuity, lengths and caps (13818-1, 2.4.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tvarr.media.model import Kind
from tvarr.media.mpegts.psi import SectionAssembler

# The 32 bits of a packet header
UNIT_START = 0x40_0000
TRANSPORT_ERROR = 0x80_0000
PID_KEY = 0xFF9F_FF00  # sync byte, transport error and PID: what a dispatch table is keyed by
_SCRAMBLED = 0xC0
_ADAPTATION, _PAYLOAD = 0x20, 0x10
_WITHOUT_START_AND_FLAGS = 0xFFBF_FF00

MAX_VIDEO_PES_PACKETS = 45_000  # 8 MiB: a picture of 600 Mb/s at 10 per second
MAX_OTHER_PES_PACKETS = 1_500  # 270 kB: four times what a PES of stated length can hold
SCRAMBLED_PACKETS = 16  # so many in a row are no reception error

_STREAM_IDS_WITHOUT_HEADER = frozenset({0xBC, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF})  # table 2-22; 0xBE is padding
_PADDING = 0xBE


@dataclass(slots=True)
class DemuxStats:
    """Counts since the start. Continuity, duplicates and what follows are those of PIDs that are listened to."""

    packets: int = 0
    bytes: int = 0
    sync_losses: int = 0
    transport_errors: int = 0  # packets marked as damaged; not used
    scrambled: int = 0  # packets
    continuity_errors: int = 0
    duplicates: int = 0  # repeated packets, dropped (2.4.3.3)
    discontinuities: int = 0  # announced ones
    crc_errors: int = 0  # sections that are damaged in any way
    damaged_pes: int = 0  # without a start code, or with a header that is cut off; dropped
    truncated_pes: int = 0  # shorter than stated; used
    oversized_pes: int = 0  # used up to the cap


class Pes(NamedTuple):
    """The payload of a PES packet, or of what is left of one."""

    data: bytes
    pts_ticks: int | None = None
    dts_ticks: int | None = None
    after_gap: bool = False  # bytes are missing before it: what is unfinished can't be finished


def pid_key(pid: int) -> int:
    """The key of a PID's undamaged packets: `header & PID_KEY`."""
    return 0x4700_0000 | pid << 8


def parse_timestamp(data: bytes, at: int) -> int | None:
    """The 33 bits of a PTS or DTS field, or None where its marker bits are wrong (2.4.3.7)."""
    a, b, c, d, e = data[at : at + 5]
    if not a & c & e & 1:
        return None
    return (a & 0x0E) << 29 | b << 22 | (c & 0xFE) << 14 | d << 7 | e >> 1


def parse_pes_header(data: bytes) -> tuple[int, int | None, int | None] | None:
    """Size of the PES header in bytes, PTS and DTS; None where it is damaged, cut off, or one of padding."""
    if len(data) < 6 or data[:3] != b"\x00\x00\x01" or data[3] == _PADDING:
        return None
    if data[3] in _STREAM_IDS_WITHOUT_HEADER:
        return 6, None, None
    if len(data) < 9 or data[6] & 0xC0 != 0x80 or len(data) < 9 + data[8]:
        return None
    flags, size = data[7] >> 6, data[8]
    pts = parse_timestamp(data, 9) if flags & 2 and size >= 5 else None
    dts = parse_timestamp(data, 14) if flags == 3 and size >= 10 and pts is not None else None
    return 9 + size, pts, dts


def _is_filled_up(payload: bytes, last: bytes) -> bool:
    """Whether `payload` is behind an adaptation field with bytes that only fill it, as far as is known.

    `last`: the 184 bytes of the last packet with such a field.
    """
    if len(payload) == 184 or not last:
        return False
    length, flags = last[0], last[1]
    if not length or not flags or flags & 0x03 or 1 + length + len(payload) != 184:  # private data are not looked into
        return True
    return length > 1 + 6 * (flags >> 4 & 1) + 6 * (flags >> 3 & 1) + (flags >> 2 & 1)


class Receiver:
    """One PID's packets in order. `push` is for any packet; the demuxer's loop itself takes plain ones while `open`."""

    __slots__ = (
        "_adaptation",
        "_discontinuity",
        "_last_payload",
        "_scrambled_run",
        "_stats",
        "next",
        "open",
        "parts",
        "scrambled",
    )

    def __init__(self, stats: DemuxStats) -> None:
        self.next = 0  # the header that goes on without start, adaptation field or gap; 0: nothing came yet
        self.open = False  # a plain packet needs nothing but to be appended to `parts`
        self.parts: list[bytes] = []
        self.scrambled = False
        self._stats = stats
        self._last_payload = b""
        self._adaptation = b""  # the last packet that had such a field
        self._discontinuity = False
        self._scrambled_run = 0

    def push(self, header: int, payload: bytes) -> None:
        """Takes the packet with this header; `payload` is the 184 bytes behind it."""
        if header & _SCRAMBLED:
            self._stats.scrambled += 1
            self._scrambled_run += 1
            if self._scrambled_run == SCRAMBLED_PACKETS:
                self.next = 0
                self._set_scrambled(True)
            return
        if header & _ADAPTATION:
            payload = self._after_adaptation_field(payload)
        if not header & _PAYLOAD:
            return
        lost = (header - self.next) & 15 if self.next else 0
        if lost:
            last = self.parts[-1] if self.parts else self._last_payload
            if lost == 15 and payload == last:
                self._stats.duplicates += 1
                return
            if not self._discontinuity:
                self._stats.continuity_errors += 1
            self._gap(lost)
        self._discontinuity = False
        self._scrambled_run = 0
        self.next = header & _WITHOUT_START_AND_FLAGS | _PAYLOAD | (header + 1) & 15
        self._payload(payload, bool(header & UNIT_START))

    def _after_adaptation_field(self, payload: bytes) -> bytes:
        length = payload[0]
        self._adaptation = payload
        if length and payload[1] & 0x80:
            self._stats.discontinuities += 1
            self._discontinuity = True
        return payload[1 + length :]

    def check_size(self) -> bool:
        """To be called after each continuity counter of 15 while `open`: ends a PES that has become too large.

        Whether it is still open.
        """
        return self.open

    def flush(self) -> None:
        """Hands on what is unfinished."""

    def _set_scrambled(self, scrambled: bool) -> None:
        self.scrambled = scrambled

    def _gap(self, lost: int) -> None:
        raise NotImplementedError

    def _payload(self, payload: bytes, start: bool) -> None:
        raise NotImplementedError


class SectionReceiver(Receiver):
    """Sections, unchecked, to `on_section`."""

    __slots__ = ("_assembler", "_on_section")

    def __init__(self, stats: DemuxStats, on_section: Callable[[bytes], None]) -> None:
        super().__init__(stats)
        self._assembler = SectionAssembler()
        self._on_section = on_section

    def _gap(self, lost: int) -> None:
        self._assembler.reset()

    def _payload(self, payload: bytes, start: bool) -> None:
        self._last_payload = payload
        for section in self._assembler.push(payload, start):
            self._on_section(section)


class PesReceiver(Receiver):
    """PES packets to `on_pes`, as soon as their stated length is there, or the next one starts.

    A gap leaves a hole in a PES; one of audio ends there, and its rest comes as one of its own without time stamps.
    One that is too large is handed on at that size and its rest is skipped. Video that goes on behind its stated
    length (16 bits, which overflow) is as long as it is, and its stream's lengths are not believed any more.
    """

    __slots__ = (
        "_after_gap",
        "_believed",
        "_continues",
        "_kind",
        "_max_packets",
        "_on_pes",
        "_on_scrambled",
        "_room",
        "_stated",
    )

    def __init__(
        self, stats: DemuxStats, kind: Kind, on_pes: Callable[[Pes], None], on_scrambled: Callable[[bool], None]
    ) -> None:
        super().__init__(stats)
        self._kind = kind
        self._max_packets = MAX_VIDEO_PES_PACKETS if kind is Kind.VIDEO else MAX_OTHER_PES_PACKETS
        self._on_pes = on_pes
        self._on_scrambled = on_scrambled
        self._room = 0  # bytes that a PES of stated length still lacks; 0: not stated
        self._stated = 0  # bytes of the whole packet; 0: not stated, -1: too few bytes have come to tell
        self._continues = False  # `parts` are the rest of a PES, without its header
        self._after_gap = False
        self._believed = True

    def push(self, header: int, payload: bytes) -> None:
        if header != self.next or not self._room:
            super().push(header, payload)
            return
        self.next = header + 1 if header & 15 != 15 else header - 15
        self._append(payload)

    def check_size(self) -> bool:
        if len(self.parts) > self._max_packets:
            self._stats.oversized_pes += 1
            self._finish()
        return self.open

    def flush(self) -> None:
        if self.parts:
            self._stats.truncated_pes += self._room > 0
            self._finish()

    def leave_unfinished(self) -> bool:
        """Forgets a picture that the input was cut within; whether there was one.

        The last packet of a PES is filled up where it has room (2.4.3.5): behind another one more was to come, save for
        one PES in 184.
        """
        if self._kind is not Kind.VIDEO or not self.parts:
            return False
        whole = not self._room and self._stated >= 0 and _is_filled_up(self.parts[-1], self._adaptation)
        if not whole:
            self._drop()
        return not whole

    def _set_scrambled(self, scrambled: bool) -> None:
        super()._set_scrambled(scrambled)
        if scrambled:
            self.flush()
        self._on_scrambled(scrambled)

    def _gap(self, lost: int) -> None:
        continues, room = bool(self.parts), self._room - 184 * lost
        over = self._room > 0 >= room
        if continues and (over or self._kind is Kind.AUDIO):
            self._finish()
        elif continues and self._room:
            self._room = room
        if self._kind is Kind.AUDIO:
            self._after_gap = True
            if continues and not over:
                self._continues = True
                self._room = max(room, 0)

    def _payload(self, payload: bytes, start: bool) -> None:
        if start:
            self.flush()
            self._continues = False
            self._start(payload)
        elif self._stated < 0:
            self._start(self.parts.pop() + payload)
        elif self.parts or self._continues:
            self._append(payload)

    def _append(self, payload: bytes) -> None:
        self.parts.append(payload)
        if not self._room:
            self.open = True
            if not self.next & 15:
                self.check_size()
            return
        self._room -= len(payload)
        self._end_if_whole()

    def _end_if_whole(self) -> None:
        if self._room < 0 and self._kind is Kind.VIDEO:
            self._believed, self._room, self._stated, self.open = False, 0, 0, True
        elif self._room <= 0:
            self._finish()

    def _start(self, payload: bytes) -> None:
        self.parts.append(payload)
        if len(payload) < 6:
            self._stated, self._room, self.open = -1, 0, False
            return
        if payload[:3] != b"\x00\x00\x01":
            self._stats.damaged_pes += 1
            self._drop()
            return
        if self.scrambled:
            self._set_scrambled(False)
        length = (payload[4] << 8 | payload[5]) * self._believed
        self._stated = 6 + length if length else 0
        self.open = not length
        if length:
            self._room = self._stated - len(payload)
            self._end_if_whole()

    def _drop(self) -> None:
        self._last_payload = self.parts[-1] if self.parts else b""
        self.parts = []
        self.open, self._continues, self._room, self._stated = False, False, 0, 0

    def _finish(self) -> None:
        parts, stated, continues = self.parts, self._stated, self._continues
        self._drop()
        after_gap, self._after_gap = self._after_gap, False
        if continues:
            self._on_pes(Pes(b"".join(parts), after_gap=after_gap))
            return
        head = parse_pes_header(parts[0])
        if head is None and len(parts) > 1:  # perhaps it goes on in the second packet
            parts = [b"".join(parts)]
            head = parse_pes_header(parts[0])
        if head is None:
            self._stats.damaged_pes += parts[0][3:4] != bytes((_PADDING,))
            return
        size, pts, dts = head
        parts[0] = parts[0][size:]
        data = b"".join(parts)
        if stated > 0:
            data = data[: max(stated - size, 0)]
        self._on_pes(Pes(data, pts, dts, after_gap))
