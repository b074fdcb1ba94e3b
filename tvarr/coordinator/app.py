"""The coordinator's role: puts its parts together, runs them, and takes them down."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import secrets
import socket
from collections.abc import Callable, Hashable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tvarr import __version__
from tvarr.cluster.state import Settings
from tvarr.coordinator import streaming, views
from tvarr.coordinator.adaptive import Adaptive
from tvarr.coordinator.auth import Auth
from tvarr.coordinator.daemons import Daemons
from tvarr.coordinator.database import refusal_to_write
from tvarr.coordinator.discovery import answer_searches
from tvarr.coordinator.failures import Failures
from tvarr.coordinator.hdhomerun import Tuner, is_device_id, make_device_id
from tvarr.coordinator.ingest import Ingest
from tvarr.coordinator.log_tail import LogTail
from tvarr.coordinator.models import SOURCE_FIELDS, Channel, Profile
from tvarr.coordinator.relays import Relays
from tvarr.coordinator.source import IngestLimits, SourceSpec
from tvarr.coordinator.sources.fetch import Fetcher
from tvarr.coordinator.sources.http import client_session
from tvarr.coordinator.store import Store
from tvarr.coordinator.streaming import Streaming
from tvarr.coordinator.token import DaemonToken
from tvarr.coordinator.trial import try_channel
from tvarr.coordinator.variant import VariantLimits
from tvarr.coordinator.web import make_web
from tvarr.coordinator.web.patience import KEEP_ALIVE_S, REQUEST_WITHIN_S, SILENCE, within_limit
from tvarr.coordinator.web.problems import status_of
from tvarr.errors import NotFound, StartError, StoreError
from tvarr.listening import every_address
from tvarr.tls import ServerCertificate, server_certificate
from tvarr.wire.server import serve_coordinator

log = logging.getLogger(__name__)

EVERY_INTERFACE = frozenset({"0.0.0.0", "::"})
DEVICE_ID_SETTING = "hdhomerun_device_id"
DRAINED_SETTING = "drained_daemons"
ACK_WITHIN_S = 120.0  # jobs watch their own start while input flows; without input no encoder opens
HTTP_BACKLOG = 1024  # connections that wait to be accepted; the kernel's own limit is 4096
HTTP_SHUTDOWN_S = 2.0  # open streams are given this long when the coordinator ends


@dataclass(frozen=True, kw_only=True)
class CoordinatorOptions:
    """What the role needs of the command line of `tvarr coordinator`; the fields have the same names."""

    host: str
    http_port: int
    grpc_port: int
    data_dir: Path
    auth_token: str
    public_host: str
    exhausted_policy: str
    no_promotion: bool
    queue_timeout_s: float
    heartbeat_interval_s: float
    unhealthy_after_s: float
    idle_linger_s: float
    max_takeovers: int
    retention_mb: int
    retention_time_s: float
    batch_time_s: float
    max_relays: int
    media_dir: Path | None
    tuner_count: int
    no_tuner_discovery: bool
    stream_key: str
    admin_password: str
    no_http_auth: bool
    tls_cert: Path | None
    tls_key: Path | None


class Coordinator:
    """Everything that runs in a coordinator, and what its web application asks for."""

    version = __version__

    def __init__(
        self,
        options: CoordinatorOptions,
        *,
        store: Store,
        auth: Auth,
        token: DaemonToken,
        device_id: str,
        drained: Sequence[str],
        session: aiohttp.ClientSession,
        limits: IngestLimits,
    ) -> None:
        self.options = options
        self.store = store
        self.auth = auth
        self.token = token
        self.device_id = device_id
        self.ready = False
        self.log_tail = LogTail()
        self.set_server_token: Callable[[str], None] = lambda _token: None
        self.grpc_port = options.grpc_port
        self.daemons = Daemons(
            heartbeat_interval_s=options.heartbeat_interval_s,
            unhealthy_after_s=options.unhealthy_after_s,
            settings=Settings(
                queue_timeout_s=options.queue_timeout_s,
                promote=not options.no_promotion,
                ack_within_s=ACK_WITHIN_S,
            ),
            drained=drained,
        )
        self.relays_running = Relays(
            daemons=self.daemons,
            make_ingest=self._make_ingest,
            as_stored=store.channel_and_limit,
            max_relays=options.max_relays,
            retention_bytes=options.retention_mb * 1024 * 1024,
            retention_s=options.retention_time_s,
            idle_linger_s=options.idle_linger_s,
            limits=VariantLimits(
                options.max_takeovers, options.exhausted_policy, options.queue_timeout_s, options.batch_time_s
            ),
        )
        self._failures = Failures(status_of)
        self.streaming = Streaming(store, self.relays_running, self._failures)
        self.adaptive = Adaptive(store, self.relays_running, self._failures)
        self._session = session
        self._limits = limits
        self._random = Random()

    # ------------------------------------------------------------------------------- what the web application asks

    @property
    def stream_key(self) -> str:
        return self.options.stream_key

    @property
    def tuner_count(self) -> int:
        return self.options.tuner_count

    def transcoders(self) -> list[dict[str, Any]]:
        runs = self._runs()
        return [views.transcoder(link, self.daemons, runs) for link in self.daemons.links.values()]

    def transcoder(self, daemon_id: str) -> dict[str, Any]:
        link = self.daemons.links.get(daemon_id)
        if link is None:
            raise NotFound(f"there is no transcoder {daemon_id[:80]!r}")
        return views.transcoder_detail(link, self.daemons, self._runs())

    def transcoder_marks(self) -> dict[str, Hashable]:
        runs = self._runs()
        return {link.id: views.mark(link, self.daemons, runs) for link in self.daemons.links.values()}

    def daemon_names(self) -> list[tuple[str, str]]:
        return [(d.id, d.name) for d in self.daemons.ledger.daemons.values() if d.connected]

    def relays(self) -> list[dict[str, Any]]:
        return [views.relay(relay) for relay in self.relays_running.running.values()]

    def failures(self) -> list[dict[str, Any]]:
        return [views.failure(failure) for failure in reversed(self._failures.latest)]

    async def stop_relay(self, relay_id: str) -> None:
        await self.relays_running.stop(self.relays_running.by_id(relay_id), "stopped by the operator")

    async def move_job(self, relay_id: str, profile: str, to: str) -> None:
        """Raises `NotFound` and `Conflict`."""
        relay = self.relays_running.by_id(relay_id)
        variant = relay.variants.get(profile)
        if variant is None:
            raise NotFound(f"the relay has no variant {profile[:80]!r}")
        daemon = next((d for d in self.daemons.ledger.daemons.values() if to in {d.id, d.name}), None)
        if to and daemon is None:
            raise NotFound(f"there is no transcoder {to[:80]!r}")
        variant.keeper.ask_to_move("the operator moved it", daemon.id if daemon is not None and to else "")

    async def test_channel(self, channel_id: str) -> dict[str, Any]:
        return await try_channel(self.relays_running, await self.store.channel(channel_id))

    async def channel_changed(self, channel_id: str) -> None:
        """Ends the channel's relay, which shows what is no longer so; players that come back get the new."""
        await self.relays_running.stop_channel(channel_id, "the channel was changed")

    def channel_edited(self, channel: Channel) -> None:
        if relay := self.relays_running.running.get(channel.id):
            relay.channel = channel

    def profile_changed(self, profile: Profile) -> None:
        self.relays_running.follow(profile)

    async def drain(self, daemon_id: str) -> None:
        await self._drain(daemon_id, draining=True)

    async def activate(self, daemon_id: str) -> None:
        await self._drain(daemon_id, draining=False)

    async def _drain(self, daemon_id: str, *, draining: bool) -> None:
        """Also for a coordinator that starts again while this daemon goes on, where the store takes it."""
        self.daemons.drain(daemon_id, draining=draining)
        try:
            await self.store.set_setting(DRAINED_SETTING, json.dumps(self.daemons.drained))
        except StoreError as error:
            log.warning("which daemons are drained is forgotten when the coordinator ends: %s", error)

    def registration(self) -> dict[str, Any]:
        """What a new worker has to be told."""
        address = f"{reachable_host(self.options.public_host, self.options.host)}:{self.grpc_port}"
        url = f"{'grpcs' if self.options.tls_cert else 'grpc'}://{self.token.value}@{address}"
        return {
            "coordinator_url": address,
            "token": self.token.value,
            "fixed": not self.token.is_ours,
            "container": f"podman run -d --restart=unless-stopped -e TVARR_COORDINATOR_URL={url} tvarr-ffmpegd",
            "command": f"tvarr ffmpegd --coordinator-url {url}",
            "compose": (
                "services:\n"
                "  tvarr-worker:\n"
                "    image: tvarr-ffmpegd\n"
                "    environment:\n"
                f"      TVARR_COORDINATOR_URL: {url}\n"
                "    restart: unless-stopped\n"
            ),
        }

    async def renew_token(self) -> None:
        """Renews the token, asks for the new one, and cuts off the daemons that came with the old.

        Raises `Conflict` where it was given as a setting, and `StoreError`.
        """
        await self.token.renew()
        self.set_server_token(self.token.value)
        log.warning(
            "the daemons' token was renewed: %d daemons are cut off until they have it", len(self.daemons.links)
        )
        self.daemons.cut_off()

    def watched(self, yes: bool) -> None:
        self.daemons.watch(yes)

    def _runs(self) -> views.Runs:
        runs: views.Runs = {
            run.id: (relay, variant.profile.name, run)
            for relay in self.relays_running.running.values()
            for variant in relay.variants.values()
            for run in (variant.keeper.run, variant.keeper.successor)
            if run is not None
        }
        for relay in self.relays_running.running.values():
            if (fetch := relay.ingest.fetch) is not None:
                runs[fetch.id] = (relay, views.FETCH, fetch)
        return runs

    def _make_ingest(self, channel: Channel) -> Ingest:
        spec = SourceSpec.parse(**channel.model_dump(include=set(SOURCE_FIELDS)), media_dir=self.options.media_dir)
        fetcher = Fetcher(
            self.daemons,
            name=channel.slug,
            source_id=channel.id,
            policy=self.options.exhausted_policy,
            batch_age_s=self.options.batch_time_s,
        )
        return Ingest(spec, self._limits, self._session, self._random, fetcher)


