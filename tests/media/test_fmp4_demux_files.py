"""What others write; FFmpeg says what is in it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import program
from tests.media.mp4_subjects import demuxed, fragmented, samples, tracks
from tvarr.errors import MoovBehind
from tvarr.media.fmp4.mux import Muxer
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event


def probe(path: Path) -> tuple[list[Fraction], list[list[int]]]:
    """Time bases and the PTS of all packets of each stream, as ffprobe finds them."""
    command = [program("ffprobe"), "-v", "error", "-of", "json"]
    command += ["-show_entries", "packet=stream_index,pts:stream=time_base", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    bases = [Fraction(stream["time_base"]) for stream in found["streams"]]
    times: list[list[int]] = [[] for _ in bases]
    for packet in found["packets"]:
        times[packet["stream_index"]].append(packet["pts"])
    return bases, times


def assert_like_ffprobe(path: Path) -> list[Event]:
    events, demuxer = demuxed(path.read_bytes())
    bases, times = probe(path)
    for track, base, expected in zip(tracks(events)[0].tracks, bases, times, strict=True):
        found = [s.pts_ticks for s in samples(events) if s.track == track.id]
        assert len(found) == len(expected)
        off = [abs(pts * base * TICKS_PER_SECOND - ticks) for pts, ticks in zip(expected, found, strict=True)]
        assert max(off) <= Fraction(1, 2), track
    stats = demuxer.stats
    assert (stats.damaged, stats.missing, stats.unreachable, stats.out_of_order) == (0, 0, 0, 0)
    by_track = [[s for s in samples(events) if s.track == t.id] for t in tracks(events)[0].tracks]
    for found in by_track:
        assert all(a.dts_ticks < b.dts_ticks for a, b in pairwise(found))
        assert all(s.dts_ticks <= s.pts_ticks for s in found)
        assert found[0].keyframe
    return events


CODECS = {"offline_av1.mp4": Codec.AV1, "offline_h264.mp4": Codec.H264, "offline_h265.mp4": Codec.HEVC}


@pytest.mark.parametrize("name", [*CODECS, "offline_vp9.mp4"])
def test_small_files(name: str, media_dir: Path) -> None:
    events = assert_like_ffprobe(media_dir / "mp4_small" / name)
    (track,) = tracks(events)[0].tracks
    assert (track.codec, track.width, track.height) == (CODECS.get(name, Codec.VP9), 1920, 1080)
    assert len(samples(events)) == 30
    init, media = fragmented([track], samples(events), 7)
    again = demuxed(init + media)[0]
    assert samples(again) == samples(events)
    (found,) = tracks(again)[0].tracks
    assert found == replace(track, fps=found.fps, init=found.init)  # that of AV1 differs from the one in the samples
    assert found.init == track.init or track.codec is Codec.AV1


@pytest.mark.parametrize(("kind", "count"), [("video", 90), ("audio", 131)])
def test_cmaf_segments(kind: str, count: int, media_dir: Path, tmp_path: Path) -> None:
    folder = media_dir / "hls_cmaf_fmp4"
    segments = sorted(folder.glob(f"{kind}_*.m4s"), key=lambda path: int(re.sub(r"\D", "", path.stem)))
    path = tmp_path / "all.mp4"
    path.write_bytes(b"".join(p.read_bytes() for p in [folder / f"{kind}_init.mp4", *segments]))
    assert len(samples(assert_like_ffprobe(path))) == count


def made(folder: Path, *options: str) -> bytes:
    """A second of a test picture and a tone, made by ffmpeg with these options."""
    path = folder / "made.mp4"
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=1.2"]
    command += ["-f", "lavfi", "-i", "sine=r=44100:d=1.2", "-threads", "1", *options, "-f", "mp4", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.read_bytes()


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-b_strategy", "0", "-g", "12", "-c:a", "aac")
FRAGMENTS = "frag_keyframe+empty_moov"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((*H264, "-movflags", "+faststart"), id="progressive"),
        pytest.param((*H264, "-movflags", FRAGMENTS), id="fragments, base offsets"),
        pytest.param((*H264, "-movflags", FRAGMENTS + "+default_base_moof"), id="fragments"),
        pytest.param((*H264, "-movflags", FRAGMENTS + "+separate_moof"), id="a moof for each track"),
        pytest.param((*H264, "-movflags", "frag_keyframe+delay_moov"), id="with edit lists"),
        pytest.param((*H264, "-movflags", "dash+global_sidx"), id="with a segment index"),
        pytest.param(("-c:v", "mpeg2video", "-c:a", "ac3", "-movflags", "+faststart"), id="MPEG-2 and AC-3"),
        pytest.param(("-vn", "-c:a", "eac3", "-ac", "6", "-movflags", "+faststart"), id="E-AC-3"),
        pytest.param(("-vn", "-c:a", "libopus", "-movflags", FRAGMENTS), id="Opus"),
        pytest.param(("-vn", "-c:a", "libmp3lame", "-movflags", "+faststart"), id="MP3"),
    ],
)
def test_what_ffmpeg_writes(options: tuple[str, ...], tmp_path: Path) -> None:
    data = made(tmp_path, *options)
    events = assert_like_ffprobe(tmp_path / "made.mp4")
    assert demuxed(data, [1, 7, 1000, 33])[0] == events


def test_negative_offsets_by_ffmpeg(tmp_path: Path) -> None:
    """They put the first picture at 0, as it was. FFmpeg 5.1 reads it one picture late: it takes the least from all."""
    events, _ = demuxed(made(tmp_path, *H264, "-movflags", FRAGMENTS + "+negative_cts_offsets"))
    (base, _), (times, _) = probe(tmp_path / "made.mp4")
    pictures = [s for s in samples(events) if s.track == 1]
    assert [s.pts_ticks for s in pictures] == [(pts - times[0]) * base * TICKS_PER_SECOND for pts in times]
    assert (pictures[0].pts_ticks, pictures[0].dts_ticks) == (0, -3600)


def test_a_track_that_is_left_out_takes_its_room(tmp_path: Path) -> None:
    """The data of a track fragment without a base lies behind that of the one before, whoever reads it."""
    flac = ("-map", "0:v", "-map", "1:a", "-map", "1:a", *H264, "-c:a:0", "flac", "-strict", "-2", "-movflags")
    stated, demuxer = demuxed(made(tmp_path, *flac, FRAGMENTS))
    assert demuxer.stats.left_out == ["fLaC"]
    assert demuxed(made(tmp_path, *flac, FRAGMENTS + "+omit_tfhd_offset"))[0] == stated


def decoded(path: Path, stream: str) -> bytes:
    """A hash of every decoded picture or of all sound, without times."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-ignore_editlist", "1"]
    command += ["-i", str(path), "-map", f"0:{stream}"]
    command += ["-fps_mode", "passthrough"] if stream == "v" else []
    done = subprocess.run([*command, "-f", "streamhash", "-"], check=True, capture_output=True, timeout=60)
    assert done.stderr == b""
    return done.stdout.partition(b"=")[2]


