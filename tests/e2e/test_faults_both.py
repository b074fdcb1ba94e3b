"""No daemon is left for a moment: the job waits for one to come back, and viewers get every picture once."""

from __future__ import annotations

from pathlib import Path

from tests.bench.faults.rounds import go_on, moved_on, running_job
from tests.bench.faults.stage import make_clips, stage
from tests.bench.faults.verdict import judge
from tests.bench.faults.viewers import watched

AFTER_S = 2.0


async def test_both_daemons_die_at_once(tmp_path: Path) -> None:
    """They come back, as under a supervisor, and find the job waiting for them."""
    with stage(tmp_path, make_clips(tmp_path)) as made:
        made.start_missing()
        made.all_connected()
        async with watched(made.running, [made.new_channel()], "h264") as (one,):
            job = await running_job(one, made)
            for name in made.names:
                made.daemon(name).process.kill()
            for name in made.names:
                made.daemon(name).process.wait()
            made.start_missing()
            assert await moved_on(one, made, job["id"]), one.trouble
            await go_on([one], AFTER_S)
    verdict = judge(one.transcode.received, one.source.received, tmp_path, trouble=one.trouble)
    assert not verdict.lost, verdict.words()
    assert verdict.audio_gaps == verdict.audio_overlaps == 0
