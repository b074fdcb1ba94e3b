"""Channels and profiles: what they hold, and what values they take.

The same classes are the rows of the store, the JSON of the API and the schemas of its description. Zero and the empty
string mean "not set"; null in a request means the same. What was read can be sent to make another: what only the
coordinator knows is passed over.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from anyascii import anyascii
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from tvarr.cluster.schemes import LISTENING_SCHEMES
from tvarr.coordinator.source import SCHEMES, Pace
from tvarr.coordinator.sources.languages import canonical
from tvarr.errors import InvalidRequest

MAX_URL_CHARS = 4096
MAX_HEADERS = 32
MAX_LANGUAGES = 16

READ = "http, https, file and what ffmpeg reads (rtsp, srt, udp, ...) are read"

AUDIO_CHANNEL_LIMITS = {"mp2": 2, "mp3": 2, "ac3": 6, "eac3": 6, "aac": 6, "opus": 8}
"""The most channels that daemons make of each codec; those of `tvarr.ffmpeg.families`, which a test compares."""

VideoCodec = Literal["copy", "h264", "hevc", "mpeg2video", "av1", "vp9"]
AudioCodec = Literal["copy", "aac", "ac3", "eac3", "mp2", "mp3", "opus"]
Preset = Literal[
    "", "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]  # x264's names; other families translate them
HwAccel = Literal["auto", "none", "nvenc", "vaapi", "qsv", "amf", "v4l2m2m", "rkmpp", "vulkan", "videotoolbox"]
Deinterlace = Literal["auto", "on", "off"]
ExhaustedPolicy = Literal["", "queue", "fallback", "reject"]

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_FRAMING_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"})
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _printable(value: str) -> str:
    if _UNPRINTABLE.search(value):
        raise ValueError("has control characters or line breaks")
    return value


def _source_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in SCHEMES:
        named = f"nobody reads {parts.scheme}:" if parts.scheme else "has no scheme"
        raise ValueError(f"{named}; {READ}")
    if parts.scheme in LISTENING_SCHEMES and not parts.port:
        raise ValueError("names no port")
    if parts.scheme not in {"file", *LISTENING_SCHEMES} and not parts.hostname:
        raise ValueError("names no host")
    if parts.scheme == "file" and parts.netloc not in {"", "localhost"}:
        raise ValueError("names another host; file:///absolute or file:relative is meant")
    if parts.scheme == "file" and not parts.path.strip("/"):
        raise ValueError("names no file")
    if parts.scheme == "file" and "%00" in parts.path:
        raise ValueError("has a NUL in it")
    return value


def _split(url: str) -> SplitResult:
    if re.search(r"\s", url):
        raise ValueError("has white space in it")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    return parts


def _web_url(value: str) -> str:
    if value and (_split(value).scheme not in {"http", "https"} or not _split(value).hostname):
        raise ValueError("takes an http or https URL")
    return value


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError("takes lower-case letters, digits and single hyphens between them")
    return value


def _headers(value: dict[str, str]) -> dict[str, str]:
    if len(value) > MAX_HEADERS:
        raise ValueError(f"takes at most {MAX_HEADERS}")
    for name, content in value.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is not a header's name")
        if name.lower() in _FRAMING_HEADERS:
            raise ValueError(f"{name} is tvarr's own")
        if _UNPRINTABLE.search(content) or len(content) > MAX_URL_CHARS:
            raise ValueError(f"{name} has line breaks, control characters or more than {MAX_URL_CHARS} characters")
    return value


def _languages(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > MAX_LANGUAGES:
        raise ValueError(f"takes at most {MAX_LANGUAGES}")
    for tag in value:
        if not canonical(tag):
            raise ValueError(f"{tag[:20]!r} is not a language; take codes such as eng, deu or en")
    return tuple(dict.fromkeys(tag.strip().lower() for tag in value))


def _even(value: int) -> int:
    if value % 2 or 0 < value < 16:
        raise ValueError("takes 0 (as in the source) or an even number from 16 to 8192")
    return value


def _bounded(low: int) -> AfterValidator:
    def check(value: int) -> int:
        if 0 < value < low:
            raise ValueError(f"takes 0 (not set) or at least {low}")
        return value

    return AfterValidator(check)


Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), AfterValidator(_printable)]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)
]
SourceUrl = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_URL_CHARS),
    AfterValidator(_printable),
    AfterValidator(_source_url),
]
LogoUrl = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_URL_CHARS),
    AfterValidator(_printable),
    AfterValidator(_web_url),
]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(_slug)]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ProfileRef = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
Languages = Annotated[tuple[str, ...], AfterValidator(_languages)]
Headers = Annotated[dict[str, str], AfterValidator(_headers)]
Side = Annotated[int, Field(ge=0, le=8192), AfterValidator(_even)]


def _switch(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    made_here: ClassVar[frozenset[str]] = frozenset()  # fields of what is read that mean nothing in what is sent

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_set(cls, data: object) -> object:
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None and key not in cls.made_here}
        return data


class ChannelFields(_Model):
    """What a user says of a channel."""

    name: Name
    url: SourceUrl = Field(
        description="http, https, file: below --media-dir, or what a daemon's ffmpeg reads: rtsp, rtmp, srt, udp, ..."
    )
    profile: ProfileRef = Field("", description="for viewers who name none; empty: passthrough")
    group: Text = ""
    logo: LogoUrl = ""
    tvg_id: Text = Field("", description="the channel's id in a programme guide")
    tvg_chno: Text = Field("", description="channel number")
    pace: Pace = Field("auto", description="auto: files at real time, networks as they come up to that")
    loop: bool = Field(False, description="start again at the end of the source")
    user_agent: Text = ""
    headers: Headers = Field(default_factory=dict, description="sent to the source")
    audio_languages: Languages = Field(
        (), description="ISO 639; sound in these, the most wanted first; empty, or none of them there: all"
    )
    program: int = Field(0, ge=0, le=65_535, description="MPEG-TS program number; 0: the first that can be played")
    max_height: int = Field(0, ge=0, le=8192, description="of HLS variants, of which the best within is read; 0: any")
    max_kbps: int = Field(0, ge=0, le=1_000_000, description="the same for the bandwidth that they announce")


class ChannelCreate(ChannelFields):
    """A new channel; without a slug one is made from the name."""

    made_here: ClassVar[frozenset[str]] = frozenset({"id"})

    slug: Slug | None = None


class Channel(ChannelFields):
    """A named live source."""

    id: str
    slug: Slug


class GroupFields(_Model):
    """What a user says of a channel group."""

    max_connections: int = Field(
        0, ge=0, le=10_000, description="to the provider at once, of all its channels together; 0: no limit"
    )


class Group(GroupFields):
    """Channels that share a provider's account: those whose `group` is this name."""

    name: Name


