"""`--metrics-listen`: what a daemon tells Prometheus, and whoever watches over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tvarr import __version__
from tvarr.errors import StartError
from tvarr.ffmpegd import metrics
from tvarr.ffmpegd.work import Jobs
from tvarr.listening import every_address


class _State(Collector):
    """The jobs that run now."""

    def __init__(self, jobs: Jobs, attached: Callable[[], bool]) -> None:
        self._jobs = jobs
        self._attached = attached

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        active = self._jobs.active()
        yield _gauge("build_info", "The version that runs.", [({"version": __version__}, 1.0)])
        yield _gauge("worker_up", "Whether a coordinator has this daemon.", [({}, float(self._attached()))])
        tasks = float(len(asyncio.all_tasks()))
        yield _gauge("event_loop_tasks", "Tasks of the event loop.", [({}, tasks)])
        yield _gauge("worker_jobs", "Running jobs.", [({}, float(len(active)))])
        speeds = [({"job": job.job_id, "encoder": job.encoder}, job.speed) for job in active]
        yield _gauge("job_speed_ratio", "Media time over wall time.", speeds)
        own = self._jobs.capacity.own_sessions()
        sessions = [({"gpu": gpu, "state": "own"}, float(held.encode)) for gpu, held in own.items()]
        yield _gauge("gpu_encode_sessions", "Encoder sessions that this daemon's jobs hold.", sessions)


def _gauge(name: str, words: str, samples: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(f"tvarr_{name}", words, "gauge")
    for labels, value in samples:
        metric.add_sample(metric.name, labels, value)
    return metric


async def serve(
    stack: AsyncExitStack, jobs: Jobs, host: str, port: int, *, attached: Callable[[], bool], ready: Callable[[], bool]
) -> int:
    """Answers `/metrics`, `/livez` and `/readyz` until the stack is left; returns the port.

    Raises `StartError` where the port can't be had.
    """
    registry = CollectorRegistry()
    for counted in (metrics.JOBS, metrics.SAMPLES, metrics.BYTES, _State(jobs, attached)):
        registry.register(counted)

    async def exposition(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not attached to a coordinator\n", headers={"Retry-After": "1"})

    application = web.Application()
    application.add_routes([web.get("/metrics", exposition), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        sock = every_address(host, port)
        await (web.SockSite(runner, sock) if sock is not None else web.TCPSite(runner, host, port)).start()
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"--metrics-listen {host}:{port} can't be used: {reason}") from error
    return int(runner.addresses[0][1])
