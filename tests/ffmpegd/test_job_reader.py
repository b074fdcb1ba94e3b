from __future__ import annotations

import random

from tests.media.ts_writer import Writer, pes
from tvarr.ffmpegd.reader import Reader
from tvarr.media.model import Codec, Sample, Tracks
from tvarr.media.mpegts import psi

PID, SOUND = 0x100, 0x101
KEYFRAME = bytes.fromhex("824983420013f00b36")  # VP9, 320x180
OTHER = bytes.fromhex("86004092f0a125")
LATM = bytes.fromhex("56e0011000")  # what begins like sound


def stream(*units: bytes) -> bytes:
    """VP9 as ffmpeg writes it: private data that nothing explains."""
    writer = Writer()
    data = writer.tables(psi.PmtStream(psi.PRIVATE_PES, PID, b""))
    for n, unit in enumerate(units):
        data += writer.write(PID, pes(unit, 900_000 + n * 3600))
    return data


def read(codec: Codec, data: bytes) -> list[Sample | Tracks]:
    reader = Reader({PID: codec})
    return [*reader.feed(data), *reader.flush()]


def test_private_data_is_what_was_asked_for() -> None:
    noise = random.Random(1).randbytes(300)
    sent = [KEYFRAME + noise, OTHER + LATM * 100, OTHER + noise, KEYFRAME + noise]
    events = read(Codec.VP9, stream(*sent))
    samples = [event for event in events if isinstance(event, Sample)]
    assert [sample.data for sample in samples] == sent
    assert [sample.keyframe for sample in samples] == [True, False, False, True]
    assert [sample.pts_ticks for sample in samples] == [900_000 + n * 3600 for n in range(4)]


def test_a_track_is_announced_with_its_size_before_the_picture_that_tells_it() -> None:
    events = read(Codec.VP9, stream(KEYFRAME + bytes(50), OTHER + bytes(50)))
    first, second = (event for event in events if isinstance(event, Tracks))
    assert [(t.codec, t.width) for t in first.tracks] == [(Codec.VP9, 0)]
    assert [(t.codec, t.width, t.height) for t in second.tracks] == [(Codec.VP9, 320, 180)]
    assert events.index(second) < next(n for n, event in enumerate(events) if isinstance(event, Sample))


def test_av1_loses_its_delimiter_and_gets_its_sequence_header() -> None:
    header = bytes.fromhex("0a0b000000043cfeccdaf90040")  # libaom, 320x180
    delimiter, key, other = b"\x12\x00", b"\x32\x05\x10" + bytes(4), b"\x32\x05\x30" + bytes(4)
    events = read(Codec.AV1, stream(delimiter + header + key, delimiter + other, delimiter + key))
    samples = [event for event in events if isinstance(event, Sample)]
    assert [sample.data for sample in samples] == [header + key, other, header + key]
    assert [sample.keyframe for sample in samples] == [True, False, True]
    announced = [event for event in events if isinstance(event, Tracks)]
    assert (announced[-1].tracks[0].width, announced[-1].tracks[0].init) == (320, header)


def test_other_codecs_are_as_the_demuxer_has_them() -> None:
    events = read(Codec.MPEG2VIDEO, stream(KEYFRAME + bytes(50)))
    (tracks,) = [event for event in events if isinstance(event, Tracks)]
    assert [track.codec for track in tracks.tracks] == [Codec.PRIVATE]
