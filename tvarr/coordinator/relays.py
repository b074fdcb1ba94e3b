"""Every running relay: made when somebody wants to watch, ended when nobody does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress

from tvarr import memory
from tvarr.background import log_ids
from tvarr.coordinator import metrics
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.outputs import Viewer
from tvarr.coordinator.profiles import must_carry
from tvarr.coordinator.relay import Relay
from tvarr.coordinator.segmented import Container, Session
from tvarr.coordinator.source import is_file
from tvarr.coordinator.variant import Variant, VariantLimits
from tvarr.errors import ConnectionsTaken, NoPlacement, NotFound

log = logging.getLogger(__name__)

SWEEP_S = 0.5  # how often unwatched relays, and what nobody needs of the others, are looked for
MAX_SESSIONS = 10_000  # of players of segments; each request for a playlist may begin one


class Relays:
    """Relays by channel. An unwatched variant is kept for `idle_linger_s`, for viewers who zap back.

    A channel has one connection to its source, and a group of channels as many as `max_connections` says of its name
    (0: as many as they like); all together have `max_relays` (0 likewise). A relay that nobody watches gives way to who
    needs its place, and a job to who needs its slot or session.
    """

    def __init__(
        self,
        *,
        daemons: Daemons,
        make_ingest: Callable[[Channel], Ingest],
        as_stored: Callable[[str], Awaitable[tuple[Channel, int]]],
        max_relays: int,
        retention_bytes: int,
        retention_s: float,
        idle_linger_s: float,
        limits: VariantLimits,
    ) -> None:
        self.running: dict[str, Relay] = {}  # by channel id
        self._daemons = daemons
        self._make_ingest = make_ingest
        self._as_stored = as_stored  # by its id: a channel as it is now, and how many connections its group may have
        self._max_relays = max_relays
        self._open: set[Relay] = set()  # those whose source may be connected still, also when they run no more
        self._stopping: set[asyncio.Task[None]] = set()
        self._retention_bytes = retention_bytes
        self._retention_s = retention_s
        self._idle_linger_s = idle_linger_s
        self._limits = limits
        self._sessions: dict[str, tuple[Session, Variant]] = {}  # by token
        daemons.make_room = self._make_room
        self._sweeper = asyncio.create_task(self._sweep(), name="relay sweeper")

    @asynccontextmanager
    async def watch(
        self, channel: Channel, profile: Profile, container: str, address: str, user_agent: str
    ) -> AsyncIterator[Viewer]:
        """One viewer of a channel's endless stream (`ts`, `mp4`), from here to the end of the block.

        Raises `CannotCarry` and `ConnectionsTaken`.
        """
        must_carry(profile, container)
        relay = await self._relay(channel)
        variant = relay.variant(profile)
        output = variant.ts() if container == "ts" else variant.mp4()
        viewer = output.join(address, user_agent)
        variant.idle_since = None
        try:
            with log_ids(relay_id=relay.id):
                yield viewer
        finally:
            output.leave(viewer)
            self._left(variant)

    async def open_session(
        self,
        channel: Channel,
        profile: Profile,
        container: Container,
        *,
        kind: str,
        token: str,
        address: str,
        user_agent: str,
    ) -> Session:
        """One player of a channel's segments, until it has asked for nothing for a while.

        It is the one of this token, of whatever kind, where another request has begun it meanwhile. Raises
        `CannotCarry` and `ConnectionsTaken`, and `NoPlacement` where there are too many players.
        """
        if len(self._sessions) >= MAX_SESSIONS:
            raise NoPlacement(f"{MAX_SESSIONS} players read segments already")
        must_carry(profile, "ts" if container == "ts" else "mp4")
        relay = await self._relay(channel)
        if (begun := self.session(token)) is not None:
            return begun
        variant = relay.variant(profile)
        session = variant.segments(container).join(token, kind, address, user_agent)
        variant.idle_since = None
        self._sessions[token] = session, variant
        return session

    def session(self, token: str) -> Session | None:
        """None as well where the stream has failed: who asks again then gets a new one, as other viewers do."""
        if token not in self._sessions:
            return None
        session = self._sessions[token][0]
        if session.output.failure is not None:
            self._end_session(token)
            return None
        return session

    def returning(self, channel: Channel, profile: Profile, kind: str, address: str, user_agent: str) -> Session | None:
        """The session of a player that asks again where it asked first."""
        relay = self.running.get(channel.id)
        variant = relay.variants.get(profile.name) if relay is not None else None
        for session, watched in self._sessions.values():
            who = session.container, session.address, session.user_agent
            if watched is variant and session.output.failure is None and who == (kind, address, user_agent):
                session.asked_at = asyncio.get_running_loop().time()
                return session
        return None

    def by_id(self, relay_id: str) -> Relay:
        """Raises `NotFound`."""
        for relay in self.running.values():
            if relay.id == relay_id:
                return relay
        raise NotFound(f"no relay {relay_id} is running")

    async def stop(self, relay: Relay, reason: str) -> None:
        """Ends a relay and its viewers' streams."""
        if self.running.get(relay.channel.id) is relay:
            del self.running[relay.channel.id]
        await relay.close(reason)
        with suppress(RuntimeError):  # the user or the container may have no more threads
            await asyncio.to_thread(memory.give_back)

    async def stop_channel(self, channel_id: str, reason: str) -> None:
        """Ends a channel's relay, if it runs: the channel was changed or deleted."""
        if relay := self.running.get(channel_id):
            await self.stop(relay, reason)

    def follow(self, profile: Profile) -> None:
        """The profile was changed: so is what its viewers get."""
        for relay in self.running.values():
            relay.follow(profile)

    async def close(self) -> None:
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        await asyncio.gather(*(self.stop(relay, "the coordinator ends") for relay in list(self.running.values())))
        await asyncio.gather(*self._stopping)

    async def _relay(self, channel: Channel) -> Relay:
        """The channel's relay, started where none runs. Raises `ConnectionsTaken`, and `NotFound` of a deleted one."""
        while True:
            relay = self.running.get(channel.id)
            if relay is not None and not relay.ended:
                return relay
            channel, limit = await self._as_stored(channel.id)
            if channel.id not in self.running or self.running[channel.id].ended:
                if (leaving := self._in_the_way(channel, limit)) is None:
                    return self._start(channel)
                await leaving.disconnected()

    def _start(self, channel: Channel) -> Relay:
        relay = self.running[channel.id] = Relay(
            channel,
            self._make_ingest(channel),
            daemons=self._daemons,
            retention_bytes=self._retention_bytes,
            retention_s=self._retention_s,
            limits=self._limits,
        )
        self._open.add(relay)
        return relay

    def _in_the_way(self, channel: Channel, limit: int) -> Relay | None:
        """A relay that is about to give up its connection, for which the channel has to wait; None: it may have one.

        `limit`: that of the channel's group. Raises `ConnectionsTaken` where nobody does.
        """
        self._open = {relay for relay in self._open if relay.holds_connection}
        leaving = {relay for relay in self._open if self.running.get(relay.channel.id) is not relay}
        if (own := next((relay for relay in leaving if relay.channel.id == channel.id), None)) is not None:
            return own
        if limit and not is_file(channel.url):
            users = [relay for relay in self._open if relay.channel.group == channel.group]
            if len(users) >= limit:
                most = _counted(limit, "connection")
                return self._gives_way(users, leaving, f"the group {channel.group!r} may have {most} to its provider")
        others = leaving | {relay for relay in self.running.values() if relay.channel.id != channel.id}
        if 0 < self._max_relays <= len(others):
            most = _counted(self._max_relays, "channel")
            return self._gives_way(others, leaving, f"this coordinator may run {most} at once")
        return None

    def _gives_way(self, users: Collection[Relay], leaving: Collection[Relay], limit: str) -> Relay:
        """The one of these that leaves already, or is told to because nobody has watched it for longest."""
        if (going := next((relay for relay in users if relay in leaving), None)) is not None:
            return going
        idle = [(since, relay) for relay in users if (since := relay.idle_since) is not None]
        if not idle:
            metrics.CONNECTIONS_REFUSED.inc()
            raise _taken(limit, users)
        _, longest = min(idle, key=lambda pair: pair[0])
        del self.running[longest.channel.id]  # at once: nobody is to join it any more
        self._to_its_end(longest.close("another channel needs its place"), "end an idle relay")
        return longest

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._end_sessions(asyncio.get_running_loop().time())
            now = time.monotonic()
            for relay in list(self.running.values()):
                for variant in list(relay.variants.values()):
                    if self._is_done(variant, now):
                        await relay.drop(variant, "nobody watches")
                    elif variant.watched:
                        variant.end_unwatched(now, self._idle_linger_s)
                if relay.variants:
                    relay.let_go()
                else:
                    await self.stop(relay, "nobody watches")

    def _end_sessions(self, now: float) -> None:
        for token in [token for token, (session, _) in self._sessions.items() if session.is_over(now)]:
            self._end_session(token)

    def _end_session(self, token: str) -> None:
        session, variant = self._sessions.pop(token)
        session.output.leave(session)
        self._left(variant)

    def _left(self, variant: Variant) -> None:
        if not variant.watched:
            variant.idle_since = time.monotonic()
            self._daemons.watched_no_more()

    async def _make_room(self) -> set[str]:
        """Ends what nobody has watched for longest of all that has jobs, and returns their ids."""
        idle: list[tuple[float, Relay, Variant | None]] = []
        for relay in self.running.values():
            fetch = relay.ingest.fetch
            if fetch is not None and fetch.holds_place and (since := relay.idle_since) is not None:
                idle.append((since, relay, None))
            idle += [
                (variant.idle_since, relay, variant)
                for variant in relay.variants.values()
                if variant.idle_since is not None and not variant.watched and variant.jobs
            ]
        if not idle:
            return set()
        _, relay, longest = min(idle, key=lambda found: found[0])
        reason = "another viewer needs its place"
        if longest is None:
            jobs, ending = relay.jobs, self.stop(relay, reason)
            del self.running[relay.channel.id]  # at once: nobody is to join it any more
        else:
            jobs, ending = longest.jobs, relay.drop(longest, reason)
            del relay.variants[longest.profile.name]
        await asyncio.shield(self._to_its_end(ending, "end an unwatched job"))  # also where who asked has left
        return jobs

    def _to_its_end(self, ending: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(ending, name=name)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        return task

    def _is_done(self, variant: Variant, now: float) -> bool:
        if variant.watched or variant.idle_since is None:
            return False
        linger = 0.0 if variant.state in {"ended", "failed"} else self._idle_linger_s
        return now - variant.idle_since >= linger


def _taken(limit: str, users: Iterable[Relay]) -> ConnectionsTaken:
    reasons = []
    for relay in sorted(users, key=lambda relay: -relay.began.age_s):
        viewers = sum(len(output.viewers) for variant in relay.variants.values() for output in variant.outputs)
        minutes = relay.began.age_s / 60
        reasons.append(f"{relay.channel.name}: {_counted(viewers, 'viewer')}, for {minutes:.0f} min")
    names = ", ".join(reason.rpartition(":")[0] for reason in reasons[:5]) + ", …" * (len(reasons) > 5)
    return ConnectionsTaken(f"{limit}, in use by {names}", reasons)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
