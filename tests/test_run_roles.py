"""`run-roles.sh` over small programs that stand for the roles."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import program
from tests.harness import as_from_a_terminal

SCRIPT = Path(__file__).parents[1] / "run-roles.sh"
LIMIT_S = 20.0

# A role that notes each start with its pid and, as asked, stops on TERM, on the second TERM only, or never.
LIVES = 'trap "echo $1 >>stopped; exit 0" TERM; echo "$1 $$" >>starts; while :; do sleep 0.05; done'
STUBBORN = 'trap "" TERM; echo "$1 $$" >>starts; while :; do sleep 0.05; done'
SECOND_TERM = 'trap "echo first >>heard; trap - TERM" TERM; echo "$1 $$" >>starts; while :; do sleep 0.05; done'


class Roles:
    """`run-roles.sh` in a folder of its own, where `.venv/bin/tvarr` and, as asked, `sleep` and `date` are doubles."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder = folder
        self.shell = shell
        self.running: list[subprocess.Popen[str]] = []
        self.environ = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder / "home")}
        shutil.copy(SCRIPT, folder)
        (folder / "bin").mkdir()

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def tvarr(self, body: str) -> None:
        self.program(".venv/bin/tvarr", body)

    def waits(self, seconds: int) -> Callable[[], bool]:
        """Whether the script has gone to sleep for so long: only then has it taken note of a crash. To be asked for
        before the start."""
        self.program("bin/sleep", 'echo "$1" >>naps; exec /bin/sleep "$1"')
        return lambda: str(seconds) in self.lines("naps")

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.shell, str(self.folder / "run-roles.sh"), *arguments],
            cwd=self.folder,
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,
        )
        self.running.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        process = self.start(*arguments, **environ)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines("starts")]


@pytest.fixture(params=["dash", "bash", "busybox sh"])
def roles(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Roles]:
    name, *applet = request.param.split()
    made = Roles(tmp_path, [program(name), *applet])
    yield made
    for process in made.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def crash(role: str, code: int, delay_s: int) -> str:
    """The line, as a pattern, with which the script says that a role crashed."""
    return rf"run-roles\.sh: {role} ended with exit code {code} after \d+ s; starting it again in {delay_s} s"


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_term_stops_every_role_cleanly(roles: Roles) -> None:
    roles.tvarr(LIVES)
    process = roles.start()
    roles.until(lambda: len(roles.lines("starts")) == 2)
    process.terminate()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output) == (0, "")
    assert sorted(roles.lines("stopped")) == ["coordinator", "ffmpegd"]
    assert all(gone(pid) for pid in roles.pids())


def test_a_role_too_young_to_hear_the_signal_has_stopped_as_asked(roles: Roles) -> None:
    roles.tvarr('echo "$1 $$" >>starts; exec sleep 30')
    process = roles.start()
    roles.until(lambda: len(roles.lines("starts")) == 2)
    process.terminate()
    assert process.wait(LIMIT_S) == 0
    assert all(gone(pid) for pid in roles.pids())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_everybody_counts_once(roles: Roles, number: signal.Signals) -> None:
    roles.tvarr(SECOND_TERM.replace("trap - TERM", "wait; exit 0"))
    process = roles.start()
    roles.until(lambda: len(roles.lines("starts")) == 2)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output) == (0, "")
    assert roles.lines("heard") == ["first", "first"]


@pytest.mark.parametrize(
    ("arguments", "variable", "started"),
    [
        ([], "", ["coordinator", "ffmpegd"]),
        (["all"], "coordinator", ["coordinator", "ffmpegd"]),
        ([], "ffmpegd", ["ffmpegd"]),
        ([], "ffmpegd coordinator", ["coordinator", "ffmpegd"]),
        (["ffmpegd", "coordinator"], "viewer", ["coordinator", "ffmpegd"]),
    ],
)
def test_which_roles_run(roles: Roles, arguments: list[str], variable: str, started: list[str]) -> None:
    roles.tvarr(LIVES)
    process = roles.start(*arguments, TVARR_ROLE=variable)
    roles.until(lambda: len(roles.lines("starts")) == len(started))
    process.terminate()
    assert process.wait(LIMIT_S) == 0
    assert sorted(line.split()[0] for line in roles.lines("starts")) == started


