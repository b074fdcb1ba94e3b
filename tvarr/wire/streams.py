"""One typed message stream over a gRPC call, the same for both ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from tvarr.errors import ErrorCode, JobError, TvarrError, WireError
from tvarr.wire import messages as m
from tvarr.wire.codec import (
    MAX_MESSAGE_BYTES,
    CoordinatorItem,
    DaemonItem,
    JobInputItem,
    JobOutputItem,
    decode_coordinator,
    decode_daemon,
    decode_job_input,
    decode_job_output,
    encode_coordinator,
    encode_daemon,
    encode_job_input,
    encode_job_output,
)

PREFETCH = 4  # messages read ahead; when they are not taken, reading stops and HTTP/2 flow control holds the sender
NEWS_OF_LOSS_WITHIN_S = (
    0.2  # gRPC ends the reading of a server's stream a moment before it says that its client is gone
)
LAST_WORDS_S = 1.0  # a write that fails waits this long for the reader to learn why

SendT = TypeVar("SendT")
ReceiveT = TypeVar("ReceiveT")
Explain = Callable[[grpc.RpcError], TvarrError]

_BROKEN = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)  # what grpc.aio raises on a call that is over


class Transport(Protocol):
    """What both kinds of gRPC calls can do, here with bytes: `read` gives `grpc.aio.EOF` at the end."""

    async def read(self) -> Any: ...  # noqa: ANN401 - bytes or the EOF object, which has no public type

    def write(self, message: bytes) -> Coroutine[Any, Any, None]: ...


class _Over:
    """Takes a call's place once it is over: gRPC keeps a connection open for as long as somebody holds the call."""

    async def read(self) -> Any:  # noqa: ANN401 - as in `Transport`
        return grpc.aio.EOF

    async def write(self, message: bytes) -> None:
        raise asyncio.InvalidStateError(f"{len(message)} bytes for a stream that is closed")


def connection_lost(words: str) -> JobError:
    return JobError(ErrorCode.CONNECTION_LOST, words)


