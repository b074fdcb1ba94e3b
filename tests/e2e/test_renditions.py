"""What playlists and manifests say of a stream is what ffprobe finds in it; and every sound gets to every player."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clips import decode_errors
from tests.conftest import program
from tests.harness import Cluster, cluster, read_all
from tests.hls import SPACES, Playing, get, play_dash, play_hls

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=6")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-pix_fmt", "yuv420p")
TONE = "sine=f={}:r={}:d=6"
SURROUND = "pan=5.1(side)|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0"


def make(path: Path, *arguments: str) -> None:
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y", *arguments, "-f", "mpegts", str(path)]
    subprocess.run(command, check=True, timeout=60)


def tones(*rates: int) -> list[str]:
    return [part for n, rate in enumerate(rates) for part in ("-f", "lavfi", "-i", TONE.format(220 * (n + 1), rate))]


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator with one daemon, and channels: `languages` (a picture; German, 44.1 kHz stereo; French, mono;
    English, 5.1), `mute` (the picture alone) and `radio` (mono of 44.1 kHz alone).
    """
    folder = tmp_path_factory.mktemp("sounding")
    languages = [
        part for n, code in enumerate(("deu", "fra", "eng")) for part in (f"-metadata:s:a:{n}", f"language={code}")
    ]
    maps = ("-map", "0:v", "-map", "1:a", "-map", "2:a", "-filter_complex", f"[3:a]{SURROUND}[six]", "-map", "[six]")
    codecs = ("-c:a:0", "aac", "-ac:a:0", "2", "-c:a:1", "aac", "-c:a:2", "ac3")
    make(folder / "languages.ts", *PICTURE, *tones(44100, 48000, 48000), *H264, *maps, *codecs, *languages)
    make(folder / "mute.ts", *PICTURE, *H264)
    make(folder / "radio.ts", *tones(44100), "-c:a", "aac", "-ac", "1")
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=folder) as running:
        running.start_daemon("worker")
        for name in ("languages", "mute", "radio"):
            running.add_channel(name, f"file:{name}.ts", pace="fast", slug=name)
        for name, video, audio in PAIRS:
            fields = {"video_codec": video, "audio_codec": audio, "video_bitrate_kbps": 300, "width": 160}
            status, value = running.request("POST", "/api/v1/profiles", {"name": name, "preset": "ultrafast", **fields})
            assert status == 201, value
        yield running


PAIRS = [
    ("h264-aac", "h264", "aac"),
    ("hevc-ac3", "hevc", "ac3"),
    ("hevc-eac3", "hevc", "eac3"),
    ("av1-opus", "av1", "opus"),
    ("vp9-aac", "vp9", "aac"),
]
SOUNDS = {"aac": "mp4a.40.2", "ac3": "ac-3", "eac3": "ec-3", "opus": "opus"}
H264_PROFILES = {"Constrained Baseline": "42c0", "Baseline": "4200", "Main": "4d40", "High": "6400"}


def streams(data: bytes, path: Path) -> list[dict[str, Any]]:
    path.write_bytes(data)
    command = [program("ffprobe"), "-v", "error", "-of", "json", "-show_streams", "-count_packets", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)["streams"]
    return found


def codecs_string(video: dict[str, Any]) -> str:
    """The pattern of RFC 6381's name for what ffprobe found."""
    level = video["level"]
    match video["codec_name"]:
        case "h264":
            return f"avc1.{H264_PROFILES[video['profile']]}{level:02x}"
        case "hevc":
            return rf"hvc1\.1\.[0-9A-F]+\.L{level}(\.[0-9A-F]{{1,2}})*"
        case "av1":
            return rf"av01\.0\.{level:02}M\.08"
        case _:
            return r"vp09\.00\.1[01]\.08"


def bits_a_second(playing: Playing) -> list[float]:
    return [len(segment.data) * 8 / segment.duration_s for segment in playing.segments]


