"""The source becomes another in mid-stream: other pictures, another codec, fields. No picture is lost over it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clips import decode_errors
from tests.conftest import program
from tests.e2e.test_profiles import interlaced_pictures, look
from tests.harness import Cluster, cluster, read_all
from tests.hls import play_hls

SECONDS, FPS = 4, 25
PLAIN = {"size": "320x180"}
WOVEN = ("-filter:v", "tinterlace=interleave_top,setfield=tff", "-flags", "+ilme+ildct", "-x264opts", "tff=1")
BOTH_WAYS = {"codec": ("libx264", "-x264-params", "b-adapt=0"), "b_frames": 2}
CHANGES: dict[str, list[dict[str, Any]]] = {
    "size": [PLAIN, {"size": "480x270"}, PLAIN],
    "codec": [PLAIN, {"codec": ("libx265", "-x265-params", "log-level=error")}, PLAIN],
    "fields": [PLAIN, {"fps": 50, "codec": ("libx264", *WOVEN)}],
    "sound": [PLAIN, {"sound": ("mp2", "-ac", "1", "-ar", "44100")}, PLAIN],
    "reordered": [BOTH_WAYS, {**BOTH_WAYS, "sound": ("ac3",)}, BOTH_WAYS],
    "channels": [{"sound": ("mp2",)}, {"sound": ("ac3", "-ac", "6")}, {"sound": ("mp2",)}],
    "numbers": [PLAIN, {"pids": (0x200, 0x201)}, {"pids": (0x101, 0x100)}],
}


def part(path: Path, place: int, **settings: Any) -> bytes:
    """Four seconds of a source, with time stamps of its place in it."""
    size, fps = settings.get("size", "320x180"), settings.get("fps", FPS)
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={fps}:d={SECONDS}"]
    command += ["-f", "lavfi", "-i", f"sine=r=48000:d={SECONDS}"]
    command += ["-c:v", *settings.get("codec", ("libx264",)), "-preset", "ultrafast", "-g", "25"]
    command += ["-bf", str(settings.get("b_frames", 0))]
    command += ["-pix_fmt", "yuv420p", "-c:a", *settings.get("sound", ("aac",))]
    command += [f for n, pid in enumerate(settings.get("pids", ())) for f in ("-streamid", f"{n}:{pid}")]
    command += ["-map", settings["only"]] if "only" in settings else []
    command += ["-muxdelay", "0", "-output_ts_offset", str(10 + place * SECONDS), "-f", "mpegts", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.read_bytes()


GONE = [PLAIN, {"only": "1:a"}, PLAIN]  # the picture, for a while
MUTE = [PLAIN, {"only": "0:v"}]


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator with one daemon, and a channel for each of CHANGES."""
    folder = tmp_path_factory.mktemp("changing")
    sources = {**CHANGES, "gone": GONE, "mute": MUTE}
    for name, parts in sources.items():
        made = [part(folder / "part.ts", place, **settings) for place, settings in enumerate(parts)]
        (folder / f"{name}.ts").write_bytes(b"".join(made))
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=folder) as running:
        running.start_daemon("worker")
        for name in sources:
            running.add_channel(name, f"file:{name}.ts", pace="fast", slug=name)
        for name, fields in {
            "one": {"video_codec": "h264", "audio_codec": "aac", "crf": 20},
            "two": {"video_codec": "av1", "audio_codec": "opus", "video_bitrate_kbps": 400},
        }.items():
            status, value = running.request("POST", "/api/v1/profiles", {"name": name, "preset": "ultrafast", **fields})
            assert status == 201, value
        yield running


def widths(path: Path) -> list[tuple[int, int]]:
    """Each width that decoded pictures have, in their order, and how many have it."""
    command = [program("ffprobe"), "-v", "error", "-select_streams", "v", "-show_entries", "frame=width"]
    text = subprocess.run([*command, "-of", "csv=p=0", str(path)], check=True, capture_output=True, timeout=60).stdout
    runs: list[tuple[int, int]] = []
    for width in (int(line.strip(b",")) for line in text.split()):
        if runs and runs[-1][0] == width:
            runs[-1] = width, runs[-1][1] + 1
        else:
            runs.append((width, 1))
    return runs


