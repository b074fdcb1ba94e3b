"""`proto/README.md` says what the protocol is: all of it, with the limits that the code has."""

from __future__ import annotations

import pytest

from tests.wire.reference import PART, README, Reference, file_with_comments, names
from tvarr.cluster.model import JobSpec
from tvarr.cluster.state import Settings
from tvarr.coordinator.daemons import WORK_WITHIN_S
from tvarr.errors import ErrorCode
from tvarr.ffmpegd import app, attach, feed, job
from tvarr.media.interleave import Interleaver
from tvarr.wire import codec, convert, protocol


def mib(size: float) -> str:
    return f"{size / (1 << 20):g} MiB"


def kib(size: float) -> str:
    return f"{size / 1024:g} KiB"


SPEC = JobSpec("", ())
LIMITS = {
    "any message": mib(codec.MAX_MESSAGE_BYTES),
    "a message without samples": mib(codec.MAX_CONTROL_BYTES),
    "samples of a batch": f"{codec.MAX_SAMPLES_PER_BATCH:,}",
    "size of a batch": f"{kib(SPEC.batch_bytes)} is usual (`batch_bytes`, at most {mib(convert.MAX_BATCH_BYTES)})",
    "age of a batch": f"{SPEC.batch_age_s:.3f} s is usual (`batch_age_s`, at most {convert.MAX_BATCH_AGE_S:g} s)",
    "tracks of a job": str(convert.MAX_TRACKS),
    "a `source`: headers; characters of its URL and of each header": f"{convert.MAX_HEADERS}; {convert.MAX_URL:,}",
    "`init_data`; `descriptors` of a track": f"{kib(convert.MAX_INIT_BYTES)}; {kib(convert.MAX_DESCRIPTORS_BYTES)}",
    "names and ids; messages and reasons": f"{convert.MAX_NAME}; {convert.MAX_TEXT:,} characters",
    "lines of `stderr`": str(convert.MAX_STDERR_LINES),
    "encoders; decoders; GPUs; pools": "; ".join(
        f"{limit:,}" for limit in (convert.MAX_ENCODERS, convert.MAX_DECODERS, convert.MAX_GPUS, convert.MAX_POOLS)
    ),
    "first message on a stream": f"within {protocol.FIRST_MESSAGE_WITHIN_S:g} s",
    "`heartbeat_interval_s`": f"{attach.HEARTBEAT_S[0]:g} to {attach.HEARTBEAT_S[1]:g} s",
    "`Work` after `JobAccepted`": f"within {WORK_WITHIN_S:g} s",
    "the ack after the placement": f"within {Settings().ack_within_s:g} s",
    "no output though input flows": f"{job.STALL_S:g} s",
    "job held before ffmpeg starts": mib(feed.OPENING_BYTES),
    "copied tracks held for the others": mib(Interleaver().max_bytes),
    "a job whose daemon leaves": f"{app.LEAVE_WITHIN_S:g} s",
}


@pytest.mark.parametrize("what", LIMITS)
def test_limits_are_those_of_the_code(what: str) -> None:
    (row,) = [line for line in README.read_text().splitlines() if line.startswith(f"| {what} |")]
    assert row.split("|")[2].strip() == LIMITS[what]


def test_the_reference_is_that_of_the_file() -> None:
    reference = Reference(file_with_comments())
    found = PART.search(README.read_text())
    assert found, "the README has lost its markers"
    assert found[0] == reference.text() + "\n", "run `make docs`"
    assert reference.undocumented == [], "these have no comment in the .proto"


def test_every_name_is_there() -> None:
    text = README.read_text()
    assert [name for name in names(file_with_comments()) if f"`{name}" not in text] == []
    assert [code for code in ErrorCode if f"`CODE_{code.name}`" not in text] == []
