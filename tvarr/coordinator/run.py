"""One job from its placement to its end, as people see it, whatever it is there for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

from tvarr.cluster.model import Placement
from tvarr.cluster.waiting import Waiting
from tvarr.coordinator.clock import Since
from tvarr.coordinator.daemons import Daemons, JobSlot
from tvarr.coordinator.endings import STDERR_LINES, Ending, PastJob
from tvarr.wire import convert, messages

LARGEST_SAMPLE_BYTES = 8 << 20  # no encoder of ours makes a picture of 8 MiB, and no source brings one
RATE_OVER = 6  # reports, about one a second


class Run:
    """Where a job is, what its daemon said of it, and how it ended."""

    def __init__(self, name: str, daemons: Daemons) -> None:
        """`name`: channel and profile, for people."""
        self.id = uuid4().hex[:12]
        self.name = name
        self.began = Since()
        self.state = "placing"
        self.placement: Placement | None = None
        self.waited_s = 0.0  # in the queue, once it is over
        self.daemon_name = ""
        self.ack: messages.TranscodeAck | None = None
        self.stats: messages.TranscodeStats | None = None
        self.stderr: deque[str] = deque(maxlen=STDERR_LINES)  # ffmpeg's last lines
        self.lost_samples = 0  # evicted before the job could take them
        self._sizes: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)  # of the output, and when
        self._daemons = daemons

    @property
    def holds_place(self) -> bool:
        return self.placement is not None and self.state != "ended"

    @property
    def waiting(self) -> Waiting | None:
        """What it waits for in the queue; None where it does not."""
        return self._daemons.waiting(self.id)

    @property
    def queue_position(self) -> int:
        """1 is next; 0: it does not wait."""
        return self._daemons.ledger.position(self.id)

    @property
    def lag_s(self) -> float:
        """How much later its output comes than its source; 0 for a job that is the source."""
        return 0.0

    @property
    def output_kbps(self) -> float:
        """What comes back, over the last few seconds."""
        if len(self._sizes) < 2:
            return 0.0
        (since, before), (now, size) = self._sizes[0], self._sizes[-1]
        return max(0, size - before) * 0.008 / (now - since) if now > since else 0.0

    def placed(self, slot: JobSlot) -> None:
        self.placement = slot.placement
        self.daemon_name = self._daemons.name_of(slot.placement.daemon_id)
        self.waited_s += slot.waited_s

    def reported(self, stats: messages.TranscodeStats) -> None:
        convert.finite(stats)
        self.stats = stats
        self._sizes.append((asyncio.get_running_loop().time(), stats.output_bytes))
        self.stderr.extend(convert.clean(line, 500) for line in stats.warnings)

    def remember(self, slot: JobSlot, code: str, reason: str, stderr: Sequence[str] = ()) -> None:
        """Keeps how it ended there. `stderr`: what the daemon sent with its last word, where that was an error."""
        encoder = slot.placement.encoder
        ack, stats = self.ack, self.stats
        past = PastJob(
            self.id,
            self.name,
            (ack.encoder if ack else "") or (encoder.name if encoder else ""),
            self.began.at,
            self.began.age_s,
            Ending(code, reason, job_id=self.id, daemon_name=self.daemon_name),
            stats.frames if stats else 0,
            ack.command if ack else "",
            tuple(stderr) or tuple(self.stderr),
        )
        self._daemons.remember(slot, past)
