"""`container/as-user.sh`, as root in a mount namespace whose `/dev` is made for the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import lacking

SCRIPT = Path(__file__).parents[1] / "container/as-user.sh"
DEVICES = "renderD128=109 renderD129=110 card0=44 renderD130=0"  # file in /dev/dri and the group that owns it
STAGE = f"""
set -e
mount -t tmpfs none /mnt
mkdir /mnt/dri
touch /mnt/null
for device in {DEVICES}; do
    touch /mnt/dri/${{device%=*}}
    chgrp ${{device#*=}} /mnt/dri/${{device%=*}}
done
mount --bind /dev/null /mnt/null
mount --rbind /mnt /dev
exec "$@"
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.getuid() != 0:
        lacking("root")


def as_user(*command: str, data: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command through the script, with the supplementary groups 0 and 77."""
    line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", STAGE, "sh"]
    line += ["setpriv", "--groups", "0,77", str(SCRIPT), *command]
    settings = {"PATH": os.environ["PATH"], "TVARR_DATA_DIR": str(data), **environ}
    return subprocess.run(line, env=settings, capture_output=True, text=True, check=False, timeout=30)


def test_it_joins_the_groups_of_render_devices_and_keeps_those_it_was_given(tmp_path: Path) -> None:
    done = as_user("id", "-G", data=tmp_path)
    assert (done.returncode, sorted(map(int, done.stdout.split()))) == (0, [77, 109, 110, 1000]), done.stderr


def test_user_and_group_are_those_that_were_asked_for_and_own_the_data(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    done = as_user("sh", "-c", "echo $(id -u):$(id -g)", data=tmp_path, PUID="1234", PGID="4321")
    assert (done.returncode, done.stdout) == (0, "1234:4321\n"), done.stderr
    for path in (tmp_path, tmp_path / "old"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_data_that_is_not_there_does_not_matter(tmp_path: Path) -> None:
    assert as_user("true", data=tmp_path / "none").returncode == 0


def test_the_programs_exit_code_is_passed_on(tmp_path: Path) -> None:
    assert as_user("sh", "-c", "exit 7", data=tmp_path).returncode == 7


@pytest.mark.parametrize("name", ["PUID", "PGID"])
@pytest.mark.parametrize("value", ["ada", "-1", "1.5", "0x1", "1 2"])
def test_what_is_no_number_is_one_line_and_code_2(tmp_path: Path, name: str, value: str) -> None:
    done = as_user("true", data=tmp_path, **{name: value})
    line = f"as-user.sh: {name} takes a user's or group's number, not '{value}'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_without_a_program_it_says_so(tmp_path: Path) -> None:
    done = as_user(data=tmp_path)
    assert (done.returncode, done.stderr) == (2, "as-user.sh: which program?\n")
