"""What happens to daemons and jobs, event by event; the invariants hold after each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.build import attached as host
from tests.cluster.build import capabilities, need, play, starts
from tests.cluster.chaos import random_history
from tests.cluster.simulation import run
from tvarr.cluster import placing
from tvarr.cluster.events import (
    Cancel,
    CapabilitiesCame,
    DaemonAttached,
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
    PoolSeen,
    Queued,
    QueueTimedOut,
    Refuse,
    SessionRefused,
    Start,
    TimePassed,
)
from tvarr.cluster.fit import Make
from tvarr.cluster.ledger import Ledger
from tvarr.cluster.model import Capabilities, Encoder, Family, LimitSource, MoveKind, Need, RefusalKind, Target
from tvarr.cluster.policy import choose
from tvarr.cluster.pools import RECENT_S
from tvarr.cluster.presence import FORGET_AFTER_S
from tvarr.cluster.state import DaemonState, Settings
from tvarr.cluster.trust import MAX_BACKOFFS
from tvarr.errors import ErrorCode
from tvarr.media.model import Codec, Track

X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
NEED = Need((Target(Track(1, Codec.H264), Codec.H264),))


def attached(name: str, *, instance: str = "1", slots: int = 2, jobs: frozenset[str] = frozenset()) -> DaemonAttached:
    capabilities = Capabilities(encoders=(X264,), max_jobs=slots, max_cpu_jobs=slots)
    return DaemonAttached(name, instance, name, "machine", "0.1.0", capabilities, jobs)


def test_jobs_go_to_the_first_with_room_and_then_nowhere() -> None:
    ledger = Ledger()
    out = play(ledger, attached("a", slots=1), attached("b", slots=1), *(JobWanted(f"j{i}", NEED) for i in range(3)))
    assert starts(out) == [("j0", "a"), ("j1", "b")]
    refusal = out[-1]
    assert isinstance(refusal, Refuse)
    assert [c.reason for c in refusal.refusal.considered] == ["all of its 1 job slots are taken"] * 2
    assert starts(play(ledger, JobEnded("j0"), JobWanted("j3", NEED))) == [("j3", "a")]


def test_a_daemon_that_goes_loses_its_jobs() -> None:
    ledger = Ledger()
    play(ledger, attached("a"), JobWanted("j", NEED), JobAcked("j"))
    assert play(ledger, DaemonDetached("a", "1", "its stream ended")) == [
        Lost("j", ErrorCode.CONNECTION_LOST, "a: its stream ended")
    ]
    assert ledger.daemons["a"].state is DaemonState.DISCONNECTED
    assert isinstance(play(ledger, JobWanted("j", NEED))[0], Refuse)


def test_the_end_of_a_replaced_stream_says_nothing_of_the_new_one() -> None:
    ledger = Ledger()
    play(ledger, attached("a", instance="1"), attached("a", instance="2"), JobWanted("j", NEED))
    assert play(ledger, DaemonDetached("a", "1", "old")) == []
    assert ledger.daemons["a"].state is DaemonState.CONNECTED


def test_a_daemon_that_registers_again_keeps_the_jobs_it_still_has() -> None:
    ledger = Ledger()
    play(ledger, attached("a"), JobWanted("kept", NEED), JobWanted("gone", NEED))
    out = play(ledger, attached("a", jobs=frozenset({"kept", "unknown"})))
    assert out == [
        Lost("gone", ErrorCode.CONNECTION_LOST, "a came back without the job"),
        Cancel("a", "unknown", "the coordinator does not know this job"),
    ]
    assert set(ledger.jobs) == {"kept"}


def test_another_process_has_none_of_the_jobs() -> None:
    ledger = Ledger()
    play(ledger, attached("a", instance="1"), JobWanted("j", NEED))
    out = play(ledger, attached("a", instance="2", jobs=frozenset({"j"})))
    assert [type(i) for i in out] == [Lost, Cancel]


def test_silence_makes_unhealthy_and_a_heartbeat_heals() -> None:
    ledger = Ledger(unhealthy_after_s=30)
    play(ledger, attached("a"), JobWanted("j", NEED))
    assert ledger.deadline() == pytest.approx(30)
    assert play(ledger, TimePassed(), now=29.9) == []
    play(ledger, HeartbeatCame("a"), now=29.9)
    lost = play(ledger, TimePassed(), now=60)
    assert [type(i) for i in lost] == [Lost]
    assert ledger.daemons["a"].state is DaemonState.UNHEALTHY
    assert isinstance(play(ledger, JobWanted("j", NEED), now=60)[0], Refuse)
    play(ledger, HeartbeatCame("a"), now=61)
    assert starts(play(ledger, JobWanted("j", NEED), now=61)) == [("j", "a")]


def test_a_draining_daemon_gets_nothing_new() -> None:
    ledger = Ledger()
    play(ledger, attached("a"), attached("b"), JobWanted("j", NEED), DrainAsked("a", draining=True))
    assert "j" in ledger.jobs
    assert starts(play(ledger, JobWanted("k", NEED))) == [("k", "b")]
    assert starts(play(ledger, DrainAsked("a", draining=False), JobWanted("l", NEED))) == [("l", "a")]


def test_a_daemon_that_was_drained_before_gets_nothing_new() -> None:
    ledger = Ledger()
    assert not starts(play(ledger, replace(attached("a"), draining=True), JobWanted("j", NEED)))
    assert starts(play(ledger, DrainAsked("a", draining=False), JobWanted("k", NEED))) == [("k", "a")]
    play(ledger, DaemonDetached("a", "1", "gone"), replace(attached("a"), draining=True))
    assert not ledger.daemons["a"].draining


def test_a_daemon_long_gone_is_forgotten() -> None:
    ledger = Ledger()
    play(ledger, attached("a"), DaemonDetached("a", "1", "bye"))
    play(ledger, TimePassed(), now=FORGET_AFTER_S)
    assert ledger.daemons == {}
    assert ledger.deadline() is None


def test_an_id_is_free_for_the_same_process_and_for_nobody_else_while_it_lives() -> None:
    ledger = Ledger()
    assert ledger.free_id("a", "1")
    play(ledger, attached("a", instance="1"))
    assert ledger.free_id("a", "1")
    assert not ledger.free_id("a", "2")
    play(ledger, DaemonDetached("a", "1", "bye"))
    assert ledger.free_id("a", "2")


# ------------------------------------------------------------------------------------------------------ sessions


def gpu_host(limit: int = 3, **more: object) -> Capabilities:
    return capabilities(sessions=limit, **more)  # type: ignore[arg-type]


def wanted(*names: str, policy: str = "fallback", priority: int = 0) -> list[Event]:
    """Jobs that are wanted and confirmed at once."""
    events: list[Event] = []
    for name in names:
        events += [JobWanted(name, need(policy=policy, priority=priority)), JobAcked(name)]
    return events


def ways(ledger: Ledger) -> dict[str, str]:
    """What encodes each job."""
    return {job.id: job.placement.encoder.name for job in ledger.jobs.values() if job.placement.encoder}


def pool_of(ledger: Ledger, daemon: str = "a") -> tuple[int | None, LimitSource, int, int, int | None]:
    """Limit, its source, ours, others', free."""
    (pool,) = ledger.daemons[daemon].pools.values()
    return pool.limit, pool.source, pool.held, pool.foreign, pool.free


