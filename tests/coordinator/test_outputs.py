"""What viewers of one output get, media and silence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from tests.media.test_fmp4_mux import AUDIO, frame, picture
from tests.media.test_fmp4_mux import VIDEO as H264
from tvarr.coordinator import outputs
from tvarr.coordinator.outputs import SILENCE_PACKETS, Mp4Output, StreamOutput, TsOutput, Viewer
from tvarr.coordinator.signals import Signal
from tvarr.errors import SourceError
from tvarr.media.model import Codec, Event, Sample, Track, Tracks

VIDEO = Track(0x100, Codec.MPEG2VIDEO)
PICTURE = bytes.fromhex("000001b3 14000b13 ffffe018 000001b8 00080000 00000100 000fffff") + bytes(300)
NULL_HEAD = bytes.fromhex("471fff10")  # ISO/IEC 13818-1, 2.4.1: PID 8191, payload only, counter 0


def pictures(first: int, count: int) -> list[Event]:
    return [Sample(VIDEO.id, n * 3600, n * 3600, PICTURE, True) for n in range(first, first + count)]


@pytest.fixture
def silence_s(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(outputs, "SILENCE_S", 0.1)
    return 0.1


@pytest.fixture
async def output() -> TsOutput:
    made = TsOutput("test", Signal())
    made.push([Tracks((VIDEO,))])
    return made


def join(output: TsOutput) -> Viewer:
    return output.join("127.0.0.1", "a player")


async def within(coroutine: Coroutine[Any, Any, bytes], seconds: float = 5.0) -> bytes:
    async with asyncio.timeout(seconds):
        return await coroutine


def is_null(data: bytes) -> bool:
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    assert len(data) % 188 == 0
    return all(packet.startswith(NULL_HEAD) for packet in packets)


async def test_silence_is_filled_with_null_packets_and_media_go_on_behind_them(
    output: TsOutput, silence_s: float
) -> None:
    output.push(pictures(0, 5))
    viewer = join(output)
    media = await within(viewer.read())
    assert not is_null(media)
    began = output.now()
    for number in range(1, 4):
        nulls = await within(viewer.read())
        assert is_null(nulls)
        assert len(nulls) == SILENCE_PACKETS * 188
        assert output.now() - began >= (number - 0.5) * silence_s * 0.9
    assert viewer.sent_bytes == len(media)  # they are no media
    assert viewer.behind_bytes == 0
    output.push(pictures(5, 5))
    assert not is_null(await within(viewer.read()))
    assert is_null(await within(viewer.read()))
    output.end()
    assert await within(viewer.read()) == b""


async def test_nothing_comes_before_the_first_media(output: TsOutput, silence_s: float) -> None:
    """Also to a viewer who comes while others watch a source that is silent: it begins with what is there."""
    viewer = join(output)
    with pytest.raises(TimeoutError):
        await within(viewer.read(), 5 * silence_s)
    output.push(pictures(0, 5))
    assert not is_null(await within(viewer.read()))
    assert is_null(await within(viewer.read()))
    late = join(output)
    assert not is_null(await within(late.read()))
    assert is_null(await within(late.read()))


async def test_what_everybody_has_is_let_go_but_not_what_a_new_viewer_gets(output: TsOutput) -> None:
    slow, quick = join(output), join(output)
    for number in range(10):
        output.push(pictures(number, 1))
        assert await within(quick.read())
        output.let_go()
    behind = slow.behind_bytes
    assert output.chunks.bytes_since(0) == behind > 0
    assert len(await within(slow.read())) == behind
    output.let_go()
    assert len(output.chunks) == 1
    assert await within(join(output).read())


async def test_who_reads_nothing_is_owed_nothing(output: TsOutput, silence_s: float) -> None:
    output.push(pictures(0, 5))
    viewer = join(output)
    await within(viewer.read())
    await asyncio.sleep(5 * silence_s)
    assert is_null(await within(viewer.read(), silence_s / 2))
    with pytest.raises(TimeoutError):
        await within(viewer.read(), silence_s / 2)


async def test_media_that_flow_are_not_mixed_with_anything(output: TsOutput, silence_s: float) -> None:
    viewer = join(output)
    for number in range(50):
        output.push(pictures(number, 1))
        assert not is_null(await within(viewer.read()))
        await asyncio.sleep(silence_s / 10)


@pytest.mark.parametrize("end", [lambda output, viewer: output.end(), lambda output, viewer: output.leave(viewer)])
async def test_nobody_to_wake_is_no_timer(output: TsOutput, end: Callable[[TsOutput, Viewer], None]) -> None:
    """An output that has ended, or that nobody watches, does nothing; the last of two viewers counts."""
    first, last = join(output), join(output)
    output.leave(first)
    assert output._alarm is not None
    end(output, last)
    assert output._alarm is None


@pytest.mark.parametrize("make", [partial(TsOutput, "test"), Mp4Output])
async def test_who_joins_a_long_group_of_heavy_pictures_begins_with_its_keyframe(
    make: Callable[[Signal, int], StreamOutput],
) -> None:
    """10 s of 40 Mb/s, more than a viewer may else fall behind by."""
    output = make(Signal(), 64 << 20)
    light = [picture(n * 3600, key=n == 0) for n in range(250)]
    output.push([Tracks((H264,)), *(sample._replace(data=sample.data + b"\1" * 200_000) for sample in light)])
    viewer = output.join("127.0.0.1", "a player")
    assert viewer.behind_bytes > 48_000_000
    assert viewer.behind_bytes == output.chunks.bytes_since(0)


async def test_who_reads_the_same_is_given_the_same_object(output: TsOutput) -> None:
    output.push(pictures(0, 5))
    first, second = join(output), join(output)
    output.push(pictures(5, 5))  # each a keyframe, and so a chunk of its own
    given, again = await within(first.read()), await within(second.read())
    assert given is again
    framed = output.framed(given)
    assert framed is output.framed(again)
    assert framed == f"{len(given):x}\r\n".encode() + given + b"\r\n"
    output.push(pictures(10, 1))
    later = await within(first.read())
    assert output.framed(later).endswith(later + b"\r\n")


async def watched(viewer: Viewer, at_once: Callable[[bytes], bool], got: list[bytes]) -> None:
    """As a stream is answered: what can't be sent at once comes back, to be sent when there is room."""
    while data := await viewer.read(at_once):
        got.append(data)


