"""The domain survives the wire, and what comes from it is clipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.cluster.model import Capabilities, Encoder, Family, Gpu, JobSpec, LimitSource, SessionPool, Source, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.media.model import Codec, Track
from tvarr.wire import codec, convert
from tvarr.wire import messages as m

_NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
_TEXTS = _NAMES | st.just("")
_COUNTS = st.integers(0, 1_000)
_FPS = st.floats(0, 1_000)

tracks = st.builds(
    Track,
    id=st.integers(0, 2**32 - 1),
    codec=st.sampled_from(Codec),
    language=st.text("abcxyz", max_size=3),
    width=_COUNTS,
    height=_COUNTS,
    fps=_FPS,
    interlaced=st.booleans(),
    sample_rate=st.integers(0, 192_000),
    channels=st.integers(0, 8),
    init=st.binary(max_size=20),
    stream_type=st.integers(0, 255),
    descriptors=st.binary(max_size=20),
)
targets = st.builds(
    Target,
    track=tracks,
    codec=st.sampled_from(Codec),
    bitrate_kbps=_COUNTS,
    width=_COUNTS,
    height=_COUNTS,
    fps=_FPS,
    crf=st.none() | st.integers(0, 63),
    preset=_TEXTS,
    gop_s=st.floats(0.1, 60),
    deinterlace=st.sampled_from(["auto", "on", "off"]),
    channels=st.integers(0, 8),
)
specs = st.builds(
    JobSpec,
    job_id=_TEXTS,
    targets=st.lists(targets, min_size=1, max_size=3, unique_by=lambda t: t.track.id).map(tuple),
    encoder=_TEXTS,
    device=_TEXTS,
    hw_accel=st.sampled_from(["auto", "none", *(family.value for family in Family)]),
    first_keyframe_ticks=st.none() | st.integers(-(2**63), 2**63 - 1),
    batch_age_s=st.floats(0.001, 10),
    batch_bytes=st.integers(1, 2**20),
    full_speed=st.booleans(),
)
sources = st.builds(
    Source,
    url=_TEXTS,
    user_agent=_TEXTS,
    headers=st.lists(st.tuples(_NAMES, _TEXTS), max_size=3).map(tuple),
    program=st.none() | st.integers(1, 65_535),
)
fetches = st.builds(
    JobSpec,
    job_id=_TEXTS,
    targets=st.just(()),
    batch_age_s=st.floats(0.001, 10),
    batch_bytes=st.integers(1, 2**20),
    full_speed=st.booleans(),
    fetch=sources,
)
pools = st.builds(
    SessionPool,
    id=_NAMES,
    limit=st.none() | _COUNTS,
    source=st.sampled_from(LimitSource),
    detail=_TEXTS,
)
encoders = st.builds(
    Encoder,
    name=_NAMES,
    codec=st.sampled_from(Codec),
    family=st.sampled_from(Family),
    device=_TEXTS,
    usable=st.booleans(),
    verified=st.booleans(),
    reason=_TEXTS,
    options=st.lists(_NAMES, max_size=2).map(tuple),
)


@st.composite
def capabilities(draw: st.DrawFn) -> Capabilities:
    chosen = draw(st.lists(pools, max_size=3, unique_by=lambda pool: pool.id))
    gpus = st.builds(
        Gpu,
        id=_NAMES,
        name=_TEXTS,
        vendor=_TEXTS,
        index=_COUNTS,
        driver=_TEXTS,
        memory_bytes=st.integers(0, 2**40),
        architecture=_TEXTS,
        pool=st.sampled_from(["", *(pool.id for pool in chosen)]),
        node=_TEXTS,
        engines=_COUNTS,
        restricted=st.booleans(),
    )
    return Capabilities(
        ffmpeg_version=draw(_TEXTS),
        encoders=tuple(draw(st.lists(encoders, max_size=3, unique_by=lambda e: (e.name, e.device)))),
        decoders=draw(st.frozensets(_NAMES, max_size=3)),
        hwaccels=tuple(draw(st.lists(_NAMES, max_size=3))),
        gpus=tuple(draw(st.lists(gpus, max_size=3, unique_by=lambda gpu: gpu.id))),
        pools=tuple(chosen),
        max_jobs=draw(_COUNTS),
        max_cpu_jobs=draw(_COUNTS),
        cpu_count=draw(_COUNTS),
        cpu_model=draw(_TEXTS),
        memory_bytes=draw(st.integers(0, 2**60)),
        os=draw(_TEXTS),
        protocols=draw(st.frozensets(_NAMES, max_size=3)),
    )


@given(capabilities())
def test_capabilities_survive(these: Capabilities) -> None:
    encoded = codec.encode_message(convert.capabilities_to_wire(these))
    assert convert.capabilities_from_wire(codec.decode_message(m.Capabilities, encoded)) == (these, [])


@given(specs | fetches)
def test_a_job_survives(spec: JobSpec) -> None:
    encoded = codec.encode_job_input(convert.start_to_wire(spec))
    decoded = codec.decode_job_input(encoded)
    assert isinstance(decoded, m.TranscodeStart)
    assert convert.start_from_wire(decoded) == spec


@given(
    st.builds(
        JobError,
        st.sampled_from(ErrorCode),
        _NAMES,
        stderr=st.lists(_TEXTS, max_size=40),
        retry_elsewhere=st.booleans(),
        retry_in_software=st.booleans(),
    )
)
def test_an_error_survives(error: JobError) -> None:
    back = convert.error_from_wire(convert.error_to_wire(error))
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_every_code_family_and_source_has_its_number_on_the_wire() -> None:
    assert {code.name for code in m.TranscodeErrorCode} == {"UNSPECIFIED", *ErrorCode.__members__}
    assert {family.name for family in m.Family} == {"UNSPECIFIED", *Family.__members__}
    assert {source.name for source in m.LimitSource} == {"UNSPECIFIED", *LimitSource.__members__}
    assert all(convert.family_from_wire(convert.family_to_wire(family)) is family for family in Family)


X264 = m.Encoder(name="libx264", codec="h264", family=m.Family.SOFTWARE, usable=True)


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        (m.Capabilities(encoders=[m.Encoder(codec="h264", family=m.Family.NVENC)]), "an encoder without a name"),
        (m.Capabilities(encoders=[m.Encoder(name="x", codec="h266", family=m.Family.NVENC)]), "unknown codec 'h266'"),
        (m.Capabilities(encoders=[m.Encoder(name="x", codec="h264", family=m.Family(77))]), "unknown family 77"),
        (m.Capabilities(encoders=[X264, X264]), "('libx264', '') is reported twice"),
        (m.Capabilities(encoders=[X264] * 10_000), "10000 encoders; the first 1024 are taken"),
        (m.Capabilities(decoders=["h264", "\x00"]), "an empty name"),
        (m.Capabilities(gpus=[m.Gpu(name="RTX")]), "a GPU without an id"),
        (m.Capabilities(gpus=[m.Gpu(id="a"), m.Gpu(id="a")]), "GPU a is reported twice"),
        (m.Capabilities(gpus=[m.Gpu(id="a", pool="p")]), "session pool p that is not reported"),
        (m.Capabilities(pools=[m.SessionPool()]), "a session pool without an id"),
        (m.Capabilities(pools=[m.SessionPool(id="p", limit=2**32 - 1)]), "limit of pool p is 4294967295"),
        (m.Capabilities(max_jobs=2**32 - 1), "max_jobs is 4294967295; taken as 100000"),
    ],
)
def test_nonsense_is_left_out_and_named(report: m.Capabilities, complaint: str) -> None:
    taken, complaints = convert.capabilities_from_wire(report)
    assert any(complaint in line for line in complaints), complaints
    assert len(taken.encoders) <= 1
    assert taken.max_jobs <= convert.MAX_COUNT
    known = {pool.id for pool in taken.pools}
    assert all(gpu.pool in known for gpu in taken.gpus if gpu.pool)


def test_complaints_and_texts_are_capped() -> None:
    odd = [m.Encoder(name=f"e{n}", codec="?", family=m.Family.NVENC) for n in range(500)]
    long = m.Encoder(name="n" * 9_999, codec="h264", family=m.Family.NVENC, reason="a\nb\x1b[31m" + "r" * 9_999)
    taken, complaints = convert.capabilities_from_wire(m.Capabilities(encoders=[*odd, long], os="o" * 9_999))
    assert len(complaints) == convert.MAX_COMPLAINTS
    assert complaints[-1] == "and 481 complaints more"
    assert len(taken.encoders[0].name) == convert.MAX_NAME
    assert taken.encoders[0].reason.startswith("a b [31mrrr")
    assert len(taken.encoders[0].reason) == convert.MAX_TEXT
    assert len(taken.os) == convert.MAX_NAME


def test_nothing_reported_is_nothing_that_works() -> None:
    assert convert.capabilities_from_wire(None) == (Capabilities(), [])


def start(**changes: object) -> m.TranscodeStart:
    values: dict[str, Any] = {
        "job_id": "j1",
        "tracks": [m.Track(id=256, codec="h264")],
        "targets": [m.Target(track_id=256, codec="hevc")],
    }
    return m.TranscodeStart(**{**values, **changes})


def test_what_a_client_leaves_open_gets_the_defaults() -> None:
    spec = convert.start_from_wire(start())
    assert spec == JobSpec("j1", (Target(Track(256, Codec.H264), Codec.HEVC),))
    assert (spec.hw_accel, spec.batch_age_s, spec.targets[0].gop_s) == ("auto", 0.040, 2.0)


def test_a_track_that_is_copied_survives() -> None:
    copied = Target(Track(256, Codec.H264), Codec.H264, copy=True)
    spec = JobSpec("j1", (copied, Target(Track(1, Codec.MP2), Codec.AAC)))
    assert convert.start_from_wire(convert.start_to_wire(spec)) == spec


def target(**values: Any) -> list[m.Target]:
    return [m.Target(track_id=256, codec="hevc", **values)]


def track(**values: Any) -> list[m.Track]:
    return [m.Track(id=256, **{"codec": "h264", **values})]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tracks": [], "targets": []}, "0 tracks and 0 targets"),
        ({"targets": []}, "1 tracks and 0 targets"),
        ({"targets": target() * 2}, "1 tracks and 2 targets"),
        ({"targets": [m.Target(track_id=1, codec="hevc")]}, "target of track 1 has no track"),
        ({"tracks": track() * 2}, "two tracks have one id"),
        ({"tracks": [m.Track(id=n, codec="aac") for n in range(65)]}, "number of tracks is 65; it takes 0 to 64"),
        ({"tracks": track(codec="h266")}, "unknown codec 'h266'"),
        ({"tracks": track(width=20_000)}, "width of track 256 is 20000; it takes 0 to 16384"),
        ({"tracks": track(fps=math.nan)}, "fps of track 256 is nan"),
        ({"tracks": track(init_data=bytes(65_537))}, "size of init_data of track 256 is 65537"),
        ({"tracks": track(descriptors=bytes(4_097))}, "size of descriptors"),
        ({"targets": target(fps=-1.0)}, "fps of the target of track 256 is -1.0"),
        ({"targets": target(gop_s=math.inf)}, "gop_s"),
        ({"targets": target(crf=256)}, "crf"),
        ({"targets": target(deinterlace="maybe")}, "unknown deinterlace 'maybe'; it takes auto, off, on"),
        ({"targets": [m.Target(track_id=256, codec="")]}, "unknown codec ''"),
        ({"hw_accel": "magic"}, "unknown hw_accel 'magic'; it takes amf, auto"),
        ({"batch_age_s": 11.0}, "batch_age_s is 11.0; it takes 0 to 10"),
        ({"batch_bytes": 2**24}, "batch_bytes"),
    ],
)
def test_half_a_job_is_none(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError) as caught:
        convert.start_from_wire(start(**changes))
    assert words in str(caught.value)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert not caught.value.retry_elsewhere


@pytest.mark.parametrize("message", [None, m.TranscodeError(), m.TranscodeError(code=m.TranscodeErrorCode(99))])
def test_an_unknown_error_is_an_internal_one(message: m.TranscodeError | None) -> None:
    error = convert.error_from_wire(message)
    assert error.code is ErrorCode.INTERNAL
    assert str(error) == "failed without words (internal)"


def test_stderr_is_clipped_both_ways() -> None:
    error = JobError(ErrorCode.BAD_INPUT, "m" * 5_000, stderr=[f"{n} " + "x" * 2_000 for n in range(100)])
    clips: list[Callable[[JobError], Any]] = [
        convert.error_to_wire,
        lambda e: convert.error_from_wire(m.TranscodeError(message=str(e), stderr=list(e.stderr))),
    ]
    for clip in clips:
        stderr = clip(error).stderr
        assert len(stderr) == 40
        assert stderr[-1].startswith("99 ")
        assert max(map(len, stderr)) == convert.MAX_TEXT


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (m.TranscodeStart(source=m.Source(url="udp://h:1"), encoder="libx264"), "no tracks, targets and encoder"),
        (m.TranscodeStart(source=m.Source(url="udp://h:1\nfile x")), "control characters"),
        (m.TranscodeStart(source=m.Source(url="u" * 5_000)), "4096 characters"),
        (m.TranscodeStart(source=m.Source(url="udp://h:1", headers=[m.SourceHeader(name="a")] * 33)), "32 headers"),
        (m.TranscodeStart(source=m.Source(url="udp://h:1", program=70_000)), "program of the source is 70000"),
    ],
)
def test_a_source_that_makes_no_sense(start: m.TranscodeStart, words: str) -> None:
    with pytest.raises(JobError, match=words):
        convert.start_from_wire(start)


def test_figures_are_made_finite() -> None:
    nan, inf = float("nan"), float("inf")
    beat = m.Heartbeat(
        sequence=7,
        system=m.SystemStats(cpu_percent=nan, load_average=[1.0, inf], uptime_s=-inf, io_pressure_percent=nan),
        gpus=[m.GpuStats(id="a", power_watts=inf, encoder_percent=5.0)],
        jobs=[m.ActiveJob(job_id="j", speed=nan)],
    )
    convert.finite(beat)
    assert beat.system is not None
    assert (beat.system.cpu_percent, beat.system.load_average, beat.system.uptime_s) == (0.0, [1.0, 0.0], 0.0)
    assert (beat.system.io_pressure_percent, beat.system.cpu_pressure_percent) == (0.0, None)
    assert (beat.gpus[0].power_watts, beat.gpus[0].encoder_percent) == (0.0, 5.0)
    assert (beat.jobs[0].speed, beat.sequence) == (0.0, 7)
