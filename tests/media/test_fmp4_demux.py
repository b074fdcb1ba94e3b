"""Files written box by box."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.media.mp4_subjects import (
    AUD,
    HIGHER,
    IDR,
    PPS,
    SLICE,
    SPS,
    VIDEO,
    audio_table,
    demuxed,
    entry,
    lengths,
    samples,
    tracks,
    video_table,
)
from tests.media.mp4_writer import Table, progressive, with_box
from tvarr.errors import MediaError, MoovBehind
from tvarr.media.codecs.annexb import joined
from tvarr.media.fmp4 import demux as demuxing
from tvarr.media.fmp4.boxes import box
from tvarr.media.fmp4.demux import Demuxer
from tvarr.media.model import Codec, Sample, Tracks


def test_a_file_of_two_tracks() -> None:
    events, demuxer = demuxed(progressive([video_table(), audio_table()]))
    (announced,) = tracks(events)
    assert announced == events[0]
    video, audio = announced.tracks
    assert (video.codec, video.init, video.width, video.height, video.fps) == (Codec.H264, VIDEO.init, 640, 360, 30.0)
    assert (audio.codec, audio.language, audio.sample_rate, audio.channels) == (Codec.AAC, "deu", 48_000, 2)
    found = samples(events)
    assert [s.dts_ticks for s in found if s.track == 1] == [3600 * n for n in range(6)]
    assert [s.pts_ticks for s in found if s.track == 2] == [1920 * n for n in range(11)]
    assert [s.dts_ticks for s in found] == sorted(s.dts_ticks for s in found)
    assert (demuxer.stats.samples, demuxer.stats.out_of_order, demuxer.stats.missing) == (17, 0, 0)


def test_keyframes_have_parameter_sets_behind_the_delimiter() -> None:
    found = samples(demuxed(progressive([video_table()]))[0])
    assert found[0].data == joined([AUD, SPS, PPS, IDR])
    assert found[1].data == joined([AUD, SLICE])
    assert [s.keyframe for s in found] == [True, False, False, False, True, False]


def test_parameter_sets_that_are_there_stay_alone() -> None:
    table = replace(video_table(1), chunks=[[lengths(SPS, PPS, IDR)]])
    assert samples(demuxed(progressive([table]))[0])[0].data == joined([SPS, PPS, IDR])


def test_aac_gets_its_header() -> None:
    found = samples(demuxed(progressive([audio_table(1)]))[0])
    assert found[0].data == bytes.fromhex("fff14c80033ffc") + b"\xfc\x00" * 9
    assert found[0].keyframe


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param(video_table(2), [(0, 0), (3600, 3600)], id="none"),
        pytest.param(video_table(2, edits=[(0, 512)]), [(-3600, -3600), (0, 0)], id="starts later in the media"),
        pytest.param(video_table(2, edits=[(500, -1), (0, 0)]), [(45000, 45000), (48600, 48600)], id="starts later"),
        pytest.param(video_table(2, edits=[(500, -1), (0, 512)], wide=True), [(41400,) * 2, (45000,) * 2], id="both"),
        pytest.param(video_table(2, compositions=[1024, 512]), [(7200, 0), (7200, 3600)], id="reordered"),
        pytest.param(video_table(2, compositions=[0, -512]), [(0, -3600), (0, 0)], id="by negative offsets"),
    ],
)
def test_times(table: Table, expected: list[tuple[int, int]]) -> None:
    assert [(s.pts_ticks, s.dts_ticks) for s in samples(demuxed(progressive([table]))[0])] == expected


def test_sizes_in_other_tables() -> None:
    same = replace(audio_table(4), chunks=[[b"\xfc\x01\x02"] * 4])
    for sized in (
        same,
        with_box(same, b"stsz", struct.pack(">III", 0, 3, 4)),
        with_box(replace(same, boxes={b"stsz": b""}), b"stz2", struct.pack(">III4B", 0, 8, 4, 3, 3, 3, 3)),
        with_box(replace(same, boxes={b"stsz": b""}), b"stz2", struct.pack(">III4H", 0, 16, 4, 3, 3, 3, 3)),
    ):
        assert [s.data[7:] for s in samples(demuxed(progressive([sized]))[0])] == [b"\xfc\x01\x02"] * 4


def test_an_index_behind_the_media_is_said() -> None:
    data = progressive([video_table(), audio_table()], moov_first=False)
    demuxer = Demuxer()
    with pytest.raises(MoovBehind) as raised:
        demuxer.feed(data[:60])
    at = raised.value.moov_at
    assert data[at + 4 : at + 8] == b"moov"
    with pytest.raises(MoovBehind):
        demuxer.feed(data[60:])
    events, second = demuxed(data, moov=data[at:])
    assert second.stats.missing == second.stats.unreachable == 0
    in_front = demuxed(progressive([video_table(), audio_table()]))[0]
    assert events == in_front


def test_tracks_lie_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All video, then all audio: in order as long as memory lasts."""
    data = progressive([video_table(), audio_table()], order=[0] * 6 + [1] * 4)
    events, demuxer = demuxed(data)
    assert [s.dts_ticks for s in samples(events)] == sorted(s.dts_ticks for s in samples(events))
    assert demuxer.stats.out_of_order == 0
    monkeypatch.setattr(demuxing, "MAX_HELD_BYTES", 60)
    events, demuxer = demuxed(data)
    assert len(samples(events)) == 17
    assert demuxer.stats.out_of_order > 0
    for track in (1, 2):
        dts = [s.dts_ticks for s in samples(events) if s.track == track]
        assert dts == sorted(dts)
    by_turns = replace(audio_table(60), chunks=[[bytes(18)]] * 60, durations=[1920] * 60)
    _, demuxer = demuxed(progressive([video_table(60), by_turns], order=[1, 0] * 60))
    assert demuxer.stats.out_of_order == 0, "what went out is not held any more"


