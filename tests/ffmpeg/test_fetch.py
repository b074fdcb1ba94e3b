"""The command that fetches a source, without running it."""

from __future__ import annotations

import pytest

from tvarr.cluster.model import Source
from tvarr.cluster.schemes import NEEDS
from tvarr.errors import ErrorCode, JobError
from tvarr.ffmpeg.fetch import Stream, Way, build, check, first_way, hide, parse_stream, script, way_for
from tvarr.ffmpeg.fetch_errors import classify_fetch

EVERYTHING = frozenset(NEEDS)


@pytest.mark.parametrize(
    ("url", "raw"),
    [
        ("udp://@239.0.0.1:1234?localaddr=10.0.0.1&fifo_size=100", True),
        ("srt://h:9000?mode=caller&latency=200000", True),
        ("tcp://h:9000", True),
        ("rist://h:9000", True),
        ("srt://h:9000?passphrase=sesame", False),
        ("srt://h:9000?streamid=user/sesame", False),
        ("tcp://user:sesame@h:9000", False),
        ("rtp://239.0.0.1:5004", False),
        ("rtsp://h/cam", False),
        ("rtmp://h/live/sesame", False),
    ],
)
def test_only_what_holds_no_secret_is_an_argument(url: str, raw: bool) -> None:
    source = Source(url)
    way = first_way(source)
    assert way.raw is raw
    command = build("ffmpeg", source, way)
    assert (url in command) is raw
    assert (url.encode() in script(source, way)) is not raw
    assert "sesame" not in " ".join(command)


def test_quotes_and_options_of_the_script() -> None:
    headers = (("Referer", "http://x/"), ("X-Key", "it's sesame"))
    text = script(Source("http://h/it's.flv", "tv 1", headers), Way()).decode()
    assert text.splitlines() == [
        "ffconcat version 1.0",
        r"file 'http://h/it'\''s.flv'",
        "option analyzeduration '3000000'",
        "option user_agent 'tv 1'",
        "option seekable '0'",
        "option referer 'http://x/'",
        r"option headers 'X-Key: it'\''s sesame'",
    ]
    assert "rtsp_flags 'prefer_tcp'" in script(Source("rtsp://h/cam"), Way()).decode()


@pytest.mark.parametrize(
    ("url", "headers", "code"),
    [
        ("file:///etc/passwd", 0, ErrorCode.BAD_REQUEST),
        ("concat:a|b", 0, ErrorCode.BAD_REQUEST),
        ("data:text/plain,x", 0, ErrorCode.BAD_REQUEST),
        ("crypto:file:x", 0, ErrorCode.BAD_REQUEST),
        ("pipe:0", 0, ErrorCode.BAD_REQUEST),
        ("", 0, ErrorCode.BAD_REQUEST),
        ("udp://h:1\nfile 'x'", 0, ErrorCode.BAD_REQUEST),
        ("rtmp://h/a b", 0, ErrorCode.BAD_REQUEST),
        ("gopher://h/", 0, ErrorCode.BAD_REQUEST),
        ("http://h/a.flv", 2, ErrorCode.UNSUPPORTED),
        ("RIST://h:1", 0, ErrorCode.UNSUPPORTED),
    ],
)
def test_what_is_not_fetched(url: str, headers: int, code: ErrorCode) -> None:
    with pytest.raises(JobError) as raised:
        check(Source(url, headers=tuple((f"X-{n}", "v") for n in range(headers))), EVERYTHING - {"rist"})
    assert raised.value.code is code


def test_every_scheme_of_the_list_is_fetched() -> None:
    for scheme in EVERYTHING:
        check(Source(f"{scheme}://h:1/x"), EVERYTHING)


