"""What is fuzzed: each target takes any bytes, lets the documented errors pass, and everything else through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conftest import SHARED_MEDIA
from tests.fuzz import seeds
from tvarr.coordinator import discovery, m3u
from tvarr.coordinator.profiles import carried
from tvarr.coordinator.source import SourceFailure
from tvarr.coordinator.sources.hls.packed import PackedAudio
from tvarr.coordinator.sources.hls.playlist import parse_playlist
from tvarr.coordinator.sources.intake import Intake
from tvarr.coordinator.sources.sniff import recognise
from tvarr.errors import InvalidRequest, JobError, MediaError, WireError
from tvarr.media.codecs import aac, ac3, annexb, av1, h264, hevc, mpegaudio, mpegvideo, opus, vp9
from tvarr.media.fmp4 import entries
from tvarr.media.fmp4.live import Fragmenter
from tvarr.media.model import Codec, Event, Sample, Track, Tracks
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.mux import Muxer
from tvarr.media.segmenter import Segmenter
from tvarr.media.segments import CmafPacker, TsPacker, Window
from tvarr.wire import codec, convert
from tvarr.wire import messages as m

CHUNK = 4096
SPS = bytes.fromhex("6764001eacd940a02ff9610000030001000003003c8f162d96")  # H.264 High, 640x360
MAX_GROWTH = 64  # what a parser gives out is at most so many times its input, and as many bytes more
SLACK_BYTES = 1 << 20

Run = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, or what bytes go through together."""

    run: Run
    seeds: Callable[[Path], Iterable[bytes]]  # of the folder of captures
    max_bytes: int = 1 << 16  # of an input


class Outputs:
    """All containers that viewers read, of one stream, in small."""

    def __init__(self) -> None:
        self.written = 0
        self._muxer = Muxer()
        self._fragmenter = Fragmenter()
        self._cutters = {"ts": (Segmenter(), TsPacker("fuzzed")), "mp4": (Segmenter(_configuration), CmafPacker())}
        self._window = Window(0)

    def push(self, events: list[Event]) -> None:
        with contextlib.suppress(MediaError):
            for event in events:
                if isinstance(event, Tracks):
                    self._muxer.set_tracks(carried(event, "ts"))
                else:
                    self.written += sum(len(chunk.data) for chunk in self._muxer.mux([event]))
        with contextlib.suppress(MediaError):
            for event in events:
                if isinstance(event, Tracks):
                    made = self._fragmenter.set_tracks(carried(event, "mp4"))
                else:
                    made = self._fragmenter.push([event])
                self.written += sum(len(fragment.data) for fragment in made)
        for container, (segmenter, packer) in self._cutters.items():
            with contextlib.suppress(MediaError):
                taken = [carried(event, container) if isinstance(event, Tracks) else event for event in events]
                for cut in segmenter.push(taken):
                    self._window.add(cut, *packer.pack(cut))


def _configuration(track: Track, data: bytes) -> bytes | None:
    entry = entries.describe(track, data, in_band=False) if entries.carries(track.codec) else None
    return entry.key if entry is not None else None


def source(data: bytes) -> None:
    """Bytes as a source sends them, onto the timeline and into each container."""
    intake, outputs, out = Intake(), Outputs(), 0
    last: dict[int, int] = {}
    try:
        for events in _events(intake, data):
            outputs.push(events)
            for event in events:
                if isinstance(event, Sample):
                    assert last.get(event.track, event.dts_ticks - 1) < event.dts_ticks <= event.pts_ticks
                    last[event.track] = event.dts_ticks
                    out += len(event.data)
    except (SourceFailure, MediaError):
        pass
    assert out <= MAX_GROWTH * len(data) + SLACK_BYTES, f"{out} bytes of samples from {len(data)}"
    assert outputs.written <= 4 * MAX_GROWTH * len(data) + 4 * SLACK_BYTES


def _events(intake: Intake, data: bytes) -> Iterator[list[Event]]:
    for at in range(0, len(data), CHUNK):
        yield intake.feed(data[at : at + CHUNK])
    yield intake.end()


def sections(data: bytes) -> None:
    """PAT, PMT and their descriptors, from the payloads of packets; the first byte of each: whether a unit starts."""
    assembler = psi.SectionAssembler()
    for at in range(0, len(data), 185):
        for raw in assembler.push(data[at + 1 : at + 185], bool(data[at] & 1)):
            for parse in (psi.parse_pat, psi.parse_pmt):
                with contextlib.suppress(MediaError):
                    parsed = parse(psi.parse_section(raw))
                    for stream in getattr(parsed, "streams", ()):
                        psi.identify(stream.stream_type, stream.descriptors)
                        psi.language_of(stream.descriptors)


