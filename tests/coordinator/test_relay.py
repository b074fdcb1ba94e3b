"""What a relay keeps of its source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.clips import make_clip
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.models import BUILTIN_PROFILES, Channel
from tvarr.coordinator.relay import Relay
from tvarr.coordinator.source import IngestLimits, SourceSpec
from tvarr.coordinator.sources.http import client_session
from tvarr.coordinator.variant import HEAD_START_TICKS, VariantLimits
from tvarr.media.model import TICKS_PER_SECOND, Sample

CLIP_S, GOP_S = 30, 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=CLIP_S, size="160x90")


@pytest.fixture
async def relay(clip: Path) -> AsyncIterator[Relay]:
    """A relay that has read its source to the end, as fast as it goes."""
    daemons = Daemons(heartbeat_interval_s=5, unhealthy_after_s=30)
    async with client_session() as session:
        spec = SourceSpec.parse(f"file:{clip.name}", pace="fast", media_dir=clip.parent)
        made = Relay(
            Channel(id="1", slug="clip", name="Clip", url=spec.url),
            Ingest(spec, IngestLimits(), session, Random(1)),
            daemons=daemons,
            retention_bytes=64 << 20,
            retention_s=60,
            limits=VariantLimits(max_takeovers=5, exhausted_policy="queue", patience_s=5.0),
        )
        await made.disconnected()
        assert (made.ended, made.failure) == (True, None)
        yield made
        await made.close("the test ends")
    daemons.close()


def held_s(relay: Relay) -> float:
    return (relay.ring.newest_ticks - relay.ring.ticks_at(relay.ring.first_seq)) / TICKS_PER_SECOND


async def test_without_a_job_it_keeps_what_new_outputs_begin_with(relay: Relay) -> None:
    assert held_s(relay) > CLIP_S - 1
    relay.variant(BUILTIN_PROFILES["passthrough"]).ts()
    relay.let_go()
    assert HEAD_START_TICKS / TICKS_PER_SECOND <= held_s(relay) <= HEAD_START_TICKS / TICKS_PER_SECOND + GOP_S
    assert relay.ring.start_seq(HEAD_START_TICKS) == relay.ring.first_seq


async def test_it_keeps_what_a_job_has_yet_to_read(relay: Relay) -> None:
    begins = relay.ring.join_seq()
    relay.variant(BUILTIN_PROFILES["h264"])  # waits for a place, as there is no daemon
    (keyframe,), _ = relay.ring.read(begins, max_items=1)
    assert isinstance(keyframe, Sample)
    for later_s in (4, 12):
        ticks = relay.ring.newest_ticks + later_s * TICKS_PER_SECOND
        relay.ring.append(keyframe._replace(pts_ticks=ticks, dts_ticks=ticks))
    relay.let_go()
    assert relay.ring.first_seq == begins


async def test_when_it_is_closed_nothing_is_held_for_the_collector(relay: Relay) -> None:
    output = relay.variant(BUILTIN_PROFILES["passthrough"]).ts()
    variant = relay.variant(BUILTIN_PROFILES["aac"])
    await relay.close("nobody watches")
    assert len(relay.ring) == 1
    assert (variant.state, list(variant.outputs)) == ("ended", [])
    assert output.ended
