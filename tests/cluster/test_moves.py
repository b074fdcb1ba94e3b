"""Jobs that are moved while they run: promotions, drains, an operator's wish, jobs that do not keep up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cluster.build import attached, capabilities, need, play, starts
from tests.cluster.chaos import random_history
from tvarr.cluster.events import (
    DaemonDetached,
    DrainAsked,
    Event,
    HeartbeatCame,
    Instruction,
    JobAcked,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobSeen,
    JobWanted,
    Lost,
    Move,
    PoolSeen,
    Queued,
    Refuse,
    SessionRefused,
    Start,
    TimePassed,
)
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, Family, MoveKind
from tvarr.cluster.moves import MOVES_AT_ONCE, MOVES_IN_A_HURRY
from tvarr.cluster.state import Settings
from tvarr.cluster.succession import rank_of
from tvarr.errors import ErrorCode

SOFTWARE = capabilities(cpu_count=64)
DRAIN = DrainAsked("a", draining=True)


def gpu(sessions: int = 3) -> Capabilities:
    return capabilities(sessions=sessions)


def running(*names: str, policy: str = "fallback", hw_accel: str = "auto") -> list[Event]:
    wanted = need(policy=policy, hw_accel=hw_accel)
    return [event for name in names for event in (JobWanted(name, wanted), JobAcked(name))]


def successor(of: str, kind: MoveKind, *, to: str = "", policy: str = "fallback", name: str = "") -> JobWanted:
    return JobWanted(name or f"{of}'", need(policy=policy), work=of, replaces=of, move=kind, to=to)


def moved(of: str, kind: MoveKind = MoveKind.DRAIN) -> list[Event]:
    """A move to its end: the successor runs, the old job is over."""
    return [successor(of, kind), JobAcked(f"{of}'"), JobEnded(of)]


def moves(instructions: list[Instruction]) -> list[tuple[str, MoveKind]]:
    return [(i.job_id, i.kind) for i in instructions if isinstance(i, Move)]


def refusal(instructions: list[Instruction]) -> dict[str, str]:
    """The reasons by daemon; the one answer has to be a refusal."""
    (refuse,) = instructions
    assert isinstance(refuse, Refuse)
    return {c.daemon_id: c.reason for c in refuse.refusal.considered}


def where(ledger: Ledger) -> dict[str, str]:
    return {job.id: job.daemon_id for job in ledger.jobs.values()}


# -------------------------------------------------------------------------------------------------- promotions


def test_a_free_session_promotes_the_oldest_that_fell_back_and_only_that() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(1)), *running("1", "2", "3"))
    assert play(ledger, JobEnded("1")) == [Move("2", MoveKind.PROMOTION, "a hardware session is free")]
    assert starts(play(ledger, *moved("2", MoveKind.PROMOTION))) == [("2'", "a")], "on the same daemon too"
    encoders = {job.id: job.placement.encoder.name for job in ledger.jobs.values() if job.placement.encoder}
    assert encoders == {"3": "libx264", "2'": "h264_nvenc"}


def test_a_promotion_that_comes_too_late_is_refused_and_asked_again_when_a_session_frees() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=30))
    play(ledger, attached("a", gpu(1)), *running("1", "2"), JobEnded("1"), *running("4"))
    assert "sessions are taken" in refusal(play(ledger, successor("2", MoveKind.PROMOTION)))["a"]
    assert moves(play(ledger, JobEnded("4"), now=1)) == [("2", MoveKind.PROMOTION)]


def test_a_promotion_that_nobody_carries_out_is_asked_again_after_a_pause() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=20))
    play(ledger, attached("a", gpu(1)), *running("1", "2"))
    assert moves(play(ledger, JobEnded("1"))) == [("2", MoveKind.PROMOTION)]
    assert moves(play(ledger, JobWanted("x", need(hw_accel="none")), JobEnded("x"), now=19)) == []
    assert moves(play(ledger, TimePassed(), now=20)) == [("2", MoveKind.PROMOTION)]


def test_a_session_of_a_daemon_that_was_set_aside_promotes_when_its_time_is_over() -> None:
    ledger = Ledger(settings=Settings(aside_failures=1, aside_s=10, move_pause_s=1e6), unhealthy_after_s=1e6)
    play(ledger, attached("sick", gpu(1)), *running("0"), JobFailed("0", ErrorCode.FFMPEG_EXITED, "it broke"))
    play(ledger, attached("a", gpu(1)), *running("1", "2"), now=1)
    assert [job.placement.fallback for job in ledger.jobs.values()] == [False, True]
    assert moves(play(ledger, TimePassed(), now=9.9)) == []
    assert moves(play(ledger, TimePassed(), now=10)) == [("2", MoveKind.PROMOTION)]


def test_nothing_is_promoted_where_the_setting_says_no() -> None:
    ledger = Ledger(settings=Settings(promote=False))
    assert moves(play(ledger, attached("a", gpu(1)), *running("1", "2"), JobEnded("1"))) == []


def test_a_promotion_is_for_hardware_alone() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), attached("b", SOFTWARE), *running("1"))
    assert refusal(play(ledger, successor("1", MoveKind.PROMOTION)))["b"].endswith("the job wants hardware")


# ------------------------------------------------------------------------------------------------------- drains


def test_a_drain_moves_jobs_away_one_after_another() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), *running("1", "2", "3", "4"), attached("b", SOFTWARE))
    out = play(ledger, DRAIN)
    assert out == [Move(name, MoveKind.DRAIN, "a drains") for name in "12"]
    assert len(out) == MOVES_AT_ONCE
    assert moves(play(ledger, successor("1", MoveKind.DRAIN), JobAcked("1'"))) == []
    assert moves(play(ledger, JobCancelled("1", "moved"))) == [], "it may still be open"
    assert moves(play(ledger, JobEnded("1"))) == [("3", MoveKind.DRAIN)]
    for name, following in (("2", [("4", MoveKind.DRAIN)]), ("3", []), ("4", [])):
        assert moves(play(ledger, *moved(name))) == following
    assert where(ledger) == {f"{name}'": "b" for name in "1234"}


def test_a_job_that_was_just_placed_is_moved_once_it_runs() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), JobWanted("1", need()), attached("b", SOFTWARE))
    assert moves(play(ledger, DRAIN)) == []
    assert moves(play(ledger, JobAcked("1"))) == [("1", MoveKind.DRAIN)]


def test_both_hold_what_they_need_until_the_old_one_ends() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(1)), *running("1"), attached("b", gpu(1)), DRAIN)
    play(ledger, successor("1", MoveKind.DRAIN), JobAcked("1'"))
    held = {d.id: [pool.held for pool in d.pools.values()] for d in ledger.daemons.values()}
    assert held == {"a": [1], "b": [1]}


def test_no_free_session_is_promised_to_two_moves() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(3)), *running("1", "2", "3", hw_accel="nvenc"), attached("b", gpu(1)))
    assert moves(play(ledger, DRAIN)) == [("1", MoveKind.DRAIN)]
    assert moves(play(ledger, successor("1", MoveKind.DRAIN))) == [("2", MoveKind.DRAIN)], "into software by now"
    assert starts(play(ledger, successor("2", MoveKind.DRAIN))) == [("2'", "b")]
    assert ledger.jobs["2'"].in_software


def test_a_daemon_that_ends_soon_is_left_by_more_at_once() -> None:
    ledger = Ledger()
    names = [str(n) for n in range(MOVES_IN_A_HURRY + 2)]
    play(ledger, attached("a", SOFTWARE), *running(*names), attached("b", SOFTWARE))
    out = moves(play(ledger, DrainAsked("a", draining=True, hurry=True)))
    assert [job for job, _ in out] == names[:MOVES_IN_A_HURRY]


def test_what_finds_no_place_stays_until_there_is_one() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(2)), *running("1", "2", policy="reject"))
    assert moves(play(ledger, DRAIN)) == []
    assert moves(play(ledger, attached("b", gpu(1)), now=1)) == [("1", MoveKind.DRAIN)]
    assert starts(play(ledger, successor("1", MoveKind.DRAIN, policy="reject"), now=1)) == [("1'", "b")]
    play(ledger, JobAcked("1'"), JobEnded("1"), now=2)
    assert moves(play(ledger, HeartbeatCame("b", 1, (PoolSeen("nvidia-host", 1, 1),)), now=3)) == []
    assert moves(play(ledger, attached("c", SOFTWARE), now=4)) == [], "the policy wants hardware"
    assert moves(play(ledger, attached("d", gpu(1)), now=5)) == [("2", MoveKind.DRAIN)]


def test_what_found_no_place_is_looked_at_again_though_nothing_became_free() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=20, backoff_s=5))
    play(ledger, attached("b", SOFTWARE), JobWanted("0", need(), work="w"))
    play(ledger, JobFailed("0", ErrorCode.FFMPEG_EXITED, "it broke"), attached("a", SOFTWARE))
    play(ledger, JobWanted("1", need(), work="w"), JobAcked("1"))
    assert where(ledger) == {"1": "a"}
    assert moves(play(ledger, DRAIN, now=1)) == [], "b failed this job a moment ago"
    assert moves(play(ledger, TimePassed(), now=20.9)) == []
    assert ledger.deadline() == pytest.approx(21)
    assert moves(play(ledger, TimePassed(), now=21)) == [("1", MoveKind.DRAIN)]


def test_a_successor_that_fails_gives_the_next_its_turn_and_rests() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=25))
    play(ledger, attached("a", SOFTWARE), *running("1", "2", "3"), attached("b", SOFTWARE), DRAIN)
    play(ledger, successor("1", MoveKind.DRAIN), JobAcked("1'"))
    failed = JobFailed("1'", ErrorCode.BAD_INPUT, "it does not like the input")
    assert moves(play(ledger, failed, now=1)) == [("3", MoveKind.DRAIN)]
    assert where(ledger) == {"1": "a", "2": "a", "3": "a"}
    assert moves(play(ledger, *moved("2"), *moved("3"), now=2)) == []
    assert moves(play(ledger, TimePassed(), now=25)) == []
    assert moves(play(ledger, TimePassed(), now=26)) == [("1", MoveKind.DRAIN)]


def test_a_successor_whose_daemon_goes_away_is_soon_followed_by_another() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=25), unhealthy_after_s=100)
    play(ledger, attached("a", SOFTWARE), *running("1"), attached("b", SOFTWARE), attached("c", SOFTWARE), DRAIN)
    ((_, first),) = starts(play(ledger, successor("1", MoveKind.DRAIN), JobAcked("1'")))
    assert moves(play(ledger, DaemonDetached(first, "1", "killed"), now=1)) == [], "whoever moves it learns of it first"
    assert moves(play(ledger, TimePassed(), now=1.9)) == []
    assert moves(play(ledger, TimePassed(), now=2)) == [("1", MoveKind.DRAIN)]
    ((_, second),) = starts(play(ledger, successor("1", MoveKind.DRAIN, name="1''"), now=2))
    assert {first, second} == {"b", "c"}


def test_a_successor_whose_daemon_falls_silent_is_soon_followed_by_another() -> None:
    ledger = Ledger(settings=Settings(move_pause_s=25), unhealthy_after_s=10)
    play(ledger, attached("a", SOFTWARE), *running("1"), attached("b", SOFTWARE), attached("c", SOFTWARE), DRAIN)
    ((_, first),) = starts(play(ledger, successor("1", MoveKind.DRAIN), JobAcked("1'")))
    play(ledger, *(HeartbeatCame(name) for name in {"a", "b", "c"} - {first}), now=8)
    play(ledger, TimePassed(), now=10)
    assert moves(play(ledger, TimePassed(), now=11)) == [("1", MoveKind.DRAIN)]


def test_an_old_job_that_dies_during_its_move_leaves_the_successor_as_it_is() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), *running("1"), attached("b", SOFTWARE), attached("c", SOFTWARE), DRAIN)
    ((job, daemon),) = starts(play(ledger, successor("1", MoveKind.DRAIN)))
    out = play(ledger, DaemonDetached("a", "1", "killed"), JobAcked(job))
    assert [(type(i), i.job_id) for i in out] == [(Lost, "1")]
    assert moves(play(ledger, DrainAsked(daemon, draining=True))) == [(job, MoveKind.DRAIN)], "a job like any other"


def test_an_active_daemon_keeps_what_it_has() -> None:
    ledger = Ledger(unhealthy_after_s=1e6)
    play(ledger, attached("a", SOFTWARE), *running("1", "2", "3"), attached("b", SOFTWARE), DRAIN)
    out = play(ledger, DrainAsked("a", draining=False), *moved("1"), *moved("2"), TimePassed(), now=100)
    assert moves(out) == []
    assert where(ledger)["3"] == "a"


def test_successors_and_jobs_that_have_one_are_not_moved() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), *running("1"), attached("b", SOFTWARE), attached("c", SOFTWARE))
    play(ledger, successor("1", MoveKind.ASKED, to="b"), JobAcked("1'"))
    both = (DRAIN, DrainAsked("b", draining=True))
    assert moves(play(ledger, *both)) == []
    assert moves(play(ledger, JobEnded("1"))) == [("1'", MoveKind.DRAIN)]


# ------------------------------------------------------------------------------------------- asked for, and slow


def test_an_operators_move_goes_anywhere_else_or_where_it_is_told() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(1)), *running("1"), attached("b", SOFTWARE), attached("c", SOFTWARE))
    assert starts(play(ledger, successor("1", MoveKind.ASKED), JobEnded("1'"))) == [("1'", "b")]
    (start,) = play(ledger, successor("1", MoveKind.ASKED, to="b"), JobEnded("1'"))
    assert isinstance(start, Start)
    reasons = {c.daemon_id: c.reason for c in start.placement.considered}
    assert reasons["c"].endswith("; another daemon was asked for")
    assert refusal(play(ledger, successor("1", MoveKind.ASKED, to="a")))["a"].endswith("; the job is to leave it")
    assert set(refusal(play(ledger, successor("1", MoveKind.ASKED, to="nobody")))) == {"a", "b", "c"}


def test_a_job_that_is_done_otherwise_may_stay_where_it_is_but_keeps_its_hardware() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(2)), attached("b", SOFTWARE), *running("1"))
    assert starts(play(ledger, successor("1", MoveKind.CHANGED), JobEnded("1'"))) == [("1'", "a")]
    play(ledger, *running("2"))
    reasons = refusal(play(ledger, successor("1", MoveKind.CHANGED)))
    assert reasons["b"].endswith("it would do less of the job in hardware")


def test_a_software_job_that_is_done_otherwise_needs_only_room() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), *running("1"))
    assert starts(play(ledger, successor("1", MoveKind.CHANGED))) == [("1'", "a")]


@pytest.mark.parametrize("kind", MoveKind)
@pytest.mark.parametrize("policy", ["fallback", "queue", "reject"])
def test_a_successor_never_waits(kind: MoveKind, policy: str) -> None:
    ledger = Ledger()
    one = capabilities(sessions=1, software=False)
    play(ledger, attached("a", one), attached("b", one), *running("1", "2", policy=policy))
    (waits,) = play(ledger, JobWanted("3", need(policy="queue")))
    assert isinstance(waits, Queued)
    reasons = refusal(play(ledger, successor("1", kind, policy=policy)))
    assert set(reasons) == {"a", "b"}
    assert all(reasons.values())


def test_what_is_gone_or_about_to_be_replaced_gets_no_successor() -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), attached("b", SOFTWARE), *running("1"))
    for event, words in (
        (successor("nothing", MoveKind.ASKED), "gone"),
        (successor("1", MoveKind.ASKED), ""),
        (successor("1", MoveKind.ASKED, name="another"), "being replaced already"),
        (successor("1'", MoveKind.ASKED), "about to replace another"),
    ):
        (answer,) = play(ledger, event)
        assert isinstance(answer, Refuse) == bool(words)
        assert not isinstance(answer, Refuse) or words in answer.refusal.reason


def test_a_successor_that_the_driver_refuses_goes_elsewhere_by_the_same_rule() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(5)), *running("1"), attached("b", gpu(5)))
    play(ledger, attached("c", capabilities(cpu_count=4)), successor("1", MoveKind.ASKED))
    assert starts(play(ledger, SessionRefused("1'"), JobEnded("1'"))) == [("1'", "c")], "never back to a"
    play(ledger, successor("1", MoveKind.ASKED, to="b"))
    assert ledger.jobs["1'"].in_software, "what was learned of b holds"


def slow(daemon: str, *jobs: str, speed: float = 0.5, sequence: int = 1) -> HeartbeatCame:
    return HeartbeatCame(daemon, sequence, (), tuple(JobSeen(job, speed, 30.0) for job in jobs))


def test_a_slow_job_moves_only_where_it_is_better_off() -> None:
    ledger = Ledger()
    busy = capabilities(cpu_count=1)
    play(ledger, attached("a", busy), *running("1"), attached("sick", SOFTWARE), attached("busy", busy))
    play(ledger, *running("2"), now=1)
    assert where(ledger)["2"] == "sick"
    play(ledger, attached("b", busy), *running("3", "4", hw_accel="none"), now=1)
    play(ledger, slow("a", "1"), slow("sick", "2"), now=40)
    for job in ("3", "4"):
        play(ledger, JobEnded(job), now=41)
    huge = need(track=replace(need().targets[0].track, width=3840, height=2160, fps=50.0))
    wanted = JobWanted("1'", huge, work="1", replaces="1", move=MoveKind.SLOW)
    reasons = refusal(play(ledger, wanted, now=41))
    assert "the job runs there, too slowly" in reasons["a"]
    assert "its own jobs run at 0.50 of real time" in reasons["sick"]
    assert "its processors have no room" in reasons["busy"]
    play(ledger, attached("large", SOFTWARE), now=42)
    assert starts(play(ledger, wanted, now=42)) == [("1'", "large")]


@pytest.mark.parametrize(("speed", "words"), [(0.89, "its own jobs run at 0.89 of real time"), (0.9, "")])
def test_a_slow_job_goes_to_no_daemon_whose_own_jobs_are_late(speed: float, words: str) -> None:
    ledger = Ledger()
    play(ledger, attached("a", SOFTWARE), *running("1"), attached("b", SOFTWARE), *running("2"))
    play(ledger, slow("b", "2", speed=speed), now=40)
    answer = play(ledger, successor("1", MoveKind.SLOW), now=40)
    assert (words in refusal(answer)["b"]) if words else starts(answer) == [("1'", "b")]


def test_a_slow_job_needs_as_many_processors_as_its_work_costs_there() -> None:
    ledger = Ledger()
    play(ledger, attached("a", capabilities(cpu_count=1)), *running("1"), attached("b", capabilities(cpu_count=4)))
    cost = ledger.jobs["1"].placement.cost_cores
    for factor, start in ((4 / cost, True), (4.01 / cost, False)):
        ledger.daemons["b"].cost_factor = factor
        ledger.cluster.touch(ledger.daemons["b"])
        answer = play(ledger, successor("1", MoveKind.SLOW), JobEnded("1'"))
        assert bool(starts(answer)) == start


def test_a_slow_job_does_not_leave_hardware_for_software() -> None:
    ledger = Ledger()
    play(ledger, attached("a", gpu(3)), *running("1"), attached("b", SOFTWARE), now=0)
    assert "less of the job in hardware" in refusal(play(ledger, successor("1", MoveKind.SLOW)))["b"]
    half = attached("half", capabilities(sessions=3, hwaccels=()))
    assert "less of the job in hardware" in refusal(play(ledger, half, successor("1", MoveKind.SLOW)))["half"]
    encoded = Ledger()
    play(encoded, half, *running("1"), attached("b", SOFTWARE), now=0)
    assert "less of the job in hardware" in refusal(play(encoded, successor("1", MoveKind.SLOW)))["b"]


# ------------------------------------------------------------------------------------------------ whatever happens


@pytest.mark.parametrize("seed", range(10, 14))
def test_every_successor_goes_where_its_kind_allows(seed: int) -> None:
    placed = 0
    for ledger, event, instructions, _, before in random_history(seed, 6_000, every=50):
        if not isinstance(event, JobWanted) or event.move is None:
            continue
        answer = instructions[0]
        assert isinstance(answer, Start | Refuse)
        if not isinstance(answer, Start):
            continue
        placed += 1
        assert event.replaces in before
        old, new = ledger.jobs[event.replaces], ledger.jobs[event.job_id]
        assert not event.to or new.daemon_id == event.to
        if event.move is MoveKind.PROMOTION:
            assert new.placement.encoder is not None
            assert new.placement.encoder.family is not Family.SOFTWARE
        elif event.move is not MoveKind.CHANGED:
            assert new.daemon_id != old.daemon_id
        if event.move in {MoveKind.SLOW, MoveKind.CHANGED}:
            assert rank_of(new.placement) <= rank_of(old.placement)
    assert placed > 30
