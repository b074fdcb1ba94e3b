"""What the bench says of numbers: percentiles, growth, ratios, aims, and its page."""

from __future__ import annotations

import math
import os
import time

import pytest

from tests.bench.__main__ import Case, exit_code, measured
from tests.bench.bench import Bench
from tests.bench.cost import Cost, Counted, add_growth, each_round, least
from tests.bench.docs import page
from tests.bench.live import paced
from tests.bench.measure import CpuMeter, cpu_s, growth, quantile
from tests.bench.report import Report, at_least, at_most, number, ratio_at_most


def report() -> Report:
    return Report(about={"commit": "abc", "processor": "one | two"}, case="first")


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([], 0.95, 0.0),
        ([3.0], 0.5, 3.0),
        ([3.0], 0.95, 3.0),
        ([4.0, 1.0], 0.5, 1.0),
        ([5.0, 1.0, 3.0], 0.5, 3.0),
        ([float(n) for n in range(10, 0, -1)], 0.95, 10.0),
        ([float(n) for n in range(1, 20)], 0.95, 19.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([float(n) for n in range(1, 31)], 0.95, 29.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 101)], 1.0, 100.0),
    ],
)
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(
    values: list[float], share: float, found: float
) -> None:
    assert quantile(values, share) == found


def test_growth_leaves_out_what_is_there_once() -> None:
    assert growth([(1, 5.0 + 2.0), (10, 5.0 + 20.0), (100, 5.0 + 200.0)]) == pytest.approx((2.0, 1.0))


def test_growth_says_how_much_dearer_the_last_ones_are() -> None:
    each, flat = growth([(1, 1.0), (4, 4.0), (16, 16.0), (32, 48.0)])
    assert each == pytest.approx(47 / 31)
    assert flat == pytest.approx(2.0)


def test_growth_without_any_cost_before_the_last_step_is_infinite() -> None:
    assert growth([(1, 3.0), (10, 3.0), (100, 5.0)])[1] == math.inf


def test_cpu_time_is_that_of_the_process() -> None:
    pid = os.getpid()
    meter, before = CpuMeter({"own": pid}), cpu_s(pid)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_s(pid) - before >= 0.05
    assert cpu_s(pid) == pytest.approx(time.process_time(), abs=0.05)
    assert meter.percent()["own"] > 0


def test_a_ratio_is_the_value_over_what_it_is_compared_with() -> None:
    made = report()
    made.add("a", 3.0, "s", against=("alone", 2.0))
    made.add("b", 3.0, "s", against=("alone", 2.0), ratio=1.4)
    made.add("c", 3.0, "s", against="nothing that has a number")
    assert [figure.ratio for figure in made.figures] == [1.5, 1.4, None]


