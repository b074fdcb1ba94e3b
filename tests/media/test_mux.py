"""Golden bytes first, then what any reader must find, then FFmpeg as the reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import program
from tvarr.errors import CannotCarry
from tvarr.media.model import TICKS_PER_SECOND, Codec, Sample, Track, Tracks
from tvarr.media.mpegts import mux as muxing
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.mpegts.mux import LEAD_TICKS, Muxer, null_packets
from tvarr.media.mpegts.packetize import Packetizer, adaptation_field, pes_header, timestamp
from tvarr.media.timeline import Timeline

VIDEO, AUDIO, TEXT, CUES = 0x100, 0x101, 0x102, 0x103
H264, AAC = Track(VIDEO, Codec.H264), Track(AUDIO, Codec.AAC, language="deu")
BOTH = Tracks((H264, AAC), program=7)
SECOND = TICKS_PER_SECOND
AUD = b"\x00\x00\x00\x01\x09\xf0"
SPS = b"\x00\x00\x00\x01\x67\x42\x00\x0a\xf8\x41\xa2"
PPS = b"\x00\x00\x00\x01\x68\xce\x38\x80"
IDR = b"\x00\x00\x01\x65\x88\x84\x00"
P_SLICE = b"\x00\x00\x01\x41\x9a\x00"


class Packet(NamedTuple):
    """A transport packet as the standard describes it."""

    pid: int
    start: bool
    counter: int
    field: bytes  # adaptation field behind its length
    payload: bytes

    @property
    def flags(self) -> int:
        return self.field[0] if self.field else 0

    @property
    def pcr(self) -> int | None:
        return int.from_bytes(self.field[1:7], "big") >> 15 if self.flags & 0x10 else None


def packets(data: bytes) -> list[Packet]:
    assert len(data) % 188 == 0
    found = []
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        assert packet[0] == 0x47
        assert packet[3] & 0x30, "neither adaptation field nor payload"
        rest = packet[4:]
        field = b""
        if packet[3] & 0x20:
            field, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
            assert packet[3] & 0x10 or not rest
        start = bool(packet[1] & 0x40)
        found.append(Packet((packet[1] & 0x1F) << 8 | packet[2], start, packet[3] & 15, field, rest))
    return found


def payloads(found: Iterable[Packet], pid: int) -> list[bytes]:
    """The payloads of a PID, joined from start to start."""
    joined: list[bytes] = []
    for packet in found:
        if packet.pid == pid and packet.payload:
            if packet.start:
                joined.append(b"")
            joined[-1] += packet.payload
    return joined


def muxed(tracks: Tracks, samples: Iterable[Sample]) -> bytes:
    muxer = Muxer()
    muxer.set_tracks(tracks)
    return b"".join(chunk.data for sample in samples for chunk in muxer.mux([sample]))


def picture(dts: int, key: bool = False, size: int = 1000, reorder: int = 0) -> Sample:
    data = AUD + (SPS + PPS + IDR if key else P_SLICE) + bytes(n % 251 + 4 for n in range(size))
    return Sample(VIDEO, dts + reorder, dts, data, key)


def frame(dts: int, size: int = 300, track: int = AUDIO) -> Sample:
    return Sample(track, dts, dts, b"\xff\xf1" + bytes(size), True)


def programme(start: int = SECOND, pictures: int = 50, gop: int = 25) -> list[Sample]:
    video = [picture(start + n * 3600, n % gop == 0, 4000, 7200) for n in range(pictures)]
    audio = [frame(start + n * 1920) for n in range(pictures * 3600 // 1920)]
    return sorted(video + audio, key=lambda s: s.dts_ticks)


def pmt_of(data: bytes) -> psi.Pmt:
    sections = [p[1:] for p in payloads(packets(data), 0x1000)]
    section = sections[-1]
    return psi.parse_pmt(psi.parse_section(section[: 3 + (section[1] & 15) * 256 + section[2]]))


# Golden bytes


@pytest.mark.parametrize(
    ("marker", "ticks", "expected"),
    [
        (2, 0, "2100010001"),
        (2, 90_000, "210005bf21"),
        (3, (1 << 33) - 1, "3fffffffff"),
        (1, 1 << 33, "1100010001"),
        (2, -1, "2fffffffff"),
    ],
)
def test_timestamps(marker: int, ticks: int, expected: str) -> None:
    assert timestamp(marker, ticks).hex() == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(pes_header(0xE0, 0, 0, 10), "000001e0 0012 84 80 05 2100010001", id="PTS only"),
        pytest.param(pes_header(0xC0, 90_000, 0, 10), "000001c0 0017 84 c0 0a 310005bf21 1100010001", id="both"),
        pytest.param(pes_header(0xE0, 0, 0, 65_528), "000001e0 0000 84 80 05 2100010001", id="too long to say"),
        pytest.param(pes_header(0xE0, 0, 0, 70_000), "000001e0 0000 84 80 05 2100010001", id="longer"),
        pytest.param(pes_header(0xE0, 0, 0, 65_527), "000001e0 ffff 84 80 05 2100010001", id="as long as can be said"),
        pytest.param(pes_header(0xBD, 0, 0, 0, 7), "000001bd 000a 84 80 07 2100010001 ffff", id="stuffed"),
    ],
)
def test_pes_headers(header: bytes, expected: str) -> None:
    assert header == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(184, "475abc10 11*184", id="just fits"),
        pytest.param(183, "475abc30 00 11*183", id="an empty adaptation field"),
        pytest.param(182, "475abc30 0100 11*182", id="flags only"),
        pytest.param(100, "475abc30 5300 ff*82 11*100", id="stuffing"),
        pytest.param(185, "475abc10 11*184 471abc31 b600 ff*181 11*1", id="one more byte"),
        pytest.param(368, "475abc10 11*184 471abc11 11*184", id="two packets"),
    ],
)
def test_packets_of_a_pes(size: int, expected: str) -> None:
    assert bytes(Packetizer(0x1ABC).pes(b"", b"\x11" * size)) == written_out(expected)


def test_a_pcr_and_stuffing_share_the_adaptation_field() -> None:
    field = adaptation_field(0x40, 90_000)
    assert field == bytes.fromhex("07 50 0000afc87e00")
    packet = bytes(Packetizer(256).pes(b"", b"\x11" * 100, field))
    assert packet == written_out("47410030 53 50 0000afc87e00 ff*76 11*100")


def written_out(text: str) -> bytes:
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(octets) * int(times or 1) for octets, _, times in parts)


def test_sections_begin_and_end_their_packets() -> None:
    out = bytes(Packetizer(5).section(b"\xfc" * 184))
    assert out == written_out("47400510 00 fc*183 47000511 fc*1 ff*183")
    packetizer = Packetizer(5)
    found = packets(b"".join(packetizer.section(b"\xfc" * 1000) for _ in range(3)))
    assert [p.counter for p in found] == [n % 16 for n in range(18)]


def test_a_packet_without_payload_does_not_count() -> None:
    packetizer = Packetizer(256)
    field = adaptation_field(0, 90_000)
    alone = "47010020 b7 10 0000afc87e00 ff*176".replace("20", "2{counter:x}", 1)
    assert packetizer.alone(field) == written_out(alone.format(counter=15))
    packetizer.pes(b"", b"\x11" * 368)
    assert packetizer.alone(field) == packetizer.alone(field) == written_out(alone.format(counter=1))


@pytest.mark.parametrize("following", [16_384, 40_000])
def test_a_picture_of_several_megabytes(following: int) -> None:
    """More packets than the counters that are made beforehand."""
    data = bytes(180) + b"\x11" * (184 * following)
    found = packets(bytes(Packetizer(33).pes(b"head", data)))
    assert payloads(found, 33) == [b"head" + data]
    assert [p.counter for p in found] == [n % 16 for n in range(following + 1)]


def test_null_packets() -> None:
    assert null_packets(2) == written_out("471fff10 ff*184") * 2


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=40), st.sampled_from([b"", adaptation_field(0, 5)]))
def test_payloads_survive_packets_of_any_size(sizes: list[int], field: bytes) -> None:
    packetizer = Packetizer(33)
    data = [bytes(n % 256 for n in range(size)) for size in sizes]
    found = packets(b"".join(packetizer.pes(b"head", piece, field) for piece in data))
    assert payloads(found, 33) == [b"head" + piece for piece in data]
    assert [p.counter for p in found] == [n % 16 for n in range(len(found))]


# The stream


def test_a_stream_begins_with_its_tables_and_a_keyframe_with_a_pcr() -> None:
    found = packets(muxed(BOTH, [picture(SECOND, key=True, reorder=3600)]))
    assert [p.pid for p in found[:4]] == [psi.PAT_PID, 0x1000, psi.SDT_PID, VIDEO]
    assert found[3].flags == 0x50, "random access, PCR"
    assert found[3].payload.startswith(pes_header(0xE0, SECOND + 3600, SECOND, len(picture(0, key=True).data)))


def test_tables_say_what_the_tracks_are() -> None:
    scte = Track(CUES, Codec.SCTE_35)
    text = Track(TEXT, Codec.DVB_TELETEXT, stream_type=6, descriptors=b"\x56\x05deu\x09\x00")
    data = muxed(Tracks((H264, AAC, text, scte), program=7), [picture(0, key=True)])
    pat, pmt = psi.parse_pat(psi.parse_section(payloads(packets(data), 0)[0][1:17])), pmt_of(data)
    assert pat.programs == {7: 0x1000}
    assert (pmt.program, pmt.pcr_pid, pmt.descriptors) == (7, VIDEO, b"\x05\x04CUEI")
    assert [(s.pid, s.stream_type) for s in pmt.streams] == [(VIDEO, 0x1B), (AUDIO, 0x0F), (TEXT, 6), (CUES, 0x86)]
    assert psi.language_of(pmt.streams[1].descriptors) == "deu"
    assert pmt.streams[2].descriptors == text.descriptors


def test_chunks_begin_at_random_access_points() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    samples = programme(pictures=60, gop=20)
    chunks = muxer.mux(samples[:1]) + muxer.mux(samples[1:])
    assert [chunk.keyframe for chunk in chunks] == [True, False, True, True]
    assert [packets(chunk.data)[0].pid for chunk in chunks if chunk.keyframe] == [psi.PAT_PID] * 3
    whole = b"".join(chunk.data for chunk in chunks)
    assert whole == muxed(BOTH, samples), "however it is batched"


@pytest.mark.parametrize("announced", [Tracks((AAC,)), BOTH], ids=["radio", "video never came"])
def test_audio_alone_has_an_access_point_each_half_second(announced: Tracks) -> None:
    muxer = Muxer()
    muxer.set_tracks(announced)
    chunks = [chunk for n in range(47 * 5) for chunk in muxer.mux([frame(n * 1920)])]
    starts = [n * 1920 for n, chunk in enumerate(chunks) if chunk.keyframe and n * 1920 > muxing.SILENT_TICKS]
    assert len(starts) >= 5
    assert all(45_000 <= b - a <= 46_920 for a, b in pairwise(starts))
    begins = packets(next(chunk.data for chunk in reversed(chunks) if chunk.keyframe))
    assert [p.pid for p in begins[:3]] == [psi.PAT_PID, 0x1000, psi.SDT_PID]
    assert any(p.pcr is not None for p in begins[3:5])


def test_counters_never_skip_and_tables_come_often_but_not_all_the_time() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    chunks = [(s.dts_ticks, c.data) for s in programme(pictures=250, gop=125) for c in muxer.mux([s])]
    check_counters(packets(b"".join(data for _, data in chunks)))
    for pid, often in ((psi.PAT_PID, SECOND // 10), (0x1000, SECOND // 10), (psi.SDT_PID, 2 * SECOND)):
        tables = [dts for dts, data in chunks if any(p.pid == pid for p in packets(data))]
        assert max(b - a for a, b in pairwise(tables)) <= often + 3600
        assert len(tables) <= 10 * SECOND // often + 2, "and at keyframes"


def check_counters(found: list[Packet]) -> None:
    last: dict[int, int] = {}
    for packet in found:
        if packet.pid == psi.NULL_PID or not packet.payload:
            continue
        if packet.pid in last:
            assert packet.counter == (last[packet.pid] + 1) & 15
        last[packet.pid] = packet.counter


@pytest.mark.parametrize("video_ahead", [0, SECOND // 2, SECOND])
def test_the_pcr_grows_is_dense_and_never_ahead_of_what_follows(video_ahead: int) -> None:
    samples = sorted(
        programme(start=100 * SECOND, pictures=250), key=lambda s: s.dts_ticks - video_ahead * (s.track == VIDEO)
    )
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    pcr = None
    seen: list[int] = []
    for batch in range(0, len(samples), 3):
        for sample in samples[batch : batch + 3]:
            for packet in packets(b"".join(chunk.data for chunk in muxer.mux([sample]))):
                if packet.pcr is not None:
                    pcr = packet.pcr
                    seen.append(pcr)
            assert pcr is not None
            assert pcr <= sample.dts_ticks - LEAD_TICKS + (0 if video_ahead <= SECOND * 8 // 10 else LEAD_TICKS)
    assert seen == sorted(seen)
    settled = seen[len(seen) // 5 :]
    assert max(b - a for a, b in pairwise(settled)) <= SECOND // 10
    assert settled[-1] >= samples[-1].dts_ticks - video_ahead - LEAD_TICKS - 3600, "not later than needed"


def test_a_track_that_fell_silent_does_not_hold_the_pcr_back() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    muxer.mux(programme(start=0, pictures=25))
    data = b"".join(c.data for n in range(25, 200) for c in muxer.mux([picture(n * 3600, n % 25 == 0)]))
    assert [p.pcr for p in packets(data) if p.pcr is not None][-1] == 199 * 3600 - LEAD_TICKS


def test_a_slow_video_gets_its_pcr_in_packets_between() -> None:
    slow = [picture(n * SECOND, True) for n in range(5)]
    samples = sorted(slow + [frame(n * 1920) for n in range(47 * 4)], key=lambda s: s.dts_ticks)
    found = packets(muxed(Tracks((AAC, H264)), samples))
    assert {p.pid for p in found if p.pcr is not None} == {VIDEO}
    assert any(p.pcr is not None and not p.payload for p in found)


def test_time_stamps_wrap() -> None:
    found = packets(muxed(BOTH, [picture((1 << 33) + 5, key=True)]))
    (pes,) = payloads(found, VIDEO)
    assert pes.startswith(pes_header(0xE0, 5, 5, len(picture(0, key=True).data)))


def test_changed_tracks_raise_the_version_and_keep_the_counters() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    data = b"".join(c.data for c in muxer.mux(programme(0, 10)))
    muxer.set_tracks(BOTH)
    data += b"".join(c.data for c in muxer.mux(programme(10 * 3600, 10)))
    assert pmt_of(data).version == 0
    muxer.set_tracks(Tracks((H264, AAC, Track(TEXT, Codec.AC3)), program=7))
    changed = b"".join(c.data for c in muxer.mux([picture(20 * 3600)]))
    assert pmt_of(changed).version == 1
    assert [p.pid for p in packets(changed)[:3]] == [psi.PAT_PID, 0x1000, psi.SDT_PID], "before the next sample"
    check_counters(packets(data + changed))
    for n in range(32):
        muxer.set_tracks(BOTH if n % 2 == 0 else Tracks((H264,), program=7))
    assert pmt_of(b"".join(c.data for c in muxer.mux([picture(30 * 3600)]))).version == 33 % 32


def test_pids_are_kept_where_they_can_be() -> None:
    def pids(*ids: int) -> list[int]:
        tracks = Tracks(tuple(Track(track_id, Codec.AAC) for track_id in ids))
        return [s.pid for s in pmt_of(muxed(tracks, [frame(0, track=ids[0])])).streams]

    assert pids(0x1FFE, 5, 0x100, 0x11) == [0x101, 0x102, 0x100, 0x103]
    assert pids(0x44, 0x1F00) == [0x44, 0x1F00]
    assert pids(1, 2, 0x100) == [0x101, 0x102, 0x100]


def test_a_track_on_the_pid_of_the_pmt_moves_the_pmt() -> None:
    data = muxed(Tracks((Track(0x1000, Codec.H264),)), [picture(0)._replace(track=0x1000)])
    assert psi.parse_pat(psi.parse_section(payloads(packets(data), 0)[0][1:17])).programs == {1: 0x1001}


def test_a_track_with_another_codec_gets_another_pid_and_its_own_again_with_the_first() -> None:
    """Many players decode a PID as what it was at first."""
    muxer = Muxer()

    def pmt(codec: Codec, at: int) -> psi.Pmt:
        muxer.set_tracks(replace(BOTH, tracks=(replace(H264, codec=codec), AAC)))
        data = b"".join(
            chunk.data for chunk in muxer.mux([picture(SECOND + at * 3600, True), frame(SECOND + at * 3600)])
        )
        return pmt_of(data)

    first, second, third, again = (
        pmt(c, n) for n, c in enumerate((Codec.H264, Codec.HEVC, Codec.MPEG2VIDEO, Codec.H264))
    )
    assert [[s.pid for s in p.streams] for p in (first, second, third, again)] == [
        [VIDEO, AUDIO],
        [VIDEO + 2, AUDIO],
        [VIDEO + 3, AUDIO],
        [VIDEO, AUDIO],
    ]
    assert [p.version for p in (first, second, third, again)] == [0, 1, 2, 3]
    assert [p.pcr_pid for p in (first, second, third, again)] == [VIDEO, VIDEO + 2, VIDEO + 3, VIDEO]


def test_codecs_that_change_for_ever_find_a_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every PID has carried something else, one of them is used again."""
    monkeypatch.setattr(muxing, "HIGHEST_PID", 0x103)
    muxer = Muxer()
    for number in range(100):
        ids = [0x20 + number, 0x21 + number]
        codecs = (Codec.H264, Codec.AAC) if number % 2 else (Codec.HEVC, Codec.MP2)
        muxer.set_tracks(Tracks(tuple(Track(i, codec) for i, codec in zip(ids, codecs, strict=True))))
        assert len({output.packets.pid for output in muxer._outputs.values()}) == 2


