"""From flags and environment to a frozen configuration: the one place that reads the environment.

Each command's settings are the fields of one dataclass, written down once: what a flag takes, its help and its default
stand in the field's annotation, and the command line, the environment variables and the README's table follow from it.
"""

from __future__ import annotations

import math
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints
from urllib.parse import unquote

from tvarr.errors import ConfigError

GRPC_PORT = 9090
MAX_SECRET_FILE_BYTES = 4096

Environment = Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Takes:
    """A kind of value: its placeholder in `--help`, what it is in words, and how text becomes one (or a ValueError)."""

    metavar: str
    words: str
    parse: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag: `--queue-timeout` is the environment's TVARR_QUEUE_TIMEOUT and the field `queue_timeout_s`."""

    takes: Takes
    help: str
    default: object  # a value, or a function of the environment
    default_words: str = ""  # for people, where `str(default)` isn't
    secret: bool = False
    name: str = ""  # the field's

    @property
    def flag(self) -> str:
        return "--" + self.name.removesuffix("_s").replace("_", "-")

    @property
    def variable(self) -> str:
        return "TVARR_" + self.name.removesuffix("_s").upper()

    @property
    def shown_default(self) -> str:
        return self.default_words or str(self.default)


def settings(config: type) -> list[Setting]:
    """The settings of a configuration class, in the order in which `--help` shows them."""
    hints = get_type_hints(config, include_extras=True)
    return [replace(hints[item.name].__metadata__[0], name=item.name) for item in fields(config)]


def load(config: type[T], flags: Mapping[str, object], environ: Environment | None = None) -> T:
    """Makes a `config` from the flags given (by field name; None where not given), then the environment, then defaults.

    A flag is text as it was typed, or True for a switch. Raises ConfigError with one line that names the flag, where
    its value came from, and what it takes.
    """
    source = os.environ if environ is None else environ
    return config(**{item.name: _value(item, flags.get(item.name), source) for item in settings(config)})


def _value(setting: Setting, given: object, environ: Environment) -> object:
    if isinstance(given, bool):
        return given
    text, origin = (str(given), "") if given is not None else _from_environment(setting, environ)
    if text is None:
        return setting.default(environ) if callable(setting.default) else setting.default
    try:
        return setting.takes.parse(text)
    except (ValueError, RuntimeError):  # RuntimeError: `~name` where nobody has that name
        shown = "" if setting.secret else f", not '{_one_line(text)}'"
        raise ConfigError(f"{setting.flag} takes {setting.takes.words}{shown}{origin}") from None
    except PermissionError as error:
        words = f"and whether '{_one_line(text)}' is one can't be seen: {error.strerror}"
        raise ConfigError(f"{setting.flag} takes {setting.takes.words}, {words}{origin}") from None


def _from_environment(setting: Setting, environ: Environment) -> tuple[str | None, str]:
    """The text that the environment gives, and words for where it stood; an empty variable counts as not set."""
    text = environ.get(setting.variable) or None
    file_variable = setting.variable + "_FILE"
    file = environ.get(file_variable) if setting.secret else None
    if not file:
        return text, f" (from {setting.variable})"
    if text:
        raise ConfigError(
            f"{setting.flag}: {setting.variable} and {file_variable} are both set, and only one can count"
        )
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(MAX_SECRET_FILE_BYTES + 1)
        if len(content) > MAX_SECRET_FILE_BYTES:
            raise ValueError(f"it is longer than {MAX_SECRET_FILE_BYTES} bytes")
        return content.decode().rstrip("\r\n"), f" (from {file_variable})"
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{setting.flag}: the file of {file_variable} can't be read: {file}: {reason}") from None


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])


# ------------------------------------------------------------------------------------------------- kinds of values


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return parse


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise ValueError
        return value

    return parse


