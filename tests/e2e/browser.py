"""Debian's Chromium, driven by Playwright, logged in to a coordinator's dashboard."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.conftest import program
from tests.harness import PASSWORD, Cluster

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
AXE = ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--mute-audio", "--autoplay-policy=no-user-gesture-required"],
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One open tab. What its console complains of is in `complaints`."""

    tvarr: Cluster
    page: Page
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.tvarr.url + path, wait_until="load")
        return self.page

    def shot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    @property
    def context(self) -> BrowserContext:
        return self.page.context


@contextlib.contextmanager
def visit(browser: Browser, tvarr: Cluster, *, login: bool = True, **options: Any) -> Iterator[Visit]:
    """A tab with cookies of its own; after the block its console must have been silent."""
    context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 900}), **options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    visit = Visit(tvarr, page)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: visit.complaints.append(message.text) if message.type in {"error", "warning"} else None,
    )
    try:
        if login:
            visit.open("/login")
            page.fill("input[name=password]", PASSWORD)
            page.click("button")
            page.wait_for_url("**/transcoders")
        yield visit
        assert visit.complaints == []
    finally:
        context.close()


def until(page: Page, expression: str, within_s: float = 20.0) -> None:
    """Waits until an expression holds in the page. (Playwright's own wait needs what the page's policy forbids.)"""
    deadline = time.monotonic() + within_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {expression}"
        page.wait_for_timeout(50)


@contextlib.contextmanager
def player(url: str, agent: str = "mpv 0.35") -> Iterator[None]:
    """A player that watches in the background."""
    stop = threading.Event()

    def watch() -> None:
        request = urllib.request.Request(url, headers={"User-Agent": agent})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            while not stop.is_set() and answer.read(65536):
                pass

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
