"""Liveness, readiness, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from aiohttp import web

from tvarr.coordinator.web.problems import problem
from tvarr.coordinator.web.routes import Route
from tvarr.coordinator.web.services import CoordinatorServices, View, services_of

Sample = tuple[Mapping[str, object], float]


async def livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    services = services_of(request)
    if not services.ready:
        return problem(503, "the coordinator is starting or ending", headers={"Retry-After": "1"})
    await services.store.setting("ready")  # raises where the disk is gone
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    text = "".join(_lines(*family) for family in families(services_of(request)))
    return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def families(services: CoordinatorServices) -> Iterable[tuple[str, str, str, Sequence[Sample]]]:
    """Name, type, help and samples of each metric."""
    daemons, relays = services.transcoders(), services.relays()
    variants = [(relay, variant) for relay in relays for variant in relay["variants"]]
    viewers = [(r, v, viewer) for r, v in variants for viewer in v["viewers"]]
    yield "build_info", "gauge", "The version that runs.", [({"version": services.version}, 1)]
    yield "ready", "gauge", "Whether streams can be served.", [({}, float(services.ready))]
    yield "transcoders", "gauge", "Daemons by state.", _counted("state", (d["state"] for d in daemons))
    yield "transcoder_cpu_percent", "gauge", "CPU use of a daemon's host.", _stats(daemons, "cpu_percent")
    yield "transcoder_jobs", "gauge", "Running jobs of a daemon.", [(_of(d), len(d["jobs"])) for d in daemons]
    for name, key in (("jobs_finished_total", "jobs_finished"), ("jobs_failed_total", "jobs_failed")):
        words = "Jobs that a daemon ended since it connected."
        yield f"transcoder_{name}", "counter", words, [(_of(d), d["totals"][key]) for d in daemons]
    pools = [({**_of(d), "pool": pool["id"]}, pool) for d in daemons for pool in d["pools"]]
    yield "session_pool_active", "gauge", "Encoder sessions in use.", [(labels, p["in_use"]) for labels, p in pools]
    limited = [(labels, pool["limit"]) for labels, pool in pools if pool["limit"] is not None]
    yield "session_pool_limit", "gauge", "Encoder sessions that there are; absent: no limit.", limited
    jobs = [({**_of(d), "job": j["id"], "encoder": j["encoder"]}, j) for d in daemons for j in d["jobs"]]
    yield "job_speed", "gauge", "Media time over wall time.", [(labels, job["speed"]) for labels, job in jobs]
    yield (
        "relays",
        "gauge",
        "Running relays by the state of their source.",
        _counted("state", (r["state"] for r in relays)),
    )
    received = [({"channel": r["channel"]["slug"]}, r["source"]["bytes"]) for r in relays]
    yield "source_received_bytes_total", "counter", "Bytes from a relay's source.", received
    again = [({"channel": r["channel"]["slug"]}, r["source"]["reconnections"]) for r in relays]
    yield "source_reconnections_total", "counter", "New connections to a relay's source.", again
    watched = Counter((r["channel"]["slug"], v["profile"]) for r, v, _ in viewers)
    labelled = [({"channel": c, "profile": p}, float(count)) for (c, p), count in sorted(watched.items())]
    yield "viewers", "gauge", "Viewers of a variant.", labelled


def _of(daemon: View) -> dict[str, object]:
    return {"transcoder": daemon["name"]}


def _stats(daemons: list[View], key: str) -> list[Sample]:
    return [(_of(d), d["system"][key]) for d in daemons if d["system"].get(key) is not None]


def _counted(label: str, values: Iterable[object]) -> list[Sample]:
    return [({label: value}, float(count)) for value, count in sorted(Counter(map(str, values)).items())]


def _lines(name: str, kind: str, words: str, samples: Sequence[Sample]) -> str:
    """One family in the text exposition format 0.0.4."""
    lines = [f"# HELP tvarr_{name} {words}", f"# TYPE tvarr_{name} {kind}"]
    for labels, value in samples:
        text = ",".join(f'{key}="{_escaped(str(content))}"' for key, content in labels.items())
        lines.append(f"tvarr_{name}{{{text}}} {value:.10g}" if text else f"tvarr_{name} {value:.10g}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


ROUTES = (
    Route(method="GET", path="/livez", handler=livez, summary="The process lives", answer="text/plain", open=True),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Streams can be served",
        answer="text/plain",
        open=True,
        errors=(503,),
    ),
    Route(method="GET", path="/metrics", handler=metrics, summary="For Prometheus", answer="text/plain", open=True),
)
