"""Every example, made from `proto/` alone, does a real job whose output ffprobe accepts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import decode_errors, make_clip, probe
from tests.examples import CLIENTS, EXAMPLES, make, pictures_and_speed, run
from tests.listening import Listening, listening

FRAMES = 100


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("box")) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts", seconds=FRAMES / 25, size="320x180")


@pytest.mark.parametrize("codec", ["copy", "hevc"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_puts_a_file_through_a_daemon(
    box: Listening, clip: Path, tmp_path: Path, name: str, codec: str
) -> None:
    language, command = CLIENTS[name]
    make(language)
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), codec)
    assert code == 0, output
    assert pictures_and_speed(output)[0] == FRAMES
    made = probe(tmp_path / "out")
    assert made.codecs() == ["h264" if codec == "copy" else "hevc"]
    assert (made.streams[0]["width"], made.streams[0]["height"]) == (320, 180)
    assert len(made.packets) == FRAMES
    assert decode_errors(tmp_path / "out") == []
    box.idle()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_is_turned_away_says_why(box: Listening, clip: Path, tmp_path: Path, name: str) -> None:
    language, command = CLIENTS[name]
    make(language)
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), token="wrong")
    assert code == 1, output
    assert "unauthenticated" in output.lower()
    assert len(output.splitlines()) == 1
    code, output = run(*command, box.target, str(clip), str(tmp_path / "out"), "nonsense")
    assert code == 1, output
    assert "BAD_REQUEST" in output


def test_every_example_is_a_page_long_and_has_its_line() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    written = [
        path
        for language in ("python", "node", "go")
        for path in (EXAMPLES / language).glob("*.*")
        if path.suffix in {".py", ".mjs", ".go"} and "pb2" not in path.name
    ]
    assert written
    for path in written:
        assert len(path.read_text().splitlines()) <= 150, path
        assert path.relative_to(EXAMPLES).as_posix() in readme, path
