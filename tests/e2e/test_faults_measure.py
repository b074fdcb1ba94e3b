"""The bench's own eyes: what was taken out of a stream, doubled or spoilt in it, is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.faults.received import PACKET_BYTES, Received
from tests.bench.faults.verdict import Verdict, judge, pauses
from tests.clips import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=3, size="160x90").read_bytes()


def received(data: bytes) -> Received:
    made = Received()
    for start in range(0, len(data), 1000):
        made.feed(data[start : start + 1000], start / len(data))
    return made


def frames(data: bytes, kind: str) -> list[list[int]]:
    """The offsets of the packets of each frame of the one track of this kind."""
    (wanted,) = [pid for pid, its in received(data).kinds.items() if its == kind]
    found: list[list[int]] = []
    for offset in range(0, len(data), PACKET_BYTES):
        if (data[offset + 1] & 0x1F) << 8 | data[offset + 2] == wanted:
            if data[offset + 1] & 0x40:
                found.append([])
            found[-1].append(offset)
    return found


def without(data: bytes, offsets: list[int]) -> bytes:
    return b"".join(
        data[start : start + PACKET_BYTES] for start in range(0, len(data), PACKET_BYTES) if start not in offsets
    )


def verdict(changed: bytes, clip: bytes, folder: Path) -> Verdict:
    return judge(received(changed), received(clip), folder)


def test_the_same_stream_lost_nothing(clip: bytes, tmp_path: Path) -> None:
    got = verdict(clip, clip, tmp_path)
    assert (got.lost, got.words()) == (False, "nothing lost")
    assert 70 <= got.pictures <= 75
    assert got.reordered > 20


def test_a_picture_that_is_not_there(clip: bytes, tmp_path: Path) -> None:
    got = verdict(without(clip, frames(clip, "video")[30]), clip, tmp_path)
    assert len(got.missing) == 1
    assert got.continuity_errors
    assert got.lost


def test_a_picture_that_comes_twice(clip: bytes, tmp_path: Path) -> None:
    picture = frames(clip, "video")[30]
    again = b"".join(clip[offset : offset + PACKET_BYTES] for offset in picture)
    end = picture[-1] + PACKET_BYTES
    got = verdict(clip[:end] + again + clip[end:], clip, tmp_path)
    assert (len(got.repeated), got.dts_steps_back, got.missing) == (1, 1, [])
    assert got.lost


def test_a_picture_that_the_source_does_not_have(clip: bytes, tmp_path: Path) -> None:
    got = verdict(clip, without(clip, frames(clip, "video")[30]), tmp_path)
    assert len(got.invented) == 1
    assert got.lost


def test_bytes_that_no_decoder_takes(clip: bytes, tmp_path: Path) -> None:
    spoilt = bytearray(clip)
    for offset in frames(clip, "video")[50]:
        spoilt[offset + 100 : offset + PACKET_BYTES] = bytes(PACKET_BYTES - 100)
    got = verdict(bytes(spoilt), clip, tmp_path)
    assert got.decode_errors
    assert not got.missing
    assert got.lost


def test_sound_that_is_not_there(clip: bytes, tmp_path: Path) -> None:
    got = verdict(without(clip, frames(clip, "audio")[5]), clip, tmp_path)
    assert (got.audio_gaps, got.missing) == (1, [])


def test_a_pause_after_a_fault_is_counted_without_the_normal_time() -> None:
    arrivals = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3, 7.1, 7.2]
    normal_s, pause_s = pauses(arrivals, [5.25])
    assert normal_s == pytest.approx(0.1)
    assert pause_s == pytest.approx(1.7)
    assert pauses(arrivals, [])[1] == 0.0
