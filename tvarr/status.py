"""`tvarr status`: what a coordinator does now, read from its HTTP API.

The connection is direct, whatever proxy the environment names, and no redirect is followed: the password goes to the
address that was given and nowhere else.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tvarr.errors import ConfigError, TvarrError
from tvarr.tls import client_context, trust

EXIT_REFUSED = 1
EXIT_NO_COORDINATOR = 3
TIMEOUT_S = 5.0
WATCH_INTERVAL_S = 1.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

LISTS = ("transcoders", "relays", "groups", "failures")

MAX_VIEWERS, MAX_PLAYER = 50, 40  # rows of viewers, and characters of what a player calls itself
MAX_FAILURES = 5  # rows
WHOLE = frozenset({"State", "Source", "Encoder", "As"})  # columns of single words, which names leave room for

View = dict[str, Any]

FETCH = "source"  # as a job's profile: it fetches the relay's source

STATE_STYLES = {
    **dict.fromkeys(("connected", "running", "live"), "green"),
    **dict.fromkeys(("draining", "starting", "connecting", "reconnecting", "placing", "queued", "unhealthy"), "yellow"),
    **dict.fromkeys(("disconnected", "failed"), "red"),
}


class NoCoordinator(TvarrError):
    """Nothing answers there, or something that is no coordinator: exit code 3."""


class Refused(TvarrError):
    """The coordinator does not let us in: exit code 1."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The API's lists at one time."""

    transcoders: list[View]
    relays: list[View]
    groups: list[View]
    failures: list[View]


@dataclass(frozen=True, slots=True)
class Access:
    """A coordinator, and what it takes to be let in."""

    url: str
    admin_password: str
    tls_ca: Path | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


