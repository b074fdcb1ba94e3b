"""One ffmpeg process of a job, and what goes into it."""

from __future__ import annotations

import asyncio
from collections import deque

from tvarr.cluster.model import JobSpec
from tvarr.ffmpeg.command import Start
from tvarr.ffmpeg.process import FfmpegProcess
from tvarr.ffmpegd.feed import Inlet
from tvarr.media.model import Sample, Track

REPLAY_BYTES = 16 * 1024 * 1024
"""Input kept until the first output, so that a second way of decoding can be tried; with more, there is none."""

Item = list[Sample] | tuple[Track, ...] | None
"""What goes into ffmpeg: samples, the tracks from here on, or the end."""


class Run:
    """One ffmpeg process of a job, and what it is given.

    While it `keeps` its input, another process can be given the same.
    """

    def __init__(self, process: FfmpegProcess, spec: JobSpec, start: Start, decoder: str, *, keeps: bool) -> None:
        self.process = process
        self.spec = spec
        self.start = start
        self.decoder = decoder
        self.keeps = keeps
        self.blocked = False  # ffmpeg does not take what it is given
        self._pending: deque[Item] = deque()  # bounded: whoever gives waits until it is taken
        self._given: list[Item] = []
        self._given_bytes = 0
        self._writing = asyncio.Lock()
        self._inlet = Inlet(spec, start)

    def take_over(self, other: Run) -> None:
        """All that the other was given and has kept is pending here, in order."""
        self._pending.extend([*other._given, *other._pending])

    def forget(self) -> None:
        self.keeps = False
        self._given.clear()

    async def give(self, item: Item) -> None:
        """Returns when ffmpeg has taken it, or has ended. Raises `JobError` for what can't be given to it."""
        self._pending.append(item)
        await self.pump()

    async def pump(self) -> None:
        """Writes what is pending."""
        async with self._writing:
            while self._pending and not self.process.ended:
                item = self._pending.popleft()
                if self.keeps:
                    self._keep(item)
                if item is None:
                    self.process.close_stdin()
                elif isinstance(item, tuple):
                    self._inlet.set_tracks(item)
                else:
                    self.blocked = True
                    await self.process.write(self._inlet.mux(item))
                    self.blocked = False

    def _keep(self, item: Item) -> None:
        self._given.append(item)
        if isinstance(item, list):
            self._given_bytes += sum([len(sample.data) for sample in item])
            if self._given_bytes > REPLAY_BYTES:
                self.forget()
