"""Errors as answers: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from tvarr import memory
from tvarr.coordinator.auth import TooManyFailures
from tvarr.errors import (
    CannotCarry,
    ConfigError,
    Conflict,
    ConnectionsTaken,
    ErrorCode,
    InvalidRequest,
    JobError,
    MediaError,
    NoPlacement,
    NotFound,
    QueueTimeout,
    SourceError,
    Stale,
    StoreError,
    TvarrError,
)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS_BY_ERROR: tuple[tuple[type[TvarrError], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (InvalidRequest, HTTPStatus.BAD_REQUEST),
    (ConfigError, HTTPStatus.BAD_REQUEST),
    (Conflict, HTTPStatus.CONFLICT),
    (Stale, HTTPStatus.PRECONDITION_FAILED),
    (CannotCarry, HTTPStatus.NOT_ACCEPTABLE),
    (SourceError, HTTPStatus.BAD_GATEWAY),
    (MediaError, HTTPStatus.BAD_GATEWAY),
    (NoPlacement, HTTPStatus.SERVICE_UNAVAILABLE),
    (ConnectionsTaken, HTTPStatus.SERVICE_UNAVAILABLE),
    (QueueTimeout, HTTPStatus.GATEWAY_TIMEOUT),
    (JobError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""The first row that fits; what has none is 500."""

SOURCE_IS_TO_BLAME = frozenset({ErrorCode.BAD_INPUT, ErrorCode.BAD_REQUEST})
RETRY_AFTER_S = 5
STREAM_ADDRESSES = (
    "streams are /stream/CHANNEL.ts, /stream/CHANNEL.mp4, /stream/CHANNEL/index.m3u8 and /stream/CHANNEL/manifest.mpd"
)
NO_TUNER = "805 All Tuners In Use"  # what clients of such devices look for, by Silicondust's HTTP development guide


def problem(
    status: int, detail: str, *, headers: dict[str, str] | None = None, reasons: tuple[str, ...] = ()
) -> web.Response:
    """One error answer. `reasons` has one line for each thing that was considered, where a choice was made."""
    body: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if reasons:
        body["reasons"] = list(reasons)
    return web.Response(
        status=status,
        text=json.dumps(body, ensure_ascii=False),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def status_of(error: TvarrError) -> HTTPStatus:
    """The status of the answer for one of our errors."""
    if isinstance(error, JobError) and error.code in SOURCE_IS_TO_BLAME:
        return HTTPStatus.BAD_GATEWAY
    if isinstance(error, StoreError) and error.full:
        return HTTPStatus.INSUFFICIENT_STORAGE
    found = (status for kind, status in STATUS_BY_ERROR if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def answer_for(error: TvarrError) -> web.Response:
    """The answer for one of our errors."""
    status = status_of(error)
    if isinstance(error, StoreError) or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("a request failed: %s", error)
    reasons: tuple[str, ...] = ()
    retry_after_s = RETRY_AFTER_S
    if isinstance(error, NoPlacement | ConnectionsTaken):
        reasons, retry_after_s = error.reasons, max(1, math.ceil(error.retry_after_s))
    elif isinstance(error, QueueTimeout):
        reasons = error.reasons
    elif isinstance(error, JobError):
        reasons = error.stderr
    headers = {"Retry-After": str(retry_after_s)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    if isinstance(error, ConnectionsTaken):
        headers["X-HDHomeRun-Error"] = NO_TUNER
    return problem(status, str(error), headers=headers, reasons=reasons)


def _end_what_began(request: web.Request) -> None:
    """Breaks the connection of an answer that has begun, which can't become another one any more."""
    if request.writer.output_size and request.transport is not None:
        request.transport.abort()


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The root of every request: whatever goes wrong becomes an answer, and nothing of a traceback leaves."""
    try:
        return await handler(request)
    except web.HTTPException as answer:
        if answer.status < 400:
            raise
        detail = answer.reason
        if answer.status == HTTPStatus.NOT_FOUND and request.path.startswith("/stream/"):
            detail = STREAM_ADDRESSES
        kept = {name: value for name, value in answer.headers.items() if name in {"Allow", "Retry-After"}}
        return problem(answer.status, detail, headers=kept)
    except TooManyFailures as error:
        headers = {"Retry-After": str(error.retry_after_s)}
        return problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), headers=headers)
    except TvarrError as error:
        return answer_for(error)
    except ConnectionResetError:
        raise  # the client left while it was answered
    except Exception as error:
        _end_what_began(request)
        if memory.is_short(error):
            words = f"the coordinator has no {memory.what_lacks(error)} left"
            log.error("%s %s failed: %s", request.method, request.path, words)
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, words, headers=headers)
        log.exception("%s %s failed", request.method, request.path)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of the coordinator; its log has the details")