class ProfileFields(_Model):
    """An encoding profile."""

    name: ProfileName
    video_codec: VideoCodec = "copy"
    audio_codec: AudioCodec = "copy"
    width: Side = Field(0, description="the picture keeps its shape, fits into width x height and is never enlarged")
    height: Side = 0
    fps: float = Field(0.0, ge=0, le=240, description="at most; 0: as in the source")
    video_bitrate_kbps: Annotated[int, Field(ge=0, le=200_000), _bounded(50)] = Field(
        0, description="0: by the picture's size, or by crf"
    )
    audio_bitrate_kbps: Annotated[int, Field(ge=0, le=1024), _bounded(16)] = 0
    crf: int | None = Field(None, ge=0, le=63, description="constant quality; the bitrate, where set, is the ceiling")
    preset: Preset = Field("", description="by x264's names; other encoders get their nearest")
    gop_s: float = Field(2.0, ge=0.5, le=20, description="seconds between keyframes")
    hw_accel: HwAccel = Field(
        "auto",
        description="auto: hardware where there is some; none: software only; a family: that one alone, refused where "
        "no daemon has it, and software by exhausted_policy fallback while its sessions are taken",
    )
    deinterlace: Annotated[Deinterlace, BeforeValidator(_switch)] = Field(
        "auto", description="true and false are taken too"
    )
    audio_channels: int = Field(0, ge=0, le=8, description="0: as in the source")
    exhausted_policy: ExhaustedPolicy = Field("", description="when no session is free; empty: the coordinator's")

    @model_validator(mode="after")
    def _copy_changes_nothing(self) -> ProfileFields:
        if self.video_codec == "copy":
            set_ = [n for n in ("width", "height", "fps", "video_bitrate_kbps", "preset") if getattr(self, n)]
            set_ += ["crf"] if self.crf is not None else []
            if set_:
                raise ValueError(f"{', '.join(set_)}: video_codec copy changes nothing, name a codec")
        if self.audio_codec == "copy":
            if self.audio_bitrate_kbps or self.audio_channels:
                raise ValueError("audio_bitrate_kbps, audio_channels: audio_codec copy changes nothing, name a codec")
        elif self.audio_channels > AUDIO_CHANNEL_LIMITS[self.audio_codec]:
            most = AUDIO_CHANNEL_LIMITS[self.audio_codec]
            raise ValueError(f"audio_channels: {self.audio_codec} takes at most {most}")
        return self


