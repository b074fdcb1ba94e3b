"""Builds the command that fetches a source. Pure.

Two ways. *Raw*: the bytes as they come, for protocols that carry a stream of bytes and where the URL holds no secret:
MPEG-TS reaches our own demuxer without loss. Else *remuxed*: ffmpeg reads the source with its demuxers and writes
MPEG-TS, copied where our carriage has the codec, encoded where it has not. There the URL is not an argument, which
every user of the host could read: it stands in a script for the concat demuxer, on stdin (FFmpeg 5.1 and 9.0, tried).

`-protocol_whitelist` and `-format_whitelist` keep a hostile source from making ffmpeg open files or run scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tvarr.cluster.model import Source
from tvarr.cluster.schemes import NEEDS
from tvarr.errors import ErrorCode, JobError

RAW_SCHEMES = frozenset({"udp", "tcp", "srt", "rist"})
ANALYSIS_US = 3_000_000  # of media in which tracks are looked for; less where all are known earlier
CONNECT_US = 10_000_000  # for a protocol that can be told
UDP_BUFFER_BYTES = 4 * 1024 * 1024  # of the socket, as far as the kernel grants it (net.core.rmem_max)

COPIED_VIDEO = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
COPIED_AUDIO = frozenset({"aac", "aac_latm", "mp1", "mp2", "mp3", "ac3", "eac3", "opus"})
"""ffmpeg's names of what its MPEG-TS muxer writes and our demuxer reads."""

_PROTOCOLS = "tcp,tls,udp,rtp,srtp,srt,rist,rtmp,rtmps,rtmpe,rtmpt,rtmpts,rtmpte,ffrtmphttp,ffrtmpcrypt,http,https,"
_PROTOCOLS += "httpproxy,mmsh,mmst,ftp,rtsp,rtsps"
_FORMATS = "mpegts,flv,live_flv,kux,matroska,webm,mov,mp4,avi,asf,ogg,mpeg,mpegvideo,h264,hevc,m4v,rtsp,rtp,sdp,nut,"
_FORMATS += "aac,ac3,eac3,mp3,wav,w64,flac,aiff,au,caf,amr,mjpeg,mpjpeg,ivf,obu,wtv,gxf,mxf,dv,rm,loas"

UNDATED_SCHEMES = frozenset({"rtsp", "rtsps"})
"""RTP says when a picture is shown and not when it is decoded: ffmpeg's muxer refuses what has been reordered. It is
told any decode time that grows; the right one is found behind it (`tvarr.media.decode_times`)."""

_KNOWN = r"gt(PTS\,-1e18)"
_ANY_DECODE_TIME = (
    rf"setts=pts=if({_KNOWN}\,PTS\,if(N\,PREV_OUTPTS+DURATION\,0))"
    rf":dts=if({_KNOWN}\,if(N\,max(PREV_OUTDTS+1\,PTS-1/TB)\,PTS-1/TB)\,if(N\,PREV_OUTDTS+1\,-1/TB))"
)
"""The first picture of a session may lack the other time too (5.1 and 9.0, tried): it is that of time 0."""

_PLAIN_PARAMETERS = frozenset(
    {
        *("mode", "latency", "rcvlatency", "peerlatency", "tlpktdrop", "transtype", "messageapi", "linger"),
        *("pkt_size", "payload_size", "connect_timeout", "timeout", "rw_timeout", "listen_timeout", "listen"),
        *("maxbw", "inputbw", "oheadbw", "ffs", "mss", "recv_buffer_size", "send_buffer_size", "pbkeylen"),
        *("localaddr", "localport", "local_addr", "local_port", "reuse", "ttl", "buffer_size", "fifo_size"),
        *("overrun_nonfatal", "sources", "block", "broadcast", "connect", "tcp_nodelay", "rist_profile", "bitrate"),
    }
)
"""Parameters of URLs that tell nothing secret."""