def run(*, url: str, admin_password: str, json_output: bool, watch: bool, tls_ca: Path | None = None) -> int:
    """Prints the coordinator's state, once or until interrupted, and returns the exit code.

    0: printed. 1: password missing or wrong. 3: no coordinator answers; in these cases one line goes to stderr.
    Raises `ConfigError` for a URL that is none and for a `tls_ca` that can't be used.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"--url takes the coordinator's address, http://HOST:PORT, not {url!r}")
    if not admin_password.isprintable():
        raise ConfigError("--admin-password takes one line without control characters")
    access = Access(url, admin_password, tls_ca)
    try:
        if not watch:
            _print(fetch(access), url, json_output)
        elif json_output or not sys.stdout.isatty():
            _watch_lines(access, json_output)
        else:
            _watch_screen(access)
    except NoCoordinator as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_NO_COORDINATOR
    except Refused as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_REFUSED
    except KeyboardInterrupt:
        if not watch:
            raise
    return 0


def fetch(access: Access) -> Snapshot:
    """Asks the API. Raises `NoCoordinator` and `Refused`, both of one line."""
    base = access.url.rstrip("/")
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if base.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=client_context(trust(access.tls_ca))))
    opener = urllib.request.build_opener(*handlers)
    lists = [_get(opener, f"{base}/api/v1/{name}", access) for name in LISTS]
    return Snapshot(*lists)


def _get(opener: urllib.request.OpenerDirector, address: str, access: Access) -> list[View]:
    url, admin_password = access.url, access.admin_password
    headers = {"Accept": "application/json"}
    if admin_password:
        headers["Authorization"] = f"Bearer {admin_password}".encode().decode("latin-1")  # travels as UTF-8
    stranger = NoCoordinator(f"what answers at {url} is no tvarr coordinator")
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_S) as answer:  # noqa: S310
            body = json.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401:
                words = "is not the right one" if admin_password else "is needed: --admin-password"
                raise Refused(f"the admin password of {url} {words}") from None
            if error.code == 429:
                raise Refused(f"{url} has seen too many wrong passwords, try again later") from None
            if error.code == 503:
                raise NoCoordinator(f"what answers at {url} has no room for this now (503), try again later") from None
        raise stranger from None
    except http.client.RemoteDisconnected:
        tls = "; if it serves TLS, its address begins with https://" if url.startswith("http:") else ""
        raise NoCoordinator(f"what answers at {url} closed the connection{tls}") from None
    except (http.client.HTTPException, ValueError, RecursionError):
        raise stranger from None
    except OSError as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise NoCoordinator(f"the certificate of {url} is not trusted: {cause.verify_message}") from None
        if isinstance(cause, ssl.SSLError) and cause.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
            raise NoCoordinator(f"what answers at {url} does not speak TLS: its address begins with http://") from None
        words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise NoCoordinator(f"no coordinator answers at {url}: {words}") from None
    if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
        raise stranger
    return body


def _print(snapshot: Snapshot, url: str, json_output: bool) -> None:
    if json_output:
        lists = {name: getattr(snapshot, name) for name in LISTS}
        print(json.dumps(lists, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"), flush=True)  # noqa: T201
    else:
        Console().print(tables(snapshot, url))


def _watch_lines(access: Access, json_output: bool) -> None:
    """For a pipe: the same again each second."""
    while True:
        _print(fetch(access), access.url, json_output)
        time.sleep(WATCH_INTERVAL_S)


def _watch_screen(access: Access) -> None:
    """For a terminal: one screen that is drawn over, and goes on when the coordinator was away for a while."""
    shown: RenderableType = tables(fetch(access), access.url)
    with Live(shown, auto_refresh=False, screen=True, vertical_overflow="ellipsis") as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            try:
                shown = tables(fetch(access), access.url)
                live.update(shown, refresh=True)
            except NoCoordinator as error:
                live.update(Group(Text(str(error), style="red"), shown), refresh=True)


# ------------------------------------------------------------------------------------------------------- tables


def tables(snapshot: Snapshot, url: str) -> RenderableType:
    """Everything, for a terminal of 80 columns or more."""
    jobs = [(relay, variant) for relay in snapshot.relays for variant in _working(relay) if variant["job"]]
    viewers = sum(len(variant["viewers"]) for relay in snapshot.relays for variant in relay["variants"])
    counts = (
        _count(len(snapshot.transcoders), "daemon"),
        _count(len(snapshot.relays), "relay"),
        _count(len(jobs), "job"),
        _count(viewers, "viewer"),
    )
    parts: list[RenderableType] = [Text.assemble(("tvarr", "bold"), f" at {url}: ", ", ".join(counts))]
    parts.append(_daemons(snapshot.transcoders))
    parts += [
        Text.assemble((f"{daemon['name']}: ", "bold"), (daemon["set_aside"], "yellow"))
        for daemon in snapshot.transcoders
        if daemon["set_aside"]
    ]
    if any(daemon["gpus"] or daemon["pools"] for daemon in snapshot.transcoders):
        parts.append(_gpus(snapshot.transcoders))
    if snapshot.relays:
        parts.append(_relays(snapshot.relays))
    if any(group["max_connections"] for group in snapshot.groups):
        parts.append(_groups(snapshot.groups))
    if viewers:
        parts.append(_viewers(snapshot.relays))
    if jobs:
        parts += [_jobs(jobs), _reasons(jobs)]
    if snapshot.failures:
        parts.append(_failures(snapshot.failures))
    return Group(*parts)


def _daemons(daemons: Sequence[View]) -> RenderableType:
    if not daemons:
        return Text("No daemon is connected: nothing can be transcoded.", style="yellow")
    table = _table("Daemons", "Name", "State", "Version", ">Up", ">CPU", ">Memory", ">Load", ">Jobs")
    for daemon in daemons:
        system = {} if daemon["state"] == "disconnected" else daemon["system"]
        most = daemon["capabilities"]["max_jobs"]
        _row(
            table,
            daemon["name"],
            _state(daemon["state"]),
            daemon["version"],
            _duration(system.get("uptime_s")),
            _percent(system.get("cpu_percent")),
            _share(system.get("memory_used_bytes"), system.get("memory_total_bytes")),
            f"{system['load_average'][0]:.1f}" if system.get("load_average") else "–",
            f"{len(daemon['jobs'])}/{most}" if most else len(daemon["jobs"]),
        )
    return table


def _gpus(daemons: Sequence[View]) -> RenderableType:
    table = _table(
        "GPUs and sessions", "Daemon", "GPU", ">Use", ">Enc", ">Dec", ">Mem", ">°C", ">W", ">Sessions", "Limit from"
    )
    for daemon in daemons:
        pools = {pool["id"]: pool for pool in daemon["pools"]}
        for gpu in daemon["gpus"]:
            pool = pools.get(gpu["pool"])
            _row(
                table,
                daemon["name"],
                gpu["name"],
                _percent(gpu["utilization_percent"]),
                _percent(gpu["encoder_percent"]),
                _percent(gpu["decoder_percent"]),
                _share(gpu["memory_used_bytes"], gpu["memory_total_bytes"]),
                _whole(gpu["temperature_celsius"]),
                _whole(gpu["power_watts"]),
                _sessions(pool, gpu),
                (pool["detail"] or pool["limit_source"].replace("_", " ")) if pool else "needs none",
            )
    return table


def _sessions(pool: View | None, gpu: View) -> str:
    if pool is None:
        return str(gpu["encode_sessions"]) if gpu["encode_sessions"] is not None else "–"
    others = f" ({pool['foreign']} of others)" if pool["foreign"] else ""
    return f"{pool['in_use']}/{'∞' if pool['limit'] is None else pool['limit']}{others}"


def _relays(relays: Sequence[View]) -> RenderableType:
    table = _table(
        "Relays", "Channel", "Source", ">kb/s", ">Rec", ">Err", "Profile", "State", ">Viewers", ">Sent", ">Behind"
    )
    for relay in relays:
        source = relay["source"]
        variants = relay["variants"] or [None]
        for number, variant in enumerate(variants):
            head = (
                relay["channel"]["name"],
                _state(source["state"]),
                f"{source['bitrate_kbps']:.0f}",
                source["reconnections"],
                source["errors"],
            )
            viewers = variant["viewers"] if variant else []
            _row(
                table,
                *(head if number == 0 else [""] * len(head)),
                variant["profile"] if variant else "–",
                _state(variant["state"]) if variant else "–",
                len(viewers),
                _size(sum(viewer["bytes"] for viewer in viewers)),
                f"{max(viewer['lag_s'] for viewer in viewers):.1f} s" if viewers else "–",
            )
    troubles = [
        Text.assemble((f"{name}: ", "bold"), (words, "red")) for name, words in _errors(relays)
    ]  # below, where they have a whole line
    return Group(table, *troubles)


def _groups(groups: Sequence[View]) -> RenderableType:
    table = _table("Groups with a limit", "Group", ">Channels", ">Connections")
    for group in groups:
        used, most = group["connections"], group["max_connections"]
        if most:
            count = Text(f"{used}/{most}", style="yellow" if used >= most else "")
            _row(table, group["name"], group["channels"], count)
    return table


def _viewers(relays: Sequence[View]) -> RenderableType:
    table = _table("Viewers", "Channel", "Profile", "Address", "Player", "As", ">Sent", ">Behind")
    watching = [(r, v, viewer) for r in relays for v in r["variants"] for viewer in v["viewers"]]
    for relay, variant, viewer in watching[:MAX_VIEWERS]:
        _row(
            table,
            relay["channel"]["name"],
            variant["profile"],
            viewer["address"],
            viewer["user_agent"][:MAX_PLAYER] or "–",
            viewer["container"],
            _size(viewer["bytes"]),
            f"{viewer['lag_s']:.1f} s",
        )
    more = len(watching) - MAX_VIEWERS
    return Group(table, Text(f"and {more} more", style="dim")) if more > 0 else table


def _failures(failures: Sequence[View]) -> RenderableType:
    table = _table("Failed lately", "Last (UTC)", "Channel", "Profile", ">Answer", "Why")
    for failure in failures[:MAX_FAILURES]:
        times = f" ({failure['count']} times)" if failure["count"] > 1 else ""
        _row(
            table,
            failure["at"][11:19],
            failure["channel"],
            failure["profile"] or "its own",
            failure["status"] or "broke off",
            "\n".join([failure["reason"] + times, *failure["reasons"]]),
        )
    return table


def _errors(relays: Sequence[View]) -> Iterable[tuple[str, str]]:
    for relay in relays:
        name = relay["channel"]["name"]
        if relay["source"]["error"]:
            yield name, relay["source"]["error"]
        for variant in relay["variants"]:
            if variant["error"]:
                yield f"{name}, {variant['profile']}", variant["error"]


def _working(relay: View) -> list[View]:
    """A relay's variants, and before them its source where a worker fetches that."""
    source = relay["source"]
    if not source.get("job"):
        return list(relay["variants"])
    fetch = {"profile": FETCH, "job": source["job"], "placement": source["placement"], "endings": []}
    return [{**fetch, "successor": None, "move_refused": "", "lost_pictures": 0}, *relay["variants"]]


