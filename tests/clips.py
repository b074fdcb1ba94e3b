"""Short clips made with ffmpeg, and what ffprobe says of bytes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import program

MP4_SHOWN = "stream=index,codec_name,codec_type,time_base,width,height:packet=stream_index,pts,dts,flags"
PACKET_BYTES = 188  # of MPEG-TS


def make_clip(
    path: Path,
    *,
    seconds: float = 8.0,
    size: str = "640x360",
    fps: str = "25",
    video: tuple[str, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "50", "-b:v", "700k"),
    audio: tuple[str, ...] = ("-c:a", "aac", "-b:a", "96k"),
    source: str = "testsrc2",
) -> Path:
    """An MPEG-TS of a moving test picture and a tone."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-y"]
    command += ["-f", "lavfi", "-i", f"{source}=s={size}:r={fps}:d={seconds}"]
    command += ["-f", "lavfi", "-i", f"sine=f=440:r=48000:d={seconds}"]
    command += [*video, *audio, "-f", "mpegts", str(path)]
    subprocess.run(command, check=True, timeout=120)
    return path


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet as ffprobe sees it; times in seconds, None where there is none."""

    stream: int
    kind: str
    pts: int | None
    dts: int | None
    key: bool


@dataclass(frozen=True, slots=True)
class Probed:
    """A stream's make-up by ffprobe."""

    streams: list[dict[str, Any]]
    packets: list[Packet]

    def codecs(self) -> list[str]:
        return [str(s.get("codec_name", "")) for s in self.streams]

    def pts(self, kind: str) -> list[int]:
        """Presentation times of a kind of packets in 90 kHz ticks, in presentation order."""
        return sorted(p.pts for p in self.packets if p.kind == kind and p.pts is not None)

    def dts(self, kind: str) -> list[int]:
        return [p.dts for p in self.packets if p.kind == kind and p.dts is not None]

    def counts(self) -> dict[int, int]:
        """Packets by stream index."""
        return {s["index"]: sum(p.stream == s["index"] for p in self.packets) for s in self.streams}


def probe(path: Path) -> Probed:
    """Streams and packets of an MPEG-TS."""
    shown = "stream=index,codec_name,codec_type,id,width,height:packet=stream_index,codec_type,pts,dts,flags"
    command = [program("ffprobe"), "-v", "error", "-of", "json", "-show_entries", shown, str(path)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    packets = [
        Packet(p["stream_index"], p.get("codec_type", ""), p.get("pts"), p.get("dts"), "K" in p.get("flags", ""))
        for p in answer.get("packets", [])
    ]
    return Probed(answer.get("streams", []), packets)


def probe_bytes(data: bytes, folder: Path, name: str = "received.ts") -> Probed:
    path = folder / name
    path.write_bytes(data)
    return probe(path)


def up_to_the_last_frame(data: bytes) -> bytes:
    """What a viewer of an MPEG-TS got who left in the middle, without the frame of which a part was still to come."""
    end = len(data) // PACKET_BYTES * PACKET_BYTES
    while end > 0:
        end -= PACKET_BYTES
        if data[end + 1] & 0x40:  # payload_unit_start_indicator (13818-1, 2.4.3.2)
            break
    return bytes(data[:end])


def decode_errors(path: Path, within_s: float = 120.0) -> list[str]:
    """What ffmpeg complains of when it decodes a picture and a sound of the file."""
    command = [program("ffmpeg"), "-v", "error", "-nostdin", "-i", str(path), "-sn", "-dn"]
    command += ["-fps_mode", "passthrough", "-enc_time_base:v", "1:90000", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within_s)
    return done.stderr.splitlines() + ([f"exit code {done.returncode}"] if done.returncode else [])


def packets_of_mp4(path: Path) -> dict[str, list[int]]:
    """PTS by codec in 90 kHz ticks, in presentation order; those of sound are rounded."""
    command = [program("ffprobe"), "-v", "error", "-of", "json", "-show_entries", MP4_SHOWN, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert done.stderr == b""
    answer = json.loads(done.stdout)
    rates = {s["index"]: (s["codec_name"], int(s["time_base"].split("/")[1])) for s in answer["streams"]}
    times: dict[str, list[int]] = {}
    for packet in answer["packets"]:
        codec, rate = rates[packet["stream_index"]]
        times.setdefault(codec, []).append(round(packet["pts"] * 90_000 / rate))
    return {codec: sorted(found) for codec, found in times.items()}


def assert_same_times(got: list[int], expected: list[int]) -> None:
    assert len(got) == len(expected)
    assert all(abs(mine - theirs) <= 1 for mine, theirs in zip(got, expected, strict=True))
