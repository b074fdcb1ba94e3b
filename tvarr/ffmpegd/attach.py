"""A daemon's tie to its coordinator: one stream for life, dialled again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from tvarr.errors import ErrorCode, JobError, Refused, TvarrError, WireError
from tvarr.ffmpegd.work import Jobs
from tvarr.wire import convert, messages
from tvarr.wire.client import dial_attach
from tvarr.wire.protocol import FIRST_MESSAGE_WITHIN_S, Endpoint
from tvarr.wire.streams import CoordinatorMessages

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
REFUSED_RETRY_S = (15.0, 30.0)  # a wrong token or version does not heal by itself, but somebody may heal it
HEARTBEAT_S = (0.2, 60.0)  # what a coordinator may ask for
TELL_WITHIN_S = 0.5  # a stream that takes no message for so long carries none
ENDS_TOLD_TOGETHER_S = 0.05  # a heartbeat is sent so soon after a job has ended, for all that end meanwhile


def retry_delay_s(attempt: int, rng: random.Random) -> float:
    """Seconds to wait before attempt number `attempt` (0 is the first after a loss): exponential with full jitter.

    Anything from 0.5 s to the limit, which doubles from 1 s to 15 s: a coordinator that comes back is not met by all
    of its daemons at once.
    """
    limit = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(attempt + 1, 10))
    return rng.uniform(FIRST_RETRY_S, limit)


def _interval(asked_s: float) -> float:
    least, most = HEARTBEAT_S
    return min(max(asked_s, least), most)


class Attachment:
    """Keeps this daemon attached: registers, sends heartbeats, and does what the coordinator says."""

    def __init__(
        self,
        endpoint: Endpoint,
        jobs: Jobs,
        register: Callable[[], messages.Register],
        heartbeat: Callable[[int], Awaitable[messages.Heartbeat]],
        rng: random.Random | None = None,
        *,
        token_now: Callable[[], str] | None = None,
    ) -> None:
        """`heartbeat` gets the number of the heartbeat in its stream; `token_now` reads the token again."""
        self._token_now = token_now
        self._endpoint = endpoint
        self._jobs = jobs
        self._register = register
        self._heartbeat = heartbeat
        self._rng = rng or random.Random()
        self._interval_s = HEARTBEAT_S[1]
        self._stream: CoordinatorMessages | None = None  # while registered
        self._registered = False  # whether the last stream came so far
        self._said = ""  # the last reason for not being attached that was logged
        self._leaving = ""  # why no more jobs are wanted

    async def run(self) -> None:
        """Goes on until it is cancelled, and then says goodbye."""
        attempt = 0
        while True:
            self._registered = False
            refused = False
            try:
                async with dial_attach(self._endpoint) as stream:
                    await self._attached(stream)
                self._say("the coordinator ended this daemon's stream")
            except (JobError, WireError) as error:
                self._say(f"not attached to a coordinator: {error}")
            except Refused as error:
                refused = not self._has_another_token()
                self._say(f"the coordinator refuses this daemon: {error}; trying again, slowly")
            finally:
                self._stream = None
            attempt = 0 if self._registered else attempt + 1
            await asyncio.sleep(self._rng.uniform(*REFUSED_RETRY_S) if refused else retry_delay_s(attempt, self._rng))

    def _has_another_token(self) -> bool:
        """Whether the token is another by now; it is used from here on."""
        token = self._token_now() if self._token_now is not None else ""
        if not token or token == self._endpoint.token:
            return False
        self._endpoint = replace(self._endpoint, token=token)
        return True

    @property
    def attached(self) -> bool:
        """Whether a coordinator has registered this daemon and its stream stands."""
        return self._stream is not None

    async def leave(self, reason: str) -> bool:
        """Asks for no more jobs and for those here to be moved; returns whether a coordinator heard it.

        One that is attached to later hears it too.
        """
        self._leaving = reason
        return await self._tell(messages.Draining(reason=reason))

    async def changed(self, capabilities: messages.Capabilities) -> None:
        """Tells that the capabilities are others now."""
        await self._tell(messages.CapabilitiesChanged(capabilities=capabilities))

    async def _tell(self, item: messages.Draining | messages.CapabilitiesChanged) -> bool:
        """Sends where there is a stream; the next one begins with all of it anyway."""
        if self._stream is not None:
            with suppress(TvarrError, TimeoutError):
                async with asyncio.timeout(TELL_WITHIN_S):
                    await self._stream.send(item)
                    return True
        return False

    def _say(self, reason: str) -> None:
        """Logs a reason once, and again only after another one."""
        log.log(logging.DEBUG if reason == self._said else logging.WARNING, "%s", reason)
        self._said = reason

    async def _attached(self, stream: CoordinatorMessages) -> None:
        """One stream from registration to its end."""
        await stream.send(self._register())
        try:
            async with asyncio.timeout(FIRST_MESSAGE_WITHIN_S):
                first = await stream.receive()
        except TimeoutError:
            raise WireError(f"{self._endpoint.target}: no answer within {FIRST_MESSAGE_WITHIN_S:g} s") from None
        if not isinstance(first, messages.Registered):
            raise WireError(f"{self._endpoint.target} does not answer a registration as a coordinator does")
        self._stream, self._registered, self._said = stream, True, ""
        self._jobs.capacity.draining = ""  # a coordinator that still wants it says so again
        if self._leaving:
            await stream.send(messages.Draining(reason=self._leaving))
        log.info("attached to the coordinator %s (version %s)", self._endpoint.target, convert.clean(first.version))
        self._interval_s = _interval(first.heartbeat_interval_s)
        beating = asyncio.create_task(self._beat(stream))
        obeying = asyncio.create_task(self._obey(stream, first.daemon_id))
        try:
            done, _ = await asyncio.wait({beating, obeying}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (beating, obeying):
                task.cancel()
            await asyncio.gather(beating, obeying, return_exceptions=True)

    async def _beat(self, stream: CoordinatorMessages) -> None:
        """A heartbeat each interval, and one as soon as a job has ended: others may wait for what it held."""
        sequence = 0
        freed = self._jobs.freed
        while True:
            freed.clear()
            await stream.send(await self._heartbeat(sequence))
            sequence += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await freed.wait()
                await asyncio.sleep(ENDS_TOLD_TOGETHER_S)

    async def _obey(self, stream: CoordinatorMessages, daemon_id: str) -> None:
        """Ends when the coordinator ends the stream."""
        while (item := await stream.receive()) is not None:
            match item:
                case messages.StartJob():
                    await self._start(stream, item, daemon_id)
                case messages.CancelJob():
                    self._jobs.cancel_ordered(item.job_id, JobError(ErrorCode.CANCELLED, convert.clean(item.reason)))
                case messages.Drain():
                    log.info("draining: %s", convert.clean(item.reason) or "asked by the coordinator")
                    self._jobs.capacity.draining = "it is draining"
                case messages.Activate():
                    log.info("taking jobs again")
                    self._jobs.capacity.draining = ""
                case messages.SetPace():
                    self._set_pace(_interval(item.heartbeat_interval_s))

    def _set_pace(self, interval_s: float) -> None:
        """Another time between heartbeats. A shorter one begins somewhere within it: not all daemons beat at once."""
        if interval_s < self._interval_s:
            asyncio.get_running_loop().call_later(self._rng.uniform(0, interval_s), self._jobs.freed.set)
        self._interval_s = interval_s

    async def _start(self, stream: CoordinatorMessages, start: messages.StartJob, daemon_id: str) -> None:
        try:
            self._jobs.start(start, self._endpoint, daemon_id)
        except JobError as error:
            log.warning("job refused: %s", error, extra={"job_id": start.job_id})
            await stream.send(messages.JobRefused(job_id=start.job_id, error=convert.error_to_wire(error)))
        else:
            await stream.send(messages.JobAccepted(job_id=start.job_id))