def test_an_unknown_role_is_one_line_and_code_2(roles: Roles) -> None:
    roles.tvarr(LIVES)
    assert roles.run("coordinator", "viewer") == (
        2,
        "run-roles.sh: unknown role 'viewer': takes all, coordinator, ffmpegd\n",
    )
    assert roles.run(TVARR_ROLE="*")[0] == 2
    assert roles.lines("starts") == []


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        (["coordinator", "coordinator"], "coordinator"),
        (["all", "ffmpegd"], "ffmpegd"),
        (["coordinator", "ffmpegd", "coordinator", "ffmpegd"], "coordinator"),
    ],
)
def test_a_role_given_twice_is_one_line_and_code_2(roles: Roles, arguments: list[str], role: str) -> None:
    roles.tvarr(LIVES)
    line = f"run-roles.sh: role '{role}' is given twice: takes all, or each role once\n"
    assert roles.run(*arguments) == (2, line)
    assert roles.lines("starts") == []


@pytest.mark.parametrize("argument", ["ffmpegd", "all"])
def test_an_image_without_the_role_is_one_line_and_code_1(roles: Roles, argument: str) -> None:
    roles.tvarr(LIVES)
    line = "this image can't run ffmpegd, it is made for coordinator: take the image tvarr or tvarr-ffmpegd"
    assert roles.run(argument, TVARR_IMAGE_ROLES="coordinator") == (1, f"run-roles.sh: {line}\n")
    assert roles.lines("starts") == []


def test_a_program_that_cannot_be_started_ends_with_1(roles: Roles) -> None:
    roles.program(".venv/bin/tvarr", "")
    (roles.folder / ".venv/bin/tvarr").write_text("#!/no/such/interpreter\n")
    code, output = roles.run("ffmpegd")
    assert code == 1
    assert re.search(r"run-roles\.sh: ffmpegd can't be started \(exit code 12[67]\): ending\n$", output)


def test_no_program_is_one_line_and_code_1(roles: Roles) -> None:
    roles.environ["PATH"] = "/usr/bin:/bin"
    assert roles.run("coordinator") == (
        1,
        f"run-roles.sh: no program tvarr: looked for {roles.folder}/.venv/bin/tvarr and on PATH\n",
    )


def test_the_program_may_be_on_the_path(roles: Roles) -> None:
    roles.program("bin/tvarr", "echo on-path; exit 2")
    assert roles.run("ffmpegd")[1].startswith("on-path\n")


def test_what_crashes_is_started_again_after_growing_delays(roles: Roles) -> None:
    roles.program("bin/sleep", 'echo "$1" >>naps')
    roles.tvarr(
        'trap "exit 0" TERM; echo "$1 $$" >>starts; case $(wc -l <starts) in 1) exit 1;; 2) kill -9 $$;; '
        "8) while :; do /bin/sleep 0.05; done;; *) exit 3;; esac"
    )
    process = roles.start("coordinator")
    roles.until(lambda: len(roles.lines("starts")) == 8)
    process.terminate()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert roles.lines("naps")[:7] == ["1", "2", "4", "8", "16", "30", "30"]
    said = output.splitlines()
    assert len(said) == 7
    assert re.fullmatch(crash("coordinator", 1, 1), said[0])
    assert re.fullmatch(crash("coordinator", 137, 2), said[1])
    assert re.fullmatch(crash("coordinator", 3, 30), said[6])


def test_a_minute_of_health_sets_the_delay_back(roles: Roles) -> None:
    roles.program("bin/sleep", 'echo "$1" >>naps')
    # Each look at the clock is 10 s later; before the fourth end of the role it is 70 s later.
    roles.program("bin/date", "echo x >>clock; n=$(wc -l <clock); [ $n -lt 8 ] || n=$((n + 6)); echo ${n}0")
    roles.tvarr('echo "$1 $$" >>starts; [ $(wc -l <starts) -lt 6 ] || { while :; do /bin/sleep 0.05; done; }; exit 9')
    process = roles.start("ffmpegd")
    roles.until(lambda: len(roles.lines("starts")) == 6)
    process.terminate()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert roles.lines("naps")[:5] == ["1", "2", "4", "1", "2"]
    assert "exit code 9 after 70 s; starting it again in 1 s" in output


