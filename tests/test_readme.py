"""The README's tables of settings are what the command line says: `python -m tests.test_readme` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tvarr.config import COMMANDS, settings

README = Path(__file__).parents[1] / "README.md"
PART = re.compile(r"(?<=<!-- settings: made by `make docs` -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def tables() -> Iterator[str]:
    for command, config in COMMANDS.items():
        yield f"\n### `tvarr {command}`\n\n| flag | environment | default | |\n|---|---|---|---|\n"
        for item in settings(config):
            takes = f" {item.takes.metavar}" if item.takes.metavar else ""
            flag = f"`{item.flag}{takes}`".replace("|", "\\|")
            variable = f"`{item.variable}`" + (f", `{item.variable}_FILE`" if item.secret else "")
            yield f"| {flag} | {variable} | {item.shown_default} | {item.help} |\n"
    yield "\n"


def test_the_tables_are_those_of_the_command_line() -> None:
    found = PART.search(README.read_text())
    assert found, "the README has lost its markers"
    assert found[0] == "".join(tables()), "run `make docs`"


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (README.parent / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README.read_text(), re.MULTILINE))
    assert "run" in named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


if __name__ == "__main__":
    README.write_text(PART.sub(lambda _: "".join(tables()), README.read_text()))
