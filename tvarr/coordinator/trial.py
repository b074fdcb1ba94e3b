"""Tries a channel: whether its source can be read, and what is in it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tvarr.coordinator import views
from tvarr.coordinator.models import BUILTIN_PROFILES, Channel
from tvarr.coordinator.relays import Relays
from tvarr.errors import TvarrError

WITHIN_S = 15.0  # until the first media
LISTEN_S = 1.5  # in which tracks show themselves and the bitrate becomes one


async def try_channel(relays: Relays, channel: Channel) -> dict[str, Any]:
    """Watches a channel for a moment, as a viewer of its relay, which is started where it does not run.

    `{works, error, took_s, tracks, bitrate_kbps}`; never raises for what is wrong with the channel.
    """
    began = time.monotonic()
    answer: dict[str, Any] = {"works": False, "error": "", "took_s": 0.0, "tracks": [], "bitrate_kbps": 0}
    try:
        async with (
            asyncio.timeout(WITHIN_S + LISTEN_S),
            relays.watch(channel, BUILTIN_PROFILES["passthrough"], "ts", "", "tvarr: test of the channel") as viewer,
        ):
            answer["works"] = bool(await viewer.read())
            answer["took_s"] = round(time.monotonic() - began, 2)
            answer["error"] = "" if answer["works"] else "the source ended without any media"
            await asyncio.sleep(LISTEN_S)
            if relay := relays.running.get(channel.id):
                shown = views.relay(relay)
                answer["tracks"], answer["bitrate_kbps"] = shown["tracks"], shown["source"]["bitrate_kbps"]
    except TvarrError as error:
        answer["error"] = str(error)
    except TimeoutError:
        relay = relays.running.get(channel.id)
        answer["error"] = (relay.ingest.status.error if relay else "") or f"no media within {WITHIN_S:g} s"
    return answer
