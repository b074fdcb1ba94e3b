"""Pages that stay fresh: each is a list of cards, and what changes of them is rendered once for everybody who looks.

A `Board` holds the cards of one page as HTML, each in parts with an id of their own. A page is made of these parts; its
script then opens `/live/PAGE?at=STAMP` and gets, as server-sent events, the parts that have changed since.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

from tvarr.coordinator.signals import Signal

log = logging.getLogger(__name__)

KEPT_CHANGES = 32  # who is further behind gets one change that sums them up
WATCHED_ON_S = 5.0  # who goes from page to page still looks
AT_ONCE = 8  # cards rendered before others have their turn

Part: TypeAlias = tuple[str, Hashable, Callable[[], str]]
"""A part's name, a value that changes whenever its HTML does (None: always), and what makes the HTML."""


@dataclass(slots=True)
class _Shown:
    """One part as it is shown."""

    mark: Hashable
    html: str
    version: int  # of the board, when it changed last


@dataclass(slots=True)
class Card:
    """One thing on a board."""

    key: str
    mark: Hashable = None
    parts: dict[str, _Shown] = field(default_factory=dict)
    version: int = 0  # of the board, when it came

    @property
    def element(self) -> str:
        return f"card-{self.key}"

    def html(self) -> str:
        inner = "".join(
            f'<div id="{escape(self.part_id(name))}" class="part-{name}">{shown.html}</div>'
            for name, shown in self.parts.items()
        )
        return f'<article id="{escape(self.element)}" class="card">{inner}</article>'

    def part_id(self, name: str) -> str:
        return f"{name}-{self.key}"


class Board:
    """The cards of one page. `refresh` looks what is new; `follow` gives it to one listener as it comes.

    `marks` gives each thing's key, in order, and a value that changes when it does (None: it may have changed);
    `parts` the parts of one; a LookupError from it: it is gone.
    """

    def __init__(self, marks: Callable[[], Mapping[str, Hashable]], parts: Callable[[str], Sequence[Part]]) -> None:
        self.listeners = 0
        self._marks = marks
        self._parts = parts
        self._cards: dict[str, Card] = {}
        self._epoch = secrets.token_hex(4)
        self._version = 0
        self._order_version = 0
        self._changes: deque[tuple[int, bytes]] = deque(maxlen=KEPT_CHANGES)
        self._changed = Signal()
        self._turn = asyncio.Lock()

    @property
    def stamp(self) -> str:
        """What the cards show now; a listener names it to get what comes after."""
        return f"{self._epoch}-{self._version}"

    @property
    def empty(self) -> bool:
        return not self._cards

    def html(self) -> str:
        return "".join(card.html() for card in self._cards.values())

    async def refresh(self) -> None:
        """Renders what has changed and wakes the listeners. A part's HTML is made only where its mark is another."""
        async with self._turn:
            version, changed = self._version + 1, False
            cards: dict[str, Card] = {}
            rendered = 0
            for key, mark in self._marks().items():
                card = self._cards.get(key) or Card(key, version=version)
                if card.version == version or mark is None or card.mark != mark:
                    try:
                        changed |= self._render(card, version)
                    except LookupError:
                        continue
                    card.mark = mark
                    rendered += 1
                    if not rendered % AT_ONCE:
                        await asyncio.sleep(0)
                cards[key] = card
            if list(cards) != list(self._cards):
                self._order_version, changed = version, True
            self._cards = cards
            if changed:
                before, self._version = self._version, version
                self._changes.append((version, self._event(before)))
                self._changed.set()

    def _render(self, card: Card, version: int) -> bool:
        changed, parts = False, {}
        for name, mark, make in self._parts(card.key):
            shown = card.parts.get(name)
            if shown is None or mark is None or shown.mark != mark:
                html = make()
                if shown is None or shown.html != html:
                    shown, changed = _Shown(mark, html, version), True
                shown.mark = mark
            parts[name] = shown
        if parts.keys() != card.parts.keys():
            card.version, changed = version, True
        card.parts = parts
        return changed

    def _event(self, since: int) -> bytes:
        """What has changed after version `since`, for the script: HTML by element, and the cards' order if that has."""
        html: dict[str, str] = {}
        for card in self._cards.values():
            if card.version > since:
                html[card.element] = card.html()
                continue
            for name, shown in card.parts.items():
                if shown.version > since:
                    html[card.part_id(name)] = shown.html
        body: dict[str, object] = {"html": html}
        if self._order_version > since:
            body["order"] = [card.element for card in self._cards.values()]
        return f"id: {self.stamp}\nevent: change\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode()

    async def follow(self, stamp: str, within_s: float) -> AsyncGenerator[bytes, None]:
        """Events for one who shows what `stamp` names, without end; an empty one where nothing came for `within_s`."""
        epoch, _, number = stamp.partition("-")
        known = epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 16
        seen = min(int(number), self._version) if known else -1
        while True:
            while seen < self._version:
                following = [event for version, event in self._changes if version > seen]
                whole = seen >= 0 and len(following) == self._version - seen
                seen, parts = self._version, following if whole else [self._event(seen)]
                yield b"".join(parts)
            try:
                async with asyncio.timeout(within_s):
                    await self._changed.wait()
            except TimeoutError:
                yield b""


class Boards:
    """The boards of all pages, each refreshed while somebody looks at it.

    Bound: `MAX_BOARDS`, of which those without listeners are forgotten first.
    """

    MAX_BOARDS = 64

    def __init__(
        self, make: Callable[[str], Board], interval_s: float, watched: Callable[[bool], None] = lambda _yes: None
    ) -> None:
        """`make` gives the board of a page's name, or raises `NotFound`; `watched` hears whether anybody looks."""
        self._watched = watched
        self._alone: asyncio.TimerHandle | None = None
        self.interval_s = interval_s
        self._make = make
        self._boards: dict[str, Board] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def listeners(self) -> int:
        return sum(board.listeners for board in self._boards.values())

    async def fresh(self, name: str) -> Board:
        """A board that shows what is now."""
        board = self._boards.pop(name, None) or self._make(name)
        self._boards[name] = board
        for other in [n for n, b in self._boards.items() if not b.listeners and n != name]:
            if len(self._boards) <= self.MAX_BOARDS:
                break
            del self._boards[other]
        await board.refresh()
        return board

    async def follow(self, name: str, stamp: str, within_s: float) -> AsyncGenerator[bytes, None]:
        """As `Board.follow`."""
        board = await self.fresh(name)
        board.listeners += 1
        if self._alone is not None:
            self._alone.cancel()
        self._watched(True)
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._keep_fresh(name, board), name=f"board {name}")
        try:
            async for event in board.follow(stamp, within_s):
                yield event
        finally:
            board.listeners -= 1
            if not board.listeners and (task := self._tasks.pop(name, None)):
                task.cancel()
            if not self.listeners:
                self._alone = asyncio.get_running_loop().call_later(WATCHED_ON_S, self._watched, False)

    async def _keep_fresh(self, name: str, board: Board) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await board.refresh()
            except Exception:
                log.exception("the page %s can't be made", name)
            await asyncio.sleep(max(self.interval_s / 2, self.interval_s - (loop.time() - began)))
