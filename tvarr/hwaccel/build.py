"""What an ffmpeg was built with: its accelerators, encoders and decoders."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from subprocess import DEVNULL
from tempfile import TemporaryFile

from tvarr.errors import StartError
from tvarr.ffmpeg.child import Child
from tvarr.ffmpeg.locate import FfmpegBinary

LIST_TIMEOUT_S = 15.0

# One line of `-encoders`: six flags, the name, a description. The legend above it has "=" in place of a name.
_CODEC_LINE = re.compile(r"^ ([VAS])[F.][S.][X.][B.][D.] +([^\s=]+) ")


@dataclass(frozen=True, slots=True)
class Build:
    """The lists that `ffmpeg -hwaccels`, `-encoders` and `-decoders` print."""

    hwaccels: tuple[str, ...]
    encoders: frozenset[str]
    decoders: frozenset[str]


def parse_hwaccels(text: str) -> tuple[str, ...]:
    """Reads the output of `-hwaccels`: a heading, then one name a line."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if re.fullmatch(r"\w+", line))


def parse_codecs(text: str) -> frozenset[str]:
    """Reads the output of `-encoders` or `-decoders` and returns the names."""
    return frozenset(match[2] for line in text.splitlines() if (match := _CODEC_LINE.match(line)))


async def read_build(binary: FfmpegBinary) -> Build:
    """Asks `binary` for its lists. Raises `StartError` where it does not answer."""
    hwaccels, encoders, decoders = await asyncio.gather(
        *(_ask(binary.path, question) for question in ("-hwaccels", "-encoders", "-decoders"))
    )
    build = Build(parse_hwaccels(hwaccels), parse_codecs(encoders), parse_codecs(decoders))
    if not build.encoders or not build.decoders:
        raise StartError(f"{binary.path} does not list its encoders and decoders: is it ffmpeg?")
    return build


async def _ask(path: str, question: str) -> str:
    with TemporaryFile() as out:
        try:
            process = Child([path, "-hide_banner", question], stdin=DEVNULL, stdout=out.fileno(), stderr=DEVNULL)
        except OSError as error:
            raise StartError(f"{path} can't be run: {error.strerror or error}") from None
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            raise StartError(f"{path} did not answer `{question}` within {LIST_TIMEOUT_S:g} s") from None
        finally:
            await process.kill()
        out.seek(0)
        return out.read().decode(errors="replace")
