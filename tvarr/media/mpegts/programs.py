"""Which programs a transport stream has, and which one is to be played."""

from __future__ import annotations

from typing import Literal

from tvarr.errors import MediaError
from tvarr.media.model import Kind
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.receive import SCRAMBLED_PACKETS, DemuxStats

MAX_PROGRAMS = 256  # of a PAT; more than any multiplex has
MAX_DAMAGED = 5  # PMT sections kept to be repaired
SEEN_ENOUGH_PACKETS = 8192  # 1.5 MB: what has not come by then is not waited for
_SCRAMBLED, _PAYLOAD = 0xC0, 0x10  # in the 32 bits of a packet header
PMT_REPEATS = 3  # a program whose PMT has not come while another's came so often is taken to have none


class Seen:
    """What came on each PID: clear packets, and scrambled ones (transport_scrambling_control, 2.4.3.3)."""

    def __init__(self) -> None:
        self.packets = 0
        self._clear: dict[int, int] = {}
        self._scrambled: dict[int, int] = {}

    def add(self, header: int) -> None:
        self.packets += 1
        if header & _PAYLOAD:
            counts = self._scrambled if header & _SCRAMBLED else self._clear
            pid = header >> 8 & 0x1FFF
            counts[pid] = counts.get(pid, 0) + 1

    def playable(self, pids: list[int]) -> bool | None:
        """Whether one of these can be played; None: it may turn out to be."""
        if any(self._clear.get(pid, 0) > self._scrambled.get(pid, 0) for pid in pids):
            return True
        waits = self.packets < SEEN_ENOUGH_PACKETS
        return None if waits and any(self._scrambled.get(pid, 0) < SCRAMBLED_PACKETS for pid in pids) else False


