"""One running channel: one connection to its source, shared by everybody who watches it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

from tvarr import memory
from tvarr.background import log_ids
from tvarr.coordinator import metrics
from tvarr.coordinator.clock import Since
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.endings import MAX_ENDINGS, Ending
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.keeper import PROFILE_CHANGED
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.signals import Signal
from tvarr.coordinator.variant import HEAD_START_TICKS, Variant, VariantLimits
from tvarr.errors import ErrorCode, JobError, SourceError, TvarrError
from tvarr.media.model import TICKS_PER_SECOND, Event
from tvarr.media.ring import Ring

log = logging.getLogger(__name__)


class Relay:
    """Reads a channel's source into a ring and gives each variant what comes.

    The ring holds what may be needed still. Overflow: it drops its oldest samples. The source never waits for a viewer,
    unless it is a file read as fast as possible, which waits for the slowest.
    """

    def __init__(
        self,
        channel: Channel,
        ingest: Ingest,
        *,
        daemons: Daemons,
        retention_bytes: int,
        retention_s: float,
        limits: VariantLimits,
    ) -> None:
        """`retention_s` does not hold for a source at full speed: there a second of media is no time."""
        self.id = uuid4().hex[:12]
        self.channel = channel
        self.ingest = ingest
        self.ring = Ring(retention_bytes, None if ingest.full_speed else round(retention_s * TICKS_PER_SECOND))
        self.variants: dict[str, Variant] = {}
        self.endings: deque[Ending] = deque(maxlen=MAX_ENDINGS)
        self.began = Since()
        self.ended = False
        self.failure: TvarrError | None = None
        self._daemons = daemons
        self._limits = limits
        self._changed = Signal()  # new events in the ring, or the source's end
        self._drained = Signal()  # somebody has read
        with log_ids(relay_id=self.id):
            self._task = asyncio.create_task(self._run(), name=f"relay {channel.slug}")

    @property
    def holds_connection(self) -> bool:
        """Whether its source may have a connection to a provider; files have none."""
        return not self._task.done() and self.ingest.is_remote

    async def disconnected(self) -> None:
        """Waits until the source is left."""
        await asyncio.wait({self._task})

    @property
    def idle_since(self) -> float | None:
        """Since when nobody has watched any variant, in the time of `monotonic`; None: somebody does."""
        if any(variant.watched for variant in self.variants.values()):
            return None
        return max((variant.idle_since or 0.0 for variant in self.variants.values()), default=0.0)

    @property
    def jobs(self) -> set[str]:
        """Those that hold a place now, the one that fetches the source included."""
        fetch = self.ingest.fetch
        own = {fetch.id} if fetch is not None and fetch.holds_place else set()
        return own.union(*(variant.jobs for variant in self.variants.values()))

    def variant(self, profile: Profile) -> Variant:
        """The variant of a profile, started where it does not run yet."""
        self.follow(profile)
        variant = self.variants.get(profile.name)
        if variant is not None and (variant.state == "failed" or variant.profile != profile):
            variant = None
        if variant is None:
            with log_ids(relay_id=self.id):  # whoever asks first
                variant = self.variants[profile.name] = self._make(profile)
            if self.ended:
                variant.source_ended(self.failure)
        return variant

    def follow(self, profile: Profile) -> None:
        """The variant of a profile that may have been changed goes on under it, or ends where viewers couldn't."""
        variant = self.variants.get(profile.name)
        if variant is not None and variant.profile != profile and not variant.follow(profile):
            variant.end(PROFILE_CHANGED)

    def _make(self, profile: Profile) -> Variant:
        return Variant(
            name=f"{self.channel.slug}/{profile.name}",
            profile=profile,
            service_name=self.channel.name,
            source=self.ring,
            source_changed=self._changed,
            drained=self._drained,
            source_id=self.channel.id,
            full_speed=self.ingest.full_speed,
            daemons=self._daemons,
            limits=self._limits,
        )

    def let_go(self) -> None:
        """Frees what neither jobs, those that would take over included, nor outputs that may start later need."""
        start = self.ring.start_seq(HEAD_START_TICKS)
        if start is not None:
            needed = (variant.needed_seq for variant in self.variants.values())
            self.ring.let_go(min([start, *(seq for seq in needed if seq is not None)]))
        for variant in self.variants.values():
            variant.let_go()

    async def drop(self, variant: Variant, reason: str) -> None:
        """Ends a variant that nobody watches any more."""
        if self.variants.get(variant.profile.name) is variant:
            del self.variants[variant.profile.name]
        await variant.close(reason)

    async def close(self, reason: str) -> None:
        """Ends the relay: its source is left and its viewers get the end of the stream."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self.ended:
            self.endings.append(Ending("closed", reason))
            log.info("%s: the relay ends: %s", self.channel.slug, reason, extra={"relay_id": self.id})
        self.ended = True
        await asyncio.gather(*(self.drop(variant, reason) for variant in list(self.variants.values())))
        self.ring.let_go(self.ring.next_seq)  # not when the collector comes by

    async def _run(self) -> None:
        log.info("%s: the relay starts", self.channel.slug)
        try:
            await self.ingest.run(self._take, self._room)
        except Exception as error:  # noqa: BLE001 - the root of a relay, and told
            self._end(*self._how_it_failed(error))
        else:
            self._end(Ending("finished", "the source ended"), None)

    def _how_it_failed(self, error: Exception) -> tuple[Ending, TvarrError]:
        if memory.is_short(error):
            words = f"the coordinator has no {memory.what_lacks(error)} left for it"
            return Ending("out_of_memory", words), JobError(ErrorCode.OUT_OF_MEMORY, words)
        if isinstance(error, TvarrError):
            return Ending("source", str(error)), error
        log.error("%s: the relay ended by a defect", self.channel.slug, exc_info=error)
        return Ending("internal", f"{type(error).__name__}: {error}"), SourceError(f"a defect of tvarr: {error!r}")

    def _take(self, events: Sequence[Event]) -> None:
        metrics.SOURCE_SAMPLES.inc(len(events))
        for event in events:
            self.ring.append(event)
        for variant in self.variants.values():
            variant.take(events)
        self._changed.set()

    async def _room(self) -> None:
        while not all(variant.room() for variant in self.variants.values()):
            await self._drained.wait()

    def _end(self, ending: Ending, failure: TvarrError | None) -> None:
        log.log(logging.WARNING if failure else logging.INFO, "%s: %s", self.channel.slug, ending.reason)
        self.ended = True
        self.failure = failure
        self.endings.append(ending)
        for variant in self.variants.values():
            variant.source_ended(failure)
        self._changed.set()