async def run(options: CoordinatorOptions, *, limits: IngestLimits | None = None) -> int:
    """Serves until it is cancelled. Raises `StartError` where it can't begin."""
    async with AsyncExitStack() as stack:
        certificate = server_certificate(options.tls_cert, options.tls_key)
        data_dir = _make_data_dir(options.data_dir)
        token = DaemonToken(data_dir, options.auth_token)
        store = await Store.open(data_dir / "tvarr.db", media_dir=options.media_dir)
        stack.push_async_callback(store.close)
        auth = await Auth.open(store, password=options.admin_password, disabled=options.no_http_auth)
        session = await stack.enter_async_context(client_session())
        coordinator = Coordinator(
            options,
            store=store,
            auth=auth,
            token=token,
            device_id=await _stored_device_id(store),
            drained=json.loads(await store.setting(DRAINED_SETTING) or "[]"),
            session=session,
            limits=limits or IngestLimits(settled_slice_s=options.batch_time_s),
        )
        stack.enter_context(coordinator.log_tail.listening())
        stack.callback(coordinator.daemons.close)
        server = await serve_coordinator(coordinator.daemons, options.host, options.grpc_port, token.value, certificate)
        coordinator.grpc_port = server.port
        coordinator.set_server_token = server.set_token
        stack.push_async_callback(server.stop)
        http_port = await _serve_http(stack, coordinator, certificate)
        stack.push_async_callback(coordinator.relays_running.close)
        if searches := await _answer_searches(coordinator, http_port):
            stack.callback(searches.close)
        coordinator.ready = True
        log.info("streams, API and dashboard on port %d, daemons on port %d", http_port, server.port)
        _announce(coordinator, auth, http_port)
        await asyncio.Event().wait()
    return 0


