"""The demuxer on hand-made streams: what a source may do right and wrong."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.ts_writer import AUD, MP2_FRAME, PPS, SPS, Writer, adts, h264_slice, pes
from tvarr.errors import NotTransportStream
from tvarr.media.model import Codec, Event, Sample, Tracks
from tvarr.media.mpegts import demux, framing, psi, receive
from tvarr.media.mpegts.demux import Demuxer

VIDEO, AUDIO, DATA = 0x100, 0x101, 0x102
H264 = psi.PmtStream(0x1B, VIDEO)
AAC = psi.PmtStream(0x0F, AUDIO, b"\x0a\x04fra\x00")
FRAME = 3600  # ticks at 25 frames/s
AAC_FRAME = 1920  # ticks at 48 kHz


def demuxed(data: bytes, chunk: int = 1 << 20, *, program: int | None = None) -> list[Event]:
    demuxer = Demuxer(program=program)
    events = [event for at in range(0, len(data), chunk) for event in demuxer.feed(data[at : at + chunk])]
    return events + demuxer.flush()


def samples(events: Iterable[Event], track: int | None = None) -> list[Sample]:
    return [e for e in events if isinstance(e, Sample) and track in (None, e.track)]


def announcements(events: Iterable[Event]) -> list[Tracks]:
    return [e for e in events if isinstance(e, Tracks)]


def picture(index: int) -> bytes:
    """A frame: every twelfth an IDR picture with parameters."""
    return AUD + (SPS + PPS + h264_slice(0, idr=True, size=2000) if index % 12 == 0 else h264_slice(index))


def channel(writer: Writer, pictures: int = 25, *, tables_each: int = 10) -> list[bytes]:
    """Packets of a healthy channel: video of 25 frames/s, two AAC frames a PES."""
    packets: list[bytes] = []
    for index in range(pictures):
        if index % tables_each == 0:
            packets.append(writer.tables(H264, AAC))
        packets += writer.packets(VIDEO, pes(picture(index), 9000 + index * FRAME))
        packets += writer.packets(
            AUDIO, pes(adts() + adts(), 9000 + index * 2 * AAC_FRAME, stream_id=0xC0, length=True)
        )
    return [p[at : at + 188] for p in packets for at in range(0, len(p), 188)]


def test_a_healthy_channel() -> None:
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(channel(Writer()))) + demuxer.flush()
    tracks = events[0]
    assert isinstance(tracks, Tracks)
    assert announcements(events) == [tracks]
    assert tracks.program == 1
    video, audio = tracks.tracks
    assert (video.id, video.codec, video.width, video.height, video.fps) == (VIDEO, Codec.H264, 320, 240, 25.0)
    assert video.init == SPS + PPS
    assert (audio.codec, audio.language, audio.sample_rate, audio.channels) == (Codec.AAC, "fra", 48000, 2)
    assert samples(events, VIDEO) == [
        Sample(VIDEO, 9000 + i * FRAME, 9000 + i * FRAME, picture(i), i % 12 == 0) for i in range(25)
    ]
    assert samples(events, AUDIO) == [
        Sample(AUDIO, 9000 + i * AAC_FRAME, 9000 + i * AAC_FRAME, adts(), True) for i in range(50)
    ]
    assert demuxer.stats == receive.DemuxStats(packets=demuxer.stats.packets, bytes=demuxer.stats.packets * 188)


def test_a_healthy_channel_starts_with_its_first_pictures() -> None:
    """Tracks are held back only until each has shown what it is."""
    demuxer, fed = Demuxer(), 0
    for packet in channel(Writer()):
        fed += 1
        if demuxer.feed(packet):
            break
    assert fed < 40  # tables, two pictures, audio: 12 + 2 packets each


def as_192(packets: list[bytes]) -> bytes:
    return b"".join(index.to_bytes(4, "big") + packet for index, packet in enumerate(packets))


def as_204(packets: list[bytes]) -> bytes:
    return b"".join(packet + bytes(16) for packet in packets)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_packet_size_and_chunks_make_no_difference(data: st.DataObject) -> None:
    packets = channel(Writer(), 14)
    expected = demuxed(b"".join(packets))
    stream = data.draw(st.sampled_from([b"".join, as_192, as_204]))(packets)
    garbage = data.draw(st.binary(max_size=300))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    demuxer, events = Demuxer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += demuxer.feed(stream[start:end])
    assert events + demuxer.flush() == expected
    assert demuxed(garbage.replace(b"G", b"g") + stream) == expected


def test_one_byte_at_a_time() -> None:
    stream = b"".join(channel(Writer(), 3))
    assert demuxed(stream, 1) == demuxed(stream)


def test_garbage_between_packets_costs_what_it_hit() -> None:
    packets = channel(Writer())
    packets.insert(100, b"\x00garbage" * 50)
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(packets)) + demuxer.flush()
    assert demuxer.stats.sync_losses == 1
    assert demuxer.stats.continuity_errors == 0
    assert len(samples(events)) == 75


@pytest.mark.parametrize("chunk", [1, 100, 188, 500, 1 << 20])
def test_what_is_counted_depends_on_the_bytes_only(chunk: int) -> None:
    """Packets that lie across two chunks, and what no packet follows, too."""
    packets = channel(Writer(), 160)
    stream = b"".join([*packets[:100], b"\x00garbage" * 15, *packets[100:700], bytes(91), *packets[700:]])
    demuxer = Demuxer()
    for at in range(0, len(stream), chunk):
        demuxer.feed(stream[at : at + chunk])
    demuxer.flush()
    stats = demuxer.stats
    assert len(packets) > framing.RUN_PACKETS + 200
    assert (stats.packets, stats.sync_losses, stats.continuity_errors) == (len(packets), 2, 0)
    short = Demuxer()
    short.feed(b"".join(packets[:3]))
    short.flush()
    assert short.stats.packets == 3


def test_garbage_now_and_then_adds_up_to_no_end() -> None:
    demuxer, packets = Demuxer(), b"".join(channel(Writer(), 2))
    for _ in range(5):
        demuxer.feed(packets + bytes(framing.MAX_GARBAGE_BYTES // 4))
    assert demuxer.stats.sync_losses == 5


def test_no_transport_stream() -> None:
    demuxer = Demuxer()
    page = (b"<html><body>GGG no such channel</body></html>\n" * 50_000)[: 2 * framing.MAX_GARBAGE_BYTES]
    assert demuxer.feed(page[: framing.MAX_GARBAGE_BYTES]) == []
    with pytest.raises(NotTransportStream, match="1 MiB"):
        demuxer.feed(page[framing.MAX_GARBAGE_BYTES :])


def test_short_garbage_is_just_nothing() -> None:
    assert demuxed(b"") == []
    assert demuxed(b"G" * 100) == []
    assert demuxed(b"not a stream") == []


def test_a_lost_packet_of_video_leaves_a_hole() -> None:
    packets = channel(Writer())
    lost = next(i for i, p in enumerate(packets) if i > 60 and p[1:3] == b"\x01\x00")  # within a picture
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(packets[:lost] + packets[lost + 1 :])) + demuxer.flush()
    assert demuxer.stats.continuity_errors == 1
    assert len(samples(events, VIDEO)) == 25
    assert [len(s.data) for s in samples(events, VIDEO)] != [len(picture(i)) for i in range(25)]


def test_a_lost_packet_of_audio_costs_the_frames_it_hit() -> None:
    writer, packets = Writer(), []
    packets.append(writer.tables(AAC))
    for index in range(10):
        packets += writer.packets(AUDIO, pes(adts() * 6, index * 6 * AAC_FRAME, stream_id=0xC0, length=True))
    packets = [p[at : at + 188] for p in packets for at in range(0, len(p), 188)]
    assert len(packets) == 2 + 10 * 4
    del packets[2 + 5 * 4 + 1]  # the second of the sixth PES: bytes 170 to 353 of 600
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(packets)) + demuxer.flush()
    assert demuxer.stats.continuity_errors == 1
    assert all(s.data == adts() for s in samples(events))
    assert len(samples(events)) == 60 - 3
    dts = [s.dts_ticks for s in samples(events)]
    assert dts == sorted(set(dts))
    assert dts[-1] == 59 * AAC_FRAME


def test_repeated_packets_are_dropped() -> None:
    packets = channel(Writer())
    twice = [packet for packet in packets for _ in range(2)]
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(twice)) + demuxer.flush()
    assert events == demuxed(b"".join(packets))
    assert demuxer.stats.continuity_errors == 0
    assert demuxer.stats.duplicates == len(packets)


def test_marked_damage_is_not_used() -> None:
    packets = channel(Writer())
    damaged = [packet[:1] + bytes((packet[1] | 0x80,)) + b"\xff" * 186 for packet in packets]
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(p for pair in zip(packets, damaged, strict=True) for p in pair)) + demuxer.flush()
    assert events == demuxed(b"".join(packets))
    assert demuxer.stats.transport_errors == len(packets)


def test_scrambled_streams_are_announced_as_such_and_become_clear() -> None:
    writer = Writer()
    stream = [writer.tables(H264, AAC)]
    for index in range(20):
        stream += writer.packets(VIDEO, pes(picture(index), 9000 + index * FRAME), scrambled=True)
        stream += writer.packets(AUDIO, pes(adts() * 2, 9000 + index * 2 * AAC_FRAME, stream_id=0xC0), scrambled=True)
    demuxer = Demuxer()
    events = demuxer.feed(b"".join(stream))
    assert [t.scrambled for t in announcements(events)[-1].tracks] == [True, True]
    assert samples(events) == []
    assert demuxer.stats.scrambled == len(stream) - 1
    events = demuxer.feed(b"".join(channel(writer))) + demuxer.flush()
    assert [t.scrambled for t in announcements(events)[-1].tracks] == [False, False]
    assert len(samples(events)) == 75


def test_damaged_tables_are_counted_and_pmts_repaired_by_vote() -> None:
    writer = Writer()
    pmt = psi.build_pmt(psi.Pmt(1, 0, psi.NULL_PID, b"", (H264, AAC)))
    stream = writer.section(psi.PAT_PID, psi.build_pat(psi.Pat(1, 0, {1: 0x1000})))
    for at in (13, 17, 20):
        stream += writer.section(0x1000, pmt[:at] + bytes((pmt[at] ^ 0x40,)) + pmt[at + 1 :])
    demuxer = Demuxer()
    events = demuxer.feed(stream + b"".join(channel(writer, tables_each=100)[2:])) + demuxer.flush()
    assert [t.codec for t in announcements(events)[0].tracks] == [Codec.H264, Codec.AAC]
    assert demuxer.stats.crc_errors == 3
    assert len(samples(events)) == 75


def test_nothing_before_the_pmt_is_lost() -> None:
    writer = Writer()
    packets = channel(writer, 30, tables_each=1000)
    tables, rest = packets[:2], packets[2:]
    late = b"".join(rest[:80] + tables + rest[80:])
    assert samples(demuxed(late)) == samples(demuxed(b"".join(packets)))


def test_a_track_without_data_is_announced_after_a_second() -> None:
    writer = Writer()
    stream = [writer.tables(H264, AAC)]
    for index in range(40):
        stream += writer.packets(VIDEO, pes(picture(index), 9000 + index * FRAME))
    demuxer, fed, events = Demuxer(), 0, []
    while not events:
        events = demuxer.feed(stream[fed])
        fed += 1
    first = events[0]
    assert isinstance(first, Tracks)
    assert [(t.codec, t.sample_rate) for t in first.tracks] == [(Codec.H264, 0), (Codec.AAC, 0)]
    assert len(samples(events)) == demux.HOLD_TICKS // FRAME + 1
    assert len(samples(events + demuxer.feed(b"".join(stream[fed:])) + demuxer.flush())) == 40


def test_one_large_picture_does_not_end_the_wait_for_the_sound() -> None:
    writer = Writer()
    stream = [writer.tables(H264, AAC), *writer.packets(VIDEO, pes(picture(0) + bytes(6 << 20), 9000))]
    stream += writer.packets(VIDEO, pes(picture(1), 9000 + FRAME))
    stream += writer.packets(VIDEO, pes(picture(2), 9000 + 2 * FRAME))
    stream += writer.packets(AUDIO, pes(adts() + adts(), 9000, stream_id=0xC0, length=True))
    events = demuxed(b"".join(stream))
    (tracks,) = announcements(events)
    assert [(t.width, t.sample_rate) for t in tracks.tracks] == [(320, 0), (0, 48_000)]
    assert len(samples(events)) == 5


def test_parameters_that_come_late_are_announced_then() -> None:
    writer = Writer()
    stream = [writer.tables(H264)]
    for index in range(1, 50):
        data = AUD + h264_slice(index) if index < 40 else picture(index - 40)
        stream += writer.packets(VIDEO, pes(data, index * FRAME))
    events = demuxed(b"".join(stream))
    before, after = announcements(events)
    assert [(t.width, t.init) for t in before.tracks + after.tracks] == [(0, b""), (320, SPS + PPS)]
    assert len(samples(events)) == 49
    assert samples(events[events.index(after) :])[0].keyframe


def test_a_channel_that_is_joined_between_keyframes_is_announced_once_with_its_parameters() -> None:
    joined_at = len(channel(Writer(), 6, tables_each=1))
    events = demuxed(b"".join(channel(Writer(), 25, tables_each=1)[joined_at:]))
    assert [found.tracks[0].width for found in announcements(events)] == [320]


def test_a_pmt_change_reannounces_only_what_changed() -> None:
    writer = Writer()
    first, second = channel(writer, 20), channel(writer, 20)
    same_again = writer.tables(H264, AAC, version=5)
    subtitles = psi.PmtStream(6, DATA, psi.descriptor(psi.SUBTITLING, b"deu\x10\0\1\0\1"))
    more = writer.tables(H264, AAC, subtitles, version=6)
    demuxer = Demuxer()
    assert len(announcements(demuxer.feed(b"".join(first)))) == 1
    assert announcements(demuxer.feed(same_again + b"".join(second))) == []
    events = demuxer.feed(more) + demuxer.feed(
        writer.write(DATA, pes(b"\x20\x00\x0f\xff", 50_000, stream_id=0xBD, length=True))
    )
    (tracks,) = announcements(events)
    assert [(t.codec, t.language) for t in tracks.tracks][2] == (Codec.DVB_SUBTITLE, "deu")
    assert samples(events, DATA) == [Sample(DATA, 50_000, 50_000, b"\x20\x00\x0f\xff", True)]
    (tracks,) = announcements(demuxer.feed(writer.tables(AAC, version=7)))
    assert [t.id for t in tracks.tracks] == [AUDIO]


def test_a_pat_that_goes_away_ends_nothing_and_a_new_program_is_followed() -> None:
    writer = Writer()
    demuxer = Demuxer()
    demuxer.feed(b"".join(channel(writer, 12)))
    empty = writer.section(psi.PAT_PID, psi.build_pat(psi.Pat(1, 1, {})))
    assert len(samples(demuxer.feed(empty + b"".join(channel(writer, 12, tables_each=50)[2:])))) > 30
    assert demuxer.programs == (1,)
    other = replace_pids(channel(Writer(), 14), {VIDEO: 0x200, AUDIO: 0x201})
    tables = writer.tables(psi.PmtStream(0x1B, 0x200), psi.PmtStream(0x0F, 0x201), program=7, pmt_pid=0x1010)
    events = demuxer.feed(tables + other)
    assert announcements(events)[-1].program == 7
    assert {s.track for s in samples(events[events.index(announcements(events)[-1]) :])} == {0x200, 0x201}


def replace_pids(packets: list[bytes], pids: dict[int, int]) -> bytes:
    """Packets of these PIDs only, on others."""
    made = b""
    for packet in packets:
        pid = pids.get((packet[1] & 0x1F) << 8 | packet[2])
        if pid is not None:
            made += packet[:1] + bytes((packet[1] & 0xE0 | pid >> 8, pid & 0xFF)) + packet[3:]
    return made


def multiplex(order: tuple[int, ...]) -> bytes:
    """Three programs: 1 is data only, 2 a radio, 3 has video."""
    writer = Writer()
    pmts = {
        1: psi.Pmt(1, 0, psi.NULL_PID, b"", (psi.PmtStream(0x05, 0x300),)),
        2: psi.Pmt(2, 0, psi.NULL_PID, b"", (psi.PmtStream(0x0F, AUDIO),)),
        3: psi.Pmt(3, 0, psi.NULL_PID, b"", (H264,)),
    }
    pat = psi.build_pat(psi.Pat(1, 0, {number: 0x1000 + number for number in (1, 2, 3)}))
    stream = writer.section(psi.PAT_PID, pat)
    for number in order:
        stream += writer.section(0x1000 + number, psi.build_pmt(pmts[number]))
    return stream + b"".join(channel(Writer(), tables_each=1000)[2:])


@pytest.mark.parametrize(
    ("order", "wanted", "chosen"),
    [
        pytest.param((1, 2, 3), None, 3, id="video comes first"),
        pytest.param((3, 2, 1), None, 3, id="in any order of PMTs"),
        pytest.param((2, 2, 2), None, 2, id="those without a PMT are not waited for"),
        pytest.param((1, 2), None, 2, id="what is known at the end of input"),
        pytest.param((1, 2, 3), 2, 2, id="the wanted one"),
    ],
)
def test_choosing_a_program(order: tuple[int, ...], wanted: int | None, chosen: int) -> None:
    events = demuxed(multiplex(order), program=wanted)
    assert {tracks.program for tracks in announcements(events)} == {chosen}
    assert len(samples(events)) == {2: 50, 3: 25}[chosen]


def test_a_wanted_program_that_is_not_there_gives_nothing() -> None:
    assert demuxed(multiplex((1, 2, 3)), program=9) == []


def test_a_stream_type_that_lies_is_found_out() -> None:
    writer = Writer()
    stream = writer.tables(psi.PmtStream(0x02, VIDEO), psi.PmtStream(0x03, AUDIO), psi.PmtStream(6, DATA))
    for index in range(14):
        stream += writer.write(VIDEO, pes(picture(index), index * FRAME))
        stream += writer.write(AUDIO, pes(adts() * 2, index * FRAME, stream_id=0xC0))
        stream += writer.write(DATA, pes(MP2_FRAME * 2, index * FRAME, stream_id=0xBD))
    events = demuxed(stream)
    assert [t.codec for t in announcements(events)[-1].tracks] == [Codec.H264, Codec.AAC, Codec.MP2]
    assert [len(samples(events, pid)) for pid in (VIDEO, AUDIO, DATA)] == [14, 28, 28]


def test_private_streams_and_sections_are_carried_as_they_are() -> None:
    writer = Writer()
    private = psi.PmtStream(0xD1, DATA, b"\x52\x01\x09")
    cue = bytes.fromhex("fc302100000000000000fff01005000003567fef7e0000000000010100000000")
    cue += psi.crc32_mpeg(cue).to_bytes(4, "big")
    assert len(cue) == 3 + 0x21
    stream = writer.tables(H264, private, psi.PmtStream(0x86, 0x103))
    for index in range(14):
        stream += writer.write(VIDEO, pes(picture(index), index * FRAME))
    stream += writer.write(DATA, pes(b"whatever it is", 77_000, stream_id=0xBD, length=True))
    stream += writer.section(0x103, cue) + writer.section(0x103, cue[:-1] + b"x")
    demuxer = Demuxer()
    events = demuxer.feed(stream) + demuxer.flush()
    track = announcements(events)[0].get(DATA)
    assert track is not None
    assert (track.codec, track.stream_type, track.descriptors) == (Codec.PRIVATE, 0xD1, b"\x52\x01\x09")
    assert samples(events, DATA) == [Sample(DATA, 77_000, 77_000, b"whatever it is", True)]
    assert samples(events, 0x103) == [
        Sample(0x103, 12 * FRAME, 12 * FRAME, cue, True)
    ]  # the last picture is not complete
    assert demuxer.stats.crc_errors == 1


def test_data_without_time_waits_for_the_programmes_clock() -> None:
    writer = Writer()
    teletext = psi.PmtStream(6, DATA, psi.descriptor(psi.TELETEXT, b"ita\x09\0"))
    stream = writer.tables(AAC, teletext) + writer.write(DATA, pes(b"\x10page", stream_id=0xBD, length=True))
    stream += b"".join(
        writer.write(AUDIO, pes(adts(), 5000 + i * AAC_FRAME, stream_id=0xC0, length=True)) for i in range(3)
    )
    stream += writer.write(DATA, pes(b"\x10next", stream_id=0xBD, length=True))
    assert samples(demuxed(stream), DATA) == [
        Sample(DATA, 5000 + 2 * AAC_FRAME, 5000 + 2 * AAC_FRAME, data, True) for data in (b"\x10page", b"\x10next")
    ]


def test_a_pes_without_end_is_capped() -> None:
    writer = Writer()
    endless = writer.packets(VIDEO, pes(picture(0) + b"\xaa" * (9 << 20), 0))
    demuxer = Demuxer()
    events = demuxer.feed(writer.tables(H264) + b"".join(endless)) + demuxer.flush()
    assert demuxer.stats.oversized_pes == 1
    assert sum(len(s.data) for s in samples(events)) <= (receive.MAX_VIDEO_PES_PACKETS + 16) * 184
    assert demuxed(writer.tables(H264) + b"".join(endless), 5000)[1:] == events[1:]


def test_ten_thousand_pids_are_no_trouble() -> None:
    writer = Writer()
    everywhere = b"".join(writer.write(pid, b"\x00\x00\x01\xe0" + bytes(180)) for pid in range(0x20, 0x1FFF))
    pat = psi.build_pat(psi.Pat(1, 0, {number: 0x20 + number for number in range(1, 250)}))
    demuxer = Demuxer()
    events = demuxer.feed(writer.section(psi.PAT_PID, pat) + everywhere * 2) + demuxer.flush()
    assert events == []
    many = [psi.PmtStream(0x1B, 0x100 + i) for i in range(150)]
    demuxer = Demuxer()
    demuxer.feed(writer.tables(*many) + everywhere)
    (tracks,) = announcements(demuxer.flush())
    assert len(tracks.tracks) == demux.MAX_STREAMS


def test_tables_that_never_come_hold_a_bounded_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demux, "MAX_BACKLOG_PACKETS", 500)
    packets = channel(Writer(), 40, tables_each=1000)
    events = demuxed(b"".join(packets[2:] * 20 + packets))
    assert len(samples(events)) >= 40 * 3


@given(st.binary(min_size=188 * 20, max_size=188 * 40), st.integers(1, 5000))
@settings(max_examples=25, deadline=None)
def test_packets_of_noise_are_survived(noise: bytes, chunk: int) -> None:
    writer = Writer()
    head = b"".join(channel(writer, 13))
    pids = (psi.PAT_PID, 0x1000, VIDEO, AUDIO)
    packets = [
        b"\x47"
        + bytes((noise[at] & 0xE0 | pids[noise[at] & 3] >> 8, pids[noise[at] & 3] & 0xFF))
        + noise[at + 1 : at + 186]
        for at in range(0, len(noise) - 188, 188)
    ]
    stream = head + b"".join(packets) + b"".join(channel(writer, 13))
    events = demuxed(stream)
    assert demuxed(stream, chunk) == events
    assert all(0 <= s.dts_ticks < 1 << 33 and 0 <= s.pts_ticks < 1 << 33 for s in samples(events))
    assert len(samples(events, VIDEO)) >= 20


def test_events_can_be_told_apart_by_track() -> None:
    """No sample comes before the Tracks that it belongs to."""
    known: set[int] = set()
    seen: set[int] = set()
    for event in demuxed(b"".join(channel(Writer())) + multiplex((1, 2, 3))):
        if isinstance(event, Tracks):
            known = {t.id for t in event.tracks}
        else:
            assert event.track in known
            seen.add(event.track)
    assert seen >= {VIDEO, AUDIO}
