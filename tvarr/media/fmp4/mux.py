"""Writes fragmented MP4: CMAF segments for HLS and DASH, and one endless file for `<video src>`.

An *initialization segment* (ftyp, moov) says what the tracks are; *fragments* (moof, mdat; ISO/IEC 14496-12, 8.8) hold
samples. Nothing is kept between fragments but the place that each audio track has reached.

* Video is timed in 90 kHz ticks: DTS and PTS survive to the tick. Audio is timed in units of its sample rate, with the
  exact length of its frames, so that no rounding adds up (44.1 kHz). It is put anew where the timeline is more than
  half a frame away from where the frames before it end: then, and only then, it has a gap or an overlap.
* A sample lasts until the next one of its track; the last of a fragment until what `ends` says, else as long as the
  one before it. A wrong guess has no consequences but a gap or an overlap of that size between two fragments: each
  fragment tells its own decode times (tfdt, 64 bits).
* Parameter sets of H.264 and HEVC are in band at keyframes in the entries `avc3` and `hev1`, added where a keyframe has
  none, and repeated in the initialization segment as they were when it was made; they may change without a new one.
  Chromium plays `avc3` in `<video>` and in MSE, which hls.js and dash.js hand segments to as they are (Chromium 156,
  tried). Apple's players are the exception: the HLS Authoring Specification wants `avc1` and `hvc1`, and Safari plays
  no `hev1`. With `in_band=False` these are written: sets that the entry holds are left out of samples, and a change of
  sets needs a new segment. That is the safe choice for HLS, and from the first change on the sets had better be in the
  samples as well (`keep_sets`): of a playlist or a manifest FFmpeg reads one initialization segment (5.1, tried).
* Access unit delimiters and filler data are left out, temporal delimiters of AV1 and ADTS headers too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tvarr.errors import CannotCarry, MediaError
from tvarr.media.codecs import aac, av1
from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.boxes import box, full_box
from tvarr.media.fmp4.nal import FORMATS, LENGTH_BYTES, has_sps, parameter_sets, to_lengths
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample, Track, Tracks

STYP = box(b"styp", b"msdh", bytes(4), b"msdhmsixcmfc")  # may stand before the first fragment of a segment
DEFAULT_FRAME_TICKS = 3600  # a picture at 25 Hz, where neither the track nor its samples tell
MAX_FPS = 300  # a track that states more, or less than 1, is not believed

_KEYFRAME_FLAGS = 0x02000000  # depends on no other sample (8.8.3.1)
_OTHER_FLAGS = 0x01010000  # depends on others, no sync sample
_DEFAULT_BASE_IS_MOOF, _DEFAULT_DURATION, _DEFAULT_FLAGS = 0x020000, 0x08, 0x20  # of tfhd
_DATA_OFFSET, _DURATION, _SIZE, _FLAGS, _COMPOSITION = 0x01, 0x100, 0x200, 0x400, 0x800  # of trun
_TRACK_ENABLED_IN_MOVIE = 3
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MDAT_HEADER_BYTES = 8
_HANDLERS = {
    Kind.VIDEO: (b"vide", full_box(b"vmhd", 0, 1, bytes(8))),
    Kind.AUDIO: (b"soun", full_box(b"smhd", 0, 0, bytes(4))),
}
_DATA_HERE = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1)))
_NO_SAMPLES = (
    *(full_box(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc")),
    full_box(b"stsz", 0, 0, bytes(8)),
    full_box(b"stco", 0, 0, bytes(4)),
)


@dataclass(slots=True, eq=False)
class _Output:
    """One track on its way out."""

    track: Track
    id: int  # in the file
    entry: entries.SampleEntry | None = None
    settled: bool = False  # audio: a sample has confirmed the entry
    sets: tuple[bytes, ...] = ()  # parameter sets that came last
    keeps_sets: bool = False
    end_units: int | None = None  # audio: where its last frame ends
    duration_units: int = 0  # of its last sample


class Muxer:
    """One set of tracks in one file, or in one sequence of segments.

    Feed each sample to `differs` first. Where it says yes, end the open fragment, `learn` the sample and give out a
    new `init_segment`. A video track is described by a keyframe, or by the parameter sets that it came with; an audio
    track by its first sample, until that is told to be forgotten: another format is announced as other tracks, and
    these need another muxer.
    """

    def __init__(self, tracks: Tracks | Iterable[Track], *, in_band: bool = True) -> None:
        """Raises CannotCarry, naming the codec, where files cannot hold a track (`entries.carries`)."""
        self.too_early = 0  # samples that begin before 0 on the timeline, left out
        self._in_band = in_band
        self._outputs: dict[int, _Output] = {}
        listed = tuple(tracks.tracks if isinstance(tracks, Tracks) else tracks)
        free = max((track.id for track in listed), default=0) + 1
        for track in listed:
            if not entries.carries(track.codec):
                raise CannotCarry(f"MP4 cannot carry {track.codec}")
            entry = entries.describe(track, in_band=in_band)
            self._outputs[track.id] = _Output(track, track.id or free, entry, sets=entry.sets if entry else ())

    @property
    def missing(self) -> tuple[Track, ...]:
        """The tracks that no sample has described yet; before these are known there is no initialization segment."""
        return tuple(output.track for output in self._outputs.values() if output.entry is None)

    def differs(self, sample: Sample) -> bool:
        """Whether the sample needs another initialization segment than the last one, or the first."""
        output = self._outputs.get(sample.track)
        if output is None or not sample.keyframe or output.settled:
            return False
        entry = self._described(output, sample)
        if entry is None:
            return False
        if output.entry is None or entry.key != output.entry.key:
            return True
        output.settled = output.track.kind is Kind.AUDIO
        return False

    def learn(self, sample: Sample) -> None:
        """From here on the sample's track is as this sample says."""
        output = self._outputs.get(sample.track)
        entry = self._described(output, sample) if output is not None and sample.keyframe else None
        if output is None or entry is None:
            return
        if output.entry is not None and output.entry.timescale != entry.timescale:
            output.end_units, output.duration_units = None, 0
        output.entry, output.settled = entry, output.track.kind is Kind.AUDIO
        output.sets = entry.sets

    def keep_sets(self) -> None:
        """From here on samples hold parameter sets whatever the entry holds."""
        for output in self._outputs.values():
            output.keeps_sets = True

    def forget(self, track_id: int) -> None:
        """The next sample may say something else of this track of sound: `differs` looks at it again."""
        self._outputs[track_id].settled = False

    def _described(self, output: _Output, sample: Sample) -> entries.SampleEntry | None:
        """What the sample says; what the track came with counts only until a keyframe has said more."""
        track = output.track
        if track.kind is Kind.VIDEO and output.entry is not None:
            track = replace(track, init=b"")
        return entries.describe(track, sample.data, in_band=self._in_band)

    def entry(self, track_id: int) -> entries.SampleEntry:
        """How a track is described: codecs string, size, timescale, and `key` to compare. MediaError if not yet."""
        entry = self._outputs[track_id].entry
        if entry is None:
            raise MediaError(f"nothing has told yet what track {track_id} ({self._outputs[track_id].track.codec}) is")
        return entry

    def codecs(self) -> str:
        """The codecs of all tracks as playlists name them, comma separated. MediaError while some are missing."""
        return ",".join(dict.fromkeys(self.entry(track_id).codecs for track_id in self._outputs))

    def init_segment(self) -> bytes:
        """ftyp and moov for what was learnt last. Raises MediaError, naming a track, while some are missing."""
        boxes = [_trak(output, self.entry(track_id)) for track_id, output in self._outputs.items()]
        ids = [output.id for output in self._outputs.values()]
        brands = b"iso6" + bytes(4) + b"iso6mp41" + (b"cmfc" if len(ids) == 1 else b"")
        header = struct.pack(">4I", 0, 0, TICKS_PER_SECOND, 0) + struct.pack(">IH10x", 0x10000, 0x100)
        header += _UNITY_MATRIX + bytes(24) + struct.pack(">I", max(ids, default=0) + 1)
        extends = [full_box(b"trex", 0, 0, struct.pack(">5I", track_id, 1, 0, 0, 0)) for track_id in ids]
        movie = box(b"moov", full_box(b"mvhd", 0, 0, header), *boxes, box(b"mvex", *extends))
        return box(b"ftyp", brands) + movie

    def fragment(self, sequence: int, samples: Iterable[Sample], ends: Mapping[int, int] | None = None) -> bytes:
        """moof and mdat with these samples, in one run a track; empty where none is left.

        Samples come in decode order within each track, and of described tracks only; others are left out. `sequence`
        grows from fragment to fragment, from 1 on. `ends`: DTS of the next sample by track id, where it is known.
        Before 0 there is no time in a file: samples with a PTS below 0 are left out (`too_early`), and a DTS below 0
        is raised, which pictures allow that wait for others.
        """
        by_track: dict[int, list[Sample]] = {}
        for sample in samples:
            if sample.pts_ticks < 0:
                self.too_early += 1
            else:
                by_track.setdefault(sample.track, []).append(sample)
        runs = []
        for track_id, output in self._outputs.items():
            if track_id in by_track and output.entry is not None:
                end = ends.get(track_id) if ends else None
                runs.append(_run(output, output.entry, by_track[track_id], end))
        return _assembled(sequence, runs) if runs else b""


