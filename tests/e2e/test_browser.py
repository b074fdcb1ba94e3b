"""A browser plays what we send: Chromium without a screen, by itself, with hls.js and with dash.js."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.conftest import lacking, program
from tests.e2e.test_modern_codecs import profiled
from tests.harness import Cluster

SCRIPTS = Path(__file__).parents[2] / "build" / "npm" / "node_modules"
PLAYED_S = 10.0
WITHIN_S = 40.0

# Reports, once each player has shown PLAYED_S of media, how far each has come and by when.
PAGE = """<!doctype html><title>players</title>%(scripts)s<body><script>
const streams = %(streams)s, playedS = %(played_s)f, players = {};
addEventListener("error", event => { players.page = {errors: [event.message]}; report(); });
const report = () => fetch("/report", {method: "POST", body: JSON.stringify(players)});
for (const [name, [kind, url]] of Object.entries(streams)) {
  const video = document.body.appendChild(document.createElement("video"));
  const player = players[name] = {begun: null, seconds: 0, took: 0, jumps: 0, width: 0, frames: 0, errors: []};
  video.muted = true;
  video.addEventListener("error", () => player.errors.push(video.error.message));
  if (kind === "hls") {
    const hls = new Hls();
    hls.on(Hls.Events.ERROR, (_, data) => { if (data.fatal) player.errors.push(data.details); });
    hls.loadSource(url);
    hls.attachMedia(video);
  } else if (kind === "dash") {
    const dash = dashjs.MediaPlayer().create();
    dash.on("error", event => player.errors.push(event.error.message || event.error));
    dash.initialize(video, url, true);  // plays by itself: asked to play as well it never reads the manifest again
  } else {
    video.src = url;
  }
  if (kind !== "dash") video.play().catch(error => player.errors.push(String(error)));
  let last = null;
  setInterval(() => {
    if (player.seconds >= playedS || video.currentTime === 0 || video.readyState < 3 && player.begun === null) return;
    if (player.begun === null) [player.begun, player.at] = [video.currentTime, performance.now()];
    if (last !== null && (video.currentTime < last || video.currentTime > last + 2)) player.jumps += 1;
    last = video.currentTime;
    player.seconds = video.currentTime - player.begun;
    player.took = (performance.now() - player.at) / 1000;
    player.width = video.videoWidth;
    player.frames = video.getVideoPlaybackQuality().totalVideoFrames;
  }, 100);
}
const done = player => player.seconds >= playedS || player.errors.length;
const timer = setInterval(() => {
  if (Object.values(players).every(done)) { clearInterval(timer); report(); }
}, 100);
setTimeout(report, %(within_s)f * 1000);
</script>"""


@asynccontextmanager
async def page(html: str, scripts: list[Path]) -> AsyncIterator[tuple[str, asyncio.Future[dict[str, Any]]]]:
    """A web server with one page, the scripts under their file names, and what the page reports."""
    reported: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def report(request: web.Request) -> web.Response:
        if not reported.done():
            reported.set_result(json.loads(await request.text()))
        return web.Response()

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    def script(path: Path) -> Any:
        async def answer(_request: web.Request) -> web.FileResponse:
            return web.FileResponse(path)

        return answer

    application = web.Application()
    application.add_routes([web.get("/", index), web.post("/report", report)])
    application.add_routes([web.get(f"/{path.name}", script(path)) for path in scripts])
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", reported
    finally:
        await runner.cleanup()


async def play_in_chromium(streams: dict[str, tuple[str, str]], scripts: list[Path], folder: Path) -> dict[str, Any]:
    """What each of these players came to: `streams` has a kind (file, hls, dash) and an address for each."""
    values = {
        "scripts": "".join(f'<script src="/{path.name}"></script>' for path in scripts),
        "streams": json.dumps(streams),
        "played_s": PLAYED_S,
        "within_s": WITHIN_S,
    }
    async with page(PAGE % values, scripts) as (url, reported):
        command = [program("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"]
        command += ["--enable-logging=stderr"]
        command += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={folder}", url]
        with (folder / "chromium.log").open("wb") as log:
            browser = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            return await asyncio.wait_for(reported, WITHIN_S + 30)
        finally:
            browser.terminate()
            await browser.wait()


def assert_played(player: dict[str, Any], name: str) -> None:
    assert player["errors"] == [], name
    assert player["seconds"] >= PLAYED_S, (name, player)
    assert player["took"] < 1.5 * PLAYED_S, (name, player)
    assert player["jumps"] == 0, (name, player)
    assert player["width"] == (160 if "Opus" in name else 320), name
    assert player["frames"] > PLAYED_S * 25 * 0.5, (name, player)


async def test_chromium_plays_an_endless_file_by_itself(tvarr: Cluster, tmp_path: Path) -> None:
    slug = tvarr.add_channel("In a browser", "file:clip.ts", loop=True)
    url = f"{tvarr.url}/stream/{slug}.mp4?profile="
    profiled(tvarr)
    streams = {"as it is": ("file", url + "passthrough"), "transcoded": ("file", url + "h264")}
    streams |= {"AV1 and Opus": ("file", url + "av1-opus"), "VP9 and Opus": ("file", url + "vp9-opus")}
    for name, player in (await play_in_chromium(streams, [], tmp_path)).items():
        assert_played(player, name)


async def test_chromium_plays_segments_with_hls_js_and_dash_js(tvarr: Cluster, tmp_path: Path) -> None:
    scripts = [SCRIPTS / "hls.js/dist/hls.min.js", SCRIPTS / "dashjs/dist/modern/umd/dash.all.min.js"]
    if not all(path.is_file() for path in scripts):
        lacking("hls.js and dash.js: npm install --prefix build/npm hls.js dashjs")
    slug = tvarr.add_channel("Segments in a browser", "file:clip.ts", loop=True)
    url = f"{tvarr.url}/stream/{slug}"
    streams = {
        "HLS with transport streams": ("hls", f"{url}/index.m3u8?profile=h264"),
        "HLS with CMAF": ("hls", f"{url}/index.m3u8?profile=h264&container=fmp4"),
        "DASH": ("dash", f"{url}/manifest.mpd?profile=h264"),
        "HLS of AV1 and Opus": ("hls", f"{url}/index.m3u8?profile=av1-opus&container=fmp4"),
        "DASH of AV1 and Opus": ("dash", f"{url}/manifest.mpd?profile=av1-opus"),
    }
    profiled(tvarr)
    for name, player in (await play_in_chromium(streams, scripts, tmp_path)).items():
        assert_played(player, name)
