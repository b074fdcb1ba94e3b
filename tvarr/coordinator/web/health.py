"""Liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tvarr.coordinator import metrics
from tvarr.coordinator.web.problems import problem
from tvarr.coordinator.web.routes import Route
from tvarr.coordinator.web.services import CoordinatorServices, View, services_of

UP = frozenset({"connected", "draining"})  # states of a daemon

Labels = dict[str, str]
Sample = tuple[Labels, float | None]  # None: not known, and left out


async def livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    services = services_of(request)
    if not services.ready:
        return problem(503, "the coordinator is starting or ending", headers={"Retry-After": "1"})
    await services.store.setting("ready")  # raises where the disk is gone
    return web.Response(text="ok\n")


async def exposition(request: web.Request) -> web.Response:
    registry = CollectorRegistry()
    registry.register(_State(services_of(request)))
    for counted in metrics.ALL:
        registry.register(counted)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": content_type})


class _State(Collector):
    """What is there now: daemons, sessions, jobs, relays, viewers."""

    def __init__(self, services: CoordinatorServices) -> None:
        self._services = services

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        services = self._services
        yield _gauge("build_info", "The version that runs.", [({"version": services.version}, 1)])
        yield _gauge("event_loop_tasks", "Tasks of the event loop.", [({}, len(asyncio.all_tasks()))])
        yield _gauge("ready", "Whether streams can be served.", [({}, services.ready)])
        daemons, relays = _named(services.transcoders()), services.relays()
        yield from _daemons(daemons)
        yield from _gpus(daemons)
        yield from _jobs(daemons)
        yield from _relays(relays)


def _named(daemons: Sequence[View]) -> list[tuple[Labels, View]]:
    """Each daemon with its label: its name, with a part of its id where others have the same name."""
    names = Counter(d["name"] for d in daemons)
    return [({"transcoder": d["name"] if names[d["name"]] == 1 else f"{d['name']} {d['id'][:8]}"}, d) for d in daemons]


def _daemons(daemons: Sequence[tuple[Labels, View]]) -> Iterable[Metric]:
    yield _gauge("worker_up", "Whether a daemon is connected.", [(of, d["state"] in UP) for of, d in daemons])
    yield _gauge("transcoders", "Daemons by state.", _counted("state", (d["state"] for _, d in daemons)))
    for key, words in (
        ("cpu_percent", "CPU use of a daemon's host."),
        ("memory_used_bytes", "Memory in use on a daemon's host."),
        ("process_memory_bytes", "Memory of the daemon itself."),
    ):
        yield _gauge(f"transcoder_{key}", words, [(of, d["system"].get(key)) for of, d in daemons])
    yield _gauge("transcoder_jobs", "Running jobs of a daemon.", [(of, len(d["jobs"])) for of, d in daemons])
    most = [(of, d["capabilities"]["max_jobs"] or None) for of, d in daemons]
    yield _gauge("transcoder_max_jobs", "Jobs that a daemon takes; absent: any number.", most)
    for key, words in (
        ("jobs_finished", "Jobs that a daemon ended well since it connected."),
        ("jobs_failed", "Jobs that a daemon lost or failed since it connected."),
    ):
        yield _counter(f"transcoder_{key}", words, [(of, d["totals"][key]) for of, d in daemons])


def _gpus(daemons: Sequence[tuple[Labels, View]]) -> Iterable[Metric]:
    """Sessions of each GPU as its driver counts them, and those of its pool as the ledger does: the GPUs and daemons of
    one host may share a pool.
    """
    sessions: list[Sample] = []
    loads: list[Sample] = []
    for of, daemon in daemons:
        pools = {pool["id"]: pool for pool in daemon["pools"]}
        for gpu in daemon["gpus"]:
            labels, pool = {**of, "gpu": gpu["id"]}, pools.get(gpu["pool"], {})
            sessions.append(({**labels, "state": "active"}, gpu["encode_sessions"]))
            sessions += [({**labels, "state": f"pool_{key}"}, pool.get(key)) for key in ("held", "foreign", "limit")]
            loads += [({**labels, "engine": e}, gpu[f"{e}_percent"]) for e in ("utilization", "encoder", "decoder")]
    yield _gauge("gpu_encode_sessions", "Encoder sessions of a GPU, and of the pool that it draws from.", sessions)
    yield _gauge("gpu_load_percent", "Load of a GPU and of its engines.", loads)


def _jobs(daemons: Sequence[tuple[Labels, View]]) -> Iterable[Metric]:
    jobs = [
        ({**of, "job": job["id"], **{key: job[key] for key in ("channel", "profile", "encoder")}}, job)
        for of, daemon in daemons
        for job in daemon["jobs"]
    ]
    yield _gauge("job_speed_ratio", "Media time over wall time.", [(labels, job["speed"]) for labels, job in jobs])
    yield _gauge("job_lag_seconds", "From the source to the output.", [(labels, job["lag_s"]) for labels, job in jobs])


def _relays(relays: Sequence[View]) -> Iterable[Metric]:
    channels = [({"channel": relay["channel"]["slug"]}, relay) for relay in relays]
    yield _gauge(
        "relays", "Running relays by the state of their source.", _counted("state", (r["state"] for r in relays))
    )
    connected = (relay["channel"]["group"] for relay in relays if relay["source"]["counts"])
    yield _gauge("connections", "Connections to providers, by channel group.", _counted("group", connected))
    for key, words in (
        ("bytes", "Bytes from a relay's source."),
        ("reconnections", "New connections to a relay's source."),
    ):
        name = "source_received_bytes" if key == "bytes" else f"source_{key}"
        yield _counter(name, words, [(of, relay["source"][key]) for of, relay in channels])
    kept = [(of, relay["buffer"]["bytes"]) for of, relay in channels]
    yield _gauge("relay_buffer_bytes", "Media that a relay keeps for lost jobs to go on from.", kept)
    watched = [
        ({**of, "profile": v["profile"]}, len(v["viewers"])) for of, relay in channels for v in relay["variants"]
    ]
    yield _gauge("viewers", "Viewers of a variant.", watched)


def _counted(label: str, values: Iterable[object]) -> list[Sample]:
    return [({label: value}, count) for value, count in sorted(Counter(map(str, values)).items())]


def _gauge(name: str, words: str, samples: Iterable[Sample]) -> Metric:
    return _metric(name, words, "gauge", samples)


def _counter(name: str, words: str, samples: Iterable[Sample]) -> Metric:
    return _metric(name, words, "counter", samples)


def _metric(name: str, words: str, kind: str, samples: Iterable[Sample]) -> Metric:
    metric = Metric(f"tvarr_{name}", words, kind)
    for labels, value in samples:
        if value is not None:
            metric.add_sample(metric.name + ("_total" if kind == "counter" else ""), labels, float(value))
    return metric


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
    Route(method="GET", path="/metrics", handler=exposition, summary="For Prometheus", answer="text/plain", open=True),
)
