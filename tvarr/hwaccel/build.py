"""What an ffmpeg was built with: its accelerators, encoders, decoders and protocols."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from tvarr.cluster.schemes import NEEDS
from tvarr.errors import StartError
from tvarr.ffmpeg import child
from tvarr.ffmpeg.locate import FfmpegBinary

LIST_TIMEOUT_S = 15.0
MAX_LIST_BYTES = 1024 * 1024  # the longest list, of decoders, takes 30 kB

# One line of `-encoders`: six flags, the name, a description. The legend above it has "=" in place of a name.
_CODEC_LINE = re.compile(r"^ ([VAS])[F.][S.][X.][B.][D.] +([^\s=]+) ")

# One line of `-demuxers`: flags (D, and d for a device), the names.
_DEMUXER_LINE = re.compile(r"^ D[d ]{0,2} +([^\s=]+) ")


@dataclass(frozen=True, slots=True)
class Build:
    """The lists that `ffmpeg -hwaccels`, `-encoders`, `-decoders`, `-protocols` and `-demuxers` print."""

    hwaccels: tuple[str, ...]
    encoders: frozenset[str]
    decoders: frozenset[str]
    protocols: frozenset[str] = frozenset()  # for input
    demuxers: frozenset[str] = frozenset()

    @property
    def schemes(self) -> frozenset[str]:
        """Of the sources that it can fetch."""
        return frozenset(
            scheme
            for scheme, (protocol, demuxer) in NEEDS.items()
            if protocol in self.protocols and (not demuxer or demuxer in self.demuxers)
        )


def parse_hwaccels(text: str) -> tuple[str, ...]:
    """Reads the output of `-hwaccels`: a heading, then one name a line."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if re.fullmatch(r"\w+", line))


def parse_codecs(text: str) -> frozenset[str]:
    """Reads the output of `-encoders` or `-decoders` and returns the names."""
    return frozenset(match[2] for line in text.splitlines() if (match := _CODEC_LINE.match(line)))


def parse_protocols(text: str) -> frozenset[str]:
    """Reads the output of `-protocols` and returns the names of those for input."""
    return frozenset(text.partition("Input:")[2].partition("Output:")[0].split())


def parse_demuxers(text: str) -> frozenset[str]:
    """Reads the output of `-demuxers`: a legend, then flags, names joined by commas, and a description a line."""
    lines = (_DEMUXER_LINE.match(line) for line in text.splitlines())
    return frozenset(name for match in lines if match for name in match[1].split(","))


async def read_build(binary: FfmpegBinary) -> Build:
    """Asks `binary` for its lists. Raises `StartError` where it does not answer."""
    questions = ("-hwaccels", "-encoders", "-decoders", "-protocols", "-demuxers")
    hwaccels, encoders, decoders, protocols, demuxers = await asyncio.gather(
        *(_ask(binary.path, question) for question in questions)
    )
    build = Build(
        parse_hwaccels(hwaccels),
        parse_codecs(encoders),
        parse_codecs(decoders),
        parse_protocols(protocols),
        parse_demuxers(demuxers),
    )
    if not build.encoders or not build.decoders:
        raise StartError(f"{binary.path} does not list its encoders and decoders: is it ffmpeg?")
    return build


async def _ask(path: str, question: str) -> str:
    try:
        done = await child.run([path, "-hide_banner", question], within_s=LIST_TIMEOUT_S, most_bytes=MAX_LIST_BYTES)
    except TimeoutError:
        raise StartError(f"{path} did not answer `{question}` within {LIST_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise StartError(f"{path} can't be run: {error.strerror or error}") from None
    return done.stdout
