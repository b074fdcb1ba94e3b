"""The dashboard in a browser, with two daemons and a real transcode.

Pictures of the pages are left in build/screenshots.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.clips import make_clip
from tests.conftest import lacking
from tests.e2e.browser import AXE, Visit, chromium, player, until, visit
from tests.harness import PASSWORD, Cluster, cluster, eventually, tvarr_environment

NAME = "Das Erste <b>HD</b>"
MIXED = "<script>alert(1)</script> & Co"


@pytest.fixture(scope="module")
def tvarr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator that makes its own token, two daemons, and a channel that somebody watches transcoded."""
    folder = tmp_path_factory.mktemp("dashboard")
    media = folder / "media"
    media.mkdir()
    make_clip(media / "clip.ts", size="320x180", seconds=20)
    flags = ("--idle-linger", "1")
    with cluster(folder, media_dir=media, coordinator_flags=flags) as running:
        for name in ("rack-1", "attic"):
            running.start_daemon(name, "--max-jobs", "8", "--max-cpu-jobs", "8", wait=False)
        eventually(lambda: all(running.daemon_state(n) == "connected" for n in ("rack-1", "attic")), "both are there")
        slug = running.add_channel(NAME, "file:clip.ts", loop=True, group="News")
        with player(running.stream_url(slug, "h264")), player(running.stream_url(slug, "h264"), "VLC/3 <i>"):
            eventually(lambda: _job(running).get("state") == "running", "the transcode runs")
            yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Browser, tvarr: Cluster) -> Iterator[Visit]:
    with visit(browser, tvarr) as opened:
        yield opened


def _job(running: Cluster) -> dict[str, Any]:
    jobs = [v["job"] for r in running.relays() for v in r["variants"] if v["profile"] == "h264" and v["job"]]
    return jobs[0] if jobs else {}


def _card(page: Page, name: str) -> Any:
    return page.locator("article", has=page.get_by_role("heading", name=name, exact=True))


def test_login(browser: Browser, tvarr: Cluster) -> None:
    with visit(browser, tvarr, login=False) as tab:
        page = tab.open("/relays")
        assert "/login?next=" in page.url
        tab.shot("login")
        page.fill("input[name=password]", "a guess")
        page.click("button")
        expect(page.get_by_role("alert")).to_have_text("wrong password")
        tab.complaints.clear()  # Chromium tells of the 401
        page.fill("input[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/relays")
        (cookie,) = tab.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert page.evaluate("document.cookie") == ""
        tab.context.add_cookies([{**cookie, "value": cookie["value"][:-1] + "x"}])
        assert "/login" in tab.open("/relays").url
        status = page.evaluate("fetch('/api/v1/relays').then(answer => answer.status)")
        assert status == 401
        tab.complaints.clear()


