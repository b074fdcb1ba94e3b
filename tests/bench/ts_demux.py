"""How fast the MPEG-TS demuxer is: `python -m tests.bench.ts_demux [FILE]` prints MB/s for some chunk sizes.

Without a file it makes one with ffmpeg: 20 s of 1080p30 H.264 at 8 Mb/s with AAC.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tvarr.media.model import Sample
from tvarr.media.mpegts.demux import Demuxer

CHUNKS = (64 << 10, 256 << 10, 1 << 20)
ROUNDS = 3


def make_clip(path: Path) -> None:
    """Noise on a test picture, so that the bit rate is really used."""
    picture = "testsrc2=size=1920x1080:rate=30,noise=alls=20:allf=t"
    video = "-c:v libx264 -preset ultrafast -tune film -b:v 8M -minrate 8M -maxrate 8M -bufsize 8M -bf 2 -g 60"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    output = [*video.split(), "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "128k", "-f", "mpegts", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, "-t", "20", *output], check=True)


def mb_per_second(data: bytes, chunk: int) -> tuple[float, int]:
    """Of CPU time, the best of some rounds; and the samples that came out."""
    best, samples = 0.0, 0
    for _ in range(ROUNDS):
        demuxer, samples = Demuxer(), 0
        start = time.process_time()
        for at in range(0, len(data), chunk):
            samples += sum(isinstance(event, Sample) for event in demuxer.feed(data[at : at + chunk]))
        samples += sum(isinstance(event, Sample) for event in demuxer.flush())
        best = max(best, len(data) / 1e6 / (time.process_time() - start))
    return best, samples


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "bench.ts"
        if len(sys.argv) == 1:
            make_clip(path)
        data = path.read_bytes()
    for chunk in CHUNKS:
        rate, samples = mb_per_second(data, chunk)
        print(f"ts demux, {len(data) / 1e6:.0f} MB in {chunk >> 10} KiB chunks: {rate:.0f} MB/s, {samples} samples")


if __name__ == "__main__":
    main()
