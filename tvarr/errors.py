"""The one tree of errors.

Everything tvarr raises on purpose is a `TvarrError`; each class says who is told and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class TvarrError(Exception):
    """Base of all errors that have words for a user; `str()` is one line without a trailing full stop."""


class ConfigError(TvarrError):
    """A flag or environment variable has a value that can't be used: exit code 2."""


class StartError(TvarrError):
    """A role can't start (port in use, no ffmpeg): exit code 1."""


class MediaError(TvarrError):
    """Bytes that are not the container or codec they should be."""


class NotTransportStream(MediaError):
    """No MPEG-TS sync within the documented number of bytes."""


class MoovBehind(MediaError):
    """An MP4 whose index is behind its media: it can't be read from front to back. `moov_at`: where to look, bytes."""

    def __init__(self, message: str, moov_at: int) -> None:
        super().__init__(message)
        self.moov_at = moov_at


class CannotCarry(MediaError):
    """A container has no mapping for a codec: HTTP 406."""


class SourceError(TvarrError):
    """A channel's source can't be reached or read: HTTP 502 with the cause."""


class NotFound(TvarrError):
    """No such channel, profile, relay or daemon: HTTP 404."""


class Conflict(TvarrError):
    """The name is taken, or the thing may not be changed: HTTP 409."""


class Stale(TvarrError):
    """Somebody else changed the thing after the asker had read it: HTTP 412."""


class StoreError(TvarrError):
    """What is kept on disk can't be read or written now: HTTP 503, or 507 where the disk is `full`."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class InvalidRequest(TvarrError):
    """A request's content can't be used: HTTP 400."""


class NoPlacement(TvarrError):
    """No daemon can do the job now: HTTP 503 with `reasons`, one line for each daemon considered.

    `retry_after_s`: when it is worth another try, as far as that is known. `busy`: the end of another job would help.
    `exhausted`: some could, but what they have is taken.
    """

    def __init__(
        self,
        message: str,
        reasons: Sequence[str] = (),
        retry_after_s: float = 5.0,
        *,
        busy: bool = False,
        exhausted: bool = False,
    ) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        self.retry_after_s = retry_after_s
        self.busy = busy
        self.exhausted = exhausted


class ConnectionsTaken(TvarrError):
    """A channel group, or all channels, use what they may: HTTP 503 with `reasons`, one line for each in use."""

    retry_after_s = 10.0  # nobody knows when a viewer leaves

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class QueueTimeout(TvarrError):
    """A job waited for a free daemon for as long as it may: HTTP 504 with `reasons`, one line for each daemon."""

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class WireError(TvarrError):
    """Bytes that are no message of the wire protocol, or a message where none of its kind belongs: INVALID_ARGUMENT."""


class Refused(TvarrError):
    """The other side turns this one away, and will again: a wrong token or another protocol version."""


class ErrorCode(StrEnum):
    """Why a transcode failed; the names are those of `TranscodeError.Code` on the wire, in lower case."""

    BAD_REQUEST = "bad_request"  # the job itself makes no sense: an unknown codec, no tracks
    UNSUPPORTED = "unsupported"  # this daemon's ffmpeg has no such encoder or decoder
    CAPACITY = "capacity"  # the daemon's own job or session limit is reached
    SESSION_LIMIT = "session_limit"  # the driver refuses another encoder session; the GPU is healthy
    GPU_UNAVAILABLE = "gpu_unavailable"  # device, driver or library is missing or broken
    DRIVER_TOO_OLD = "driver_too_old"  # this ffmpeg needs a newer driver
    PERMISSION = "permission"  # the device node may not be opened
    FRAME_SIZE = "frame_size"  # the encoder does not take this picture size
    OUT_OF_MEMORY = "out_of_memory"
    BAD_INPUT = "bad_input"  # nothing in the input could be decoded
    STALLED = "stalled"  # input flows and nothing comes out
    FFMPEG_EXITED = "ffmpeg_exited"  # ended or crashed without words that we know
    CANCELLED = "cancelled"  # asked to stop
    SHUTTING_DOWN = "shutting_down"  # the daemon ends
    CONNECTION_LOST = "connection_lost"  # the stream between coordinator and daemon broke
    INTERNAL = "internal"  # a defect of ours
    BAD_OUTPUT = "bad_output"  # what a daemon sent can't have been made of the job's input
    SOURCE_UNREACHABLE = "source_unreachable"  # a source that a daemon fetches can't be reached, or stopped sending
    SOURCE_GONE = "source_gone"  # its host refuses the connection, or does not have it
    SOURCE_DENIED = "source_denied"  # its host does not let us have it


class JobError(TvarrError):
    """A job that ended without finishing its work.

    `retry_elsewhere` and `retry_in_software` say what may help; `stderr` holds ffmpeg's last lines.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        stderr: Sequence[str] = (),
        retry_elsewhere: bool = True,
        retry_in_software: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.stderr = tuple(stderr)
        self.retry_elsewhere = retry_elsewhere
        self.retry_in_software = retry_in_software
