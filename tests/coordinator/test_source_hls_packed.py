"""Packed audio, however it is chunked and whatever stands in it; and languages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.sources.hls.packed import PackedAudio, looks_like_packed_audio
from tvarr.coordinator.sources.languages import three_letters
from tvarr.media.codecs.aac import Config, adts_header
from tvarr.media.model import TICKS_33BIT, Codec, Sample, Tracks

HEADER = adts_header(Config(2, 48000, 2))


def frame(payload: bytes) -> bytes:
    return (HEADER | (len(payload) + 7) << 13).to_bytes(7, "big") + payload


def tag(ticks: int) -> bytes:
    owner = b"com.apple.streaming.transportStreamTimestamp\x00" + ticks.to_bytes(8, "big")
    private = b"PRIV" + len(owner).to_bytes(4, "big") + b"\x00\x00" + owner
    return b"ID3\x04\x00\x00\x00\x00\x00" + bytes([len(private)]) + private


SEGMENTS = [tag(TICKS_33BIT - 1920), *[frame(bytes([i]) * (20 + i)) for i in range(5)], tag(90_000), frame(b"end" * 9)]
DATA = b"".join(SEGMENTS)


def samples(data: bytes, cuts: list[int] = []) -> list[Sample]:  # noqa: B006 - never changed
    reader = PackedAudio()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    events = [e for a, b in pairwise(edges) for e in reader.feed(data[a:b])] + reader.flush()
    assert reader.stats.bytes == len(data)
    assert not events or isinstance(events[0], Tracks)
    return [event for event in events if isinstance(event, Sample)]


def test_frames_and_their_times() -> None:
    found = samples(DATA)
    assert [s.data for s in found] == [part for part in SEGMENTS if not part.startswith(b"ID3")]
    assert [s.pts_ticks for s in found] == [TICKS_33BIT - 1920, 0, 1920, 3840, 5760, 90_000]
    assert all(s.keyframe for s in found)
    (tracks,) = [event for event in PackedAudio().feed(DATA) if isinstance(event, Tracks)]
    assert (tracks.tracks[0].codec, tracks.tracks[0].sample_rate, tracks.tracks[0].channels) == (Codec.AAC, 48000, 2)


@given(st.lists(st.integers(0, len(DATA))))
def test_chunks_make_no_difference(cuts: list[int]) -> None:
    assert samples(DATA, cuts) == samples(DATA)


@given(st.binary(max_size=200), st.integers(len(b"".join(SEGMENTS[:4])), len(DATA)))
def test_damage_costs_nothing_of_what_stands_before_it(damage: bytes, at: int) -> None:
    found = samples(DATA[:at] + damage + DATA[at:])
    assert [s.data for s in found[:3]] == SEGMENTS[1:4]
    assert len(found) <= 6 + len(damage) // 7 + 1


@pytest.mark.parametrize("fill", [b"\xff", b"ID3", b"\x0b\x77", b"\xff\xf1", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f"])
def test_garbage_is_passed_over(fill: bytes) -> None:
    samples(fill * (300_000 // len(fill)), list(range(0, 300_000, 50_000)))


def test_told_from_other_things() -> None:
    assert looks_like_packed_audio(DATA)
    assert looks_like_packed_audio(DATA[len(SEGMENTS[0]) :])
    assert not looks_like_packed_audio(b"\x47" * 2000)
    assert not looks_like_packed_audio(b"<html>")
    assert not looks_like_packed_audio(b"")


@pytest.mark.parametrize(
    ("tag", "language"), [("de", "deu"), ("en-US", "eng"), ("FRA", "fra"), ("", ""), ("qq", ""), ("x-klingon", "")]
)
def test_languages(tag: str, language: str) -> None:
    assert three_letters(tag) == language
