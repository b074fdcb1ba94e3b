"""HLS sources over HTTP from a server on loopback: what comes of them, and what is said of bad ones."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import aiohttp
import pytest
from aiohttp import web

from tests.conftest import program
from tests.coordinator.test_ingest import LIMITS, Taken, counts, take
from tests.fakes.sources import Answer, LivePlaylist, Origin, ScriptedServer, endless, hang
from tests.waiting import until
from tvarr.coordinator.ingest import Ingest, IngestState
from tvarr.coordinator.source import IngestLimits, SourceSpec
from tvarr.coordinator.sources.hls.packed import PackedAudio
from tvarr.coordinator.sources.hls.playlist import MAX_PLAYLIST_BYTES
from tvarr.coordinator.sources.hls.rendition import MAX_BAD_SEGMENTS
from tvarr.coordinator.sources.http import client_session
from tvarr.media.model import TICKS_PER_SECOND, Codec, Kind, Sample

SECONDS = 6
PICTURES = SECONDS * 25
SEGMENTS = [f"s{i}.ts" for i in range(SECONDS)]
CAPTURES = ("hls_h264_ac3/media.m3u8", "hls_ts_rollover/playlist.m3u8", "hls_cmaf_fmp4/playlist.m3u8")
KEY = bytes(range(16))
ZIPPED = gzip.compress(b"#EXTM3U\n" + b"# a comment\n" * 1000)
QUICK = replace(LIMITS, connect_s=2.0, give_up_s=0.5)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of H.264 with B-frames and AAC in segments of one second, in every form, each in a folder."""
    folder = tmp_path_factory.mktemp("hls")
    clip = folder / "clip.mp4"
    ffmpeg = (program("ffmpeg"), "-v", "error", "-nostdin", "-y")
    picture, sound = f"testsrc2=s=160x90:r=25:d={SECONDS}", f"sine=f=440:r=48000:d={SECONDS}"
    coded = (
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        "2",
        "-g",
        "25",
        "-c:a",
        "aac",
        "-movflags",
        "+faststart",
    )
    subprocess.run([*ffmpeg, "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, *coded, clip], check=True)
    (folder / "key").write_bytes(KEY)
    (folder / "key.info").write_text(f"../key\n{folder / 'key'}\n")
    (folder / "iv.info").write_text(f"../key\n{folder / 'key'}\n{'ab' * 16}\n")
    fmp4 = ("-hls_segment_type", "fmp4")
    apart = ("-map", "0:a", "-map", "0:v", "-var_stream_map", "a:0,agroup:a,default:yes,language:deu v:0,agroup:a")
    forms = {
        "ts": ("-hls_segment_filename", "s%d.ts"),
        "fmp4": (*fmp4, "-hls_segment_filename", "s%d.m4s"),
        "ranges": (*fmp4, "-hls_flags", "single_file"),
        "aes": ("-hls_key_info_file", "../key.info", "-hls_segment_filename", "s%d.ts"),
        "aes_iv": ("-hls_key_info_file", "../iv.info", "-start_number", "7"),
        "apart": (*apart, "-hls_segment_filename", "v%v_%d.ts", "-master_pl_name", "list.m3u8"),
        "apart_fmp4": (*apart, *fmp4, "-hls_segment_filename", "v%v_%d.m4s", "-master_pl_name", "list.m3u8"),
    }
    for name, form in forms.items():
        (folder / name).mkdir()
        command = [*ffmpeg, "-i", clip, "-c", "copy", "-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod", *form]
        playlist = "v%v.m3u8" if name.startswith("apart") else "list.m3u8"
        subprocess.run([*command, playlist], check=True, cwd=folder / name)
    return folder


def packets(playlist: Path) -> dict[str, int]:
    """By kind, as ffprobe counts them."""
    shown = ("-count_packets", "-show_entries", "stream=codec_type,nb_read_packets", "-of", "json")
    command = [program("ffprobe"), "-v", "quiet", *shown, str(playlist)]
    streams = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)["streams"]
    return {stream["codec_type"]: int(stream["nb_read_packets"]) for stream in streams}


def packed(media: Path, codec: str) -> list[str]:
    """The sound as packed audio in segments of about a second, each with its time in front; their names."""
    folder = media / "packed"
    folder.mkdir(exist_ok=True)
    whole = folder / f"whole.{codec}"
    begin = ["-i", media / "clip.mp4", "-map", "0:a", "-c:a", "copy" if codec == "aac" else codec]
    form = ["-f", "adts" if codec == "aac" else codec]
    form += ["-id3v2_version", "0", "-write_xing", "0"] if codec == "mp3" else []
    subprocess.run([program("ffmpeg"), "-v", "error", "-y", *begin, *form, whole], check=True, timeout=60)
    reader = PackedAudio()
    events = [event for event in reader.feed(whole.read_bytes()) + reader.flush() if isinstance(event, Sample)]
    begin_ticks = 133_200 - 1920  # of the first picture in ffmpeg's MPEG-TS, less the encoder's delay
    names = []
    for number in range(SECONDS + 1):
        frames = [e for e in events if e.dts_ticks // TICKS_PER_SECOND == number]
        if not frames:
            continue
        time_bytes = (begin_ticks + frames[0].dts_ticks).to_bytes(8, "big")
        owner = b"com.apple.streaming.transportStreamTimestamp\x00" + time_bytes
        private = b"PRIV" + len(owner).to_bytes(4, "big") + b"\x00\x00" + owner
        tag = b"ID3\x04\x00\x00" + bytes([0, 0, len(private) >> 7, len(private) & 0x7F]) + private
        names.append(f"{codec}{number}.bin")
        (folder / names[-1]).write_bytes(tag + b"".join(frame.data for frame in frames))
    return names


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session() as session:
        yield session


@pytest.fixture
async def origin(media: Path) -> AsyncIterator[Origin]:
    async with Origin(media) as origin:
        yield origin


def ingest_of(
    url: str, session: aiohttp.ClientSession, *, pace: str = "fast", limits: IngestLimits = LIMITS, **how: object
) -> Ingest:
    return Ingest(SourceSpec.parse(url, pace=pace, **how), limits, session, Random(1))  # type: ignore[arg-type]


async def assert_one_left_out(ingest: Ingest) -> None:
    """One segment of 25 pictures, without another connection."""
    taken = await take(ingest)
    assert taken.error == ""
    assert counts(taken)[Kind.VIDEO] == pytest.approx(PICTURES - 25, abs=1)
    assert ingest.status.segments_left_out == 1
    assert ingest.status.reconnections == 0


def assert_all_came(taken: Taken) -> None:
    assert taken.error == ""
    assert counts(taken)[Kind.VIDEO] == PICTURES
    assert counts(taken)[Kind.AUDIO] == pytest.approx(SECONDS * 48000 / 1024, abs=2)
    assert max(taken.steps_s(Kind.VIDEO)) < 0.1
    assert max(taken.steps_s(Kind.AUDIO)) < 0.1


def offset_s(taken: Taken) -> float:
    """From the first picture's presentation to the first sound's."""
    first = [min(s.pts_ticks for s in taken.samples(kind)) for kind in (Kind.VIDEO, Kind.AUDIO)]
    return (first[1] - first[0]) / TICKS_PER_SECOND


class TestEveryForm:
    @pytest.mark.parametrize("form", ["ts", "fmp4", "ranges", "aes", "aes_iv", "apart", "apart_fmp4"])
    async def test_all_of_it_comes(self, form: str, origin: Origin, session: aiohttp.ClientSession) -> None:
        ingest = ingest_of(f"{origin.url}/{form}/list.m3u8", session)
        taken = await take(ingest)
        assert_all_came(taken)
        assert len(taken.announcements) == 1
        assert {t.codec for t in taken.announcements[0].tracks} == {Codec.H264, Codec.AAC}
        assert abs(offset_s(taken)) < 0.09
        assert ingest.status.bytes > 50_000
        assert origin.most_at_once <= (2 if form.startswith("apart") else 1)

    @pytest.mark.parametrize(
        ("wanted", "taken_languages"), [((), ["deu"]), (("fra", "eng"), ["eng"]), (("en", "ger"), ["eng", "deu"])]
    )
    async def test_audio_renditions_by_language(
        self, wanted: tuple[str, ...], taken_languages: list[str], origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        renditions = "".join(
            f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="{language}",DEFAULT={default},LANGUAGE="{language}",'
            f'URI="/apart/v0.m3u8?{language}"\n'
            for language, default in (("en", "NO"), ("de", "YES"), ("cs", "NO"))
        )
        origin.on("/many", f'#EXTM3U\n{renditions}#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\n/apart/v1.m3u8\n')
        taken = await take(ingest_of(f"{origin.url}/many", session, audio_languages=wanted))
        assert taken.error == ""
        assert counts(taken)[Kind.VIDEO] == PICTURES
        sound = taken.announcements[-1].of_kind(Kind.AUDIO)
        assert [track.language for track in sound] == taken_languages
        each = {track.id: sum(sample.track == track.id for sample in taken.samples()) for track in sound}
        assert min(each.values()) > SECONDS * 48000 / 1024 - 3
        assert sorted(path for path, _ in origin.requests if "v0.m3u8?" in path) == sorted(
            f"/apart/v0.m3u8?{language[:2]}" for language in taken_languages
        )

    @pytest.mark.parametrize("codec", ["aac", "ac3", "mp3"])
    async def test_packed_audio(self, codec: str, origin: Origin, media: Path, session: aiohttp.ClientSession) -> None:
        names = await asyncio.to_thread(packed, media, codec)
        origin.on(f"/packed/{codec}", vod(*names))
        origin.on(
            "/packed/list",
            f'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,LANGUAGE="de",URI="{codec}"\n'
            '#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\n/ts/list.m3u8\n',
        )
        taken = await take(ingest_of(f"{origin.url}/packed/list", session))
        assert taken.error == ""
        assert counts(taken)[Kind.VIDEO] == PICTURES
        (track,) = taken.announcements[-1].of_kind(Kind.AUDIO)
        assert (track.codec, track.language, track.sample_rate, track.channels) == (codec, "deu", 48000, 1)
        frame = {"aac": 1024, "ac3": 1536, "mp3": 1152}[codec]
        assert counts(taken)[Kind.AUDIO] == pytest.approx(SECONDS * 48000 / frame, abs=3)
        assert max(taken.steps_s(Kind.AUDIO)) < 0.06
        assert abs(offset_s(taken)) < 0.09
        alone = await take(ingest_of(f"{origin.url}/packed/{codec}", session))
        assert counts(alone) == {Kind.AUDIO: counts(taken)[Kind.AUDIO]} | dict.fromkeys(set(Kind) - {Kind.AUDIO}, 0)

    async def test_as_a_file(self, media: Path, session: aiohttp.ClientSession) -> None:
        taken = await take(ingest_of("file:apart_fmp4/list.m3u8", session, media_dir=media))
        assert_all_came(taken)
        assert [t.language for t in taken.announcements[0].of_kind(Kind.AUDIO)] == ["deu"]

    async def test_a_loop_goes_on_where_it_ended(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        ingest = ingest_of(f"{origin.url}/ts/list.m3u8", session, loop=True)
        taken = await take(ingest, until=lambda taken: len(taken.samples(Kind.VIDEO)) > 2 * PICTURES)
        assert max(taken.steps_s(Kind.VIDEO)) < 0.1
        assert ingest.status.laps >= 2

    async def test_vod_at_real_time(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        limits = replace(LIMITS, preroll_s=SECONDS - 1.0, slice_s=0.05)
        began = time.monotonic()
        taken = await take(ingest_of(f"{origin.url}/ts/list.m3u8", session, pace="auto", limits=limits))
        assert_all_came(taken)
        assert 0.8 < time.monotonic() - began < 4.0

    @pytest.mark.parametrize(
        "name", ["hls_h264_ac3/media.m3u8", "hls_ts_rollover/playlist.m3u8", "hls_cmaf_fmp4/playlist.m3u8"]
    )
    async def test_captures(self, name: str, media_dir: Path, session: aiohttp.ClientSession) -> None:
        async with Origin(media_dir) as origin:
            taken = await take(ingest_of(f"{origin.url}/{name}", session))
        assert taken.error == ""
        expected = await asyncio.to_thread(packets, media_dir / name)
        assert {str(kind): count for kind, count in counts(taken).items() if count} == expected
        assert max(taken.steps_s(Kind.VIDEO)) < 0.2


class TestRequests:
    async def test_headers_redirects_and_cookies(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        async def away(_: web.Request) -> web.StreamResponse:
            raise web.HTTPFound("/ts/list.m3u8?signed=1")

        origin.on("/channel", away)
        url = f"{origin.url}/channel".replace("//", "//me:pw@")
        taken = await take(
            ingest_of(url, session, user_agent="VLC/3", headers={"Referer": "http://x/", "X-Token": "1"})
        )
        assert_all_came(taken)
        assert len(origin.requests) == SECONDS + 2
        for path, headers in origin.requests:
            assert headers["User-Agent"] == "VLC/3", path
            assert headers["Referer"] == "http://x/"
            assert headers["X-Token"] == "1"
            assert headers["Accept-Encoding"] == "identity"

    async def test_what_the_first_playlist_sets_goes_with_everything(
        self, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        async def first(_: web.Request) -> web.StreamResponse:
            answer = web.Response(text=(media / "ts" / "list.m3u8").read_text().replace("\ns", "\nts/s"))
            answer.set_cookie("session", "1", path="/")
            return answer

        origin.on("/list", first)
        assert_all_came(await take(ingest_of(f"{origin.url}/list", session)))
        sent = [headers.get("Cookie") for path, headers in origin.requests if path != "/list"]
        assert sent == ["session=1"] * SECONDS

    async def test_another_host_gets_no_credentials(
        self, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        elsewhere = origin.url.replace("127.0.0.1", "localhost")
        lines = [f"#EXTINF:1,\n{elsewhere}/ts/{name}" for name in SEGMENTS]
        origin.on("/list", "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:1", *lines, "#EXT-X-ENDLIST"]))
        taken = await take(ingest_of(f"{origin.url}/list", session, headers={"Referer": "r", "X-Token": "1"}))
        assert_all_came(taken)
        assert [("X-Token" in headers, headers["Referer"]) for _, headers in origin.requests] == [
            (True, "r"),
            *[(False, "r")] * SECONDS,
        ]

    async def test_ranges_and_keys_are_asked_for_once(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        await take(ingest_of(f"{origin.url}/ranges/list.m3u8", session))
        assert all("Range" in headers for path, headers in origin.requests if not path.endswith("m3u8"))
        assert len(origin.requests) == 2 + SECONDS, "the playlist, the initialization section once, the segments"
        origin.requests.clear()
        await take(ingest_of(f"{origin.url}/aes/list.m3u8", session))
        assert origin.paths().count("/key") == 1

    async def test_a_server_without_ranges(self, origin: Origin, media: Path, session: aiohttp.ClientSession) -> None:
        (file,) = (media / "ranges").glob("*.m4s")
        origin.on(f"/ranges/{file.name}", file.read_bytes())
        assert_all_came(await take(ingest_of(f"{origin.url}/ranges/list.m3u8", session)))

    @pytest.mark.parametrize("content_type", ["text/plain", "video/mp2t", "application/x-mpegURL"])
    async def test_a_playlist_is_known_by_its_content(
        self, content_type: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        text = (media / "ts/list.m3u8").read_text()

        async def give(_: web.Request) -> web.StreamResponse:
            return web.Response(text=text, content_type=content_type)

        origin.on("/ts/live.ts", give)
        assert_all_came(await take(ingest_of(f"{origin.url}/ts/live.ts", session)))

    @pytest.mark.parametrize("named", ["gzip", "x-gzip", "GZIP"])
    async def test_playlists_that_come_gzip_encoded(
        self, named: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        def zipped(text: str) -> Answer:
            async def give(_: web.Request) -> web.StreamResponse:
                return web.Response(body=gzip.compress(text.encode()), headers={"Content-Encoding": named})

            return give

        origin.on("/ts/zipped", zipped((media / "ts/list.m3u8").read_text()))
        origin.on("/ts/master", zipped("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000\nzipped\n"))
        assert_all_came(await take(ingest_of(f"{origin.url}/ts/master", session)))

    @pytest.mark.parametrize(
        ("body", "words", "of_a_variant"),
        [
            pytest.param(ZIPPED[:-9], "was cut off", "was cut off", id="cut off"),
            pytest.param(ZIPPED[:-8] + bytes(8), *["can't be unzipped: it is damaged"] * 2, id="damaged"),
            pytest.param(
                gzip.compress(b"#EXTM3U\n" + b"\n" * MAX_PLAYLIST_BYTES), *["is larger than 4 MiB"] * 2, id="a bomb"
            ),
            pytest.param(gzip.compress(b"G" * 188), "compressed content (gzip)", "HLS playlist is text", id="text"),
            pytest.param(b"", "compressed content (gzip)", "is nothing", id="nothing"),
            pytest.param(b"#EXTM3U\n", *["can't be unzipped: it is damaged"] * 2, id="it is not encoded"),
        ],
    )
    async def test_gzip_that_is_not_taken(
        self, body: bytes, words: str, of_a_variant: str, origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        async def give(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, headers={"Content-Encoding": "gzip"})

        origin.on("/list", give)
        origin.on("/master", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000\nlist\n")
        limits = replace(LIMITS, connect_s=0.2)
        assert words in (await take(ingest_of(f"{origin.url}/list", session, limits=limits))).error
        assert of_a_variant in (await take(ingest_of(f"{origin.url}/master", session, limits=limits))).error

    async def test_segments_are_not_unzipped(self, origin: Origin, media: Path, session: aiohttp.ClientSession) -> None:
        async def give(_: web.Request) -> web.StreamResponse:
            body = gzip.compress((media / "ts/s2.ts").read_bytes())
            return web.Response(body=body, headers={"Content-Encoding": "gzip"})

        origin.on("/ts/s2.ts", give)
        ingest = ingest_of(f"{origin.url}/ts/list.m3u8", session)
        await take(ingest)
        assert ingest.status.segments_left_out == 1

    @pytest.mark.parametrize(
        ("fragment", "chosen"), [("", "high"), ("#max_height=100", "low"), ("#max_kbps=500", "low")]
    )
    async def test_the_best_variant_within_the_cap(
        self, fragment: str, chosen: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        text = (media / "ts/list.m3u8").read_text()
        for name in ("low", "high"):
            origin.on(f"/ts/{name}", text)
        origin.on(
            "/ts/master",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=160x90\nlow\n"
            "#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=320x180\nhigh\n",
        )
        assert_all_came(await take(ingest_of(f"{origin.url}/ts/master{fragment}", session)))
        assert origin.paths()[:2] == ["/ts/master", f"/ts/{chosen}"]

    async def test_a_variant_that_is_not_there(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        origin.on(
            "/ts/master",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=300000\nlist.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=900000\nabsent\n",
        )
        assert_all_came(await take(ingest_of(f"{origin.url}/ts/master", session)))


class TestLive:
    def live(self, origin: Origin, **how: object) -> tuple[LivePlaylist, str]:
        playlist = LivePlaylist(SEGMENTS, segment_s=1.0, **how)  # type: ignore[arg-type]
        origin.on("/ts/live", playlist)
        return playlist, f"{origin.url}/ts/live"

    async def test_smoothly_from_the_live_edge(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        _, url = self.live(origin)
        limits = replace(LIMITS, slice_s=0.05, preroll_s=0.5)
        ingest = ingest_of(url, session, pace="auto", limits=limits)
        began = time.monotonic()
        taken = await take(ingest, until=lambda taken: taken.span_s() > 4.5)
        took = time.monotonic() - began
        assert 3.5 < took < 8.0
        silences = [b - a for a, b in zip(taken.times, taken.times[1:], strict=False)]
        assert max(silences) < 0.8, "spread over the time that they last"
        assert max(taken.steps_s(Kind.VIDEO)) < 0.1
        asked = [path for path, _ in origin.requests if "n=" in path]
        assert asked[0] == "/ts/s2.ts?n=2", "three target durations before the end"
        assert asked == [f"/ts/s{n % SECONDS}.ts?n={n}" for n in range(2, 2 + len(asked))], "each once, in order"
        assert origin.paths().count("/ts/live") <= took / 1.0 * 2 + 2, "no more often than half of the target duration"
        assert origin.most_at_once == 1
        assert ingest.status.reconnections == 0

    async def test_its_end(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        playlist, url = self.live(origin)
        playlist.frozen_at, playlist.ended = 6, True
        assert_all_came_of(await take(ingest_of(url, session)), seconds=5)

    async def test_a_discontinuity(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        playlist, url = self.live(origin)
        playlist.first, playlist.frozen_at, playlist.ended, playlist.window = 4, 9, True, 5
        ingest = ingest_of(url, session)
        taken = await take(ingest)
        assert_all_came_of(taken, seconds=5)
        assert ingest.status.timeline.jumps == 1

    async def test_a_restarted_packager(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        playlist, url = self.live(origin)
        playlist.first = playlist.frozen_at = 1000
        ingest = ingest_of(url, session)
        task = asyncio.create_task(take(ingest, until=lambda taken: taken.span_s() > 4.0))
        await until(lambda: "n=999" in str(origin.requests))
        playlist.frozen_at = None
        playlist.restart()
        taken = await task
        assert taken.error == ""
        assert ingest.status.reconnections == 0
        assert max(taken.steps_s(Kind.VIDEO)) < 0.2

    async def test_one_that_never_changes_is_connected_to_again_and_goes_on(
        self, origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        playlist, url = self.live(origin)
        playlist.frozen_at = 5
        ingest = ingest_of(url, session, limits=replace(LIMITS, stall_s=0.2, give_up_s=8.0))
        task = asyncio.create_task(take(ingest, until=lambda taken: taken.span_s() > 3.5))
        await until(lambda: ingest.status.reconnections > 0)
        assert ingest.status.error == "the source's HLS playlist had nothing new for 3 s"
        assert ingest.status.state is IngestState.RECONNECTING
        playlist.frozen_at = None
        taken = await task
        assert max(taken.steps_s(Kind.VIDEO)) < 0.2
        asked = [path for path, _ in origin.requests if "n=" in path]
        assert len(asked) == len(set(asked)), "what was played is not asked for again"

    @pytest.mark.parametrize(
        "trouble",
        [
            pytest.param((502, b""), id="502"),
            pytest.param((200, b"<!doctype html><html><body>Sign in</body></html>"), id="a web page"),
            pytest.param((200, b"#EXTM3U\n" + b"#EXTINF:1,\nsegment.ts\n" * (MAX_PLAYLIST_BYTES // 20)), id="huge"),
            pytest.param((200, b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlive\n"), id="itself"),
        ],
    )
    async def test_trouble_with_the_playlist_passes(
        self, trouble: tuple[int, bytes], origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        playlist, url = self.live(origin)

        async def troubled(request: web.Request) -> web.StreamResponse:
            if origin.paths().count("/ts/live") in (2, 3):
                return web.Response(status=trouble[0], body=trouble[1])
            return await playlist(request)

        origin.on("/ts/live", troubled)
        ingest = ingest_of(url, session)
        taken = await take(ingest, until=lambda taken: taken.span_s() > 4.5)
        assert taken.error == ""
        assert ingest.status.reconnections == 0
        assert max(taken.steps_s(Kind.VIDEO)) < 0.1

    def live_but_busy_once(self, origin: Origin, status: int, retry_after: str) -> tuple[str, list[float]]:
        """Its URL, and when its playlist was asked for: the second time the answer is that status."""
        playlist, url = self.live(origin)
        asked: list[float] = []

        async def busy(request: web.Request) -> web.StreamResponse:
            asked.append(time.monotonic())
            if len(asked) == 2:
                return web.Response(status=status, headers={"Retry-After": retry_after})
            return await playlist(request)

        origin.on("/ts/live", busy)
        return url, asked

    @pytest.mark.parametrize("status", [429, 503])
    async def test_its_playlist_is_asked_for_again_when_it_says(
        self, status: int, origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        url, asked = self.live_but_busy_once(origin, status, "1")
        ingest = ingest_of(url, session)
        taken = await take(ingest, until=lambda taken: taken.span_s() > 3.5)
        assert asked[2] - asked[1] >= 1.0
        assert ingest.status.reconnections == 0
        assert max(taken.steps_s(Kind.VIDEO)) < 0.1

    async def test_one_that_says_later_than_anybody_waits(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        """What is listed is played first; then it is asked no more."""
        playlist, url = self.live(origin)

        async def busy(request: web.Request) -> web.StreamResponse:
            if origin.paths().count("/ts/live") == 1:
                return await playlist(request)
            return web.Response(status=503, headers={"Retry-After": "120"})

        origin.on("/ts/live", busy)
        taken = await take(ingest_of(url, session))
        words = "the source's HLS playlist: the source answered 503 Service Unavailable; it may be asked again in 120 s"
        assert taken.error == words
        assert counts(taken)[Kind.VIDEO] == pytest.approx(3 * 25, abs=1)
        assert origin.paths().count("/ts/live") == 2

    async def test_one_that_says_later_than_a_segment_is_waited_for(
        self, origin: Origin, session: aiohttp.ClientSession
    ) -> None:
        """It is connected to again when it says, and goes on where it was."""
        url, asked = self.live_but_busy_once(origin, 429, "3")
        ingest = ingest_of(url, session, limits=replace(LIMITS, give_up_s=5.0))
        taken = await take(ingest, until=lambda taken: taken.span_s() > 4.5)
        assert asked[2] - asked[1] >= 3.0
        assert ingest.status.reconnections == 1
        assert max(taken.steps_s(Kind.VIDEO)) < 0.1


def assert_all_came_of(taken: Taken, *, seconds: int) -> None:
    assert taken.error == ""
    assert counts(taken)[Kind.VIDEO] == seconds * 25
    assert max(taken.steps_s(Kind.VIDEO)) < 0.1


def vod(*names: str, head: str = "") -> str:
    lines = [f"#EXTINF:1,\n{name}" for name in names]
    return "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:1", head, *lines, "#EXT-X-ENDLIST"])


async def test_leaving_closes_everything(origin: Origin, session: aiohttp.ClientSession) -> None:
    before = asyncio.all_tasks()
    origin.on("/apart/v1_3.ts", hang_up_never)
    ingest = ingest_of(f"{origin.url}/apart/list.m3u8", session)
    await take(ingest, until=lambda taken: len(taken.events) > 10)
    await until(lambda: origin.at_once == 0)
    assert not [task for task in asyncio.all_tasks() - before if "Rendition" in repr(task.get_coro())]


async def hang_up_never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


def hanging(file: Path, part: float) -> Answer:
    """Gives so much of it and then nothing; 0: not even an answer."""
    data = file.read_bytes()

    async def give(request: web.Request) -> web.StreamResponse:
        if not part:
            return await hang_up_never(request)
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: int(len(data) * part)])
        if part < 1.0:
            await asyncio.Event().wait()
        return response

    return give


class TestBadSegments:
    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(404, id="404"),
            pytest.param(b"", id="empty"),
            pytest.param(b"<!doctype html><html>", id="a web page"),
            pytest.param(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n", id="a playlist"),
            pytest.param(b"\x00" * 1880, id="zeros"),
        ],
    )
    async def test_one_is_left_out(self, bad: int | bytes, origin: Origin, session: aiohttp.ClientSession) -> None:
        origin.on("/ts/s2.ts", bad)
        ingest = ingest_of(f"{origin.url}/ts/list.m3u8", session)
        await assert_one_left_out(ingest)

    async def test_one_whose_key_is_gone_is_left_out(
        self, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        """Keys change on the way; one of them answers 404."""
        text = (media / "aes/list.m3u8").read_text()
        key = next(line for line in text.splitlines() if line.startswith("#EXT-X-KEY"))
        gone = re.sub('URI="[^"]*"', 'URI="gone"', key)
        lines = text.splitlines()
        at = lines.index("s2.ts") - 1
        origin.on("/aes/rotated", "\n".join([*lines[:at], gone, *lines[at : at + 2], key, *lines[at + 2 :]]))
        ingest = ingest_of(f"{origin.url}/aes/rotated", session)
        taken = await take(ingest)
        assert taken.error == ""
        assert counts(taken)[Kind.VIDEO] == pytest.approx(PICTURES - 25, abs=1)
        assert ingest.status.segments_left_out == 1

    async def test_one_that_is_cut_off_is_tried_again(
        self, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        data = (media / "ts/s2.ts").read_bytes()

        async def cut(request: web.Request) -> web.StreamResponse:
            if origin.paths().count("/ts/s2.ts") > 1:
                return web.Response(body=data)
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response

        origin.on("/ts/s2.ts", cut)
        assert_all_came(await take(ingest_of(f"{origin.url}/ts/list.m3u8", session)))

    @pytest.mark.parametrize("part", [0.0, 0.5], ids=["before its answer", "half-way"])
    async def test_one_that_hangs_costs_itself_only(
        self, part: float, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        origin.on("/ts/s2.ts", hanging(media / "ts/s2.ts", part))
        ingest = ingest_of(f"{origin.url}/ts/list.m3u8", session, limits=replace(LIMITS, stall_s=0.4))
        await assert_one_left_out(ingest)

    async def test_one_that_hangs_because_its_server_does_is_not_lost(
        self, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        async def segment(request: web.Request) -> web.StreamResponse:
            again = origin.paths().count("/ts/s2.ts") > 1
            return await hanging(media / "ts/s2.ts", 1.0 if again else 0.5)(request)

        async def playlist(request: web.Request) -> web.StreamResponse:
            if origin.paths().count("/ts/list.m3u8") == 2:
                return await hang_up_never(request)
            return web.FileResponse(media / "ts/list.m3u8")

        origin.on("/ts/s2.ts", segment)
        origin.on("/ts/list.m3u8", playlist)
        limits = replace(LIMITS, connect_s=0.3, stall_s=0.4)
        ingest = ingest_of(f"{origin.url}/ts/list.m3u8", session, limits=limits)
        taken = await take(ingest)
        assert taken.error == ""
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert ingest.status.reconnections == 1
        assert ingest.status.segments_left_out == 0

    @pytest.mark.parametrize("form", ["ts/s2.ts", "fmp4/s2.m4s"])
    async def test_one_that_is_truncated_costs_itself_only(
        self, form: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        data = (media / form).read_bytes()
        origin.on(f"/{form}", data[: len(data) * 2 // 3])
        taken = await take(ingest_of(f"{origin.url}/{form.partition('/')[0]}/list.m3u8", session))
        assert taken.error == ""
        assert PICTURES - 25 <= counts(taken)[Kind.VIDEO] < PICTURES
        times = [s.pts_ticks for s in taken.samples(Kind.VIDEO)]
        assert max(times) - min(times) == (PICTURES - 1) * 3600

    async def test_a_gap_is_not_asked_for(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        text = vod(*SEGMENTS).replace("s2.ts", "#EXT-X-GAP\ngap.ts")
        origin.on("/ts/gap", text.replace("#EXTINF:1,\n#EXT-X-GAP", "#EXT-X-GAP\n#EXTINF:1,"))
        ingest = ingest_of(f"{origin.url}/ts/gap", session)
        taken = await take(ingest)
        assert counts(taken)[Kind.VIDEO] == pytest.approx(PICTURES - 25, abs=1)
        assert "/ts/gap.ts" not in origin.paths()
        assert ingest.status.segments_left_out == 0

    @pytest.mark.parametrize("bad", ["init", "segments"])
    async def test_mp4_that_can_t_be_read(
        self, bad: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        damaged = b"\x00\x00\x00\x08styp\x00\x00\x00\x04moof"
        for name in ["init.mp4"] if bad == "init" else [f"s{i}.m4s" for i in range(SECONDS)]:
            origin.on(f"/fmp4/{name}", damaged)
        ingest = ingest_of(f"{origin.url}/fmp4/list.m3u8", session, limits=QUICK)
        taken = await take(ingest)
        assert taken.error.startswith("a segment of the source can't be read: ")
        assert ingest.status.segments_left_out == MAX_BAD_SEGMENTS

    async def test_too_many_in_a_row(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        origin.on("/ts/bad", vod(*[f"absent{i}.ts" for i in range(10)]))
        taken = await take(ingest_of(f"{origin.url}/ts/bad", session, limits=QUICK))
        assert taken.error == "the source's segment: the source answered 404 Not Found"
        assert len(origin.requests) == 1 + MAX_BAD_SEGMENTS

    async def test_too_many_in_the_middle_are_passed(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        names = [*SEGMENTS[:2], *[f"absent{i}.ts" for i in range(MAX_BAD_SEGMENTS)], *SEGMENTS[2:]]
        origin.on("/ts/bad", vod(*names))
        ingest = ingest_of(f"{origin.url}/ts/bad", session)
        taken = await take(ingest)
        assert taken.error == ""
        assert ingest.status.reconnections == 1
        assert counts(taken)[Kind.VIDEO] == PICTURES


class TestWords:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (vod(), "the source's HLS playlist names nothing that could be played"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:x\n", "the source's HLS playlist can't be read: it is damaged"),
            ("#EXTM3U\n#EXTINF:-1,A\nhttp://h/1.ts\n#EXTINF:-1,B\nhttp://h/2.ts\n", "an M3U playlist of channels"),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nmaster\n", "lists lists of variants"),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nabsent\n", "the source's HLS playlist: the source answered 404"),
            ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\npage\n", "the source's HLS playlist is a web page"),
            (vod("page"), "a segment of the source is a web page"),
            (
                vod("s0.ts", "s1.ts", head='#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://1",KEYFORMAT="com.apple"'),
                "the source is encrypted with SAMPLE-AES (com.apple), which can't be read",
            ),
            (
                vod("s0.ts", head='#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://1",KEYFORMAT="a\x1b[2J"'),
                "the source is encrypted with SAMPLE-AES (?), which can't be read",
            ),
            (
                vod(*SEGMENTS, head='#EXT-X-KEY:METHOD=AES-128,URI="absent"'),
                "the source's key: the source answered 404 Not Found",
            ),
            (vod(*SEGMENTS, head='#EXT-X-KEY:METHOD=AES-128,URI="page"'), "the source's key has"),
            (vod(*SEGMENTS, head='#EXT-X-KEY:METHOD=AES-128,URI="/wrong"'), "its key may be wrong"),
            ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n", "the source's HLS playlist brought nothing to play"),
        ],
    )
    async def test_why_nothing_comes(
        self, body: str, words: str, origin: Origin, media: Path, session: aiohttp.ClientSession
    ) -> None:
        origin.on("/ts/master", body)
        origin.on("/ts/page", "<!doctype html><html><body>Sign in</body></html>")
        origin.on("/wrong", b"0" * 16)
        if "wrong" in body:
            for name in SEGMENTS:
                origin.on(f"/ts/{name}", (media / "aes" / name).read_bytes())
        limits = replace(QUICK, connect_s=0.2, first_media_s=0.5) if "brought" in words else QUICK
        began = time.monotonic()
        taken = await take(ingest_of(f"{origin.url}/ts/master", session, pace="auto", limits=limits))
        assert words in taken.error
        assert not taken.events
        assert time.monotonic() - began < 8.0

    async def test_a_playlist_without_an_end(self, session: aiohttp.ClientSession) -> None:
        limits = replace(QUICK, first_media_s=0.3)
        async with ScriptedServer(endless([b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n"], then=hang)) as server:
            taken = await take(ingest_of(server.url, session, limits=limits))
        assert taken.error == "the source's playlist did not come to its end"

    async def test_a_variant_that_hangs(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        origin.on("/ts/master", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhang\n")
        origin.on("/ts/hang", hang_up_never)
        limits = replace(QUICK, connect_s=0.4, first_media_s=0.3)
        taken = await take(ingest_of(f"{origin.url}/ts/master", session, limits=limits))
        assert taken.error == "the source's HLS playlists did not come within 0.3 s"

    async def test_a_huge_playlist_is_not_read_to_its_end(self, origin: Origin, session: aiohttp.ClientSession) -> None:
        sent = 0

        async def huge(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n")
            while sent < 100 << 20:
                await response.write(b"#EXTINF:1,\nsegment.ts\n" * 5000)
                sent += 5000 * 22
            return response

        origin.on("/huge", huge)
        taken = await take(ingest_of(f"{origin.url}/huge", session, limits=QUICK))
        assert taken.error == "the source's playlist is larger than 4 MiB"
        assert sent < 4 * MAX_PLAYLIST_BYTES

    async def test_no_secret_is_told(
        self, origin: Origin, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "tvarr")
        origin.on("/ts/bad", vod("absent.ts?token=q9q9", "absent2.ts?token=q9q9"))
        taken = await take(ingest_of(f"{origin.url}/ts/bad?token=q9q9", session, limits=QUICK))
        assert taken.error
        assert caplog.records
        assert "q9q9" not in taken.error + caplog.text
