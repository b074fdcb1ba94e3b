"""The web application on a free port, over a real store, with daemons and relays as plain data."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tvarr.coordinator.auth import Auth
from tvarr.coordinator.log_tail import LogTail
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.store import Store
from tvarr.coordinator.web import make_web
from tvarr.errors import Conflict, NotFound

PASSWORD = "swordfish"

Client = TestClient[web.Request, web.Application]

JOB = {
    "id": "job1",
    "state": "running",
    "age_s": 75.0,
    "queue_position": 0,
    "waited_s": 0.0,
    "daemon_id": "d1",
    "daemon_name": "rack <1>",
    "encoder": "h264_nvenc",
    "family": "nvenc",
    "device": "GPU-1",
    "decoder": "cuda",
    "command": "ffmpeg -i pipe:0 -c:v h264_nvenc",
    "speed": 1.02,
    "fps": 25.0,
    "frames": 1875,
    "lag_s": 0.12,
    "cpu_percent": 7.0,
    "output_kbps": 2500,
    "memory_bytes": 200_000_000,
    "input_bytes": 1,
    "output_bytes": 1,
    "first_output_s": 0.4,
    "lost_samples": 0,
}

TRANSCODER = {
    "id": "d1",
    "name": "rack <1>",
    "version": "0.1.0",
    "state": "connected",
    "set_aside": "",
    "address": "192.0.2.7",
    "connected_at": "2026-11-23T12:00:00.000Z",
    "last_heartbeat_at": "2026-11-23T12:05:00.000Z",
    "capabilities": {
        "ffmpeg_version": "9.0.2",
        "encoders": [
            {
                "name": "h264_nvenc",
                "codec": "h264",
                "family": "nvenc",
                "device": "GPU-1",
                "usable": True,
                "verified": True,
                "reason": "",
            },
            {
                "name": "av1_nvenc",
                "codec": "av1",
                "family": "nvenc",
                "device": "GPU-1",
                "usable": False,
                "verified": True,
                "reason": "this GPU has no AV1 encoder",
            },
        ],
        "decoders": ["h264"],
        "hwaccels": ["cuda"],
        "max_jobs": 8,
        "max_cpu_jobs": 2,
        "cpu_count": 16,
        "cpu_model": "Some CPU",
        "memory_bytes": 64 << 30,
        "os": "Linux 6.12",
    },
    "gpus": [
        {
            "id": "GPU-1",
            "name": "GeForce RTX 3080",
            "vendor": "nvidia",
            "index": 0,
            "driver": "550.54",
            "memory_bytes": 10 << 30,
            "architecture": "Ampere",
            "pool": "nvidia",
            "node": "",
            "engines": 1,
            "restricted": True,
            "utilization_percent": 12.0,
            "encoder_percent": 30.0,
            "decoder_percent": None,
            "memory_used_bytes": 1 << 30,
            "memory_total_bytes": 10 << 30,
            "temperature_celsius": 55.0,
            "power_watts": 80.0,
            "encode_sessions": 2,
            "decode_sessions": 1,
        }
    ],
    "pools": [
        {
            "id": "nvidia",
            "limit": 8,
            "limit_source": "driver_table",
            "detail": "driver 550.54: 8",
            "held": 1,
            "foreign": 1,
            "in_use": 2,
            "free": 6,
            "active": 2,
            "own": 1,
        }
    ],
    "system": {
        "cpu_percent": 41.5,
        "load_average": [1.0, 1.0, 1.0],
        "memory_used_bytes": 16 << 30,
        "memory_total_bytes": 64 << 30,
        "uptime_s": 7265.0,
    },
    "jobs": [{**JOB, "channel": "News [red]", "relay_id": "r1", "profile": "h264"}],
    "totals": {"jobs_finished": 3, "jobs_failed": 1},
}

DETAIL = {
    "history": {
        "step_s": 5.0,
        "cpu_percent": [None, 40.0, 41.5],
        "memory_percent": [None, 25.0, 25.0],
        "load": [None, 1.0, 1.0],
        "pressure_percent": [None, None, None],
        "received_kbps": [None, None, 9000.0],
        "sent_kbps": [None, None, 5000.0],
    },
    "past_jobs": [
        {
            "id": "job0",
            "name": "news/h264",
            "encoder": "h264_nvenc",
            "began_at": "2026-11-23T11:58:00.000Z",
            "took_s": 65.0,
            "frames": 1600,
            "ending": {"code": "ffmpeg_exited", "reason": "ffmpeg ended by itself", "at": "2026-11-23T11:59:05.000Z"},
            "failed": True,
            "command": "ffmpeg -f mpegts -i pipe:0",
            "stderr": ["<b>no more memory</b>"],
        }
    ],
}

RELAY = {
    "id": "r1",
    "channel": {"id": "c1", "slug": "news", "name": "News [red]", "group": "Pay TV"},
    "state": "live",
    "started_at": "2026-11-23T12:04:00.000Z",
    "source": {
        "url": "http://***@h/news.ts",
        "state": "live",
        "counts": True,
        "program": 1,
        "error": "",
        "reconnections": 1,
        "segments_left_out": 0,
        "errors": 3,
        "bytes": 75_000_000,
        "bitrate_kbps": 8000,
        "job": None,
        "placement": None,
    },
    "tracks": [
        {
            "id": 256,
            "kind": "video",
            "codec": "h264",
            "language": "",
            "width": 1920,
            "height": 1080,
            "fps": 25.0,
            "interlaced": False,
            "sample_rate": 0,
            "channels": 0,
            "scrambled": False,
        }
    ],
    "buffer": {"bytes": 1, "max_bytes": 2},
    "variants": [
        {
            "profile": "h264",
            "state": "running",
            "error": "",
            "takeovers": 0,
            "job": JOB,
            "placement": {
                "reason": "the only free h264 encoder in hardware",
                "fallback": False,
                "considered": [
                    {"daemon_id": "d1", "daemon_name": "rack <1>", "chosen": True, "reason": "h264_nvenc is free"},
                    {"daemon_id": "d2", "daemon_name": "attic", "chosen": False, "reason": "software only"},
                ],
            },
            "moves": 0,
            "move_refused": "",
            "lost_pictures": 0,
            "successor": None,
            "outputs": ["ts"],
            "viewers": [
                {
                    "id": 1,
                    "address": "192.0.2.99",
                    "user_agent": "VLC/3.0 <script>",
                    "container": "ts",
                    "connected_at": "2026-11-23T12:04:00.000Z",
                    "bytes": 12_345_678,
                    "lag_s": 0.8,
                }
            ],
            "endings": [
                {"code": "stalled", "reason": "no output for 5 s", "at": "…", "job_id": "j0", "daemon_name": "attic"}
            ],
        }
    ],
    "endings": [],
}


FAILURE = {
    "channel": "news",
    "profile": "h264",
    "container": "ts",
    "status": 502,
    "reason": "the source answered 403 <Forbidden>",
    "reasons": [],
    "count": 3,
    "at": "2026-11-23T12:04:00.000Z",
    "address": "192.0.2.99",
    "user_agent": "VLC/3.0 <script>",
}


class Services:
    """Daemons and relays as they are put here; what is asked of them is noted in `asked`."""

    version = "0.1.0"
    stream_key = ""
    device_id = "10F00007"
    tuner_count = 3

    def __init__(self, store: Store, auth: Auth) -> None:
        self.store = store
        self.auth = auth
        self.ready = True
        self.daemons: list[dict[str, Any]] = []
        self.running: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.log_tail = LogTail()

    def add_samples(self) -> None:
        self.daemons.append(copy.deepcopy(TRANSCODER))
        self.running.append(copy.deepcopy(RELAY))

    def transcoders(self) -> list[dict[str, Any]]:
        return self.daemons

    def transcoder(self, daemon_id: str) -> dict[str, Any]:
        daemon = copy.deepcopy(self._daemon(daemon_id))
        for job in daemon["jobs"]:
            job["stderr"] = ["frame dropped <i>"]
        return {**daemon, **copy.deepcopy(DETAIL)}

    def transcoder_marks(self) -> dict[str, Hashable]:
        return {daemon["id"]: json.dumps(daemon) for daemon in self.daemons}

    def daemon_names(self) -> list[tuple[str, str]]:
        return [(daemon["id"], daemon["name"]) for daemon in self.daemons]

    def watched(self, yes: bool) -> None:
        self.asked.append(("watched", str(yes)))

    async def renew_token(self) -> None:
        self.asked.append(("renewed", ""))

    def relays(self) -> list[dict[str, Any]]:
        return self.running

    def failures(self) -> list[dict[str, Any]]:
        return self.failed

    def registration(self) -> dict[str, Any]:
        url = "grpc://TOKEN@coordinator:9090"
        return {
            "coordinator_url": "coordinator:9090",
            "token": "TOKEN",
            "fixed": False,
            "container": f"podman run -e TVARR_COORDINATOR_URL={url} tvarr ffmpegd",
            "command": f"tvarr ffmpegd --coordinator-url {url}",
            "compose": f"services:\n  worker:\n    environment:\n      TVARR_COORDINATOR_URL: {url}\n",
        }

    async def drain(self, daemon_id: str) -> None:
        self._daemon(daemon_id)["state"] = "draining"

    async def activate(self, daemon_id: str) -> None:
        self._daemon(daemon_id)["state"] = "connected"

    async def stop_relay(self, relay_id: str) -> None:
        if relay_id not in {relay["id"] for relay in self.running}:
            raise NotFound(f"no relay {relay_id} is running")
        self.running = [relay for relay in self.running if relay["id"] != relay_id]

    async def move_job(self, relay_id: str, profile: str, to: str) -> None:
        if relay_id not in {relay["id"] for relay in self.running}:
            raise NotFound(f"no relay {relay_id} is running")
        if to == "nobody":
            raise Conflict("there is no job that could be moved")
        self.asked.append(("moved", f"{profile} to {to}"))

    def channel_edited(self, channel: Channel) -> None:
        self.asked.append(("edited", channel.id))

    async def test_channel(self, channel_id: str) -> dict[str, Any]:
        channel = await self.store.channel(channel_id)
        if "dead" in channel.url:
            return {"works": False, "error": "nobody <there>", "took_s": 0.0, "tracks": [], "bitrate_kbps": 0}
        return {"works": True, "error": "", "took_s": 0.4, "tracks": RELAY["tracks"], "bitrate_kbps": 8000}

    def profile_changed(self, profile: Profile) -> None:
        self.asked.append(("profile", profile.name))

    async def channel_changed(self, channel_id: str) -> None:
        self.asked.append(("changed", channel_id))

    def _daemon(self, daemon_id: str) -> dict[str, Any]:
        for daemon in self.daemons:
            if daemon["id"] == daemon_id:
                return daemon
        raise NotFound(f"there is no transcoder {daemon_id!r}")


Served = tuple[Client, Services]


@asynccontextmanager
async def serving(
    folder: Path, *, logged_in: bool = True, no_auth: bool = False, extra_routes: Iterable[web.RouteDef] = ()
) -> AsyncIterator[Served]:
    """A client of a running server; `logged_in`: it sends the admin password."""
    store = await Store.open(folder / "tvarr.db")
    services = Services(store, await Auth.open(store, password=PASSWORD, disabled=no_auth))
    headers = {"Authorization": f"Bearer {PASSWORD}"} if logged_in else {}
    async with TestClient(TestServer(make_web(services, extra_routes=extra_routes)), headers=headers) as client:
        yield client, services
    await store.close()


async def ask(client: Client, method: str, path: str, status: int, **more: Any) -> Any:
    """The JSON of an answer that has to have this status; None where it has no body."""
    async with client.request(method, path, **more) as answer:
        text = await answer.text()
        assert answer.status == status, text
        if status >= 400:
            assert answer.content_type == "application/problem+json"
        return json.loads(text) if text else None