def test_figures_are_fresh_and_nothing_jumps(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open("/transcoders")
    for name in ("rack-1", "attic"):
        expect(_card(page, name).get_by_text("connected")).to_be_visible()
    expect(page.get_by_role("link", name=NAME).first).to_be_visible()  # on a slow machine it may move, and has two jobs
    expect(page.locator("#link")).to_have_text("live")
    page.evaluate(
        """() => {
        window.seen = {shift: 0, slowest: 0, at: {}, gaps: []};
        new PerformanceObserver(list => list.getEntries().forEach(e => { seen.shift += e.value; }))
            .observe({type: "layout-shift"});
        new PerformanceObserver(list => list.getEntries().forEach(e => {
            seen.slowest = Math.max(seen.slowest, e.duration); })).observe({type: "measure"});
        for (const part of document.querySelectorAll(".part-figures")) {
            seen.at[part.id] = performance.now();
            new MutationObserver(() => {
                const now = performance.now();
                if (now - seen.at[part.id] > 100) seen.gaps.push(now - seen.at[part.id]);
                seen.at[part.id] = now;
            }).observe(part, {subtree: true, characterData: true, childList: true, attributes: true});
        }}"""
    )
    until(page, "seen.gaps.length >= 8", 30)
    seen = page.evaluate("seen")
    print("gaps between figures (ms):", [round(gap) for gap in seen["gaps"]], "script (ms):", seen["slowest"])
    assert max(seen["gaps"]) < 5_000
    assert seen["shift"] == 0
    assert seen["slowest"] < 50
    tab.shot("transcoders")


def test_a_change_is_on_the_page_within_five_seconds(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open("/relays")
    viewers = page.locator(".viewers tbody tr")
    expect(viewers).to_have_count(2)
    began = time.monotonic()
    with player(tvarr.stream_url("das-erste-b-hd-b", "h264"), "a third one"):
        expect(page.get_by_text("a third one")).to_be_visible(timeout=5_000)
        print(f"a new viewer was seen after {time.monotonic() - began:.1f} s")
    expect(viewers).to_have_count(2)


def test_a_daemons_own_page(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open("/transcoders")
    with page.expect_navigation():
        page.get_by_role("link", name=_job(tvarr)["daemon_name"], exact=True).click()
    command = page.locator(".command code").first
    expect(command).to_contain_text("libx264")
    expect(page.get_by_role("heading", name="Recent jobs")).to_be_visible()
    tab.shot("transcoder")


def test_a_preview_plays(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open("/relays")
    page.get_by_role("link", name="Preview").first.click()
    video = page.locator("video")
    expect(video).to_be_visible()
    until(page, "document.querySelector('video').currentTime > 0")
    start = video.evaluate("v => v.currentTime")
    until(page, f"document.querySelector('video').currentTime > {start + 3}")
    assert video.evaluate("v => v.videoWidth") == 320
    expect(page.locator(".viewers tbody tr")).to_have_count(3)  # live updates leave the picture alone
    tab.shot("relays")
    page.get_by_role("link", name="Preview").first.click()
    expect(video).to_have_count(0)
    expect(page.locator(".viewers tbody tr")).to_have_count(2)


def test_a_preview_that_can_t_be_had_says_why(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open(f"/channels/{tvarr.add_channel('Absent', 'file:absent.ts')}")
    page.get_by_role("link", name="See a picture").click()
    expect(page.locator("#preview").get_by_role("status")).to_have_text("there is no file absent.ts")
    tab.complaints.clear()  # of the 502


def test_moving_draining_and_activating(tab: Visit, tvarr: Cluster) -> None:
    page = tab.open("/relays")
    before = _job(tvarr)["daemon_name"]
    after = {"rack-1": "attic", "attic": "rack-1"}[before]
    page.get_by_text("Move this job").click()
    page.locator("select[name=to]").select_option(label=after)
    page.get_by_role("button", name="Move").click()
    expect(page.locator(".variant").get_by_role("link", name=after)).to_be_visible()
    expect(page.locator(".variant").get_by_text("Why here:")).to_be_visible()

    page = tab.open("/transcoders")
    page.get_by_role("link", name=before, exact=True).click()
    expect(page.get_by_text(re.compile(f"moved: moved to {after}")).first).to_be_visible()
    page = tab.open("/transcoders")
    _card(page, after).get_by_role("button", name="Drain").click()
    expect(_card(page, after).get_by_text("draining", exact=True)).to_be_visible()
    expect(_card(page, before).get_by_role("link", name=NAME)).to_be_visible()
    expect(_card(page, after).get_by_role("link", name=NAME)).to_have_count(0)
    _card(page, after).get_by_role("button", name="Activate").click()
    expect(_card(page, after).get_by_text("connected", exact=True)).to_be_visible()


def test_adding_a_worker_by_the_panel(browser: Browser, tvarr: Cluster, tmp_path: Path) -> None:
    with visit(browser, tvarr, permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.open("/transcoders")
        page.get_by_role("heading", name="Add a worker").click()
        command = page.locator("#command-machine")
        assert "token-of-the-tests" not in page.content()
        tab.shot("registration")
        page.locator("[data-copy=command-machine]").click()
        expect(page.locator("[data-copy=command-machine]")).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        page.get_by_text("Show the token").click()
        expect(command).to_have_text(copied)
        words = shlex.split(copied)
        assert words[0] == "tvarr"
        started = subprocess.Popen(
            [sys.executable, "-m", *words, "--name", MIXED, "--work-dir", str(tmp_path)],
            env=tvarr_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            expect(_card(page, MIXED).get_by_text("connected", exact=True)).to_be_visible(timeout=30_000)
        finally:
            started.terminate()
            started.wait(15)
        expect(_card(page, MIXED).get_by_text("connected", exact=True)).to_have_count(0)


def test_a_renewed_token(browser: Browser, tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        running.roles["coordinator"].stop()
        running.start_coordinator(TVARR_AUTH_TOKEN="")
        token = running.get("/api/v1/registration")["token"]
        worker = running.start_daemon("worker", TVARR_AUTH_TOKEN=token)
        kept = {"TVARR_AUTH_TOKEN": "", "TVARR_AUTH_TOKEN_FILE": str(tmp_path / "data" / "auth-token")}
        neighbour = running.start_daemon("neighbour", **kept)  # as in a container with both roles
        with visit(browser, running) as tab:
            page = tab.open("/transcoders")
            page.get_by_role("heading", name="Add a worker").click()
            page.get_by_text("Renew the token…").click()
            page.get_by_role("button", name="Renew the token now").click()
            page.wait_for_url("**token=shown*")
            fresh = running.get("/api/v1/registration")["token"]
            assert fresh != token
            expect(page.locator("#command-machine")).to_contain_text(fresh)
            eventually(lambda: "does not take the token" in worker.text(), "the worker is refused")
            eventually(lambda: neighbour.text().count("attached to the coordinator") == 2, "the neighbour comes back")
            eventually(lambda: running.daemon_state("neighbour") == "connected", "the neighbour is back")
            running.roles["coordinator"].stop()
            running.start_coordinator(**kept)
            page.wait_for_url(re.compile("/login"))  # sessions end with the coordinator, and the page notices
            tab.complaints.clear()
        assert running.get("/api/v1/registration")["token"] == fresh
        assert running.request("POST", "/api/v1/registration/renew")[0] == 200


def test_channels(tab: Visit, tvarr: Cluster, tmp_path: Path) -> None:
    page = tab.open("/channels")
    page.get_by_label("Name").fill(MIXED)
    page.get_by_label("Source URL").fill("file:clip.ts")
    page.get_by_label("Start again").check()
    page.get_by_role("button", name="Add").click()
    page.wait_for_url(re.compile(r"/channels/\w+$"))
    expect(page.get_by_role("heading", level=1)).to_have_text(MIXED)
    page.get_by_role("button", name="Read the source").click()
    expect(page.get_by_text("It can be read")).to_be_visible()
    expect(page.get_by_text("320×180")).to_be_visible()
    page.get_by_text("See a picture").click()
    until(page, "document.querySelector('video')?.currentTime > 1")
    tab.shot("channel")
    page.get_by_text("See a picture").click()
    page.get_by_label("Group").fill("Kids")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url(re.compile(r"/channels/\w+$"))
    link = page.locator("#player-1").get_attribute("href")
    assert link == f"{tvarr.url}/stream/script-alert-1-script-and-co.ts"

    page = tab.open("/channels")
    lines = '#EXTM3U\n#EXTINF:-1 group-title="Kids",Two\nhttp://127.0.0.1:9/2.ts\n#EXTINF:-1,Bad\ngopher://x/\n'
    (tmp_path / "list.m3u").write_text(lines)
    page.set_input_files("input[type=file]", tmp_path / "list.m3u")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("1 added")).to_be_visible()
    tab.shot("channels")
    page.get_by_role("link", name=MIXED, exact=True).click()
    page.get_by_text("Remove this channel…").click()
    page.get_by_role("button", name="Really remove").click()
    page.wait_for_url("**/channels")
    expect(page.get_by_role("link", name=MIXED)).to_have_count(0)


def test_profiles(tab: Visit) -> None:
    page = tab.open("/profiles")
    page.get_by_label("Name").fill("tiny")
    page.get_by_label("Width").fill("160")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="tiny").click()
    page.get_by_label("Width").fill("162")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/profiles/tiny")
    assert page.get_by_label("Width").input_value() == "162"
    tab.shot("profile")
    page.get_by_text("Remove this profile…").click()
    page.get_by_role("button", name="Really remove").click()
    page.wait_for_url("**/profiles")
    tab.shot("profiles")


def test_it_comes_back_by_itself(browser: Browser, tmp_path: Path) -> None:
    with (
        cluster(tmp_path, coordinator_flags=("--no-http-auth",)) as running,
        visit(browser, running, login=False) as tab,
    ):
        page = tab.open("/transcoders")
        expect(page.locator("#link")).to_have_text("live")
        running.roles["coordinator"].stop()
        expect(page.locator("#link")).to_have_text("connecting…")
        running.start_coordinator()
        expect(page.locator("#link")).to_have_text("live", timeout=30_000)
        running.start_daemon("late", wait=False)
        expect(_card(page, "late").get_by_text("connected", exact=True)).to_be_visible(timeout=30_000)
        expect(page.get_by_text("No worker has joined yet")).to_be_hidden()
        tab.complaints.clear()  # of the network


def test_without_scripts(browser: Browser, tvarr: Cluster) -> None:
    with visit(browser, tvarr, java_script_enabled=False) as tab:
        page = tab.open("/transcoders")
        expect(page.get_by_role("link", name=NAME)).to_be_visible()
        with page.expect_navigation(timeout=10_000):
            pass  # it reloads by itself
        page = tab.open("/relays")
        expect(page.get_by_text("mpv 0.35")).to_be_visible()


PAGES = ("/transcoders", "/relays", "/channels", "/profiles", "/profiles/h264")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, tvarr: Cluster, scheme: Any) -> None:
    """axe-core finds nothing against WCAG 2 A and AA, contrast among it; every control is reached by Tab."""
    if not AXE.exists():
        lacking("axe-core under build/npm")
    channel = tvarr.get("/api/v1/channels")[0]["id"]
    daemon = tvarr.get("/api/v1/transcoders")[0]["id"]
    with visit(browser, tvarr, color_scheme=scheme) as tab:
        for path in (*PAGES, f"/channels/{channel}", f"/transcoders/{daemon}"):
            page = tab.open(path)
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            page.evaluate(AXE.read_text())
            found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
            broken = [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found["violations"]]
            assert broken == [], path
            if scheme == "dark":
                _tab_through(page, path)
        tab.open("/transcoders")
        tab.page.wait_for_timeout(100)
        tab.shot(f"transcoders-{scheme}")


def _tab_through(page: Page, path: str) -> None:
    """Every link, button and field that is seen gets the focus in turn."""
    page.evaluate(
        """() => { window.wanted = new Set([...document.querySelectorAll(
        'a[href], button, input, select, textarea, summary')].filter(e => e.checkVisibility() && !e.disabled
        && !e.matches(':disabled') && e.tabIndex >= 0 && e.type !== 'hidden'));
        document.addEventListener('focusin', event => wanted.delete(event.target)); document.activeElement.blur(); }"""
    )
    for _ in range(page.evaluate("wanted.size") + 40):
        page.keyboard.press("Tab")
    left = page.evaluate("[...wanted].filter(e => e.isConnected).map(e => e.outerHTML.slice(0, 120))")
    assert left == [], path


def test_on_a_phone(browser: Browser, tvarr: Cluster) -> None:
    with visit(browser, tvarr, viewport={"width": 360, "height": 740}, color_scheme="dark") as tab:
        for path in PAGES:
            page = tab.open(path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            tab.shot(f"phone{path.replace('/', '-')}")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_login_page_fits_its_window(browser: Browser, tvarr: Cluster, width: int) -> None:
    with visit(browser, tvarr, login=False, viewport={"width": width, "height": 740}) as tab:
        page = tab.open("/login")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_comes_from_elsewhere(tab: Visit) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    for path in PAGES:
        tab.open(path)
    assert asked
    assert all(url.startswith(tab.tvarr.url) for url in asked)
    policy = tab.page.request.get(tab.tvarr.url + "/transcoders").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