# Initialization segments


def _trak(output: _Output, entry: entries.SampleEntry) -> bytes:
    kind = output.track.kind
    video = kind is Kind.VIDEO
    header = struct.pack(">5I8xHHHxx", 0, 0, output.id, 0, 0, 0, 0 if video else 1, 0 if video else 0x100)
    header += _UNITY_MATRIX + struct.pack(">II", entry.width << 16, entry.height << 16)
    handler, media_header = _HANDLERS[kind]
    table = box(b"stbl", full_box(b"stsd", 0, 0, struct.pack(">I", 1), entry.box), *_NO_SAMPLES)
    media = box(
        b"mdia",
        full_box(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, entry.timescale, 0, _language(output.track.language), 0)),
        full_box(b"hdlr", 0, 0, bytes(4), handler, bytes(13)),
        box(b"minf", media_header, _DATA_HERE, table),
    )
    return box(b"trak", full_box(b"tkhd", 0, _TRACK_ENABLED_IN_MOVIE, header), media)


def _language(language: str) -> int:
    """Three letters in 5 bits each (8.4.2.3)."""
    code = language.lower()
    letters = code if len(code) == 3 and code.isascii() and code.isalpha() else "und"
    first, second, third = (ord(letter) - 0x60 for letter in letters)
    return first << 10 | second << 5 | third


