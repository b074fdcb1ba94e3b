"""The daemons' token: made once, kept, and renewed where it is the coordinator's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvarr.coordinator.token import FILE_NAME, DaemonToken
from tvarr.errors import Conflict, StartError, StoreError


async def test_it_is_made_once_and_renewed_at_once(tmp_path: Path) -> None:
    first = DaemonToken(tmp_path, "")
    file = tmp_path / FILE_NAME
    assert file.read_text().strip() == first.value
    assert file.stat().st_mode & 0o777 == 0o600
    assert DaemonToken(tmp_path, "").value == first.value
    before = first.value
    await first.renew()
    assert first.value != before
    assert DaemonToken(tmp_path, "").value == first.value
    assert os.listdir(tmp_path) == [FILE_NAME]
    assert file.stat().st_mode & 0o777 == 0o600


async def test_one_that_a_setting_gave_is_changed_there(tmp_path: Path) -> None:
    given = DaemonToken(tmp_path, "given")
    assert (given.value, given.is_ours) == ("given", False)
    with pytest.raises(Conflict):
        await given.renew()
    assert os.listdir(tmp_path) == []


async def test_a_setting_may_name_the_file_that_is_kept(tmp_path: Path) -> None:
    """As `run-roles.sh` does, for the daemon beside the coordinator."""
    kept = DaemonToken(tmp_path, "").value
    named = DaemonToken(tmp_path, kept)
    assert named.is_ours
    await named.renew()
    assert DaemonToken(tmp_path, "").value == named.value != kept


async def test_where_the_new_one_can_t_be_kept_the_old_one_counts(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    token = DaemonToken(folder, "")
    before = token.value
    (folder / FILE_NAME).rename(tmp_path / "elsewhere")
    folder.rmdir()
    with pytest.raises(StoreError, match="can't be kept in"):
        await token.renew()
    assert token.value == before


def test_a_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("\n")
    with pytest.raises(StartError, match="is empty"):
        DaemonToken(tmp_path, "")
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(StartError, match="can't be read"):
        DaemonToken(tmp_path, "")
