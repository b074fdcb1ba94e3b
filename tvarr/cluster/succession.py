"""Where the successor of a running job may go, by the kind of the move.

* promotion: hardware alone, on any daemon, the old one too;
* drain: any other daemon, in software too where the need's policy allows it;
* asked: any other daemon;
* changed: any daemon, the old one too, where it is done in no lesser way;
* slow: another daemon that does the job in no lesser way, has processors to spare for it, and whose own jobs keep up.
"""

from __future__ import annotations

from tvarr.cluster.fit import FULL_HARDWARE, HARDWARE, SOFTWARE, Way
from tvarr.cluster.model import Family, MoveKind, Placement
from tvarr.cluster.state import Daemon, Job, Succession

TOO_SLOW = 0.9  # media time over wall time


def succession_of(job: Job, kind: MoveKind, to: str = "") -> Succession:
    return Succession(kind, job.id, job.serial, job.daemon_id, rank_of(job.placement), to)


def rank_of(placement: Placement) -> int:
    """The way in which a placed job is done."""
    if placement.encoder is None or placement.hw_decode:
        return FULL_HARDWARE
    return SOFTWARE if placement.encoder.family is Family.SOFTWARE else HARDWARE


def objection(succession: Succession, daemon: Daemon, way: Way | None) -> str:
    """Why a daemon is no place for the successor, in words; empty where nothing speaks against it.

    `way`: the best one that is free there.
    """
    if succession.to and daemon.id != succession.to:
        return "another daemon was asked for"
    if succession.kind is MoveKind.PROMOTION:
        return ""
    if succession.kind is MoveKind.CHANGED:
        return _lesser(succession, way)
    slow = succession.kind is MoveKind.SLOW
    if daemon.id == succession.daemon_id:
        return "the job runs there, too slowly" if slow else "the job is to leave it"
    return _too_weak(succession, daemon, way) if slow else ""


def _lesser(succession: Succession, way: Way | None) -> str:
    return "it would do less of the job in hardware" if way is not None and way.rank > succession.rank else ""


def _too_weak(succession: Succession, daemon: Daemon, way: Way | None) -> str:
    if daemon.slowest_speed is not None and daemon.slowest_speed < TOO_SLOW:
        return f"its own jobs run at {daemon.slowest_speed:.2f} of real time"
    if way is None:
        return ""
    if lesser := _lesser(succession, way):
        return lesser
    cpu_count = daemon.capabilities.cpu_count
    load = (daemon.load_cores + way.cost_cores) * daemon.cost_factor
    if 0 < cpu_count < load:
        return f"its processors have no room: the job would make {load:.1f} of {cpu_count}, by estimate"
    return ""
