"""From PES payloads to access units and their times."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.media.test_demux import AUDIO, DATA, FRAME, H264, VIDEO, announcements, demuxed, samples
from tests.media.ts_writer import AUD, MP2_FRAME, PPS, SPS, Writer, adts, bits_to_bytes, h264_slice, pes
from tvarr.media.codecs import opus
from tvarr.media.model import Codec, Event
from tvarr.media.mpegts import framing, psi
from tvarr.media.mpegts import video as mpegts_video
from tvarr.media.mpegts.audio import is_cut_off
from tvarr.media.mpegts.demux import Demuxer

MPEG2 = psi.PmtStream(0x02, VIDEO)
SEQUENCE = bytes.fromhex("000001b31400f023ffffe018000001b5148200010000")  # 320x240, 25 frames/s
MP2_TICKS = 2160
AC3_FRAME = bytes.fromhex("0b770000144040") + b"\x55" * 761  # 192 kb/s at 48 kHz, stereo


def video(entry: psi.PmtStream, payloads: list[tuple[bytes, int | None, int | None]]) -> list[Event]:
    writer = Writer()
    return demuxed(writer.tables(entry) + b"".join(writer.write(VIDEO, pes(*payload)) for payload in payloads))


def mpeg2(kind: int, reference: int, *, structure: int = 3, size: int = 200) -> bytes:
    """A picture; kind is 1 I, 2 P, 3 B."""
    head = bits_to_bytes(f"{reference:010b}{kind:03b}" + "1" * 16 + "000")
    return (
        b"\x00\x00\x01\x00"
        + head
        + b"\x00\x00\x01\xb5\x8f\xff"
        + bytes((0xF0 | structure, 0x80, 0))
        + b"\x00\x00\x01\x01"
        + b"\x55" * size
    )


def times(events: list[Event]) -> list[tuple[int, int]]:
    return [(s.dts_ticks // FRAME, s.pts_ticks // FRAME) for s in samples(events)]


def test_both_fields_of_a_picture_are_one_sample() -> None:
    """Whether in one PES, in two with a time each, or in two with one time."""
    head, second = AUD + SPS + PPS + h264_slice(0, idr=True, bottom=False), h264_slice(0, intra=True, bottom=True)
    top, bottom = AUD + h264_slice(1, bottom=False), AUD + h264_slice(1, bottom=True)
    last = AUD + h264_slice(2, bottom=False), AUD + h264_slice(2, bottom=True)
    events = video(
        H264,
        [
            (head + second, 2 * FRAME, FRAME),
            (top, 3 * FRAME, 2 * FRAME),
            (bottom, 3 * FRAME + FRAME // 2, 2 * FRAME + FRAME // 2),
            (last[0], 4 * FRAME, 3 * FRAME),
            (last[1], None, None),
            (AUD + h264_slice(3), 5 * FRAME, 4 * FRAME),
        ],
    )
    assert [s.data for s in samples(events)] == [head + second, top + bottom, b"".join(last), AUD + h264_slice(3)]
    assert times(events) == [(1, 2), (2, 3), (3, 4), (4, 5)]
    assert announcements(events)[0].tracks[0].interlaced


def test_fields_that_are_no_pair_stay_apart() -> None:
    payloads = [AUD + SPS + PPS + h264_slice(0, idr=True)]
    payloads += [AUD + h264_slice(n, bottom=b) for n, b in ((1, True), (2, False), (2, False), (2, True), (3, True))]
    events = video(H264, [(data, i * FRAME, None) for i, data in enumerate(payloads)])
    assert [s.data for s in samples(events)] == [*payloads[:3], payloads[3] + payloads[4], payloads[5]]


def test_mpeg2_fields_are_one_sample() -> None:
    first, second = SEQUENCE + mpeg2(1, 0, structure=1), mpeg2(2, 0, structure=2)
    events = video(MPEG2, [(first, 0, None), (second, None, None), (mpeg2(2, 1), FRAME, None)])
    assert [s.data for s in samples(events)] == [first + second, mpeg2(2, 1)]
    assert [s.keyframe for s in samples(events)] == [True, False]


def test_pictures_without_times_get_them_by_their_order() -> None:
    """One PES a group: I2 B0 B1 P5 B3 B4, of which only the I picture has a time."""
    group = SEQUENCE + mpeg2(1, 2) + mpeg2(3, 0) + mpeg2(3, 1) + mpeg2(2, 5) + mpeg2(3, 3) + mpeg2(3, 4)
    events = video(MPEG2, [(group, (6 * i + 3) * FRAME, 6 * i * FRAME) for i in range(3)])
    shown = [3, 1, 2, 6, 4, 5]
    assert times(events) == [(6 * group + i, 6 * group + pts) for group in range(3) for i, pts in enumerate(shown)]
    assert [s.keyframe for s in samples(events)] == [i % 6 == 0 for i in range(18)]


def test_pictures_across_pes_packets() -> None:
    """PES packets that begin anywhere: a time is that of the first picture that begins in its packet."""
    pictures = [AUD + SPS + PPS + h264_slice(0, idr=True)] + [AUD + h264_slice(n) for n in range(1, 40)]
    stream, sizes = b"".join(pictures), [311, 450, 97, 1200]
    starts = [sum(map(len, pictures[:i])) for i in range(len(pictures))]
    payloads: list[tuple[bytes, int | None, int | None]] = []
    at = 0
    while at < len(stream):
        end = at + sizes[len(payloads) % len(sizes)]
        first = next((i for i, start in enumerate(starts) if at <= start < end), None)
        payloads.append((stream[at:end], None if first is None else first * FRAME, None))
        at = end
    events = video(H264, payloads)
    assert [s.data for s in samples(events)] == pictures
    assert times(events) == [(i, i) for i in range(40)]


@pytest.mark.parametrize("across", [False, True], ids=["a picture a packet", "anywhere"])
@pytest.mark.parametrize("stated", [False, True], ids=["", "stated"])
def test_a_picture_that_a_cut_is_within_is_left_out(across: bool, stated: bool) -> None:
    """As far as it is known: where the last packet is filled up the picture is there."""
    units = [AUD + SPS + PPS + h264_slice(0, idr=True)] + [AUD + h264_slice(n, size=600) for n in range(1, 9)]
    stream = b"".join(units)
    cuts = [0, 100, 700, 1100, 1800, 2900, 3800, len(stream)]
    payloads = [stream[a:b] for a, b in pairwise(cuts)] if across else units
    writer = Writer()
    made = [writer.packets(VIDEO, pes(data, n * FRAME, length=stated)) for n, data in enumerate(payloads)]
    begun = cuts[-2] if across else len(stream) - len(units[-1])
    ended = [unit for n, unit in enumerate(units) if sum(map(len, units[: n + 1])) <= begun]
    before = writer.tables(H264) + b"".join(packet for packets in made[:-1] for packet in packets)
    for count in range(1, len(made[-1]) + 1):
        demuxer = Demuxer()
        events = demuxer.feed(before + b"".join(made[-1][:count])) + demuxer.flush(cut=True)
        expected = units if count == len(made[-1]) else ended
        assert [s.data for s in samples(events)] == expected


def test_a_picture_without_end_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpegts_video, "MAX_UNIT_BYTES", 5000)
    payloads: list[tuple[bytes, int | None, int | None]] = [(b"\xaa" * 900, None, None)] * 40
    first = AUD + SPS + PPS + h264_slice(0, idr=True)
    events = video(H264, [(b"\xaa" * 10 + first, 0, None), *payloads, (first, FRAME, None)])
    assert max(len(s.data) for s in samples(events)) < 5000 + 1000
    assert len(samples(events)) >= 2


def test_two_mpeg2_pictures_without_a_header_in_one_pes() -> None:
    payloads = [(SEQUENCE + mpeg2(1, 0), 0, None), (mpeg2(2, 1) + mpeg2(2, 2), FRAME, None)]
    assert [s.data for s in samples(video(MPEG2, payloads))] == [SEQUENCE + mpeg2(1, 0), mpeg2(2, 1), mpeg2(2, 2)]


@pytest.mark.parametrize("first", [False, True], ids=["later", "the first"])
@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(SEQUENCE[:15] + b"\x25" + SEQUENCE[16:], id="another extension"),
        pytest.param(SEQUENCE[:14] + b"\x4a" + SEQUENCE[15:], id="another start code"),
        pytest.param(SEQUENCE[:13] + b"\x11" + SEQUENCE[14:], id="no start code"),
        pytest.param(SEQUENCE[:18], id="cut off"),
        pytest.param(SEQUENCE[:12] + b"\x00\x00\x01\x07\x55\x55", id="its pictures are gone"),
    ],
)
def test_a_damaged_sequence_extension_makes_no_mpeg1(damaged: bytes, first: bool) -> None:
    group = b"\x00\x00\x01\xb8\x00\x08\x00\x40"
    heads = [damaged, SEQUENCE, SEQUENCE] if first else [SEQUENCE, damaged, SEQUENCE]
    payloads = [(head + group + mpeg2(1, 0), n * FRAME, None) for n, head in enumerate(heads)]
    events = video(MPEG2, payloads)
    assert {(t.codec, t.width, t.interlaced) for a in announcements(events) for t in a.tracks if t.width} == {
        (Codec.MPEG2VIDEO, 320, True)
    }
    assert {t.codec for a in announcements(events) for t in a.tracks} == {Codec.MPEG2VIDEO}
    assert len(samples(events)) == 3


def test_pictures_without_times_before_the_first_time() -> None:
    payloads: list[tuple[bytes, int | None, int | None]] = [(SEQUENCE + mpeg2(1, 0), None, None)]
    payloads += [(mpeg2(2, i), i * FRAME if i > 3 else None, None) for i in range(1, 8)]
    assert times(video(MPEG2, payloads)) == [(i, i) for i in range(8)]


def test_video_longer_than_its_stated_length() -> None:
    """The length has 16 bits; some writers let it overflow."""
    writer = Writer()
    data = AUD + SPS + PPS + h264_slice(0, idr=True, size=70_000)
    unit = bytearray(pes(data, 0))
    unit[4:6] = (len(unit) - 6 & 0xFFFF).to_bytes(2, "big")
    stream = writer.tables(H264) + writer.write(VIDEO, bytes(unit))
    stream += b"".join(writer.write(VIDEO, pes(AUD + h264_slice(i), i * FRAME, length=True)) for i in range(1, 5))
    events = demuxed(stream)
    assert [len(s.data) for s in samples(events)] == [len(data)] + [len(AUD + h264_slice(1))] * 4


def test_keyframes() -> None:
    recovery = bytes.fromhex("000001 06 0601c4 80")
    payloads = [
        (AUD + SPS + PPS + h264_slice(0, idr=True), True),
        (AUD + h264_slice(1, intra=True), False),  # nothing to set up a decoder with
        (AUD + SPS + PPS + h264_slice(2, intra=True), True),
        (AUD + SPS + PPS + h264_slice(3), False),
        (AUD + recovery + h264_slice(4), True),
    ]
    events = video(H264, [(data, i * FRAME, None) for i, (data, _) in enumerate(payloads)])
    assert [s.keyframe for s in samples(events)] == [key for _, key in payloads]


def audio(entry: psi.PmtStream, payloads: list[tuple[bytes, int | None]]) -> list[Event]:
    writer = Writer()
    stream = writer.tables(entry)
    for data, pts in payloads:
        stream += writer.write(entry.pid, pes(data, pts, stream_id=0xC0, length=True))
    return demuxed(stream)


def test_audio_frames_across_pes_packets() -> None:
    """A PES's time is that of the first frame that begins in it, not of the rest of the one before."""
    stream = MP2_FRAME * 20
    cuts = [0, 1000, 2000, 2100, 4000, len(stream)]
    payloads: list[tuple[bytes, int | None]] = []
    for start, end in pairwise(cuts):
        first = -(-start // len(MP2_FRAME))
        payloads.append((stream[start:end], 900 + first * MP2_TICKS if first * len(MP2_FRAME) < end else None))
    events = audio(psi.PmtStream(0x03, AUDIO), payloads)
    assert [(s.pts_ticks, s.data) for s in samples(events)] == [(900 + i * MP2_TICKS, MP2_FRAME) for i in range(20)]


def test_audio_that_starts_within_a_frame() -> None:
    events = audio(
        psi.PmtStream(0x03, AUDIO), [(MP2_FRAME[300:] + MP2_FRAME * 3, 900), (MP2_FRAME * 3, 900 + 3 * MP2_TICKS)]
    )
    assert [s.pts_ticks for s in samples(events)] == [900 + i * MP2_TICKS for i in range(6)]


def test_audio_without_times_goes_on_at_its_own_rate() -> None:
    events = audio(psi.PmtStream(0x0F, AUDIO), [(adts(rate_index=4) * 3, 900)] + [(adts(rate_index=4) * 3, None)] * 3)
    assert [s.pts_ticks for s in samples(events)] == [900 + round(n * 1024 * 90_000 / 44_100) for n in range(12)]


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
@pytest.mark.parametrize("garbage", [bytes(50), adts(60)[:20] + bytes(80)], ids=["noise", "what looks like a header"])
def test_audio_behind_garbage_begins_with_its_first_frame(garbage: bytes, cut: int) -> None:
    """Also where a PES packet ends within that frame's header."""
    frames = adts() * 4
    events = audio(psi.PmtStream(0x0F, AUDIO), [(garbage + frames[:cut], None), (frames[cut:], 900), (frames, 10_000)])
    assert [s.data for s in samples(events)] == [adts()] * 8


def test_audio_whose_rate_changes_is_announced_again() -> None:
    entry = psi.PmtStream(0x0F, AUDIO)
    events = audio(
        entry, [(adts() * 4, i * 7680) for i in range(3)] + [(adts(rate_index=4) * 4, (3 + i) * 7680) for i in range(3)]
    )
    assert [t.tracks[0].sample_rate for t in announcements(events)] == [48000, 44100]
    assert len(samples(events)) == 24


def test_one_damaged_audio_header_changes_nothing() -> None:
    entry = psi.PmtStream(0x0F, AUDIO)
    events = audio(entry, [(adts() * 3 + adts(rate_index=7) + adts() * 4, i * 8 * 1920) for i in range(3)])
    assert len(announcements(events)) == 1


def test_audio_that_becomes_another_codec_is_found_out() -> None:
    entry = psi.PmtStream(0x0F, AUDIO)
    events = audio(
        entry, [(adts() * 4, i * 7680) for i in range(5)] + [(MP2_FRAME * 4, (5 + i) * 8640) for i in range(20)]
    )
    assert [t.tracks[0].codec for t in announcements(events)] == [Codec.AAC, Codec.MP2]
    late = [s for s in samples(events) if s.data == MP2_FRAME]
    assert len(late) >= 20 * 4 - (16 << 10) // len(MP2_FRAME) - 8


def test_dependent_eac3_frames_stay_with_their_frame() -> None:
    independent = bytes.fromhex("0b7700ff3485ffa8c390") + bytes(502)
    dependent = bytes.fromhex("0b7740ff3485ffa8c390") + bytes(502)
    entry = psi.PmtStream(0x87, AUDIO)
    one = independent + dependent
    events = audio(entry, [(one * 2, 0), (one + independent, 2 * 2880), (dependent + one, 3 * 2880 + 1440)])
    assert [s.data for s in samples(events)] == [one] * 5
    assert announcements(events)[0].tracks[0].codec is Codec.EAC3


@pytest.mark.parametrize(
    ("codec", "frame"),
    [(Codec.AAC, adts()), (Codec.MP2, MP2_FRAME), (Codec.AC3, AC3_FRAME)],
    ids=["AAC", "MP2", "AC-3"],
)
def test_a_frame_that_is_cut_off_is_known_by_its_header(codec: Codec, frame: bytes) -> None:
    assert is_cut_off(codec, frame[:-1])
    assert is_cut_off(codec, frame + frame[:9])
    assert not is_cut_off(codec, frame * 2)
    assert not is_cut_off(codec, b"something else")
    assert not is_cut_off(Codec.PRIVATE, frame[:-1])


def test_opus_loses_its_control_headers() -> None:
    packet = b"\xf8" + b"\x77" * 299  # 20 ms
    entry = psi.PmtStream(
        6, DATA, psi.descriptor(psi.REGISTRATION, b"Opus") + psi.descriptor(psi.EXTENSION, b"\x80\x02")
    )
    units = (opus.control_header(len(packet)) + packet) * 2
    events = audio(entry, [(units, 900), (units, 900 + 2 * 1800)])
    assert [(s.pts_ticks, s.data) for s in samples(events)] == [(900 + i * 1800, packet) for i in range(4)]
    track = announcements(events)[0].tracks[0]
    assert (track.codec, track.sample_rate, track.channels, track.init) == (Codec.OPUS, 48000, 2, opus.head(2))


def test_time_stamps_wrap() -> None:
    wrap = 1 << 33
    events = audio(psi.PmtStream(0x03, AUDIO), [(MP2_FRAME * 4, wrap - MP2_TICKS), (MP2_FRAME * 4, 3 * MP2_TICKS)])
    assert [s.pts_ticks for s in samples(events)] == [(wrap + i * MP2_TICKS) % wrap for i in range(-1, 7)]


def test_a_header_that_spans_packets() -> None:
    """Packets may be filled by their adaptation field to the last byte but one."""
    writer = Writer()
    unit = pes(adts() * 2, 4500, stream_id=0xC0, length=True)
    stream = writer.tables(psi.PmtStream(0x0F, AUDIO))
    for at in range(0, len(unit), 4):
        (packet,) = writer.packets(AUDIO, unit[at : at + 4])
        stream += packet[:1] + bytes((packet[1] & 0xBF | (0 if at else 0x40),)) + packet[2:]
    assert [(s.pts_ticks, s.data) for s in samples(demuxed(stream))] == [(4500, adts()), (4500 + 1920, adts())]


def test_sound_is_complete_when_its_stated_length_is_there() -> None:
    writer, demuxer = Writer(), Demuxer()
    nothing = (b"\x47\x1f\xff\x10" + bytes(184)) * framing.LOCK_PACKETS
    demuxer.feed(nothing + writer.tables(psi.PmtStream(0x0F, AUDIO)))
    assert len(samples(demuxer.feed(writer.write(AUDIO, pes(adts() * 2, 0, stream_id=0xC0, length=True))))) == 2
