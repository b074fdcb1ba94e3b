"""What a source is, how long it is waited for, and how it is named without its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args
from urllib.parse import urlsplit

from tvarr.cluster.schemes import FETCHED_SCHEMES
from tvarr.errors import InvalidRequest, SourceError, TvarrError
from tvarr.media.batching import Rhythm

NETWORK_SCHEMES = frozenset({"http", "https"})  # that are read here
SCHEMES = NETWORK_SCHEMES | {"file"} | FETCHED_SCHEMES
Pace = Literal["auto", "realtime", "fast"]
PACES = get_args(Pace)


class SourceFailure(SourceError):
    """One connection to a source came to nothing; a later one may do better.

    `passing`: the server is there and may only be busy or starting, so it is asked again even where nothing ever came.
    `gone`: the source is no longer there (refused, 404, an empty answer), as one that has ended is.
    `ended`: the body came to its end in good order, though nothing had said where that would be.
    `at_once`: nothing failed, the source is only to be read from elsewhere: no delay before the next connection.
    `foreign`: these are media in a container that only ffmpeg reads.
    `retry_after_s`: the server wants to be asked again no sooner than that; 0: it says nothing.
    `answer`: what viewers are told instead of this, where it is no fault of the source.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool = False,
        gone: bool = False,
        ended: bool = False,
        at_once: bool = False,
        foreign: bool = False,
        retry_after_s: float = 0.0,
        answer: TvarrError | None = None,
    ) -> None:
        super().__init__(message)
        self.passing = passing
        self.gone = gone
        self.ended = ended
        self.at_once = at_once
        self.foreign = foreign
        self.retry_after_s = retry_after_s
        self.answer = answer


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where a channel's media come from, and how fast they are taken."""

    url: str  # of one of `SCHEMES`, with `#program=N`, `#max_height=N` and `#max_kbps=N`, joined by `&`
    pace: str = "auto"  # auto (files at real time, networks as they come up to that), realtime, fast
    loop: bool = False  # a source that ends starts again; under `auto` that makes any source one at real time
    user_agent: str = ""  # empty: tvarr/VERSION
    headers: Mapping[str, str] = field(default_factory=dict)
    media_dir: Path | None = None  # `file:` sources lie below it; None: there are none
    program: int | None = None  # MPEG-TS program number; None: the demuxer's choice
    max_height: int = 0  # of HLS variants, in pixels; 0: no cap
    max_kbps: int = 0  # the same for what they announce as their bandwidth
    audio_languages: tuple[str, ...] = ()  # of the sound that is taken, the most wanted first; empty: all

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        pace: str = "auto",
        loop: bool = False,
        user_agent: str = "",
        headers: Mapping[str, str] | None = None,
        media_dir: Path | None = None,
        program: int = 0,
        max_height: int = 0,
        max_kbps: int = 0,
        audio_languages: Sequence[str] = (),
    ) -> SourceSpec:
        """Reads a channel's URL and settings; raises `InvalidRequest` for what no source can be made of.

        Where `program`, `max_height` and `max_kbps` are 0, the URL's fragment may name them.
        """
        url = url.strip()
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises where it is no number
        except ValueError as error:
            raise InvalidRequest(f"{redact(url)!r} is not a URL") from error
        if not parts.scheme:
            raise InvalidRequest(f"{redact(url)!r} is not a URL: it has no scheme")
        if parts.scheme not in SCHEMES:
            raise InvalidRequest(f"nothing here reads {parts.scheme}: sources; known are {', '.join(sorted(SCHEMES))}")
        if parts.scheme in NETWORK_SCHEMES and not parts.hostname:
            raise InvalidRequest(f"{redact(url)!r} names no host")
        if parts.scheme == "file" and media_dir is None:
            raise InvalidRequest("file: sources are read only below a folder given with --media-dir")
        if pace not in PACES:
            raise InvalidRequest(f"pace is one of {', '.join(PACES)}, not {pace!r}")
        return cls(
            url,
            pace,
            loop,
            user_agent,
            dict(headers or {}),
            media_dir,
            program or program_of(url),
            max_height=max_height or _number_of("max_height", url) or 0,
            max_kbps=max_kbps or _number_of("max_kbps", url) or 0,
            audio_languages=tuple(audio_languages),
        )

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def is_network(self) -> bool:
        """It is no file, and what it brings may never come again."""
        return self.scheme != "file"

    @property
    def effective_pace(self) -> str:
        """`realtime`, `fast`, or `live`: as the network brings it, though never far ahead of real time."""
        if self.pace != "auto":
            return self.pace
        return "live" if self.is_network and not self.loop else "realtime"


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """How long a source is waited for, and how much of it is held."""

    connect_s: float = 10.0  # from a request to its answer's headers, redirects included; also for all first tries
    first_media_s: float = 10.0  # data may flow this long without a picture or sound, at first and later
    first_media_bytes: int = 64 * 1024 * 1024  # and this much of it may come before the first
    stall_s: float = 10.0  # longest silence on a connection
    retry_base_s: float = 0.5  # the first delay before a new connection is drawn from 0 to this,
    retry_max_s: float = 15.0  # each later one from twice the range, at most this
    healthy_s: float = 5.0  # media flowed this long on one connection: delays start small again
    give_up_s: float = 60.0  # without media for this long, after there had been some
    max_redirects: int = 10
    slice_s: float = 0.08  # media come in slices of this while a stream is young,
    settled_slice_s: float = 0.5  # and of this later
    live_ahead_s: float = 15.0  # a network's media come at most so far ahead of real time: then reading waits
    preroll_s: float = 1.0  # at real time: this much media is sent at once, for players to start on

    def rhythm(self) -> Rhythm:
        """Of one stream's slices."""
        return Rhythm(self.slice_s, self.settled_slice_s)


