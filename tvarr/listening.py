"""Where a role listens."""

from __future__ import annotations

import socket


def every_address(host: str, port: int) -> socket.socket | None:
    """What listens on every address of either family where `host` is `::`, as gRPC has it; else None.

    asyncio would take `::` for those of IPv6 alone. Raises OSError.
    """
    if host != "::" or not socket.has_dualstack_ipv6():
        return None
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
