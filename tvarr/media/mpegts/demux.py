"""MPEG-TS bytes in, tracks and samples out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from tvarr.media.model import Codec, Event, Kind, Sample, Tracks, signed_33
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.elementary import Elementary
from tvarr.media.mpegts.framing import Framer, Packets
from tvarr.media.mpegts.programs import ProgramTables, Seen
from tvarr.media.mpegts.receive import (
    MAX_OTHER_PES_PACKETS,
    PID_KEY,
    TRANSPORT_ERROR,
    DemuxStats,
    Pes,
    PesReceiver,
    Receiver,
    SectionReceiver,
    pid_key,
)

MAX_STREAMS = 64  # of a program; further ones are left out
CHOOSE_EACH_PACKETS = 256  # while programs are waited for
MAX_BACKLOG_PACKETS = 32_768  # 6 MiB kept until the program is chosen; they are read again then

# Tracks and samples are held back until every audio and video stream is known, or
HOLD_TICKS = 90_000  # ... until a track has a second of samples: a keyframe is needed to start anyway,
HOLD_BYTES = 16 << 20  # ... until samples of this size are held: two of the largest pictures,
HOLD_PSI_SECTIONS = 40  # ... until PAT and PMT came so often,
HOLD_SCRAMBLED_PACKETS = 4_000  # ... or so many packets that can't be read.

_FIRST_PID, _LAST_PID = 0x10, 0x1FFE  # that a PMT may give to a stream


class Demuxer:
    """MPEG-TS bytes in, tracks and samples out (ISO/IEC 13818-1, 2.4).

    `program` is a program number, or None for the first playable one: in the order of the PAT the first whose video
    comes and is not scrambled, else the first of whose audio that is true.
    Time stamps are the stream's own: 33 bits, never unwrapped or mended.
    `Tracks` come first, and again when they are others: another PMT, or parameters found in band.
    What comes out depends on the bytes only, not on how they were chunked.
    """

    def __init__(self, *, program: int | None = None, as_they_are: Collection[int] = ()) -> None:
        """`as_they_are`: PIDs whose payload nobody looks into for what it may be."""
        self._as_they_are = frozenset(as_they_are)
        self.stats = DemuxStats()
        self._framer = Framer()
        self._wanted = program
        self._backlog: list[tuple[int, bytes]] = []
        self._tables = ProgramTables(DemuxStats())  # counted when the backlog is read again
        self._program: int | None = None
        self._psi: dict[int, SectionReceiver] = {}  # by pid_key()
        self._elementary: dict[int, Receiver] = {}  # by PID
        self._receivers: dict[int, Receiver] = {}  # all of them by pid_key(); changed in place
        self._streams: dict[int, Elementary] = {}  # by PID
        self._events: list[Event] = []
        self._announced: Tracks | None = None
        self._clock_ticks: int | None = None
        self._hold: _Hold | None = None
        self._listen()

    @property
    def programs(self) -> tuple[int, ...]:
        """Numbers of the programs that the PAT names, in its order."""
        return tuple(self._tables.programs)

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes. Raises NotTransportStream after MAX_GARBAGE_BYTES without a packet."""
        self.stats.bytes += len(data)
        try:
            for packets in self._framer.push(data):
                self._take(packets)
        finally:
            self.stats.packets = self._framer.packets
            self.stats.sync_losses = self._framer.sync_losses
        return self._take_events()

    def flush(self, *, cut: bool = False) -> list[Event]:
        """End of input: the last pictures. `cut`: it was to go on, and a picture that it ends within is left out."""
        for packets in self._framer.flush():
            self._take(packets)
        self.stats.packets = self._framer.packets
        if self._program is None:
            self._choose(final=True)
        for pid in self._streams:
            self._end_stream(pid, cut=cut)
        self._release()
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # Packets

    def _take(self, packets: Packets) -> None:
        if self._program is None:
            self._probe(packets)
        self._run(packets)

    def _probe(self, packets: Packets) -> None:
        """Looks at PAT and PMTs only, keeping all packets, until a program is chosen."""
        receivers, backlog, seen = self._receivers, self._backlog, self._tables.seen
        for packet in packets:
            backlog.append(packet)
            seen.add(packet[0])
            receiver = receivers.get(packet[0] & PID_KEY)
            if receiver is not None:
                receiver.push(*packet)
            if (receiver is not None or not len(backlog) % CHOOSE_EACH_PACKETS) and self._choose(final=False):
                return
            if len(backlog) >= MAX_BACKLOG_PACKETS:
                if self._choose(final=True):
                    return
                backlog.clear()

    def _run(self, packets: Iterable[tuple[int, bytes]]) -> None:
        """The loop that all packets go through; a plain one of the PID before it costs a compare and an append."""
        receivers = self._receivers
        expected = 0  # the header that just goes on; 0: none does
        receiver: Receiver | None = None
        parts: list[bytes] = []
        append = parts.append
        for header, payload in packets:
            if header != expected:
                if receiver is not None and expected:
                    receiver.next = expected
                receiver = receivers.get(header & PID_KEY)
                if receiver is None:
                    expected = 0
                    if header & TRANSPORT_ERROR:
                        self.stats.transport_errors += 1
                    continue
                if header != receiver.next or not receiver.open:
                    receiver.push(header, payload)
                    expected = receiver.next if receiver.open else 0
                    parts = receiver.parts
                    append = parts.append
                    continue
                parts = receiver.parts
                append = parts.append
            append(payload)
            if header & 15 != 15:
                expected = header + 1
                continue
            expected = header - 15
            if len(parts) > MAX_OTHER_PES_PACKETS and receiver is not None:
                receiver.next = expected
                expected = expected if receiver.check_size() else 0
        if receiver is not None and expected:
            receiver.next = expected

    # Programs

    def _choose(self, *, final: bool) -> bool:
        """Chooses a program if it is time to, and reads the backlog again with it; whether one is chosen."""
        pmt = self._tables.choose(self._wanted, final=final)
        if pmt is None:
            return False
        backlog, self._backlog = self._backlog, []
        self._tables.seen = Seen()
        self._tables.stats = self.stats
        self._psi.clear()
        self._play(pmt)
        self._run(backlog)
        return True

    def _listen(self) -> None:
        """Receives PAT and the PMTs that matter: all until a program is chosen, and when the chosen one is gone."""
        pids = self._tables.programs
        if self._program in pids:
            pids = {self._program: pids[self._program]}
        elif self._wanted is not None:
            pids = {self._wanted: pids[self._wanted]} if self._wanted in pids else {}
        wanted = {psi.PAT_PID: self._on_pat} | dict.fromkeys(pids.values(), self._on_pmt)
        stats = self.stats if self._program is not None else DemuxStats()  # the backlog is counted when read again
        self._psi = {
            key: self._psi.get(key) or SectionReceiver(stats, on_section)
            for key, on_section in ((pid_key(pid), on_section) for pid, on_section in wanted.items())
        }
        self._receivers.clear()
        self._receivers.update({pid_key(pid): receiver for pid, receiver in self._elementary.items()})
        self._receivers.update(self._psi)

    def _on_pat(self, raw: bytes) -> None:
        self._count_psi()
        if self._tables.take_pat(raw):
            self._listen()

    def _on_pmt(self, raw: bytes) -> None:
        self._count_psi()
        pmt = self._tables.take_pmt(raw)
        if pmt is None or self._program is None:
            return
        if self._program not in self._tables.programs:
            pmt = self._tables.choose(self._wanted, final=False)
        if pmt is not None and (pmt.program == self._program or self._program not in self._tables.programs):
            self._play(pmt)

    def _play(self, pmt: psi.Pmt) -> None:
        """Goes over to the streams of this PMT; those that it has in common with the one before go on."""
        psi_pids = {psi.PAT_PID, *self._tables.programs.values()}
        entries = [e for e in pmt.streams if _FIRST_PID <= e.pid <= _LAST_PID and e.pid not in psi_pids][:MAX_STREAMS]
        codecs = {e.pid: psi.identify(e.stream_type, e.descriptors, pmt.descriptors) for e in entries}
        ending = [pid for pid, stream in self._streams.items() if codecs.get(pid) is not stream.announced]
        for pid in ending:
            self._end_stream(pid)
        if ending and self._hold is not None and self._hold.samples:
            self._release()
        for pid in ending:
            del self._streams[pid], self._elementary[pid]
        self._program = pmt.program
        streams, self._streams = self._streams, {}
        for entry in entries:
            stream = streams.get(entry.pid) or self._new_stream(entry, codecs[entry.pid], pmt.descriptors)
            stream.update(entry)
            self._streams[entry.pid] = stream
        self._listen()
        if self._hold is None and not self._all_known():
            self._hold = _Hold(self.stats)
        if self._hold is None:
            self._announce()

    def _new_stream(self, entry: psi.PmtStream, codec: Codec, program_descriptors: bytes) -> Elementary:
        stream = Elementary(entry, codec, self.stats, taken_as_it_is=entry.pid in self._as_they_are)
        if psi.carries_sections(entry.stream_type, program_descriptors):
            self._elementary[entry.pid] = SectionReceiver(self.stats, partial(self._on_section, stream))
        else:
            kind = Kind.VIDEO if codec is Codec.PRIVATE else codec.kind  # which may be video
            on_pes, on_scrambled = partial(self._on_pes, stream), partial(self._on_scrambled, stream)
            self._elementary[entry.pid] = PesReceiver(self.stats, kind, on_pes, on_scrambled)
        return stream

    def _end_stream(self, pid: int, *, cut: bool = False) -> None:
        """Hands on what is unfinished; of a `cut` one no picture that is."""
        receiver, stream = self._elementary[pid], self._streams[pid]
        if cut and isinstance(receiver, PesReceiver) and receiver.leave_unfinished():
            stream.leave_unfinished()
        receiver.flush()
        self._emit(stream, stream.flush(self._clock_ticks))

    # Samples

    def _on_pes(self, stream: Elementary, pes: Pes) -> None:
        self._emit(stream, stream.push(pes, self._clock_ticks))

    def _on_section(self, stream: Elementary, data: bytes) -> None:
        self._emit(stream, stream.section(data, self._clock_ticks))

    def _on_scrambled(self, stream: Elementary, scrambled: bool) -> None:
        stream.set_scrambled(scrambled)
        self._emit(stream, [])

    def _emit(self, stream: Elementary, samples: list[Sample]) -> None:
        if samples and stream.timed:
            self._clock_ticks = samples[-1].dts_ticks
        hold = self._hold
        if hold is not None:
            hold.add(samples)
            if hold.is_full(self.stats) or (stream.changed and self._all_known()):
                self._release()
            return
        if stream.changed:
            self._announce()
        self._events += samples

    def _all_known(self) -> bool:
        """Private streams that nothing explains are waited for only where video or audio is missing."""
        streams = self._streams.values()
        both = {Kind.VIDEO, Kind.AUDIO} <= {s.announced.kind for s in streams}
        return all(s.known or (both and s.unexplained) for s in streams)

    def _count_psi(self) -> None:
        if self._hold is not None:
            self._hold.psi_sections += 1
            if self._hold.is_full(self.stats):
                self._release()

    def _release(self) -> None:
        """Ends holding back: what is known by now is announced."""
        hold, self._hold = self._hold, None
        if hold is not None:
            self._announce()
            self._events += hold.samples

    def _announce(self) -> None:
        for stream in self._streams.values():
            stream.changed = False
        tracks = Tracks(tuple(stream.track() for stream in self._streams.values()), self._program or 0)
        if tracks != self._announced:
            self._announced = tracks
            self._events.append(tracks)


class _Hold:
    """Samples that wait for their tracks to be known."""

    def __init__(self, stats: DemuxStats) -> None:
        self.samples: list[Sample] = []
        self.psi_sections = 0
        self._bytes = 0
        self._first_dts: dict[int, int] = {}
        self._longest_ticks = 0
        self._scrambled_before = stats.scrambled

    def add(self, samples: list[Sample]) -> None:
        for sample in samples:
            self._bytes += len(sample.data)
            first = self._first_dts.setdefault(sample.track, sample.dts_ticks)
            self._longest_ticks = max(self._longest_ticks, abs(signed_33(sample.dts_ticks - first)))
        self.samples += samples

    def is_full(self, stats: DemuxStats) -> bool:
        return (
            self._longest_ticks >= HOLD_TICKS
            or self._bytes >= HOLD_BYTES
            or self.psi_sections >= HOLD_PSI_SECTIONS
            or stats.scrambled - self._scrambled_before >= HOLD_SCRAMBLED_PACKETS
        )
