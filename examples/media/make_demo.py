"""Makes `demo.ts`, the clip of the demo channel: `python examples/media/make_demo.py` (needs an ffmpeg with libx264).

9.6 s that loop without a seam. 9.6 s are 240 pictures at 25 fps and 450 AAC frames at 48 kHz, so audio and video are
equally long to the tick; the picture is ffmpeg's test pattern with its counter, the sound a tone with a beep every
1.6 s, and both repeat after 9.6 s. AAC frames depend on the one before: those of the second round are taken.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

CLIP = Path(__file__).with_name("demo.ts")
PICTURES = 240
FRAMES = 450
TONE = "0.04*sin(2*PI*250*t)+0.2*sin(2*PI*1000*t)*lt(mod(t,1.6),0.1)"
FFMPEG = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", "-bitexact")


def adts_frames(stream: bytes) -> list[bytes]:
    """Splits an ADTS stream by the 13 bits of aac_frame_length (ISO/IEC 14496-3, 1.A.2.2.1)."""
    frames, at = [], 0
    while at < len(stream):
        length = (stream[at + 3] & 3) << 11 | stream[at + 4] << 3 | stream[at + 5] >> 5
        frames.append(stream[at : at + length])
        at += length
    return frames


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        video, sound, audio = (f"{folder}/{name}" for name in ("video.nut", "sound.aac", "audio.aac"))
        pattern = (
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=640x360:rate=25",
            "-frames:v",
            str(PICTURES),
            "-pix_fmt",
            "yuv420p",
        )
        encoder = ("-c:v", "libx264", "-preset", "veryslow", "-b:v", "380k", "-maxrate", "600k", "-bufsize", "600k")
        groups = ("-g", "48", "-keyint_min", "48", "-sc_threshold", "0", "-bf", "2", "-flags", "+cgop", "-threads", "1")
        subprocess.run([*FFMPEG, *pattern, *encoder, *groups, video], check=True)

        tone = ("-f", "lavfi", "-i", f"aevalsrc='{TONE}':sample_rate=48000:duration=20", "-ac", "2")
        subprocess.run([*FFMPEG, *tone, "-c:a", "aac", "-b:a", "64k", sound], check=True)
        frames = adts_frames(Path(sound).read_bytes())
        Path(audio).write_bytes(b"".join(frames[1 + FRAMES : 1 + 2 * FRAMES]))  # the first frame is the encoder's delay

        streams = (
            "-i",
            video,
            "-i",
            audio,
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-c",
            "copy",
            "-metadata:s:a",
            "language=eng",
        )
        names = ("-metadata", "service_name=demo", "-metadata", "service_provider=tvarr")
        subprocess.run([*FFMPEG, *streams, *names, "-muxdelay", "0", "-muxpreload", "0", str(CLIP)], check=True)
    print(f"{CLIP}: {CLIP.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