@pytest.mark.parametrize("name", CHANGES)
async def test_a_transcode_follows_with_every_picture(changing: Cluster, tmp_path: Path, name: str) -> None:
    url = f"{changing.url}/stream/{name}"
    one = await read_all(f"{url}.ts?profile=one")
    two = await read_all(f"{url}.mp4?profile=two")
    count = FPS * SECONDS * len(CHANGES[name])
    for path, data in ((tmp_path / "one.ts", one), (tmp_path / "two.mp4", two)):
        path.write_bytes(data)
        got = look(path)
        assert len(got["video"].packets) == count, path.name
        steps = [later - earlier for earlier, later in pairwise(got["video"].times_s)]
        assert all(0.02 < step < 0.2 for step in steps), max(steps)  # parts do not join to the frame
        steps = [later - earlier for earlier, later in pairwise(got["audio"].times_s)]
        assert all(0 < step < 0.2 for step in steps), (path.name, max(steps))
    assert decode_errors(tmp_path / "one.ts") == []
    shown = {"size": [(320, 100), (480, 100), (320, 100)]}.get(name, [(320, count)])
    assert widths(tmp_path / "one.ts") == shown
    if name == "fields":
        assert interlaced_pictures(tmp_path / "one.ts") <= 120  # 100 of the source's own, which idet mistakes


async def test_a_picture_that_was_gone_is_transcoded_again(changing: Cluster, tmp_path: Path) -> None:
    """Where the sound is copied, nothing at all was to be transcoded meanwhile."""
    (tmp_path / "gone.ts").write_bytes(await read_all(f"{changing.url}/stream/gone.ts?profile=one"))
    got = look(tmp_path / "gone.ts")
    assert len(got["video"].packets) == 2 * FPS * SECONDS
    assert max(later - earlier for earlier, later in pairwise(got["video"].times_s)) == pytest.approx(SECONDS, abs=0.2)
    assert decode_errors(tmp_path / "gone.ts") == []


async def test_copied_sound_is_there_to_its_end_where_it_goes_away(changing: Cluster, tmp_path: Path) -> None:
    """It waits for the pictures, and the source's new tracks are known long before these are made."""
    url = f"{changing.url}/stream/mute"
    (tmp_path / "stream.ts").write_bytes(await read_all(f"{url}.ts?profile=one"))
    _, lists = await play_hls(f"{url}/index.m3u8?profile=one")
    (tmp_path / "segments.ts").write_bytes(b"".join(segment.data for segment in lists[0].segments))
    assert_whole_though_mute(tmp_path / "stream.ts", 1024)
    assert_whole_though_mute(tmp_path / "segments.ts", 1024)


async def test_made_sound_is_there_to_its_end_where_it_goes_away(changing: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "stream.mp4"
    path.write_bytes(await read_all(f"{changing.url}/stream/mute.mp4?profile=two"))
    assert_whole_though_mute(path, 960)


def assert_whole_though_mute(path: Path, frame_samples: int) -> None:
    got = look(path)
    assert len(got["video"].packets) == len(MUTE) * FPS * SECONDS, path.name
    assert got["audio"].times_s[0] == pytest.approx(got["video"].times_s[0], abs=0.1), path.name
    assert got["audio"].times_s[-1] == pytest.approx(got["video"].times_s[0] + SECONDS, abs=0.1), path.name
    assert len(got["audio"].packets) == pytest.approx(SECONDS * 48_000 / frame_samples, abs=4), path.name


async def test_segments_tell_of_a_new_size(changing: Cluster) -> None:
    _, (_, pictures) = await play_hls(f"{changing.url}/stream/size/index.m3u8?container=fmp4&profile=one")
    assert len(pictures.maps) == 3
    changed = [n for n, (a, b) in enumerate(pairwise(pictures.segments), 1) if a.map != b.map]
    assert [n for n, segment in enumerate(pictures.segments) if segment.discontinuity] == changed


async def test_segments_of_sound_are_as_their_initialization_says(changing: Cluster, tmp_path: Path) -> None:
    """The source's new tracks are known before the job that makes them has taken over."""
    _, lists = await play_hls(f"{changing.url}/stream/channels/index.m3u8?container=fmp4&profile=one")
    (sound,) = [playing for playing in lists if "audio" in playing.url]
    heard = []
    for address, runs in groupby(sound.segments, key=lambda segment: segment.map):
        path = tmp_path / "run.mp4"
        path.write_bytes(sound.maps[address] + b"".join(segment.data for segment in runs))
        assert decode_errors(path) == []
        heard.append(look(path)["audio"].stream["channels"])
    assert heard == [1, 6, 1]