def test_a_crash_of_one_leaves_the_other_alone(roles: Roles) -> None:
    roles.tvarr(f'[ "$1" = coordinator ] || [ -e crashed ] || {{ >crashed; exit 7; }}; {LIVES}')
    process = roles.start()
    roles.until(lambda: len(roles.lines("starts")) == 2)
    process.terminate()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert re.fullmatch(crash("ffmpegd", 7, 1) + "\n", output)
    assert sorted(line.split()[0] for line in roles.lines("starts")) == ["coordinator", "ffmpegd"]


def test_settings_that_cannot_be_used_end_everything_with_2(roles: Roles) -> None:
    roles.tvarr(f'[ "$1" = coordinator ] && {{ echo "tvarr coordinator: --http-port takes..."; exit 2; }}; {LIVES}')
    code, output = roles.run()
    assert code == 2
    assert output.splitlines()[-1] == (
        "run-roles.sh: coordinator can't use its settings (exit code 2); its own line above says which: ending"
    )
    assert all(gone(pid) for pid in roles.pids())


def test_code_2_after_a_good_start_is_a_crash_like_any_other(roles: Roles) -> None:
    roles.program("bin/sleep", "")
    roles.tvarr(
        f"case $(cat starts 2>/dev/null | wc -l) in 0) echo >starts; exit 1;; 1) echo >>starts; exit 2;; esac; {LIVES}"
    )
    process = roles.start("ffmpegd")
    roles.until(lambda: len(roles.lines("starts")) == 3)
    process.terminate()
    assert process.wait(LIMIT_S) == 0


def test_a_signal_during_the_delay_ends_at_once(roles: Roles) -> None:
    roles.tvarr("echo >>starts; exit 1")
    waits = roles.waits(2)
    process = roles.start("coordinator")
    roles.until(waits)
    process.terminate()
    began = time.monotonic()
    assert process.wait(LIMIT_S) == 0
    assert time.monotonic() - began < 1.5
    process.communicate(timeout=1)  # nobody is left who holds our pipe


def test_a_second_signal_is_passed_on(roles: Roles) -> None:
    roles.tvarr(SECOND_TERM)
    process = roles.start("coordinator")
    roles.until(lambda: len(roles.lines("starts")) == 1)
    process.terminate()
    roles.until(lambda: roles.lines("heard") == ["first"])
    process.terminate()
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert gone(roles.pids()[0])


def test_a_role_that_ignores_the_signal_is_killed_after_9_s(roles: Roles) -> None:
    roles.program("bin/date", "echo x >>clock; echo $(wc -l <clock)")  # a look at the clock lasts a second
    roles.tvarr(STUBBORN)
    process = roles.start("coordinator")
    roles.until(lambda: len(roles.lines("starts")) == 1)
    process.terminate()
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGKILL
    assert output == "run-roles.sh: coordinator did not stop within 9 s: killing it\n"
    assert gone(roles.pids()[0])
    assert len(roles.lines("clock")) == 1 + 1 + 10


def test_a_supervisor_that_missed_the_signal_is_reminded(roles: Roles) -> None:
    """The reminder alone stops it: a TERM that comes as it is forked goes to the handler of the shell that forks it."""
    roles.tvarr(LIVES)
    process = roles.start("ffmpegd")
    roles.until(lambda: len(roles.lines("starts")) == 1)
    (supervisor,) = psutil.Process(process.pid).children()
    supervisor.send_signal(signal.SIGUSR2)
    assert process.wait(LIMIT_S) == 0
    assert roles.lines("stopped") == ["ffmpegd"]
    assert len(roles.lines("starts")) == 1


