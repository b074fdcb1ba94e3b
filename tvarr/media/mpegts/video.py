"""Video PES payloads to access units: one frame a unit, both of its fields in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tvarr.media.model import TICKS_PER_SECOND, Codec
from tvarr.media.mpegts.pictures import H264Finder, HevcFinder, MpegVideoFinder, Picture, PictureFinder
from tvarr.media.mpegts.receive import Pes
from tvarr.media.mpegts.units import StreamInfo, Unit

MAX_UNIT_BYTES = 8 << 20  # of a picture that lies across PES packets; more is handed on as it is
MAX_CARRIED_BYTES = 8 << 10  # of a picture whose header has not come yet, or not whole;
MAX_CARRIED_TIMES = 8  # it is looked at again with each of so many PES packets
_HEAD_BYTES = 64  # a header that begins nearer to the end of a PES packet may go on in the next
_MAX_LEADING_ZEROS = 8  # before the first start code of a PES packet
_UNALIGNED_AFTER = 2  # PES packets in a row that begin within a picture
_ALIGNED_AFTER = 16  # PES packets in a row that begin with a picture

FINDERS: dict[Codec, Callable[[], PictureFinder]] = {
    Codec.H264: H264Finder,
    Codec.HEVC: HevcFinder,
    Codec.MPEG1VIDEO: MpegVideoFinder,
    Codec.MPEG2VIDEO: MpegVideoFinder,
}


class _Part(NamedTuple):
    """A picture's bytes and the time stamps that it came with."""

    picture: Picture
    data: bytes
    pts: int | None
    dts: int | None

    def unit(self) -> Unit:
        return Unit(self.data, self.pts, self.dts, self.picture.keyframe, self.picture.order)


class VideoSplitter:
    """Splits and joins the payloads of one video stream.

    Most streams begin a picture with each PES packet; then a picture is complete when its PES packet is. In others
    it is complete when the next picture begins. Which it is shows from the second PES packet on. A first field
    waits for the second one.
    """

    def __init__(self, codec: Codec) -> None:
        self.with_order = False  # whether units need their `order`
        self._finder = FINDERS[codec]()
        self._aligned = False
        self._against = 0  # PES packets in a row that speak against `_aligned`
        self._packets = 0
        self._open: _Part | None = None  # the last picture, as far as it has come; its bytes are in _open_data
        self._open_data: list[bytes] = []
        self._open_bytes = 0
        self._carried: _Part | None = None  # the same, but to be looked at again together with what follows
        self._times_carried = 0
        self._field: _Part | None = None  # the first field of a frame

    @property
    def info(self) -> StreamInfo:
        return self._finder.info

    @property
    def unit_ticks(self) -> float:
        """How long a frame lasts by what the stream states, 0.0 where it doesn't."""
        fps = self._finder.info.fps
        return TICKS_PER_SECOND / fps if fps else 0.0

    def push(self, pes: Pes) -> list[Unit]:
        """The units that this payload completes."""
        carried, self._carried = self._carried, None
        data = carried.data + pes.data if carried else pes.data
        if not data:
            return []
        pictures = self._pictures(data)
        if carried is None:
            self._learn(bool(pictures) and pictures[0].start == 0)
        units: list[Unit] = []
        in_front = pictures[0].start if pictures else len(data)
        if in_front and self._open is not None:
            self._extend(data[:in_front])
        elif in_front:
            pictures = _from_the_start(pictures, len(data))
        pts, dts = pes.pts_ticks, pes.dts_ticks
        for picture in pictures:
            units += self._close()
            if carried is not None and picture.start == 0 and (carried.pts is not None or not self._aligned):
                self._begin(_Part(picture, data[: picture.end], carried.pts, carried.dts))
                continue
            self._begin(_Part(picture, data[picture.start : picture.end], pts, dts))
            pts = dts = None  # they are those of the first picture that begins in this PES packet
        return units + self._end_of_packet()

    def flush(self) -> list[Unit]:
        """End of input: what is unfinished."""
        if self._carried is not None:
            self._begin(self._carried)
            self._carried = None
        units = self._close()
        if self._field is not None:
            units.append(self._field.unit())
            self._field = None
        return units

    def leave_open(self) -> None:
        """Forgets the picture that is unfinished; a first field is whole."""
        self._open, self._open_data, self._carried = None, [], None

    def _pictures(self, data: bytes) -> list[Picture]:
        """The pictures that start in a payload; what can't be told apart yet is one."""
        found = self._finder.pictures(data, with_order=self.with_order)
        if not found:
            return []
        first, last = found[0], found[-1]
        if first.start <= _MAX_LEADING_ZEROS and not data[: first.start].strip(b"\x00"):
            found[0] = first = first._replace(start=0)
        if len(found) > 1 and not self.info.complete:  # frames or fields: only the parameters tell
            return [first._replace(end=last.end, head_bytes=last.head_bytes)]
        return found

    def _learn(self, aligned: bool) -> None:
        self._packets += 1
        if self._packets <= 2:
            self._aligned = aligned and self._packets == 2
        elif aligned == self._aligned:
            self._against = 0
        else:
            self._against += 1
            if self._against >= (_UNALIGNED_AFTER if self._aligned else _ALIGNED_AFTER):
                self._aligned, self._against = aligned, 0

    def _begin(self, part: _Part) -> None:
        self._open, self._open_data, self._open_bytes = part, [part.data], len(part.data)

    def _extend(self, data: bytes) -> None:
        self._open_data.append(data)
        self._open_bytes += len(data)

    def _end_of_packet(self) -> list[Unit]:
        """Decides about the picture that lies at the end of a PES packet."""
        if self._open is None:
            return []
        missing = self._open.picture.head_bytes < (1 if self._aligned else _HEAD_BYTES)
        few = self._open_bytes <= MAX_CARRIED_BYTES and self._times_carried < MAX_CARRIED_TIMES
        if missing and few and len(self._open_data) == 1:
            self._carried, self._open = self._open, None
            self._times_carried += 1
            return []
        self._times_carried = 0
        return self._close() if self._aligned or self._open_bytes > MAX_UNIT_BYTES else []

    def _close(self) -> list[Unit]:
        """Ends the open picture; the units that are complete with it."""
        if self._open is None:
            return []
        part = self._open._replace(data=b"".join(self._open_data)) if len(self._open_data) > 1 else self._open
        self._open, self._open_data = None, []
        first, self._field = self._field, None
        if first is None:
            if not part.picture.parity:
                return [part.unit()]
            self._field = part
            return []
        if first.picture.parity + part.picture.parity == 3 and first.picture.frame == part.picture.frame:
            return [first._replace(data=first.data + part.data).unit()]
        if part.picture.parity:
            self._field = part
            return [first.unit()]
        return [first.unit(), part.unit()]


def _from_the_start(pictures: list[Picture], size: int) -> list[Picture]:
    """Bytes that belong to no earlier picture go with the first one, or are one that can't be read."""
    if not pictures:
        return [Picture(0, size, size)]
    return [pictures[0]._replace(start=0), *pictures[1:]]
