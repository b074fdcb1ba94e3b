"""The daemon's end of `Coordinator`: dials, shows the token, and gives typed streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from tvarr.errors import ErrorCode, JobError, Refused, TvarrError, WireError
from tvarr.wire.protocol import CHANNEL_OPTIONS, COORDINATOR_SERVICE, Endpoint
from tvarr.wire.streams import CoordinatorMessages, JobInputs, MessageStream, connection_lost

GOODBYE_S = 1.0  # an ended stream waits this long for the coordinator's status before it is cut

_REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED: "it does not take the token",
    grpc.StatusCode.FAILED_PRECONDITION: "",
    grpc.StatusCode.UNIMPLEMENTED: "no tvarr coordinator answers there",
}


@asynccontextmanager
async def dial_attach(endpoint: Endpoint) -> AsyncIterator[CoordinatorMessages]:
    """`Attach`, dialled; left with a goodbye, or cut where the coordinator does not answer.

    It begins to connect; the first send or receive says whether that worked. Besides `JobError` with
    `CONNECTION_LOST` the stream raises `Refused` where trying again soon is no use: the token, the protocol version,
    or something else than a coordinator at that address.
    """
    channel = _channel(endpoint)
    call = _call(channel, "Attach", endpoint)
    stream = CoordinatorMessages(call, lambda error: _explain(error, endpoint))
    try:
        yield stream
    finally:
        await _end(stream, call, channel)


@asynccontextmanager
async def dial_work(endpoint: Endpoint) -> AsyncIterator[JobInputs]:
    """`Work`, dialled on a connection of its own: one slow job never holds another up. Left with a goodbye."""
    channel = _channel(endpoint)
    call = _call(channel, "Work", endpoint)
    stream = JobInputs(call, lambda error: _explain_job(error, endpoint))
    try:
        yield stream
    finally:
        await _end(stream, call, channel)


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    if endpoint.tls is None:
        return grpc.aio.insecure_channel(endpoint.target, options=CHANNEL_OPTIONS)
    named = (("grpc.ssl_target_name_override", endpoint.tls.name),) if endpoint.tls.name else ()
    credentials = grpc.ssl_channel_credentials(endpoint.tls.pem or None)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=(*CHANNEL_OPTIONS, *named))


def _call(channel: grpc.aio.Channel, method: str, endpoint: Endpoint) -> grpc.aio.StreamStreamCall:
    """Starts a call that carries bytes; the codec is the stream's."""
    metadata = (("authorization", f"Bearer {endpoint.token}"),)
    return channel.stream_stream(f"/{COORDINATOR_SERVICE}/{method}")(metadata=metadata)


async def _end(stream: MessageStream[Any, Any], call: grpc.aio.StreamStreamCall, channel: grpc.aio.Channel) -> None:
    """Half-closes, waits shortly for the other side to end too, and closes the connection."""
    try:
        async with asyncio.timeout(GOODBYE_S):
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


def _tls_words(details: str, endpoint: Endpoint) -> str:
    """What is wrong with TLS, empty where that is not what went wrong."""
    if endpoint.tls is None:
        return "it closed the connection; if it serves TLS, use grpcs://" if _MAYBE_TLS_THERE.search(details) else ""
    if found := _UNTRUSTED.search(details):
        return f"its certificate is not trusted ({found[1] or found[2]}); --tls-ca names what to trust"
    return "it does not speak TLS; use grpc://" if _NO_TLS_THERE.search(details) else ""


def _words(error: grpc.RpcError, endpoint: Endpoint) -> str:
    """`host:port: what went wrong`, on one line."""
    details = " ".join((error.details() or error.code().name.lower().replace("_", " ")).split())
    return f"{endpoint.target}: {_tls_words(details, endpoint) or details}"


def _explain(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    code = error.code()
    if code in _REFUSALS:
        return Refused(f"{endpoint.target}: {_REFUSALS[code]}" if _REFUSALS[code] else _words(error, endpoint))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return WireError(_words(error, endpoint))
    return connection_lost(_words(error, endpoint))


def _explain_job(error: grpc.RpcError, endpoint: Endpoint) -> TvarrError:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return JobError(ErrorCode.CANCELLED, _words(error, endpoint))
    return connection_lost(_words(error, endpoint))
