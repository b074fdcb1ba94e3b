"""The whole way from a source to events on one timeline, with real clips from servers on loopback and from files."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import aiohttp
import pytest

from tests.conftest import program
from tests.fakes.sources import Script, ScriptedServer, answer, close, endless, hang, pieces_of, reset
from tvarr.coordinator.ingest import Ingest, IngestState
from tvarr.coordinator.source import IngestLimits, SourceSpec
from tvarr.coordinator.sources.http import client_session
from tvarr.coordinator.sources.intake import HELD_EVENTS, Intake
from tvarr.errors import SourceError
from tvarr.media.model import TICKS_PER_SECOND, Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.audio import is_cut_off
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.mpegts.mux import Muxer, null_packets

LIMITS = IngestLimits(
    connect_s=3.0,
    first_media_s=3.0,
    stall_s=3.0,
    retry_base_s=0.02,
    retry_max_s=0.05,
    healthy_s=5.0,
    give_up_s=3.0,
    slice_s=0.002,
)
SOON_S = 10.0  # nothing here takes so long; a test that does has hung
CLIP_S = 3
PICTURES = CLIP_S * 25


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of H.264 with B-frames, a keyframe a second, and AAC."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts", CLIP_S)


def make_clip(path: Path, seconds: int) -> Path:
    picture = f"testsrc2=size=160x90:rate=25:duration={seconds}"
    sound = f"sine=frequency=440:sample_rate=48000:duration={seconds}"
    command = [program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac", "-f", "mpegts"]
    subprocess.run([*command, str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def data(clip: Path) -> bytes:
    return clip.read_bytes()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session() as session:
        yield session


@dataclass
class Taken:
    """What a source gave, and how it ended."""

    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of each call of the sink
    rooms: int = 0
    error: str = ""

    def sink(self, events: Sequence[Event]) -> None:
        assert events
        self.events += events
        self.times.append(time.monotonic())

    async def room(self) -> None:
        self.rooms += 1

    @property
    def announcements(self) -> list[Tracks]:
        return [event for event in self.events if isinstance(event, Tracks)]

    def samples(self, kind: Kind | None = None) -> list[Sample]:
        """Of one kind, or all; by the tracks that were announced before each."""
        found, tracks = [], Tracks(())
        for event in self.events:
            if isinstance(event, Tracks):
                tracks = event
                continue
            track = tracks.get(event.track)
            assert track is not None, "a sample came before its track"
            if kind in (None, track.kind):
                found.append(event)
        return found

    def span_s(self) -> float:
        """From the first sample of video or audio to the last, in DTS."""
        dts = [s.dts_ticks for kind in (Kind.VIDEO, Kind.AUDIO) for s in self.samples(kind)]
        return (max(dts) - min(dts)) / TICKS_PER_SECOND if dts else 0.0

    def steps_s(self, kind: Kind) -> list[float]:
        """From one sample to the next of the first track of a kind, in DTS."""
        samples = self.samples(kind)
        dts = [sample.dts_ticks for sample in samples if sample.track == samples[0].track]
        return [(b - a) / TICKS_PER_SECOND for a, b in pairwise(dts)]

    def check_order(self) -> None:
        """What a timeline promises."""
        last: dict[int, int] = {}
        for sample in self.samples():
            assert sample.dts_ticks > last.get(sample.track, -(1 << 33))
            assert sample.pts_ticks >= sample.dts_ticks
            last[sample.track] = sample.dts_ticks


async def take(ingest: Ingest, *, until: Callable[[Taken], bool] | None = None) -> Taken:
    """Runs the source to its end, or until something is true of what it gave; then it is left."""
    taken = Taken()
    reached = asyncio.Event()

    def sink(events: Sequence[Event]) -> None:
        taken.sink(events)
        if until is not None and until(taken):
            reached.set()

    running = asyncio.create_task(ingest.run(sink, taken.room))
    reaching = asyncio.create_task(reached.wait())
    try:
        await asyncio.wait({running, reaching}, timeout=SOON_S, return_when=asyncio.FIRST_COMPLETED)
        assert running.done() or reached.is_set(), f"hung: {ingest.status}"
    finally:
        ended = running.done()
        running.cancel()
        reaching.cancel()
        outcome = (await asyncio.gather(running, reaching, return_exceptions=True))[0]
    if ended and isinstance(outcome, SourceError):
        taken.error = str(outcome)
        assert ingest.status.state is IngestState.FAILED
        assert ingest.status.error == taken.error
        assert "\n" not in taken.error
    elif ended:
        assert outcome is None, repr(outcome)
        assert ingest.status.state is IngestState.ENDED
    taken.check_order()
    return taken


async def take_from(
    session: aiohttp.ClientSession, *scripts: Script, limits: IngestLimits = LIMITS, pace: str = "auto"
) -> tuple[Taken, Ingest, ScriptedServer]:
    """What comes of a channel on a server that plays `scripts`. No connection is left behind, or beside another."""
    async with ScriptedServer(*scripts) as server:
        ingest = Ingest(SourceSpec.parse(server.url, pace=pace), limits, session, Random(1))
        taken = await take(ingest)
        await asyncio.wait_for(server.all_closed(), SOON_S)
    assert server.most_open == 1
    return taken, ingest, server


def file_ingest(
    path: Path, session: aiohttp.ClientSession, *, limits: IngestLimits = LIMITS, **options: object
) -> Ingest:
    spec = SourceSpec.parse(f"file:{path.name}{options.pop('fragment', '')}", media_dir=path.parent, **options)  # type: ignore[arg-type]
    return Ingest(spec, limits, session, Random(1))


def counts(taken: Taken) -> Counter[Kind]:
    return Counter({kind: len(taken.samples(kind)) for kind in Kind})


class TestFiles:
    async def test_everything_comes_to_the_last_picture(
        self, clip: Path, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        ingest = file_ingest(clip, session, pace="fast")
        assert ingest.full_speed
        assert ingest.status.state is IngestState.CONNECTING
        taken = await take(ingest)
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert counts(taken)[Kind.AUDIO] == pytest.approx(CLIP_S * 48000 / 1024, abs=2)
        assert [t.codec for t in taken.announcements[-1].tracks] == [Codec.H264, Codec.AAC]
        assert taken.rooms >= 1
        assert ingest.status.bytes == len(data)
        assert ingest.status.reconnections == 0

    async def test_at_real_time_after_the_preroll(self, clip: Path, session: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        taken = await take(file_ingest(clip, session, limits=replace(LIMITS, preroll_s=CLIP_S - 0.5, slice_s=0.05)))
        took = time.monotonic() - began
        assert 0.4 <= took < 2.5
        assert taken.times[0] - began < 0.4
        assert len(taken.times) < 20, "slices, not single samples"
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert taken.rooms == 0

    async def test_a_loop_goes_on_where_it_ended(self, clip: Path, session: aiohttp.ClientSession) -> None:
        ingest = file_ingest(clip, session, pace="fast", loop=True)
        taken = await take(ingest, until=lambda taken: len(taken.samples(Kind.VIDEO)) >= 3 * PICTURES)
        assert len({announced.tracks for announced in taken.announcements}) == len(taken.announcements)
        pictures = taken.samples(Kind.VIDEO)[: 3 * PICTURES]
        steps = [b.dts_ticks - a.dts_ticks for a, b in pairwise(pictures)]
        joins = [steps.pop(PICTURES * 2 - 1), steps.pop(PICTURES - 1)]
        assert set(steps) == {3600}
        assert all(3600 <= join < 3600 + 2 * 1920 for join in joins), "the sound is longer than the pictures by a frame"
        assert pictures[PICTURES].keyframe
        assert ingest.status.laps >= 2
        assert ingest.status.timeline.restarts >= 2
        assert ingest.status.demux.bytes == ingest.status.bytes
        assert ingest.status.demux.packets == ingest.status.bytes // 188

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("none.ts", None, "there is no file none.ts"),
            ("empty.ts", b"", "nothing"),
            ("page.ts", b"<!DOCTYPE html><html></html>", "a web page"),
            ("garbage.ts", os.urandom(3_000_000), "not MPEG-TS"),
            ("short.ts", b"\x01\x02", "MPEG-TS"),
        ],
    )
    async def test_refused(
        self, name: str, content: bytes | None, words: str, tmp_path: Path, session: aiohttp.ClientSession
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        taken = await take(file_ingest(tmp_path / name, session, loop=True))
        assert words in taken.error
        assert not taken.events


@dataclass(frozen=True)
class Captioned:
    """The clip with subtitles, which begin before the pictures."""

    early: bytes  # tables and subtitles
    rest: bytes  # the clip
    subtitles: list[bytes]


@pytest.fixture(scope="session")
def captioned(data: bytes) -> Captioned:
    tracks, samples = Tracks(()), []
    demuxer = Demuxer()
    for event in demuxer.feed(data) + demuxer.flush():
        if isinstance(event, Tracks):
            tracks = event
        else:
            samples.append(event)
    begin = samples[0].dts_ticks
    times = range(begin - 100 * TICKS_PER_SECOND // 25, begin, TICKS_PER_SECOND // 25)
    subtitles = [Sample(600, at, at, b"\x20\x00\x0f%04d\xff" % i) for i, at in enumerate(times)]
    muxer = Muxer()
    muxer.set_tracks(Tracks((*tracks.tracks, Track(600, Codec.DVB_SUBTITLE, "deu")), tracks.program))
    early, rest = (b"".join(c.data for c in muxer.mux(part)) for part in (subtitles, samples))
    return Captioned(early, rest, [subtitle.data for subtitle in subtitles])


class TestBeforeTheFirstPicture:
    async def test_what_came_early_comes_with_it(self, captioned: Captioned, session: aiohttp.ClientSession) -> None:
        script = endless([*pieces_of(captioned.early, 188), *pieces_of(captioned.rest, 1880)], pause_s=0.001)
        async with ScriptedServer(script, hang) as server:
            ingest = Ingest(SourceSpec.parse(server.url), LIMITS, session, Random(1))
            taken = await take(ingest, until=lambda taken: bool(taken.events))
        assert isinstance(taken.events[0], Tracks)
        assert [s.data for s in taken.samples(Kind.SUBTITLE)] == captioned.subtitles
        assert taken.samples(Kind.VIDEO) or taken.samples(Kind.AUDIO), "all in the first call of the sink"

    @pytest.mark.parametrize("cut", [reset, close], ids=["cut", "ended"])
    async def test_it_is_forgotten_with_its_connection(
        self, cut: Script, captioned: Captioned, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        broken = endless([captioned.early], chunked=True, then=cut)
        taken, ingest, server = await take_from(session, broken, broken, answer(data))
        assert len(server.requests) == 3
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert counts(taken)[Kind.SUBTITLE] == 0
        assert isinstance(taken.events[0], Tracks)
        assert len(taken.announcements[0].tracks) == 2
        assert taken.samples(Kind.VIDEO)[0].keyframe
        assert ingest.status.dropped_samples == 0
        assert ingest.status.demux.bytes == ingest.status.bytes

    async def test_a_source_that_never_has_one_gives_nothing(
        self, captioned: Captioned, session: aiohttp.ClientSession
    ) -> None:
        taken, _, _ = await take_from(session, answer(captioned.early), pace="fast")
        assert taken.error == "the source announces video (h264) and audio (aac) but sends none"
        assert not taken.events
        limits = replace(LIMITS, first_media_s=0.2)
        taken, _, _ = await take_from(session, endless([captioned.early], then=hang), limits=limits)
        assert taken.error == "the source announces video (h264) and audio (aac) but sends none"
        assert not taken.events

    async def test_one_that_stops_after_a_few_pictures(self, data: bytes, session: aiohttp.ClientSession) -> None:
        packets = pieces_of(data, 188)
        pictures = b"".join(
            p for p in packets[: len(packets) // 6] if p[2] != 1
        )  # without those of PID 0x101, the sound
        limits = replace(LIMITS, connect_s=0.1, first_media_s=0.2)
        taken, _, _ = await take_from(session, endless([pictures], then=hang), limits=limits)
        assert taken.error == "the source announces video (h264) and audio (aac) but sends too little of it"
        assert not taken.events

    def test_what_waits_is_limited(self, captioned: Captioned) -> None:
        intake = Intake()
        for _ in range(2 * HELD_EVENTS // len(captioned.subtitles)):
            assert not intake.feed(captioned.early)
        events = intake.feed(captioned.rest)
        assert isinstance(events[0], Tracks)
        early = sum(isinstance(event, Sample) and event.track == 600 for event in events)
        assert early == pytest.approx(HELD_EVENTS, abs=5)


class TestNetwork:
    @pytest.mark.parametrize("pace", ["auto", "fast"])
    async def test_a_whole_answer_ends(self, pace: str, data: bytes, session: aiohttp.ClientSession) -> None:
        taken, ingest, server = await take_from(session, answer(data), pace=pace)
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert (taken.rooms > 0) is (pace == "fast"), "a live source waits for nobody"
        assert len(server.requests) == 1
        assert ingest.status.reconnections == 0
        assert ingest.status.bitrate_kbps > 0

    async def test_slow_and_in_odd_pieces(self, data: bytes, session: aiohttp.ClientSession) -> None:
        pieces = pieces_of(data, 1317)
        script, gone = endless(pieces, pause_s=0.001), answer(status="404 Not Found")
        taken, _, _ = await take_from(session, script, gone, limits=replace(LIMITS, give_up_s=0.2))
        assert counts(taken)[Kind.VIDEO] == PICTURES

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_one_that_ends_and_is_gone_has_ended(
        self, chunked: bool, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        script = endless([data], chunked=chunked)
        gone = answer(status="404 Not Found")
        taken, _, server = await take_from(session, script, gone, limits=replace(LIMITS, give_up_s=0.2))
        assert taken.error == ""
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert len(server.requests) > 1

    async def test_one_that_is_cut_and_gone_has_failed(self, data: bytes, session: aiohttp.ClientSession) -> None:
        script = endless([data], chunked=True, then=reset)
        gone = answer(status="404 Not Found")
        taken, _, _ = await take_from(session, script, gone, limits=replace(LIMITS, give_up_s=0.2))
        assert taken.error == "the source answered 404 Not Found; given up after 0.2 s without media"

    async def test_cut_and_connected_again(self, data: bytes, session: aiohttp.ClientSession) -> None:
        middle = len(data) // 188 // 2 * 188
        first, second = data[:middle], data[middle:]  # the second begins between two keyframes
        taken, ingest, server = await take_from(
            session, endless([first], chunked=True, then=close), answer(second), limits=replace(LIMITS, give_up_s=5)
        )
        assert taken.error == ""
        assert len(server.requests) == 2
        assert ingest.status.reconnections == 1
        assert ingest.status.dropped_samples > 0, "pictures that can't be decoded"
        pictures = taken.samples(Kind.VIDEO)
        assert PICTURES // 2 < len(pictures) < PICTURES
        gap = max(range(1, len(pictures)), key=lambda i: pictures[i].dts_ticks - pictures[i - 1].dts_ticks)
        assert pictures[gap].keyframe
        assert len({announced.tracks for announced in taken.announcements}) == len(taken.announcements)

    async def test_sound_that_is_cut_within_a_frame_is_left_out(
        self, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        """Decoders complain of half a frame. Of a body whose end was announced it is passed on: it was made so."""
        starts = [i for i, p in enumerate(pieces_of(data, 188)) if p[1] & 0x40 and p[1] << 8 & 0x1F00 | p[2] == 0x101]
        cut = data[: 188 * (starts[-2] + 1)]
        gone = answer(status="404 Not Found")
        taken, _, _ = await take_from(session, endless([cut]), gone)
        assert taken.samples(Kind.AUDIO)
        assert not any(is_cut_off(Codec.AAC, sample.data) for sample in taken.samples(Kind.AUDIO))
        known, _, _ = await take_from(session, answer(cut))
        assert len(known.samples(Kind.AUDIO)) == len(taken.samples(Kind.AUDIO)) + 1

    @pytest.mark.parametrize("packets", [1, 3])
    async def test_a_picture_that_a_cut_is_within_is_left_out(
        self, packets: int, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        """Decoders show garbage for the rest. Of a body whose end was announced it is passed on: it was made so."""
        pieces = pieces_of(data, 188)
        video = [i for i, p in enumerate(pieces) if p[1] << 8 & 0x1F00 | p[2] == 0x100]
        starts = [n for n, i in enumerate(video) if pieces[i][1] & 0x40]
        last = next(n for n in reversed(starts) if video[n + 3 : n + 4] and not {n + 1, n + 2, n + 3} & set(starts))
        cut = data[: 188 * (video[last + packets - 1] + 1)]
        gone = answer(status="404 Not Found")
        taken, _, _ = await take_from(session, endless([cut]), gone)
        assert len(taken.samples(Kind.VIDEO)) == starts.index(last)
        known, _, _ = await take_from(session, answer(cut))
        assert len(known.samples(Kind.VIDEO)) == starts.index(last) + 1

    async def test_a_stall_is_a_cut(self, data: bytes, session: aiohttp.ClientSession) -> None:
        taken, ingest, server = await take_from(
            session, endless([data], then=hang), answer(data), limits=replace(LIMITS, stall_s=0.2)
        )
        assert taken.error == ""
        assert len(server.requests) == 2
        assert ingest.status.reconnections == 1

    async def test_busy_at_first(self, data: bytes, session: aiohttp.ClientSession) -> None:
        busy = answer(status="503 Service Unavailable")
        taken, ingest, server = await take_from(session, busy, busy, answer(data))
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert len(server.requests) == 3
        assert ingest.status.reconnections == 2

    async def test_busy_until_it_says(self, data: bytes, session: aiohttp.ClientSession) -> None:
        began_at = time.monotonic()
        busy = answer(b"", "Retry-After: 1", status="429 Too Many Requests")
        taken, _, server = await take_from(session, busy, answer(data))
        assert counts(taken)[Kind.VIDEO] == PICTURES
        assert len(server.requests) == 2
        assert time.monotonic() - began_at > 1.0

    @pytest.mark.parametrize("media_first", [False, True])
    async def test_busy_for_longer_than_anybody_waits(
        self, media_first: bool, data: bytes, session: aiohttp.ClientSession
    ) -> None:
        at = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
        busy = answer(b"", f"Retry-After: {at}", status="503 Service Unavailable")
        taken, _, server = await take_from(session, *([endless([data])] if media_first else []), busy)
        assert re.fullmatch(
            r"the source answered 503 Service Unavailable; it may be asked again in 1(19|20) s", taken.error
        )
        assert len(server.requests) == 1 + media_first

    @pytest.mark.parametrize(
        "said",
        [
            "soon",
            "-1",
            "",
            "0",
            "Mon, 01 Jan 2001 00:00:00 GMT",
            "9" * 40,
            "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        ],
    )
    async def test_what_it_says_is_nothing(self, said: str, data: bytes, session: aiohttp.ClientSession) -> None:
        taken, _, _ = await take_from(session, answer(b"", f"Retry-After: {said}", status="503 Busy"), answer(data))
        assert counts(taken)[Kind.VIDEO] == PICTURES

    @pytest.mark.parametrize(
        ("script", "words", "requests"),
        [
            pytest.param(answer(status="404 Not Found"), "the source answered 404 Not Found", 1, id="404"),
            pytest.param(answer(status="500 Oops"), "the source answered 500 Oops", 2, id="500"),
            pytest.param(
                answer(b"<!doctype html><html>" + b" " * 5000, "Content-Type: text/html"),
                "the source sends a web page (text/html), not video",
                1,
                id="web page",
            ),
            pytest.param(
                answer(b"#EXTM3U\n#EXTINF:-1,One\nhttp://h/1.ts\n"), "an M3U playlist of channels", 1, id="channels"
            ),
            pytest.param(endless([b"<html>"], then=hang), "a web page", 1, id="a page that never ends"),
            pytest.param(answer(b'{"error": "gone"}'), "JSON text", 1, id="JSON"),
            pytest.param(answer(b""), "answered with nothing", 1, id="empty"),
            pytest.param(endless([]), "answered with nothing", 1, id="closed at once"),
            pytest.param(answer(b"x" * 100, "Content-Encoding: gzip"), "compressed content", 1, id="gzip"),
            pytest.param(endless([], then=hang), "the source sent nothing for 0.3 s", 1, id="silent"),
        ],
    )
    async def test_causes(self, script: Script, words: str, requests: int, session: aiohttp.ClientSession) -> None:
        limits = replace(LIMITS, connect_s=0.3, stall_s=0.3)
        began = time.monotonic()
        taken, _, server = await take_from(session, script, limits=limits)
        assert words in taken.error
        assert not taken.events
        assert len(server.requests) == 1 if requests == 1 else len(server.requests) >= requests
        assert time.monotonic() - began < 2.0

    async def test_silence_is_called_so_within_a_picture_too(
        self, data: bytes, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        packets = pieces_of(data, 188)
        begin, rest = packets[: len(packets) // 2], packets[len(packets) // 2 :]
        picture = next(at for at, packet in enumerate(rest) if packet[1] & 0x40)  # a PES packet begins
        limits = replace(LIMITS, stall_s=0.5, first_media_s=0.5)
        in_a_picture = endless([b"".join(begin + rest[:picture]), rest[picture]], pause_s=0.1, then=hang)
        await take_from(session, in_a_picture, answer(data), limits=limits)
        assert "the source sent nothing for 0.5 s; connecting again" in caplog.text

    @pytest.mark.parametrize("ahead_s", [1.0, 4.0])
    async def test_one_that_sends_all_at_once_is_held_back(
        self, ahead_s: float, tmp_path: Path, session: aiohttp.ClientSession
    ) -> None:
        clip = await asyncio.to_thread(make_clip, tmp_path / "long.ts", 30)
        data = await asyncio.to_thread(clip.read_bytes)
        seconds = pieces_of(data, len(data) // 188 // 30 * 188)
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            for second in seconds:
                sent += 1
                yield second + null_packets(2_000_000 // 188)

        limits = replace(LIMITS, live_ahead_s=ahead_s, slice_s=0.05)
        began = time.monotonic()
        async with ScriptedServer(endless(body())) as server:
            ingest = Ingest(SourceSpec.parse(server.url), limits, session, Random(1))
            taken = await take(ingest, until=lambda taken: taken.span_s() > ahead_s + 1.5)
            took = time.monotonic() - began
            await asyncio.wait_for(server.all_closed(), SOON_S)
        assert taken.span_s() - ahead_s < took + 0.1
        assert took < 4.0
        assert len(taken.times) < 25 * 4 / 2, "slices, not single samples"
        assert sent < 25, "its server has to wait"
        assert ingest.status.reconnections == 0

    async def test_time_held_back_is_no_time_without_media(self, data: bytes, session: aiohttp.ClientSession) -> None:
        limits = replace(LIMITS, live_ahead_s=1.5, give_up_s=1.0, stall_s=0.3)
        again = answer(data[: len(data) // 3])
        taken, _, server = await take_from(session, endless([data], then=hang), again, limits=limits)
        assert taken.error == ""
        assert len(server.requests) == 2
        assert counts(taken)[Kind.VIDEO] > PICTURES

    async def test_endless_garbage_is_left_soon(self, session: aiohttp.ClientSession) -> None:
        def garbage() -> Iterator[bytes]:
            while True:
                yield os.urandom(65536)

        taken, ingest, _ = await take_from(session, endless(garbage()))
        assert "not MPEG-TS" in taken.error
        assert ingest.status.bytes < 16 * 1024 * 1024

    async def test_endless_null_packets_are_left(self, session: aiohttp.ClientSession) -> None:
        def nulls() -> Iterator[bytes]:
            while True:
                yield (b"\x47\x1f\xff\x10" + bytes(184)) * 100

        limits = replace(LIMITS, first_media_s=0.3)
        taken, _, _ = await take_from(session, endless(nulls(), pause_s=0.01), limits=limits)
        assert "PAT" in taken.error
        taken, ingest, _ = await take_from(session, endless(nulls()), limits=replace(LIMITS, first_media_bytes=2**20))
        assert "PAT" in taken.error
        assert ingest.status.bytes < 8 * 1024 * 1024

    async def test_leaving_closes_the_connection(self, data: bytes, session: aiohttp.ClientSession) -> None:
        before = asyncio.all_tasks()
        async with ScriptedServer(endless([data], then=hang)) as server:
            ingest = Ingest(SourceSpec.parse(server.url), LIMITS, session, Random(1))
            await take(ingest, until=lambda taken: len(taken.events) > 10)
            await asyncio.wait_for(server.all_closed(), SOON_S)
            assert ingest.status.state is IngestState.RUNNING
        if others := asyncio.all_tasks() - before:
            assert not (await asyncio.wait(others, timeout=SOON_S))[1], "a task was left behind"

    async def test_no_secret_is_told(
        self, data: bytes, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "tvarr")
        async with ScriptedServer(endless([data], chunked=True, then=reset), hang) as server:
            url = server.url.replace("//", "//me:q9q9@") + "?token=q9q9"
            limits = replace(LIMITS, give_up_s=0.1, connect_s=0.2)
            ingest = Ingest(SourceSpec.parse(url, headers={"X-Key": "q9q9"}), limits, session, Random(1))
            taken = await take(ingest)
        assert "given up" in taken.error
        assert caplog.records
        assert "q9q9" not in taken.error + caplog.text