class TestRetiring:
    ENDS = 'trap "echo $1 >>retired; exit 0" USR1; '

    def test_a_daemon_ends_and_is_not_started_again(self, roles: Roles) -> None:
        roles.tvarr(self.ENDS + LIVES)
        process = roles.start("ffmpegd")
        roles.until(lambda: len(roles.lines("starts")) == 1)
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, output) == (0, "")
        assert roles.lines("retired") == ["ffmpegd"]
        assert len(roles.lines("starts")) == 1

    def test_a_coordinator_beside_it_goes_on(self, roles: Roles) -> None:
        roles.tvarr(self.ENDS + LIVES)
        process = roles.start()
        roles.until(lambda: len(roles.lines("starts")) == 2)
        process.send_signal(signal.SIGUSR1)
        roles.until(lambda: roles.lines("retired") == ["ffmpegd"])
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert roles.lines("stopped") == ["coordinator"]

    def test_term_ends_it_while_it_waits_for_its_jobs(self, roles: Roles) -> None:
        roles.tvarr('trap "echo heard >>retired" USR1; ' + LIVES)
        process = roles.start("ffmpegd")
        roles.until(lambda: len(roles.lines("starts")) == 1)
        process.send_signal(signal.SIGUSR1)
        roles.until(lambda: roles.lines("retired") == ["heard"])
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert roles.lines("stopped") == ["ffmpegd"]

    def test_between_two_starts_it_ends_at_once(self, roles: Roles) -> None:
        roles.tvarr("echo >>starts; exit 1")
        waits = roles.waits(2)
        process = roles.start("ffmpegd")
        roles.until(waits)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(LIMIT_S) == 0
        assert len(roles.lines("starts")) == 2


def test_the_roles_that_run_are_written_down(roles: Roles) -> None:
    roles.tvarr(LIVES)
    process = roles.start("ffmpegd", TVARR_ROLES_FILE=str(roles.folder / "roles"))
    roles.until(lambda: len(roles.lines("starts")) == 1)
    process.terminate()
    assert process.wait(LIMIT_S) == 0
    assert (roles.folder / "roles").read_text().split() == ["ffmpegd"]


def test_a_place_to_write_them_down_that_is_not_there_does_not_matter(roles: Roles) -> None:
    roles.tvarr(LIVES)
    process = roles.start("ffmpegd", TVARR_ROLES_FILE="/no/such/folder/roles")
    roles.until(lambda: len(roles.lines("starts")) == 1)
    process.terminate()
    assert process.communicate(timeout=LIMIT_S)[0] == ""


class TestTheSharedSettings:
    REPORT = "env | grep ^TVARR_ | sort >env.$1; exit 2"

    def test_made_where_nothing_is_set(self, roles: Roles) -> None:
        roles.tvarr(self.REPORT)
        assert roles.run()[0] == 2
        file = roles.folder / "home/.local/share/tvarr/auth-token"
        expected = [f"TVARR_AUTH_TOKEN_FILE={file}", "TVARR_COORDINATOR_URL=127.0.0.1:9090"]
        seen = roles.lines("env.coordinator") or roles.lines("env.ffmpegd")
        assert seen == expected
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text()) == 64
        token = file.read_text()
        roles.run()
        assert file.read_text() == token, "made anew at the second start"

    def test_what_the_user_said_stays(self, roles: Roles) -> None:
        roles.tvarr(self.REPORT)
        roles.run("coordinator", "ffmpegd", TVARR_AUTH_TOKEN="mine", TVARR_GRPC_PORT="1234", TVARR_HOST="10.0.0.9")
        seen = roles.lines("env.coordinator") or roles.lines("env.ffmpegd")
        assert "TVARR_AUTH_TOKEN=mine" in seen
        assert "TVARR_COORDINATOR_URL=10.0.0.9:1234" in seen
        assert not (roles.folder / "home").exists()

    def test_one_role_alone_is_told_nothing(self, roles: Roles) -> None:
        roles.tvarr(self.REPORT)
        roles.run("ffmpegd")
        assert roles.lines("env.ffmpegd") == []

    def test_data_folder_of_the_user(self, roles: Roles) -> None:
        roles.tvarr(self.REPORT)
        roles.run(TVARR_DATA_DIR=str(roles.folder / "d"))
        assert (roles.folder / "d/auth-token").exists()

    def test_a_folder_that_cannot_be_written(self, roles: Roles) -> None:
        roles.tvarr(self.REPORT)
        (roles.folder / "file").touch()
        code, output = roles.run(TVARR_DATA_DIR=str(roles.folder / "file/d"))
        assert code == 1
        assert output.splitlines()[-1] == (
            f"run-roles.sh: can't write the token that the roles share: {roles.folder}/file/d/auth-token"
        )


def test_json_lines(roles: Roles) -> None:
    code, output = roles.run('a"b\\c', TVARR_LOG_FORMAT="json")
    entry = json.loads(output)
    assert code == 2
    assert entry["level"] == "error"
    assert entry["message"] == "unknown role 'abc': takes all, coordinator, ffmpegd"
