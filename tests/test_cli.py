"""The command line: exit codes, one line where something is wrong, and what `--help` says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tvarr import __version__, cli
from tvarr.config import COMMANDS, CoordinatorConfig, FfmpegdConfig, settings
from tvarr.coordinator.app import CoordinatorOptions
from tvarr.ffmpegd.app import FfmpegdOptions

BIN = Path(sys.executable).parent


def tvarr(*arguments: str, program: str = "tvarr", **environ: str) -> subprocess.CompletedProcess[str]:
    """A real process of the installed command, without this machine's own settings."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TVARR_")}
    return subprocess.run(
        [BIN / program, *arguments], env=clean | environ, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TVARR_"):
            monkeypatch.delenv(name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, alias: bool = False) -> tuple[int, str, str]:
    command, name = (cli.alias, "tvarr-ffmpegd") if alias else (cli.app, "tvarr")
    code = cli.run(command, name, arguments)
    out, err = capsys.readouterr()
    return code, out, err


class TestRealProcesses:
    @pytest.mark.parametrize("program", ["tvarr", "tvarr-ffmpegd"])
    def test_a_bad_flag_is_one_line_and_code_2(self, program: str) -> None:
        command = ["ffmpegd"] if program == "tvarr" else []
        done = tvarr(*command, "--max-jobs", "none", program=program)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"{program}: --max-jobs takes a whole number, 1 or more, or auto, not 'none'\n"

    def test_a_bad_variable_is_named(self) -> None:
        done = tvarr("coordinator", TVARR_GRPC_PORT="x")
        assert done.returncode == 2
        assert done.stderr == (
            "tvarr: --grpc-port takes a port from 0 (any free one) to 65535, not 'x' (from TVARR_GRPC_PORT)\n"
        )

    def test_a_failure_to_start_is_one_line_and_code_1(self, tmp_path: Path) -> None:
        done = tvarr("probe", "--ffmpeg", str(tmp_path / "no-ffmpeg"))
        assert done.returncode == 1
        assert done.stderr.startswith("tvarr: ")
        assert done.stderr.count("\n") == 1

    def test_no_coordinator_is_one_line_and_code_3(self) -> None:
        done = tvarr("status", "--url", "http://127.0.0.1:9")
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1

    def test_as_a_module(self) -> None:
        done = subprocess.run([sys.executable, "-m", "tvarr", "version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"tvarr {__version__}\n"

    def test_help_needs_none_of_the_roles(self) -> None:
        code = (
            "import sys; from tvarr import cli; cli.run(cli.app, 'tvarr', ['coordinator', '--help']); "
            "print(*sorted(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "--http-port" in done.stdout
        loaded = set(done.stderr.split())
        assert not loaded & {"grpc", "aiohttp", "tvarr.coordinator", "tvarr.ffmpegd", "tvarr.hwaccel"}

    def test_a_daemon_loads_an_http_server_only_to_be_watched(self) -> None:
        code = "import sys; from tvarr.ffmpegd import app; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not set(done.stdout.split()) & {"aiohttp", "tvarr.ffmpegd.monitor"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["coordinator", "--http-port"], "--http-port"),
        (["coordinator", "--nonsense"], "--nonsense"),
        (["coordinator", "surplus"], "surplus"),
        (["transcode"], "transcode"),
        (["ffmpegd", "--log-format", "xml"], "--log-format takes text or json, not 'xml'"),
        (["status", "--url", "localhost"], "--url takes an http:// or https:// URL, not 'localhost'"),
    ],
)
def test_what_makes_no_command_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tvarr: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(capsys, *arguments) == (0, f"tvarr {__version__}\n", "")


@pytest.mark.parametrize("role", ["coordinator", "ffmpegd"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loading", ["typer", "tvarr.config", "app"])
def test_a_signal_while_a_role_is_loaded_ends_it_cleanly(
    tmp_path: Path, role: str, number: signal.Signals, loading: str
) -> None:
    """Its modules take a second to import, on a busy machine several."""
    module = f"tvarr.{role}.app" if loading == "app" else loading
    program = f"""
import signal, sys
class Signals:
    def find_spec(name, *_):
        if name == "{module}":
            signal.raise_signal({int(number)})
sys.meta_path.insert(0, Signals)
sys.argv = ["tvarr", "{role}", "--{"data" if role == "coordinator" else "work"}-dir", "{tmp_path}"]
from tvarr.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_signal_ends_other_commands_as_it_does() -> None:
    """The code 0 of `tvarr health` says that all is well."""
    program = f"""
import signal, sys
class Signals:
    def find_spec(name, *_):
        if name == "typer":
            signal.raise_signal({int(signal.SIGTERM)})
sys.meta_path.insert(0, Signals)
sys.argv = ["tvarr", "health"]
from tvarr.cli import main
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGTERM


def test_without_arguments_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in [*COMMANDS, "version"])


@pytest.mark.parametrize(("name", "config"), COMMANDS.items())
def test_help_shows_flag_variable_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, config: type
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    text = " ".join(out.split())
    for item in settings(config):
        assert f"{item.flag} {item.takes.metavar}".strip() in text
        variables = f"{item.variable} or {item.variable}_FILE" if item.secret else item.variable
        assert f"{item.help} [env: {variables}; default: {item.shown_default}]" in text


def test_the_list_of_commands_cuts_no_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = run(capsys, "--help")[1].partition("Commands:")[2]
    assert "ffmpegd" in commands
    assert "..." not in commands


def test_the_alias_is_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(capsys, "ffmpegd", "--help")[1]
    assert run(capsys, "--help", alias=True)[1] == whole.replace("tvarr ffmpegd", "tvarr-ffmpegd")


@pytest.mark.parametrize(
    ("config", "options"), [(CoordinatorConfig, CoordinatorOptions), (FfmpegdConfig, FfmpegdOptions)]
)
def test_a_role_gets_every_setting_under_the_same_name(config: type, options: type) -> None:
    def types(kind: type) -> dict[str, str]:
        return {item.name: str(item.type).removeprefix("Annotated[").split(", Setting(")[0] for item in fields(kind)}

    log = {"log_level", "log_format"}  # the command line's own business
    assert set(types(config)) - log == set(types(options)) - log
