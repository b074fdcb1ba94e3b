"""The serving ends of both services: token, versions, health and reflection here, what to do in the application.

An application's streams raise `JobError` with `CONNECTION_LOST` when the other side is gone; its methods are not
cancelled by that, so that one path handles every ending. What a method raises becomes the call's status by `_STATUS`.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import betterproto2
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tvarr.errors import ErrorCode, InvalidRequest, JobError, NotFound, Refused, StartError, TvarrError, WireError
from tvarr.tls import ServerCertificate
from tvarr.wire import messages as m
from tvarr.wire.codec import decode_message, encode_message
from tvarr.wire.convert import clean
from tvarr.wire.protocol import (
    COORDINATOR_SERVICE,
    FFMPEGD_SERVICE,
    FIRST_MESSAGE_WITHIN_S,
    PROTOCOL_VERSION,
    SERVER_OPTIONS,
)
from tvarr.wire.streams import DaemonMessages, JobInputs, JobOutputs, MessageStream, connection_lost

log = logging.getLogger(__name__)

STOP_WITHIN_S = 2.0  # an application's method that goes on this long after its stream was lost is cancelled
MAX_STATUS_CHARACTERS = 1_000
DENIALS_LOGGED_EACH_S = 10.0

AttachStream = DaemonMessages
JobStream = JobOutputs
TranscodeStream = JobInputs


class CoordinatorApplication(Protocol):
    """What stands behind `Coordinator`."""

    async def attach(self, register: m.Register, peer: str, stream: AttachStream, /) -> None:
        """Serves one daemon until its stream ends; sends `Registered` first. `peer` is `address:port`."""

    async def work(self, opened: m.WorkOpen, stream: JobStream, /) -> None:
        """Serves one job; the stream ends with the method. Raises `NotFound` where the job is not wanted."""


class FfmpegdApplication(Protocol):
    """What stands behind `Ffmpegd`."""

    async def register(self, request: m.RegisterRequest, /) -> m.RegisterReply: ...

    async def get_stats(self, request: m.StatsRequest, /) -> m.Heartbeat: ...

    async def probe(self, request: m.ProbeRequest, /) -> m.Capabilities: ...

    async def transcode(self, start: m.TranscodeStart, peer: str, stream: TranscodeStream, /) -> None:
        """Runs one job; the stream ends with the method, `TranscodeError` included."""


class Server:
    """A running gRPC server."""

    def __init__(
        self,
        server: grpc.aio.Server,
        port: int,
        health_servicer: health.aio.HealthServicer,
        shell: _Shell,
        check: _TokenCheck,
    ) -> None:
        self.port = port
        self._check = check
        self._server = server
        self._health = health_servicer
        self._shell = shell

    async def leave(self) -> None:
        """Answers health checks with NOT_SERVING from here on; calls go on."""
        await self._health.enter_graceful_shutdown()

    def set_token(self, token: str) -> None:
        """Asks new calls for another token; those that are under way go on."""
        self._check.set(token)

    async def stop(self) -> None:
        """Ends every call: applications see their streams lost and have `STOP_WITHIN_S` to finish."""
        await self.leave()
        self._shell.lose_all()
        await self._server.stop(grace=STOP_WITHIN_S)
        await self._shell.wait()


async def serve_coordinator(
    application: CoordinatorApplication, host: str, port: int, token: str, certificate: ServerCertificate | None = None
) -> Server:
    """Serves `Coordinator` on host and port (0: any free one); with a certificate over TLS alone.

    Raises `StartError` where the port can't be had.
    """
    shell = _Shell()

    async def attach(_: object, context: grpc.aio.ServicerContext) -> None:
        stream = AttachStream(context, _explain)

        async def run() -> None:
            register = await _first(stream, m.Register)
            _check_version(register.protocol_version)
            await application.attach(register, _peer(context), stream)

        await shell.run(context, stream, run())

    async def work(_: object, context: grpc.aio.ServicerContext) -> None:
        stream = JobStream(context, _explain)

        async def run() -> None:
            opened = await _first(stream, m.WorkOpen)
            _check_version(opened.protocol_version)
            await application.work(opened, stream)

        await shell.run(context, stream, run())

    methods = {
        "Attach": grpc.stream_stream_rpc_method_handler(attach),
        "Work": grpc.stream_stream_rpc_method_handler(work),
    }
    return await _serve(COORDINATOR_SERVICE, methods, shell, host, port, token, certificate)


async def serve_ffmpegd(
    application: FfmpegdApplication, host: str, port: int, token: str, certificate: ServerCertificate | None = None
) -> Server:
    """Serves `Ffmpegd` on host and port (0: any free one); with a certificate over TLS alone.

    Raises `StartError` where the port can't be had.
    """
    shell = _Shell()

    async def register(request: m.RegisterRequest) -> m.RegisterReply:
        _check_version(request.protocol_version)
        return await application.register(request)

    async def transcode(_: object, context: grpc.aio.ServicerContext) -> None:
        stream = TranscodeStream(context, _explain)

        async def run() -> None:
            start = await _first(stream, m.TranscodeStart)
            _check_version(start.protocol_version)
            await application.transcode(start, _peer(context), stream)

        await shell.run(context, stream, run())

    methods = {
        "Register": _unary(m.RegisterRequest, register),
        "GetStats": _unary(m.StatsRequest, application.get_stats),
        "Probe": _unary(m.ProbeRequest, application.probe),
        "Transcode": grpc.stream_stream_rpc_method_handler(transcode),
    }
    return await _serve(FFMPEGD_SERVICE, methods, shell, host, port, token, certificate)


async def _serve(
    service: str,
    methods: Mapping[str, grpc.RpcMethodHandler],
    shell: _Shell,
    host: str,
    port: int,
    token: str,
    certificate: ServerCertificate | None,
) -> Server:
    _check_port(host, port)
    check = _TokenCheck(token)
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[check])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, dict(methods))])
    names = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(names, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = (
            server.add_secure_port(address, _credentials(certificate))
            if certificate
            else server.add_insecure_port(address)
        )
    except RuntimeError as error:
        raise StartError(f"can't listen on {address} for gRPC: {error}") from error
    for name in ("", *names):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    return Server(server, bound, health_servicer, shell, check)


def _credentials(certificate: ServerCertificate) -> grpc.ServerCredentials:
    """What gRPC asks for the certificate at each handshake (in threads of its own)."""

    used = certificate.version

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)])

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if certificate.refresh() == used:
            return None
        used = certificate.version
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), newer)


def _check_port(host: str, port: int) -> None:
    """Binds the port for a moment: gRPC itself says only that it failed, and writes its own lines about it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"can't listen on {host}: {error.strerror}") from error
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"gRPC port {port} of {host} is in use by another program") from error
            raise StartError(f"can't listen on {host} port {port} for gRPC: {error.strerror}") from error


