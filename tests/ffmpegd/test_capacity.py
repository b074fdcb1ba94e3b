"""The daemon's own limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, JobSpec, SessionPool, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpegd.capacity import Capacity
from tvarr.hwaccel.model import OwnSessions
from tvarr.media.model import Codec, Track

X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
AAC = Encoder("aac", Codec.AAC, Family.SOFTWARE)
NVENC = [Encoder("h264_nvenc", Codec.H264, Family.NVENC, device=gpu) for gpu in ("GPU-a", "GPU-b")]
BROKEN = Encoder("h264_vaapi", Codec.H264, Family.VAAPI, device="GPU-c", usable=False, reason="no driver")
HOST = Capabilities(
    encoders=(*NVENC, BROKEN, X264, AAC),
    gpus=(Gpu("GPU-a", "A", "nvidia", pool="geforce"), Gpu("GPU-b", "B", "nvidia", pool="geforce")),
    pools=(SessionPool("geforce", 3),),
    max_jobs=6,
    max_cpu_jobs=2,
)


def code_of(capacity: Capacity, job_id: str, encoder: str, device: str = "") -> ErrorCode | None:
    try:
        capacity.claim(job_id, encoder, device)
    except JobError as error:
        return error.code
    return None


def test_jobs_are_counted_all_together() -> None:
    capacity = Capacity(HOST)
    assert [code_of(capacity, f"j{n}", "") for n in range(7)] == [None] * 6 + [ErrorCode.CAPACITY]
    capacity.release("j3")
    capacity.release("j3")
    assert code_of(capacity, "j7", "") is None
    assert capacity.jobs == 6


def test_software_is_counted_apart_and_sound_is_not_software() -> None:
    capacity = Capacity(HOST)
    assert [code_of(capacity, f"j{n}", "libx264") for n in range(3)] == [None, None, ErrorCode.CAPACITY]
    assert code_of(capacity, "j3", "") is None
    assert code_of(capacity, "j4", "h264_nvenc", "GPU-a") is None


def test_gpus_of_one_pool_share_its_sessions() -> None:
    capacity = Capacity(HOST)
    devices = ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]
    codes = [code_of(capacity, f"j{n}", "h264_nvenc", device) for n, device in enumerate(devices)]
    assert codes == [None, None, None, ErrorCode.CAPACITY]
    capacity.decodes_on("j0", "GPU-a")
    capacity.decodes_on("gone", "GPU-a")
    assert capacity.own_sessions() == {"GPU-a": OwnSessions(2, 1), "GPU-b": OwnSessions(1, 0)}
    with pytest.raises(JobError, match="all 3 encoder sessions of geforce are taken") as caught:
        capacity.claim("j9", "h264_nvenc", "GPU-b")
    assert caught.value.retry_in_software


def test_a_limit_of_zero_is_none() -> None:
    capacity = Capacity(Capabilities(encoders=(X264,)))
    assert {code_of(capacity, f"j{n}", "libx264") for n in range(100)} == {None}


@pytest.mark.parametrize(
    ("encoder", "device", "words"),
    [
        ("h264_qsv", "", "it has no encoder h264_qsv on this host"),
        ("h264_nvenc", "GPU-x", "it has no encoder h264_nvenc on GPU-x"),
        ("h264_vaapi", "GPU-c", "h264_vaapi: no driver"),
    ],
)
def test_encoders_that_are_not_there(encoder: str, device: str, words: str) -> None:
    with pytest.raises(JobError, match=words) as caught:
        Capacity(HOST).claim("j", encoder, device)
    assert caught.value.code is ErrorCode.UNSUPPORTED


def test_a_job_runs_once_and_a_draining_daemon_takes_none() -> None:
    capacity = Capacity(HOST)
    capacity.claim("j", "", "")
    assert code_of(capacity, "j", "") is ErrorCode.BAD_REQUEST
    capacity.draining = "it is draining"
    assert code_of(capacity, "k", "") is ErrorCode.CAPACITY
    capacity.draining = ""
    assert code_of(capacity, "k", "") is None


def spec(job_id: str, codec: Codec = Codec.H264, hw_accel: str = "auto", encoder: str = "") -> JobSpec:
    return JobSpec(job_id, (Target(Track(1, Codec.MPEG2VIDEO), codec),), encoder=encoder, hw_accel=hw_accel)


def test_a_client_that_leaves_the_choice_gets_hardware_first_then_software_then_nothing() -> None:
    capacity = Capacity(HOST)
    chosen = [capacity.claim_for(spec(f"j{n}")) for n in range(5)]
    assert [(s.encoder, s.device) for s in chosen] == [("h264_nvenc", "GPU-a")] * 3 + [("libx264", "")] * 2
    with pytest.raises(JobError) as caught:
        capacity.claim_for(spec("j5"))
    assert caught.value.code is ErrorCode.CAPACITY
    assert "sessions of geforce are taken" in str(caught.value)
    assert "software job slots are taken" in str(caught.value)


def test_a_client_may_choose() -> None:
    capacity = Capacity(HOST)
    assert capacity.claim_for(spec("a", hw_accel="none")).encoder == "libx264"
    assert capacity.claim_for(spec("b", encoder="libx264")).encoder == "libx264"
    sound = JobSpec("c", (Target(Track(2, Codec.MP2), Codec.AAC),))
    assert capacity.claim_for(sound) == sound
    for refused in (spec("d", Codec.HEVC), spec("e", hw_accel="vaapi"), spec("f", encoder="libx265")):
        with pytest.raises(JobError) as caught:
            capacity.claim_for(refused)
        assert caught.value.code is ErrorCode.UNSUPPORTED
    assert capacity.jobs == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([*HOST.encoders, None]), st.booleans())))
def test_no_order_of_claims_and_releases_exceeds_a_limit(steps: list[tuple[int, Encoder | None, bool]]) -> None:
    capacity = Capacity(HOST)
    held: dict[str, Encoder | None] = {}
    for number, encoder, gives_back in steps:
        job_id = f"j{number}"
        if gives_back:
            capacity.release(job_id)
            held.pop(job_id, None)
        elif code_of(capacity, job_id, encoder.name if encoder else "", encoder.device if encoder else "") is None:
            held[job_id] = encoder
        videos = [e for e in held.values() if e and e.codec is Codec.H264]
        assert capacity.jobs == len(held) <= 6
        assert sum(e.family is Family.SOFTWARE for e in videos) <= 2
        assert sum(e.family is Family.NVENC for e in videos) <= 3
        assert sum(own.encode for own in capacity.own_sessions().values()) == sum(bool(e.device) for e in videos)


def test_jobs_of_the_coordinator_and_of_clients_draw_from_one_pool() -> None:
    capacity = Capacity(HOST)
    video = Track(1, Codec.H264, width=1920, height=1080)
    for number, device in enumerate(("GPU-a", "GPU-b")):
        capacity.claim(f"ordered-{number}", "h264_nvenc", device)
    spec = JobSpec("client", (Target(video, Codec.H264),), hw_accel="nvenc")
    assert capacity.claim_for(spec).encoder == "h264_nvenc"
    with pytest.raises(JobError, match="all 3 encoder sessions of geforce are taken"):
        capacity.claim_for(JobSpec("late", spec.targets, hw_accel="nvenc"))
    assert code_of(capacity, "ordered-late", "h264_nvenc", "GPU-a") is ErrorCode.CAPACITY
    copies = JobSpec("copies", (Target(video, Codec.H264, copy=True),), encoder="h264_nvenc", device="GPU-a")
    assert capacity.claim_for(copies).encoder == ""
    capacity.release("client")
    assert code_of(capacity, "ordered-late", "h264_nvenc", "GPU-a") is None
