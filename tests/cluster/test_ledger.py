"""What happens to daemons and jobs, event by event; the invariants hold after each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.cluster.ledger import (
    FORGET_AFTER_S,
    Cancel,
    CapabilitiesCame,
    DaemonAttached,
    DaemonDetached,
    DaemonState,
    DrainAsked,
    Event,
    HeartbeatCame,
    Instruction,
    JobAcked,
    JobEnded,
    JobWanted,
    Ledger,
    Lost,
    Refuse,
    Start,
    TimePassed,
)
from tvarr.cluster.model import Capabilities, Encoder, Family, Need, Target
from tvarr.errors import ErrorCode
from tvarr.media.model import Codec, Track

X264 = Encoder("libx264", Codec.H264, Family.SOFTWARE)
NEED = Need((Target(Track(1, Codec.H264), Codec.H264),))


def attached(name: str, *, instance: str = "1", slots: int = 2, jobs: frozenset[str] = frozenset()) -> DaemonAttached:
    capabilities = Capabilities(encoders=(X264,), max_jobs=slots, max_cpu_jobs=slots)
    return DaemonAttached(name, instance, name, "machine", "0.1.0", capabilities, jobs)


def play(ledger: Ledger, *events: Event, now: float = 0.0) -> list[Instruction]:
    out = []
    for event in events:
        out += ledger.handle(event, now)
        ledger.validate()
    return out


def starts(instructions: list[Instruction]) -> list[tuple[str, str]]:
    return [(i.job_id, i.placement.daemon_id) for i in instructions if isinstance(i, Start)]


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


def test_a_daemon_long_gone_is_forgotten() -> None:
    ledger = Ledger()
    play(ledger, attached("a"), DaemonDetached("a", "1", "bye"))
    play(ledger, TimePassed(), now=FORGET_AFTER_S)
    assert ledger.daemons == {}
    assert ledger.deadline() is None


def test_an_id_is_free_for_the_same_process_and_for_nobody_else_while_it_lives() -> None:
    ledger = Ledger()
    play(ledger, attached("a", instance="1"))
    assert ledger.free_id("a", "1")
    assert not ledger.free_id("a", "2")
    play(ledger, DaemonDetached("a", "1", "bye"))
    assert ledger.free_id("a", "2")


IDS = st.sampled_from(["a", "b", "c"])
JOBS = st.sampled_from([f"j{i}" for i in range(6)])
INSTANCES = st.sampled_from(["1", "2"])
EVENTS = st.one_of(
    st.builds(attached, IDS, instance=INSTANCES, slots=st.integers(1, 3), jobs=st.frozensets(JOBS, max_size=3)),
    st.builds(DaemonDetached, IDS, INSTANCES, st.just("gone")),
    st.builds(HeartbeatCame, IDS),
    st.builds(CapabilitiesCame, IDS, st.just(Capabilities(encoders=(X264,), max_jobs=3, max_cpu_jobs=3))),
    st.builds(DrainAsked, IDS, st.booleans()),
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
