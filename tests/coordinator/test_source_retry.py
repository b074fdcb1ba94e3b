"""When a failed source is connected to again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.source import IngestLimits, SourceFailure
from tvarr.coordinator.sources.retry import Retry

LIMITS = IngestLimits(connect_s=10, retry_base_s=0.5, retry_max_s=15, healthy_s=30, give_up_s=60)
GONE = SourceFailure("404", gone=True)
BUSY = SourceFailure("503", passing=True)
CUT = SourceFailure("cut", passing=True)
ENDED = SourceFailure("closed", passing=True, ended=True)


def retry() -> Retry:
    return Retry(LIMITS, Random(1), now=0.0)


@pytest.mark.parametrize(("failure", "again"), [(GONE, False), (SourceFailure("html"), False), (BUSY, True)])
def test_at_first_only_what_may_pass_is_tried_again(failure: SourceFailure, again: bool) -> None:
    assert (retry().failed(failure, 1.0) is not None) is again


def test_at_first_it_is_over_within_the_connect_limit() -> None:
    policy, now = retry(), 0.0
    while (delay_s := policy.failed(BUSY, now)) is not None:
        now += delay_s
    assert now < 10.0
    assert not policy.had_media


def test_a_server_that_says_when_is_not_asked_before() -> None:
    assert retry().failed(SourceFailure("429", passing=True, retry_after_s=4.0), 1.0) == 4.0
    assert retry().failed(SourceFailure("429", passing=True, retry_after_s=9.5), 1.0) is None, "it is over by then"
    policy = retry()
    policy.media(100.0)
    assert policy.failed(SourceFailure("503", passing=True, retry_after_s=40.0), 110.0) == 40.0
    assert policy.failed(SourceFailure("503", passing=True, retry_after_s=40.0), 150.0) is None


def test_after_media_everything_is_tried_again_until_given_up() -> None:
    policy = retry()
    policy.media(100.0)
    assert policy.failed(GONE, 101.0) is not None
    assert policy.failed(SourceFailure("html"), 159.0) is not None
    assert policy.failed(GONE, 160.0) is None


def test_delays_grow_and_start_small_again_after_a_healthy_while() -> None:
    policy = retry()
    policy.media(0.0)
    for _ in range(8):
        policy.failed(CUT, 0.0)
    assert max(retry_delays(policy, 30)) > 10.0
    policy.media(100.0)
    policy.media(131.0)
    assert policy.failed(CUT, 131.0) <= 0.5  # type: ignore[operator]


@pytest.mark.parametrize("media_s", [20.0, 10.0])
def test_a_server_that_ends_every_connection_after_a_while_is_back_at_once(media_s: float) -> None:
    limits, now = IngestLimits(), 0.0
    policy = Retry(limits, Random(1), now)
    for _ in range(20):
        for passed in range(int(media_s) + 1):
            policy.media(now + passed)
        delay_s = policy.failed(ENDED, now + media_s)
        assert delay_s is not None
        assert delay_s <= limits.retry_base_s
        now += media_s + delay_s


def retry_delays(policy: Retry, count: int) -> list[float]:
    return [delay_s for _ in range(count) if (delay_s := policy.failed(CUT, 0.0)) is not None]


@pytest.mark.parametrize(
    ("failures", "ended"),
    [
        pytest.param([ENDED, GONE, GONE], True, id="ended, then gone"),
        pytest.param([CUT, GONE], False, id="cut, then gone"),
        pytest.param([ENDED, GONE, BUSY], False, id="ended, but there is still something"),
    ],
)
def test_ended_or_lost(failures: list[SourceFailure], ended: bool) -> None:
    policy = retry()
    policy.media(0.0)
    for failure in failures[:-1]:
        policy.failed(failure, 1.0)
    assert policy.failed(failures[-1], 1000.0) is None
    assert policy.has_ended is ended


@given(st.lists(st.tuples(st.sampled_from([GONE, BUSY, CUT, ENDED, None]), st.floats(0, 100))), st.integers())
def test_delays_stay_in_their_range(steps: list[tuple[SourceFailure | None, float]], seed: int) -> None:
    policy, now = Retry(LIMITS, Random(seed), 0.0), 0.0
    for failure, step_s in steps:
        now += step_s
        if failure is None:
            policy.media(now)
        elif (delay_s := policy.failed(failure, now)) is not None:
            assert 0.0 <= delay_s <= LIMITS.retry_max_s
