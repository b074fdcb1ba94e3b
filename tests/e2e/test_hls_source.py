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
    """The clip in four segments of two seconds: as MPEG-TS, as fMP4, and as fMP4 with its sound apart."""
    folder = tmp_path_factory.mktemp("segments")
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", str(clips / "clip.ts"), "-c", "copy", "-f", "hls"]
    command += ["-hls_time", "2", "-hls_list_size", "0"]
    ts = ("-hls_segment_filename", "%d.ts")
    fmp4 = ("-bsf:a", "aac_adtstoasc", "-hls_segment_type", "fmp4", "-hls_segment_filename", "%d.m4s")
    for form in (ts, fmp4):
        subprocess.run([*command, *form, "list.m3u8"], check=True, cwd=folder)
    apart = ("-map", "0:v", "-map", "0:a", "-var_stream_map", "v:0 a:0", "-hls_fmp4_init_filename", "init%v.mp4")
    subprocess.run([*command, *apart, *fmp4[:-1], "apart%v_%d.m4s", "list%v.m3u8"], check=True, cwd=folder)
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


MULTIVARIANT = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,LANGUAGE="de",URI="apart1.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=640x360,CODECS="avc1.64001e,mp4a.40.2",AUDIO="a"
apart0.m3u8
"""


def playlists(form: str) -> dict[str, LivePlaylist | str]:
    """By path; the channel's is `/live.m3u8`."""

    def live(pattern: str, init: str = "") -> LivePlaylist:
        head = f'#EXT-X-MAP:URI="{init}"' if init else ""
        return LivePlaylist([pattern % i for i in range(4)], segment_s=2.0, head=head)

    match form:
        case "ts":
            return {"/live.m3u8": live("%d.ts")}
        case "fMP4":
            return {"/live.m3u8": live("%d.m4s", "init.mp4")}
    parts = {f"/apart{i}.m3u8": live(f"apart{i}_%d.m4s", f"init{i}.mp4") for i in range(2)}
    return {"/live.m3u8": MULTIVARIANT, **parts}


def whole_pictures(data: bytes) -> bytes:
    """A recorded transport stream without the picture that its end cuts through, for which a decoder has words."""
    packets = range(0, len(data) // 188 * 188, 188)
    return data[: max(i for i in packets if data[i + 1] & 0x40 and b"\x00\x00\x01\xe0" in data[i : i + 188])]


@pytest.mark.parametrize("form", ["ts", "fMP4", "sound apart"])
async def test_live_hls_is_passed_through_and_transcoded(
    form: str, tvarr: Cluster, segments: Path, tmp_path: Path
) -> None:
    enough = int(sum((segments / f"{i}.m4s").stat().st_size for i in range(4)) / 8.0 * MEDIA_S)
    async with Origin(segments) as origin:
        for path, playlist in playlists(form).items():
            origin.on(path, playlist)
        slug = tvarr.add_channel(f"Live HLS {form}", f"{origin.url}/live.m3u8")
        passed, transcoded = await asyncio.gather(
            watch(tvarr, slug, "passthrough", enough), watch(tvarr, slug, "h264", enough // 2)
        )
        assert origin.most_at_once <= (2 if form == "sound apart" else 1), "viewers share one request at a time"
    for name, data in (("passed.ts", passed), ("transcoded.ts", transcoded)):
        got = await asyncio.to_thread(probe_bytes, whole_pictures(data), tmp_path, name)
        assert got.codecs() == ["h264", "aac"]
        assert len(got.pts("video")) > 20
        assert len(got.pts("audio")) > 20
        assert not await asyncio.to_thread(decode_errors, tmp_path / name)