def beat(
    daemon: str = "a",
    sequence: int | None = None,
    *,
    active: int = 0,
    own: int = 0,
    jobs: tuple[str, ...] | None = None,
) -> HeartbeatCame:
    seen = None if jobs is None else tuple(JobSeen(job, 1.0, 20.0) for job in jobs)
    return HeartbeatCame(daemon, sequence, (PoolSeen("nvidia-host", active, own),), seen)


@pytest.mark.parametrize(
    ("policy", "answers", "hardware"),
    [
        pytest.param("fallback", [Start] * 5, 3, id="fallback"),
        pytest.param("queue", [Start] * 3 + [Queued] * 2, 3, id="queue"),
        pytest.param("reject", [Start] * 3 + [Refuse] * 2, 3, id="reject"),
    ],
)
def test_five_jobs_on_a_limit_of_three(policy: str, answers: list[type], hardware: int) -> None:
    ledger = Ledger()
    out = play(ledger, host("a", gpu_host(3)), *wanted("1", "2", "3", "4", "5", policy=policy))
    assert [type(i) for i in out] == answers
    assert list(ways(ledger).values()).count("h264_nvenc") == hardware
    assert [i.placement.fallback for i in out if isinstance(i, Start)][3:] == [True] * (len(ledger.jobs) - 3)


def test_daemons_of_one_host_share_its_pool() -> None:
    ledger = Ledger()
    both = (host("a", gpu_host(3), machine="m"), host("b", gpu_host(3), machine="m"))
    out = play(ledger, *both, *wanted("1", "2", "3", "4", policy="reject"))
    assert [type(i) for i in out] == [Start, Start, Start, Refuse]
    assert {job.daemon_id for job in ledger.jobs.values()} == {"a", "b"}
    assert ledger.daemons["a"].pools["nvidia-host"] is ledger.daemons["b"].pools["nvidia-host"]


def test_an_override_counts_before_a_lower_table_of_another_daemon() -> None:
    ledger = Ledger()
    override = gpu_host(8, source=LimitSource.OVERRIDE)
    play(ledger, host("a", gpu_host(3), machine="m"), host("b", override, machine="m"))
    assert pool_of(ledger)[:2] == (8, LimitSource.OVERRIDE)
    play(ledger, DaemonDetached("b", "1", "bye"))
    assert pool_of(ledger)[:2] == (3, LimitSource.DRIVER_TABLE)


def test_jobs_on_a_daemon_are_those_that_are_wanted_and_oldest_first() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(3)), *wanted("2", "1", "3"), JobCancelled("1", "nobody watches"))
    assert [job.id for job in ledger.jobs_on("a")] == ["2", "3"]
    assert ledger.jobs_on("b") == []


def test_an_observation_never_frees_what_is_reserved() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(3)), *wanted("1", "2"), JobWanted("3", need()))
    play(ledger, beat(sequence=5, active=0, own=0, jobs=()))
    assert pool_of(ledger)[2:] == (3, 0, 0)


