"""Figures as people read them, and as small drawings."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

SPARK_HEIGHT = 24

CODECS = {
    "h264": "H.264",
    "hevc": "HEVC",
    "av1": "AV1",
    "vp9": "VP9",
    "mpeg2video": "MPEG-2",
    "aac": "AAC",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
    "mp2": "MP2",
    "mp3": "MP3",
    "opus": "Opus",
}


def size_words(count: float | None) -> str:
    """Bytes for people: 1.5 MiB."""
    if count is None:
        return "–"
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def rate_words(kbps: float | None) -> str:
    """Thousands of bits a second for people: 840 kb/s, 12.5 Mb/s."""
    if kbps is None:
        return "–"
    if kbps < 1000:
        return f"{kbps:.0f} kb/s"
    return f"{kbps / 1000:.1f} Mb/s" if kbps < 1_000_000 else f"{kbps / 1_000_000:.1f} Gb/s"


def duration_words(seconds: float | None) -> str:
    """The two largest units: 3 d 4 h, 12 s."""
    if seconds is None:
        return "–"
    rest, words = int(seconds), []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def percent_words(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def last_known(values: Sequence[float | None]) -> float | None:
    """The present step's value, or that of the one before: a step begins without any."""
    return next((value for value in reversed(values[-2:]) if value is not None), None)


def clock_words(moment: str) -> str:
    """RFC 3339 as `2026-11-23 12:04:00` (UTC)."""
    return moment[:19].replace("T", " ")


def codec_words(codec: str) -> str:
    return CODECS.get(codec, codec)


def spark(values: Sequence[float | None], most: float | None = None) -> Markup:
    """A line over the values, the latest at the right, broken where there is none; nothing a screen reader reads.

    `most` is the value at the top; without one, a little more than the largest.
    """
    known = [value for value in values if value is not None]
    top = most if most is not None else max([1.0, *(1.15 * value for value in known)])
    path, drawn = [], False
    for x, value in enumerate(values):
        if value is not None:
            y = SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * min(max(value / top, 0.0), 1.0)
            path.append(f"{'L' if drawn else 'M'}{x} {y:.1f}")
            if not drawn:
                path.append("h.01")  # a single point is seen, too
        drawn = value is not None
    width = max(len(values) - 1, 1)
    return Markup(  # noqa: S704 - numbers alone
        f'<svg class="spark" viewBox="0 0 {width} {SPARK_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{"".join(path)}"/></svg>'
    )