def test_an_aim_is_met_or_missed() -> None:
    made = report()
    made.add("short enough", 1.0, "s", aim=at_most(1))
    made.add("too long", 1.01, "s", aim=at_most(1))
    made.add("fast enough", 250, "MB/s", aim=at_least(250))
    made.add("too slow", 249, "MB/s", aim=at_least(250))
    made.add("near enough", 10.5, "s", against=("alone", 10.0), aim=ratio_at_most(1.05))
    made.add("too far", 10.6, "s", against=("alone", 10.0), aim=ratio_at_most(1.05))
    made.add("nothing to compare with", 10.6, "s", aim=ratio_at_most(1.05))
    made.add("not aimed at", 9.0)
    assert [figure.met for figure in made.figures] == [True, False, True, False, True, False, None, None]
    assert [figure.name for figure in made.missed()] == ["too long", "too slow", "too far"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00123, "0.00123"), (1.0, "1"), (99.94, "99.9"), (100.4, "100"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_the_page_has_a_table_for_each_case() -> None:
    made = report()
    made.add("wall time", 3.0, "s", against=("alone", 2.5), aim=ratio_at_most(1.05), more="of 3 | 4")
    made.case = "second"
    made.add("pictures", 0, aim=at_most(0))
    lines = page(made, {"first": "One", "second": "Two"}).splitlines()
    assert "| processor | one \\| two |" in lines
    at = lines.index("## One")
    assert lines[at + 2 : at + 5] == [
        "| figure | value | compared with | ratio | aim | met | more |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| wall time | 3 s | alone: 2.5 s | 1.20 | ratio at most 1.05 | NO | of 3 \\| 4 |",
    ]
    assert lines[lines.index("## Two") + 4] == "| pictures | 0 |  |  | at most 0 | yes |  |"


def test_figures_are_saved_with_what_was_compared() -> None:
    made = report()
    made.add("wall time", 3.0, "s", against=("alone", 2.5), aim=at_most(2))
    assert made.figures[0].plain() == {
        "case": "first",
        "name": "wall time",
        "value": 3.0,
        "unit": "s",
        "compared_with": "alone",
        "compared_value": 2.5,
        "ratio": 1.2,
        "aim": "at most 2",
        "met": False,
        "more": "",
    }
    assert str(made.figures[0]) == "wall time: 3 s, 1.20 of alone: 2.5 s, at most 2: NO"


def test_a_case_that_fails_leaves_the_others_alone() -> None:
    def too_slow(bench: Bench) -> None:
        bench.report.add("speed", bench.pick(1.0, 2.0), "MB/s", aim=at_least(3))

    def broken(bench: Bench) -> None:
        assert (bench.folder / "clip").exists(), "there is no clip"

    good, bad = Case("One", too_slow), Case("Two", broken)
    made = measured({"bad": bad, "good": good}, full=True)
    assert "there is no clip" in made.failures["bad"]
    assert [(figure.case, figure.value) for figure in made.figures] == [("good", 2.0)]
    assert exit_code(made, strict=False) == 1
    only_slow = measured({"good": good}, full=False)
    assert (exit_code(only_slow, strict=False), exit_code(only_slow, strict=True)) == (0, 1)


def test_what_each_more_costs_is_said_in_words() -> None:
    made = report()
    costs = [Cost(1, 1.0, 10.0, 20.0), Cost(4, 4.0, 11.0, 21.0), Cost(16, 16.0, 40.0, 80.0)]
    add_growth(made, Counted("relay", "daemon", " passed through"), costs)
    assert [str(figure) for figure in made.figures] == [
        "each more relay passed through: daemon's CPU: 1 % of a core",
        "each more relay passed through: daemon's CPU, from 4 to 16: 1 x, compared with from 1 to 4, at most 1.15: yes",
        "each more relay passed through: daemon's memory: 2,000 kB (USS; RSS 4,000 kB)",
    ]


def test_the_round_that_took_least_counts_and_the_first_ones_memory() -> None:
    rounds = [[Cost(1, 2.0, 10.0, 20.0), Cost(4, 9.0, 11.0, 21.0)], [Cost(1, 3.0, 1.0, 2.0), Cost(4, 8.0, 1.0, 2.0)]]
    assert least(rounds) == [Cost(1, 2.0, 10.0, 20.0), Cost(4, 8.0, 11.0, 21.0)]
    assert (each_round([2.0, 3.25]), each_round([2.0])) == ("rounds: 2, 3.25", "")


def test_a_live_source_sends_each_byte_when_its_clock_says() -> None:
    def packet(pcr: int | None) -> bytes:
        head = (
            b"\x47\x01\x00\x10" if pcr is None else b"\x47\x01\x00\x30\x07\x10" + (pcr << 7).to_bytes(5, "big") + b"\0"
        )
        return head.ljust(188, b"\xff")

    data = packet(None) + packet(900_000) + packet(None) + packet(909_000) + packet(918_000)
    pieces = paced(data)
    assert [at for at, _ in pieces] == pytest.approx([0.0, 0.1, 0.2])
    assert [len(piece) // 188 for _, piece in pieces] == [3, 1, 1]
    assert b"".join(piece for _, piece in pieces) == data
