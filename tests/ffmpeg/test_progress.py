from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tvarr.ffmpeg.progress import MAX_BLOCK_BYTES, Progress, ProgressParser

VIDEO = b"""frame=150
fps=25.03
stream_0_0_q=28.0
bitrate= 812.3kbits/s
total_size=608744
out_time_us=5995000
out_time_ms=5995000
out_time=00:00:05.995000
dup_frames=1
drop_frames=2
speed=   1x
progress=continue
"""
AUDIO_END = b"bitrate=N/A\ntotal_size=N/A\nout_time_us=N/A\nspeed=N/A\nprogress=end\n"
BLOCKS = [
    Progress(frames=150, fps=25.03, out_time_us=5_995_000, speed=1.0),
    Progress(ended=True),
]


def test_blocks() -> None:
    assert ProgressParser().feed(VIDEO + AUDIO_END) == BLOCKS


@given(st.lists(st.integers(0, len(VIDEO + AUDIO_END)), max_size=10))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    parser, data = ProgressParser(), VIDEO + AUDIO_END
    edges = [0, *sorted(cuts), len(data)]
    blocks = [block for start, end in itertools.pairwise(edges) for block in parser.feed(data[start:end])]
    assert blocks == BLOCKS


@given(st.lists(st.binary(max_size=300)))
def test_garbage_is_survived(chunks: list[bytes]) -> None:
    parser = ProgressParser()
    for chunk in chunks:
        parser.feed(chunk)
    assert parser.feed(b"\n" + b"progress=continue\n" + VIDEO)[-1] == BLOCKS[0]


def test_memory_is_capped() -> None:
    parser = ProgressParser()
    for n in range(200):
        parser.feed(b"x" * 4096)
        parser.feed(b"key%d=" % n + b"y" * 4000 + b"\n")
    assert len(parser._rest) + sum(map(len, parser._block.values())) <= 2 * MAX_BLOCK_BYTES
    assert ProgressParser().feed(b"frame=nan\nfps=inf\nspeed=1e300x\nprogress=continue\n") == [Progress()]
