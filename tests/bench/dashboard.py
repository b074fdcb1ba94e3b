"""What the dashboard costs with 200 daemons: `python -m tests.bench dashboard`.

The coordinator is the real role, the daemons are those of `daemons`, the browser is Chromium, and open dashboards are
connections that read what a page's script reads.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
from playwright.async_api import async_playwright

from tests.bench.bench import Bench, cluster
from tests.bench.daemons import daemon
from tests.bench.measure import CpuMeter
from tests.bench.report import Report, at_most
from tests.conftest import program
from tests.harness import PASSWORD, TOKEN, Cluster
from tvarr.wire.protocol import Endpoint

DAEMONS = 200
DASHBOARDS = 100
REGISTER_S = 10.0
SETTLE_S = 12.0
MEASURE_S = 20.0


async def measure(report: Report, count: int, dashboards: int) -> None:
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as running:
        pid = running.roles["coordinator"].process.pid
        endpoint, counts, started = Endpoint("127.0.0.1", running.grpc_port, TOKEN), Counter[str](), time.monotonic()
        tasks = [
            asyncio.create_task(daemon(n, endpoint, started + n * REGISTER_S / count, counts)) for n in range(count)
        ]
        while counts["registered"] < count:
            assert not any(task.done() for task in tasks), "a daemon was turned away"
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE_S)
        without = await cpu_percent(pid)
        await measure_open(report, running, pid, dashboards, without)
        await asyncio.sleep(SETTLE_S)
        await measure_page(report, running, count)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def cpu_percent(pid: int) -> float:
    """Of one core, over a while."""
    meter = CpuMeter({"coordinator": pid})
    await asyncio.sleep(MEASURE_S)
    return meter.percent()["coordinator"]


async def measure_open(report: Report, running: Cluster, pid: int, dashboards: int, without: float) -> None:
    headers = {"Authorization": f"Bearer {PASSWORD}"}
    received = Counter[str]()

    async def look(session: aiohttp.ClientSession, path: str) -> None:
        async with session.get(running.url + path) as answer:
            assert answer.status == 200, await answer.text()
            while chunk := await answer.content.readany():
                received["bytes"] += len(chunk)
                received["changes"] += chunk.count(b"event: change")

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        async with session.get(running.url + "/transcoders") as answer:
            (path,) = re.findall(r'data-live="([^"]+)"', await answer.text())
        looking = [asyncio.create_task(look(session, path.replace("&amp;", "&"))) for _ in range(dashboards)]
        await asyncio.sleep(SETTLE_S)
        assert not any(task.done() for task in looking)
        received.clear()
        with_them = await cpu_percent(pid)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
    kilobytes, changes = (received[what] / dashboards / MEASURE_S for what in ("bytes", "changes"))
    report.add(
        f"coordinator, {dashboards} open dashboards: CPU",
        with_them - without,
        "% of a core",
        against=f"{without:.1f} % without them",
        aim=at_most(10),
        more=f"{kilobytes / 1000:.0f} kB and {changes:.1f} changes a second to each",
    )


async def measure_page(report: Report, running: Cluster, count: int) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        await page.goto(running.url + "/login")
        await page.fill("input[name=password]", PASSWORD)
        await page.click("button")
        await page.wait_for_url("**/transcoders")
        renders = []
        for _ in range(5):
            await page.goto(running.url + "/transcoders", wait_until="load")
            renders.append(await page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        cards = await page.locator("article").count()
        assert cards == count, f"the page shows {cards} daemons"
        await page.evaluate(
            """() => { window.events = []; window.shift = 0; window.at = {}; window.gaps = [];
            new PerformanceObserver(list => list.getEntries().forEach(e => events.push(e.duration)))
                .observe({type: "measure"});
            new PerformanceObserver(list => list.getEntries().forEach(e => { shift += e.value; }))
                .observe({type: "layout-shift"});
            for (const part of document.querySelectorAll("article")) {
                new MutationObserver(() => {
                    const now = performance.now();
                    if (at[part.id]) gaps.push(now - at[part.id]);
                    at[part.id] = now;
                }).observe(part, {subtree: true, characterData: true, childList: true, attributes: true});
            }}"""
        )
        await page.wait_for_timeout(MEASURE_S * 1000)
        events, shift = await page.evaluate("events"), await page.evaluate("shift")
        gaps = [gap / 1000 for gap in await page.evaluate("gaps") if gap > 50]
        await browser.close()
    report.add(f"page with {count} daemons: first render", statistics.median(renders) / 1000, "s", aim=at_most(1))
    report.add(
        f"page with {count} daemons: script for one event",
        max(events),
        "ms",
        aim=at_most(50),
        more=f"the longest of {len(events)}, median {statistics.median(events):.1f}; layout shift {shift:g}",
    )
    report.add(
        f"page with {count} daemons: age of figures",
        max(gaps),
        "s",
        aim=at_most(5),
        more=f"the longest between two changes of one daemon's, median {statistics.median(gaps):.1f}",
    )


def run(bench: Bench) -> None:
    asyncio.run(measure(bench.report, DAEMONS, DASHBOARDS))
