"""Where fuzzing begins: parts of real captures, and small examples where those have none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.cluster.build import capabilities
from tvarr.cluster.model import JobSpec, Target
from tvarr.errors import ErrorCode, JobError
from tvarr.media.codecs.annexb import nal_units
from tvarr.media.fmp4.demux import Demuxer as Mp4Demuxer
from tvarr.media.model import Codec, Event, Kind, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.wire import codec, convert
from tvarr.wire import messages as m

HEAD_BYTES = 188 * 300
TRACK = Track(256, Codec.H264, width=640, height=360, fps=25.0)


def _parts(paths: list[Path], size: int = HEAD_BYTES) -> Iterator[bytes]:
    for path in paths:
        data = path.read_bytes()
        yield data[:size]
        if len(data) > 4 * size:
            yield data[len(data) // 2 // 188 * 188 :][:size]


def transport_streams(folder: Path) -> Iterator[bytes]:
    yield from _parts([*sorted(folder.glob("*ts")), *sorted(folder.glob("hls_*/*.ts"))[:2]])


def mp4(folder: Path) -> Iterator[bytes]:
    yield from _parts(sorted(folder.glob("mp4_small/*.mp4")))
    for kind in ("audio", "video"):
        names = (f"{kind}_init.mp4", f"{kind}_1.m4s", f"{kind}_2.m4s")
        yield b"".join(path.read_bytes() for name in names if (path := folder / "hls_cmaf_fmp4" / name).is_file())


def sections(folder: Path) -> Iterator[bytes]:
    """Payloads of the first packets with PAT and PMT, as `targets.sections` takes them."""
    for data in transport_streams(folder):
        packets = [data[at : at + 188] for at in range(0, min(len(data), 188 * 200), 188)]
        starting = [packet for packet in packets if packet[1:2] and packet[1] & 0x40 and packet[4:5] == b"\0"]
        yield b"".join(b"\1" + packet[4:] for packet in starting)


def heads(folder: Path, parsers: int) -> Iterator[bytes]:
    """Units and frames of each capture, for each parser."""
    units: list[bytes] = []
    for sample in _samples(folder):
        units += [unit[1:200] for unit in nal_units(sample.data[:2000])[:4]] or [sample.data[2:200]]
        units.append(sample.data[:400])
    for number in range(parsers):
        for unit in units[number::parsers]:
            yield bytes([number]) + unit


def _samples(folder: Path) -> Iterator[Sample]:
    """A few keyframes and frames of each track of each capture."""
    for data in transport_streams(folder):
        demuxer = Demuxer()
        yield from _first_of_each(demuxer.feed(data) + demuxer.flush())
    for data in mp4(folder):
        yield from _first_of_each(Mp4Demuxer().feed(data)) if data else ()


def _first_of_each(events: list[Event]) -> Iterator[Sample]:
    given: dict[int, int] = {}
    for event in events:
        if isinstance(event, Sample) and event.keyframe and given.setdefault(event.track, 0) < 2:
            given[event.track] += 1
            yield event


def packed(folder: Path) -> Iterator[bytes]:
    for data in transport_streams(folder):
        demuxer, kinds, sounds = Demuxer(), dict[int, Kind](), list[bytes]()
        for event in demuxer.feed(data) + demuxer.flush():
            if isinstance(event, Tracks):
                kinds = {track.id: track.kind for track in event.tracks}
            elif kinds.get(event.track) is Kind.AUDIO:
                sounds.append(event.data)
        yield b"".join(sounds[:50])


def heads_of_sources(folder: Path) -> Iterator[bytes]:
    for path in [*sorted(folder.glob("*ts")), *sorted(folder.glob("*/*"))]:
        yield b"\0" + path.read_bytes()[:2048]


def playlists(folder: Path) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in sorted(folder.glob("*/*.m3u8")))
    yield (
        b'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="n",DEFAULT=YES,LANGUAGE="de",URI="a.m3u8"\n'
        b'#EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=640x360,CODECS="avc1.64001e,mp4a.40.2",AUDIO="a"\nv.m3u8\n'
    )
    yield (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-START:TIME-OFFSET=-4\n"
        b'#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x1\n#EXT-X-MAP:URI="i.mp4",BYTERANGE="700@0"\n'
        b"#EXT-X-BYTERANGE:100@700\n#EXTINF:4.0,\ns.mp4\n#EXT-X-DISCONTINUITY\n#EXT-X-GAP\n#EXTINF:4,\ng.mp4\n"
        b"#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00Z\n#EXTINF:2,\nt.mp4\n#EXT-X-ENDLIST\n"
    )


def channel_lists(folder: Path) -> Iterator[bytes]:
    yield (
        b'#EXTM3U url-tvg="http://h/epg"\n#EXTINF:-1 tvg-id="a" tvg-logo="http://h/l.png" group-title="G",A, b\n'
        b'#EXTVLCOPT:http-user-agent=x\n#EXTHTTP:{"Referer":"http://h"}\nhttp://h/1.ts|User-Agent=y&Cookie=z\n'
        b"#EXTGRP:Other\n#EXTINF:0 tvg-chno=5,B\nrtsp://h/2\nhttp://h/3\n"
    )
    yield "\ufeff#EXTM3U\r\n#EXTINF:-1,Ä\r\nhttp://h/ä.ts\r\n".encode("utf-16")


def searches(folder: Path) -> Iterator[bytes]:
    """For HDHomeRun tuners: any device of any type, as Jellyfin does."""
    yield bytes.fromhex("0002000c0104ffffffff0204ffffffff73cc7d8f")


def envelopes(folder: Path) -> Iterator[bytes]:
    sound = Track(257, Codec.AAC, language="deu", sample_rate=48_000, channels=2)
    spec = JobSpec(job_id="j", targets=(Target(TRACK, Codec.HEVC, bitrate_kbps=800), Target(sound, Codec.AAC)))
    yield codec.encode_job_input(convert.start_to_wire(spec))
    yield codec.encode_job_input(codec.Batch([Sample(256, 7200, 3600, b"\0\0\0\1\x65" + bytes(90), True)], 5))
    yield codec.encode_job_output(codec.Batch([Sample(256, 7200 + n, 3600 + n, b"data", False) for n in range(20)]))
    yield codec.encode_job_output(convert.error_to_wire(JobError(ErrorCode.INTERNAL, "words")))
    yield codec.encode_job_input(m.TracksChanged(tracks=[convert.track_to_wire(TRACK)]))
    offered = convert.capabilities_to_wire(capabilities(sessions=3))
    yield codec.encode_daemon(m.Register(protocol_version=1, daemon_id="d", name="n", capabilities=offered))
    yield codec.encode_daemon(m.Heartbeat(sequence=5, jobs=[m.ActiveJob(job_id="j", speed=1.5)]))
    yield codec.encode_coordinator(m.CancelJob(job_id="j", reason="words"))
