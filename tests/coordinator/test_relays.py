"""All running relays together: what becomes of them where the machine gives no more."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from tests.waiting import until
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.models import BUILTIN_PROFILES, Channel
from tvarr.coordinator.relays import Relays
from tvarr.coordinator.source import IngestLimits, SourceSpec
from tvarr.coordinator.sources.http import client_session
from tvarr.coordinator.variant import VariantLimits

CHANNEL = Channel(id="1", slug="off", name="Off the air", url="http://127.0.0.1:1/nobody")
EDITED = CHANNEL.model_copy(update={"url": "http://127.0.0.1:1/edited"})


@pytest.fixture
async def relays() -> AsyncIterator[Relays]:
    """Those of a source that nobody serves, which end as soon as nobody watches."""

    async def as_edited(_id: str) -> tuple[Channel, int]:
        return EDITED, 0

    daemons = Daemons(heartbeat_interval_s=5, unhealthy_after_s=30)
    async with client_session() as session:
        made = Relays(
            daemons=daemons,
            make_ingest=lambda channel: Ingest(SourceSpec.parse(channel.url), IngestLimits(), session, Random(1)),
            as_stored=as_edited,
            max_relays=0,
            retention_bytes=1 << 20,
            retention_s=60,
            idle_linger_s=0.0,
            limits=VariantLimits(max_takeovers=5, exhausted_policy="queue", patience_s=5.0),
        )
        yield made
        await made.close()
    daemons.close()


@contextmanager
def no_more_threads() -> Iterator[None]:
    before = threading.stack_size(1 << 46)  # which no thread gets
    try:
        yield
    finally:
        threading.stack_size(before)


async def watch_for_a_moment(relays: Relays) -> None:
    async with relays.watch(CHANNEL, BUILTIN_PROFILES["passthrough"], "ts", "127.0.0.1", "a player"):
        assert list(relays.running) == [CHANNEL.id]


async def test_relays_end_one_after_the_other_where_no_more_threads_can_be_had(relays: Relays) -> None:
    with no_more_threads():
        for _ in range(2):
            await watch_for_a_moment(relays)
            await until(lambda: not relays.running)
        await relays.close()


async def test_a_channel_that_was_edited_meanwhile_starts_as_it_is_now(relays: Relays) -> None:
    async with relays.watch(CHANNEL, BUILTIN_PROFILES["passthrough"], "ts", "127.0.0.1", "a player"):
        assert relays.running[CHANNEL.id].channel == EDITED
