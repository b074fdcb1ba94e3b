"""Which daemon gets a job, and what is said of the others."""

from __future__ import annotations

import pytest

from tvarr.cluster.model import Capabilities, Encoder, Family, Need, Placement, Refusal, Target
from tvarr.cluster.policy import Candidate, choose
from tvarr.media.model import Codec, Track

VIDEO = Track(1, Codec.H264)
AUDIO = Track(2, Codec.MP2)
X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
NVENC = Encoder("h264_nvenc", Codec.H264, Family.NVENC, device="GPU-1")
BROKEN = Encoder("h264_vaapi", Codec.H264, Family.VAAPI, usable=False, reason="no permission for the node")
AAC = Encoder("aac", Codec.AAC, Family.SOFTWARE)


def daemon(name: str, *encoders: Encoder, jobs: int = 0, cpu_jobs: int = 0, unavailable: str = "") -> Candidate:
    capabilities = Capabilities(encoders=encoders, max_jobs=4, max_cpu_jobs=2)
    return Candidate(name, name, capabilities, jobs, cpu_jobs, unavailable)


def need(video: bool = True, hw_accel: str = "auto", codec: Codec = Codec.H264) -> Need:
    targets = (Target(VIDEO, codec), Target(AUDIO, Codec.AAC)) if video else (Target(AUDIO, Codec.AAC),)
    return Need(targets, hw_accel)


@pytest.mark.parametrize(
    ("candidates", "wanted", "chosen"),
    [
        pytest.param([daemon("a", X264, AAC)], need(), ("a", "libx264"), id="the only one"),
        pytest.param(
            [daemon("a", X264, AAC), daemon("b", X264, AAC)], need(), ("a", "libx264"), id="the first of equals"
        ),
        pytest.param(
            [daemon("a", X264, AAC), daemon("b", X264, NVENC, AAC)], need(), ("b", "h264_nvenc"), id="hardware first"
        ),
        pytest.param(
            [daemon("a", NVENC, AAC), daemon("b", X264, AAC)],
            need(hw_accel="none"),
            ("b", "libx264"),
            id="software where it is asked for",
        ),
        pytest.param(
            [daemon("a", BROKEN, AAC), daemon("b", BROKEN, X264, AAC)],
            need(),
            ("b", "libx264"),
            id="an encoder that failed its trial is none",
        ),
        pytest.param([daemon("a", X264), daemon("b", AAC)], need(video=False), ("b", None), id="sound alone"),
        pytest.param(
            [daemon("a", X264, AAC, jobs=2, cpu_jobs=2), daemon("b", X264, AAC)],
            need(),
            ("b", "libx264"),
            id="no software slot left",
        ),
        pytest.param(
            [daemon("a", X264, AAC, jobs=4), daemon("b", X264, AAC)], need(), ("b", "libx264"), id="no slot left"
        ),
        pytest.param(
            [daemon("a", X264, AAC, unavailable="it is draining"), daemon("b", X264, AAC)],
            need(),
            ("b", "libx264"),
            id="draining",
        ),
    ],
)
def test_choice(candidates: list[Candidate], wanted: Need, chosen: tuple[str, str | None]) -> None:
    verdict = choose(candidates, wanted)
    assert isinstance(verdict, Placement)
    assert (verdict.daemon_id, verdict.encoder and verdict.encoder.name) == chosen
    assert [c.daemon_id for c in verdict.considered] == [c.daemon_id for c in candidates]
    assert [c.daemon_id for c in verdict.considered if c.chosen] == [chosen[0]]
    assert all(c.reason for c in verdict.considered)


@pytest.mark.parametrize(
    ("candidates", "wanted", "words"),
    [
        pytest.param([], need(), [], id="nobody"),
        pytest.param([daemon("a", AAC)], need(), ["its ffmpeg has no encoder for h264"], id="no such encoder"),
        pytest.param([daemon("a", BROKEN, AAC)], need(), ["no permission for the node"], id="only a broken one"),
        pytest.param(
            [daemon("a", X264, AAC)], need(hw_accel="nvenc"), ["it has no nvenc encoder"], id="no such family"
        ),
        pytest.param(
            [daemon("a", X264, AAC, jobs=2, cpu_jobs=2)], need(), ["all of its 2 software job slots"], id="full"
        ),
        pytest.param([daemon("a", unavailable="it is unhealthy")], need(), ["it is unhealthy"], id="unhealthy"),
    ],
)
def test_refusal(candidates: list[Candidate], wanted: Need, words: list[str]) -> None:
    verdict = choose(candidates, wanted)
    assert isinstance(verdict, Refusal)
    assert verdict.reason == ("no daemon can do this job" if candidates else "no daemon is connected")
    assert len(verdict.considered) == len(candidates)
    for considered, word in zip(verdict.considered, words, strict=True):
        assert word in considered.reason


def test_a_daemon_that_failed_the_job_is_the_last_choice() -> None:
    two = [daemon("a", NVENC, AAC), daemon("b", X264, AAC)]
    verdict = choose(two, need(), avoid=frozenset({"a"}))
    assert isinstance(verdict, Placement)
    assert verdict.daemon_id == "b"
    alone = choose(two[:1], need(), avoid=frozenset({"a"}))
    assert isinstance(alone, Placement)
    assert alone.daemon_id == "a"


def test_a_missing_decoder_is_said() -> None:
    capabilities = Capabilities(encoders=(X264, AAC), decoders=frozenset({"h264"}))
    verdict = choose([Candidate("a", "a", capabilities, 0, 0)], need())
    assert isinstance(verdict, Refusal)
    assert verdict.considered[0].reason == "its ffmpeg has no decoder for mp2"
