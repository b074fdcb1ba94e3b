"""What the web application asks of the coordinator."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Protocol

from aiohttp import web

from tvarr.coordinator.auth import Auth
from tvarr.coordinator.log_tail import LogTail
from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.store import Store
from tvarr.errors import InvalidRequest

View = dict[str, Any]


class CoordinatorServices(Protocol):
    """The running coordinator. Views are plain JSON values, shaped as `tvarr.coordinator.web.schemas` says."""

    @property
    def version(self) -> str: ...
    @property
    def store(self) -> Store: ...
    @property
    def auth(self) -> Auth: ...
    @property
    def stream_key(self) -> str:
        """What stream URLs must carry as `?key=`; empty: streams are open."""

    @property
    def device_id(self) -> str:
        """Of the tuner that media servers see, in eight hexadecimal digits."""

    @property
    def tuner_count(self) -> int:
        """How many channels they are told they may watch at once."""

    @property
    def log_tail(self) -> LogTail:
        """The last lines of the log."""

    @property
    def ready(self) -> bool:
        """Whether streams can be served: everything has started, nothing ends."""

    def transcoders(self) -> list[View]:
        """Every daemon that is known."""

    def transcoder(self, daemon_id: str) -> View:
        """One daemon with its history and its jobs' endings. Raises `NotFound`."""

    def transcoder_marks(self) -> dict[str, Hashable]:
        """Every daemon's id, in their order, with a value that changes when `transcoder` does."""

    def daemon_names(self) -> list[tuple[str, str]]:
        """Ids and names of the daemons that are connected."""

    def relays(self) -> list[View]:
        """Every running relay."""

    def failures(self) -> list[View]:
        """Why players got no stream lately, the latest first."""

    def watched(self, yes: bool) -> None:
        """Somebody looks at the daemons' figures, or nobody any more."""

    def registration(self) -> View:
        """What a new worker has to be told: coordinator_url, token, command, container, compose."""

    async def renew_token(self) -> None:
        """Replaces the token and cuts off who came with the old one. Raises `Conflict` where it can't be changed."""

    async def drain(self, daemon_id: str) -> None:
        """Raises `NotFound`."""

    async def activate(self, daemon_id: str) -> None:
        """Raises `NotFound`."""

    async def stop_relay(self, relay_id: str) -> None:
        """Raises `NotFound`."""

    async def move_job(self, relay_id: str, profile: str, to: str) -> None:
        """Asks for a job to be moved, `to` a transcoder if one is named. Raises `NotFound` and `Conflict`."""

    def channel_edited(self, channel: Channel) -> None:
        """Something else of the channel is another now: its name or its group."""

    async def test_channel(self, channel_id: str) -> View:
        """Watches a channel for a moment and tells what came. Raises `NotFound`."""

    async def channel_changed(self, channel_id: str) -> None:
        """What the channel's stream is made from is another now, or it was deleted."""

    def profile_changed(self, profile: Profile) -> None:
        """What is watched under it is to follow."""


SERVICES = web.AppKey("services", CoordinatorServices)


def services_of(request: web.Request) -> CoordinatorServices:
    return request.app[SERVICES]


_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def own_url(request: web.Request) -> str:
    """Scheme and host by which the client reached us, a reverse proxy's word included; no slash at the end.

    The proxy's headers are believed from anybody: they change nothing but the answer to who sent them.
    """
    scheme = request.headers.get("X-Forwarded-Proto", request.scheme).partition(",")[0].strip().lower()
    host = request.headers.get("X-Forwarded-Host", request.host).partition(",")[0].strip()
    if scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        raise InvalidRequest("the Host header is not a host")
    return f"{scheme}://{host}"