# ------------------------------------------------------------------------------------------------ calls


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call through that carries the token, health checks and reflection included."""

    def __init__(self, token: str) -> None:
        self.set(token)
        self._next_log = 0.0
        self._unlogged = 0
        self._deny = grpc.stream_stream_rpc_method_handler(self._denied)

    def set(self, token: str) -> None:
        """Asks new calls for another token."""
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        given = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        if len(given) == 1 and hmac.compare_digest(_bytes(given[0]), self._expected):
            return await continuation(handler_call_details)
        return self._deny

    async def _denied(self, _: object, context: grpc.aio.ServicerContext) -> None:
        now = time.monotonic()
        if now >= self._next_log:
            more = f" (and {self._unlogged} calls before it)" if self._unlogged else ""
            log.warning("refused a gRPC call from %s: it does not carry the token%s", _peer(context), more)
            self._next_log, self._unlogged = now + DENIALS_LOGGED_EACH_S, 0
        else:
            self._unlogged += 1
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this call needs the metadata authorization: Bearer TOKEN")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


class _Shell:
    """Runs applications' methods in tasks of their own and turns their endings into statuses."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], MessageStream[Any, Any]] = {}

    async def run(
        self, context: grpc.aio.ServicerContext, stream: MessageStream[Any, Any], method: Coroutine[Any, Any, None]
    ) -> None:
        task = asyncio.create_task(method, name="method of a gRPC stream")
        self._running[task] = stream
        task.add_done_callback(self._ended)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:  # how grpc.aio says that the other side is gone
            stream.lose(connection_lost("the connection was lost"))
            await _finish(task)
            raise
        finally:
            await stream.close()
            if not task.done():
                task.cancel()
        await _answer(context, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()):
            _log_defect(error)

    def lose_all(self) -> None:
        for stream in self._running.values():
            stream.lose(connection_lost("the server stops"))

    async def wait(self) -> None:
        """Waits until every method has ended, which `run` sees to."""
        if tasks := list(self._running):
            await asyncio.wait(tasks, timeout=STOP_WITHIN_S)


