"""The dialling ends of both services: they show the token, and give typed streams and answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import betterproto2
import grpc
import grpc.aio

from tvarr.errors import ErrorCode, InvalidRequest, JobError, Refused, TvarrError, WireError
from tvarr.wire import messages as m
from tvarr.wire.codec import decode_message, encode_message
from tvarr.wire.protocol import CHANNEL_OPTIONS, COORDINATOR_SERVICE, FFMPEGD_SERVICE, PROTOCOL_VERSION, Endpoint
from tvarr.wire.streams import CoordinatorMessages, JobInputs, JobOutputs, MessageStream, connection_lost

ANSWER_WITHIN_S = 10.0  # a unary call
PROBE_WITHIN_S = 120.0  # one that tries every encoder first
GOODBYE_S = 1.0  # an ended stream waits this long for the coordinator's status before it is cut

_REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED: "it does not take the token",
    grpc.StatusCode.FAILED_PRECONDITION: "",
    grpc.StatusCode.UNIMPLEMENTED: "it does not serve this",
}


@asynccontextmanager
async def dial_attach(endpoint: Endpoint) -> AsyncIterator[CoordinatorMessages]:
    """`Attach`, dialled; left with a goodbye, or cut where the coordinator does not answer.

    It begins to connect; the first send or receive says whether that worked. Besides `JobError` with
    `CONNECTION_LOST` the stream raises `Refused` where trying again soon is no use: the token, the protocol version,
    or something else than a coordinator at that address.
    """
    channel = _channel(endpoint)
    call = _call(channel, f"/{COORDINATOR_SERVICE}/Attach", endpoint)
    stream = CoordinatorMessages(call, lambda error: _explain_attach(error, endpoint))
    try:
        yield stream
    finally:
        await _end(stream, call, channel)


@asynccontextmanager
async def dial_work(endpoint: Endpoint) -> AsyncIterator[JobInputs]:
    """`Work`, dialled on a connection of its own: one slow job never holds another up.

    Left with a goodbye: what was sent is there when the coordinator ends the call, which may take its time with the
    output of a file. Left by an exception it is cut after `GOODBYE_S`.
    """
    channel = _channel(endpoint)
    call = _call(channel, f"/{COORDINATOR_SERVICE}/Work", endpoint)
    stream = JobInputs(call, lambda error: _explain_job(error, endpoint))
    within_s: float | None = GOODBYE_S
    try:
        yield stream
        within_s = None
    finally:
        await _end(stream, call, channel, within_s)


@asynccontextmanager
async def dial_transcode(endpoint: Endpoint) -> AsyncIterator[JobOutputs]:
    """`Transcode`, dialled on a connection of its own. Left with a goodbye, or cut where the daemon does not answer.

    Besides `JobError` the stream raises what `Calls` do.
    """
    channel = _channel(endpoint)
    call = _call(channel, f"/{FFMPEGD_SERVICE}/Transcode", endpoint)
    stream = JobOutputs(call, lambda error: _explain_client(error, endpoint))
    try:
        yield stream
    finally:
        await _end(stream, call, channel)


AnswerT = TypeVar("AnswerT", bound=betterproto2.Message)


class Calls:
    """The unary calls of `Ffmpegd`, on one connection. Each takes at most `ANSWER_WITHIN_S`, a probe `PROBE_WITHIN_S`.

    They raise `Refused` (the token, the protocol version, or no daemon that listens), `InvalidRequest`, and `JobError`
    with `CONNECTION_LOST` where the daemon does not answer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel = _channel(endpoint)

    async def close(self) -> None:
        await self._channel.close()

    async def register(self, client_name: str) -> m.RegisterReply:
        request = m.RegisterRequest(protocol_version=PROTOCOL_VERSION, client_name=client_name)
        return await self._ask("Register", request, m.RegisterReply)

    async def get_stats(self) -> m.Heartbeat:
        return await self._ask("GetStats", m.StatsRequest(), m.Heartbeat)

    async def probe(self, max_age_s: float) -> m.Capabilities:
        return await self._ask("Probe", m.ProbeRequest(max_age_s=max_age_s), m.Capabilities, PROBE_WITHIN_S)

    async def _ask(
        self, method: str, request: betterproto2.Message, answer: type[AnswerT], within_s: float = ANSWER_WITHIN_S
    ) -> AnswerT:
        call = self._channel.unary_unary(f"/{FFMPEGD_SERVICE}/{method}")
        try:
            data = await call(encode_message(request), metadata=_metadata(self._endpoint), timeout=within_s)
        except grpc.RpcError as error:
            raise _explain_client(error, self._endpoint) from error
        return decode_message(answer, data)


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    if endpoint.tls is None:
        return grpc.aio.insecure_channel(endpoint.target, options=CHANNEL_OPTIONS)
    named = (("grpc.ssl_target_name_override", endpoint.tls.name),) if endpoint.tls.name else ()
    credentials = grpc.ssl_channel_credentials(endpoint.tls.pem or None)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=(*CHANNEL_OPTIONS, *named))


