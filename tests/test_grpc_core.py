"""What gRPC's core is told before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tvarr import grpc_core

LIMIT_S = 30.0
SETTINGS = ("GRPC_VERBOSITY", "GRPC_ENABLE_FORK_SUPPORT", "GRPC_EXPERIMENTS")
DIAL = """
from tvarr import grpc_core
grpc_core.set_up()
import grpc
channel = grpc.insecure_channel("127.0.0.1:1")
try:
    grpc.channel_ready_future(channel).result(timeout=0.2)
except grpc.FutureTimeoutError:
    print("dialled")
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_core_that_knows_the_settings_says_nothing(unset: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", DIAL], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert (done.stdout, done.stderr) == ("dialled\n", "")


@pytest.mark.parametrize(
    ("version", "experiments"),
    [("1.71.2", grpc_core.FEW_THREADS), ("1.85.3", grpc_core.FEW_THREADS), ("1.86.0", None), ("2.0.0rc1", None)],
)
def test_a_core_that_was_not_tried_is_left_alone(
    unset: pytest.MonkeyPatch, version: str, experiments: str | None
) -> None:
    unset.setattr(grpc_core, "version", {"grpcio": version}.__getitem__)
    grpc_core.set_up()
    assert os.environ.get("GRPC_EXPERIMENTS") == experiments
    assert os.environ["GRPC_VERBOSITY"] == "ERROR"


def test_what_a_user_sets_stays(unset: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        unset.setenv(name, "theirs")
    grpc_core.set_up()
    assert [os.environ[name] for name in SETTINGS] == ["theirs"] * len(SETTINGS)