HEVC = ("-an", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "bframes=3:pools=1:log-level=none")


@pytest.mark.parametrize(
    ("source", "stream", "codecs"),
    [
        pytest.param("offline_av1.mp4", "v", "av01.0.08M.08", id="AV1"),
        pytest.param("offline_h264.mp4", "v", "avc3.42c028", id="H.264"),
        pytest.param("offline_h264.mp4", "v", "avc1.42c028", id="H.264, sets out of band"),
        pytest.param("offline_h265.mp4", "v", "hev1.1.6.L120.90", id="HEVC"),
        pytest.param("offline_vp9.mp4", "v", "vp09.00.40.08", id="VP9"),
        pytest.param((*HEVC, "-movflags", "+faststart"), "v", "hvc1.1.6.L30.90", id="HEVC, sets out of band"),
        pytest.param(("-vn", "-c:a", "aac", "-movflags", FRAGMENTS), "a", "mp4a.40.2", id="AAC"),
        pytest.param(("-vn", "-c:a", "ac3", "-ac", "6", "-movflags", "+faststart"), "a", "ac-3", id="AC-3"),
        pytest.param(("-vn", "-c:a", "eac3", "-movflags", "+faststart"), "a", "ec-3", id="E-AC-3"),
        pytest.param(("-vn", "-c:a", "libopus", "-movflags", FRAGMENTS), "a", "opus", id="Opus"),
    ],
)
def test_written_again_it_decodes_to_the_same(
    source: str | tuple[str, ...], stream: str, codecs: str, media_dir: Path, tmp_path: Path
) -> None:
    path, in_band = tmp_path / "made.mp4", not codecs.startswith(("avc1", "hvc1"))
    if isinstance(source, str):
        path = media_dir / "mp4_small" / source
    else:
        made(tmp_path, *source)
    events = demuxed(path.read_bytes())[0]
    listed = tracks(events)[0].tracks
    second = TICKS_PER_SECOND  # later: what is before 0 can't be written
    content = [s._replace(pts_ticks=s.pts_ticks + second, dts_ticks=s.dts_ticks + second) for s in samples(events)]
    again = tmp_path / "again.mp4"
    again.write_bytes(b"".join(fragmented(listed, content, 9, in_band=in_band)))
    assert decoded(again, stream) == decoded(path, stream)
    (base,), (times,) = probe(again)
    found = [round(pts * base * TICKS_PER_SECOND) for pts in times]
    assert max(abs(a - b.pts_ticks) for a, b in zip(found, content, strict=True)) <= (stream == "a")
    writer = Muxer(listed, in_band=in_band)
    writer.learn(content[0])
    assert writer.codecs() == codecs


def test_encrypted_by_ffmpeg(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    options = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key)
    events, demuxer = demuxed(made(tmp_path, *H264, *options, "-movflags", "+faststart"))
    assert [(t.codec, t.scrambled) for t in tracks(events)[0].tracks] == [(Codec.H264, True), (Codec.AAC, True)]
    assert demuxer.stats.scrambled > 70
    assert not samples(events)


def test_ffmpeg_writes_its_index_behind(tmp_path: Path) -> None:
    data = made(tmp_path, *H264)
    with pytest.raises(MoovBehind) as raised:
        demuxed(data)
    events, _ = demuxed(data, moov=data[raised.value.moov_at :])
    assert len(samples(events)) == sum(map(len, probe(tmp_path / "made.mp4")[1]))
