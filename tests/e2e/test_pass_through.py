"""Subtitles, teletext, SCTE-35 and ID3 go around the daemon: what a viewer of a transcode gets is the source's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import probe_bytes
from tests.harness import Cluster, cluster, read_all
from tvarr.media.model import Codec, Sample, Track, Tracks
from tvarr.media.mpegts.demux import Demuxer
from tvarr.media.mpegts.mux import Muxer

PES = {  # capture: PIDs of the chosen program whose PES payloads must come through
    "mpts_8prog_dvb_it.ts": (0x240,),  # teletext
    "offair_bad_reception.ts": (0x4B,),  # DVB subtitles
    "tagged.ts": (0x300,),  # ID3
}
SECTIONS = {"h264_aac_scte35_80s.ts": (0x3E9,)}


def packets(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """PID, unit start and payload of each packet. On purpose not the product's own reader."""
    for at in range(0, len(data) - 187, 188):
        packet = data[at : at + 188]
        control, start = packet[3], 4
        if packet[0] != 0x47 or packet[1] & 0x80 or not control & 0x10:
            continue
        if control & 0x20:
            start += 1 + packet[4]
        yield (packet[1] & 0x1F) << 8 | packet[2], bool(packet[1] & 0x40), packet[start:]


def units(data: bytes, pid: int) -> list[bytes]:
    """What each unit of a PID holds: a PES packet behind its header, or a section behind its pointer."""
    found: list[bytes] = []
    for owner, begins, payload in packets(data):
        if owner != pid:
            continue
        if begins:
            found.append(b"")
        if found:
            found[-1] += payload
    return [_content(unit) for unit in found]


def _content(unit: bytes) -> bytes:
    if unit[:3] == b"\x00\x00\x01":
        length = int.from_bytes(unit[4:6], "big")
        return unit[9 + unit[8] : 6 + length if length else len(unit)]
    begins = 1 + unit[0]
    return unit[begins : begins + 3 + (int.from_bytes(unit[begins + 1 : begins + 3], "big") & 0xFFF)]


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory, clips: Path, media_dir: Path) -> Iterator[Cluster]:
    """A coordinator with one daemon; channels read captures, and a clip with an ID3 tag each second."""
    folder = tmp_path_factory.mktemp("carrying")
    for name in (*PES, *SECTIONS):
        if name != "tagged.ts":
            shutil.copy(media_dir / name, folder / name)
    (folder / "tagged.ts").write_bytes(tagged(clips / "clip.ts"))
    with cluster(tmp_path_factory.mktemp("tvarr"), media_dir=folder) as running:
        running.start_daemon("worker")
        yield running


def tagged(clip: Path) -> bytes:
    """The clip with a third track, of ID3 tags as HLS has them."""
    demuxer, muxer, out = Demuxer(), Muxer(), bytearray()
    due = 0
    for event in [*demuxer.feed(clip.read_bytes()), *demuxer.flush()]:
        if isinstance(event, Tracks):
            muxer.set_tracks(Tracks((*event.tracks, Track(0x300, Codec.TIMED_ID3)), event.program))
            continue
        samples = [event]
        if event.dts_ticks >= due:
            text = b"at " + str(event.dts_ticks).encode()
            frame = b"TXXX" + len(text).to_bytes(4, "big") + b"\x00\x00" + text
            tag = b"ID3\x04\x00\x00" + len(frame).to_bytes(4, "big") + frame
            samples.append(Sample(0x300, event.dts_ticks, event.dts_ticks, tag, True))
            due = event.dts_ticks + 90_000
        out += b"".join(chunk.data for chunk in muxer.mux(samples))
    return bytes(out)


@pytest.mark.parametrize("name", [*PES, *SECTIONS])
async def test_what_is_neither_picture_nor_sound_is_the_sources_byte_for_byte(
    carrying: Cluster, tmp_path: Path, name: str
) -> None:
    assert carrying.media_dir
    source = (carrying.media_dir / name).read_bytes()
    slug = carrying.add_channel(name, f"file:{name}", pace="fast")
    data = await read_all(carrying.stream_url(slug, "h264-low"))
    got = probe_bytes(data, tmp_path)
    assert {s["codec_name"] for s in got.streams if s.get("codec_type") == "video"} == {"h264"}
    for pid in (*PES.get(name, ()), *SECTIONS.get(name, ())):
        expected, received = units(source, pid), units(data, pid)
        assert received, hex(pid)
        assert received == expected, hex(pid)


async def test_the_tables_say_what_they_are(carrying: Cluster) -> None:
    """The descriptors of the source, behind a transcode."""
    assert carrying.media_dir
    slug = carrying.add_channel("Told", "file:offair_bad_reception.ts", pace="fast")
    data = await read_all(carrying.stream_url(slug, "h264-low"))
    source = (carrying.media_dir / "offair_bad_reception.ts").read_bytes()
    before, after = (described(stream) for stream in (source, data))
    assert after[0x4B] == before[0x4B]
    assert after[0x3E] == before[0x3E]
    assert after[0x45] == before[0x45]


def described(data: bytes) -> dict[int, tuple[int, bytes]]:
    """Stream type and descriptors by PID, as a PMT without errors tells them."""
    demuxer = Demuxer()
    events = [*demuxer.feed(data), *demuxer.flush()]
    tracks = next(event for event in events if isinstance(event, Tracks))
    return {track.id: (track.stream_type, track.descriptors) for track in tracks.tracks}