async def _finish(task: asyncio.Task[None]) -> None:
    """Lets the method notice that its stream is lost, and cancels it where it does not."""
    await asyncio.wait({task}, timeout=STOP_WITHIN_S)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


_STATUS: tuple[tuple[type[TvarrError], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Refused, grpc.StatusCode.FAILED_PRECONDITION),
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (TvarrError, grpc.StatusCode.ABORTED),
)


async def _answer(context: grpc.aio.ServicerContext, task: asyncio.Task[Any]) -> None:
    """Ends the call with the status of how its method ended."""
    if task.cancelled():
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
    error = task.exception()
    if error is None:
        return
    await context.abort(*_status(error))


def _log_defect(error: BaseException) -> None:
    if not isinstance(error, TvarrError):
        log.error("a gRPC method failed", exc_info=error)


def _status(error: BaseException) -> tuple[grpc.StatusCode, str]:
    if not isinstance(error, TvarrError):
        return grpc.StatusCode.INTERNAL, "internal error"
    if isinstance(error, JobError) and error.code is ErrorCode.BAD_REQUEST:
        return grpc.StatusCode.INVALID_ARGUMENT, clean(str(error), MAX_STATUS_CHARACTERS)
    return next(code for kind, code in _STATUS if isinstance(error, kind)), clean(str(error), MAX_STATUS_CHARACTERS)


RequestT = TypeVar("RequestT", bound=betterproto2.Message)


def _unary(cls: type[RequestT], method: Callable[[RequestT], Awaitable[betterproto2.Message]]) -> grpc.RpcMethodHandler:
    async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return encode_message(await method(decode_message(cls, request)))
        except Exception as error:
            _log_defect(error)
            await context.abort(*_status(error))
            raise

    return grpc.unary_unary_rpc_method_handler(handle)


FirstT = TypeVar("FirstT")


async def _first(stream: MessageStream[Any, Any], kind: type[FirstT]) -> FirstT:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_WITHIN_S):
            item = await stream.receive()
    except TimeoutError:
        raise WireError(f"no {kind.__name__} within {FIRST_MESSAGE_WITHIN_S:g} s") from None
    if not isinstance(item, kind):
        raise WireError(f"the first message must be {kind.__name__}, not {type(item).__name__}")
    return item


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise Refused(
            f"protocol version {version} is not spoken here, only {PROTOCOL_VERSION}: "
            "install the same version of tvarr on both sides"
        )


def _explain(error: grpc.RpcError) -> TvarrError:
    return connection_lost(clean(str(error)))


def _peer(context: grpc.aio.ServicerContext) -> str:
    """`address:port` of the other side; gRPC writes `ipv4:127.0.0.1:5000` and `ipv6:%5B::1%5D:5000`."""
    return unquote(str(context.peer()).removeprefix("ipv4:").removeprefix("ipv6:"))