def _seconds(least: float, most: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError
        return value

    return parse


def _or_auto(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text == "auto" else parse(text)


def _one_of(*names: str) -> Takes:
    return Takes("|".join(names), ", ".join(names[:-1]) + " or " + names[-1], _matching("|".join(names)))


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        raise ValueError
    return word in {"1", "true", "yes", "on"}


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text).expanduser().absolute()


def _found(text: str, kind: Callable[[int], bool]) -> Path:
    """The path, where what is there is of this kind; a `PermissionError` where nobody lets us see that."""
    path = _path(text)
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError from error
    if not kind(mode):
        raise ValueError
    return path


def _folder_that_exists(text: str) -> Path:
    return _found(text, stat.S_ISDIR).resolve()


def _file_that_exists(text: str) -> Path:
    return _found(text, stat.S_ISREG)


def _gpu_sessions(text: str) -> int | dict[str, int]:
    count = _whole(0)
    if "=" not in text:
        return count(text)
    return {_matching(r"\S+")(gpu): count(limit) for gpu, _, limit in (pair.partition("=") for pair in text.split(","))}


def _address(text: str) -> str:
    """`host:port` in its one form; the port may be left out where it is the coordinator's."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::(\d{1,5}))?", text)
    if not match:
        raise ValueError
    return f"{match[1]}:{_whole(1, 65535)(match[2] or str(GRPC_PORT))}"


def _coordinator_url(text: str) -> str:
    """`host:port` or `TOKEN@host:port` of `host`, `host:9090` or `grpc://TOKEN@host:9090`; a `grpcs://` stays."""
    scheme = "grpcs://" if text.startswith("grpcs://") else ""
    token, at, address = text.removeprefix(scheme or "grpc://").rstrip("/").rpartition("@")
    return scheme + (f"{TOKEN.parse(unquote(token))}@" if at else "") + _address(address)


def _listen(text: str) -> tuple[str, int]:
    """(host, port) of `host:port`, `[::1]:port` or `:port`, which is every address."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[\w.-]*", host):
        raise ValueError
    return host.strip("[]") or "0.0.0.0", _whole(0, 65535)(port)


def _host(text: str) -> str:
    """A name or an address, the latter without the brackets that it has in URLs."""
    if not re.fullmatch(r"[\w.-]+|[0-9A-Fa-f:.]+|\[[0-9A-Fa-f:.]+\]", text):
        raise ValueError
    return text.strip("[]")


PORT = Takes("PORT", "a port from 0 (any free one) to 65535", _whole(0, 65535))
SECONDS = Takes("SECONDS", "a number of seconds, 0 or more", _seconds(0))
SOME_SECONDS = Takes("SECONDS", "a number of seconds, 0.1 or more", _seconds(0.1))
BATCH_SECONDS = Takes("SECONDS", "a number of seconds from 0.04 to 2", _seconds(0.04, 2.0))
COUNT = Takes("N", "a whole number, 0 or more", _whole(0))
TUNERS = Takes("N", "a whole number from 1 to 255", _whole(1, 255))
MEGABYTES = Takes("MB", "a whole number of megabytes, 1 or more", _whole(1))
JOBS = Takes("N|auto", "a whole number, 1 or more, or auto", _or_auto(_whole(1)))
CPU_JOBS = Takes("N|auto", "a whole number, 0 or more, or auto", _or_auto(_whole(0)))
GPU_SESSIONS = Takes("N|GPU=N,...|auto", "a whole number, GPU-uuid=N,... or auto", _or_auto(_gpu_sessions))
HOST = Takes("HOST", "a host name or an IP address", _host)
NAME = Takes("NAME", "a name of 1 to 64 printable characters", _matching(r"[^\x00-\x1f\x7f]{1,64}"))
FOLDER = Takes("FOLDER", "a folder", _path)
FILE = Takes("FILE", "a file", _path)
EXISTING_FOLDER = Takes("FOLDER", "a folder that exists", _folder_that_exists)
EXISTING_FILE = Takes("FILE", "a file that exists", _file_that_exists)
PROGRAM = Takes("PATH", "a program's path or name", _matching(r"[^\x00-\x1f\x7f]+"))
TOKEN = Takes("TOKEN", "printable ASCII characters without spaces", _matching(r"[\x21-\x7e]{1,512}"))
PASSWORD = Takes("PASSWORD", "1 to 512 printable characters", _matching(r"[^\x00-\x1f\x7f]{1,512}"))
COORDINATOR = Takes("HOST:PORT", "host:port, grpc://TOKEN@host:port or grpcs://TOKEN@host:port", _coordinator_url)
LISTEN = Takes("HOST:PORT", "host:port", _listen)
HTTP_URL = Takes("URL", "an http:// or https:// URL", _matching(r"https?://[^\s/]+(/\S*)?"))
POLICY = _one_of("queue", "fallback", "reject")
LOG_LEVEL = _one_of("debug", "info", "warning", "error")
LOG_FORMAT = _one_of("text", "json")
ROLES = Takes(
    "ROLE", "all, coordinator or ffmpegd", _matching(r"\s*(all|coordinator|ffmpegd)(\s+(coordinator|ffmpegd))?\s*")
)
SWITCH = Takes("", "true or false", _boolean)