def test_a_sample_of_another_entry_makes_another_track() -> None:
    """And one of an entry that there is not is left out."""
    low = entry(VIDEO, in_band=False).box
    high = entry(replace(VIDEO, init=joined([HIGHER, PPS])), in_band=False).box
    described = with_box(video_table(6), b"stsd", struct.pack(">II", 0, 2) + low + high)
    table = with_box(
        described, b"stsc", struct.pack(">II", 0, 4) + struct.pack(">12I", 1, 1, 1, 3, 1, 0, 4, 1, 3, 5, 1, 2)
    )
    events, demuxer = demuxed(progressive([table]))
    assert [type(event) for event in events] == [Tracks, Sample, Sample, Tracks, Sample, Sample]
    assert [found.tracks[0].init for found in tracks(events)] == [VIDEO.init, joined([HIGHER, PPS])]
    assert samples(events)[2].data == joined([AUD, HIGHER, PPS, IDR])
    assert demuxer.stats.damaged == 2


def test_scrambled_tracks_say_so() -> None:
    inner = entry(VIDEO, in_band=False).box[8:]
    scrambled = box(b"encv", inner, box(b"sinf", box(b"frma", b"avc1")))
    events, demuxer = demuxed(progressive([replace(video_table(), entry=scrambled), audio_table()]))
    assert [(t.codec, t.scrambled) for t in tracks(events)[0].tracks] == [(Codec.H264, True), (Codec.AAC, False)]
    assert demuxer.stats.scrambled == 6
    assert {s.track for s in samples(events)} == {2}


def test_what_can_not_be_read_is_left_out() -> None:
    text = Table(3, b"text", box(b"tx3g", bytes(60)), 1000, [[b"words"]], [1000])
    events, demuxer = demuxed(progressive([video_table(), text]))
    assert [t.id for t in tracks(events)[0].tracks] == [1]
    assert demuxer.stats.left_out == ["tx3g"]
    with pytest.raises(MediaError, match="tx3g"):
        demuxed(progressive([text]))