class ProfileCreate(ProfileFields):
    """A new profile."""

    made_here: ClassVar[frozenset[str]] = frozenset({"builtin"})


class Profile(ProfileFields):
    """An encoding profile; built-in ones can't be changed."""

    builtin: bool = False


def builtin(name: str, **settings: Any) -> Profile:  # noqa: ANN401 - pydantic checks each
    return Profile(name=name, builtin=True, **settings)


BUILTIN_PROFILES = {
    profile.name: profile
    for profile in (
        builtin("passthrough"),
        builtin("h264", video_codec="h264", audio_codec="aac", preset="veryfast"),
        builtin(
            "h264-720p",
            video_codec="h264",
            audio_codec="aac",
            width=1280,
            height=720,
            video_bitrate_kbps=3000,
            audio_bitrate_kbps=128,
            preset="veryfast",
        ),
        builtin(
            "h264-low",
            video_codec="h264",
            audio_codec="aac",
            width=640,
            height=360,
            video_bitrate_kbps=800,
            audio_bitrate_kbps=96,
            audio_channels=2,
            preset="veryfast",
        ),
        builtin("hevc", video_codec="hevc", audio_codec="aac", preset="veryfast"),
        builtin("av1", video_codec="av1", audio_codec="aac", preset="veryfast"),
        builtin("aac", audio_codec="aac"),
    )
}
"""In the order in which they are listed."""


def version_of(model: Channel | Profile | Group) -> str:
    """Another one after each change of content; what editors show to prove that they know the latest (`ETag`)."""
    return hashlib.sha256(model.model_dump_json().encode()).hexdigest()[:16]


SOURCE_FIELDS = frozenset(
    {
        *("url", "pace", "loop", "user_agent", "headers"),
        *("audio_languages", "program", "max_height", "max_kbps"),
    }
)
"""What of a channel a running relay is made from; another name or logo does not interrupt anybody."""


_M = TypeVar("_M", bound=BaseModel)


def parse(model: type[_M], data: object) -> _M:
    """`data` (decoded JSON) as a `model`; raises `InvalidRequest` with one line that names each wrong field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidRequest(words_of(error)) from None


_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field",
    "model_type": "an object is needed",
    "string_pattern_mismatch": "takes letters, digits, . _ and -, one of the first two at the front, at most 64",
}


def words_of(error: ValidationError) -> str:
    """Every complaint in one line: `url: nobody reads gopher:; name: is missing`."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        context = problem.get("ctx", {})
        words = (
            str(context["error"]) if problem["type"] == "value_error" else _WORDS.get(problem["type"], problem["msg"])
        )
        where = ".".join(str(step) for step in problem["loc"])
        lines.append(f"{where}: {words}" if where else words)
    return "; ".join(lines)


def slug_of(name: str) -> str:
    """A name as it goes into a URL: ASCII letters, digits and hyphens, at most 64 characters, never empty.

    Letters of other scripts are written in Latin ones; other signs are left out.
    """
    plain = "".join(_latin(char) for char in unicodedata.normalize("NFC", name)).lower()
    words = re.findall(r"[a-z0-9]+", plain.replace("&", " and ").replace("+", " plus "))
    return "-".join(words)[:64].strip("-") or "channel"


def _latin(char: str) -> str:
    if char.isascii():
        return char
    return anyascii(char).replace("'", "") if unicodedata.category(char)[0] in "LNM" else " "