# --------------------------------------------------------------------------------- defaults that the machine decides


def _xdg(variable: str, otherwise: str, flag: str) -> Callable[[Environment], Path]:
    """tvarr's folder by the XDG Base Directory Specification; for a user without a home, one in /tmp.

    `flag`: what names another.
    """

    def default(environ: Environment) -> Path:
        given = environ.get(variable, "")
        if given.startswith("/"):  # the specification: a relative path is invalid and to be ignored
            return Path(given) / "tvarr"
        try:
            return Path(environ.get("HOME") or Path.home()) / otherwise / "tvarr"
        except RuntimeError:  # a container's user number without an entry in passwd
            return _own_folder(Path(_temporary_folder()) / f"tvarr-{os.getuid()}", flag)

    return default


def _own_folder(path: Path, flag: str) -> Path:
    """A folder where everybody may make some, made here for its owner alone. Raises ConfigError where others could have
    changed what is in it.
    """
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError:  # which whoever wants to write there says
        return path
    if not stat.S_ISDIR(found.st_mode):
        trouble = "is no folder"
    elif found.st_uid != os.getuid():
        trouble = f"is another user's ({found.st_uid})"
    elif found.st_mode & 0o022:
        trouble = f"is open to changes by others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        with suppress(OSError):  # which whoever wants to write there says
            path.chmod(0o700)
        return path
    raise ConfigError(f"{path} {trouble}: give {flag} or HOME another folder")


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none can be written, which whoever wants to write there says
        return "/tmp"  # noqa: S108


def _host_name(_: Environment) -> str:
    return socket.gethostname() or "ffmpegd"


LogLevel = Annotated[str, Setting(LOG_LEVEL, "What to log at least", "info")]
LogFormat = Annotated[str, Setting(LOG_FORMAT, "How to log", "text")]
Ffmpeg = Annotated[str, Setting(PROGRAM, "The ffmpeg to use", "", "on PATH, then the wheel of the extra `ffmpeg`")]
TlsKey = Annotated[Path | None, Setting(EXISTING_FILE, "The key of --tls-cert (PEM)", None, "none")]
TlsCa = Annotated[
    Path | None,
    Setting(
        EXISTING_FILE,
        "Certificates to trust (PEM): of an authority, or the server's own",
        None,
        "the machine's authorities",
    ),
]
Json = Annotated[bool, Setting(SWITCH, "Print JSON", False, "off")]