def test_sessions_of_other_programs_lower_what_is_free() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(5)), *wanted("1"), beat(sequence=1, active=3, own=1))
    assert pool_of(ledger)[2:] == (1, 2, 2)
    play(ledger, beat(sequence=3, active=2, own=1), beat(sequence=2, active=5, own=1))
    assert pool_of(ledger)[2:] == (1, 1, 3), "the late heartbeat counts no more"


def test_what_a_daemon_runs_for_others_counts_as_foreign() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(5)), *wanted("1"), beat(active=3, own=3))
    assert pool_of(ledger)[2:] == (1, 2, 2)


def test_a_session_that_ended_a_moment_ago_is_not_foreign_and_later_one_is() -> None:
    """A heartbeat may have counted it still. What is open long after is another one, which the daemon opened itself."""
    for later_s, foreign in ((RECENT_S, 0), (RECENT_S + 1, 1)):
        ledger = Ledger()
        play(ledger, host("a", gpu_host(5)), *wanted("1"), JobEnded("1"))
        play(ledger, beat(active=1, own=1), now=later_s)
        assert pool_of(ledger)[2:] == (0, foreign, 5 - foreign)


def test_what_a_sibling_has_ended_hides_nothing() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(5), machine="m"), host("b", gpu_host(5), machine="m"), *wanted("1"))
    (job,) = ledger.jobs.values()
    other = ({"a", "b"} - {job.daemon_id}).pop()
    play(ledger, beat(job.daemon_id, active=1, own=1), JobEnded("1"), beat(other, active=1, own=0))
    assert pool_of(ledger)[2:] == (0, 1, 4)


def test_the_sessions_of_a_sibling_are_not_foreign() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(5), machine="m"), host("b", gpu_host(5), machine="m"), *wanted("1", "2"))
    play(ledger, beat("a", active=2, own=1), beat("b", active=2, own=1))
    assert pool_of(ledger)[2:] == (2, 0, 3)


def test_a_cancelled_job_holds_its_session_until_it_is_over() -> None:
    for over in (JobEnded("1"), beat(sequence=2, jobs=())):
        ledger = Ledger()
        play(ledger, host("a", gpu_host(1)), *wanted("1"), beat(sequence=1, active=1, own=1, jobs=("1",)))
        assert play(ledger, JobCancelled("1", "bye")) == [Cancel("a", "1", "bye")]
        assert pool_of(ledger)[4] == 0
        assert [type(i) for i in play(ledger, JobWanted("2", need(policy="reject")))] == [Refuse]
        play(ledger, over)
        assert pool_of(ledger)[4] == 1


def test_a_heartbeat_older_than_a_job_does_not_end_it() -> None:
    ledger = Ledger(settings=Settings(close_within_s=10))
    play(ledger, host("a", gpu_host(1)), *wanted("1"), JobCancelled("1", "bye"), beat(sequence=1, jobs=()))
    assert pool_of(ledger)[4] == 0
    assert ledger.deadline() == pytest.approx(10)
    play(ledger, TimePassed(), now=10)
    assert pool_of(ledger)[4] == 1


def test_no_ack_in_time_is_a_loss() -> None:
    ledger = Ledger(settings=Settings(ack_within_s=20))
    play(ledger, host("a", gpu_host(1)), JobWanted("1", need()))
    assert ledger.deadline() == pytest.approx(20)
    out = play(ledger, TimePassed(), now=20)
    assert [type(i) for i in out] == [Cancel, Lost]
    assert ledger.jobs == {}


def test_a_daemon_that_comes_back_still_holds_what_it_runs() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)), *wanted("1"), DaemonDetached("a", "1", "bye"))
    out = play(ledger, host("a", gpu_host(1), jobs=frozenset({"1"})), now=1)
    assert out == [Cancel("a", "1", "nobody wants it any more")]
    assert pool_of(ledger)[4] == 0
    play(ledger, JobEnded("1"), now=2)
    assert pool_of(ledger)[4] == 1


def test_also_when_it_comes_back_late() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)), *wanted("1"), DaemonDetached("a", "1", "bye"))
    play(ledger, TimePassed(), now=11)
    assert not ledger.cluster.closing
    out = play(ledger, host("a", gpu_host(1), jobs=frozenset({"1"})), now=12)
    assert out == [Cancel("a", "1", "nobody wants it any more")]
    assert pool_of(ledger)[4] == 0


# ------------------------------------------------------------------------------------------------------ learning


def test_a_refused_session_is_learned_and_the_job_placed_again_at_once() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(5)), *wanted("1", "2", "3"), JobWanted("4", need()))
    (start,) = play(ledger, SessionRefused("4"))
    assert isinstance(start, Start)
    assert start.job_id == "4"
    assert start.placement.fallback
    assert pool_of(ledger) == (3, LimitSource.LEARNED, 3, 0, 0)
    assert "refused a session beside 3; before: 5 (driver 550.54)" in ledger.daemons["a"].pools["nvidia-host"].detail


def test_sessions_of_other_programs_are_part_of_what_is_learned() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(8)), beat(active=2), *wanted("1"), JobWanted("2", need()), SessionRefused("2"))
    assert pool_of(ledger) == (3, LimitSource.LEARNED, 1, 2, 0)
    play(ledger, beat(active=1, own=1))
    assert pool_of(ledger) == (3, LimitSource.LEARNED, 1, 0, 2)