async def _answer_searches(coordinator: Coordinator, http_port: int) -> asyncio.DatagramTransport | None:
    """Lets media servers in this network find the tuner; not where they could not reach it, or lack its key."""
    options = coordinator.options
    if options.no_tuner_discovery or options.stream_key or options.host.startswith(("127.", "localhost", "::1")):
        return None
    scheme = "https" if options.tls_cert else "http"

    def tuner_at(address: str) -> Tuner:
        url = f"{scheme}://{address}:{http_port}"
        return Tuner(coordinator.device_id, coordinator.tuner_count, url, url)

    return await answer_searches(tuner_at)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered with 400; its traceback in the log would be for anybody to cause."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


async def _serve_http(stack: AsyncExitStack, coordinator: Coordinator, certificate: ServerCertificate | None) -> int:
    logging.getLogger("aiohttp.server").addFilter(_is_of_interest)
    streams = [*coordinator.streaming.routes(), *coordinator.adaptive.routes()]
    application = make_web(coordinator, streams, extra_routes=coordinator.adaptive.files())
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=HTTP_SHUTDOWN_S,
        max_line_size=16384,
        keepalive_timeout=KEEP_ALIVE_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    stack.callback(asyncio.create_task(application[SILENCE].watch(runner.server)).cancel)
    options = coordinator.options
    tls: dict[str, Any] = {}
    if certificate:
        tls = {"ssl": certificate.server_context(), "ssl_handshake_timeout": REQUEST_WITHIN_S}
    try:
        listening = await asyncio.get_running_loop().create_server(
            within_limit(runner.server), **_where(options), backlog=HTTP_BACKLOG, **tls
        )
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:  # which asyncio says at length
            reason = "it is in use by another program"
        raise StartError(f"--http-port {options.http_port} on {options.host} can't be used: {reason}") from error
    stack.callback(listening.close)
    for one in listening.sockets:  # and so for what it accepts: who vanished is known by what it does not acknowledge
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(streaming.STUCK_S * 1000))
    return int(listening.sockets[0].getsockname()[1])