def test_a_track_keeps_its_pid_over_changes() -> None:
    muxer = Muxer()
    muxer.set_tracks(Tracks((Track(1, Codec.H264), Track(2, Codec.AAC))))
    muxer.set_tracks(Tracks((Track(2, Codec.AAC),)))
    muxer.set_tracks(Tracks((Track(3, Codec.H264), Track(2, Codec.AAC))))
    data = b"".join(c.data for c in muxer.mux([frame(0, track=2)]))
    assert [s.pid for s in pmt_of(data).streams] == [0x100, 0x101]


@pytest.mark.parametrize("codec", [Codec.AV1, Codec.VP9])
def test_what_cannot_be_carried_is_named(codec: Codec) -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    with pytest.raises(CannotCarry, match=codec.value):
        muxer.set_tracks(Tracks((Track(VIDEO, codec),)))
    assert muxer.mux([picture(0, key=True)]), "nothing changed"


def test_samples_of_no_track_are_counted() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    assert muxer.mux([frame(0, track=999)]) == []
    assert muxer.unknown == 1


def test_a_discontinuity_is_signalled_once() -> None:
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    muxer.mux(programme(SECOND * 100, 10))
    muxer.discontinuity()
    found = packets(b"".join(c.data for c in muxer.mux(programme(SECOND * 50, 10))))
    assert [p.pid for p in found if p.flags & 0x80] == [VIDEO, AUDIO]
    assert next(p.pcr for p in found if p.pcr is not None) == SECOND * 50 - LEAD_TICKS
    muxer.discontinuity(AUDIO)
    found = packets(b"".join(c.data for c in muxer.mux(programme(SECOND * 50 + 36_000, 3))))
    assert [p.pid for p in found if p.flags & 0x80] == [AUDIO]


