"""`tvarr health`: whether the roles of this machine or container are ready, for an image's HEALTHCHECK.

Each role answers `/readyz` itself; here it is asked over loopback and its answer becomes an exit code.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from pathlib import Path

from tvarr.errors import ConfigError

EXIT_UNHEALTHY = 1
TIMEOUT_S = 3.0  # of each role; the images' HEALTHCHECK gives up after 5 s
ROLES = ("coordinator", "ffmpegd")
MAX_WORDS = 200  # characters of an answer that are shown

Address = tuple[str, int]


def run(
    *,
    role: str,
    roles_file: Path | None,
    host: str,
    http_port: int,
    metrics_listen: tuple[str, int] | None,
    tls_cert: Path | None,
) -> int:
    """Returns 0 where every role that runs is ready; else 1, and one line a role that isn't goes to stderr.

    `roles_file` says which roles run (`run-roles.sh` writes it); without one `role` does. The daemon is asked where it
    serves metrics, and left out where it does not. Raises `ConfigError` where that leaves nobody to be asked.
    """
    troubles = []
    for name, address in addresses(_running(roles_file) or role, (host, http_port), metrics_listen).items():
        if trouble := ask(address, tls=name == "coordinator" and tls_cert is not None):
            troubles.append(f"{name} at {address[0]}:{address[1]}: {trouble}")
    for trouble in troubles:
        print(trouble, file=sys.stderr)  # noqa: T201
    return EXIT_UNHEALTHY if troubles else 0


def addresses(roles: str, coordinator: Address, ffmpegd: Address | None) -> dict[str, Address]:
    """Whom to ask: role to address. `roles` is as `run-roles.sh` takes it: words of which `all` is one."""
    words = set(roles.split()) or {"all"}
    if unknown := words - {"all", *ROLES}:
        raise ConfigError(f"--role takes all, coordinator or ffmpegd, not {min(unknown)[:80]!r}")
    asked: dict[str, Address] = {}
    if words & {"all", "coordinator"}:
        asked["coordinator"] = _reachable(coordinator)
    if words & {"all", "ffmpegd"} and ffmpegd is not None:
        asked["ffmpegd"] = _reachable(ffmpegd)
    if not asked:
        raise ConfigError("--metrics-listen is where a daemon tells its health, and is not set")
    return asked


def _reachable(listening: Address) -> Address:
    host, port = listening
    if port == 0:
        raise ConfigError("a port that the system chose can't be asked: give --http-port or --metrics-listen one")
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host.strip("[]")), port


def _running(roles_file: Path | None) -> str:
    """What `run-roles.sh` has started; empty where it did not run or could not write."""
    try:
        return roles_file.read_text() if roles_file else ""
    except (OSError, UnicodeDecodeError):
        return ""


def ask(address: Address, *, tls: bool = False) -> str:
    """Asks `/readyz`; returns what is wrong, empty where nothing is."""
    connection = _tls(address) if tls else http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        words = answer.read(64 * 1024).decode(errors="replace")
    except OSError as error:
        return error.strerror or str(error) or "no answer"
    except http.client.HTTPException:
        return "what answers is no HTTP server"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status} {' '.join(words.split())[:MAX_WORDS]}".strip()


def _tls(address: Address) -> http.client.HTTPSConnection:
    """Any certificate will do: it is not made for this machine's loopback, and nothing secret is said."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(*address, timeout=TIMEOUT_S, context=context)
