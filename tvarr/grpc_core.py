"""How gRPC's core runs in a role: by variables of the environment, which it reads once, when it is imported.

Its documentation names them (grpc/grpc, doc/environment_variables.md); what a user sets already stays.
"""

from __future__ import annotations

import os
from importlib.metadata import version

FEW_THREADS = "-event_engine_client,-event_engine_listener"
"""Connections are polled by the thread that Python waits in, and not by a pool whose threads hand each event on.

What messages cost is wake-ups and not bytes. Two a second each way took 1.1 % of a core in both processes together with
the pool, and 0.55 % without it and without probes of the bandwidth (`wire.protocol`), either alone 0.8 %; a transcoded
stream of 8 Mb/s with all that tvarr does 2.6 and 2.1 % (gRPC 1.85.3, 2 cores; 1.71 and 1.76 alike).
"""
_KNOWS_FEW_THREADS = (1, 85)  # the newest that was tried; a core that lacks them writes a line for each to stderr


def set_up() -> None:
    """To be called before gRPC is imported.

    Its core writes to stderr past us, and its handlers of forks are not for processes that fork only to start another
    program.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    if tuple(int(part) for part in version("grpcio").split(".")[:2]) <= _KNOWS_FEW_THREADS:
        os.environ.setdefault("GRPC_EXPERIMENTS", FEW_THREADS)
