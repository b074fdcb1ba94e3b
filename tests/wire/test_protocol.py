"""How an address is written."""

from __future__ import annotations

import pytest

from tvarr.errors import ConfigError
from tvarr.wire.protocol import CHANNEL_OPTIONS, SERVER_OPTIONS, Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "target"),
    [
        ("host:9090", Endpoint("host", 9090), "host:9090"),
        (" host ", Endpoint("host", 9090), "host:9090"),
        ("10.0.0.1:1", Endpoint("10.0.0.1", 1), "10.0.0.1:1"),
        ("[::1]:9090", Endpoint("::1", 9090), "[::1]:9090"),
        ("[fe80::1%eth0]", Endpoint("fe80::1%eth0", 9090), "[fe80::1%eth0]:9090"),
        ("grpc://host:91", Endpoint("host", 91), "host:91"),
        ("grpc://s3cret@host:91/", Endpoint("host", 91, "s3cret"), "host:91"),
        ("GRPC://a%40b%2Fc@[::1]:91", Endpoint("::1", 91, "a@b/c"), "[::1]:91"),
    ],
)
def test_addresses(text: str, endpoint: Endpoint, target: str) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(text).target == target


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":9090", "host:", "host:port", "host:99999", "::1", "[::1", "http://host:9090", "grpc://"),
        *(
            "host:9090/path",
            "grpc://host/path",
            "a b:9090",
            "grpc://t0ken@",
            "t0ken@host:9090",
            "host:9090?x",
            "grpc://t0ken%0A@host",
        ),
    ],
)
def test_nonsense_is_named_without_the_token(text: str) -> None:
    with pytest.raises(ConfigError, match="--coordinator-url takes host:port") as caught:
        parse_endpoint(text)
    assert "t0ken" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "s3cret" not in repr(parse_endpoint("grpc://s3cret@host"))


def test_both_sides_ping_and_neither_complains() -> None:
    for options in (dict(SERVER_OPTIONS), dict(CHANNEL_OPTIONS)):
        assert options["grpc.keepalive_time_ms"] == 5_000
        assert options["grpc.keepalive_permit_without_calls"] == 1
        assert options["grpc.max_receive_message_length"] == 16 * 1024 * 1024
    server = dict(SERVER_OPTIONS)
    assert server["grpc.http2.min_recv_ping_interval_without_data_ms"] < 5_000
    assert server["grpc.http2.max_ping_strikes"] == 0
