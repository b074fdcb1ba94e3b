"""Transport packets byte by byte, right and wrong ones, as the demuxer's tests need them."""

from __future__ import annotations

from collections import defaultdict

from tvarr.media.mpegts import psi

AUD = bytes.fromhex("00000001 09f0")
SPS = bytes.fromhex("00000001 67640015acd941410fcb808800000300080000030190f8a14cb0")  # 320x240, 25 frames/s, fields
PPS = bytes.fromhex("00000001 68faa3cb22c0")


def timestamp(prefix: int, ticks: int) -> bytes:
    return bytes(
        (
            prefix << 4 | (ticks >> 30 & 7) << 1 | 1,
            ticks >> 22 & 0xFF,
            (ticks >> 15 & 0x7F) << 1 | 1,
            ticks >> 7 & 0xFF,
            (ticks & 0x7F) << 1 | 1,
        )
    )


def pes(
    data: bytes, pts: int | None = None, dts: int | None = None, *, stream_id: int = 0xE0, length: bool = False
) -> bytes:
    times = b""
    if pts is not None:
        times = timestamp(2, pts) if dts is None else timestamp(3, pts) + timestamp(1, dts)
    flags = 0 if pts is None else 0x80 if dts is None else 0xC0
    size = 3 + len(times) + len(data) if length else 0
    head = b"\x00\x00\x01" + bytes((stream_id, size >> 8, size & 0xFF, 0x80, flags, len(times)))
    return head + times + data


class Writer:
    """Cuts units into packets with running continuity counters."""

    def __init__(self) -> None:
        self.counters: dict[int, int] = defaultdict(int)

    def packets(self, pid: int, unit: bytes, *, scrambled: bool = False) -> list[bytes]:
        made = []
        for at in range(0, len(unit), 184):
            part = unit[at : at + 184]
            stuffing = 184 - len(part)
            field = (
                bytes((stuffing - 1,)) + (b"\x00" + b"\xff" * (stuffing - 2) if stuffing > 1 else b"")
                if stuffing
                else b""
            )
            control = 0x10 | (0x20 if stuffing else 0) | (0x80 if scrambled else 0) | self.counters[pid]
            self.counters[pid] = self.counters[pid] + 1 & 15
            made.append(bytes((0x47, (0 if at else 0x40) | pid >> 8, pid & 0xFF, control)) + field + part)
        return made

    def write(self, pid: int, unit: bytes) -> bytes:
        return b"".join(self.packets(pid, unit))

    def section(self, pid: int, section: bytes) -> bytes:
        return self.write(pid, b"\x00" + section + b"\xff" * (-(len(section) + 1) % 184))

    def tables(self, *streams: psi.PmtStream, program: int = 1, pmt_pid: int = 0x1000, version: int = 0) -> bytes:
        """A PAT with one program and its PMT."""
        pat = psi.build_pat(psi.Pat(1, 0, {program: pmt_pid}))
        pmt = psi.build_pmt(psi.Pmt(program, version, psi.NULL_PID, b"", streams))
        return self.section(psi.PAT_PID, pat) + self.section(pmt_pid, pmt)


def bits_to_bytes(bits: str) -> bytes:
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def h264_slice(
    frame_num: int, *, idr: bool = False, intra: bool = False, bottom: bool | None = None, size: int = 300
) -> bytes:
    """A first slice for SPS and PPS above (frame_num of 4 bits); `bottom`: None for a frame, else which field."""
    bits = "1" + ("0001000" if idr or intra else "00110") + "1" + f"{frame_num % 16:04b}"  # I: 7, P: 5; pps 0
    bits += "0" if bottom is None else "11" if bottom else "10"
    bits += "1" if idr else ""  # idr_pic_id 0
    return b"\x00\x00\x01" + (b"\x65" if idr else b"\x41") + bits_to_bytes(bits + "1" * 40) + b"\xaa" * size


def adts(size: int = 100, rate_index: int = 3) -> bytes:
    """An ADTS frame of AAC-LC, stereo, 48 kHz."""
    return bytes(
        (0xFF, 0xF1, 0x40 | rate_index << 2, 0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC)
    ) + b"\x21" * (size - 7)


MP2_FRAME = bytes.fromhex("fffda404") + b"\x55" * 572  # 192 kb/s at 48 kHz: 576 bytes, 24 ms
