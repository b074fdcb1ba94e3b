"""Files: only below the one folder, and each failure in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvarr.coordinator.source import SourceFailure, SourceSpec
from tvarr.coordinator.sources.file import READ_BYTES, open_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "sub folder").mkdir(parents=True)
    (folder / "a.ts").write_bytes(b"a" * 1000)
    (folder / "sub folder" / "ü#?.ts").write_bytes(b"b")
    (tmp_path / "outside.ts").write_bytes(b"c")
    (folder / "link.ts").symlink_to(tmp_path / "outside.ts")
    (folder / "inner.ts").symlink_to(folder / "a.ts")
    (folder / "circle.ts").symlink_to(folder / "circle.ts")
    os.mkfifo(folder / "pipe.ts")
    return folder


async def content(url: str, folder: Path | None) -> bytes:
    spec = SourceSpec(url.replace("FOLDER", str(folder)), media_dir=folder)
    data = b""
    async with open_file(spec) as stream:
        while piece := await stream.read():
            assert not stream.whole
            data += piece
        assert stream.whole
    return data


@pytest.mark.parametrize(
    ("url", "first"),
    [
        ("file:a.ts", b"a"),
        ("file:a.ts#program=1", b"a"),
        ("file:./sub%20folder/../a.ts", b"a"),
        ("file:sub folder/%C3%BC%23%3F.ts", b"b"),
        ("file://FOLDER/a.ts", b"a"),
        ("file://localhostFOLDER/a.ts", b"a"),
        ("file:inner.ts", b"a"),
    ],
)
async def test_read(url: str, first: bytes, folder: Path) -> None:
    assert (await content(url, folder))[:1] == first


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:none.ts", "there is no file none.ts"),
        ("file:sub folder", "sub folder is a folder"),
        ("file:", "media is a folder"),
        ("file:../outside.ts", "outside of the folder"),
        ("file:..%2foutside.ts", "outside of the folder"),
        ("file:///etc/passwd", "outside of the folder"),
        ("file://FOLDER/../outside.ts", "outside of the folder"),
        ("file:link.ts", "outside of the folder"),
        ("file:circle.ts", "circle.ts can't be read|can't be used|there is no file"),
        ("file:pipe.ts", "not a regular file"),
        ("file:a%00.ts", "can't be used"),
        ("file:" + "x" * 300, "can't be read|can't be used"),
        ("file://host/a.ts", "has no host"),
    ],
)
async def test_refused(url: str, words: str, folder: Path) -> None:
    with pytest.raises(SourceFailure, match=words):
        await content(url, folder)


async def test_without_a_folder_there_are_no_files() -> None:
    with pytest.raises(SourceFailure, match="--media-dir"):
        await content("file:///etc/passwd", None)


async def test_a_big_file_comes_in_pieces(folder: Path) -> None:
    (folder / "a.ts").write_bytes(os.urandom(READ_BYTES * 2 + 5))
    assert await content("file:a.ts", folder) == (folder / "a.ts").read_bytes()
