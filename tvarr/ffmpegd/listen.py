"""`--listen`: the service `Ffmpegd` for clients that have no coordinator, with the same jobs and limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

from tvarr import __version__
from tvarr.cluster.model import Capabilities
from tvarr.errors import JobError
from tvarr.ffmpegd.work import Jobs
from tvarr.wire import convert, messages
from tvarr.wire.server import TranscodeStream

log = logging.getLogger(__name__)


class ListenService:
    """What stands behind `Ffmpegd`."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        daemon_id: str,
        name: str,
        heartbeat: Callable[[int], Awaitable[messages.Heartbeat]],
        probe: Callable[[], Awaitable[Capabilities]],
    ) -> None:
        """`probe` tries every encoder again, and tells everybody else who needs to know."""
        self._jobs = jobs
        self._daemon_id = daemon_id
        self._name = name
        self._heartbeat = heartbeat
        self._probe = probe
        self._probing = asyncio.Lock()
        self._probed_at = time.monotonic()
        self._answered = 0

    async def register(self, request: messages.RegisterRequest) -> messages.RegisterReply:
        log.info("a client introduces itself: %s", convert.clean(request.client_name) or "unnamed")
        return messages.RegisterReply(
            daemon_id=self._daemon_id,
            name=self._name,
            version=__version__,
            capabilities=convert.capabilities_to_wire(self._jobs.capacity.capabilities),
        )

    async def get_stats(self, request: messages.StatsRequest) -> messages.Heartbeat:
        self._answered += 1
        return await self._heartbeat(self._answered)

    async def probe(self, request: messages.ProbeRequest) -> messages.Capabilities:
        """One trial at a time; who waited for another's gets its result where that is young enough."""
        async with self._probing:
            if time.monotonic() - self._probed_at >= request.max_age_s:
                await self._probe()
                self._probed_at = time.monotonic()
        return convert.capabilities_to_wire(self._jobs.capacity.capabilities)

    async def transcode(self, start: messages.TranscodeStart, peer: str, stream: TranscodeStream) -> None:
        """One job; a client that names it by an id of its own may find it taken, so each gets ours."""
        job_id = f"{convert.clean(start.job_id) or 'listen'}-{uuid4().hex[:8]}"
        log.info("a client at %s has a job", peer, extra={"job_id": job_id})
        try:
            await self._jobs.serve(replace(convert.start_from_wire(start), job_id=job_id), stream)
        except JobError as error:
            await stream.send(convert.error_to_wire(error))
