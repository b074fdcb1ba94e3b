"""Real captures: what comes out, and that writing it again gives ffprobe the packets of the manifest."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.captures import PACKETS, packets
from tvarr.media.model import Codec, Event, Sample, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.mpegts.mux import Muxer
from tvarr.media.timeline import Timeline

TRACKS: dict[str, list[tuple[Codec, str, int, int]]] = {  # width or sample rate, height or channels
    "mpeg2_mp2_pcr_own_pid.ts": [(Codec.MPEG2VIDEO, "", 720, 576), (Codec.MP2, "", 48000, 2)],
    "wrong_streamtype_no_pcr.ts": [(Codec.AAC, "", 48000, 2), (Codec.H264, "", 1024, 576)],
    "m2ts_192byte.m2ts": [(Codec.MPEG2VIDEO, "", 320, 240), (Codec.MP2, "", 48000, 2)],
    "hls_h264_ac3": [(Codec.H264, "", 720, 576), (Codec.AC3, "deu", 48000, 2)],
    "h264_1080i_3eac3_dvbsub.ts": [
        (Codec.H264, "", 1920, 1080),
        (Codec.EAC3, "fre", 48000, 2),
        (Codec.EAC3, "qad", 48000, 2),
        (Codec.EAC3, "qaa", 48000, 2),
        (Codec.DVB_SUBTITLE, "fra", 0, 0),
        (Codec.DVB_SUBTITLE, "fra", 0, 0),
    ],
}
ONE_ANNOUNCEMENT = set(PACKETS) - {"offair_bad_reception.ts", "h264_1080i_scrambled_csa.ts"}


def source(media_dir: Path, name: str) -> bytes:
    path = media_dir / name
    return b"".join(p.read_bytes() for p in sorted(path.glob("*.ts"))) if path.is_dir() else path.read_bytes()


def demuxed(data: bytes, seed: int | None = None) -> list[Event]:
    demuxer, events, at, chunks = Demuxer(), [], 0, random.Random(seed)
    while at < len(data):
        size = len(data) if seed is None else chunks.choice([7, 1000, 1316, 64_000, 100_001])
        events += demuxer.feed(data[at : at + size])
        at += size
    return events + demuxer.flush()


def remuxed(events: list[Event]) -> bytes:
    timeline, muxer, written = Timeline(), Muxer(), b""
    for event in events:
        if isinstance(event, Tracks):
            timeline.set_tracks(event)
            muxer.set_tracks(event)
        elif (sample := timeline.map(event)) is not None:
            written += b"".join(chunk.data for chunk in muxer.mux([sample]))
    return written


@pytest.mark.parametrize("name", PACKETS)
def test_written_again_a_capture_has_the_packets_of_the_manifest(name: str, media_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.ts"
    path.write_bytes(remuxed(demuxed(source(media_dir, name))))
    assert packets(path) == PACKETS[name]


@pytest.mark.parametrize("name", PACKETS)
def test_chunks_make_no_difference(name: str, media_dir: Path) -> None:
    data = source(media_dir, name)
    expected = demuxed(data)
    assert demuxed(data, seed=1) == expected
    announced = [e for e in expected if isinstance(e, Tracks)]
    assert expected[0] == announced[0]
    assert len(announced) == 1 or name not in ONE_ANNOUNCEMENT


@pytest.mark.parametrize("name", TRACKS)
def test_tracks(name: str, media_dir: Path) -> None:
    tracks = demuxed(source(media_dir, name))[0]
    assert isinstance(tracks, Tracks)
    found = [(t.codec, t.language, t.width or t.sample_rate, t.height or t.channels) for t in tracks.tracks]
    assert found == TRACKS[name]


def test_scrambled_tracks_say_so(media_dir: Path) -> None:
    (tracks,) = demuxed(source(media_dir, "h264_1080i_scrambled_csa.ts"))
    assert isinstance(tracks, Tracks)
    assert [t.scrambled for t in tracks.tracks] == [True] * 4 + [False] * 2


def test_another_program_of_a_multiplex(media_dir: Path) -> None:
    """3402: video, sound in three languages, teletext."""
    data = source(media_dir, "mpts_8prog_dvb_it.ts")
    demuxer = Demuxer(program=3402)
    counts = Counter(e.track for e in demuxer.feed(data) + demuxer.flush() if isinstance(e, Sample))
    assert {pid: counts[pid] for pid in (0x201, 0x28B, 0x2B7, 0x2B8, 0x241)} == {
        0x201: 33,
        0x28B: 54,
        0x2B7: 56,
        0x2B8: 50,
        0x241: 68,
    }


def multiplex(media_dir: Path, *, scrambled: set[int] = frozenset(), missing: set[int] = frozenset()) -> bytes:  # type: ignore[assignment]
    """Eight programs, of which some PIDs are scrambled, or do not come."""
    data = bytearray(source(media_dir, "mpts_8prog_dvb_it.ts"))
    kept = bytearray()
    for at in range(0, len(data), 188):
        pid = (data[at + 1] & 0x1F) << 8 | data[at + 2]
        if pid in scrambled:
            data[at + 3] |= 0x80
        if pid not in missing:
            kept += data[at : at + 188]
    return bytes(kept)


def program_of(data: bytes) -> int:
    (program,) = {event.program for event in demuxed(data) if isinstance(event, Tracks)}
    for seed in range(3):
        assert {event.program for event in demuxed(data, seed) if isinstance(event, Tracks)} == {program}
    return program


def test_the_first_playable_program_of_a_multiplex(media_dir: Path) -> None:
    """By the PAT: 3401 to 3404 have video at 0x200, 0x201, 0x202 and 0x208 in some order, then HEVC, then radio."""
    assert program_of(multiplex(media_dir)) == 3401
    assert program_of(multiplex(media_dir, scrambled={0x200})) == 3402
    assert program_of(multiplex(media_dir, missing={0x200})) == 3402
    assert program_of(multiplex(media_dir, scrambled={0x200}, missing={0x201})) == 3403
    video = {0x200, 0x201, 0x202, 0x208, 0x1F4}
    assert program_of(multiplex(media_dir, scrambled=video)) == 3401  # its sound can be had
    sound = {0x28A, 0x2B6, 0x2BB, 0x2B9}
    assert program_of(multiplex(media_dir, scrambled=video | sound)) != 3401
    everything = set(range(0x1F0, 0x300)) - {0x240, 0x241}
    assert program_of(multiplex(media_dir, scrambled=everything)) == 3401  # and its tracks say why nothing comes


@pytest.mark.parametrize("name", sorted(set(PACKETS) - {"hls_h264_ac3", "mpts_8prog_dvb_it.ts"}))
def test_damage_is_survived(name: str, media_dir: Path) -> None:
    data = bytearray(source(media_dir, name)[:1_000_000])
    chance = random.Random(name)
    for _ in range(2000):
        data[chance.randrange(len(data))] = chance.randrange(256)
    for _ in range(20):
        at = chance.randrange(len(data))
        del data[at : at + chance.randrange(1, 500)]
    known: set[int] = set()
    came = 0
    for event in demuxed(bytes(data)):
        if isinstance(event, Tracks):
            known = {t.id for t in event.tracks}
        else:
            assert event.track in known
            assert 0 <= event.pts_ticks < 1 << 33
            came += len(event.data)
    assert came > len(data) // 3 or "scrambled" in name
