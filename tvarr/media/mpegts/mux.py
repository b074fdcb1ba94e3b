"""Writes MPEG transport streams: one program, for players and for FFmpeg's standard input (ISO/IEC 13818-1).

Design, with the numbers chosen:

* One sample is one PES packet: time stamps survive to the tick, and nothing waits for a second frame. Its length is
  stated where it fits, video's too, so that a reader need not wait for the next one.
* A *random access point* is a video keyframe; without video, or while it is silent, an audio frame each 0.5 s. There
  PAT, PMT and SDT come first, then the frame with a PCR and random_access_indicator: a player may start there.
* PAT and PMT also come every 100 ms of stream time with video (DVB, TR 101 154, 4.1.7; 30 kb/s), without video only at
  the random access points, that is every 500 ms (the limit of TR 101 290, 1.3.a; 100 ms would be a sixth of a radio
  channel). The SDT comes at random access points, and at least every 2 s (DVB, TR 101 211).
* PCR: on the first video track, else the first audio track. Its value is the least of the last DTS of all audio and
  video tracks that are alive, less LEAD_TICKS: nothing that comes later is too late for it, and a player that goes
  by the PCR shows pictures that much after they came. It is written with each video frame, but not more often than
  every 20 ms, and in packets of its own where it would be older than 60 ms (13818-1, 2.7.2 wants 100 ms at most,
  DVB 40 ms).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tvarr.media.codecs import opus
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample, Track, Tracks
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.packetize import (
    DISCONTINUITY,
    NULL_PACKET,
    RANDOM_ACCESS,
    Packetizer,
    adaptation_field,
    pes_header,
)
from tvarr.media.ring import Chunk

LEAD_TICKS = TICKS_PER_SECOND // 5  # by which data comes before its DTS: one picture's transmission, and live latency
PCR_MIN_TICKS = 20 * TICKS_PER_SECOND // 1000
PCR_MAX_TICKS = 60 * TICKS_PER_SECOND // 1000
TABLES_TICKS = TICKS_PER_SECOND // 10
SDT_TICKS = 2 * TICKS_PER_SECOND
AUDIO_ACCESS_TICKS = TICKS_PER_SECOND // 2
# A track this far behind the foremost one does not hold the PCR back: it ended, or has a hole.
SILENT_TICKS = 2 * TICKS_PER_SECOND
# Until a track's first sample came it is taken to be this far behind the first of the others: at the same place of a
# multiplex video is ahead of audio by 0.5 to 1 s.
UNSEEN_TICKS = TICKS_PER_SECOND * 8 // 10

FIRST_FREE_PID = 0x100
LOWEST_PID, HIGHEST_PID = 0x20, 0x1FFA  # those below are DVB's, 0x1FFB is ATSC's, 0x1FFF is for null packets
DEFAULT_PMT_PID = 0x1000
TRANSPORT_STREAM_ID = 1
PROVIDER = "tvarr"  # named in the SDT

_VIDEO_STREAM_ID, _AUDIO_STREAM_ID, _PRIVATE_STREAM_ID = 0xE0, 0xC0, 0xBD
_STREAM_IDS = {
    **dict.fromkeys((Codec.H264, Codec.HEVC, Codec.MPEG1VIDEO, Codec.MPEG2VIDEO), _VIDEO_STREAM_ID),
    **dict.fromkeys((Codec.AAC, Codec.AAC_LATM, Codec.MP1, Codec.MP2, Codec.MP3), _AUDIO_STREAM_ID),
}
_TELETEXT_HEADER_DATA_BYTES = 0x24  # EN 300 472, 4.2: header and payload fill whole packets

# An access unit without delimiter gets this one in front: 13818-1, 2.14.1 wants it for H.264, 2.17.1 for HEVC.
_DELIMITERS = {Codec.H264: b"\x00\x00\x00\x01\x09\xf0", Codec.HEVC: b"\x00\x00\x00\x01\x46\x01\x50"}
_DELIMITED = {
    Codec.H264: re.compile(rb"\x00*\x00\x00\x01[\x09\x29\x49\x69].", re.DOTALL),
    Codec.HEVC: re.compile(rb"\x00*\x00\x00\x01\x46..", re.DOTALL),
}
_ANNEX_B = re.compile(rb"\x00*\x00\x00\x01")
# A keyframe without these can't be joined at, and gets the track's.
_PARAMETER_SETS = {
    Codec.H264: re.compile(rb"\x00\x00\x01[\x07\x27\x47\x67]"),
    Codec.HEVC: re.compile(rb"\x00\x00\x01\x42"),
    Codec.MPEG1VIDEO: re.compile(rb"\x00\x00\x01\xb3"),
    Codec.MPEG2VIDEO: re.compile(rb"\x00\x00\x01\xb3"),
}


@dataclass(slots=True, eq=False)
class _Output:
    """One track on its way out."""

    track: Track
    packets: Packetizer
    stream_id: int
    sections: bool
    clock: bool  # the PCR follows it: audio and video, or all where there is neither
    last_dts: int | None = None
    discontinuity: bool = False


class Muxer:
    """Samples in, transport packets out; `set_tracks` comes first.

    Holds no samples: what `mux` is given leaves at once, in the same order. Continuity counters, table versions and the
    PCR live as long as the muxer: the output of one variant has one, whatever happens to its jobs and tracks.
    """

    def __init__(self, service_name: str = "tvarr") -> None:
        self.unknown = 0  # samples of no track, dropped
        self._service_name = service_name
        self._packetizers: dict[int, Packetizer] = {}  # by PID
        self._pids: dict[int, int] = {}  # by track id
        self._codecs: dict[int, Codec] = {}  # by PID: what was last announced on it
        self._outputs: dict[int, _Output] = {}
        self._tables: dict[int, tuple[int, bytes]] = {}  # PID -> version and section
        self._pmt_pid = DEFAULT_PMT_PID
        self._pcr_pid = psi.NULL_PID
        self._has_video = False
        self._reset_clock()

    def _reset_clock(self) -> None:
        self._pcr: int | None = None  # written last
        self._first: int | None = None  # DTS
        self._foremost = 0  # DTS
        self._tables_at: int | None = None
        self._sdt_at: int | None = None
        self._access_at: int | None = None

    def set_tracks(self, tracks: Tracks) -> None:
        """The tracks from here on; changed tables go out before the next sample.

        PIDs are the tracks' ids where these are free for programs, else others. A track keeps its PID while it keeps
        its codec: FFmpeg, and mpv with it, go on decoding a PID as what it was when they met it, with a flood of
        errors. On a PID of its own they find a new track. VLC follows either way (FFmpeg 5.1, mpv 0.35, VLC 3.0,
        tried).

        Raises CannotCarry, naming the codec, and MediaError where the PMT gets too long; then nothing is changed.
        """
        pids = self._assign_pids(tracks)
        streams = tuple(psi.announce(replace(track, id=pids[track.id])) for track in tracks.tracks)
        leading = tracks.of_kind(Kind.VIDEO) or tracks.of_kind(Kind.AUDIO)
        pcr_pid = pids[leading[0].id] if leading else psi.NULL_PID
        pmt_pid = self._pmt_pid
        while pmt_pid in pids.values():
            pmt_pid += 1
        program = tracks.program or 1
        tables = {
            psi.PAT_PID: self._versioned(
                psi.PAT_PID, lambda v: psi.build_pat(psi.Pat(TRANSPORT_STREAM_ID, v, {program: pmt_pid}))
            ),
            pmt_pid: self._versioned(
                pmt_pid, lambda v: psi.build_pmt(psi.Pmt(program, v, pcr_pid, _program_descriptors(tracks), streams))
            ),
            psi.SDT_PID: self._versioned(psi.SDT_PID, lambda v: self._build_sdt(program, v)),
        }
        if tables != self._tables:
            self._tables_at = self._sdt_at = None
        self._tables, self._pids, self._pmt_pid, self._pcr_pid = tables, {**self._pids, **pids}, pmt_pid, pcr_pid
        self._codecs.update({pids[track.id]: track.codec for track in tracks.tracks})
        self._has_video = bool(tracks.of_kind(Kind.VIDEO))
        before = self._outputs
        self._outputs = {}
        for track, stream in zip(tracks.tracks, streams, strict=True):
            output = _Output(
                track,
                self._packetizer(stream.pid),
                _STREAM_IDS.get(track.codec, _PRIVATE_STREAM_ID),
                psi.carries_sections(stream.stream_type),
                clock=not leading or track.kind in (Kind.VIDEO, Kind.AUDIO),
            )
            if track.id in before:
                output.last_dts = before[track.id].last_dts
                output.discontinuity = before[track.id].discontinuity
            self._outputs[track.id] = output

    def mux(self, samples: Iterable[Sample]) -> list[Chunk]:
        """Packets for these samples. A chunk flagged `keyframe` begins with a random access point.

        Their DTS is expected to grow in each track, as a timeline makes it, and tracks to be interleaved by DTS within
        about a second.
        """
        samples = list(samples)
        self._look_ahead(samples)
        chunks: list[Chunk] = []
        parts: list[bytes | bytearray] = []
        begins_with_access = False
        dts = 0
        for sample in samples:
            output = self._outputs.get(sample.track)
            if output is None:
                self.unknown += 1
                continue
            if output.clock:
                output.last_dts = sample.dts_ticks
                self._foremost = max(self._foremost, sample.dts_ticks)
            access = self._is_access_point(output, sample)
            if access:
                if parts:
                    chunks.append(Chunk(b"".join(parts), begins_with_access, dts))
                parts, begins_with_access = [], True
            if output.clock or not parts:
                dts = sample.dts_ticks
            self._write_tables(parts, access)
            self._write(parts, output, sample, access)
        if parts:
            chunks.append(Chunk(b"".join(parts), begins_with_access, dts))
        return chunks

    def begin_segment(self) -> None:
        """The tables go out before the next sample, whatever it is."""
        self._tables_at = self._sdt_at = self._access_at = None

    def discontinuity(self, track_id: int | None = None) -> None:
        """The next packet that begins a sample, of this track or of all, has its discontinuity_indicator set.

        For all tracks: time may go on anywhere, also further back.
        """
        for output in self._outputs.values():
            if track_id is None or output.track.id == track_id:
                output.discontinuity = True
        if track_id is None:
            self._reset_clock()
            for output in self._outputs.values():
                output.last_dts = None

    # Tables

    def _build_sdt(self, program: int, version: int) -> bytes:
        return psi.build_sdt(TRANSPORT_STREAM_ID, {program: self._service_name}, provider=PROVIDER, version=version)

    def _versioned(self, pid: int, build: Callable[[int], bytes]) -> tuple[int, bytes]:
        """The table as it is where nothing changed, else with its version raised."""
        known = self._tables.get(pid)
        if known is None:
            return 0, build(0)
        version, section = known
        if build(version) == section:
            return known
        return (version + 1) & 0x1F, build((version + 1) & 0x1F)

    def _assign_pids(self, tracks: Tracks) -> dict[int, int]:
        """A PID for each track id: the one that it had, else its id, else the first one free.

        One on which another codec was announced before is not free, unless there is no other.
        """
        pids: dict[int, int] = {}
        for wanted in (self._pids, {track.id: track.id for track in tracks.tracks}):
            for track in tracks.tracks:
                pid = wanted.get(track.id, 0)
                fits = LOWEST_PID <= pid <= HIGHEST_PID and self._codecs.get(pid, track.codec) is track.codec
                if track.id not in pids and fits and pid not in pids.values():
                    pids[track.id] = pid
        for track in tracks.tracks:
            if track.id not in pids:
                free = [pid for pid in range(FIRST_FREE_PID, HIGHEST_PID) if pid not in pids.values()]
                alike = (pid for pid in free if self._codecs.get(pid, track.codec) is track.codec)
                pids[track.id] = next(alike, free[0])
        return pids

    def _packetizer(self, pid: int) -> Packetizer:
        packetizer = self._packetizers.get(pid)
        if packetizer is None:
            packetizer = self._packetizers[pid] = Packetizer(pid)
        return packetizer

    def _write_tables(self, parts: list[bytes | bytearray], access: bool) -> None:
        now = self._foremost
        due = self._tables_at is None or (self._has_video and now - self._tables_at >= TABLES_TICKS)
        sdt_due = self._sdt_at is None or now - self._sdt_at >= SDT_TICKS
        for pid, (_, section) in self._tables.items():
            if access or (sdt_due if pid == psi.SDT_PID else due):
                parts.append(self._packetizer(pid).section(section))
        if access or due:
            self._tables_at = now
        if access or sdt_due:
            self._sdt_at = now

    # Clock

    def _look_ahead(self, samples: list[Sample]) -> None:
        """The first samples of several tracks may have come together: the PCR starts below all of them."""
        if self._first is not None:
            return
        for sample in samples:
            output = self._outputs.get(sample.track)
            if output is not None and output.clock and output.last_dts is None:
                output.last_dts = sample.dts_ticks
        known = [output.last_dts for output in self._outputs.values() if output.last_dts is not None]
        if known:
            self._first = self._foremost = min(known)

    def _is_access_point(self, output: _Output, sample: Sample) -> bool:
        alive = [other for other in self._outputs.values() if other.clock and self._position(other) is not None]
        leading = next((other for other in alive if other.track.kind is Kind.VIDEO), alive[0] if alive else None)
        if output is not leading:
            return False
        if output.track.kind is Kind.VIDEO:
            return sample.keyframe
        if self._access_at is not None and sample.dts_ticks - self._access_at < AUDIO_ACCESS_TICKS:
            return False
        self._access_at = sample.dts_ticks
        return True

    def _position(self, output: _Output) -> int | None:
        """Below which DTS nothing is expected any more of this track; None where it does not count."""
        if output.last_dts is None:
            waiting = self._first is not None and self._foremost - self._first <= SILENT_TICKS
            return self._foremost - UNSEEN_TICKS if waiting else None
        return output.last_dts if self._foremost - output.last_dts <= SILENT_TICKS else None

    def _clock(self) -> int:
        """What a PCR would say now."""
        positions = [self._position(output) for output in self._outputs.values() if output.clock]
        least = min((position for position in positions if position is not None), default=self._foremost)
        return least - LEAD_TICKS if self._pcr is None else max(least - LEAD_TICKS, self._pcr)

    # Samples

    def _write(self, parts: list[bytes | bytearray], output: _Output, sample: Sample, access: bool) -> None:
        pcr = self._clock()
        since = PCR_MAX_TICKS if self._pcr is None else pcr - self._pcr
        carries = output.packets.pid == self._pcr_pid and not output.sections
        field = b""
        if carries and (access or output.discontinuity or since >= PCR_MIN_TICKS):
            field = adaptation_field(self._flags(output, sample, access), pcr)
            self._pcr = pcr
        elif self._pcr_pid != psi.NULL_PID and (access or since >= PCR_MAX_TICKS):
            parts.append(self._packetizer(self._pcr_pid).alone(adaptation_field(0, pcr)))
            self._pcr = pcr
        if not field and (flags := self._flags(output, sample, access)):
            field = adaptation_field(flags)
        output.discontinuity = False
        if output.sections:
            parts.append(output.packets.section(sample.data))
            return
        data = _payload(output.track, sample)
        header_data_bytes = 0
        if output.track.codec is Codec.DVB_TELETEXT and (len(data) + 9 + _TELETEXT_HEADER_DATA_BYTES) % 184 == 0:
            header_data_bytes = _TELETEXT_HEADER_DATA_BYTES
        header = pes_header(output.stream_id, sample.pts_ticks, sample.dts_ticks, len(data), header_data_bytes)
        parts.append(output.packets.pes(header, data, field))

    def _flags(self, output: _Output, sample: Sample, access: bool) -> int:
        kind = output.track.kind
        random = (access and kind is Kind.AUDIO) or (sample.keyframe and kind is Kind.VIDEO)
        return random * RANDOM_ACCESS | output.discontinuity * DISCONTINUITY


def null_packets(count: int) -> bytes:
    """Packets without content (PID 8191), which keep a connection alive while there is nothing to send."""
    return NULL_PACKET * count


def _program_descriptors(tracks: Tracks) -> bytes:
    cues = any(track.codec is Codec.SCTE_35 for track in tracks.tracks)
    return psi.descriptor(psi.REGISTRATION, b"CUEI") if cues else b""  # SCTE 35, 8.1


def _payload(track: Track, sample: Sample) -> bytes:
    """What goes into the PES: the sample, with what MPEG-TS wants and it may lack."""
    data, codec = sample.data, track.codec
    if codec is Codec.OPUS:
        return opus.control_header(len(data)) + data
    at = 0
    if codec in _DELIMITERS:
        delimited = _DELIMITED[codec].match(data)
        if delimited is not None:
            at = delimited.end()
        elif _ANNEX_B.match(data):
            data, at = _DELIMITERS[codec] + data, len(_DELIMITERS[codec])
    if sample.keyframe and track.init and codec in _PARAMETER_SETS and not _PARAMETER_SETS[codec].search(data):
        return data[:at] + track.init + data[at:]
    return data
