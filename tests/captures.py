"""What the real captures of `../shared/media` hold, by their manifest and by ffprobe."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import program

# Packets by PID as ffprobe counts them when samples are written again: those of MANIFEST.md for the chosen program,
# except for what the comments say.
PACKETS: dict[str, dict[int, int]] = {
    "mpts_8prog_dvb_it.ts": {0x200: 33, 0x28A: 55, 0x2B6: 54, 0x240: 67, 0x2BB: 49},  # the first of eight programs
    "mpeg2_mp2_pcr_own_pid.ts": {0x1000: 75, 0x1001: 123},
    "h264_1080i_3eac3_dvbsub.ts": {0x78: 48, 0x82: 33, 0x83: 32, 0x84: 32},
    "h264_1080i_scrambled_csa.ts": {},
    "teletext_announced_but_absent.ts": {0x42C: 916},
    # audio frames with a hole are left out (ffprobe counts 94, 100 and 95 in the source)
    "pat_vanishes_cc_errors.ts": {0x1A4: 102, 0x1AE: 90, 0x1AF: 97, 0x1B8: 2, 0x1B0: 91},
    # one picture less than in the source: its damaged time stamp is a step back, which a timeline doesn't take.
    # A section on PID 0x45, which the source announces as SCTE-35 and ffprobe doesn't count there
    "offair_bad_reception.ts": {0x3D: 49, 0x40: 34, 0x3E: 26, 0x4B: 2, 0x45: 1},
    "wrong_streamtype_no_pcr.ts": {0x64: 559, 0x65: 300},
    "h264_aac_scte35_80s.ts": {0x100: 2400, 0x101: 3750, 0x3E9: 1},  # SCTE-35: not counted in the source either
    "h264_noPCR_pmt_change_dts_wrap.ts": {0x20: 1424, 0x21: 812},
    "m2ts_192byte.m2ts": {0x1011: 50, 0x1100: 84},
    "hls_h264_ac3": {0x100: 420, 0x101: 541},
    "hls_ts_rollover": {0x101: 480, 0x102: 937},
}


@dataclass(frozen=True, slots=True)
class Capture:
    """What comes of a capture that is passed through, by output. Packets as ffprobe counts them."""

    ts: dict[int, int]  # by PID; empty where a transport stream can't carry it
    mp4: tuple[int, ...] = ()  # of the picture, then of each sound; none where MP4 can't carry one of them
    from_keyframe: tuple[int, ...] = ()  # pictures in segments of HLS (TS, fMP4): those before a keyframe are left out
    playlist: str = ""  # of a folder: its HLS playlist


# Where pictures are interlaced, ffprobe counts the two fields of some apart in a transport stream; MP4 has one sample.
CAPTURES: dict[str, Capture] = {
    "mpts_8prog_dvb_it.ts": Capture(PACKETS["mpts_8prog_dvb_it.ts"], from_keyframe=(27,)),
    "mpeg2_mp2_pcr_own_pid.ts": Capture(PACKETS["mpeg2_mp2_pcr_own_pid.ts"], from_keyframe=(61,)),
    "h264_1080i_3eac3_dvbsub.ts": Capture(PACKETS["h264_1080i_3eac3_dvbsub.ts"], (29, 33, 32, 32), (21, 12)),
    "pat_vanishes_cc_errors.ts": Capture(PACKETS["pat_vanishes_cc_errors.ts"], (85, 90, 97, 91), (88, 71)),
    "offair_bad_reception.ts": Capture(PACKETS["offair_bad_reception.ts"], from_keyframe=(23,)),
    "wrong_streamtype_no_pcr.ts": Capture(PACKETS["wrong_streamtype_no_pcr.ts"], (300, 559)),
    "h264_aac_scte35_80s.ts": Capture(PACKETS["h264_aac_scte35_80s.ts"], (2400, 3750)),
    "h264_noPCR_pmt_change_dts_wrap.ts": Capture(PACKETS["h264_noPCR_pmt_change_dts_wrap.ts"], (812, 1424)),
    "m2ts_192byte.m2ts": Capture(PACKETS["m2ts_192byte.m2ts"]),
    "hls_h264_ac3": Capture(PACKETS["hls_h264_ac3"], (420, 541), playlist="media.m3u8"),
    "hls_ts_rollover": Capture(PACKETS["hls_ts_rollover"], (480, 937), playlist="playlist.m3u8"),
    # its first sound lies before time 0, for which MP4 has no time stamp
    "hls_cmaf_fmp4": Capture({0x100: 90, 0x101: 131}, (90, 130), playlist="playlist.m3u8"),
    "mp4_small/offline_h264.mp4": Capture({0x100: 30}, (30,)),
    "mp4_small/offline_h265.mp4": Capture({0x100: 30}, (30,)),
    "mp4_small/offline_av1.mp4": Capture({}, (30,)),
    "mp4_small/offline_vp9.mp4": Capture({}, (30,)),
}


def streams(path: Path) -> list[dict[str, Any]]:
    """What ffprobe says of each stream with its packets; nothing where it finds none."""
    command = [program("ffprobe"), "-v", "quiet", "-count_packets", "-show_streams", "-of", "json", str(path)]
    answer = subprocess.run(command, check=False, capture_output=True, timeout=120).stdout
    found: list[dict[str, Any]] = json.loads(answer or b"{}").get("streams", [])
    return found


def packets_by_track(path: Path) -> tuple[int, ...]:
    """Of the pictures, then of each sound, in the file's order."""
    found = sorted(streams(path), key=lambda s: s["codec_type"] != "video")
    return tuple(int(stream["nb_read_packets"]) for stream in found)


def packets(path: Path) -> dict[int, int]:
    """Packets by PID as ffprobe counts them; nothing where it finds no stream."""
    return {int(s["id"], 16): int(s["nb_read_packets"]) for s in streams(path) if "nb_read_packets" in s}


def pictures(path: Path, stream: str) -> int:
    """How many pictures ffmpeg decodes and shows at or after the capture's first keyframe.

    `stream`: as ffmpeg selects one (`v:0`, `i:0x100`).
    Those before it in decode order, and those shown before it (an open group's leading ones), refer to pictures that
    the capture does not have.
    """
    command = [program("ffprobe"), "-v", "quiet", "-of", "json", "-select_streams", stream]
    command += ["-show_entries", "packet=pts,flags", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)["packets"]
    first = next(int(packet["pts"]) for packet in found if "K" in packet["flags"] and "pts" in packet)
    command = [program("ffmpeg"), "-v", "info", "-nostdin", "-copyts", "-i", str(path), "-map", f"0:{stream}"]
    command += ["-filter:v", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"]
    told = subprocess.run(command, check=False, capture_output=True, timeout=120).stderr
    return sum(int(pts) >= first for pts in re.findall(rb"showinfo.* pts: *(-?\d+)", told))
