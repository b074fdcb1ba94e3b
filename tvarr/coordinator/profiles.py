"""What a profile does to the tracks of a source: which are worked on, which are copied. Pure.

Only what changes travels to a daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tvarr.cluster.load import UNKNOWN_SIZE
from tvarr.cluster.model import Target
from tvarr.coordinator.models import AUDIO_CHANNEL_LIMITS, Profile
from tvarr.errors import CannotCarry
from tvarr.media.fmp4 import entries
from tvarr.media.model import Codec, Kind, Track, Tracks

H264_KBPS_BY_PIXELS = (
    (640 * 360, 800),
    (854 * 480, 1400),
    (1024 * 576, 2000),
    (1280 * 720, 3000),
    (1920 * 1088, 6000),
    (2560 * 1440, 10_000),
    (4096 * 2160, 16_000),
)
"""Bitrate for H.264 of up to 30 frames a second, where a profile names none; an ample choice of our own."""

LARGEST_KBPS = 25_000
RELATIVE_KBPS = {Codec.H264: 1.0, Codec.HEVC: 0.6, Codec.AV1: 0.5, Codec.VP9: 0.65, Codec.MPEG2VIDEO: 2.0}
"""What a codec needs for the same picture, H.264 being 1."""

HIGH_FPS = 35.0
HIGH_FPS_FACTOR = 1.4

IN_TS = frozenset(Codec) - {Codec.AV1, Codec.VP9}
IN_MP4 = frozenset(codec for codec in Codec if entries.carries(codec))
CONTAINERS = {"ts": ("MPEG-TS", IN_TS), "mp4": ("MP4", IN_MP4)}
"""What each container has a mapping for; fragmented MP4 in HLS and DASH is `mp4`."""
ADDRESSES = {
    "ts": ".ts and HLS with container=ts",
    "mp4": ".mp4, HLS with container=fmp4 and DASH",
}
"""Where viewers get each of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each track of a source."""

    targets: tuple[Target, ...]  # what a daemon works on; empty: nothing is sent anywhere
    copied: tuple[int, ...]  # ids of the tracks that stay as they are
    output: Tracks  # the variant's tracks, in the source's order

    @property
    def target_ids(self) -> tuple[int, ...]:
        return tuple(target.track.id for target in self.targets)

    def one_job_serves(self, other: Plan) -> bool:
        """Whether a job that was started for one of the two plans can go on with the other.

        Decoders follow a change of sound or of parameter sets, but no encoder follows a change of picture size, and
        nobody takes fields apart that were none when the job began; what only becomes known is no change.
        """
        return _alike(self.targets, other.targets)

    def same_for_viewers(self, other: Plan) -> bool:
        """Whether what comes of both are the same tracks of the same codecs, the same of them made by a job."""
        return self.target_ids == other.target_ids and _codecs(self.output) == _codecs(other.output)

    def same_picture(self, other: Plan) -> bool:
        """Whether what one job decodes for the picture of one plan is of the kind that the other wants."""
        pictures = ([t for t in plan.targets if t.track.kind is Kind.VIDEO] for plan in (self, other))
        return _alike(*pictures)


def _codecs(tracks: Tracks) -> list[tuple[int, Codec]]:
    return [(track.id, track.codec) for track in tracks.tracks]


def _alike(targets: Sequence[Target], others: Sequence[Target]) -> bool:
    return len(targets) == len(others) and all(
        (mine.track.id, mine.track.codec, mine.codec) == (theirs.track.id, theirs.track.codec, theirs.codec)
        and (not mine.track.width or not theirs.track.width or _frame(mine) == _frame(theirs))
        for mine, theirs in zip(targets, others, strict=True)
    )


def _frame(target: Target) -> tuple[int, int, bool]:
    """What an encoder and its filters are set up for."""
    track = target.track
    return track.width, track.height, track.interlaced and target.deinterlace == "auto"


def plan(profile: Profile, tracks: Tracks) -> Plan:
    """Decides for each track.

    * Subtitles and data are copied, and so is what is scrambled: nobody could decode it.
    * The first readable video track is encoded, unless the profile says copy; a second one is copied, as a job has one
      video encoder.
    * Sound is encoded, unless it has the profile's codec already and the profile asks for nothing else.
    * Nothing is enlarged: size and frame rate of a target are 0 (as in the source) where the source is not above them.
    """
    targets: dict[int, Target] = {}
    video = next((track for track in tracks.of_kind(Kind.VIDEO) if not track.scrambled), None)
    if video is not None and profile.video_codec != "copy":
        targets[video.id] = _video_target(profile, video)
    for track in tracks.of_kind(Kind.AUDIO):
        if not track.scrambled and _audio_changes(profile, track):
            targets[track.id] = _audio_target(profile, track)
    return Plan(
        targets=tuple(targets[track.id] for track in tracks.tracks if track.id in targets),
        copied=tuple(track.id for track in tracks.tracks if track.id not in targets),
        output=replace(
            tracks,
            tracks=tuple(_result(targets[track.id]) if track.id in targets else track for track in tracks.tracks),
        ),
    )


def must_carry(profile: Profile, container: str) -> None:
    """Raises `CannotCarry`, with what would do, where a container (`ts`, `mp4`) can't hold what a profile makes."""
    for made in (profile.video_codec, profile.audio_codec):
        if made != "copy" and made not in CONTAINERS[container][1]:
            raise _cannot(container, [Codec(made)])