# Fragments


@dataclass(slots=True)
class _Run:
    """The samples of one track in a fragment."""

    id: int
    decode_units: int
    payloads: list[bytes]
    durations: list[int]
    flags: list[int]
    compositions: list[int]


def _run(output: _Output, entry: entries.SampleEntry, samples: list[Sample], end_ticks: int | None) -> _Run:
    audio = output.track.kind is Kind.AUDIO
    times = _audio_times if audio else _video_times
    starts, end = times(output, entry.timescale, samples, end_ticks)
    durations = [after - start for start, after in zip(starts, [*starts[1:], end], strict=True)]
    output.duration_units = durations[-1]
    compositions = [] if audio else [s.pts_ticks - start for s, start in zip(samples, starts, strict=True)]
    flags = [_KEYFRAME_FLAGS if sample.keyframe else _OTHER_FLAGS for sample in samples]
    payloads = _payloads(output, entry, samples)
    return _Run(output.id, starts[0], payloads, durations, flags, compositions)


def _video_times(output: _Output, rate: int, samples: list[Sample], end: int | None) -> tuple[list[int], int]:
    """Decode times, and when the last sample ends."""
    starts, least = [], 0
    for sample in samples:
        starts.append(max(sample.dts_ticks, least))
        least = starts[-1] + 1
    known = starts[-1] - starts[-2] if len(starts) > 1 else output.duration_units
    fps = output.track.fps if 1 <= output.track.fps <= MAX_FPS else TICKS_PER_SECOND / DEFAULT_FRAME_TICKS
    guess = known or round(TICKS_PER_SECOND / fps)
    return starts, end if end is not None and end >= least else starts[-1] + guess