class MessageStream(Generic[SendT, ReceiveT]):
    """Sends and receives messages without their envelopes.

    One task may receive and any number may send. Both may be cancelled: a cancelled receive loses nothing, and a
    message whose send is cancelled goes out all the same, for gRPC can't take it back. Everything that arrived before
    a connection was lost is still received.
    """

    def __init__(
        self,
        transport: Transport,
        encode: Callable[[SendT], bytes],
        decode: Callable[[bytes], ReceiveT | None],
        *,
        explain: Explain,
        last: tuple[type, ...] = (),
        news_within_s: float = 0.0,
    ) -> None:
        """`explain` turns the other side's status into an error.

        `last` are the kinds of messages after which the other side may end the stream; one that ends without is lost.
        Empty: it may end at any time; then the end counts as proper where `lose` is not called in `news_within_s`.
        """
        self._transport = transport
        self._encode = encode
        self._decode = decode
        self._explain = explain
        self._last = last
        self._news_within_s = news_within_s
        self._lost = asyncio.Event()
        self._items: deque[ReceiveT] = deque()  # at most PREFETCH
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._sending = asyncio.Lock()
        self._said_last = False
        self._writing: asyncio.Task[None] | None = None  # one at a time, as gRPC wants it
        self._failure: TvarrError | None = None
        self._discarding = False
        self._read_to_end = False
        self._reader = asyncio.create_task(self._read(), name="reader of a gRPC stream")

    @property
    def failure(self) -> TvarrError | None:
        """Why the stream broke, once that is known."""
        return self._failure

    @property
    def ended(self) -> bool:
        """Whether the other side will say nothing more than what is here already."""
        return self._read_to_end

    async def receive(self) -> ReceiveT | None:
        """The next message, or None when the other side has ended the stream properly.

        Raises `JobError` with `CONNECTION_LOST` when the connection broke, and what `explain` and `decode` make of
        a refusal or of bytes that can't be read.
        """
        while not self._items:
            if self._read_to_end:
                if self._failure is not None:
                    raise self._failure
                return None
            self._readable.clear()
            await self._readable.wait()
        item = self._items.popleft()
        self._room.set()
        return item

    async def send(self, item: SendT) -> None:
        """Sends one message; waits while the other side does not take it.

        Raises `WireError` for a message that can't be written, and what `receive` would raise where the stream broke.
        """
        await self._send(item, last=False)

    async def send_last(self, item: SendT) -> None:
        """As `send`, also to a side that ended its own half early, or that sent what can't be read: to say so.

        It is the last: what others want to send meanwhile goes out before it or not at all.
        """
        await self._send(item, last=True)

    async def _send(self, item: SendT, *, last: bool) -> None:
        data = self._encode(item)
        if len(data) > MAX_MESSAGE_BYTES:
            raise WireError(f"a message of {len(data)} bytes; {MAX_MESSAGE_BYTES} are allowed")
        async with self._sending:
            if self._said_last:
                return
            self._said_last = last
            if self._failure is not None and (self._lost.is_set() or not last):
                raise self._failure
            try:
                await self.settle()
                self._writing = asyncio.create_task(self._transport.write(data), name="write to a gRPC stream")
                await asyncio.shield(self._writing)
            except _BROKEN as error:
                await asyncio.wait({self._reader}, timeout=LAST_WORDS_S)
                raise (self._failure or connection_lost("the stream is over")) from error

    async def settle(self) -> None:
        """Waits for a message whose send was cancelled to be out. Raises what its write raises."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def discard(self) -> None:
        """Reads on and keeps nothing: a status waits behind the messages that the other side has sent before it."""
        self._discarding = True
        self._items.clear()
        self._room.set()

    def lose(self, error: TvarrError) -> None:
        """The connection is gone, as the shell knows: senders get `error`, the receiver too after what has arrived."""
        self._lost.set()
        if not self._read_to_end:
            self._failure = self._failure or error
            self._end()

    def _end(self) -> None:
        self._read_to_end = True
        self._readable.set()

    async def close(self) -> None:
        """Stops reading and writing. Nothing can be received after it but what is here already."""
        tasks = [task for task in (self._reader, self._writing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._transport = _Over()
        self._failure = self._writing = None  # a raised error holds frames that hold this stream, and with it the call

    async def _read(self) -> None:
        last: object = None
        try:
            while (data := await self._transport.read()) is not grpc.aio.EOF:
                item = self._decode(data)
                if item is None:
                    continue
                last = item
                if self._discarding:
                    continue
                self._items.append(item)
                self._readable.set()
                if len(self._items) >= PREFETCH:
                    self._room.clear()
                    await self._room.wait()
            if self._last and not isinstance(last, self._last):
                raise connection_lost("the stream ended in the middle of the job")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), self._news_within_s)
        except TvarrError as error:
            self._failure = self._failure or error
        except grpc.RpcError as error:
            self._failure = self._failure or self._explain(error)
        except (*_BROKEN, asyncio.CancelledError):
            self._failure = self._failure or connection_lost("the stream was closed")
        finally:
            self._end()


_INPUT_ENDS = (m.InputComplete, m.TranscodeStop)
_OUTPUT_ENDS = (m.OutputComplete, m.TranscodeError)

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")


def _for_jobs(
    convert: Callable[[ArgumentT], ResultT], code: ErrorCode = ErrorCode.BAD_REQUEST
) -> Callable[[ArgumentT], ResultT]:
    """`convert` with its `WireError` turned into a `JobError`: whoever runs a job handles one kind of error."""

    def converted(argument: ArgumentT) -> ResultT:
        try:
            return convert(argument)
        except WireError as error:
            raise JobError(code, str(error)) from error

    return converted


class JobInputs(MessageStream[JobOutputItem, JobInputItem]):
    """A job's stream as the daemon holds it: receives input, sends output. Every error is a `JobError`."""

    def __init__(self, transport: Transport, explain: Explain) -> None:
        encode, decode = _for_jobs(encode_job_output), _for_jobs(decode_job_input)
        super().__init__(transport, encode, decode, explain=explain, last=_INPUT_ENDS)


class JobOutputs(MessageStream[JobInputItem, JobOutputItem]):
    """A job's stream as its owner holds it: sends input, receives output. Every error is a `JobError`."""

    def __init__(self, transport: Transport, explain: Explain) -> None:
        encode, decode = _for_jobs(encode_job_input), _for_jobs(decode_job_output, ErrorCode.BAD_OUTPUT)
        super().__init__(transport, encode, decode, explain=explain, last=_OUTPUT_ENDS)


class DaemonMessages(MessageStream[CoordinatorItem, DaemonItem]):
    """`Attach` as the coordinator holds it."""

    def __init__(self, transport: Transport, explain: Explain) -> None:
        super().__init__(
            transport, encode_coordinator, decode_daemon, explain=explain, news_within_s=NEWS_OF_LOSS_WITHIN_S
        )


class CoordinatorMessages(MessageStream[DaemonItem, CoordinatorItem]):
    """`Attach` as the daemon holds it."""

    def __init__(self, transport: Transport, explain: Explain) -> None:
        super().__init__(transport, encode_daemon, decode_coordinator, explain=explain)