# What goes into a PES

HEVC_AUD, HEVC_VPS = b"\x00\x00\x00\x01\x46\x01\x50", b"\x00\x00\x00\x01\x40\x01\x0c"
HEVC_SPS, HEVC_IDR = b"\x00\x00\x00\x01\x42\x01\x01", b"\x00\x00\x01\x26\x01\xaf"


@pytest.mark.parametrize(
    ("track", "key", "data", "written"),
    [
        pytest.param(H264, False, P_SLICE, AUD + P_SLICE, id="H.264 gets a delimiter"),
        pytest.param(H264, False, AUD[1:] + P_SLICE, AUD[1:] + P_SLICE, id="its own one stays"),
        pytest.param(H264, False, b"\x12\x34", b"\x12\x34", id="no start code: left alone"),
        pytest.param(
            replace(H264, init=SPS + PPS), True, AUD + IDR, AUD + SPS + PPS + IDR, id="parameter sets at a keyframe"
        ),
        pytest.param(replace(H264, init=SPS + PPS), False, P_SLICE, AUD + P_SLICE, id="and nowhere else"),
        pytest.param(replace(H264, init=SPS + PPS), True, SPS + PPS + IDR, AUD + SPS + PPS + IDR, id="and not twice"),
        pytest.param(
            Track(VIDEO, Codec.HEVC, init=HEVC_VPS + HEVC_SPS), True, HEVC_IDR,
            HEVC_AUD + HEVC_VPS + HEVC_SPS + HEVC_IDR, id="HEVC gets both",
        ),
        pytest.param(
            Track(VIDEO, Codec.MPEG2VIDEO, init=b"\x00\x00\x01\xb3seq"), True, b"\x00\x00\x01\x00pic",
            b"\x00\x00\x01\xb3seq\x00\x00\x01\x00pic", id="MPEG-2",
        ),
        pytest.param(
            Track(VIDEO, Codec.OPUS), True, b"\xfcopus" * 60, b"\x7f\xe0\xff\x2d" + b"\xfcopus" * 60, id="Opus"
        ),
    ],
)  # fmt: skip
def test_payloads_get_what_they_lack(track: Track, key: bool, data: bytes, written: bytes) -> None:
    found = packets(muxed(Tracks((track,)), [Sample(VIDEO, 9, 9, data, key)]))
    (pes,) = payloads(found, VIDEO)
    assert pes[14:] == written


