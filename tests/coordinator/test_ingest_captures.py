"""Real captures as sources: what comes of them, and what is said of those that hold nothing playable."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.coordinator.test_ingest import LIMITS, Taken, take
from tests.fakes.sources import ScriptedServer, answer, close, endless, pieces_of
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.source import SourceSpec
from tvarr.coordinator.sources.http import client_session
from tvarr.media.model import Codec, Kind, Tracks

CAPTURES = {
    # name: codec and language of each track of video and audio
    "h264_1080i_3eac3_dvbsub.ts": "h264 eac3.fre eac3.qad eac3.qaa",
    "h264_aac_scte35_80s.ts": "h264 aac.und",
    "h264_noPCR_pmt_change_dts_wrap.ts": "h264 aac",
    "m2ts_192byte.m2ts": "mpeg2video mp2",
    "mpeg2_mp2_pcr_own_pid.ts": "mpeg2video mp2",
    "mpts_8prog_dvb_it.ts": "mpeg2video mp2.ita mp2.oth mp2.eng",
    "pat_vanishes_cc_errors.ts": "h264 eac3.fra eac3.qad eac3.qaa",
    "wrong_streamtype_no_pcr.ts": "aac h264",
    "hls_h264_ac3/s_00000.ts": "h264 ac3.deu",
}


async def take_file(media_dir: Path, url: str, *, loop_s: float = 0.0, **chosen: Any) -> tuple[Taken, Ingest]:
    """A capture at full speed; looped until `loop_s` seconds of media came. `chosen`: program, audio_languages."""
    spec = SourceSpec.parse(f"file:{url}", pace="fast", loop=loop_s > 0, media_dir=media_dir, **chosen)
    async with client_session() as session:
        ingest = Ingest(spec, LIMITS, session, Random(1))
        until = (lambda taken: taken.span_s() >= loop_s) if loop_s else None
        return await take(ingest, until=until), ingest


def described(tracks: Tracks) -> str:
    playable = (t for t in tracks.tracks if t.kind in (Kind.VIDEO, Kind.AUDIO))
    return " ".join(f"{t.codec}.{t.language}" if t.language else str(t.codec) for t in playable)


@pytest.mark.parametrize("name", CAPTURES)
async def test_played(name: str, media_dir: Path) -> None:
    taken, _ = await take_file(media_dir, name)
    assert taken.error == ""
    assert described(taken.announcements[-1]) == CAPTURES[name]
    came = {sample.track for sample in taken.samples()}
    assert all(t.id in came for t in taken.announcements[-1].tracks if t.kind in (Kind.VIDEO, Kind.AUDIO))


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        ("mpts_8prog_dvb_it.ts", {"audio_languages": ("en", "ita")}, "mpeg2video mp2.eng mp2.ita"),
        ("mpts_8prog_dvb_it.ts", {"audio_languages": ("fin",)}, CAPTURES["mpts_8prog_dvb_it.ts"]),
        ("mpts_8prog_dvb_it.ts", {"program": 3403, "audio_languages": ("ita",)}, "mpeg2video mp2.ita"),
        ("h264_1080i_3eac3_dvbsub.ts", {"audio_languages": ("fra",)}, "h264 eac3.fre"),
    ],
)
async def test_sound_and_program_chosen(name: str, chosen: dict[str, Any], expected: str, media_dir: Path) -> None:
    taken, _ = await take_file(media_dir, name, **chosen)
    assert taken.error == ""
    (tracks,) = taken.announcements
    assert described(tracks) == expected
    assert tracks.program == chosen.get("program", tracks.program)
    came = {sample.track for sample in taken.samples()}
    assert {t.id for t in tracks.of_kind(Kind.AUDIO)} <= came <= {t.id for t in tracks.tracks}


@pytest.mark.parametrize("name", CAPTURES)
async def test_looped_without_a_jump_or_a_new_announcement(name: str, media_dir: Path) -> None:
    once, _ = await take_file(media_dir, name)
    looped, ingest = await take_file(media_dir, name, loop_s=once.span_s() * 2.5)
    assert ingest.status.laps >= 2
    # One whose tracks change on its way announces its first ones again with each lap.
    changes = len({tuple(t.id for t in a.tracks) for a in once.announcements}) > 1
    assert changes or looped.announcements == once.announcements
    assert max(looped.steps_s(Kind.AUDIO)) < max(once.steps_s(Kind.AUDIO)) + 1.5


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("h264_1080i_scrambled_csa.ts", "the source is scrambled (DVB-CSA/CA); it needs a descrambler"),
        ("teletext_announced_but_absent.ts", "the source announces video (h264) and audio (mp2) but sends none"),
        (
            "mpts_8prog_dvb_it.ts#program=9",
            "the source has no program 9; it has 3401, 3402, 3403, 3404, 3405, 3406, 3411, 3410",
        ),
        ("MANIFEST.md", "the source sends text, not video"),
        ("hls_ts_rollover", "hls_ts_rollover is a folder"),
    ],
)
async def test_not_playable(url: str, cause: str, media_dir: Path) -> None:
    taken, _ = await take_file(media_dir, url)
    assert taken.error == cause
    assert not taken.events, "a player that is sent anything can't be told the cause any more"


@pytest.mark.parametrize(("program", "codecs"), [(3401, [Codec.MPEG2VIDEO]), (3410, [Codec.HEVC]), (3405, [])])
async def test_one_program_of_many(program: int, codecs: list[Codec], media_dir: Path) -> None:
    taken, _ = await take_file(media_dir, f"mpts_8prog_dvb_it.ts#program={program}")
    assert [t.codec for t in taken.announcements[-1].of_kind(Kind.VIDEO)] == codecs
    assert {a.program for a in taken.announcements} == {program}


async def test_a_capture_cut_anywhere_goes_on_at_a_keyframe(media_dir: Path) -> None:
    data = (media_dir / "mpeg2_mp2_pcr_own_pid.ts").read_bytes()
    half = len(data) // 2 + 77
    broken = endless(pieces_of(data[:half], 9000), chunked=True, then=close)
    async with ScriptedServer(broken, answer(data[half:])) as server, client_session() as session:
        ingest = Ingest(SourceSpec.parse(server.url), LIMITS, session, Random(1))
        taken = await take(ingest)
    assert taken.error == ""
    assert ingest.status.dropped_samples > 0
    steps = taken.steps_s(Kind.VIDEO)
    join = steps.index(max(steps)) + 1
    assert taken.samples(Kind.VIDEO)[join].keyframe