def test_the_refused_job_goes_to_another_gpu_and_keeps_its_turn() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(8)), host("b", gpu_host(8)), *wanted("1"), JobWanted("2", need(policy="queue")))
    other = ledger.jobs["2"].daemon_id
    assert starts(play(ledger, SessionRefused("2"))) == [("2", "a" if other == "b" else "b")]


def test_sessions_that_run_raise_what_was_learned_too_low() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(8)), *wanted("1"), JobWanted("2", need()), JobWanted("3", need()))
    play(ledger, SessionRefused("3"))
    assert pool_of(ledger)[0] == 1
    play(ledger, JobAcked("2"))
    assert pool_of(ledger)[0] == 2
    play(ledger, beat(active=4, own=2))
    assert pool_of(ledger) == (4, LimitSource.LEARNED, 2, 2, 0)


def test_a_learned_limit_is_doubted_after_a_time_one_session_at_a_time() -> None:
    ledger = Ledger(settings=Settings(relearn_after_s=100, promote=False), unhealthy_after_s=1e6)
    play(ledger, host("a", gpu_host(8)), *wanted("1", "2"), JobWanted("3", need()), SessionRefused("3"))
    assert pool_of(ledger)[0] == 2
    play(ledger, JobEnded("3"), TimePassed(), now=100)
    assert pool_of(ledger)[:2] == (3, LimitSource.LEARNED)
    play(ledger, *wanted("4"), now=101)
    assert pool_of(ledger)[0] == 4, "it worked, so one more may"
    play(ledger, JobWanted("5", need()), SessionRefused("5"), now=102)
    assert pool_of(ledger)[0] == 3
    play(ledger, TimePassed(), now=201)
    assert pool_of(ledger)[0] == 3
    play(ledger, TimePassed(), now=202)
    assert pool_of(ledger)[0] == 4
    play(ledger, TimePassed(), now=301)
    assert pool_of(ledger)[0] == 4, "one more again after as long, whether it was tried or not"
    play(ledger, TimePassed(), now=302)
    assert pool_of(ledger)[0] == 5


def test_a_job_that_waits_tries_the_session_that_is_doubted() -> None:
    ledger = Ledger(settings=Settings(relearn_after_s=100, queue_timeout_s=1000), unhealthy_after_s=1e6)
    play(ledger, host("a", gpu_host(8)), *wanted("1"), JobWanted("2", need(policy="queue")), SessionRefused("2"))
    assert ledger.position("2") == 1
    assert starts(play(ledger, TimePassed(), now=100)) == [("2", "a")]


def test_another_driver_forgets_what_was_learned() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(8)), JobWanted("1", need()), SessionRefused("1"))
    assert pool_of(ledger)[:2] == (0, LimitSource.LEARNED)
    play(ledger, CapabilitiesCame("a", gpu_host(8)))
    assert pool_of(ledger)[:2] == (0, LimitSource.LEARNED)
    play(ledger, CapabilitiesCame("a", gpu_host(8, driver="590.1")))
    assert pool_of(ledger)[:2] == (8, LimitSource.DRIVER_TABLE)


# --------------------------------------------------------------------------------------------------- the queue


def test_a_freed_session_starts_the_next_of_the_highest_priority() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)), *wanted("1", policy="queue"))
    play(ledger, *wanted("2", "3", policy="queue"), *wanted("4", policy="queue", priority=1), now=1)
    assert [entry.job_id for entry in ledger.waiting()] == ["4", "2", "3"]
    assert [ledger.position(name) for name in "1234"] == [0, 2, 3, 1]
    for before, after in (("1", "4"), ("4", "2"), ("2", "3")):
        assert starts(play(ledger, JobEnded(before), now=5)) == [(after, "a")]
    assert not ledger.waiting()


def test_a_job_that_the_driver_refuses_waits_in_front_of_those_that_were_wanted_later() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(2)), *wanted("1", "2", policy="queue"))
    play(ledger, *(JobWanted(name, need(policy="queue")) for name in "345"))
    assert starts(play(ledger, JobEnded("1"))) == [("3", "a")]
    (queued,) = play(ledger, SessionRefused("3"))
    assert isinstance(queued, Queued)
    assert queued.position == 1
    assert [entry.job_id for entry in ledger.waiting()] == ["3", "4", "5"]
    known = ledger.waiting_for("3")
    assert known is not None
    assert (known.since, known.reason) == (0, queued.reason)
    assert ledger.waiting_for("2") is None


def test_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MAX_WAITING", 2)
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)))
    answers = play(ledger, *(JobWanted(name, need(policy="queue")) for name in "1234"))
    assert [type(answer) for answer in answers] == [Start, Queued, Queued, Refuse]
    refused = answers[-1]
    assert isinstance(refused, Refuse)
    assert (refused.refusal.reason, refused.refusal.kind) == ("the queue is full", RefusalKind.EXHAUSTED)


def test_waiting_ends_in_time_or_when_nobody_wants_it() -> None:
    ledger = Ledger(settings=Settings(queue_timeout_s=30))
    play(ledger, host("a", gpu_host(1)), *wanted("1", "2", "3", policy="queue"), JobEnded("2"))
    assert [entry.job_id for entry in ledger.waiting()] == ["3"]
    (out,) = (i for i in play(ledger, beat(), TimePassed(), now=30) if isinstance(i, QueueTimedOut))
    assert (out.job_id, out.waited_s) == ("3", 30)
    assert [c.daemon_id for c in out.considered] == ["a"]
    assert not ledger.waiting()


