"""Examples first, then FFmpeg as the reader."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import program
from tvarr.errors import CannotCarry, MediaError
from tvarr.media.codecs import opus
from tvarr.media.codecs.annexb import joined, nal_units
from tvarr.media.fmp4.boxes import Box, children, find
from tvarr.media.fmp4.entries import describe
from tvarr.media.fmp4.mux import STYP, Muxer
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.segmenter import Cut
from tvarr.media.segments import CmafPacker
from tvarr.media.timeline import Timeline

SPS, PPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96"), bytes.fromhex("68ebecb22c")
OTHER_PPS = bytes.fromhex("68ee3cb0")
AUD, IDR, SLICE = b"\x09\xf0", b"\x65\x88\x84\x00\x33\xff", b"\x41\x9a\x24\x6c"
VIDEO = Track(0x100, Codec.H264, fps=25.0, init=joined([SPS, PPS]))
AUDIO = Track(0x101, Codec.AAC, language="deu", sample_rate=44_100, channels=2)


def picture(dts: int, *, key: bool = False, reorder: int = 0, sets: tuple[bytes, ...] = (SPS, PPS)) -> Sample:
    return Sample(VIDEO.id, dts + reorder, dts, joined([AUD, *sets, IDR] if key else [AUD, SLICE]), key)


def adts(size: int = 50, rate_index: int = 4) -> bytes:
    """An AAC-LC frame, stereo, without CRC."""
    length = size + 7
    head = bytes(
        (0xFF, 0xF1, 0x40 | rate_index << 2, 0x80 | length >> 11, length >> 3 & 0xFF, (length & 7) << 5 | 0x1F)
    )
    return bytes(head) + b"\xfc" + bytes(n % 255 for n in range(size))


def frame(ticks: int) -> Sample:
    return Sample(AUDIO.id, ticks, ticks, adts(), True)


class Run:
    """What a traf says, by 14496-12, 8.8.7 to 8.8.12."""

    def __init__(self, data: bytes, moof: Box, traf: Box) -> None:
        tfhd, tfdt, trun = (find(data, traf, kind) for kind in (b"tfhd", b"tfdt", b"trun"))
        assert tfhd is not None
        assert tfdt is not None
        assert trun is not None
        flags = int.from_bytes(data[tfhd.start + 1 : tfhd.start + 4], "big")
        assert flags & 0x020000, "default-base-is-moof"
        self.track = int.from_bytes(data[tfhd.start + 4 : tfhd.start + 8], "big")
        at, defaults = tfhd.start + 8, {}
        for bit in (0x08, 0x10, 0x20):
            if flags & bit:
                defaults[bit] = int.from_bytes(data[at : at + 4], "big")
                at += 4
        assert at == tfhd.end
        assert data[tfdt.start] == 1
        self.decode_time = int.from_bytes(data[tfdt.start + 4 : tfdt.end], "big")
        version, flags = data[trun.start], int.from_bytes(data[trun.start + 1 : trun.start + 4], "big")
        assert version == 1
        count, offset = struct.unpack_from(">Ii", data, trun.start + 4)
        at, position = trun.start + 12, moof.start - 8 + offset
        self.durations, self.flags, self.offsets, self.payloads = [], [], [], []
        for _ in range(count):
            row = {0x100: defaults.get(0x08), 0x200: defaults.get(0x10), 0x400: defaults.get(0x20), 0x800: 0}
            for bit in row:
                if flags & bit:
                    row[bit] = struct.unpack_from(">i" if bit == 0x800 else ">I", data, at)[0]
                    at += 4
            self.durations.append(row[0x100])
            self.flags.append(row[0x400])
            self.offsets.append(row[0x800])
            self.payloads.append(data[position : position + (row[0x200] or 0)])
            position += row[0x200] or 0
        assert at == trun.end


def runs(data: bytes) -> list[Run]:
    found, moof = [], None
    for child in children(data, 0, len(data)):
        if child.kind == b"moof":
            moof = child
            found += [Run(data, child, inner) for inner in children(data, *child[1:]) if inner.kind == b"traf"]
    assert moof is not None
    return found


def muxer(*tracks: Track, in_band: bool = True) -> Muxer:
    return Muxer(tracks, in_band=in_band)


# Fragments


def test_pictures_keep_their_times() -> None:
    start = 1 << 40
    samples = [picture(start, key=True, reorder=7200), picture(start + 3600, reorder=14400), picture(start + 7200)]
    (run,) = runs(muxer(VIDEO).fragment(1, samples, {VIDEO.id: start + 10_000}))
    assert (run.track, run.decode_time) == (VIDEO.id, start)
    assert run.durations == [3600, 3600, 2800]
    assert run.offsets == [7200, 14400, 0]
    assert run.flags == [0x02000000, 0x01010000, 0x01010000]


@pytest.mark.parametrize(
    ("samples", "fps", "expected"),
    [
        pytest.param([picture(0, key=True), picture(3000)], 25.0, [3000, 3000], id="as the one before"),
        pytest.param([picture(0, key=True)], 25.0, [3600], id="as the track says"),
        pytest.param([picture(0, key=True)], 0.0, [3600], id="nothing is known"),
    ],
)
def test_the_last_duration_is_a_guess(samples: list[Sample], fps: float, expected: list[int]) -> None:
    (run,) = runs(muxer(replace(VIDEO, fps=fps)).fragment(1, samples))
    assert run.durations == expected


def test_units_are_behind_lengths() -> None:
    (run,) = runs(muxer(VIDEO).fragment(1, [picture(0, key=True)]))
    assert run.payloads == [b"".join(len(unit).to_bytes(4, "big") + unit for unit in (SPS, PPS, IDR))]


def test_out_of_band_sets_leave_the_samples() -> None:
    (run,) = runs(muxer(VIDEO, in_band=False).fragment(1, [picture(0, key=True, sets=(SPS, PPS, OTHER_PPS))]))
    assert run.payloads == [b"".join(len(unit).to_bytes(4, "big") + unit for unit in (OTHER_PPS, IDR))]


def test_out_of_band_sets_can_be_kept_in_the_samples_as_well() -> None:
    writer = muxer(VIDEO, in_band=False)
    writer.keep_sets()
    samples = [picture(0, key=True), picture(3600), picture(7200, key=True, sets=())]
    (run,) = runs(writer.fragment(1, samples))
    whole = b"".join(len(unit).to_bytes(4, "big") + unit for unit in (SPS, PPS, IDR))
    assert run.payloads == [whole, len(SLICE).to_bytes(4, "big") + SLICE, whole]


def test_audio_does_not_drift() -> None:
    """Frames of 44.1 kHz last 2089.8 ticks; a rounded clock, an hour of it."""
    writer, position = muxer(AUDIO), 0
    for first in range(0, 44_100 * 3600 // 1024, 5000):
        samples = [frame(round(n * 1024 * TICKS_PER_SECOND / 44_100)) for n in range(first, first + 5000)]
        (run,) = runs(writer.fragment(1, samples))
        assert set(run.durations) == {1024}
        assert run.decode_time == position
        position += 5000 * 1024


def test_audio_follows_the_timeline() -> None:
    """A hole of three frames is a long frame; less than half a frame is none."""
    first, second, last = (round(n * 1024 * TICKS_PER_SECOND / 44_100) for n in (1, 2, 6))
    ticks = [0, first + 500, second - 500, last]
    (run,) = runs(muxer(AUDIO).fragment(1, [frame(t) for t in ticks]))
    assert run.durations == [1024, 1024, 4096, 1024]
    assert run.payloads[0] == adts()[7:]


def test_time_before_zero() -> None:
    """Decode times are raised where pictures allow it, frames before 0 left out."""
    writer = muxer(VIDEO, AUDIO)
    pictures = [picture(-7200, key=True, reorder=7200), picture(-3600, reorder=14400), picture(0, reorder=3600)]
    video, audio = runs(writer.fragment(1, [frame(-2090), *pictures, frame(0)]))
    assert (video.decode_time, video.durations[:2]) == (0, [1, 1])
    assert [d + o for d, o in zip([0, 1, 2], video.offsets, strict=True)] == [0, 10800, 3600]
    assert (audio.decode_time, len(audio.payloads), writer.too_early) == (0, 1, 1)


def test_tracks_share_a_fragment() -> None:
    samples = [picture(0, key=True), frame(0), frame(2090), picture(3600), frame(4180)]
    video, audio = runs(muxer(VIDEO, AUDIO).fragment(7, samples))
    assert (video.track, len(video.payloads), audio.track, len(audio.payloads)) == (VIDEO.id, 2, AUDIO.id, 3)
    assert audio.payloads == [adts()[7:]] * 3


def test_a_track_without_number_gets_one_of_its_own() -> None:
    """0 is none (14496-12, 8.3.2.3)."""
    samples = [picture(0, key=True)._replace(track=0), frame(0)._replace(track=1)]
    found = runs(muxer(replace(VIDEO, id=0), replace(AUDIO, id=1)).fragment(1, samples))
    assert [run.track for run in found] == [2, 1]


def test_nothing_to_write_is_nothing() -> None:
    assert muxer(VIDEO).fragment(1, []) == b""
    assert muxer(VIDEO).fragment(1, [frame(0)]) == b""


# Configuration


@pytest.mark.parametrize(
    ("track", "data", "codecs"),
    [
        (VIDEO, b"", "avc3.64001e"),
        (AUDIO, b"", "mp4a.40.2"),
        (AUDIO, adts(), "mp4a.40.2"),
        (Track(1, Codec.OPUS, init=opus.head(2)), b"", "opus"),
    ],
)
def test_codecs_strings(track: Track, data: bytes, codecs: str) -> None:
    writer = muxer(track)
    writer.learn(Sample(track.id, 0, 0, data, True))
    assert writer.codecs() == codecs


def test_what_is_not_known_is_said() -> None:
    writer = muxer(replace(VIDEO, init=b""), AUDIO)
    assert [track.id for track in writer.missing] == [VIDEO.id]
    with pytest.raises(MediaError, match=r"256 \(h264\)"):
        writer.init_segment()
    assert writer.differs(picture(0, key=True))
    writer.learn(picture(0, key=True))
    assert not writer.missing
    assert writer.init_segment()


def test_what_files_cannot_carry_is_refused() -> None:
    with pytest.raises(CannotCarry, match="mpeg2video"):
        muxer(VIDEO, Track(2, Codec.MPEG2VIDEO))


@pytest.mark.parametrize(
    ("sets", "in_band", "out_of_band"),
    [
        pytest.param((SPS, PPS), False, False, id="the same"),
        pytest.param((), False, False, id="none"),
        pytest.param((SPS, OTHER_PPS), False, True, id="another PPS"),
        pytest.param((b"\x67\x64\x00\x1f" + SPS[4:], PPS), True, True, id="another level"),
    ],
)
def test_a_change_of_sets(sets: tuple[bytes, ...], in_band: bool, out_of_band: bool) -> None:
    sample = picture(0, key=True, sets=sets)
    for writer, expected in ((muxer(VIDEO), in_band), (muxer(VIDEO, in_band=False), out_of_band)):
        assert writer.differs(sample) is expected
        assert not writer.differs(picture(0))
        before = writer.init_segment()
        writer.learn(sample)
        assert not writer.differs(sample)
        assert (writer.init_segment() != before) or not expected


def test_segments_behind_a_change_of_sets_can_be_decoded_without_their_initialization_segment() -> None:
    """Which FFmpeg reads once. What came before is described as it was."""
    packer, parts = CmafPacker(), []
    tall = (b"\x67\x64\x00\x1f" + SPS[4:], PPS)
    for number, sets in enumerate([(SPS, PPS), (SPS, PPS), tall, tall]):
        start = number * 2 * TICKS_PER_SECOND
        samples = (picture(start, key=True, sets=sets), picture(start + 3600))
        part, _ = packer.pack(Cut(start, start + 180_000, Tracks((VIDEO,)), samples, {}, True, number == 2))
        parts.append(part["video"])
    assert [part.init for part in parts] == [1, 1, 2, 2]
    firsts = [runs(part.data)[0].payloads[0] for part in parts]
    assert [tall[0] in first for first in firsts] == [False, False, True, True]
    assert not any(SPS in first for first in firsts)
    rendition = packer.renditions["video"]
    assert (rendition.as_of(1).codecs, rendition.as_of(2).codecs) == ("avc1.64001e", "avc1.64001f")
    assert rendition.codecs == "avc1.64001f"


def test_a_keyframe_without_sets_gets_those_that_came_last() -> None:
    writer = muxer(VIDEO)
    samples = [picture(0, key=True, sets=()), picture(3600, key=True, sets=(SPS, OTHER_PPS))]
    (run,) = runs(writer.fragment(1, [*samples, picture(7200, key=True, sets=()), picture(10_800)]))
    first, second, third, last = run.payloads
    prefix = [b"".join(len(unit).to_bytes(4, "big") + unit for unit in (SPS, pps)) for pps in (PPS, OTHER_PPS)]
    assert first.startswith(prefix[0])
    assert second == third
    assert third.startswith(prefix[1])
    assert last == len(SLICE).to_bytes(4, "big") + SLICE


def test_what_a_keyframe_said_counts_more_than_what_the_track_came_with() -> None:
    writer = muxer(VIDEO)
    changed = picture(0, key=True, sets=(b"\x67\x64\x00\x1f" + SPS[4:], PPS))
    writer.learn(changed)
    assert not writer.differs(picture(3600, key=True, sets=()))
    writer.learn(picture(3600, key=True, sets=()))
    assert writer.codecs() == "avc3.64001f"


def test_the_first_frame_settles_what_audio_is() -> None:
    """The track says 44.1 kHz; its frames are AAC Main."""
    writer = muxer(AUDIO)
    main = bytes((*adts()[:2], adts()[2] & 0x3F, *adts()[3:]))
    first = Sample(AUDIO.id, 0, 0, main, True)
    assert writer.codecs() == "mp4a.40.2"
    assert writer.differs(first)
    writer.learn(first)
    assert writer.codecs() == "mp4a.40.1"
    assert not writer.differs(frame(2090))


# FFmpeg reads it


def probe(path: Path, *options: str) -> Any:
    command = [program("ffprobe"), "-v", "error", "-of", "json", *options, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert b"[mov" not in done.stderr  # captures end amid a picture: the decoder's complaints are theirs
    return json.loads(done.stdout)


def segments(events: Iterable[Event], in_band: bool) -> tuple[bytes, list[Sample], Tracks]:
    """A file of what the events hold from the first keyframe on, a fragment for each group, and what is in it."""
    timeline, samples, tracks = Timeline(), [], Tracks(())
    for event in events:
        if isinstance(event, Tracks):
            tracks = Tracks(tuple(t for t in event.tracks if t.kind in (Kind.VIDEO, Kind.AUDIO)))
            timeline.set_tracks(tracks)
        elif (sample := timeline.map(event)) is not None:
            samples.append(sample)
    writer, parts, pending = Muxer(tracks, in_band=in_band), [], []
    videos = {track.id for track in tracks.of_kind(Kind.VIDEO)}
    samples = samples[next(n for n, s in enumerate(samples) if s.keyframe and s.track in videos) :]
    for sample in samples:
        if writer.differs(sample):
            writer.learn(sample)
        if sample.keyframe and sample.track in videos and pending:
            parts.append(writer.fragment(len(parts) + 1, pending, {sample.track: sample.dts_ticks}))
            pending = []
        pending.append(sample)
    parts.append(writer.fragment(len(parts) + 1, pending))
    assert writer.too_early == 0
    return writer.init_segment() + STYP.join([b"", *parts]), samples, tracks


CAPTURES = [
    ("h264_aac_scte35_80s.ts", True),
    ("h264_aac_scte35_80s.ts", False),
    ("h264_noPCR_pmt_change_dts_wrap.ts", True),
    ("h264_1080i_3eac3_dvbsub.ts", True),
    ("hls_h264_ac3/s_00000.ts", True),
]


@pytest.mark.parametrize(("name", "in_band"), CAPTURES)
def test_ffprobe_finds_every_sample_at_its_time(name: str, in_band: bool, media_dir: Path, tmp_path: Path) -> None:
    demuxer = Demuxer()
    data, samples, tracks = segments(demuxer.feed((media_dir / name).read_bytes()) + demuxer.flush(), in_band)
    path = tmp_path / "written.mp4"
    path.write_bytes(data)
    found = probe(path, "-show_entries", "packet=stream_index,pts,dts,size:stream=id,time_base,codec_name:stream_tags")
    for stream in found["streams"]:
        track = tracks.get(int(stream["id"], 16))
        assert track is not None
        assert stream["codec_name"] == track.codec
        assert stream["tags"]["language"] == track.language or not track.language
        rate = int(stream["time_base"].split("/")[1])
        read = [p for p in found["packets"] if p["stream_index"] == found["streams"].index(stream)]
        written = [sample for sample in samples if sample.track == track.id]
        assert len(read) == len(written)
        if track.kind is Kind.VIDEO:
            assert [p["pts"] for p in read] == [sample.pts_ticks for sample in written]
        else:
            off = [abs(p["pts"] / rate - s.pts_ticks / TICKS_PER_SECOND) for p, s in zip(read, written, strict=True)]
            assert max(off) <= 0.016 + 1e-4  # half of the longest frame, of 1536 samples
    assert len(found["streams"]) == len(tracks.tracks)


@pytest.mark.parametrize("in_band", [True, False])
def test_ffmpeg_decodes_every_picture(in_band: bool, media_dir: Path, tmp_path: Path) -> None:
    demuxer = Demuxer()
    source = b"".join(path.read_bytes() for path in sorted((media_dir / "hls_ts_rollover").glob("*.ts")))
    data, samples, tracks = segments(demuxer.feed(source) + demuxer.flush(), in_band)
    path = tmp_path / "written.mp4"
    path.write_bytes(data)
    (video,) = tracks.of_kind(Kind.VIDEO)
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", str(path), "-fps_mode", "passthrough"]
    command += ["-map", "0:v", "-progress", "-", "-f", "null", "-"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=120)
    frames = [line for line in done.stdout.split() if line.startswith(b"frame=")]
    assert frames[-1] == b"frame=%d" % sum(sample.track == video.id for sample in samples)
    assert done.stderr == b""


def test_what_is_behind_lengths_is_what_was_behind_start_codes(media_dir: Path) -> None:
    demuxer = Demuxer()
    events = demuxer.feed((media_dir / "h264_1080i_3eac3_dvbsub.ts").read_bytes()) + demuxer.flush()
    data, samples, tracks = segments(events, True)
    (video,) = tracks.of_kind(Kind.VIDEO)
    written = b"".join(payload for run in runs(data) if run.track == video.id for payload in run.payloads)
    expected = [
        unit
        for sample in samples
        if sample.track == video.id
        for unit in nal_units(sample.data)
        if unit[0] & 0x1F not in (9, 12)
    ]
    at, units = 0, []
    while at < len(written):
        size = int.from_bytes(written[at : at + 4], "big")
        units.append(written[at + 4 : at + 4 + size])
        at += 4 + size
    assert units == expected


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (Codec.H264, joined([SPS, PPS + b"\x01" * 0x10000])),
        (Codec.AV1, bytes.fromhex("0d0000000000ffffffffffffffff0002b52d05ffe977ffbd0bb7e6")),  # 65536 wide
    ],
    ids=["length", "width"],
)
def test_what_a_sample_entry_has_no_room_for_is_no_description(codec: Codec, data: bytes) -> None:
    assert describe(Track(1, codec), data) is None