# ---------------------------------------------------------------------------------------------------- the commands


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """`tvarr coordinator`. Empty text and None: not set."""

    host: Annotated[str, Setting(HOST, "Address to listen on, HTTP and gRPC", "0.0.0.0")]
    http_port: Annotated[int, Setting(PORT, "Port for streams, API and dashboard", 8080)]
    grpc_port: Annotated[int, Setting(PORT, "Port that daemons dial", GRPC_PORT)]
    data_dir: Annotated[
        Path,
        Setting(
            FOLDER,
            "Where channels, profiles and credentials are kept",
            _xdg("XDG_DATA_HOME", ".local/share", "--data-dir"),
            "$XDG_DATA_HOME/tvarr",
        ),
    ]
    auth_token: Annotated[
        str, Setting(TOKEN, "What daemons identify themselves with", "", "made and stored on first start", secret=True)
    ]
    public_host: Annotated[
        str,
        Setting(
            HOST, "Host name that workers reach this machine by", "", "--host, where it names one address; else guessed"
        ),
    ]
    exhausted_policy: Annotated[str, Setting(POLICY, "What to do when hardware sessions are exhausted", "fallback")]
    no_promotion: Annotated[
        bool, Setting(SWITCH, "Leave jobs that fell back to software there when hardware becomes free", False, "off")
    ]
    queue_timeout_s: Annotated[float, Setting(SECONDS, "How long a queued job may wait", 30.0, "30")]
    heartbeat_interval_s: Annotated[float, Setting(SOME_SECONDS, "How often daemons report", 5.0, "5")]
    unhealthy_after_s: Annotated[float, Setting(SOME_SECONDS, "Silence after which a daemon is unhealthy", 30.0, "30")]
    idle_linger_s: Annotated[float, Setting(SECONDS, "How long a relay goes on after its last viewer", 10.0, "10")]
    max_takeovers: Annotated[int, Setting(COUNT, "How often in 10 minutes a lost job is placed again; 0: never", 5)]
    retention_mb: Annotated[int, Setting(MEGABYTES, "Most memory of a relay's ring, and of each stream made of it", 64)]
    retention_time_s: Annotated[
        float, Setting(SOME_SECONDS, "Most media time in a relay's ring, from which lost jobs go on", 60.0, "60")
    ]
    batch_time_s: Annotated[
        float,
        Setting(
            BATCH_SECONDS,
            "How long media of a running stream gather before they go on: more costs delay, less CPU",
            0.5,
            "0.5",
        ),
    ]
    max_relays: Annotated[int, Setting(COUNT, "Most channels that run at once; 0: as many as are watched", 0)]
    media_dir: Annotated[Path | None, Setting(EXISTING_FOLDER, "Folder that file: channels may read", None, "none")]
    tuner_count: Annotated[
        int, Setting(TUNERS, "Tuners of the HDHomeRun that media servers see: how many channels they watch at once", 4)
    ]
    no_tuner_discovery: Annotated[
        bool, Setting(SWITCH, "Do not answer media servers that search their network for tuners", False, "off")
    ]
    stream_key: Annotated[str, Setting(TOKEN, "Key that stream URLs must carry", "", "none", secret=True)]
    admin_password: Annotated[
        str, Setting(PASSWORD, "Password of dashboard and API", "", "made and printed once on first start", secret=True)
    ]
    no_http_auth: Annotated[bool, Setting(SWITCH, "Leave dashboard and API open to everybody", False, "off")]
    tls_cert: Annotated[
        Path | None, Setting(EXISTING_FILE, "Certificate chain (PEM): serve HTTP and gRPC over TLS", None, "none")
    ]
    tls_key: TlsKey
    log_level: LogLevel
    log_format: LogFormat

    def __post_init__(self) -> None:
        if self.unhealthy_after_s <= self.heartbeat_interval_s:
            raise ConfigError(
                f"--unhealthy-after takes more than --heartbeat-interval ({self.heartbeat_interval_s:g} s)"
            )
        if self.http_port == self.grpc_port != 0:
            raise ConfigError(f"--grpc-port takes another port than --http-port ({self.http_port})")