class Stream(Protocol):
    """One open connection or file."""

    @property
    def content_type(self) -> str:
        """What the server says it sends; empty where nothing says it."""

    @property
    def url(self) -> str:
        """Where it comes from: after redirects, or the file's absolute `file:` URL."""

    @property
    def zipped(self) -> bool:
        """It is gzip-encoded."""

    @property
    def whole(self) -> bool:
        """After the end: everything there was to come has come."""

    @property
    def finite(self) -> bool:
        """It says how much will come."""

    async def read(self) -> bytes:
        """What is there now, at least one byte; `b""` at the end. Raises `SourceFailure` where the connection broke."""


def is_file(url: str) -> bool:
    """Whether it is read from this machine, and is no connection to anybody."""
    return url.lower().startswith("file:")


def program_of(url: str) -> int | None:
    """The MPEG-TS program that the URL's fragment asks for: `#program=N`."""
    return _number_of("program", url)


def _number_of(name: str, url: str) -> int | None:
    match = re.search(rf"#(?:[^#]*&)?{name}=(\d{{1,5}})(?:&|$)", url)
    return int(match[1]) if match else None


_USER_INFO = re.compile(r"(?<=//)[^/?#\s]*@")
_SECRET_VALUE = re.compile(
    r"([?&;#][^=&;#\s]*(?:token|key|pass|pwd|secret|auth|sig|user|login|sess|cred|hash|streamid)[^=&;#\s]*=)[^&;#\s]+",
    re.IGNORECASE,
)
_STREAM_KEY = re.compile(r"^(rtmp\w*://[^/?#\s]+/[^/?#\s]+/)[^?#\s]+", re.IGNORECASE)
_SECRET_PATH = re.compile(r"(/(?:live|movie|series|timeshift)/)[^/?#\s]+/[^/?#\s]+(?=/)", re.IGNORECASE)


def redact(url: str) -> str:
    """The URL without what gives access: user and password, values of parameters named like secrets, and the
    account in the paths of Xtream-style panels (`/live/USER/PASSWORD/1.ts`), and the key of an RTMP stream.
    """
    url = _USER_INFO.sub("***@", url)
    url = _SECRET_VALUE.sub(r"\1***", url)
    url = _STREAM_KEY.sub(r"\1***", url)
    return _SECRET_PATH.sub(r"\1***/***", url)