_STREAM = re.compile(
    r"Stream #0:(?P<index>\d+)(?:\[[^\]]*\])?(?:\([^)]*\))?: (?P<kind>Video|Audio|Subtitle|Data): (?P<codec>\w+)"
)


class Stream(NamedTuple):
    """One stream of a source, as ffmpeg reports it on stderr."""

    number: int
    kind: str  # Video, Audio, Subtitle, Data
    codec: str  # ffmpeg's name
    still: bool = False  # a cover picture

    @property
    def copied(self) -> bool:
        return self.codec in (COPIED_VIDEO if self.kind == "Video" else COPIED_AUDIO)


@dataclass(frozen=True, slots=True)
class Way:
    """How a source is fetched."""

    raw: bool = False
    streams: tuple[Stream, ...] = ()  # pictures and sounds where one must be encoded; empty: all are copied


def check(source: Source, protocols: frozenset[str]) -> None:
    """Raises `JobError` for a source that this daemon does not fetch; `protocols` are those it can."""
    if source.scheme not in NEEDS:
        raise JobError(ErrorCode.BAD_REQUEST, f"{source.scheme[:20]}: sources are not fetched", retry_elsewhere=False)
    if source.scheme not in protocols:
        raise JobError(ErrorCode.UNSUPPORTED, f"this ffmpeg does not read {source.scheme}:")
    if re.search(r"\s", source.url):
        raise JobError(ErrorCode.BAD_REQUEST, "the source's URL has white space in it", retry_elsewhere=False)
    if len(_other_headers(source)) > 1:
        words = "ffmpeg takes User-Agent, Referer and one other header; the source has more"
        raise JobError(ErrorCode.UNSUPPORTED, words, retry_elsewhere=False)


def first_way(source: Source) -> Way:
    """How a source is tried first."""
    return Way(raw=source.scheme in RAW_SCHEMES and not _has_secrets(source.url))


def way_for(streams: Sequence[Stream]) -> Way:
    """How a source with these streams is fetched, remuxed."""
    playable = tuple(s for s in streams if s.kind in {"Video", "Audio"} and not s.still)
    return Way(streams=playable if not all(stream.copied for stream in playable) else ())


def parse_stream(line: str) -> Stream | None:
    """A stream of the input, where a line of ffmpeg's report tells of one."""
    match = _STREAM.search(line)
    if match is None:
        return None
    return Stream(int(match["index"]), match["kind"], match["codec"], "(attached pic)" in line)


def build(
    path: str, source: Source, way: Way, *, encoder: str = "libx264", progress_fd: int | None = None
) -> list[str]:
    """The whole command, `path` first. `encoder`: for pictures that can't be copied, libx264 or mpeg2video."""
    arguments = [path, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]
    if progress_fd is not None:
        arguments += ["-progress", f"pipe:{progress_fd}", "-stats_period", "1"]
    if way.raw:
        options = ["-overrun_nonfatal", "1", "-buffer_size", str(UDP_BUFFER_BYTES)] if source.scheme == "udp" else []
        arguments += ["-protocol_whitelist", _PROTOCOLS, *options, "-f", "data", "-i", source.url]
        return [*arguments, "-map", "0", "-c", "copy", "-flush_packets", "1", "-f", "data", "pipe:1"]
    arguments += ["-protocol_whitelist", f"pipe,{_PROTOCOLS}", "-format_whitelist", f"concat,{_FORMATS}"]
    arguments += ["-analyzeduration", str(ANALYSIS_US), "-safe", "0", "-f", "concat", "-i", "pipe:0"]
    arguments += _streams(source, way, encoder)
    return [
        *arguments,
        *("-fps_mode", "passthrough", "-max_muxing_queue_size", "4096", "-max_interleave_delta", "100000"),
        *("-muxdelay", "0", "-muxpreload", "0", "-pes_payload_size", "0", "-omit_video_pes_length", "0"),
        *("-flush_packets", "1", "-f", "mpegts", "pipe:1"),
    ]