@pytest.mark.parametrize(("profile", "picture", "sound"), PAIRS)
async def test_the_master_playlist_is_true(
    sounding: Cluster, tmp_path: Path, profile: str, picture: str, sound: str
) -> None:
    url = f"{sounding.url}/stream/languages/index.m3u8?container=fmp4&profile={profile}"
    text, (*audios, video) = await play_hls(url)
    (found,) = streams(video.file(), tmp_path / "video.mp4")
    (line,) = re.findall(r"^#EXT-X-STREAM-INF:(.*)$", text, re.MULTILINE)
    assert re.search(rf'CODECS="{codecs_string(found)},{SOUNDS[sound]}"', line), line
    assert f"RESOLUTION={found['width']}x{found['height']}" in line
    assert (found["width"], found["height"]) == (160, 90)
    over, under = map(int, found["avg_frame_rate"].split("/"))
    assert f"FRAME-RATE={over / under:.3f}" in line
    assert found["codec_name"] == picture
    told = re.search(r"^BANDWIDTH=(\d+),AVERAGE-BANDWIDTH=(\d+)", line)
    assert told is not None
    largest = max(audios, key=lambda playing: sum(len(segment.data) for segment in playing.segments))
    seconds = sum(segment.duration_s for segment in video.segments)
    both = sum(len(segment.data) for playing in (video, largest) for segment in playing.segments)
    assert int(told[2]) == pytest.approx(both * 8 / seconds, rel=0.1)  # it was measured when the player asked
    peaks = [a + b for a, b in zip(bits_a_second(video), bits_a_second(largest), strict=False)]
    assert int(told[1]) >= max(peaks[:-1]) * 0.9
    for playing, channels in zip(audios, (2, 1, 6), strict=True):
        (heard,) = streams(playing.file(), tmp_path / "sound.mp4")
        assert (heard["codec_name"], heard["channels"]) == (sound, channels)
        assert decode_errors(tmp_path / "sound.mp4") == []


async def all_outputs(
    url: str, profile: str
) -> tuple[bytes, bytes, tuple[str, list[Playing]], tuple[str, list[Playing]], dict[str, bytes]]:
    """One after the other, each from the beginning of the source."""
    return (
        await read_all(f"{url}.ts?profile={profile}"),
        await read_all(f"{url}.mp4?profile={profile}"),
        await play_hls(f"{url}/index.m3u8?profile={profile}"),
        await play_hls(f"{url}/index.m3u8?container=fmp4&profile={profile}"),
        await play_dash(f"{url}/manifest.mpd?profile={profile}"),
    )


LANGUAGES = ["deu", "fra", "eng"]


@pytest.mark.parametrize("profile", ["passthrough", "h264-aac"])
async def test_every_language_gets_to_every_player(sounding: Cluster, tmp_path: Path, profile: str) -> None:
    url = f"{sounding.url}/stream/languages"
    whole, mp4, (_, (muxed,)), (text, lists), dash = await all_outputs(url, profile)
    codecs = {"passthrough": ["aac", "aac", "ac3"], "h264-aac": ["aac"] * 3}[profile]
    rates = ["44100", "48000", "48000"]
    for name, data in (("whole.ts", whole), ("whole.mp4", mp4), ("hls.ts", muxed.file())):
        sounds = [s for s in streams(data, tmp_path / name) if s["codec_type"] == "audio"]
        assert [s["tags"]["language"] for s in sounds] == LANGUAGES, name
        assert [s["codec_name"] for s in sounds] == codecs, name
        assert [s["channels"] for s in sounds] == [2, 1, 6], name
        assert [s["sample_rate"] for s in sounds] == rates, name
        assert decode_errors(tmp_path / name) == []
    assert re.findall(r'^#EXT-X-MEDIA:TYPE=AUDIO,.*LANGUAGE="(\w+)",DEFAULT=(\w+)', text, re.MULTILINE) == [
        ("deu", "YES"),
        ("fra", "NO"),
        ("eng", "NO"),
    ]
    for playing, codec, rate in zip(lists[:3], codecs, rates, strict=True):
        (found,) = streams(playing.file(), tmp_path / "rendition.mp4")
        assert (found["codec_name"], found["sample_rate"]) == (codec, rate)
    async with aiohttp.ClientSession() as session:
        root = ET.fromstring((await get(session, f"{url}/manifest.mpd?profile={profile}"))[1])
    sets = [s.attrib for s in root.iterfind("Period/AdaptationSet", SPACES) if s.attrib["contentType"] == "audio"]
    assert [s["lang"] for s in sets] == LANGUAGES
    assert [streams(dash[f"audio{n}"], tmp_path / "set.mp4")[0]["codec_name"] for n in (1, 2, 3)] == codecs


@pytest.mark.parametrize(("slug", "kind", "least"), [("mute", "video", 150), ("radio", "audio", 258)])
@pytest.mark.parametrize("profile", ["passthrough", "h264-aac"])
async def test_picture_or_sound_alone(
    sounding: Cluster, tmp_path: Path, slug: str, kind: str, least: int, profile: str
) -> None:
    """All of it comes through each of the four outputs."""
    url = f"{sounding.url}/stream/{slug}"
    ts, mp4, (_, segments), (_, cmaf), dash = await all_outputs(url, profile)
    assert len(segments) == len(cmaf) == len(dash) == 1
    for n, data in enumerate((ts, mp4, segments[0].file(), cmaf[0].file(), *dash.values())):
        (only,) = streams(data, tmp_path / f"{n}")
        assert only["codec_type"] == kind
        assert least <= int(only["nb_read_packets"]) <= least + 4
        if kind == "audio":
            assert (only["channels"], only["sample_rate"]) == (1, "44100")
        assert decode_errors(tmp_path / f"{n}") == []