def test_teletext_fills_whole_packets() -> None:
    units = b"\x10" + b"\x02\x2c" + bytes(44)
    payload = units + b"\xff" * (184 * 2 - 45 - len(units))
    text = Track(TEXT, Codec.DVB_TELETEXT, stream_type=6, descriptors=b"\x56\x05deu\x09\x00")
    found = packets(muxed(Tracks((H264, text)), [picture(0, True), Sample(TEXT, 0, 0, payload)]))
    (pes,) = payloads(found, TEXT)
    assert pes[:9] == b"\x00\x00\x01\xbd" + (184 * 2 - 6).to_bytes(2, "big") + b"\x84\x80\x24"
    assert pes[45:] == payload
    assert not any(p.field for p in found if p.pid == TEXT)


def test_cues_are_sections() -> None:
    section = bytes.fromhex("fc302000000000000000fff00f05000000017fffff0000000000000000") + b"\x7a\x8c\x2b\x21"
    scte = Track(CUES, Codec.SCTE_35)
    found = packets(muxed(Tracks((H264, scte)), [picture(0, True), Sample(CUES, 0, 0, section)]))
    (payload,) = payloads(found, CUES)
    assert payload == (b"\x00" + section).ljust(184, b"\xff")


# Read back


def read(data: bytes) -> tuple[list[Tracks], list[Sample]]:
    demuxer = Demuxer()
    events = demuxer.feed(data) + demuxer.flush()
    return [e for e in events if isinstance(e, Tracks)], [e for e in events if isinstance(e, Sample)]