_SLICE_SPS = h264.parse_sps(SPS)
HEADS: list[Run] = [
    lambda data: h264.parse_sps(b"\x67" + data),
    lambda data: h264.pps_ids(b"\x68" + data),
    lambda data: h264.parse_slice_head(b"\x65" + data, 0, _SLICE_SPS),
    lambda data: h264.has_recovery_point(b"\x06" + data),
    lambda data: h264.is_intra_slice(b"\x65" + data, 0),
    lambda data: hevc.parse_sps(b"\x42\x01" + data),
    lambda data: hevc.pps_id(b"\x44\x01" + data),
    lambda data: mpegvideo.parse_sequence(b"\x00\x00\x01\xb3" + data),
    lambda data: mpegvideo.parse_picture(b"\x00\x00\x01\x00" + data, 0),
    lambda data: aac.parse_adts(b"\xff\xf1" + data),
    lambda data: aac.parse_loas(b"\x56\xe0" + data),
    lambda data: aac.parse_config(data),
    lambda data: mpegaudio.parse(b"\xff" + data),
    lambda data: ac3.parse(b"\x0b\x77" + data),
    lambda data: opus.parse_control_header(b"\x7f\xff" + data),
    lambda data: opus.samples(data),
    lambda data: list(av1.obus(data)),
    lambda data: av1.is_keyframe(data),
    lambda data: av1.parse_sequence(av1.sequence_header(data)),
    lambda data: av1.without_delimiters(data),
    lambda data: vp9.parse_keyframe(data),
    lambda data: [annexb.unescaped(unit) for unit in annexb.nal_units(data)],
    *(partial(entries.describe, Track(1, c, sample_rate=48_000, channels=2)) for c in Codec if entries.carries(c)),
]


def heads(data: bytes) -> None:
    """Parameter sets and the headers of frames; the first byte says of what."""
    if data:
        with contextlib.suppress(MediaError):
            HEADS[data[0] % len(HEADS)](data[1:])


def packed(data: bytes) -> None:
    """A segment of sound alone."""
    audio = PackedAudio()
    with contextlib.suppress(MediaError):
        for at in range(0, len(data), CHUNK):
            audio.feed(data[at : at + CHUNK])
        audio.flush()


def sniffed(data: bytes) -> None:
    kind = "video/mp2t" if data[:1] < b"\x80" else ""
    recognise(data[1:], kind)


def hls(data: bytes) -> None:
    with contextlib.suppress(SourceFailure):
        parse_playlist(data, "http://127.0.0.1/a/list.m3u8")


def channels(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        for entry in m3u.parse(m3u.decode(data)):
            entry.as_channel()


def searches(data: bytes) -> None:
    discovery.looks_for(data, "10F00005")


def wire(data: bytes) -> None:
    """Envelopes of all four directions, and what is made of their content."""
    for decode in (codec.decode_job_input, codec.decode_job_output, codec.decode_daemon, codec.decode_coordinator):
        with contextlib.suppress(WireError, JobError):
            match decode(data):
                case m.TranscodeStart() as start:
                    convert.start_from_wire(start)
                case m.TracksChanged() as changed:
                    convert.tracks_from_wire(changed.tracks)
                case m.TranscodeError() as error:
                    convert.error_from_wire(error)
                case m.Register() as register:
                    convert.capabilities_from_wire(register.capabilities)
                case m.CapabilitiesChanged() as changed:
                    convert.capabilities_from_wire(changed.capabilities)


TARGETS: dict[str, Target] = {
    "ts": Target(source, seeds.transport_streams, 1 << 18),
    "mp4": Target(source, seeds.mp4, 1 << 18),
    "psi": Target(sections, seeds.sections),
    "heads": Target(heads, lambda folder: seeds.heads(folder, len(HEADS)), 4096),
    "packed": Target(packed, seeds.packed),
    "sniff": Target(sniffed, seeds.heads_of_sources, 8192),
    "hls": Target(hls, seeds.playlists),
    "m3u": Target(channels, seeds.channel_lists),
    "searches": Target(searches, seeds.searches, 2048),
    "wire": Target(wire, seeds.envelopes),
}


def corpus(name: str) -> list[bytes]:
    """The target's seeds, as far as this machine has the captures."""
    return [seed[: TARGETS[name].max_bytes] for seed in TARGETS[name].seeds(SHARED_MEDIA) if seed]
