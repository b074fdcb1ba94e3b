"""What the real captures of `../shared/media` hold, by their manifest and by ffprobe."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

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


def packets(path: Path) -> dict[int, int]:
    """Packets by PID as ffprobe counts them; nothing where it finds no stream."""
    shown = ["-count_packets", "-show_entries", "stream=id,nb_read_packets", "-of", "json"]
    command = [program("ffprobe"), "-v", "quiet", *shown, str(path)]
    answer = subprocess.run(command, check=False, capture_output=True, timeout=120).stdout
    streams = json.loads(answer or b"{}").get("streams", [])
    return {int(s["id"], 16): int(s["nb_read_packets"]) for s in streams if "nb_read_packets" in s}


def pictures(path: Path, pid: int) -> int:
    """How many pictures ffmpeg decodes and shows at or after the capture's first keyframe.

    Those before it in decode order, and those shown before it (an open group's leading ones), refer to pictures that
    the capture does not have.
    """
    command = [program("ffprobe"), "-v", "quiet", "-of", "json", "-select_streams", f"i:{pid:#x}"]
    command += ["-show_entries", "packet=pts,flags", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)["packets"]
    first = next(int(packet["pts"]) for packet in found if "K" in packet["flags"] and "pts" in packet)
    command = [program("ffmpeg"), "-v", "info", "-nostdin", "-copyts", "-i", str(path), "-map", f"0:i:{pid:#x}"]
    command += ["-filter:v", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"]
    told = subprocess.run(command, check=False, capture_output=True, timeout=120).stderr
    return sum(int(pts) >= first for pts in re.findall(rb"showinfo.* pts: *(-?\d+)", told))
