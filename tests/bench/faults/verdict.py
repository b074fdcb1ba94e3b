"""What a viewer of a transcode lost, by comparison with what a viewer of the source's own pictures got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.bench.faults.received import Pes, Received
from tests.clips import decode_errors


@dataclass(slots=True)
class Verdict:
    """Of one transcode over the time that both viewers watched; times in seconds, picture counts."""

    pictures: int = 0
    seconds: float = 0.0
    missing: list[int] = field(default_factory=list)  # PTS
    repeated: list[int] = field(default_factory=list)
    invented: list[int] = field(default_factory=list)  # PTS that the source does not have
    dts_steps_back: int = 0
    continuity_errors: list[str] = field(default_factory=list)
    signalled: int = 0  # discontinuity indicators
    decode_errors: list[str] = field(default_factory=list)
    audio_gaps: int = 0
    audio_overlaps: int = 0
    reordered: int = 0  # pictures with PTS > DTS
    normal_s: float = 0.0  # between arrivals of video
    pause_s: float = 0.0  # the longest such time around the fault, without the normal one
    source_pause_s: float = 0.0  # the same of the viewer of the source's pictures, whom no daemon serves
    trouble: str = ""  # why the stream ended or did not go on

    @property
    def lost(self) -> bool:
        """Whether viewers did not get each picture once, in a stream that is in order."""
        wrong = self.missing or self.repeated or self.invented or self.continuity_errors or self.decode_errors
        return bool(wrong or self.dts_steps_back or self.trouble)

    def words(self) -> str:
        parts = [
            f"{name} {value if isinstance(value, int) else len(value)}"
            for name, value in (
                ("missing", self.missing),
                ("repeated", self.repeated),
                ("invented", self.invented),
                ("DTS back", self.dts_steps_back),
                ("continuity", self.continuity_errors),
                ("decoder", self.decode_errors),
                ("audio gaps", self.audio_gaps),
                ("audio overlaps", self.audio_overlaps),
            )
            if value
        ]
        parts += [self.trouble] if self.trouble else []
        return ", ".join(parts) or "nothing lost"


def judge(
    transcoded: Received, source: Received, folder: Path, *, struck_at: Sequence[float] = (), trouble: str = ""
) -> Verdict:
    """Compares two viewers of one relay; `struck_at` are the moments of faults.

    Pictures are compared up to the last DTS that both have: what comes later has a greater PTS.
    """
    verdict = Verdict(trouble=trouble)
    mine, theirs = transcoded.video, source.video
    if not mine or not theirs:
        verdict.trouble = verdict.trouble or "no picture came"
        return verdict
    first = max(mine[0].pts, theirs[0].pts)
    last = min(mine[-1].dts, theirs[-1].dts)
    got = [pes.pts for pes in mine if first <= pes.pts <= last]
    wanted = {pes.pts for pes in theirs if first <= pes.pts <= last}
    verdict.pictures = len(wanted)
    verdict.seconds = (last - first) / 90_000
    verdict.missing = sorted(wanted - set(got))
    verdict.invented = sorted(set(got) - wanted)
    verdict.repeated = sorted(pts for pts, count in Counter(got).items() if count > 1)
    verdict.dts_steps_back = sum(later.dts <= earlier.dts for earlier, later in pairwise(mine))
    verdict.reordered = sum(pes.pts > pes.dts for pes in mine)
    verdict.continuity_errors = list(transcoded.continuity_errors)
    if transcoded.sync_errors:
        verdict.continuity_errors.append(f"{transcoded.sync_errors} packets without a sync byte")
    verdict.signalled = transcoded.signalled
    for heard in transcoded.of_kind("audio"):
        gaps, overlaps = audio_steps(heard)
        verdict.audio_gaps += gaps
        verdict.audio_overlaps += overlaps
    verdict.normal_s, verdict.pause_s = pauses(transcoded.video_arrivals, struck_at)
    verdict.source_pause_s = pauses(source.video_arrivals, struck_at)[1]
    verdict.decode_errors = decode_errors(transcoded.save(folder / "received.ts"), max(120.0, verdict.seconds))
    return verdict


def audio_steps(heard: Sequence[Pes]) -> tuple[int, int]:
    """Steps of more than 1.5 and of less than 0.5 frames; most of the steps are of one."""
    steps = [later.pts - earlier.pts for earlier, later in pairwise(heard)]
    frame = median(steps) if steps else 0
    return sum(step > 1.5 * frame for step in steps), sum(step < 0.5 * frame for step in steps)


def pauses(arrivals: Sequence[float], struck_at: Sequence[float]) -> tuple[float, float]:
    """The normal time between arrivals (the median), and how much longer the longest was after the first fault."""
    intervals = [later - earlier for earlier, later in pairwise(arrivals)]
    normal = median(intervals) if intervals else 0.0
    since = min(struck_at, default=float("inf"))
    after = [later - earlier for earlier, later in pairwise(arrivals) if later >= since]
    return normal, max(0.0, max(after, default=0.0) - normal)
