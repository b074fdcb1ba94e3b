"""What both ends of the wire agree on: version, names, sizes, keepalive, and how an address is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from tvarr.errors import ConfigError
from tvarr.tls import Trust
from tvarr.wire.codec import MAX_MESSAGE_BYTES

PROTOCOL_VERSION = 1
DEFAULT_PORT = 9090

COORDINATOR_SERVICE = "tvarr.v1.Coordinator"
FFMPEGD_SERVICE = "tvarr.v1.Ffmpegd"

KEEPALIVE_S = 5.0  # a silent connection is pinged after this long, and given up when as long again brings no answer
FIRST_MESSAGE_WITHIN_S = 10.0  # a peer that opens a stream and says nothing is cut off

WINDOW_BYTES = 2 << 20
"""What may be on its way of one stream: 100 Mb/s at 160 ms, and two seconds of a channel of 8 Mb/s."""

_KEEPALIVE_MS = int(KEEPALIVE_S * 1_000)
_SHARED_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),  # the one that counts: 60 s unless it is set (gRPC 1.71 and 1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # 0: no limit, or the pings of a quiet stream would stop after two
    ("grpc.http2.bdp_probe", 0),  # a ping behind what was received, to find a window that is known:
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)
SERVER_OPTIONS = (
    *_SHARED_OPTIONS,
    ("grpc.so_reuseport", 0),  # two coordinators on one port would share its daemons between them
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    ("grpc.server_handshake_timeout_ms", 10_000),  # a connection that says nothing holds a descriptor this long
    ("grpc.http2.max_ping_strikes", 0),  # never answer pings with GOAWAY "too_many_pings"
)
CHANNEL_OPTIONS = (
    *_SHARED_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # each channel its own connection; failed ones leave no backoff behind
    ("grpc.min_reconnect_backoff_ms", _KEEPALIVE_MS),  # also the limit of one attempt to connect
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # http_proxy is about the web; a stream for life does not belong there
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to dial or to listen."""

    host: str  # a name or an address, IPv6 without brackets
    port: int
    token: str = field(default="", repr=False)
    tls: Trust | None = field(default=None, repr=False)  # None: as plain text

    @property
    def target(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\s:/@\[\]?#]+))(?::(?P<port>\d{1,5}))?")


def parse_endpoint(text: str, *, what: str = "--coordinator-url") -> Endpoint:
    """Reads `host`, `host:9090`, `[::1]:9090`, and each with `grpc://` or `grpc://TOKEN@` before it; `grpcs://` is TLS.

    The port is 9090 where there is none; the token may be percent-encoded. Raises `ConfigError` that begins with
    `what` and never repeats a token.
    """
    takes = f"{what} takes host:port, [IPv6]:port or grpc://TOKEN@host:port"
    rest = text.strip()
    scheme, separator, after = rest.partition("://")
    token = ""
    if separator:
        if scheme.lower() not in {"grpc", "grpcs"}:
            raise ConfigError(f"{takes}, not the scheme {scheme[:20]!r}")
        user, at, host = after.rpartition("@")
        token, rest = unquote(user), (host if at else after).removesuffix("/")
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise ConfigError(f"{takes}; a token is of printable ASCII characters without spaces")
    match = _ADDRESS.fullmatch(rest)
    if match is None:
        raise ConfigError(f"{takes}, not {('…@' if '@' in text else '') + rest.rpartition('@')[2][:80]!r}")
    port = int(match["port"] or DEFAULT_PORT)
    if port > 65_535:
        raise ConfigError(f"{takes}; there is no port {port}")
    return Endpoint(match["six"] or match["host"], port, token, Trust() if scheme.lower() == "grpcs" else None)