async def settled(*viewers: Viewer) -> None:
    """Until they have all there is."""
    async with asyncio.timeout(5):
        while any(viewer.behind_bytes for viewer in viewers):
            await viewers[0].output.drained.wait()


async def test_who_keeps_up_is_sent_to_at_once_and_told_of_the_end(output: TsOutput) -> None:
    output.push(pictures(0, 5))
    first, second = join(output), join(output)
    sent: list[bytes] = []
    task = asyncio.create_task(watched(first, lambda data: not sent.append(data), got := []))
    await settled(first)
    assert len(got) == 1, "what was there before is for who asks"
    for number in range(5, 8):
        output.push(pictures(number, 1))
        await settled(first)
    assert len(got) == 1
    assert len(sent) == 3
    output.push(pictures(8, 1))
    output.end()
    async with asyncio.timeout(5):
        await task
    assert b"".join(got + sent) == await within(second.read())
    assert first.sent_bytes == second.sent_bytes


@pytest.mark.parametrize("seed", range(10))
async def test_nothing_is_lost_or_sent_twice_however_often_a_viewer_falls_behind(output: TsOutput, seed: int) -> None:
    dice = random.Random(seed)
    output.push(pictures(0, 1))
    viewers = [join(output) for _ in range(4)]
    got: list[list[bytes]] = [[] for _ in viewers]

    def at_once(of: list[bytes]) -> Callable[[bytes], bool]:
        return lambda data: dice.random() < 0.7 and not of.append(data)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for viewer, mine in zip(viewers, got, strict=True):
            group.create_task(watched(viewer, at_once(mine), mine))
        for number in range(1, 100):
            output.push(pictures(number, dice.randrange(1, 3)))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        output.end()
    everything = b"".join(chunk.data for chunk in output.chunks.read(0, max_items=1 << 20, max_bytes=1 << 30)[0])
    assert [b"".join(mine) for mine in got] == [everything] * len(viewers)