def _audio_times(output: _Output, rate: int, samples: list[Sample], end: int | None) -> tuple[list[int], int]:
    """Decode times, and when the last sample ends: `end` only where that is more than half a frame off."""
    starts: list[int] = []
    reached, codec = output.end_units, output.track.codec
    for sample in samples:
        start = _aligned(sample.pts_ticks, rate, reached, output.duration_units)
        starts.append(start if not starts else max(start, starts[-1] + 1))
        length = entries.frame_samples(codec, sample.data)
        output.duration_units = length or output.duration_units or 1
        reached = starts[-1] + output.duration_units
    assert reached is not None
    if end is not None:
        reached = max(_aligned(end, rate, reached, output.duration_units), starts[-1] + 1)
    output.end_units = reached
    return starts, reached


def _aligned(ticks: int, rate: int, reached: int | None, frame: int) -> int:
    """Where a frame of this time begins: where the one before it ends, if that is less than half a frame away."""
    target = (ticks * rate + TICKS_PER_SECOND // 2) // TICKS_PER_SECOND
    return reached if reached is not None and 2 * abs(reached - target) <= frame else target


def _payloads(output: _Output, entry: entries.SampleEntry, samples: list[Sample]) -> list[bytes]:
    """The samples as files hold them."""
    codec = output.track.codec
    if codec in FORMATS:
        if entry.key == entry.box and not output.keeps_sets:
            return [to_lengths(sample.data, FORMATS[codec].unwanted, entry.sets) for sample in samples]
        return [_with_sets(output, codec, sample) for sample in samples]
    if codec is Codec.AAC:
        return [aac.adts_payload(s.data) if aac.parse_adts(s.data) is not None else s.data for s in samples]
    if codec is Codec.AV1:
        return [av1.without_delimiters(sample.data) for sample in samples]
    return [sample.data for sample in samples]


def _with_sets(output: _Output, codec: Codec, sample: Sample) -> bytes:
    """An access unit, with parameter sets if it is a keyframe: those that came last where it has none."""
    unit = to_lengths(sample.data, FORMATS[codec].unwanted)
    if not sample.keyframe:
        return unit
    if sets := parameter_sets(codec, sample.data):
        output.sets = tuple(one for same in sets.values() for one in same)
    elif not has_sps(codec, sample.data):
        return b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in output.sets) + unit
    return unit


def _assembled(sequence: int, runs: list[_Run]) -> bytes:
    header = full_box(b"mfhd", 0, 0, struct.pack(">I", sequence & 0xFFFFFFFF))
    size = 8 + len(header) + sum(len(_traf(run, 0)) for run in runs)
    at = size + _MDAT_HEADER_BYTES
    parts, payloads = [header], []
    for run in runs:
        parts.append(_traf(run, at))
        at += sum(map(len, run.payloads))
        payloads += run.payloads
    return b"".join((box(b"moof", *parts), struct.pack(">I4s", at - size, b"mdat"), *payloads))


def _traf(run: _Run, data_offset: int) -> bytes:
    """Track fragment whose data begins so many bytes after the moof's start; its size does not depend on that."""
    sizes = [len(payload) for payload in run.payloads]
    same_flags, same_duration = len(set(run.flags)) == 1, len(set(run.durations)) == 1
    defaults, columns, trun_flags = _DEFAULT_BASE_IS_MOOF, [], _DATA_OFFSET | _SIZE
    values = [run.id]
    if same_duration:
        defaults, values = defaults | _DEFAULT_DURATION, [*values, run.durations[0]]
    else:
        trun_flags |= _DURATION
        columns.append(run.durations)
    columns.append(sizes)
    if same_flags:
        defaults, values = defaults | _DEFAULT_FLAGS, [*values, run.flags[0]]
    else:
        trun_flags |= _FLAGS
        columns.append(run.flags)
    if any(run.compositions):
        trun_flags |= _COMPOSITION
        columns.append([offset & 0xFFFFFFFF for offset in run.compositions])
    rows = [value for row in zip(*columns, strict=True) for value in row]
    return box(
        b"traf",
        full_box(b"tfhd", 0, defaults, struct.pack(f">{len(values)}I", *values)),
        full_box(b"tfdt", 1, 0, struct.pack(">Q", run.decode_units)),
        full_box(b"trun", 1, trun_flags, struct.pack(f">Ii{len(rows)}I", len(sizes), data_offset, *rows)),
    )
