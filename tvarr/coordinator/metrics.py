"""What is counted as it happens, for Prometheus; what can be read off at any time is in `web.health`.

One set a process, as there is one coordinator in it. No label holds a URL or an address.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from tvarr.errors import NoPlacement

FIRST_BYTE_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0, 30.0)

TAKEOVERS = Counter(
    "tvarr_takeovers", "Lost jobs that were placed again, by how the one before ended.", ["cause"], registry=None
)
MOVES = Counter("tvarr_moves", "Jobs that were moved while they ran.", registry=None)
LOST_PICTURES = Counter(
    "tvarr_lost_pictures", "Pictures that no job could make: the source was not kept for so long.", registry=None
)
EXHAUSTION = Counter(
    "tvarr_exhaustion",
    "Jobs that found every hardware session taken, by what was done: fallback, queue, reject.",
    ["policy"],
    registry=None,
)
FIRST_BYTE = Histogram(
    "tvarr_first_byte_seconds",
    "From a player's request to the first byte of media.",
    ["container"],
    buckets=FIRST_BYTE_S,
    registry=None,
)
VIEWER_DROPPED = Counter(
    "tvarr_viewer_dropped", "Viewers whose stream was broken off: too_slow, failed.", ["reason"], registry=None
)
CONNECTIONS_REFUSED = Counter(
    "tvarr_connections_refused", "Viewers for whom no connection to a source was left.", registry=None
)
SENT_BYTES = Counter("tvarr_sent_bytes", "Media sent to viewers.", ["container"], registry=None)
SOURCE_SAMPLES = Counter("tvarr_source_samples", "Coded frames from all sources.", registry=None)
JOB_SAMPLES = Counter(
    "tvarr_job_samples", "Coded frames to jobs (in) and back from them (out).", ["direction"], registry=None
)

ALL = (
    *(TAKEOVERS, MOVES, LOST_PICTURES, EXHAUSTION, FIRST_BYTE, VIEWER_DROPPED, CONNECTIONS_REFUSED),
    *(SENT_BYTES, SOURCE_SAMPLES, JOB_SAMPLES),
)


def count_refusal(error: Exception | None) -> None:
    """Counts what viewers are refused with in the end; who still waits, or is moved, is not."""
    if isinstance(error, NoPlacement) and error.exhausted:
        EXHAUSTION.labels("reject").inc()
