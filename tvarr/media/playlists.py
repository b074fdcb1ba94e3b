"""HLS playlists (RFC 8216) and DASH manifests (ISO/IEC 23009-1) of a window of segments.

Addresses in them are relative. `query` is put behind each of them, for servers that ask for a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from xml.sax.saxutils import quoteattr

from tvarr.media.model import TICKS_PER_SECOND, Kind
from tvarr.media.segments import Part, Rendition, Segment, Window

TS_VERSION, CMAF_VERSION = 3, 6  # EXT-X-VERSION: fractions of seconds; EXT-X-MAP (RFC 8216, 7)
AUDIO_GROUP = "audio"
_CLOCK_SCHEME = "urn:mpeg:dash:utc:direct:2014"
_CHANNELS_SCHEME = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011"


def timestamp(epoch_s: float) -> str:
    """Seconds since 1970 as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(ticks: int) -> str:
    return f"{ticks / TICKS_PER_SECOND:.6f}"


# HLS


def multivariant(window: Window, renditions: Mapping[str, Rendition], addresses: Mapping[str, str]) -> str:
    """The playlist of playlists; `addresses` has one for each rendition."""
    sounds = [rendition for rendition in renditions.values() if rendition.kind is Kind.AUDIO]
    main = next((r for r in renditions.values() if r.kind is Kind.VIDEO), None) or next(iter(renditions.values()))
    grouped = bool(main.inits) and bool(sounds)  # a transport stream has its sounds within
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{CMAF_VERSION if main.inits else TS_VERSION}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    if grouped:
        lines += _audio_group(sounds, addresses, main)
    together = [main, *(rendition for rendition in sounds if rendition is not main)]
    known = all(rendition.codecs for rendition in together)
    codecs = ",".join(dict.fromkeys(",".join(rendition.codecs for rendition in together).split(","))) if known else ""
    attributes = [f"BANDWIDTH={max(window.peak_bps, window.average_bps)}", f"AVERAGE-BANDWIDTH={window.average_bps}"]
    if codecs:
        attributes.append(f'CODECS="{codecs}"')
    if main.width and main.height:
        attributes.append(f"RESOLUTION={main.width}x{main.height}")
    if main.fps:
        attributes.append(f"FRAME-RATE={main.fps:.3f}")
    if grouped:
        attributes.append(f'AUDIO="{AUDIO_GROUP}"')
    lines += [f"#EXT-X-STREAM-INF:{','.join(attributes)}", addresses[main.name]]
    return "\n".join(lines) + "\n"


def _audio_group(sounds: list[Rendition], addresses: Mapping[str, str], main: Rendition) -> list[str]:
    lines, names = [], set[str]()
    for number, sound in enumerate(sounds, start=1):
        name = sound.language or f"Audio {number}"
        if name in names:
            name = f"{name} {number}"
        names.add(name)
        attributes = ["TYPE=AUDIO", f'GROUP-ID="{AUDIO_GROUP}"', f'NAME="{name}"']
        if sound.language:
            attributes.append(f'LANGUAGE="{sound.language}"')
        attributes += [f"DEFAULT={'YES' if number == 1 else 'NO'}", "AUTOSELECT=YES"]
        if sound.channels:
            attributes.append(f'CHANNELS="{sound.channels}"')
        if sound is not main:
            attributes.append(f'URI="{addresses[sound.name]}"')
        lines.append(f"#EXT-X-MEDIA:{','.join(attributes)}")
    return lines


def media_playlist(window: Window, name: str, suffix: str, *, query: str, epoch_s: float, ended: bool) -> str:
    """One rendition's playlist. Time 0 of the timeline was at `epoch_s`, in seconds since 1970."""
    segments = window.listed()
    maps = any(part.init for segment in segments if (part := segment.parts.get(name)))
    first = segments[0]
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{CMAF_VERSION if maps else TS_VERSION}",
        f"#EXT-X-TARGETDURATION:{window.target_s}",
        f"#EXT-X-MEDIA-SEQUENCE:{first.number}",
        # a discontinuity in front of the first segment is told by its tag, and not counted (RFC 8216, 4.3.3.3)
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{first.discontinuities - first.discontinuity}",
    ]
    if all(segment.independent for segment in segments):
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    init = 0
    for segment in segments:
        part = segment.parts.get(name)
        if segment.discontinuity:
            lines.append("#EXT-X-DISCONTINUITY")
        if part is not None and part.init != init:
            init = part.init
            lines.append(f'#EXT-X-MAP:URI="{name}-init{init}.mp4{query}"')
        start = part.start_ticks if part else segment.start_ticks
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{timestamp(epoch_s + start / TICKS_PER_SECOND)}")
        if part is None:
            lines.append("#EXT-X-GAP")
        lines.append(f"#EXTINF:{_seconds(part.duration_ticks if part else segment.duration_ticks)},")
        lines.append(f"{name}-{segment.number}.{suffix}{query}")
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


# DASH


