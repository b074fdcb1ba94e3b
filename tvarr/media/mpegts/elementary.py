"""One elementary stream of the program: from PES payloads or sections to samples, and what is known of it."""

from __future__ import annotations

from tvarr.media.model import Codec, Sample, Track
from tvarr.media.mpegts import psi
from tvarr.media.mpegts.audio import FORMATS, AudioSplitter, OpusSplitter
from tvarr.media.mpegts.receive import DemuxStats, Pes
from tvarr.media.mpegts.sniff import sniff
from tvarr.media.mpegts.stamp import MAX_EARLY_UNITS, Stamper
from tvarr.media.mpegts.units import StreamInfo, Unit
from tvarr.media.mpegts.video import FINDERS, VideoSplitter

MAX_SNIFF_PES = 16  # kept until it is clear what they are; then they are what the PMT says
MAX_SNIFF_BYTES = 256 << 10
MAX_SNIFF_PES_PRIVATE = 3  # of private streams that don't begin like video
SNIFF_AGAIN_BYTES = 16 << 10  # of audio without a frame

MAX_FPS = 300.0  # what states more is counted in ticks of something else: a capture claims 1,000,000


class Elementary:
    """A stream that a PMT announces. `changed` is set when its track is no longer what it was."""

    def __init__(
        self, entry: psi.PmtStream, announced: Codec, stats: DemuxStats, *, taken_as_it_is: bool = False
    ) -> None:
        """`taken_as_it_is`: nobody looks into its payload for what it may be."""
        self.entry = entry
        self._taken_as_it_is = taken_as_it_is
        self.announced = announced
        self.changed = False
        self.scrambled = False
        self._stats = stats
        self._info = StreamInfo(announced)
        self._splitter: VideoSplitter | AudioSplitter | OpusSplitter | None = None
        self._settled = not self.sniffed
        self._unsettled: list[Pes] = []
        self._stamper = Stamper(entry.pid)
        self._early: list[bytes] = []  # data without time stamps, before the programme has a clock
        if announced is Codec.OPUS:
            self._splitter = OpusSplitter(_opus_channels(entry.descriptors))
            self._info = self._splitter.info

    @property
    def sniffed(self) -> bool:
        """Whether its payload decides what it is: audio, video, and private PES packets that nothing explains."""
        return not self._taken_as_it_is and (self.announced in FORMATS or self.announced in FINDERS or self.unexplained)

    @property
    def unexplained(self) -> bool:
        """Private PES packets of which no descriptor that we know says what they are."""
        tags = {tag for tag, _ in psi.descriptors_in(self.entry.descriptors)}
        explained = bool(tags & {psi.REGISTRATION, psi.TELETEXT, psi.SUBTITLING})
        return self.announced is Codec.PRIVATE and self.entry.stream_type in psi.UNEXPLAINED and not explained

    @property
    def timed(self) -> bool:
        """Whether its samples tell where the programme is."""
        return self._splitter is not None

    @property
    def known(self) -> bool:
        """Whether nothing more is to be expected of its track: no reason to wait before announcing it."""
        if self.scrambled or not self.sniffed:
            return True
        return self._settled and (self._splitter is None or self._info.complete)

    def track(self) -> Track:
        info = self._info
        return Track(
            id=self.entry.pid,
            codec=info.codec,
            language=psi.language_of(self.entry.descriptors),
            width=info.width,
            height=info.height,
            fps=info.fps if info.fps <= MAX_FPS else 0.0,
            interlaced=info.interlaced,
            sample_rate=info.sample_rate,
            channels=info.channels,
            init=info.init,
            stream_type=self.entry.stream_type,
            descriptors=self.entry.descriptors,
            scrambled=self.scrambled,
        )

    def update(self, entry: psi.PmtStream) -> None:
        """The PMT has other words for the same stream."""
        self.changed |= entry != self.entry
        self.entry = entry

    def set_scrambled(self, scrambled: bool) -> None:
        self.changed |= scrambled != self.scrambled
        self.scrambled = scrambled

    def push(self, pes: Pes, clock_ticks: int | None) -> list[Sample]:
        """The samples that this payload completes. `clock_ticks`: the programme's latest DTS, None before the first."""
        if self._settled:
            return self._split(pes, clock_ticks)
        self._unsettled.append(pes)
        codec = self._guess(pes)
        return self._settle(codec, clock_ticks) if codec is not None else []

    def section(self, data: bytes, clock_ticks: int | None) -> list[Sample]:
        """A section is a sample; one with a wrong CRC is none."""
        has_crc = len(data) > 3 and (data[1] & 0x80 or data[0] == psi.SCTE_35_TABLE)
        if has_crc and psi.crc32_mpeg(data):
            self._stats.crc_errors += 1
            return []
        return self._timed_by_clock(data, clock_ticks)

    def leave_unfinished(self) -> None:
        """Forgets what of a picture has come."""
        if isinstance(self._splitter, VideoSplitter):
            self._splitter.leave_open()

    def flush(self, clock_ticks: int | None) -> list[Sample]:
        """End of the stream: what is unfinished."""
        samples = [] if self._settled else self._settle(self._info.codec, clock_ticks)
        if self._splitter is not None:
            samples += self._stamped(self._splitter.flush(), clock_ticks)
            samples += self._stamper.flush(clock_ticks)
        return samples + self._take_early(clock_ticks or 0)

    def _guess(self, pes: Pes) -> Codec | None:
        expected, held = self._info.codec, self._unsettled
        codec = sniff(pes.data, expected)
        if codec is None and len(held) > 1:
            codec = sniff(b"".join(p.data for p in held), expected)
        if codec is not None:
            return codec
        like_video = any(p.data.startswith(b"\x00\x00\x01") for p in held)
        most = MAX_SNIFF_PES if self.announced is not Codec.PRIVATE or like_video else MAX_SNIFF_PES_PRIVATE
        full = len(held) >= most or sum(len(p.data) for p in held) >= MAX_SNIFF_BYTES
        return expected if full else None

    def _settle(self, codec: Codec, clock_ticks: int | None) -> list[Sample]:
        self._settled = True
        self._splitter = _splitter_for(codec)
        held, self._unsettled = self._unsettled, []
        return [sample for pes in held for sample in self._split(pes, clock_ticks)]

    def _split(self, pes: Pes, clock_ticks: int | None) -> list[Sample]:
        splitter = self._splitter
        if splitter is None:
            if pes.pts_ticks is None:
                return self._timed_by_clock(pes.data, clock_ticks)
            dts = pes.pts_ticks if pes.dts_ticks is None else pes.dts_ticks
            return [*self._take_early(dts), Sample(self.entry.pid, pes.pts_ticks, dts, pes.data, True)]
        units = splitter.push(pes)
        if splitter.info is not self._info:
            self._describe(splitter.info)
        if isinstance(splitter, AudioSplitter) and splitter.skipped_bytes > SNIFF_AGAIN_BYTES:
            self._settled = False
        return self._stamped(units, clock_ticks)

    def _describe(self, info: StreamInfo) -> None:
        """Takes over what the stream says now; a splitter that starts anew does not make it unknown."""
        if info.complete or info.codec is not self._info.codec:
            self._info = info
            self.changed = True

    def _stamped(self, units: list[Unit], clock_ticks: int | None) -> list[Sample]:
        splitter = self._splitter
        samples = self._stamper.samples(units, splitter.unit_ticks if splitter else 0.0, clock_ticks)
        if self._stamper.wants_order and isinstance(splitter, VideoSplitter):
            splitter.with_order = True
        return samples

    def _timed_by_clock(self, data: bytes, clock_ticks: int | None) -> list[Sample]:
        if clock_ticks is None and len(self._early) < MAX_EARLY_UNITS:
            self._early.append(data)
            return []
        ticks = clock_ticks or 0
        return [*self._take_early(ticks), Sample(self.entry.pid, ticks, ticks, data, True)]

    def _take_early(self, ticks: int) -> list[Sample]:
        early, self._early = self._early, []
        return [Sample(self.entry.pid, ticks, ticks, data, True) for data in early]


def _splitter_for(codec: Codec) -> VideoSplitter | AudioSplitter | None:
    if codec in FINDERS:
        return VideoSplitter(codec)
    return AudioSplitter(codec) if codec in FORMATS else None


def _opus_channels(descriptors: bytes) -> int:
    """channel_config_code of the Opus descriptor: the number of channels for 1 to 8, 0 for dual mono."""
    for tag, body in psi.descriptors_in(descriptors):
        if tag == psi.EXTENSION and len(body) >= 2 and body[0] == psi.OPUS_EXTENSION:
            return body[1] if 1 <= body[1] <= 8 else 2
    return 2
