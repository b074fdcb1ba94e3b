from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.cluster.model import JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.command import LEAD_TICKS, MAX_PROCESS_TICKS, Start, start_at
from tvarr.ffmpeg.pipes import FIRST_ID
from tvarr.ffmpegd import feed
from tvarr.ffmpegd.feed import AUDIO_WAIT_TICKS, KEYFRAME_WAIT_TICKS, Inlet, Opening, Outlet
from tvarr.media.model import TICKS_33BIT, Codec, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer

VIDEO, SOUND, OTHER = Track(0x1000, Codec.MPEG2VIDEO), Track(3, Codec.MP2, "fra"), Track(4, Codec.MP2)
SPEC = JobSpec("job", (Target(VIDEO, Codec.H264), Target(SOUND, Codec.AAC), Target(OTHER, Codec.AAC)))
MP2_FRAME = bytes.fromhex("fffd a404") + bytes(572)  # layer II, 192 kb/s, 48 kHz, stereo: 576 bytes
PICTURE = bytes.fromhex("000001b3 14000b13 ffffe018 000001b8 00080000 00000100 000fffff") + bytes(300)


def video(pts: int, keyframe: bool = False) -> Sample:
    return Sample(VIDEO.id, pts, pts, PICTURE, keyframe)


def sound(pts: int, track: Track = SOUND) -> Sample:
    return Sample(track.id, pts, pts, MP2_FRAME, True)


def test_it_starts_when_every_track_is_there() -> None:
    opening = Opening(SPEC)
    opening.push([video(0), video(3600), sound(100)])
    assert not opening.ready
    opening.push([video(7200, True), sound(2000, OTHER)])
    assert opening.ready
    assert opening.dropped == 2
    spec, start = opening.begin()
    assert spec == SPEC
    assert start == Start(100 - LEAD_TICKS, 7200)
    assert opening.held == [sound(100), video(7200, True), sound(2000, OTHER)]


@pytest.mark.parametrize("first", [0, 5_000_000])
def test_sound_that_does_not_come_is_left_out(first: int) -> None:
    opening = Opening(SPEC)
    opening.push([video(first, True), sound(first + 10)])
    opening.push([video(first + AUDIO_WAIT_TICKS - 1)])
    assert not opening.ready
    opening.push([video(first + AUDIO_WAIT_TICKS)])
    assert opening.ready
    assert [target.track for target in opening.begin()[0].targets] == [VIDEO, SOUND]


def test_no_picture_behind_the_first_keyframe_is_dropped() -> None:
    opening = Opening(SPEC)
    pictures = [video(n * 3600, keyframe=n % 5 == 2) for n in range(12)]
    opening.push(pictures[:7])
    opening.push(pictures[7:])
    assert opening.held == pictures[2:]
    assert opening.dropped == 2


@pytest.mark.parametrize("first", [0, 5_000_000])
def test_video_is_waited_for_longer(first: int) -> None:
    opening = Opening(SPEC)
    opening.push([sound(first), sound(first, OTHER), sound(first + KEYFRAME_WAIT_TICKS - 1)])
    assert not opening.ready
    opening.push([sound(first + KEYFRAME_WAIT_TICKS)])
    assert opening.ready
    assert opening.begin()[1].first_video_ticks is None


