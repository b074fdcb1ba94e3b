"""Daemons, relays, events, health, the description, and the pages."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter

from tests.coordinator.web_server import DETAIL, FAILURE, RELAY, TRANSCODER, Client, Served, serving
from tvarr.coordinator.models import ChannelCreate, parse
from tvarr.coordinator.web import ROUTES, cluster
from tvarr.coordinator.web.events import Events
from tvarr.coordinator.web.schemas import FailureView, RelayView, TranscoderDetail, TranscoderView
from tvarr.coordinator.web.words import duration_words, size_words


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as both:
        both[1].add_samples()
        yield both


async def get(client: Client, path: str, status: int = 200) -> str:
    async with client.get(path) as answer:
        assert answer.status == status
        return await answer.text()


async def test_transcoders_and_relays(served: Served) -> None:
    client, _ = served
    assert json.loads(await get(client, "/api/v1/transcoders")) == [TRANSCODER]
    (job,) = TRANSCODER["jobs"]
    detail = {**TRANSCODER, **DETAIL, "jobs": [{**job, "stderr": ["frame dropped <i>"]}]}
    assert json.loads(await get(client, "/api/v1/transcoders/d1")) == detail
    TypeAdapter(TranscoderDetail).validate_python(detail)
    assert json.loads(await get(client, "/api/v1/relays")) == [RELAY]
    assert json.loads(await get(client, "/api/v1/relays/r1")) == RELAY
    for path in ("/api/v1/transcoders/x", "/api/v1/relays/x"):
        assert "there is no" in json.loads(await get(client, path, 404))["detail"]


async def test_drain_and_activate(served: Served) -> None:
    client, _ = served
    for verb, state in (("drain", "draining"), ("activate", "connected")):
        async with client.post(f"/api/v1/transcoders/d1/{verb}") as answer:
            assert (await answer.json())["state"] == state
        async with client.post(f"/api/v1/transcoders/x/{verb}") as answer:
            assert answer.status == 404


async def test_moving_a_job(served: Served) -> None:
    client, services = served
    for relay, body, status in (
        ("r1", {"profile": "h264", "to": "attic"}, 202),
        ("r1", {"profile": "h264"}, 202),
        ("r1", {"profile": "h264", "to": "nobody"}, 409),
        ("r1", {}, 400),
        ("x", {"profile": "h264"}, 404),
    ):
        async with client.post(f"/api/v1/relays/{relay}/move", json=body) as answer:
            assert answer.status == status, await answer.text()
    assert services.asked == [("moved", "h264 to attic"), ("moved", "h264 to ")]


async def test_stopping_a_relay(served: Served) -> None:
    client, services = served
    for status in (204, 404):
        async with client.delete("/api/v1/relays/r1") as answer:
            assert answer.status == status
    assert services.running == []


async def test_registration(served: Served) -> None:
    client, services = served
    assert json.loads(await get(client, "/api/v1/registration")) == services.registration()


async def next_event(answer: ClientResponse) -> tuple[str, Any]:
    lines = (await answer.content.readuntil(b"\n\n")).decode().strip().split("\n")
    values = dict(line.split(": ", 1) for line in lines)
    return values["event"], json.loads(values["data"])


def _events(client: Client) -> Events:
    assert client.app is not None
    events = client.app[cluster.EVENTS]
    events.interval_s = 0.02
    return events


async def test_events_tell_what_is_and_what_changes(served: Served) -> None:
    client, services = served
    events = _events(client)
    logger = logging.getLogger("tvarr.test")
    async with asyncio.timeout(10), client.get("/api/v1/events") as answer:
        assert answer.content_type == "text/event-stream"
        assert await next_event(answer) == ("transcoders", [TRANSCODER])
        assert await next_event(answer) == ("relays", [RELAY])
        services.daemons.clear()
        assert await next_event(answer) == ("transcoders", [])
        with services.log_tail.listening():
            logger.warning("a line\nwith http://user:secret@host", extra={"job_id": "j1"})
        name, line = await next_event(answer)
        assert (name, line["message"], line["job_id"]) == ("log", "a line\nwith http://***@host", "j1")
        async with client.get("/api/v1/events") as other:
            assert [(await next_event(other))[0] for _ in range(3)] == ["transcoders", "relays", "log"]
            assert events.listeners == 2


async def test_events_are_kept_alive_and_end_with_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "KEEPALIVE_S", 0.02)
    async with asyncio.timeout(10), serving(tmp_path) as (client, _), client.get("/api/v1/events") as answer:
        await next_event(answer)
        await next_event(answer)
        assert await answer.content.readuntil(b"\n\n") == b": still here\n\n"
        assert client.server.runner is not None
        await client.server.runner.shutdown()
        while await answer.content.read(1024):
            pass


async def test_listeners_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = served
    monkeypatch.setattr(cluster, "MAX_LISTENERS", 1)
    monkeypatch.setattr(cluster, "KEEPALIVE_S", 0.02)
    events = _events(client)
    async with asyncio.timeout(10):
        async with client.get("/api/v1/events") as answer:
            await next_event(answer)
            assert "1 listeners" in await get(client, "/api/v1/events", 503)
        while events.listeners:  # noqa: ASYNC110 - there is nothing to wait on from outside
            await asyncio.sleep(0.01)
        async with client.get("/api/v1/events") as answer:
            assert answer.status == 200


async def test_pages_are_told_what_changes(served: Served) -> None:
    client, services = served
    page = await get(client, "/transcoders")
    (path,) = re.findall(r'data-live="([^"]+)"', page)
    async with asyncio.timeout(10), client.get(path) as answer:
        assert answer.content_type == "text/event-stream"
        services.daemons[0]["state"] = "draining"
        lines = (await answer.content.readuntil(b"\n\n")).decode().strip().split("\n")
        change = json.loads(dict(line.split(": ", 1) for line in lines)["data"])
        assert list(change["html"]) == ["head-d1"]
        assert "Activate" in change["html"]["head-d1"]
        assert services.asked == [("watched", "True")]
    await get(client, "/live/transcoders/x", 404)
    await get(client, "/live/nothing", 404)


async def test_health(tmp_path: Path) -> None:
    async with serving(tmp_path, logged_in=False) as (client, services):
        assert await get(client, "/livez") == "ok\n"
        assert await get(client, "/readyz") == "ok\n"
        services.ready = False
        assert await get(client, "/livez") == "ok\n"
        assert "starting or ending" in await get(client, "/readyz", 503)


def samples_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as a scraper reads them: it refuses a text with one sample twice."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}
    assert len(values) == len(found)
    return values


async def test_metrics(served: Served) -> None:
    client, services = served
    services.daemons[0]["name"] = 'quoted "name"\nwith \\ all'
    values = samples_of(await get(client, "/metrics"))
    worker = ("transcoder", 'quoted "name"\nwith \\ all')
    assert all(name.startswith("tvarr_") for name, _ in values)
    assert values["tvarr_build_info", (("version", "0.1.0"),)] == 1
    assert values["tvarr_worker_up", (worker,)] == 1
    assert values["tvarr_transcoders", (("state", "connected"),)] == 1
    assert values["tvarr_viewers", (("channel", "news"), ("profile", "h264"))] == 1
    assert values["tvarr_source_received_bytes_total", (("channel", "news"),)] == 75_000_000
    sessions = {labels[1][1]: value for (name, labels), value in values.items() if name == "tvarr_gpu_encode_sessions"}
    assert sessions == {"active": 2, "pool_held": 1, "pool_foreign": 1, "pool_limit": 8}
    job = (("channel", "News [red]"), ("encoder", "h264_nvenc"), ("job", "job1"), ("profile", "h264"), worker)
    assert values["tvarr_job_speed_ratio", job] == 1.02


async def test_no_metric_holds_an_address(served: Served) -> None:
    client, _ = served
    text = await get(client, "/metrics")
    assert "192.0.2" not in text
    assert "http" not in text


async def test_daemons_of_one_name_are_told_apart(served: Served) -> None:
    client, services = served
    services.daemons.append({**TRANSCODER, "id": "0123456789abcdef", "jobs": []})
    up = [labels for name, labels in samples_of(await get(client, "/metrics")) if name == "tvarr_worker_up"]
    assert up == [(("transcoder", "rack <1> d1"),), (("transcoder", "rack <1> 01234567"),)]


async def test_the_description_is_complete(served: Served) -> None:
    client, _ = served
    described = json.loads(await get(client, "/api/openapi.json"))
    assert {(method.upper(), path) for path, item in described["paths"].items() for method in item} == {
        (route.method, route.path) for route in ROUTES
    }
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert references <= set(described["components"]["schemas"])
    channel = described["components"]["schemas"]["ChannelCreate"]
    assert sorted(channel["required"]) == ["name", "url"]
    changes = described["paths"]["/api/v1/channels/{id}"]["patch"]["requestBody"]["content"]["application/json"]
    assert "required" not in changes["schema"]
    served_paths = (
        {(route.method, route.resource.canonical) for route in client.app.router.routes() if route.resource is not None}
        if client.app
        else set()
    )
    assert {(route.method, route.path) for route in ROUTES} <= served_paths


def test_the_examples_have_the_described_shapes() -> None:
    TypeAdapter(TranscoderView).validate_python(TRANSCODER)
    TypeAdapter(RelayView).validate_python(RELAY)
    TypeAdapter(FailureView).validate_python(FAILURE)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/transcoders", ["rack <1>", "h264_nvenc", "GeForce RTX 3080", "driver 550.54: 8", "2 h 1 min", "News [red]"]),
        (
            "/transcoders/d1",
            [
                "no AV1 encoder",
                "Some CPU, 16 threads",
                "64.0 GiB",
                "frame dropped <i>",
                "<b>no more memory</b>",
                "news/h264",
            ],
        ),
        ("/relays", ["the only free h264 encoder in hardware", "attic", "VLC/3.0 <script>", "11.8 MiB", "1.02×"]),
        ("/profiles", ["h264-720p", "≤ 1280×720", "3000", "built in"]),
        ("/channels", ["There is no channel yet"]),
    ],
)
async def test_pages_show_what_is(served: Served, path: str, words: list[str]) -> None:
    client, _ = served
    page = await get(client, path)
    for word in words:
        assert escape(word) in page
    assert "<script>" not in page.replace('<script src="/static/live.js" defer></script>', "")


async def test_a_daemon_that_left_has_no_present_figures(served: Served) -> None:
    client, services = served
    services.daemons[0]["state"] = "disconnected"
    figures = re.findall(r"<dt>(CPU|Load)</dt><dd>(.*?)</dd>", await get(client, "/transcoders/d1"))
    assert figures[:2] == [("CPU", "–"), ("Load", "–")]


async def test_pages_before_anything_has_happened(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, services):
        page = await get(client, "/transcoders")
        assert "No worker has joined yet" in page
        asked = services.registration()
        hidden = {name: asked[name].replace("TOKEN@", "••••••••@") for name in ("container", "command", "compose")}
        assert all(words in page for words in hidden.values())
        assert "TOKEN@" not in page
        shown = await get(client, "/transcoders?token=shown")
        assert all(asked[name] in shown for name in hidden)
        assert "Nothing is being watched" in await get(client, "/relays")
        services.add_samples()
        services.daemons[0].update(system={}, gpus=[], pools=[], jobs=[])
        services.daemons[0]["capabilities"].update(encoders=[], max_jobs=0)
        assert "no usable encoder" in await get(client, "/transcoders")
        await get(client, "/transcoders/d1")
        await get(client, "/transcoders/x", 404)


async def test_what_failed_lately_is_shown(served: Served) -> None:
    client, services = served
    assert "Failed lately" not in await get(client, "/relays")
    channel = await services.store.add_channel(parse(ChannelCreate, {"name": "News", "url": "http://h/1"}))
    services.failed = [
        FAILURE,
        {**FAILURE, "channel": "sport", "reason": "nobody is there", "status": None, "count": 1},
    ]
    services.failed[1]["reasons"] = ["attic: too <slow>"]
    assert json.loads(await get(client, "/api/v1/failures?limit=1")) == [FAILURE]
    page = await get(client, "/relays")
    for words in (
        FAILURE["reason"],
        "3 times",
        "502",
        "nobody is there",
        "attic: too <slow>",
        "broke off",
        "2026-11-23 12:04:00",
    ):
        assert escape(str(words)) in page
    assert "<script>alert" not in page
    page = await get(client, f"/channels/{channel.id}")
    assert escape(str(FAILURE["reason"])) in page
    assert "nobody is there" not in page


async def test_buttons_of_pages(served: Served) -> None:
    client, services = served
    for path, check in (
        ("/transcoders/d1/drain", lambda: services.daemons[0]["state"] == "draining"),
        ("/transcoders/d1/activate", lambda: services.daemons[0]["state"] == "connected"),
        ("/relays/r1/stop", lambda: services.running == []),
    ):
        async with client.post(path) as answer:
            assert answer.status == 200
        assert check()


@pytest.mark.parametrize(
    ("count", "words"), [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes(count: float | None, words: str) -> None:
    assert size_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (0.4, "0 s"), (75, "1 min 15 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration_words(seconds) == words


async def test_the_grafana_file_asks_for_metrics_that_there_are(served: Served) -> None:
    client, _ = served
    families = list(text_string_to_metric_families(await get(client, "/metrics")))
    known = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    known |= {f"{f.name}_bucket" for f in families if f.type == "histogram"}
    board = json.loads((Path(__file__).parents[2] / "examples" / "grafana" / "tvarr.json").read_text())
    asked = {name for p in board["panels"] for t in p["targets"] for name in re.findall(r"tvarr_\w+", t["expr"])}
    assert len(asked) > 10
    assert asked <= known