def _where(options: CoordinatorOptions) -> dict[str, Any]:
    """What to listen on, for `create_server`. Raises OSError."""
    sock = every_address(options.host, options.http_port)
    return {"sock": sock} if sock is not None else {"host": options.host, "port": options.http_port}


def _make_data_dir(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        refusal = refusal_to_write(path)
        if refusal and refusal.errno != errno.ENOSPC:  # on a full disk what is there can be played
            raise refusal
    except OSError as error:
        raise StartError(f"--data-dir {path} can't be written: {error.strerror}") from error
    return path


async def _stored_device_id(store: Store) -> str:
    """That of our tuner, made on the first start: media servers know it by this."""
    stored = await store.setting(DEVICE_ID_SETTING)
    if stored is None or not is_device_id(stored):
        stored = make_device_id(secrets.randbits(16))
        await store.set_setting(DEVICE_ID_SETTING, stored)
    return stored


def _announce(coordinator: Coordinator, auth: Auth, http_port: int) -> None:
    """What a person wants to know on a start: where the dashboard is, and on the first one its password."""
    host = reachable_host(coordinator.options.public_host, coordinator.options.host)
    scheme = "https" if coordinator.options.tls_cert else "http"
    print(f"dashboard: {scheme}://{host}:{http_port}/", flush=True)  # noqa: T201
    if auth.first_password:
        print(f"admin password (shown this once): {auth.first_password}", flush=True)  # noqa: T201


def reachable_host(told: str, listens_on: str) -> str:
    """By what others reach this machine, as it stands in a URL: as told, else where we listen alone, else a guess."""
    one_address = "" if listens_on in EVERY_INTERFACE else listens_on
    host = told or one_address or _guess_host()
    return f"[{host}]" if ":" in host else host


def _guess_host() -> str:
    """The address by which other machines most likely reach this one: of its first interface that is up."""
    stats = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name in stats and stats[name].isup:
            for address in addresses:
                if address.family is socket.AF_INET and not address.address.startswith(("127.", "169.254.")):
                    return str(address.address)
    return "127.0.0.1"
