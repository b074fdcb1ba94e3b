"""The command `tvarr`: argv to a frozen configuration to a role.

A command is its configuration class (`tvarr.config`) and a function that runs it; the flags come from the class. What
a command needs is imported when it runs: `--help` is quick, and a coordinator's image needs no ffmpeg parts.
"""

from __future__ import annotations

from tvarr import early  # isort: skip - signals end a role from here on
import gc
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from tvarr import __version__
from tvarr.config import (
    CoordinatorConfig,
    FfmpegdConfig,
    HealthConfig,
    ProbeConfig,
    Setting,
    StatusConfig,
    load,
    secret_now,
    secrets,
    settings,
)
from tvarr.errors import ConfigError, StartError, StoreError

Config = TypeVar("Config")
Options = TypeVar("Options")


def _options(kind: type[Options], config: object) -> Options:
    """A role's options from the configuration: the same names, without those that only the command line needs."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})  # type: ignore[arg-type]


def _begin_to_load() -> None:
    """Until `background.run`: signals end it, and nobody looks for garbage among what is made to stay."""
    early.end_on_signals()
    gc.disable()


def _coordinator(config: CoordinatorConfig) -> int:
    _begin_to_load()
    from tvarr import background, grpc_core

    grpc_core.set_up()
    background.setup_logging(config.log_level, config.log_format, secrets(config))
    from tvarr.coordinator import app

    options = _options(app.CoordinatorOptions, config)
    return background.run(lambda: app.run(options))


def _ffmpegd(config: FfmpegdConfig) -> int:
    _begin_to_load()
    from tvarr import background, grpc_core

    grpc_core.set_up()
    background.setup_logging(config.log_level, config.log_format, secrets(config))
    from tvarr.ffmpegd import app

    options = _options(app.FfmpegdOptions, config)
    token_now = secret_now(config, "auth_token")
    return background.run(lambda: app.run(options, token_now=token_now))


def _probe(config: ProbeConfig) -> int:
    from tvarr import probe

    return probe.run(json_output=config.json, verify=not config.no_verify, ffmpeg=config.ffmpeg)


def _status(config: StatusConfig) -> int:
    from tvarr import status

    return status.run(
        url=config.url,
        admin_password=config.admin_password,
        json_output=config.json,
        watch=config.watch,
        tls_ca=config.tls_ca,
    )


def _health(config: HealthConfig) -> int:
    from tvarr import health

    return health.run(
        role=config.role,
        roles_file=config.roles_file,
        host=config.host,
        http_port=config.http_port,
        metrics_listen=config.metrics_listen,
        tls_cert=config.tls_cert,
    )


def _command(config: type[Config], act: Callable[[Config], int]) -> Callable[..., int]:
    """A function that Typer can make a command of: one parameter for each setting, all of them optional text."""

    def command(**flags: object) -> int:
        return act(load(config, flags))

    command.__signature__ = inspect.Signature([_parameter(item) for item in settings(config)])  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: _parameter(item).annotation for item in settings(config)}
    return command


def _parameter(item: Setting) -> inspect.Parameter:
    variables = f"{item.variable} or {item.variable}_FILE" if item.secret else item.variable
    text = f"{item.help} [env: {variables}; default: {item.shown_default}]"
    if item.takes.metavar:
        option = typer.Option(item.flag, metavar=item.takes.metavar, help=text, show_default=False)
        annotation: Any = Annotated[str | None, option]
    else:
        annotation = Annotated[bool | None, typer.Option(item.flag, help=text, show_default=False)]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tvarr {__version__}")
        raise typer.Exit


def _typer(about: str | None = None) -> typer.Typer:
    return typer.Typer(help=about, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


app = _typer("A distributed live transcoder: one coordinator, any number of FFmpeg workers.")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


FFMPEGD_HELP = "Transcode what a coordinator, or with --listen anybody, sends."

app.command("coordinator", help="Relay channels to viewers and hand transcode jobs to daemons.")(
    _command(CoordinatorConfig, _coordinator)
)
app.command("ffmpegd", help=FFMPEGD_HELP, short_help="Transcode what others send.")(_command(FfmpegdConfig, _ffmpegd))
app.command("probe", help="Show what this machine can encode with.")(_command(ProbeConfig, _probe))
app.command("status", help="Show what a coordinator does now.")(_command(StatusConfig, _status))
app.command("health", help="Say by the exit code whether the roles here are ready.")(_command(HealthConfig, _health))


@app.command("version", help="Print the version.")
def _version() -> None:
    _show_version(True)


alias = _typer()
alias.command(help=FFMPEGD_HELP)(_command(FfmpegdConfig, _ffmpegd))


def run(command: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; what went wrong by the user's or machine's doing is one line."""
    try:
        return command(args=list(arguments), prog_name=name, standalone_mode=False) or 0
    except (ConfigError, StartError, StoreError) as error:
        line, code = str(error), 2 if isinstance(error, ConfigError) else 1
    except typer.TyperException as error:  # what was typed makes no command line
        line, code = error.format_message(), error.exit_code
    except typer.Abort:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `tvarr status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print(f"{name}: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201
    return code


def _print_anywhere() -> None:
    """What the terminal's encoding lacks (a name in Japanese in a Latin-1 locale) is shown as `?`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def main() -> None:
    _print_anywhere()
    sys.exit(run(app, "tvarr", sys.argv[1:]))


def ffmpegd_main() -> None:
    sys.exit(run(alias, "tvarr-ffmpegd", sys.argv[1:]))