def adts(size: int) -> bytes:
    """An AAC frame: AAC-LC, 48 kHz, stereo."""
    total = 7 + size
    head = bytes((0xFF, 0xF1, 0x4C, 0x80 | total >> 11, total >> 3 & 0xFF, (total & 7) << 5 | 0x1F, 0xFC))
    return head + bytes([0x21] * size)


def by_track(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    tracks: dict[int, list[Sample]] = {}
    for sample in samples:
        tracks.setdefault(sample.track, []).append(sample)
    return tracks


@given(
    start=st.integers(0, 1 << 40),
    video=st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.integers(0, 9000)), min_size=2, max_size=30),
    audio=st.lists(st.integers(100, 1500), min_size=3, max_size=30),
    batch=st.integers(1, 9),
)
def test_what_is_written_is_read_again(
    start: int, video: list[tuple[int, bool, int]], audio: list[int], batch: int
) -> None:
    samples = [picture(start + n * 3600, key or n == 0, size, reorder) for n, (size, key, reorder) in enumerate(video)]
    samples += [Sample(AUDIO, start + n * 1920, start + n * 1920, adts(size), True) for n, size in enumerate(audio)]
    samples.sort(key=lambda s: s.dts_ticks)
    muxer = Muxer()
    muxer.set_tracks(BOTH)
    data = b"".join(c.data for at in range(0, len(samples), batch) for c in muxer.mux(samples[at : at + batch]))
    _, got = read(data)
    wrapped = [s._replace(pts_ticks=s.pts_ticks % (1 << 33), dts_ticks=s.dts_ticks % (1 << 33)) for s in samples]
    assert by_track(got) == by_track(wrapped)