async def test_more_than_is_sent_at_once_comes_in_parts(output: TsOutput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "READ_BYTES", 1000)
    output.push(pictures(0, 1))
    viewer = join(output)
    got: list[bytes] = []
    task = asyncio.create_task(watched(viewer, lambda data: not got.append(data), got))
    await settled(viewer)
    output.push(pictures(1, 9))
    await settled(viewer)
    assert len(got) == 10
    output.end()
    await task


async def test_one_viewer_that_fails_is_no_harm_to_others(output: TsOutput) -> None:
    def broken(data: bytes) -> bool:
        raise OSError("no more")

    output.push(pictures(0, 1))
    bad, good = join(output), join(output)
    sent: list[bytes] = []
    failing = asyncio.create_task(watched(bad, broken, []))
    going_on = asyncio.create_task(watched(good, lambda data: not sent.append(data), []))
    await settled(bad, good)
    output.push(pictures(1, 1))
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="no more"):
            await failing
    assert len(sent) == 1
    output.end(SourceError("lost"))
    with pytest.raises(SourceError, match="lost"):
        await going_on


async def test_who_keeps_up_gets_null_packets_at_once_as_well(output: TsOutput, silence_s: float) -> None:
    output.push(pictures(0, 5))
    viewer = join(output)
    nulls: asyncio.Queue[bytes] = asyncio.Queue()
    task = asyncio.create_task(watched(viewer, lambda data: not nulls.put_nowait(data), got := []))
    for _ in range(2):
        assert is_null(await within(nulls.get()))
    assert len(got) == 1
    output.leave(viewer)
    task.cancel()


# ------------------------------------------------------------------------------------------------- fragmented MP4


MORE = Track(2, AUDIO.codec)
"""Fragments of sound are half a second long."""


def boxes(data: bytes) -> list[str]:
    """The types of a file's boxes, of fragments the first one alone."""
    kinds = []
    while data:
        size = int.from_bytes(data[:4])
        kinds.append(data[4:8].decode())
        data = data[size:]
    return [kind for kind in kinds if kind not in ("ftyp", "mdat")]


def seconds_of_sound(start: int, end: int, *tracks: Track) -> list[Event]:
    return [frame(ticks)._replace(track=t.id) for ticks in range(start * 90_000, end * 90_000, 2090) for t in tracks]


async def all_of(viewer: Viewer) -> bytes:
    got = b""
    while data := await within(viewer.read()):
        got += data
    return got


@pytest.mark.parametrize("read_bytes", [1, 3000, 1 << 20], ids=["fragment by fragment", "a few", "all"])
async def test_an_initialization_segment_comes_first_and_where_it_changes(
    read_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "READ_BYTES", read_bytes)
    output = Mp4Output(Signal())
    quick, slow = join(output), join(output)
    output.push([Tracks((AUDIO,)), *seconds_of_sound(0, 2, AUDIO)])
    got = await within(quick.read())
    output.push([Tracks((AUDIO, MORE)), *seconds_of_sound(2, 4, AUDIO, MORE)])
    output.end()
    late = join(output)
    everything = await all_of(slow)
    assert got + await all_of(quick) == everything
    assert boxes(everything) == ["moov", *["moof"] * 4, "moov", *["moof"] * 4]
    assert everything.count(b"trak") == 1 + 2
    assert boxes(await all_of(late)) == ["moov", "moof"]


async def test_who_is_behind_gets_the_initialization_segment_that_was_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the fragments that it came with are evicted already."""
    monkeypatch.setattr(outputs, "OUTPUT_RING_BYTES", 10_000)
    output = Mp4Output(Signal())
    output.push([Tracks((AUDIO,)), *seconds_of_sound(0, 60, AUDIO)])
    behind = join(output)
    output.push([Tracks((AUDIO, MORE)), *seconds_of_sound(60, 61, AUDIO, MORE)])
    output.end()
    got = await all_of(behind)
    assert boxes(got)[:4] == ["moov", "moof", "moof", "moov"]
    assert len(output.chunks) < 10
