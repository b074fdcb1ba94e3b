"""What is known of encoder families without asking a daemon: tables."""

from __future__ import annotations

from collections.abc import Mapping

from tvarr.cluster.model import Family
from tvarr.media.model import Codec

_COMMON = frozenset({Codec.H264, Codec.HEVC, Codec.MPEG2VIDEO, Codec.VP9, Codec.AV1})

HARDWARE_DECODING: Mapping[Family, tuple[str, frozenset[Codec]]] = {
    Family.NVENC: ("cuda", _COMMON | {Codec.MPEG1VIDEO}),
    Family.VAAPI: ("vaapi", _COMMON),
    Family.QSV: ("qsv", _COMMON),
    Family.VIDEOTOOLBOX: ("videotoolbox", _COMMON - {Codec.AV1}),
}
"""By encoder family: ffmpeg's name of the acceleration that decodes on the same device, and what it decodes.

The same as the columns `hwaccel` and `decodes` of `tvarr.ffmpeg.families`, which a test holds against each other.
"""

SMALLEST_PICTURE: Mapping[tuple[Family, Codec], tuple[int, int]] = {(Family.NVENC, Codec.H264): (145, 49)}
"""Width and height below which an encoder refuses (NVENC: "Frame Dimension less than the minimum supported value")."""

OTHER_DECODERS: Mapping[str, tuple[str, ...]] = {
    "av1": ("libdav1d", "libaom-av1"),
    "mp1": ("mp1float",),
    "mp2": ("mp2float",),
    "dts": ("dca",),
    "mp3": ("mp3float",),
    "opus": ("libopus",),
    "vp9": ("libvpx-vp9",),
}
"""By codec: names of ffmpeg's decoders for it beside the one that is named like the codec."""
