"""Which boards there are, and the parts that their cards are made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment

from tvarr.coordinator.web.live import Board, Part
from tvarr.coordinator.web.services import CoordinatorServices, View
from tvarr.errors import NotFound

TRANSCODERS, RELAYS = "transcoders", "relays"
FAILURES = "failures"  # the last card among the relays' ids


class Gone(LookupError):
    """What a card showed is no longer there."""


class BoardMaker:
    """Boards by the path of their page: `transcoders`, `transcoders/ID`, `relays`."""

    def __init__(self, services: CoordinatorServices, pages: Environment) -> None:
        self._services = services
        self._pages = pages
        self._relays: dict[str, View] = {}

    def __call__(self, name: str) -> Board:
        """Raises `NotFound`."""
        kind, _, key = name.partition("/")
        if kind == TRANSCODERS and key:
            self._services.transcoder(key)
            return Board(lambda: self._mark_of(key), self._transcoder_page)
        if kind == TRANSCODERS:
            return Board(self._services.transcoder_marks, self._transcoder_card)
        if name == RELAYS:
            return Board(self._relay_marks, self._relay_card)
        raise NotFound(f"there is no page {name[:80]!r}")

    def _macro(self, name: str, *arguments: object) -> Callable[[], str]:
        return lambda: str(getattr(self._pages.get_template("parts.html").module, name)(*arguments))

    # ------------------------------------------------------------------------------------------- transcoders

    def _mark_of(self, key: str) -> dict[str, Hashable]:
        marks = self._services.transcoder_marks()
        return {key: marks[key]} if key in marks else {}

    def _transcoder(self, key: str) -> View:
        try:
            return self._services.transcoder(key)
        except NotFound:
            raise Gone from None

    def _transcoder_card(self, key: str) -> Sequence[Part]:
        return self._parts_of(self._transcoder(key), full=False)

    def _transcoder_page(self, key: str) -> Sequence[Part]:
        daemon = self._transcoder(key)
        return [
            *self._parts_of(daemon, full=True),
            ("commands", None, self._macro("transcoder_commands", daemon)),
            ("past", None, self._macro("transcoder_past", daemon)),
            ("host", None, self._macro("transcoder_host", daemon)),
        ]

    def _parts_of(self, daemon: dict[str, Any], *, full: bool) -> Sequence[Part]:
        return [
            ("head", None, self._macro("transcoder_head", daemon, full)),
            ("figures", None, self._macro("transcoder_figures", daemon)),
            ("gpus", None, self._macro("transcoder_gpus", daemon)),
            ("jobs", None, self._macro("transcoder_jobs", daemon)),
            ("encoders", id(daemon["capabilities"]), self._macro("transcoder_encoders", daemon, full)),
        ]

    # ------------------------------------------------------------------------------------------------ relays

    def _relay_marks(self) -> dict[str, Hashable]:
        self._relays = {relay["id"]: relay for relay in self._services.relays()}
        marks: dict[str, Hashable] = dict.fromkeys(self._relays)
        if failures := self._services.failures():
            marks[FAILURES] = str(failures)
        return marks

    def _relay_card(self, key: str) -> Sequence[Part]:
        if key == FAILURES:
            return [("all", None, self._macro("failures", self._services.failures()))]
        relay = self._relays[key]
        key_query = "&" + urlencode({"key": self._services.stream_key}) if self._services.stream_key else ""
        return [
            ("head", None, self._macro("relay_head", relay)),
            ("source", None, self._macro("relay_source", relay)),
            ("preview", key, self._macro("relay_preview", relay)),
            ("variants", None, self._macro("relay_variants", relay, self._services.daemon_names(), key_query)),
        ]