def manifest(
    window: Window,
    renditions: Mapping[str, Rendition],
    *,
    base: str,
    query: str,
    epoch_s: float,
    now_s: float,
    ended: bool,
) -> str:
    """The MPD: a period for each span without discontinuity, in it an adaptation set a track.

    `base` is the folder of the segments, `now_s` is seconds since 1970. The manifest is read again at its own address:
    with a Location dash.js 5.2 stood still (tried).
    """
    segments = window.listed()
    depth_ticks = sum(segment.duration_ticks for segment in segments)
    attributes = {
        "xmlns": "urn:mpeg:dash:schema:mpd:2011",
        "profiles": "urn:mpeg:dash:profile:isoff-live:2011",
        "type": "dynamic",
        "availabilityStartTime": timestamp(epoch_s),
        "publishTime": timestamp(now_s),
        "minBufferTime": f"PT{window.target_s}S",
        "timeShiftBufferDepth": f"PT{_seconds(depth_ticks)}S",
        "maxSegmentDuration": f"PT{window.target_s + 1}S",
    }
    if ended:
        attributes["mediaPresentationDuration"] = f"PT{_seconds(window.end_ticks)}S"
    else:
        attributes["minimumUpdatePeriod"] = f"PT{window.target_s}S"
        attributes["suggestedPresentationDelay"] = f"PT{3 * window.target_s}S"
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', _tag("MPD", attributes)]
    lines.append(f"  <BaseURL>{_text(base)}</BaseURL>")
    for number, spans in groupby(segments, key=lambda segment: segment.discontinuities):
        lines += _period(number, window.periods[number], list(spans), renditions, query)
    if not ended:
        lines.append("  " + _tag("UTCTiming", {"schemeIdUri": _CLOCK_SCHEME, "value": timestamp(now_s)}, True))
    lines.append("</MPD>")
    return "\n".join(lines) + "\n"


def _period(
    number: int, start_ticks: int, segments: list[Segment], renditions: Mapping[str, Rendition], query: str
) -> Iterable[str]:
    start = max(start_ticks, 0)
    yield "  " + _tag("Period", {"id": str(number), "start": f"PT{_seconds(start)}S"})
    for rendition in renditions.values():
        parts = [part for segment in segments if (part := segment.parts.get(rendition.name))]
        if parts:
            yield from _adaptation_set(rendition.as_of(parts[-1].init), parts, segments, start, query)
    yield "  </Period>"


def _adaptation_set(
    rendition: Rendition, parts: list[Part], segments: list[Segment], start_ticks: int, query: str
) -> Iterable[str]:
    video = rendition.kind is Kind.VIDEO
    attributes = {
        "id": "0" if video else rendition.name.removeprefix("audio"),
        "contentType": rendition.kind.value,
        "segmentAlignment": "true",
    }
    if rendition.language:
        attributes["lang"] = rendition.language
    yield "    " + _tag("AdaptationSet", attributes)
    ticks = sum(part.duration_ticks for part in parts)
    representation = {
        "id": rendition.name,
        "mimeType": f"{rendition.kind.value}/mp4",
        "codecs": rendition.codecs,
        "bandwidth": str(sum(len(part.data) for part in parts) * 8 * TICKS_PER_SECOND // ticks),
    }
    if video:
        representation |= {"width": str(rendition.width), "height": str(rendition.height)}
        representation["frameRate"] = _frame_rate(rendition.fps)
    else:
        representation["audioSamplingRate"] = str(rendition.sample_rate)
    yield "      " + _tag("Representation", representation)
    if not video and rendition.channels:
        channels = {"schemeIdUri": _CHANNELS_SCHEME, "value": str(rendition.channels)}
        yield "        " + _tag("AudioChannelConfiguration", channels, True)
    template = {
        "timescale": str(TICKS_PER_SECOND),
        "presentationTimeOffset": str(start_ticks),
        "initialization": f"{rendition.name}-init{parts[-1].init}.mp4{query}",
        "media": f"{rendition.name}-t$Time$.m4s{query}",
    }
    yield "        " + _tag("SegmentTemplate", template)
    yield "          <SegmentTimeline>"
    for part in parts:
        yield f'            <S t="{part.start_ticks}" d="{part.duration_ticks}"/>'
    yield "          </SegmentTimeline>"
    yield "        </SegmentTemplate>"
    yield "      </Representation>"
    yield "    </AdaptationSet>"


def _frame_rate(fps: float) -> str:
    """A whole number, or a fraction of 1001 where it is one (23009-1, 5.3.7.2)."""
    nominal = round(fps)
    if abs(fps - nominal) < 0.002:
        return str(nominal)
    if abs(fps - nominal * 1000 / 1001) < 0.002:
        return f"{nominal * 1000}/1001"
    return f"{round(fps * 1000)}/1000"


def _tag(name: str, attributes: Mapping[str, str], empty: bool = False) -> str:
    text = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{text}{'/' if empty else ''}>"


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")
