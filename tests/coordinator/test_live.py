"""Boards: what is rendered, what listeners get, and what ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Hashable, Sequence

from tvarr.coordinator.web.live import KEPT_CHANGES, Board, Boards, Part
from tvarr.errors import NotFound


class Shelf:
    """Things with a colour, and how often each was rendered."""

    def __init__(self, **things: str) -> None:
        self.things = things
        self.rendered: list[str] = []

    def marks(self) -> dict[str, Hashable]:
        return dict(self.things)

    def parts(self, key: str) -> Sequence[Part]:
        colour = self.things[key]

        def make() -> str:
            self.rendered.append(key)
            return f"<b>{colour}</b>"

        return [("name", "fixed", lambda: f"<i>{key}</i>"), ("colour", None, make)]

    def board(self) -> Board:
        return Board(self.marks, self.parts)


def body(event: bytes) -> dict[str, object]:
    lines = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
    assert lines["event"] == "change"
    return dict(json.loads(lines["data"]))


async def following(stream: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(5):
        return await anext(stream)


async def test_only_what_changed_is_rendered_and_sent() -> None:
    shelf = Shelf(a="red", b="blue")
    board = shelf.board()
    await board.refresh()
    assert board.html().count("<article") == 2
    listener = board.follow(board.stamp, 5)
    shelf.rendered.clear()
    shelf.things["b"] = "green"
    await board.refresh()
    assert body(await following(listener)) == {"html": {"colour-b": "<b>green</b>"}}
    assert shelf.rendered == ["b"]


async def test_cards_come_and_go() -> None:
    shelf = Shelf(a="red")
    board = shelf.board()
    await board.refresh()
    listener = board.follow(board.stamp, 5)
    shelf.things = {"c": "grey", "a": "red"}
    await board.refresh()
    change = body(await following(listener))
    assert change["order"] == ["card-c", "card-a"]
    assert list(change["html"]) == ["card-c"]  # type: ignore[call-overload]
    shelf.things = {"c": "grey"}
    await board.refresh()
    assert body(await following(listener)) == {"html": {}, "order": ["card-c"]}


async def test_who_was_away_gets_the_sum() -> None:
    shelf = Shelf(a="red", b="blue")
    board = shelf.board()
    await board.refresh()
    stamp = board.stamp
    for number in range(KEPT_CHANGES + 8):
        shelf.things["a"] = f"shade {number}"
        await board.refresh()
    late = body(await following(board.follow(stamp, 5)))
    assert late == {"html": {"colour-a": f"<b>shade {KEPT_CHANGES + 7}</b>"}}
    for stranger in ("", "elsewhere-3", "x", f"{stamp.partition('-')[0]}-٣"):
        whole = body(await following(board.follow(stranger, 5)))
        assert whole["order"] == ["card-a", "card-b"]
        assert set(whole["html"]) == {"card-a", "card-b"}  # type: ignore[call-overload]


async def test_listeners_share_the_bytes() -> None:
    shelf = Shelf(a="red")
    board = shelf.board()
    await board.refresh()
    listeners = [board.follow(board.stamp, 5) for _ in range(3)]
    waiting = [asyncio.create_task(following(listener)) for listener in listeners]
    await asyncio.sleep(0)
    shelf.things["a"] = "blue"
    await board.refresh()
    one, *others = await asyncio.gather(*waiting)
    assert all(other is one for other in others)


async def test_what_is_gone_while_it_is_looked_at_is_left_out() -> None:
    shelf = Shelf(a="red")
    board = Board(lambda: {"a": 1, "b": 2}, shelf.parts)
    await board.refresh()
    assert board.html().count("<article") == 1


async def test_keys_are_text() -> None:
    shelf = Shelf(**{'"><script>': "red"})
    board = shelf.board()
    await board.refresh()
    assert "<script" not in board.html().replace('<i>"><script></i>', "")


async def test_a_board_is_kept_fresh_only_while_somebody_looks() -> None:
    shelf = Shelf(a="red")
    boards = Boards(lambda _name: shelf.board(), 0.01)
    board = await boards.fresh("shelf")
    listener = boards.follow("shelf", board.stamp, 5)
    waiting = asyncio.create_task(following(listener))
    await asyncio.sleep(0.02)
    assert boards.listeners == 1
    shelf.things["a"] = "blue"
    assert body(await waiting)["html"] == {"colour-a": "<b>blue</b>"}
    await listener.aclose()
    assert boards.listeners == 0
    await asyncio.sleep(0.02)
    assert len(asyncio.all_tasks()) == 1


async def test_boards_are_bounded() -> None:
    shelf = Shelf(a="red")
    boards = Boards(lambda _name: shelf.board(), 1)
    watched = await boards.fresh("watched")
    watched.listeners = 1
    for number in range(Boards.MAX_BOARDS + 10):
        await boards.fresh(str(number))
    assert await boards.fresh("watched") is watched
    assert len(boards._boards) == Boards.MAX_BOARDS


async def test_a_page_that_there_is_not() -> None:
    def make(name: str) -> Board:
        raise NotFound(name)

    try:
        await Boards(make, 1).fresh("x")
    except NotFound:
        return
    raise AssertionError
