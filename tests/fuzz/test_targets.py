"""Every target takes its seeds, what fuzzing once found, and some inputs near them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutate import mutants
from tests.fuzz.targets import TARGETS, corpus

FOUND = sorted((Path(__file__).parent / "found").iterdir())
MUTANTS = 40


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_is_near_them(name: str, media_dir: Path) -> None:
    seeds = corpus(name)
    assert seeds
    for data in [*seeds, *islice(mutants(seeds, Random(1), TARGETS[name].max_bytes), MUTANTS)]:
        TARGETS[name].run(data)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_fuzzing_found(path: Path) -> None:
    """A file is named by its target: `ts-…`."""
    TARGETS[path.name.partition("-")[0]].run(path.read_bytes())