def test_a_daemon_that_joins_serves_the_queue() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)), *wanted("1", "2", policy="queue"))
    assert starts(play(ledger, host("b", gpu_host(1)))) == [("2", "b")]


def test_a_daemon_that_is_active_again_serves_the_queue() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(1)), host("b", gpu_host(1)), DrainAsked("b", draining=True))
    play(ledger, *wanted("1", "2", policy="queue"))
    assert starts(play(ledger, DrainAsked("b", draining=False))) == [("2", "b")]


def test_sessions_that_another_program_gives_back_serve_the_queue() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(2)), beat(active=2))
    assert [type(i) for i in play(ledger, *wanted("1", policy="queue"))] == [Queued]
    assert starts(play(ledger, beat(active=1))) == [("1", "a")]


# ------------------------------------------------------------------------------------- nobody left who could do it


def test_who_waits_for_a_daemon_that_does_not_come_back_is_refused_after_a_grace() -> None:
    ledger = Ledger(settings=Settings(lonely_s=5, queue_timeout_s=30))
    play(ledger, host("a", gpu_host(1)), *wanted("1", "2", "3", policy="queue"))
    assert [type(i) for i in play(ledger, DaemonDetached("a", "1", "bye"), now=1)] == [Lost]
    assert play(ledger, TimePassed(), now=5.9) == []
    assert ledger.deadline() == pytest.approx(6)
    refused = play(ledger, TimePassed(), now=6)
    assert [(type(i), i.job_id) for i in refused] == [(Refuse, "2"), (Refuse, "3")]  # type: ignore[union-attr]
    assert isinstance(refused[0], Refuse)
    assert refused[0].refusal.kind is RefusalKind.NO_DAEMON
    assert not ledger.waiting()


def test_who_waits_goes_on_waiting_where_the_daemon_merely_reconnects() -> None:
    ledger = Ledger(settings=Settings(lonely_s=5, queue_timeout_s=30, close_within_s=1))
    play(ledger, host("a", gpu_host(1)), *wanted("1", "2", policy="queue"), DaemonDetached("a", "1", "bye"))
    play(ledger, host("a", gpu_host(1), jobs=frozenset({"1"})), now=4.9)
    assert ledger.position("2") == 1
    assert starts(play(ledger, TimePassed(), now=6)) == [("2", "a")], "the session that nobody closed is free by then"


@pytest.mark.parametrize("leave", [DrainAsked("a", True), CapabilitiesCame("a", Capabilities())])
def test_also_where_the_last_who_could_do_it_stays_but_does_not_any_more(leave: Event) -> None:
    ledger = Ledger(settings=Settings(lonely_s=5))
    play(ledger, host("a", gpu_host(1)), host("b", Capabilities()), *wanted("1", "2", policy="queue"), leave)
    out = play(ledger, TimePassed(), now=5)
    assert [type(i) for i in out] == [Refuse]
    assert not ledger.waiting()


# ------------------------------------------------------------------------------------------- failures of daemons


def test_a_failure_that_nobody_said_cancels_and_keeps_its_place_taken() -> None:
    ledger = Ledger()
    play(ledger, attached("a", slots=1), JobWanted("j1", NEED), JobAcked("j1"))
    queued = Need(NEED.targets, policy="queue")
    broken = JobFailed("j1", ErrorCode.CONNECTION_LOST, "its stream broke", ended=False)
    out = play(ledger, JobWanted("j2", queued), broken, broken)
    assert out[1:] == [Cancel("a", "j1", "its stream broke")]
    assert ledger.jobs == {}
    assert ledger.position("j2") == 1
    assert ledger.cluster.backoffs["j1"]["a"].failures == 1
    assert starts(play(ledger, JobEnded("j1"))) == [("j2", "a")]


def test_a_failed_daemon_is_left_out_for_that_work_and_longer_each_time() -> None:
    ledger = Ledger(settings=Settings(backoff_s=2))
    play(ledger, host("a"), JobWanted("1", need(), work="w"), JobFailed("1", ErrorCode.FFMPEG_EXITED, "it broke"))
    (queued,) = play(ledger, JobWanted("2", need(), work="w"), now=1)
    assert isinstance(queued, Queued)
    assert "failed this job (ffmpeg_exited: it broke); not tried again for 1.0 s" in queued.considered[0].reason
    assert starts(play(ledger, JobWanted("3", need(), work="other"), now=1)) == [("3", "a")]
    assert starts(play(ledger, TimePassed(), now=2)) == [("2", "a")]
    play(ledger, JobFailed("2", ErrorCode.FFMPEG_EXITED, "it broke"), JobWanted("4", need(), work="w"), now=2)
    assert play(ledger, TimePassed(), now=5) == []
    assert starts(play(ledger, TimePassed(), now=6)) == [("4", "a")]