def _cannot(container: str, codecs: Iterable[Codec]) -> CannotCarry:
    """The refusal of codecs of which a container would take one, with what takes one."""
    missing = dict.fromkeys(codecs)
    others = [ADDRESSES[other] for other, (_, theirs) in CONTAINERS.items() if any(c in theirs for c in missing)]
    names = ", ".join(codec.value for codec in missing)
    return CannotCarry(
        f"{CONTAINERS[container][0]} has no mapping for {names}; ask for another profile"
        + "".join(f", or for {other}" for other in others)
    )


def carried(output: Tracks, container: str) -> Tracks:
    """The tracks of a variant that a container (`ts`, `mp4`) takes.

    What it has no mapping for is left out where something else of its kind is there, or where it is neither picture
    nor sound. Raises `CannotCarry` where all of the picture, or all of the sound, would be missing.
    """
    codecs = CONTAINERS[container][1]
    kept = tuple(track for track in output.tracks if track.codec in codecs)
    for kind in (Kind.VIDEO, Kind.AUDIO):
        offered = output.of_kind(kind)
        if offered and not any(track.kind is kind for track in kept):
            raise _cannot(container, [track.codec for track in offered])
    return replace(output, tracks=kept)


def _video_target(profile: Profile, track: Track) -> Target:
    codec = Codec(profile.video_codec)
    width, height = _box(profile, track)
    fps = profile.fps if not track.fps or profile.fps < track.fps else 0.0
    kbps = profile.video_bitrate_kbps
    if not kbps and profile.crf is None:
        kbps = default_kbps(codec, *_fitted(track, width, height), fps or track.fps)
    return Target(
        track=track,
        codec=codec,
        bitrate_kbps=kbps,
        width=width,
        height=height,
        fps=fps,
        crf=profile.crf,
        preset=profile.preset,
        gop_s=profile.gop_s,
        deinterlace=profile.deinterlace,
    )


def _box(profile: Profile, track: Track) -> tuple[int, int]:
    """The profile's box, or zeros where the source fits into it."""
    if not track.width or not track.height:
        return profile.width, profile.height
    wider = 0 < profile.width < track.width
    higher = 0 < profile.height < track.height
    return (profile.width, profile.height) if wider or higher else (0, 0)


def _fitted(track: Track, width: int, height: int) -> tuple[int, int]:
    """The picture's size after it was fitted into the box, in even numbers; a zero is no bound."""
    source_width, source_height = (track.width, track.height) if track.width and track.height else UNKNOWN_SIZE
    scale = min(1.0, (width or source_width) / source_width, (height or source_height) / source_height)
    return 2 * round(source_width * scale / 2), 2 * round(source_height * scale / 2)


def default_kbps(codec: Codec, width: int, height: int, fps: float) -> int:
    """A bitrate that suits the picture's size and rate, in steps of 50."""
    pixels = width * height
    kbps = next((kbps for most, kbps in H264_KBPS_BY_PIXELS if pixels <= most), LARGEST_KBPS)
    factor = RELATIVE_KBPS[codec] * (HIGH_FPS_FACTOR if fps > HIGH_FPS else 1.0)
    return max(50, round(kbps * factor / 50) * 50)


def _audio_changes(profile: Profile, track: Track) -> bool:
    if profile.audio_codec == "copy":
        return False
    if track.codec != profile.audio_codec or profile.audio_bitrate_kbps:
        return True
    return profile.audio_channels not in (0, track.channels)


def _audio_target(profile: Profile, track: Track) -> Target:
    most = AUDIO_CHANNEL_LIMITS[profile.audio_codec]
    return Target(
        track=track,
        codec=Codec(profile.audio_codec),
        bitrate_kbps=profile.audio_bitrate_kbps,
        channels=profile.audio_channels or (most if track.channels > most else 0),
    )


def _result(target: Target) -> Track:
    """The track as it will be, as far as that is known before its encoder has started."""
    plain = replace(target.track, codec=target.codec, init=b"", stream_type=0, descriptors=b"")
    if plain.kind is Kind.AUDIO:
        return replace(plain, channels=target.channels or plain.channels)
    known = plain.width and plain.height
    width, height = _fitted(plain, target.width, target.height) if known else (0, 0)
    interlaced = plain.interlaced and target.deinterlace == "off"
    return replace(plain, width=width, height=height, fps=target.fps or plain.fps, interlaced=interlaced)
