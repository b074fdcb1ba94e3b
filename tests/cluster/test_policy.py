"""Which daemon gets a job, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.build import AAC, H264_VIDEO, MP2_AUDIO, X264, attached, capabilities, need, nvenc
from tests.cluster.chaos import daemons, needs, random_clusters
from tvarr.cluster.events import (
    DaemonAttached,
    DrainAsked,
    HeartbeatCame,
    JobAcked,
    JobEnded,
    JobWanted,
    PoolSeen,
    SessionRefused,
)
from tvarr.cluster.hardware import HARDWARE_DECODING
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import (
    Capabilities,
    Encoder,
    Family,
    Gpu,
    LimitSource,
    Need,
    Placement,
    Refusal,
    RefusalKind,
    SessionPool,
    Target,
    Wait,
)
from tvarr.cluster.policy import choose
from tvarr.ffmpeg.families import FLAGS
from tvarr.media.model import Codec

SVT_AV1 = Encoder("libsvtav1", Codec.AV1, Family.SOFTWARE)
AOM_AV1 = Encoder("libaom-av1", Codec.AV1, Family.SOFTWARE)
BROKEN = Encoder("h264_vaapi", Codec.H264, Family.VAAPI, usable=False, reason="no permission for the node")


def ledger_of(*daemons: DaemonAttached) -> Ledger:
    ledger = Ledger()
    for daemon in daemons:
        ledger.handle(daemon, 0.0)
    return ledger


def plain(name: str, *encoders: Encoder, max_jobs: int = 4, max_cpu_jobs: int = 2) -> DaemonAttached:
    return attached(name, Capabilities(encoders=encoders, max_jobs=max_jobs, max_cpu_jobs=max_cpu_jobs))


def fill(ledger: Ledger, count: int, wanted: Need | None = None) -> None:
    """Places so many jobs and confirms them."""
    for _ in range(count):
        name = f"filler {len(ledger.jobs)}"
        ledger.handle(JobWanted(name, wanted or need()), 0.0)
        ledger.handle(JobAcked(name), 0.0)


AUDIO_ONLY = Need((Target(MP2_AUDIO, Codec.AAC),))


@pytest.mark.parametrize(
    ("daemons", "wanted", "chosen"),
    [
        pytest.param([plain("a", X264, AAC)], need(), ("a", "libx264"), id="the only one"),
        pytest.param([plain("a", X264), plain("b", X264)], need(), ("a", "libx264"), id="the first of equals"),
        pytest.param([plain("a", X264), plain("b", X264, nvenc())], need(), ("b", "h264_nvenc"), id="hardware first"),
        pytest.param(
            [plain("a", nvenc()), plain("b", X264)],
            need(hw_accel="none"),
            ("b", "libx264"),
            id="software where it is asked for",
        ),
        pytest.param(
            [plain("a", BROKEN), plain("b", BROKEN, X264)],
            need(),
            ("b", "libx264"),
            id="an encoder that failed its trial is none",
        ),
        pytest.param([plain("a", X264), plain("b", AAC)], AUDIO_ONLY, ("b", None), id="sound alone"),
        pytest.param(
            [attached("a", capabilities(sessions=3, hwaccels=())), attached("b", capabilities(sessions=3))],
            need(),
            ("b", "h264_nvenc"),
            id="decoding on the GPU before encoding alone",
        ),
        pytest.param(
            [attached("a", capabilities(sessions=0)), attached("b", capabilities(sessions=3))],
            need(),
            ("b", "h264_nvenc"),
            id="a pool without sessions",
        ),
        pytest.param(
            [attached("a", capabilities(cpu_count=2)), attached("b", capabilities(cpu_count=16))],
            need(),
            ("b", "libx264"),
            id="the larger host for software",
        ),
        pytest.param(
            [attached("a", capabilities(sessions=3))],
            need(track=replace(H264_VIDEO, width=96, height=48)),
            ("a", "libx264"),
            id="too small for NVENC",
        ),
        pytest.param(
            [attached("a", capabilities(sessions=3))],
            need(track=replace(H264_VIDEO, width=145, height=49)),
            ("a", "h264_nvenc"),
            id="just large enough",
        ),
        pytest.param(
            [attached("a", capabilities(sessions=3))],
            need(track=replace(H264_VIDEO, width=1280, height=48)),
            ("a", "libx264"),
            id="too low for NVENC",
        ),
        pytest.param(
            [attached("a", Capabilities(encoders=(SVT_AV1, AOM_AV1)))],
            Need((Target(H264_VIDEO, Codec.AV1),)),
            ("a", "libsvtav1"),
            id="the first of two encoders of one codec",
        ),
        pytest.param(
            [
                attached("a", Capabilities(encoders=(X264,), decoders=frozenset({"h264"}))),
                attached("b", Capabilities(encoders=(X264,), decoders=frozenset({"libdav1d"}))),
            ],
            need(track=replace(H264_VIDEO, codec=Codec.AV1)),
            ("b", "libx264"),
            id="a decoder of another name",
        ),
    ],
)
def test_choice(daemons: list[DaemonAttached], wanted: Need, chosen: tuple[str, str | None]) -> None:
    verdict = choose(ledger_of(*daemons).cluster, wanted, 0.0)
    assert isinstance(verdict, Placement)
    assert (verdict.daemon_id, verdict.encoder and verdict.encoder.name) == chosen
    assert [c.daemon_id for c in verdict.considered] == [d.id for d in daemons]
    assert [c.daemon_id for c in verdict.considered if c.chosen] == [chosen[0]]
    assert all(c.reason for c in verdict.considered)


@pytest.mark.parametrize(
    ("daemons", "wanted", "kind", "words"),
    [
        pytest.param([], need(), RefusalKind.NO_DAEMON, [], id="nobody"),
        pytest.param(
            [plain("a", AAC)], need(), RefusalKind.UNSUPPORTED, ["its ffmpeg has no encoder for h264"], id="no encoder"
        ),
        pytest.param(
            [plain("a", BROKEN)], need(), RefusalKind.UNSUPPORTED, ["no permission for the node"], id="a broken one"
        ),
        pytest.param(
            [plain("a", X264)],
            need(hw_accel="nvenc"),
            RefusalKind.UNSUPPORTED,
            ["it has no nvenc encoder for h264); the job wants hardware"],
            id="no such family",
        ),
        pytest.param(
            [plain("a", nvenc(usable=False, reason="the driver is too old"), X264)],
            need(hw_accel="nvenc"),
            RefusalKind.UNSUPPORTED,
            ["h264_nvenc: the driver is too old); the job wants hardware"],
            id="a family that failed its trial",
        ),
        pytest.param(
            [attached("a", Capabilities(encoders=(X264, AAC), decoders=frozenset({"h264"})))],
            need(audio=True),
            RefusalKind.UNSUPPORTED,
            ["its ffmpeg has no decoder for mp2"],
            id="no decoder",
        ),
        pytest.param(
            [attached("a", capabilities(sessions=0, software=False))],
            need(),
            RefusalKind.UNSUPPORTED,
            ["it may open no hardware sessions"],
            id="sessions forbidden",
        ),
    ],
)
@pytest.mark.parametrize("policy", ["fallback", "queue", "reject"])
def test_what_nobody_can_do_is_refused_at_once(
    daemons: list[DaemonAttached], wanted: Need, kind: RefusalKind, words: list[str], policy: str
) -> None:
    verdict = choose(ledger_of(*daemons).cluster, replace(wanted, policy=policy), 0.0)
    assert isinstance(verdict, Refusal)
    assert verdict.kind is kind
    assert len(verdict.considered) == len(daemons)
    for considered, word in zip(verdict.considered, words, strict=True):
        assert word in considered.reason


@pytest.mark.parametrize(
    ("caps", "count", "words"),
    [
        pytest.param(capabilities(max_jobs=2), 2, "all of its 2 job slots are taken", id="job slots"),
        pytest.param(capabilities(max_cpu_jobs=1), 1, "all of its 1 software job slots are taken", id="software slots"),
        pytest.param(capabilities(cpu_count=1), 2, "its processors are busy", id="estimated load"),
        pytest.param(capabilities(cpu_count=2), 5, "the job would make 3.0 of 2", id="a quarter more than estimated"),
        pytest.param(
            capabilities(cpu_count=1, max_cpu_jobs=4),
            4,
            "all of its 4 software job slots are taken",
            id="an operator's number before the estimate",
        ),
        pytest.param(
            capabilities(sessions=3, software=False),
            3,
            "3 of 3 hardware sessions are taken (driver table: driver 550.54)",
            id="sessions",
        ),
    ],
)
def test_what_is_full(caps: Capabilities, count: int, words: str) -> None:
    ledger = ledger_of(attached("a", caps))
    fill(ledger, count)
    assert len(ledger.jobs) == count
    wanted = need(preset="veryfast")
    for policy, kind in (("fallback", Refusal), ("reject", Refusal), ("queue", Wait)):
        verdict = choose(ledger.cluster, replace(wanted, policy=policy), 0.0)
        assert isinstance(verdict, kind)
        assert words in verdict.considered[0].reason
        if isinstance(verdict, Refusal):
            assert verdict.kind is RefusalKind.EXHAUSTED
            assert verdict.retry_after_s > 0


def test_sessions_of_other_programs_are_taken_and_told() -> None:
    ledger = ledger_of(attached("a", capabilities(sessions=3)))
    ledger.handle(HeartbeatCame("a", 1, (PoolSeen("nvidia-host", active=3, own=0),)), 1.0)
    verdict = choose(ledger.cluster, need(policy="queue"), 1.0)
    assert isinstance(verdict, Wait)
    assert "3 of 3 hardware sessions are taken, 3 of them by other programs" in verdict.considered[0].reason


@pytest.mark.parametrize("before", ["no limit", "5"])
def test_what_was_learned_of_a_driver_is_told(before: str) -> None:
    unlimited = before == "no limit"
    caps = capabilities(unlimited=unlimited, sessions=None if unlimited else 5, software=False)
    ledger = ledger_of(attached("a", caps))
    fill(ledger, 2)
    ledger.handle(JobWanted("refused", need()), 0.0)
    ledger.handle(SessionRefused("refused"), 0.0)
    full = choose(ledger.cluster, need(policy="queue"), 0.0)
    assert full.considered[0].reason == (
        "2 of 2 hardware sessions are taken (learned: "
        f"the driver refused a session beside 2; before: {before} (driver 550.54))"
    )
    ledger.handle(JobEnded("filler 0"), 0.0)
    free = choose(ledger.cluster, need(), 0.0)
    assert free.considered[0].reason.endswith(", 1 of 2 sessions free")


def test_a_driver_that_allows_no_session_at_all_is_told() -> None:
    ledger = ledger_of(attached("a", capabilities(sessions=5, software=False)))
    ledger.handle(JobWanted("refused", need()), 0.0)
    ledger.handle(SessionRefused("refused"), 0.0)
    full = choose(ledger.cluster, need(policy="queue"), 0.0)
    assert full.considered[0].reason.startswith("0 of 0 hardware sessions are taken (learned: the driver refused")


def test_the_larger_free_share_wins() -> None:
    ledger = ledger_of(attached("a", capabilities(sessions=3)), attached("b", capabilities(sessions=8)))
    fill(ledger, 2)
    assert [job.daemon_id for job in ledger.jobs.values()] == ["a", "b"]
    verdict = choose(ledger.cluster, need(), 0.0)
    assert isinstance(verdict, Placement)
    assert verdict.daemon_id == "b"
    assert "a larger share of its sessions free" in verdict.considered[0].reason


def test_the_same_source_draws_and_then_the_longest_unused() -> None:
    caps = capabilities(unlimited=True, cpu_count=64)
    ledger = ledger_of(*(attached(name, caps) for name in "abc"))
    for name, source in (("1", "x"), ("2", "y"), ("3", "z")):
        ledger.handle(JobWanted(name, need(source=source)), 0.0)
    assert [job.daemon_id for job in ledger.jobs.values()] == ["a", "b", "c"]
    near = choose(ledger.cluster, need(source="y"), 0.0)
    assert isinstance(near, Placement)
    assert near.daemon_id == "b"
    assert near.considered[0].reason.endswith("another has the same source")
    other = choose(ledger.cluster, need(source="w"), 0.0)
    assert isinstance(other, Placement)
    assert other.daemon_id == "a"
    assert other.considered[1].reason.endswith("another was used less recently")


def test_the_emptier_gpu_of_a_host() -> None:
    ledger = ledger_of(attached("a", capabilities(sessions=8, gpus=("GPU-1", "GPU-2"))))
    fill(ledger, 4)
    devices = [job.placement.encoder.device for job in ledger.jobs.values() if job.placement.encoder]
    assert devices == ["GPU-1", "GPU-2", "GPU-1", "GPU-2"]
    assert ledger.daemons["a"].gpu_decodes == {"GPU-1": 2, "GPU-2": 2}


def test_the_larger_free_share_within_a_host_and_then_the_gpu_with_more_engines() -> None:
    def used(pools: tuple[str, str], limits: tuple[int, int], engines: tuple[int, int]) -> list[str]:
        gpus = tuple(Gpu(f"GPU-{n}", "", "nvidia", pool=pools[n], engines=engines[n]) for n in (0, 1))
        shared = tuple(
            SessionPool(pool, limits[n], LimitSource.OVERRIDE) for n, pool in enumerate(dict.fromkeys(pools))
        )
        encoders = tuple(nvenc(gpu.id) for gpu in gpus)
        ledger = ledger_of(attached("a", Capabilities(encoders=encoders, gpus=gpus, pools=shared)))
        fill(ledger, 4)
        return [job.placement.encoder.device for job in ledger.jobs.values() if job.placement.encoder]

    assert used(("x", "y"), (2, 8), (1, 1)) == ["GPU-0", "GPU-1", "GPU-1", "GPU-1"]
    assert used(("x", "x"), (8, 0), (1, 2)) == ["GPU-0", "GPU-1", "GPU-1", "GPU-0"]


def test_a_pool_without_sessions_does_not_hide_one_that_is_merely_taken() -> None:
    gpus = (Gpu("GPU-1", "", "nvidia", pool="none", engines=1), Gpu("GPU-2", "", "nvidia", pool="one", engines=1))
    pools = (SessionPool("none", 0, LimitSource.OVERRIDE), SessionPool("one", 1, LimitSource.OVERRIDE))
    ledger = ledger_of(attached("a", Capabilities(encoders=(nvenc(), nvenc("GPU-2")), gpus=gpus, pools=pools)))
    fill(ledger, 1)
    verdict = choose(ledger.cluster, need(policy="queue"), 0.0)
    assert isinstance(verdict, Wait)
    assert verdict.reason == "all hardware sessions are taken"


@pytest.mark.parametrize("policy", ["fallback", "queue", "reject"])
@pytest.mark.parametrize("caps", [capabilities(max_jobs=1), capabilities(max_cpu_jobs=1)])
def test_software_beside_a_host_that_has_no_room_for_more_is_no_fallback(caps: Capabilities, policy: str) -> None:
    ledger = ledger_of(attached("a", caps))
    fill(ledger, 1)
    full = choose(ledger.cluster, need(policy=policy), 0.0)
    assert not isinstance(full, Placement)
    assert full.reason == "all daemons are busy"
    ledger.handle(attached("b", caps), 0.0)
    verdict = choose(ledger.cluster, need(policy=policy), 0.0)
    assert isinstance(verdict, Placement)
    assert (verdict.daemon_id, verdict.fallback, verdict.reason) == ("b", False, "encodes in software with libx264")


@pytest.mark.parametrize(
    ("caps", "wanted", "words"),
    [
        (capabilities(), need(), "encodes in software with libx264"),
        (capabilities(), AUDIO_ONLY, "has the audio encoder"),
        (
            capabilities(sessions=3),
            need(),
            "decodes and encodes on RTX GPU-1 with h264_nvenc, 3 of 3 sessions free",
        ),
        (
            capabilities(sessions=3, hwaccels=()),
            need(),
            "encodes on RTX GPU-1 with h264_nvenc, 3 of 3 sessions free",
        ),
        (capabilities(unlimited=True), need(), "decodes and encodes on RTX GPU-1 with h264_nvenc"),
        (
            Capabilities(encoders=(replace(BROKEN, usable=True),), hwaccels=("vaapi",)),
            need(track=replace(H264_VIDEO, codec=Codec.MPEG1VIDEO)),
            "encodes on hardware with h264_vaapi",
        ),
        (
            Capabilities(encoders=(nvenc("0000:01"),), gpus=(Gpu("0000:01", "", "nvidia", engines=1),)),
            need(),
            "encodes on 0000:01 with h264_nvenc",
        ),
        (Capabilities(encoders=(nvenc(""),)), need(), "encodes on hardware with h264_nvenc"),
        (
            Capabilities(encoders=(X264,), protocols=frozenset({"srt"})),
            Need(need().targets, protocol="srt"),
            "encodes in software with libx264",
        ),
    ],
)
def test_a_place_is_told_in_words(caps: Capabilities, wanted: Need, words: str) -> None:
    verdict = choose(ledger_of(attached("a", caps)).cluster, wanted, 0.0)
    assert isinstance(verdict, Placement)
    assert verdict.reason == words
    assert [c.reason for c in verdict.considered] == [words]


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    """Needs that differ in anything that counts are no needs of one shape."""
    (plain_target,) = need().targets
    tracks = [replace(H264_VIDEO, **change) for change in ({"width": 640}, {"height": 480}, {"fps": 50.0})]
    targets = [Target(track, Codec.H264) for track in (*tracks, replace(H264_VIDEO, codec=Codec.HEVC))]
    targets += [replace(plain_target, **change) for change in ({"preset": "slow"}, {"fps": 5.0}, {"width": 320})]
    targets += [replace(plain_target, height=100), replace(plain_target, codec=Codec.AV1)]
    asked = [need(), Need((plain_target,), protocol="srt"), need(audio=True), *(Need((target,)) for target in targets)]
    asked.append(need(hw_accel="none"))
    caps = Capabilities(encoders=(nvenc(""), X264, AAC, SVT_AV1), protocols=frozenset({"srt"}))

    def answer(ledger: Ledger, wanted: Need) -> tuple[str, float]:
        verdict = choose(ledger.cluster, wanted, 0.0)
        assert isinstance(verdict, Placement)
        return verdict.encoder.name if verdict.encoder else "", verdict.cost_cores

    one = ledger_of(attached("a", caps))
    assert [answer(one, wanted) for wanted in asked] == [answer(ledger_of(attached("a", caps)), w) for w in asked]
    software = ledger_of(attached("a", replace(caps, encoders=(X264, AAC, SVT_AV1))))
    assert len({answer(software, wanted) for wanted in asked[:-1]}) == len(asked) - 1


def test_answers_of_daemons_as_they_no_longer_stand_are_forgotten() -> None:
    ledger = ledger_of(attached("a", capabilities(max_jobs=90)), attached("b", capabilities(max_jobs=90)))
    for _ in range(90):
        fill(ledger, 1)
    (shape,) = ledger.cluster.shapes.values()
    assert len(shape._verdicts) <= 2 * 2 + 1


def test_fallback_is_software_elsewhere_too_even_where_a_family_was_named() -> None:
    ledger = ledger_of(attached("a", capabilities(sessions=1, software=False)), attached("b"))
    fill(ledger, 1)
    for hw_accel in ("auto", "nvenc"):
        verdict = choose(ledger.cluster, need(hw_accel=hw_accel), 0.0)
        assert isinstance(verdict, Placement)
        assert (verdict.daemon_id, verdict.fallback) == ("b", True)
        assert "all hardware sessions are taken" in verdict.reason
    assert not isinstance(choose(ledger.cluster, need(hw_accel="nvenc", policy="reject"), 0.0), Placement)


def test_software_is_no_fallback_where_there_is_no_hardware() -> None:
    verdict = choose(ledger_of(attached("a")).cluster, need(policy="queue"), 0.0)
    assert isinstance(verdict, Placement)
    assert not verdict.fallback


def test_a_daemon_that_failed_the_job_is_the_last_choice() -> None:
    ledger = ledger_of(plain("a", nvenc()), plain("b", X264))
    verdict = choose(ledger.cluster, need(), 0.0, avoid=frozenset({"a"}))
    assert isinstance(verdict, Placement)
    assert verdict.daemon_id == "b"
    assert verdict.considered[0].reason.endswith("failed this job before")
    alone = choose(ledger_of(plain("a", nvenc())).cluster, need(), 0.0, avoid=frozenset({"a"}))
    assert isinstance(alone, Placement)


def test_draining_and_unhealthy_daemons_are_named() -> None:
    ledger = ledger_of(attached("a"), attached("b"))
    ledger.handle(DrainAsked("a", draining=True), 0.0)
    verdict = choose(ledger.cluster, need(), 0.0)
    assert isinstance(verdict, Placement)
    assert (verdict.daemon_id, verdict.considered[0].reason) == ("b", "it is draining")


def test_a_restricted_limit_of_one_gpu_does_not_bind_another() -> None:
    override = capabilities(sessions=1, source=LimitSource.OVERRIDE, pool="GPU-1")
    ledger = ledger_of(attached("a", override), attached("b", capabilities(sessions=3)))
    fill(ledger, 4)
    assert sorted(job.daemon_id for job in ledger.jobs.values()) == ["a", "b", "b", "b"]


def test_hardware_decoding_is_told_as_the_flags_have_it() -> None:
    flags = {family: (f.hwaccel, f.decodes) for family in Family if (f := FLAGS.get(family)) and f.hwaccel}
    assert dict(HARDWARE_DECODING) == flags


@given(st.lists(daemons(), max_size=6), needs())
def test_every_placement_can_be_done(attaching: list[DaemonAttached], wanted: Need) -> None:
    ledger = ledger_of(*{d.id: d for d in attaching}.values())
    check(ledger, wanted)


def check(ledger: Ledger, wanted: Need) -> bool:
    """Whether the need was placed; asserts that its daemon has all that it takes, and that all were considered."""
    verdict = choose(ledger.cluster, wanted, 0.0)
    here = [d.id for d in ledger.daemons.values() if d.connected]
    assert [c.daemon_id for c in verdict.considered] == here
    assert all(c.reason for c in verdict.considered)
    if not isinstance(verdict, Placement):
        return False
    caps = ledger.daemons[verdict.daemon_id].capabilities
    video = next((t for t in wanted.targets if t.track.codec is not Codec.MP2), None)
    encoder = verdict.encoder
    assert (encoder is None) == (video is None)
    if encoder is not None and video is not None:
        assert encoder in caps.encoders
        assert encoder.usable
        assert encoder.codec is video.codec
        if wanted.hw_accel == "none":
            assert encoder.family is Family.SOFTWARE
        elif wanted.hw_accel != "auto" and not verdict.fallback:
            assert encoder.family == wanted.hw_accel
        if verdict.pool:
            pool = ledger.daemons[verdict.daemon_id].pools[verdict.pool]
            assert pool.limit is None or pool.in_use < pool.limit
        assert not verdict.hw_decode or "cuda" in caps.hwaccels
    codecs = {e.codec for e in caps.encoders if e.usable}
    assert all(t.codec in codecs for t in wanted.targets)
    return True


def test_many_random_clusters_seeded() -> None:
    """5,000 here; `python -m tests.bench.ledger` does 200,000."""
    placed = sum(check(ledger, wanted) for ledger, wanted in random_clusters(seed=1, count=5_000))
    assert placed > 1_000


def test_a_source_goes_to_who_reads_its_protocol() -> None:
    srt = Need((), protocol="srt", source="c")

    def reading(name: str, *protocols: str, max_jobs: int = 1) -> DaemonAttached:
        able = Capabilities(encoders=(X264,), protocols=frozenset(protocols), max_jobs=max_jobs)
        return attached(name, able)

    ledger = ledger_of(reading("a", "udp"), reading("b", "udp", "srt"))
    placed = choose(ledger.cluster, srt, 0.0)
    assert isinstance(placed, Placement)
    assert (placed.daemon_id, placed.encoder, placed.reason) == ("b", None, "reads srt:")
    assert [c.reason for c in placed.considered] == ["its ffmpeg does not read srt:", "reads srt:"]
    fill(ledger, 1, srt)  # it holds a slot like any job
    busy = choose(ledger.cluster, srt, 0.0)
    assert isinstance(busy, Refusal)
    assert busy.kind is RefusalKind.EXHAUSTED
    nobody = choose(ledger_of(reading("a", "udp")).cluster, srt, 0.0)
    assert isinstance(nobody, Refusal)
    assert (nobody.kind, nobody.reason) == (RefusalKind.UNSUPPORTED, "no daemon reads srt: sources")
    old = choose(ledger_of(plain("a", X264)).cluster, srt, 0.0)  # who never heard of sources is never asked
    assert isinstance(old, Refusal)