@pytest.mark.parametrize(("ran_s", "pause_s"), [(4.9, 4), (5, 2)])
def test_a_job_that_ran_well_before_it_failed_is_not_kept_away_for_longer(ran_s: float, pause_s: float) -> None:
    ledger = Ledger(settings=Settings(backoff_s=2, went_well_after_s=5))
    play(ledger, host("a"), JobWanted("1", need(), work="w"), JobFailed("1", ErrorCode.FFMPEG_EXITED, "it broke"))
    play(ledger, JobWanted("2", need(), work="w"), JobAcked("2"), now=20)
    now = 20 + ran_s
    play(ledger, JobFailed("2", ErrorCode.FFMPEG_EXITED, "it broke"), JobWanted("3", need(), work="w"), now=now)
    assert ledger.deadline() == pytest.approx(now + pause_s)
    assert play(ledger, TimePassed(), now=now + pause_s - 0.1) == []
    assert starts(play(ledger, TimePassed(), now=now + pause_s)) == [("3", "a")]


def test_failures_are_forgotten_long_after_and_when_there_are_too_many() -> None:
    ledger = Ledger(settings=Settings(backoff_s=2, aside_failures=1_000_000), unhealthy_after_s=1e6)
    play(ledger, host("a"))
    fail(ledger, "1", now=0)
    fail(ledger, "2", now=1)
    play(ledger, TimePassed(), now=2 + FORGET_AFTER_S)
    assert list(ledger.cluster.backoffs) == ["1", "2"]
    play(ledger, TimePassed(), now=2.5 + FORGET_AFTER_S)
    assert list(ledger.cluster.backoffs) == ["2"]
    for i in range(MAX_BACKOFFS):
        ledger.handle(JobWanted(f"w{i}", need()), 700)
        ledger.handle(JobFailed(f"w{i}", ErrorCode.FFMPEG_EXITED, "it broke"), 700)
    assert len(ledger.cluster.backoffs) == MAX_BACKOFFS
    assert next(iter(ledger.cluster.backoffs)) == "w0", "the oldest is gone"


def test_where_software_may_help_only_the_hardware_is_left_out() -> None:
    ledger = Ledger()
    play(ledger, host("a", gpu_host(3)), JobWanted("1", need(), work="w"))
    play(ledger, JobFailed("1", ErrorCode.GPU_UNAVAILABLE, "it fell off the bus", retry_in_software=True))
    play(ledger, *wanted("2"), JobWanted("3", need(), work="w"))
    assert ways(ledger) == {"2": "h264_nvenc", "3": "libx264"}
    assert not ledger.jobs["3"].placement.fallback


def fail(ledger: Ledger, *names: str, now: float, code: ErrorCode = ErrorCode.FFMPEG_EXITED) -> list[Instruction]:
    return play(ledger, *(e for n in names for e in (JobWanted(n, need()), JobFailed(n, code, "it broke"))), now=now)


def test_a_sick_daemon_is_set_aside_for_a_growing_time() -> None:
    ledger = Ledger(settings=Settings(aside_failures=3, aside_s=30), unhealthy_after_s=1e6)
    play(ledger, host("sick", gpu_host(8)))
    fail(ledger, "1", "2", "3", now=0)
    play(ledger, host("well"))
    (start,) = play(ledger, JobWanted("4", need()), now=1)
    assert isinstance(start, Start)
    assert start.placement.daemon_id == "well"
    assert "set aside for 30 s because 3 jobs failed in a row: it broke" in start.placement.considered[0].reason
    play(ledger, TimePassed(), now=30)
    assert starts(fail(ledger, "5", now=31)) == [("5", "sick")], "it has another chance"
    assert ledger.daemons["sick"].aside_until == pytest.approx(91)
    assert "set aside for 60 s because a job failed again: it broke" in ledger.daemons["sick"].aside_reason
    play(ledger, TimePassed(), now=91)
    play(ledger, *wanted("6"), now=92)
    play(ledger, JobEnded("6"), now=110)
    for now in (111, 131):
        fail(ledger, f"7 at {now}", f"8 at {now}", now=now)
        assert ledger.daemons["sick"].aside_until is None, "a success forgives"
        play(ledger, *wanted(f"9 at {now}"), now=now)
        play(ledger, JobEnded(f"9 at {now}"), now=now + 10)


def test_jobs_that_fail_where_a_daemon_is_aside_already_keep_it_there_no_longer() -> None:
    ledger = Ledger(settings=Settings(aside_failures=2, aside_s=30), unhealthy_after_s=1e6)
    play(ledger, host("a", gpu_host(8)), *wanted("1", "2", "3", "4", "5"), host("b"))
    failed = [JobFailed(name, ErrorCode.FFMPEG_EXITED, "it broke") for name in "12345"]
    play(ledger, *failed[:2], now=1)
    assert ledger.deadline() == pytest.approx(31)
    play(ledger, *failed[2:], now=20)
    assert ledger.daemons["a"].aside_until == pytest.approx(31)
    play(ledger, TimePassed(), now=30.9)
    assert ledger.daemons["a"].aside_until is not None
    play(ledger, TimePassed(), now=31)
    assert ledger.daemons["a"].aside_until is None