def test_streams_of_a_report() -> None:
    report = """
[info] Input #0, concat, from 'pipe:0':
[info]   Stream #0:0: Video: h264 (High), yuv420p(progressive), 320x180 [SAR 1:1 DAR 16:9], 25 fps
[info]   Stream #0:1[0x101](deu): Audio: pcm_alaw, 8000 Hz, mono, s16, 64 kb/s
[info]   Stream #0:2(eng): Subtitle: subrip
[info]   Stream #0:3: Video: mjpeg (Baseline), yuvj420p(pc), 90k tbr (attached pic)
[info] Stream mapping:
[info]   Stream #0:0 -> #0:0 (copy)
"""
    streams = [stream for line in report.splitlines() if (stream := parse_stream(line))]
    assert streams == [
        Stream(0, "Video", "h264"),
        Stream(1, "Audio", "pcm_alaw"),
        Stream(2, "Subtitle", "subrip"),
        Stream(3, "Video", "mjpeg", still=True),
    ]
    way = way_for(streams)
    assert way.streams == tuple(streams[:2])
    command = build("ffmpeg", Source("rtmp://h/live/cam"), way)
    assert command[command.index("-c") :][:8] == ["-c", "copy", "-map", "0:0", "-map", "0:1", "-c:1", "aac"]
    undated = build("ffmpeg", Source("rtsp://h/cam"), way)
    assert undated[undated.index("-bsf:0") + 1].startswith("setts=")
    assert way_for([streams[0], Stream(1, "Audio", "aac"), streams[3]]) == Way()
    pictures = build("ffmpeg", Source("rtsp://h/cam"), way_for([Stream(0, "Video", "mjpeg")]), encoder="mpeg2video")
    assert pictures[pictures.index("-c:0") + 1] == "mpeg2video"


def test_secrets_are_hidden_in_what_ffmpeg_says() -> None:
    source = Source("rtsp://admin:ses%40me@h:554/cam?token=abcdef&mode=x", headers=(("X-Key", "topsecret"),))
    said = "rtsp://admin:ses%40me@h:554/cam?token=abcdef&mode=x: ses@me topsecret abcdef"
    hidden = hide(said, source)
    assert "h:554/cam" in hidden
    assert not any(secret in hidden for secret in ("admin", "ses%40me", "ses@me", "abcdef", "topsecret"))
    assert "sesame" not in hide("Cannot open rtmp://h/live/sesame", Source("rtmp://h/live/sesame"))
    assert "sesame" not in repr(Source("rtmp://h/live/sesame"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("[tcp @ 0x1] [error] Connection to tcp://h:1 failed: Connection refused", ErrorCode.SOURCE_GONE),
        ("[http @ 0x1] [warning] HTTP error 404 Not Found", ErrorCode.SOURCE_GONE),
        ("[rtsp @ 0x1] [error] method DESCRIBE failed: 404 Stream Not Found", ErrorCode.SOURCE_GONE),
        ("[rtsp @ 0x1] [error] method DESCRIBE failed: 401 Unauthorized", ErrorCode.SOURCE_DENIED),
        ("[error] pipe:0: Server returned 403 Forbidden (access denied)", ErrorCode.SOURCE_DENIED),
        ("[tcp @ 0x1] [error] Failed to resolve hostname x: Name or service not known", ErrorCode.SOURCE_UNREACHABLE),
        ("[error] pipe:0: Server returned 5XX Server Error reply", ErrorCode.SOURCE_UNREACHABLE),
        ("[srt @ 0x1] [error] Connection to srt://h:1 failed: Input/output error", ErrorCode.SOURCE_UNREACHABLE),
        ("[error] pipe:0: Invalid data found when processing input", ErrorCode.BAD_INPUT),
        ("[error] Protocol 'file' not on whitelist 'tcp'!", ErrorCode.UNSUPPORTED),
        ("[error] something that nobody knows", ErrorCode.FFMPEG_EXITED),
    ],
)
def test_what_ffmpeg_says_of_a_source(line: str, code: ErrorCode) -> None:
    assert classify_fetch([line], 1).code is code
    assert classify_fetch([line], -9).code is ErrorCode.FFMPEG_EXITED
