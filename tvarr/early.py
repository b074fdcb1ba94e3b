"""What a role does before anything else is loaded, which takes a quarter of a second and on a busy machine more."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

ROLES = ("coordinator", "ffmpegd")


def is_role(argv: Sequence[str]) -> bool:
    """Whether this command line starts one: other commands say by their exit code what they found."""
    return os.path.basename(argv[0]) == "tvarr-ffmpegd" or (len(argv) > 1 and argv[1] in ROLES)


def end_on_signals() -> None:
    """Until the role hears them itself, signals end it with code 0: there is nothing yet that has to be cleaned up."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))


if is_role(sys.argv):
    end_on_signals()