def test_who_waits_is_served_when_the_time_aside_is_over() -> None:
    ledger = Ledger(settings=Settings(aside_failures=1, aside_s=10), unhealthy_after_s=1e6)
    play(ledger, host("sick", gpu_host(1)), host("busy", gpu_host(1)))
    one = need(hw_accel="nvenc", policy="queue")
    play(ledger, JobWanted("1", one), JobWanted("2", one))
    (failed,) = (job.id for job in ledger.jobs_on("sick"))
    play(ledger, JobFailed(failed, ErrorCode.FFMPEG_EXITED, "it broke"), JobWanted("3", one), now=1)
    assert ledger.position("3") == 1
    assert starts(play(ledger, TimePassed(), now=11)) == [("3", "sick")]


def test_a_job_that_hardly_ran_forgives_nothing() -> None:
    ledger = Ledger(settings=Settings(aside_failures=3, healthy_after_s=10))
    play(ledger, host("sick", gpu_host(8)))
    fail(ledger, "1", "2", now=5)
    play(ledger, *wanted("3"), now=6)
    play(ledger, JobEnded("3"), now=15.9)
    fail(ledger, "4", now=16)
    assert ledger.daemons["sick"].aside_until is not None


def test_a_daemon_that_is_set_aside_has_the_jobs_that_nobody_else_can_do() -> None:
    ledger = Ledger(settings=Settings(aside_failures=1))
    play(ledger, host("only", gpu_host(8)), host("other", capabilities(cpu_count=2)))
    fail(ledger, "1", now=0)
    assert ledger.daemons["only"].aside_until is not None
    nvenc_only = need(hw_accel="nvenc", policy="queue")
    assert starts(play(ledger, JobWanted("2", nvenc_only), now=1)) == [("2", "only")]
    assert starts(play(ledger, JobWanted("3", need()), now=1)) == [("3", "other")]
    play(ledger, DaemonDetached("other", "1", "left"), now=2)
    assert starts(play(ledger, JobWanted("4", need()), now=2)) == [("4", "only")]
    play(ledger, host("without encoders", Capabilities()), now=3)
    assert starts(play(ledger, JobWanted("5", need()), now=3)) == [("5", "only")]


def test_a_session_that_a_daemon_of_the_host_has_opened_and_not_acked_yet_is_not_foreign() -> None:
    ledger = Ledger()
    play(ledger, host("left", gpu_host(3), machine="one"), host("right", gpu_host(3), machine="one"))
    (start,) = play(ledger, JobWanted("a", need()))
    assert isinstance(start, Start)
    other = ({"left", "right"} - {start.placement.daemon_id}).pop()
    pool = next(iter(ledger.cluster.pools.values()))
    play(ledger, HeartbeatCame(other, 0, (PoolSeen(pool.id, 1, 0),), ()), JobAcked("a"))
    assert (pool.held, pool.foreign) == (1, 0)
    play(ledger, HeartbeatCame(other, 1, (PoolSeen(pool.id, 2, 0),), ()))
    assert (pool.held, pool.foreign) == (1, 1), "and what nobody of ours opened is"


def test_a_daemon_that_sends_garbage_is_set_aside_at_once() -> None:
    ledger = Ledger()
    play(ledger, host("liar"))
    fail(ledger, "1", now=0, code=ErrorCode.BAD_OUTPUT)
    assert "set aside for 30 s because it can't be trusted: it broke" in ledger.daemons["liar"].aside_reason


def test_a_daemon_that_breaks_a_jobs_stream_off_and_is_still_there_is_set_aside() -> None:
    ledger = Ledger()
    play(ledger, host("a"), JobWanted("1", need()))
    play(ledger, JobFailed("1", ErrorCode.CONNECTION_LOST, "it closed the job's stream", ended=False))
    assert ledger.daemons["a"].aside_until is None, "a cut cable takes all streams, one after another"
    play(ledger, HeartbeatCame("a", 1), now=1)
    assert "closed the job's stream, though the daemon is there" in ledger.daemons["a"].aside_reason
    play(ledger, TimePassed(), now=31)
    assert ledger.daemons["a"].aside_until is None


@pytest.mark.parametrize("code", [ErrorCode.BAD_INPUT, ErrorCode.CAPACITY, ErrorCode.SHUTTING_DOWN])
def test_what_is_not_the_daemons_fault_does_not_set_it_aside(code: ErrorCode) -> None:
    ledger = Ledger()
    play(ledger, host("a"))
    fail(ledger, "1", "2", "3", "4", now=0, code=code)
    assert ledger.daemons["a"].aside_until is None


def test_jobs_that_run_too_slowly_make_the_estimate_larger() -> None:
    ledger = Ledger(unhealthy_after_s=1e6)
    play(ledger, host("a", capabilities(cpu_count=2)), *wanted("1", "2"))
    cost = ledger.jobs["1"].placement.cost_cores
    for sequence in range(1, 12):
        seen = tuple(JobSeen(name, 0.5, 30.0) for name in "12")
        play(ledger, HeartbeatCame("a", sequence, (), seen), now=20.0 + sequence)
    assert ledger.daemons["a"].cost_factor == pytest.approx(2 / cost, rel=0.05)
    (refuse,) = play(ledger, JobWanted("3", need()), now=40)
    assert isinstance(refuse, Refuse)
    assert "its processors are busy" in refuse.refusal.considered[0].reason


# ------------------------------------------------------------------------------------------------ whatever happens