def test_video_without_a_keyframe_is_tried_at_last() -> None:
    opening = Opening(JobSpec("job", SPEC.targets[:1]))
    opening.push([video(n * 3600) for n in range(KEYFRAME_WAIT_TICKS // 3600)])
    assert not opening.ready
    opening.push([video(KEYFRAME_WAIT_TICKS)])
    assert opening.ready
    assert opening.held == [video(KEYFRAME_WAIT_TICKS)]


def test_nothing_is_not_enough() -> None:
    opening = Opening(SPEC)
    opening.push([Sample(99, 0, 0, b"x"), Sample(99, 10**9, 10**9, b"x")])
    assert not opening.ready


def test_what_is_held_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "OPENING_BYTES", 10 * len(MP2_FRAME))
    opening = Opening(SPEC)
    opening.push([sound(n) for n in range(9)])
    assert not opening.ready
    opening.push([sound(9)])
    assert opening.ready


@given(first=st.integers(0, 1 << 60), later=st.integers(0, MAX_PROCESS_TICKS - LEAD_TICKS - 90_000))
def test_times_survive_the_way_through_a_transport_stream(first: int, later: int) -> None:
    """An Outlet behind an Inlet is a transcode that changes nothing. Ids need not be usable PIDs."""
    spec = JobSpec("job", (Target(replace(SOUND, id=70_000), Codec.MP2),))
    start = start_at(spec, first_ticks=first, first_video_ticks=None)
    inlet, outlet = Inlet(spec, start), Outlet(spec, start)
    samples = [sound(first), sound(first + 2160), sound(first + later + 4320), sound(first + later + 6480)]
    samples = [sample._replace(track=70_000) for sample in samples]
    events = [*outlet.feed(inlet.mux(samples)), *outlet.flush()]
    assert [event for event in events if isinstance(event, Sample)] == samples
    tracks = [event for event in events if isinstance(event, Tracks)]
    assert [(t.id, t.language) for t in tracks[-1].tracks] == [(70_000, "fra")]


def test_video_keeps_pts_and_dts_across_the_wrap_of_33_bits() -> None:
    spec = JobSpec("job", (Target(VIDEO, Codec.MPEG2VIDEO),))
    start = Start(5 * TICKS_33BIT - 17, 0)
    inlet, outlet = Inlet(spec, start), Outlet(spec, start)
    first = start.base_ticks + LEAD_TICKS
    samples = [Sample(VIDEO.id, first + n * 3600 + 7200, first + n * 3600, PICTURE, True) for n in range(3)]
    events = [*outlet.feed(inlet.mux(samples)), *outlet.flush()]
    got = [(e.pts_ticks, e.dts_ticks) for e in events if isinstance(e, Sample)]
    assert got == [(s.pts_ticks, s.dts_ticks) for s in samples]


def test_pids_are_the_processes_own() -> None:
    inlet = Inlet(SPEC, Start(0, None))
    demuxer = Demuxer()
    data = inlet.mux([video(900_000, True), sound(900_000), sound(900_000, OTHER), Sample(99, 900_000, 900_000, b"x")])
    events = [*demuxer.feed(data), *demuxer.flush()]
    tracks = next(event for event in events if isinstance(event, Tracks))
    assert [track.id for track in tracks.tracks] == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]
    assert inlet.dropped == 1


def test_what_comes_out_that_nobody_asked_for_is_left_out() -> None:
    """An Outlet of two tracks behind an Inlet of three, with tracks announced that the job does not have."""
    copied = (Target(VIDEO, VIDEO.codec, fps=50.0), Target(SOUND, SOUND.codec), Target(OTHER, OTHER.codec))
    inlet, outlet = Inlet(JobSpec("job", copied), Start(0, None)), Outlet(JobSpec("job", copied[:2]), Start(0, None))
    inlet.set_tracks([VIDEO, SOUND, OTHER, Track(99, Codec.MP2)])
    data = inlet.mux([video(900_000, True), sound(900_000), sound(900_000, OTHER), video(903_600)])
    events = [*outlet.feed(data), *outlet.flush()]
    tracks = [event for event in events if isinstance(event, Tracks)][-1].tracks
    assert [(t.id, t.codec, t.fps) for t in tracks] == [(VIDEO.id, Codec.MPEG1VIDEO, 25.0), (SOUND.id, Codec.MP2, 0.0)]
    got = sorted((e.track, e.pts_ticks) for e in events if isinstance(e, Sample))
    assert got == [(SOUND.id, 900_000), (VIDEO.id, 900_000), (VIDEO.id, 903_600)]


@pytest.mark.parametrize(("source", "wanted", "expected"), [(25.0, 0.0, 25.0), (25.0, 50.0, 50.0), (0.0, 50.0, 50.0)])
def test_tracks_that_are_not_made_yet_are_as_wanted_or_as_they_come_in(
    source: float, wanted: float, expected: float
) -> None:
    video_in = replace(VIDEO, fps=source)
    sound_in = replace(SOUND, sample_rate=48_000, channels=2)
    targets = (
        Target(video_in, Codec.H264, fps=wanted),
        Target(sound_in, Codec.AAC, channels=1),
        Target(replace(sound_in, id=4), Codec.AAC),
    )
    assert feed.output_tracks(targets) == (
        Track(VIDEO.id, Codec.H264, fps=expected),
        Track(SOUND.id, Codec.AAC, "fra", sample_rate=48_000, channels=1),
        Track(4, Codec.AAC, "fra", sample_rate=48_000, channels=2),
    )


def test_times_that_a_process_does_not_have() -> None:
    inlet = Inlet(SPEC, Start(900_000, None))
    assert inlet.mux([sound(899_999)]) == b""
    assert inlet.dropped == 1
    with pytest.raises(JobError, match="26 hours"):
        inlet.mux([sound(900_001 + MAX_PROCESS_TICKS)])
    assert Inlet(SPEC, Start(900_000, None)).mux([sound(900_000 + MAX_PROCESS_TICKS)])


def test_a_track_that_ffmpeg_can_not_be_given() -> None:
    """A picture that MPEG-TS can't carry, beside a sound that MP4 can't."""
    targets = (Target(Track(1, Codec.AV1), Codec.H264), Target(SOUND, Codec.AAC))
    inlet = Inlet(JobSpec("job", targets), Start(0, None))
    with pytest.raises(JobError) as raised:
        inlet.mux([sound(0)])
    assert raised.value.code is ErrorCode.UNSUPPORTED
