"""Finds the files that travel with the code: pages, the wire contract, the demo clip."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Name = Literal["templates", "proto", "examples"]

PACKAGE = Path(__file__).parent


def path(name: Name) -> Path:
    """The folder `name`: inside the package where tvarr came as a wheel, beside it in a checkout.

    An editable install points at a checkout. Raises FileNotFoundError where neither has it: a broken install.
    """
    for folder in (PACKAGE / "_data" / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"tvarr's own folder '{name}' is missing: looked in {PACKAGE}/_data and {PACKAGE.parent}")