class ProgramTables:
    """PAT and PMTs as they come. Only what they say counts: a new version with the same content changes nothing."""

    def __init__(self, stats: DemuxStats) -> None:
        self.stats = stats
        self.programs: dict[int, int] = {}  # number -> PID of the PMT, in the PAT's order
        self.pmts: dict[int, psi.Pmt] = {}
        self._pat_sections: dict[int, psi.Section] = {}
        self._raw: dict[tuple[int, int], bytes] = {}  # the last section by table and section number or program
        self._seen: dict[int, int] = {}  # how often a program's PMT came
        self._pat_complete = False
        self.seen = Seen()  # while no program is chosen
        self._damaged: list[bytes] = []  # the last PMT sections with a wrong CRC

    def take_pat(self, raw: bytes) -> bool:
        """Takes a section from PID 0; whether the programs are others now. An empty PAT changes nothing."""
        number = raw[6] if len(raw) > 6 else 0
        if self._raw.get((psi.PAT_TABLE, number)) == raw:
            return False
        section = self._parse(raw, psi.PAT_TABLE)
        if section is None:
            return False
        self._raw[psi.PAT_TABLE, number] = raw
        if any(old.version != section.version for old in self._pat_sections.values()):
            self._pat_sections.clear()
        self._pat_sections[number] = section
        self._pat_complete = len(self._pat_sections) > section.last_number
        found: dict[int, int] = {}
        for index in sorted(self._pat_sections):
            found |= psi.parse_pat(self._pat_sections[index]).programs
        programs = dict(list(found.items())[:MAX_PROGRAMS])
        if not programs or list(programs.items()) == list(self.programs.items()):
            return False
        self.programs = programs
        self.pmts = {number: pmt for number, pmt in self.pmts.items() if number in programs}
        return True

    def take_pmt(self, raw: bytes) -> psi.Pmt | None:
        """Takes a section from a PMT's PID; the PMT if it says something new. One without streams changes nothing."""
        if len(raw) < 5 or raw[0] != psi.PMT_TABLE:
            return None
        program = raw[3] << 8 | raw[4]
        if self._raw.get((psi.PMT_TABLE, program)) == raw and program in self.pmts:
            self._seen[program] += 1
            return None
        section = self._parse(raw, psi.PMT_TABLE)
        if section is None:
            raw = self._repaired(raw)
            section = self._parse(raw, psi.PMT_TABLE) if raw else None
        program = section.extension if section else 0
        if section is None or program not in self.programs:
            return None
        try:
            pmt = psi.parse_pmt(section)
        except MediaError:
            self.stats.crc_errors += 1
            return None
        self._raw[psi.PMT_TABLE, program] = raw
        self._seen[program] = self._seen.get(program, 0) + 1
        known = self.pmts.get(program)
        if known is not None and (not pmt.streams or _same(known, pmt)):
            return None
        self.pmts[program] = pmt
        return pmt

    def _repaired(self, raw: bytes) -> bytes:
        """What most of the last damaged PMTs agree on, byte by byte, if its CRC is right; else b"".

        Bad reception may damage every single one for minutes.
        """
        if self.pmts:
            return b""
        self._damaged = [*(d for d in self._damaged if len(d) == len(raw)), raw][-MAX_DAMAGED:]
        if len(self._damaged) < 3:
            return b""
        voted = bytes(max(column, key=column.count) for column in zip(*self._damaged, strict=True))
        return b"" if psi.crc32_mpeg(voted) else voted

    def choose(self, wanted: int | None, *, final: bool) -> psi.Pmt | None:
        """The PMT of the wanted program, or of the first with video, else with audio, else with anything.

        Where there are several, those count whose video or audio was seen to come unscrambled, if there are such.
        None while there is hope of a better one, unless `final`.
        """
        if wanted is not None:
            return self.pmts.get(wanted)
        if len(self.programs) > 1 and self.seen.packets:
            for kind in (Kind.VIDEO, Kind.AUDIO):
                verdict = self._first_playable(kind, final=final)
                if verdict is not False:
                    return verdict
            final = True
        final = final or max(self._seen.values(), default=0) >= PMT_REPEATS
        best: tuple[int, psi.Pmt] | None = None
        for number in self.programs:
            pmt = self.pmts.get(number)
            if pmt is None and not final:
                return None
            rank = _rank(pmt)
            if pmt is not None and rank < _NOTHING and (best is None or rank < best[0]):
                best = rank, pmt
                if rank == 0:
                    return pmt
        return best[1] if best is not None and (final or self._pat_complete) else None

    def _first_playable(self, kind: Kind, *, final: bool) -> psi.Pmt | Literal[False] | None:
        """The first program of which this kind comes in the clear; None: it is not known yet; False: there is none."""
        all_there = final or max(self._seen.values(), default=0) >= PMT_REPEATS
        for number in self.programs:
            pmt = self.pmts.get(number)
            if pmt is None:
                if all_there:
                    continue
                return None
            pids = [s.pid for s in pmt.streams if _kind(s, pmt) is kind]
            playable = self.seen.playable(pids) if pids else False
            if playable:
                return pmt
            if playable is None and not final:
                return None
        return False

    def _parse(self, raw: bytes, table_id: int) -> psi.Section | None:
        try:
            section = psi.parse_section(raw)
        except MediaError:
            self.stats.crc_errors += 1
            return None
        return section if section.table_id == table_id and section.current else None


_NOTHING = 3


def _rank(pmt: psi.Pmt | None) -> int:
    if pmt is None or not pmt.streams:
        return _NOTHING
    kinds = {_kind(stream, pmt) for stream in pmt.streams}
    return 0 if Kind.VIDEO in kinds else 1 if Kind.AUDIO in kinds else 2


def _kind(stream: psi.PmtStream, pmt: psi.Pmt) -> Kind:
    return psi.identify(stream.stream_type, stream.descriptors, pmt.descriptors).kind


def _same(a: psi.Pmt, b: psi.Pmt) -> bool:
    return a.streams == b.streams and a.descriptors == b.descriptors