def script(source: Source, way: Way) -> bytes:
    """What the command gets on stdin."""
    if way.raw:
        return b""
    lines = ["ffconcat version 1.0", f"file {_quoted(source.url)}"]
    options = {"analyzeduration": str(ANALYSIS_US)}
    if source.scheme in {"rtsp", "rtsps"}:
        options |= {"rtsp_flags": "prefer_tcp", "timeout": str(CONNECT_US)}
    if source.scheme in {"http", "https", "rtsp", "rtsps"} and source.user_agent:
        options["user_agent"] = source.user_agent
    if source.scheme in {"http", "https"}:
        options["seekable"] = "0"  # to seek is to connect again
        for name, value in source.headers:
            if name.lower() == "referer":
                options["referer"] = value
        for name, value in _other_headers(source):
            options["headers"] = f"{name}: {value}"
    lines += [f"option {name} {_quoted(value)}" for name, value in options.items()]
    return "\n".join([*lines, ""]).encode()


def hide(text: str, source: Source) -> str:
    """The text without what may be secret of the source."""
    for secret in sorted(_secrets(source), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _streams(source: Source, way: Way, encoder: str) -> list[str]:
    undated = source.scheme in UNDATED_SCHEMES
    if not way.streams:
        everything = source.scheme in RAW_SCHEMES | {"rtp"}  # MPEG-TS: what else is in it goes into one again
        maps = ["-map", "0"] if everything else ["-map", "0:V?", "-map", "0:a?"]
        return [*maps, "-c", "copy", *(("-bsf:v", _ANY_DECODE_TIME) if undated else ())]
    arguments = ["-c", "copy"]
    for number, stream in enumerate(way.streams):
        arguments += ["-map", f"0:{stream.number}"]
        if stream.copied:
            arguments += [f"-bsf:{number}", _ANY_DECODE_TIME] if undated and stream.kind == "Video" else []
            continue
        arguments += _sound(number) if stream.kind == "Audio" else _picture(number, encoder)
    return arguments


def _sound(number: int) -> list[str]:
    return [f"-c:{number}", "aac", f"-b:{number}", "160k"]


def _picture(number: int, encoder: str) -> list[str]:
    """As good as the source, about, and without delay: variants are made of it."""
    quality = ["-q", "3"] if encoder == "mpeg2video" else ["-crf", "20"]
    if encoder == "libx264":
        quality += ["-preset", "veryfast", "-tune", "zerolatency"]
    flags = [*quality, "-pix_fmt", "yuv420p", "-g", "250", "-bf", "0", "-force_key_frames", "expr:gte(t,n_forced*2)"]
    named = [f"{flag}:{number}" if flag.startswith("-") else flag for flag in flags]
    return [f"-c:{number}", encoder, *named]


def _quoted(text: str) -> str:
    """For the concat demuxer, which reads as `av_get_token` does."""
    return "'" + text.replace("'", "'\\''") + "'"


def _other_headers(source: Source) -> list[tuple[str, str]]:
    return [(n, v) for n, v in source.headers if n.lower() not in {"referer", "user-agent"}]


def _has_secrets(url: str) -> bool:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.path.strip("/"):
        return True
    return any(name not in _PLAIN_PARAMETERS for name, _ in parse_qsl(parts.query, keep_blank_values=True))


def _secrets(source: Source) -> Iterable[str]:
    parts = urlsplit(source.url)
    user_info, at, _ = parts.netloc.rpartition("@")
    if at and user_info:
        yield user_info
    for text in (parts.username, parts.password):
        if text and len(text) > 2:
            yield text
            yield unquote(text)
    for name, value in parse_qsl(parts.query):
        if name not in _PLAIN_PARAMETERS and len(value) > 2:
            yield value
    path = parts.path.strip("/")
    if path and source.scheme not in {"http", "https", "rtsp", "rtsps"}:  # stream keys stand there
        yield path
    if parts.query:
        yield parts.query
    for _, value in source.headers:
        if len(value) > 2:
            yield value