IDS = st.sampled_from(["a", "b", "c"])
JOBS = st.sampled_from([f"j{i}" for i in range(6)])
INSTANCES = st.sampled_from(["1", "2"])
EVENTS = st.one_of(
    st.builds(attached, IDS, instance=INSTANCES, slots=st.integers(1, 3), jobs=st.frozensets(JOBS, max_size=3)),
    st.builds(DaemonDetached, IDS, INSTANCES, st.just("gone")),
    st.builds(HeartbeatCame, IDS),
    st.builds(CapabilitiesCame, IDS, st.just(Capabilities(encoders=(X264,), max_jobs=3, max_cpu_jobs=3))),
    st.builds(DrainAsked, IDS, st.booleans(), st.booleans()),
    st.builds(JobWanted, JOBS, st.just(NEED), st.frozensets(IDS, max_size=1)),
    st.builds(JobAcked, JOBS),
    st.builds(JobEnded, JOBS),
    st.just(TimePassed()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=60))
def test_whatever_happens_the_invariants_hold(history: list[tuple[Event, float]]) -> None:
    ledger, now = Ledger(), 0.0
    for event, pause in history:
        now += pause + 0.001
        if isinstance(event, JobWanted) and event.job_id in ledger.jobs:
            continue
        before = set(ledger.jobs)
        out = ledger.handle(event, now)
        ledger.validate()
        lost = {i.job_id for i in out if isinstance(i, Lost)}
        assert lost <= before
        assert not lost & set(ledger.jobs)


@pytest.mark.parametrize("seed", range(3))
def test_after_thousands_of_random_events_too(seed: int) -> None:
    """3 x 3,000 here, 1,000,000 in `python -m tests.bench.ledger`. What daemons remember is what they would say."""
    probes = [need(), need(policy="queue", hw_accel="nvenc"), need(hw_accel="none")]
    for i, (ledger, event, instructions, now, before) in enumerate(random_history(seed, 3_000)):
        lost = {j.job_id for j in instructions if isinstance(j, Lost)}
        assert lost <= before
        assert not lost & set(ledger.jobs)
        if isinstance(event, JobWanted):
            assert [type(j) in {Start, Queued, Refuse} for j in instructions[:1]] == [True]
            assert not event.replaces or not isinstance(instructions[0], Queued)
        if i % 20 == 0:
            remembered = [choose(ledger.cluster, probe, now) for probe in probes]
            ledger.cluster.shapes.clear()
            for daemon in ledger.daemons.values():
                ledger.cluster.touch(daemon)
                daemon.make = Make(daemon.make.capabilities)
            for probe, verdict in zip(probes, remembered, strict=True):
                anew = choose(ledger.cluster, probe, now)
                assert type(anew) is type(verdict)
                assert list(anew.considered) == list(verdict.considered)


def figures(ledger: Ledger) -> object:
    daemons, cluster = ledger.daemons.values(), ledger.cluster
    return (
        [(daemon.id, daemon.state, daemon.aside_until, daemon.cost_factor) for daemon in daemons],
        [(key, pool.limit, pool.held, pool.foreign) for key, pool in cluster.pools.items()],
        [*ledger.jobs, *cluster.closing, *(entry.job_id for entry in ledger.waiting())],
    )


@pytest.mark.parametrize("seed", [20, 21])
def test_nothing_happens_by_itself_before_the_deadline(seed: int) -> None:
    for ledger, _, _, now, _ in random_history(seed, 2_000, every=50):
        while (due := ledger.deadline()) is not None and due <= now:
            ledger.handle(TimePassed(), now)
        before = figures(ledger)
        assert ledger.handle(TimePassed(), now) == []
        assert figures(ledger) == before
        after = ledger.deadline()
        assert after is None or (due is not None and due <= after), "the deadline was too late"


@pytest.mark.parametrize("daemons_per_host", [1, 2])
@pytest.mark.parametrize("breaks", [False, True])
def test_no_session_is_started_above_a_limit(breaks: bool, daemons_per_host: int) -> None:
    """1,000 starts and stops on limits 3, 5 and 8, heartbeats delayed, lost and reordered."""
    world = run(seed=7, breaks=breaks, daemons_per_host=daemons_per_host, check=False)
    world.ledger.validate()
    assert world.counts["hardware starts"] > 700
    assert world.counts["refused by the driver"] == 0
    assert world.counts["seen by a viewer"] == 0


@pytest.mark.parametrize("seed", [3, 4])
def test_moves_of_all_kinds_are_never_seen(seed: int) -> None:
    """Rolling drains, an operator's moves and slow jobs beside promotions, with streams that break."""
    world = run(seed=seed, moves=True, breaks=True, check=False)
    world.ledger.validate()
    assert world.counts["refused by the driver"] == 0
    assert world.counts["seen by a viewer"] == 0
    assert all(world.counts[f"moved: {kind}"] > 20 for kind in MoveKind)
    assert world.counts["left on a drained daemon"] == 0
    assert world.counts["drained"] > 5


@pytest.mark.parametrize("seed", [1, 2])
def test_refusals_because_of_a_foreign_encoder_are_learned_and_never_seen(seed: int) -> None:
    world = run(seed=seed, foreign=True, check=False)
    world.ledger.validate()
    assert world.counts["refused by the driver"] > 5
    assert world.counts["seen by a viewer"] == 0
    assert world.counts["hardware starts"] > 500