def _metadata(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {endpoint.token}"),)


def _call(channel: grpc.aio.Channel, method: str, endpoint: Endpoint) -> grpc.aio.StreamStreamCall:
    """Starts a call that carries bytes; the codec is the stream's."""
    return channel.stream_stream(method)(metadata=_metadata(endpoint))


async def _end(
    stream: MessageStream[Any, Any],
    call: grpc.aio.StreamStreamCall,
    channel: grpc.aio.Channel,
    within_s: float | None = GOODBYE_S,
) -> None:
    """Half-closes, waits for the other side to end too (None: however long it takes), and closes the connection."""
    try:
        async with asyncio.timeout(within_s):
            stream.discard()
            await stream.settle()
            await call.done_writing()
            await call.code()
    except (TimeoutError, asyncio.InvalidStateError, grpc.RpcError, grpc.aio.BaseError):
        pass
    finally:
        call.cancel()
        await stream.close()
        await channel.close()


# What gRPC (1.71 to 1.85) says of a connection that does not come about, and what a person can do about it.
_UNTRUSTED = re.compile(r"handshake failed.*(?:CERTIFICATE_VERIFY_FAILED|BAD_SIGNATURE): ([^:]+)|(Hostname Verif[^.]*)")
_NO_TLS_THERE = re.compile("handshake failed.*WRONG_VERSION_NUMBER")
_MAYBE_TLS_THERE = re.compile("failed to connect.*Socket closed")
_HTTP_THERE = re.compile("Trying to connect an http1|missing selected ALPN property")
_NOTHING_THERE = re.compile("failed to connect.*Connection refused")
_HOST_UNKNOWN = re.compile("Domain name not found|DNS resolution failed.*not found", re.IGNORECASE)


def _tls_words(details: str, endpoint: Endpoint) -> str:
    """What is wrong with TLS, empty where that is not what went wrong."""
    if endpoint.tls is None:
        return "it closed the connection; if it serves TLS, use grpcs://" if _MAYBE_TLS_THERE.search(details) else ""
    if found := _UNTRUSTED.search(details):
        return f"its certificate is not trusted ({found[1] or found[2]}); --tls-ca names what to trust"
    return "it does not speak TLS; use grpc://" if _NO_TLS_THERE.search(details) else ""


def _address_words(details: str) -> str:
    """What is wrong with the address, empty where that is not what went wrong."""
    if _HTTP_THERE.search(details):
        return "a web server answers there; workers need the coordinator's --grpc-port, 9090 unless it was set"
    if _NOTHING_THERE.search(details):
        return "nothing listens there (connection refused)"
    return "the host is unknown" if _HOST_UNKNOWN.search(details) else ""


def _words(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """`host:port: what went wrong`, on one line."""
    details = " ".join((error.details() or error.code().name.lower().replace("_", " ")).split())
    return f"{endpoint.target}: {_tls_words(details, endpoint) or _address_words(details) or details}"


def _explain(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    code = error.code()
    if code in _REFUSALS:
        return Refused(f"{endpoint.target}: {_REFUSALS[code]}" if _REFUSALS[code] else _words(error, endpoint))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return WireError(_words(error, endpoint))
    return connection_lost(_words(error, endpoint))


def _explain_attach(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    explained = _explain(error, endpoint)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return Refused(f"{explained}; it takes the one in its data folder's auth-token, or given as --auth-token there")
    return explained


def _explain_job(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return JobError(ErrorCode.CANCELLED, _words(error, endpoint))
    return connection_lost(_words(error, endpoint))


def _explain_client(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    code = error.code()
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return InvalidRequest(_words(error, endpoint))
    return _explain(error, endpoint)