def ffmpeg(*arguments: str | Path) -> str:
    run = subprocess.run(
        [program("ffmpeg"), "-v", "error", "-nostdin", "-y", *map(str, arguments)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def packets_by_ffprobe(path: Path, *, said: bool = False) -> dict[int, list[tuple[str, ...]]]:
    """Times, size and keyframe flag of each packet, by PID; `said`: ffprobe may have words (a start within a GOP)."""
    run = subprocess.run(
        [program("ffprobe"), "-v", "error", "-of", "json", "-show_entries",
         "stream=index,id:packet=stream_index,pts,dts,size,flags", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said or run.stderr == ""
    found = json.loads(run.stdout)
    pids = {s["index"]: int(s["id"], 16) for s in found["streams"]}
    packets: dict[int, list[tuple[str, ...]]] = {pid: [] for pid in pids.values()}
    for p in found["packets"]:
        packets[pids[p["stream_index"]]].append((p.get("pts"), p.get("dts"), p["size"], p["flags"][0]))
    return packets


ENCODINGS = {
    "h264 aac": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "20", "-c:a", "aac"],
    "hevc ac3": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=20", "-c:a", "ac3"],
    "mpeg2 mp2": ["-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-c:a", "mp2"],
    "radio opus": ["-vn", "-c:a", "libopus"],
    "radio eac3": ["-vn", "-c:a", "eac3"],
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ffmpeg_reads_the_same_packets_without_a_word(encoding: str, tmp_path: Path) -> None:
    source, ours = tmp_path / "source.ts", tmp_path / "ours.ts"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=2", "-f", "lavfi", "-i", "sine=r=48000:d=2", "-ac", "2",
        *ENCODINGS[encoding], "-flush_packets", "0", "-pes_payload_size", "0", source,
    )  # fmt: skip
    demuxer, muxer = Demuxer(), Muxer()
    written = []
    for event in [*demuxer.feed(source.read_bytes()), *demuxer.flush()]:
        if isinstance(event, Tracks):
            muxer.set_tracks(event)
        else:
            written += muxer.mux([event])
    assert sum(chunk.keyframe for chunk in written) >= 2
    ours.write_bytes(b"".join(chunk.data for chunk in written))
    assert ffmpeg("-i", ours, "-f", "null", "-") == ""
    assert packets_by_ffprobe(ours) == packets_by_ffprobe(source)
    access = [n for n, chunk in enumerate(written) if chunk.keyframe][1]
    ours.write_bytes(b"".join(chunk.data for chunk in written[access:]))
    assert ffmpeg("-i", ours, "-f", "null", "-") == "", "from any random access point on"


CAPTURES = [  # packets of each stream, by MANIFEST.md
    ("h264_aac_scte35_80s.ts", {0x100: 2400, 0x101: 3750, 0x3E9: 1}),
    ("h264_noPCR_pmt_change_dts_wrap.ts", {0x20: 1424, 0x21: 812}),
    ("wrong_streamtype_no_pcr.ts", {0x64: 559, 0x65: 300}),
    ("m2ts_192byte.m2ts", {0x1011: 50, 0x1100: 84}),
    ("mpeg2_mp2_pcr_own_pid.ts", {0x1000: 75, 0x1001: 123}),
    ("hls_h264_ac3", {0x100: 420, 0x101: 541}),
    ("hls_ts_rollover", {0x101: 480, 0x102: 937}),
]


@pytest.mark.parametrize(("name", "counts"), CAPTURES, ids=[name for name, _ in CAPTURES])
def test_captures_come_through_whole(name: str, counts: dict[int, int], media_dir: Path, tmp_path: Path) -> None:
    source = media_dir / name
    files = sorted(source.glob("*.ts")) if source.is_dir() else [source]
    demuxer, timeline, muxer = Demuxer(), Timeline(), Muxer()
    events = [event for file in files for event in demuxer.feed(file.read_bytes())] + demuxer.flush()
    ours = tmp_path / "ours.ts"
    with ours.open("wb") as out:
        for event in events:
            if isinstance(event, Tracks):
                timeline.set_tracks(event)
                muxer.set_tracks(event)
            elif (sample := timeline.map(event)) is not None:
                out.writelines(chunk.data for chunk in muxer.mux([sample]))
    assert {pid: len(found) for pid, found in packets_by_ffprobe(ours, said=True).items()} == counts
    check_counters(packets(ours.read_bytes()))
