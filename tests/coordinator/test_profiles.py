"""Which tracks a profile works on, which it copies, and what a container takes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.models import AUDIO_CHANNEL_LIMITS, BUILTIN_PROFILES, Profile
from tvarr.coordinator.profiles import carried, default_kbps, must_carry, plan
from tvarr.errors import CannotCarry
from tvarr.ffmpeg.families import AUDIO
from tvarr.media.model import Codec, Kind, Track, Tracks

VIDEO = Track(256, Codec.H264, width=1920, height=1080, fps=25.0, init=b"sps", stream_type=0x1B, interlaced=True)
AAC = Track(257, Codec.AAC, language="deu", sample_rate=48_000, channels=2, stream_type=0x0F)
AC3 = Track(258, Codec.AC3, language="eng", sample_rate=48_000, channels=6, descriptors=b"\x6a\x00")
TELETEXT = Track(259, Codec.DVB_TELETEXT, language="deu", descriptors=b"\x56\x00")
SCTE = Track(260, Codec.SCTE_35)
SOURCE = Tracks((VIDEO, AAC, AC3, TELETEXT, SCTE), program=7)


def profile(**settings: object) -> Profile:
    return Profile.model_validate({"name": "mine", **settings})


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("passthrough", {}),
        ("h264", {256: Codec.H264, 258: Codec.AAC}),
        ("h264-low", {256: Codec.H264, 257: Codec.AAC, 258: Codec.AAC}),
        ("hevc", {256: Codec.HEVC, 258: Codec.AAC}),
        ("av1", {256: Codec.AV1, 258: Codec.AAC}),
        ("aac", {258: Codec.AAC}),
    ],
)
def test_only_what_changes_travels(name: str, targets: dict[int, Codec]) -> None:
    made = plan(BUILTIN_PROFILES[name], SOURCE)
    assert {target.track.id: target.codec for target in made.targets} == targets
    assert made.copied == tuple(track.id for track in SOURCE.tracks if track.id not in targets)
    assert made.output.program == 7
    assert [track.id for track in made.output.tracks] == [track.id for track in SOURCE.tracks]
    assert [track.language for track in made.output.tracks] == [track.language for track in SOURCE.tracks]


def test_copied_tracks_are_announced_as_they_came() -> None:
    output = plan(BUILTIN_PROFILES["hevc"], SOURCE).output
    assert [output.get(track.id) for track in (AAC, TELETEXT, SCTE)] == [AAC, TELETEXT, SCTE]
    assert output.get(256) == Track(256, Codec.HEVC, width=1920, height=1080, fps=25.0)
    assert output.get(258) == Track(258, Codec.AAC, language="eng", sample_rate=48_000, channels=6)


def test_nothing_scrambled_is_worked_on() -> None:
    scrambled = Tracks((replace(VIDEO, scrambled=True), replace(AC3, scrambled=True)))
    made = plan(BUILTIN_PROFILES["h264-low"], scrambled)
    assert made.targets == ()
    assert made.copied == (256, 258)
    assert made.output == scrambled


def test_a_job_has_one_video_track_and_that_can_be_read() -> None:
    both = Tracks((replace(VIDEO, scrambled=True), replace(VIDEO, id=300), replace(VIDEO, id=301)))
    assert plan(BUILTIN_PROFILES["h264"], both).target_ids == (300,)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, False),
        ({"audio_channels": 2}, False),
        ({"audio_channels": 6}, True),
        ({"audio_channels": 1}, True),
        ({"audio_bitrate_kbps": 96}, True),
    ],
)
def test_aac_is_copied_where_nothing_else_is_asked_for(settings: dict[str, object], changes: bool) -> None:
    made = plan(profile(audio_codec="aac", **settings), Tracks((AAC,)))
    assert bool(made.targets) == changes


def test_latm_is_not_adts() -> None:
    assert plan(BUILTIN_PROFILES["aac"], Tracks((replace(AAC, codec=Codec.AAC_LATM),))).target_ids == (257,)


def test_channels_are_cut_to_what_the_encoder_takes() -> None:
    (target,) = plan(profile(audio_codec="mp2"), Tracks((AC3,))).targets
    assert target.channels == 2
    (target,) = plan(profile(audio_codec="eac3"), Tracks((AC3,))).targets
    assert target.channels == 0


@pytest.mark.parametrize(
    ("size", "box", "asked", "result"),
    [
        pytest.param((1920, 1080), (1280, 720), (1280, 720), (1280, 720), id="made smaller"),
        pytest.param((1280, 720), (1280, 720), (0, 0), (1280, 720), id="the same size"),
        pytest.param((720, 576), (1280, 720), (0, 0), (720, 576), id="never enlarged"),
        pytest.param((1920, 1080), (0, 480), (0, 480), (854, 480), id="one bound"),
        pytest.param((1080, 1920), (1280, 720), (1280, 720), (404, 720), id="upright"),
        pytest.param((1440, 1080), (1440, 0), (0, 0), (1440, 1080), id="bound reached"),
        pytest.param((0, 0), (1280, 720), (1280, 720), (0, 0), id="size not known"),
    ],
)
def test_size(size: tuple[int, int], box: tuple[int, int], asked: tuple[int, int], result: tuple[int, int]) -> None:
    source = Tracks((replace(VIDEO, width=size[0], height=size[1]),))
    made = plan(profile(video_codec="h264", width=box[0], height=box[1]), source)
    (target,), (track,) = made.targets, made.output.tracks
    assert (target.width, target.height) == asked
    assert (track.width, track.height) == result


@pytest.mark.parametrize(("source_fps", "wish", "target_fps"), [(50, 25, 25), (25, 50, 0), (25, 25, 0), (0, 25, 25)])
def test_frame_rate_is_never_raised(source_fps: float, wish: float, target_fps: float) -> None:
    (target,) = plan(profile(video_codec="h264", fps=wish), Tracks((replace(VIDEO, fps=source_fps),))).targets
    assert target.fps == target_fps


@pytest.mark.parametrize(
    ("codec", "size", "fps", "kbps"),
    [
        (Codec.H264, (640, 360), 25, 800),
        (Codec.H264, (720, 576), 25, 2000),
        (Codec.H264, (1280, 720), 50, 4200),
        (Codec.H264, (1920, 1080), 29.97, 6000),
        (Codec.HEVC, (1920, 1088), 25, 3600),
        (Codec.AV1, (3840, 2160), 25, 8000),
        (Codec.MPEG2VIDEO, (7680, 4320), 25, 50_000),
    ],
)
def test_default_bitrate(codec: Codec, size: tuple[int, int], fps: float, kbps: int) -> None:
    assert default_kbps(codec, *size, fps) == kbps


def test_bitrate_goes_by_the_size_after_scaling_and_gives_way_to_quality() -> None:
    (target,) = plan(profile(video_codec="h264", height=360), Tracks((VIDEO,))).targets
    assert target.bitrate_kbps == 800
    (target,) = plan(profile(video_codec="h264", crf=23), Tracks((VIDEO,))).targets
    assert (target.bitrate_kbps, target.crf) == (0, 23)
    (target,) = plan(profile(video_codec="h264", crf=23, video_bitrate_kbps=500), Tracks((VIDEO,))).targets
    assert (target.bitrate_kbps, target.crf) == (500, 23)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"init": b"other", "descriptors": b"x"}, True, id="parameter sets"),
        pytest.param({"width": 1280, "height": 720}, False, id="picture size"),
        pytest.param({"width": 0, "height": 0}, True, id="picture size not known yet"),
        pytest.param({"interlaced": False}, False, id="fields"),
        pytest.param({"codec": Codec.HEVC}, False, id="codec"),
        pytest.param({"id": 999}, False, id="another PID"),
    ],
)
def test_what_one_job_can_serve(change: dict[str, object], same: bool) -> None:
    settings = profile(video_codec="h264", video_bitrate_kbps=500)
    before = plan(settings, Tracks((VIDEO, AAC)))
    after = plan(settings, Tracks((replace(VIDEO, **change), AC3)))  # type: ignore[arg-type]
    assert before.one_job_serves(after) is same
    assert after.one_job_serves(before) is same
    assert before.same_picture(after) is same
    assert before.same_picture(plan(settings, Tracks((VIDEO,))))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"width": 320, "height": 180, "fps": 10.0, "crf": 30, "gop_s": 1.0}, True, id="another picture"),
        pytest.param({"hw_accel": "none", "preset": "slow"}, True, id="made otherwise"),
        pytest.param({"video_codec": "hevc"}, False, id="another codec of the picture"),
        pytest.param({"audio_codec": "mp3"}, False, id="another codec of the sound"),
        pytest.param({"audio_codec": "copy"}, False, id="the sound is copied"),
        pytest.param({"audio_codec": "ac3"}, False, id="the codec that the sound has"),
        pytest.param({"audio_channels": 1}, True, id="fewer channels"),
    ],
)
def test_what_viewers_can_follow(change: dict[str, Any], same: bool) -> None:
    fields = {"video_codec": "h264", "audio_codec": "aac"}
    before = plan(profile(**fields), Tracks((VIDEO, AC3)))
    after = plan(profile(**fields | change), Tracks((VIDEO, AC3)))
    assert before.same_for_viewers(after) is same
    assert after.same_for_viewers(before) is same


def test_viewers_can_not_follow_where_what_was_copied_is_encoded() -> None:
    """The codec is the same, but a job would begin with it somewhere in the middle."""
    sound = Tracks((VIDEO, AAC))
    copied = plan(profile(video_codec="h264", audio_codec="aac"), sound)
    assert not copied.same_for_viewers(plan(profile(video_codec="h264", audio_codec="aac", audio_channels=1), sound))


@given(
    st.sampled_from(list(BUILTIN_PROFILES.values())),
    st.lists(
        st.builds(
            Track,
            id=st.integers(16, 8190),
            codec=st.sampled_from(list(Codec)),
            width=st.sampled_from([0, 720, 3840]),
            height=st.sampled_from([0, 576, 2160]),
            channels=st.integers(0, 8),
            scrambled=st.booleans(),
        ),
        max_size=8,
        unique_by=lambda track: track.id,
    ),
)
def test_every_track_is_either_worked_on_or_copied(chosen: Profile, tracks: list[Track]) -> None:
    source = Tracks(tuple(tracks))
    made = plan(chosen, source)
    assert sorted([*made.target_ids, *made.copied]) == sorted(track.id for track in tracks)
    assert not any(target.track.scrambled or target.track.kind in (Kind.SUBTITLE, Kind.DATA) for target in made.targets)
    for track, result in zip(tracks, made.output.tracks, strict=True):
        assert (track.id, track.kind, track.language) == (result.id, result.kind, result.language)
        assert result.width <= track.width or not track.width


def test_mp4_takes_no_teletext_and_no_sections() -> None:
    assert [track.id for track in carried(SOURCE, "mp4").tracks] == [256, 257, 258]
    assert carried(SOURCE, "ts") == SOURCE


def test_a_container_without_the_picture_or_the_sound_is_refused() -> None:
    with pytest.raises(CannotCarry, match="MPEG-TS has no mapping for av1"):
        carried(plan(BUILTIN_PROFILES["av1"], SOURCE).output, "ts")
    latm = Tracks((VIDEO, replace(AAC, codec=Codec.AAC_LATM)))
    with pytest.raises(CannotCarry, match="MP4 has no mapping for aac_latm"):
        carried(latm, "mp4")
    assert [track.id for track in carried(Tracks((*latm.tracks, AC3)), "mp4").tracks] == [256, 258]


@pytest.mark.parametrize(
    ("name", "container", "words"),
    [
        ("passthrough", "ts", None),
        ("h264", "ts", None),
        ("h264", "mp4", None),
        ("av1", "mp4", None),
        ("av1", "ts", "MPEG-TS has no mapping for av1; ask for another profile, or for .mp4, HLS with container=fmp4"),
    ],
)
def test_a_profile_that_a_container_can_not_hold_is_refused(name: str, container: str, words: str | None) -> None:
    with contextlib.nullcontext() if words is None else pytest.raises(CannotCarry, match=words):
        must_carry(BUILTIN_PROFILES[name], container)


def test_profiles_allow_the_channels_that_daemons_make() -> None:
    """A variant's tables would tell of channels that are not there."""
    assert {codec.value: flags.max_channels for codec, flags in AUDIO.items()} == AUDIO_CHANNEL_LIMITS
