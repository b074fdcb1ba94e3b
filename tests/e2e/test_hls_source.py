"""An HLS channel through a real coordinator and daemon: passed through and transcoded, live."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.clips import decode_errors, probe_bytes
from tests.conftest import program
from tests.fakes.sources import LivePlaylist, Origin
from tests.harness import Cluster, watching

MEDIA_S = 4.0


@pytest.fixture(scope="module")
def segments(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip in four segments of two seconds, once as MPEG-TS and once as fMP4."""
    folder = tmp_path_factory.mktemp("segments")
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", str(clips / "clip.ts"), "-c", "copy", "-f", "hls"]
    command += ["-hls_time", "2", "-hls_list_size", "0"]
    ts = ("-hls_segment_filename", "%d.ts")
    fmp4 = ("-bsf:a", "aac_adtstoasc", "-hls_segment_type", "fmp4", "-hls_segment_filename", "%d.m4s")
    for form in (ts, fmp4):
        subprocess.run([*command, *form, "list.m3u8"], check=True, cwd=folder)
    return folder


async def watch(running: Cluster, slug: str, profile: str, media_bytes: int) -> bytes:
    data = b""
    async with watching(running.stream_url(slug, profile)) as answer:
        assert answer.status == 200, await answer.text()
        while len(data) < media_bytes:
            chunk = await answer.content.readany()
            assert chunk, "the stream ended"
            data += chunk
    return data


@pytest.mark.parametrize("form", ["ts", "m4s"])
async def test_live_hls_is_passed_through_and_transcoded(
    form: str, tvarr: Cluster, segments: Path, tmp_path: Path
) -> None:
    head = '#EXT-X-MAP:URI="init.mp4"' if form == "m4s" else ""
    sizes = [(segments / f"{i}.{form}").stat().st_size for i in range(4)]
    enough = int(sum(sizes) / 8.0 * MEDIA_S)
    async with Origin(segments) as origin:
        origin.on("/live.m3u8", LivePlaylist([f"{i}.{form}" for i in range(4)], segment_s=2.0, head=head))
        slug = tvarr.add_channel(f"Live HLS {form}", f"{origin.url}/live.m3u8")
        passed, transcoded = await asyncio.gather(
            watch(tvarr, slug, "passthrough", enough), watch(tvarr, slug, "h264", enough // 4)
        )
        assert origin.most_at_once <= 1, "one request at a time for both"
    for name, data in (("passed.ts", passed), ("transcoded.ts", transcoded)):
        got = await asyncio.to_thread(probe_bytes, data[: len(data) // 188 * 188], tmp_path, name)
        assert got.codecs() == ["h264", "aac"]
        shown = got.pts("video")
        assert len(shown) > 20
        assert not await asyncio.to_thread(decode_errors, tmp_path / name)