def _jobs(jobs: Sequence[tuple[View, View]]) -> RenderableType:
    table = _table(
        "Jobs", "Channel", "Profile", "Daemon", "Encoder", "State", ">Speed", ">fps", ">kb/s", ">CPU", ">Age"
    )
    for relay, variant in jobs:
        job = variant["job"]
        runs = job["state"] == "running"
        slow = runs and 0 < job["speed"] < 0.97
        _row(
            table,
            relay["channel"]["name"],
            variant["profile"],
            job["daemon_name"] or "–",
            job["encoder"] or (_without_encoder(variant) if job["daemon_name"] else "–"),
            _state(job["state"]),
            Text(f"{job['speed']:.2f}×" if runs and job["speed"] else "–", style="red" if slow else ""),
            f"{job['fps']:.1f}" if runs and job["fps"] else "–",
            f"{job['output_kbps']:.0f}" if runs else "–",
            _percent(job["cpu_percent"]) if runs else "–",
            _duration(job["age_s"]),
        )
    return table


def _without_encoder(variant: View) -> str:
    return "fetches" if variant["profile"] == FETCH else "audio only"


def _reasons(jobs: Sequence[tuple[View, View]]) -> RenderableType:
    table = _table("Why each job runs where it runs, as it was when it was placed", "Job", "Daemon", "Reason")
    for relay, variant in jobs:
        placement = variant["placement"]
        if placement is None:
            continue
        name = f"{relay['channel']['name']}, {variant['profile']}"
        job = variant["job"]
        if job["queue_position"]:
            where, reason = Text("waits", style="yellow"), f"number {job['queue_position']} in the queue"
            reason += f" for {_duration(job['waited_s'])}: {placement['reason']}"
        else:
            where = Text(job["daemon_name"], style="yellow" if placement["fallback"] else "green")
            reason = placement["reason"] + _move(variant)
        _row(table, name, where, reason)
        for daemon in placement["considered"]:
            if not daemon["chosen"]:
                _row(table, "", daemon["daemon_name"], daemon["reason"])
    return table


def _move(variant: View) -> str:
    """Where the job came from, what that cost, and where it could not go."""
    moved = [ending for ending in variant["endings"][-1:] if ending["code"] == "moved"]
    words = "".join(f"; came from {ending['daemon_name']}, {ending['reason']}" for ending in moved)
    if variant["successor"]:
        words += f"; on its way to {variant['successor']['daemon_name'] or 'another daemon'}"
    if variant["lost_pictures"]:
        words += f"; pictures lost: {variant['lost_pictures']}"
    return words + (f"; {variant['move_refused']}" if variant["move_refused"] else "")


def _table(title: str, *columns: str) -> Table:
    """A `>` before a column's name puts it to the right."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        right, name = column.startswith(">"), column.lstrip(">")
        whole = right or name in WHOLE
        table.add_column(name, justify="right" if right else "left", no_wrap=whole, overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    """Cells as plain text: a channel's name is no markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, ""))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def _share(used: float | None, total: float | None) -> str:
    return "–" if used is None or not total else f"{100 * used / total:.0f} %"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