@dataclass(frozen=True, kw_only=True)
class FfmpegdConfig:
    """`tvarr ffmpegd`. Empty text: not set; None: decided by the machine.

    `coordinator_url` is `host:port` or, for TLS, `grpcs://host:port`; a token that stood in it is in `auth_token`,
    where that was not given itself.
    """

    coordinator_url: Annotated[
        str,
        Setting(
            COORDINATOR,
            "The coordinator to work for; with the token in it, the one setting a worker needs",
            "",
            "none",
            secret=True,
        ),
    ]
    auth_token: Annotated[
        str, Setting(TOKEN, "What the coordinator knows its daemons by", "", "the one in the URL", secret=True)
    ]
    name: Annotated[str, Setting(NAME, "What people call this daemon", _host_name, "host name")]
    max_jobs: Annotated[int | None, Setting(JOBS, "Jobs at the same time", None, "auto")]
    max_cpu_jobs: Annotated[
        int | None, Setting(CPU_JOBS, "Jobs that encode in software at the same time", None, "auto")
    ]
    gpu_max_sessions: Annotated[
        int | Mapping[str, int] | None, Setting(GPU_SESSIONS, "Encoder sessions of the GPUs", None, "auto")
    ]
    listen: Annotated[tuple[str, int] | None, Setting(LISTEN, "Serve third-party clients directly", None, "off")]
    metrics_listen: Annotated[
        tuple[str, int] | None, Setting(LISTEN, "Serve /metrics, /livez and /readyz over HTTP", None, "off")
    ]
    tls_ca: TlsCa
    tls_cert: Annotated[
        Path | None, Setting(EXISTING_FILE, "Certificate chain (PEM): serve --listen over TLS", None, "none")
    ]
    tls_key: TlsKey
    ffmpeg: Ffmpeg
    work_dir: Annotated[
        Path,
        Setting(
            FOLDER,
            "Where the daemon's identity and probe results are kept",
            _xdg("XDG_STATE_HOME", ".local/state", "--work-dir"),
            "$XDG_STATE_HOME/tvarr",
        ),
    ]
    log_level: LogLevel
    log_format: LogFormat

    def __post_init__(self) -> None:
        scheme = "grpcs://" if self.coordinator_url.startswith("grpcs://") else ""
        token, _, address = self.coordinator_url.removeprefix(scheme).rpartition("@")
        object.__setattr__(self, "coordinator_url", scheme + address)
        object.__setattr__(self, "auth_token", self.auth_token or token)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """`tvarr probe`."""

    json: Json
    no_verify: Annotated[bool, Setting(SWITCH, "List encoders without trying them", False, "off")]
    ffmpeg: Ffmpeg


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """`tvarr status`."""

    url: Annotated[str, Setting(HTTP_URL, "The coordinator's address", "http://127.0.0.1:8080")]
    admin_password: Annotated[str, Setting(PASSWORD, "Password of the API", "", "none", secret=True)]
    tls_ca: TlsCa
    json: Json
    watch: Annotated[bool, Setting(SWITCH, "Print again and again until stopped", False, "off")]


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """`tvarr health`; where the roles listen is read from the roles' own variables."""

    role: Annotated[str, Setting(ROLES, "Which roles should run here", "all")]
    roles_file: Annotated[Path | None, Setting(FILE, "Where run-roles.sh writes which roles it started", None, "none")]
    host: Annotated[str, Setting(HOST, "The coordinator's --host", "0.0.0.0")]
    http_port: Annotated[int, Setting(PORT, "The coordinator's --http-port", 8080)]
    metrics_listen: Annotated[
        tuple[str, int] | None,
        Setting(LISTEN, "The daemon's --metrics-listen; without it, it is not asked", None, "off"),
    ]
    tls_cert: Annotated[
        Path | None,
        Setting(EXISTING_FILE, "The coordinator's --tls-cert: with one, it is asked over TLS", None, "none"),
    ]


COMMANDS: Mapping[str, type] = {
    "coordinator": CoordinatorConfig,
    "ffmpegd": FfmpegdConfig,
    "probe": ProbeConfig,
    "status": StatusConfig,
    "health": HealthConfig,
}


def secret_now(config: object, name: str) -> Callable[[], str] | None:
    """Reads a secret again from the file that it came from, which may have another in it by now; "" where that fails.

    None where the secret did not come from a file.
    """
    (setting,) = [item for item in settings(type(config)) if item.name == name]
    environ = dict(os.environ)

    def read() -> str:
        try:
            return str(_value(setting, None, environ))
        except ConfigError:
            return ""

    from_file = bool(environ.get(setting.variable + "_FILE")) and read() == getattr(config, name)
    return read if from_file else None


def secrets(config: object) -> tuple[str, ...]:
    """The secret values of a loaded configuration, for the log to hide."""
    named = {item.name for item in settings(type(config)) if item.secret}
    named.discard("coordinator_url")  # what was secret in it has gone into auth_token
    return tuple(value for name in sorted(named) if (value := getattr(config, name)))
