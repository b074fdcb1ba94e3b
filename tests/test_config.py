"""Flags, then environment, then defaults; and one line for what can't be used."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.config import (
    COMMANDS,
    CoordinatorConfig,
    FfmpegdConfig,
    ProbeConfig,
    Setting,
    StatusConfig,
    load,
    secrets,
    settings,
)
from tvarr.errors import ConfigError

HOME = {"HOME": "/home/ada"}


def coordinator(flags: dict[str, object] | None = None, **environ: str) -> CoordinatorConfig:
    return load(CoordinatorConfig, flags or {}, HOME | environ)


def ffmpegd(flags: dict[str, object] | None = None, **environ: str) -> FfmpegdConfig:
    return load(FfmpegdConfig, flags or {}, HOME | environ)


def test_coordinator_defaults_are_those_of_the_contract() -> None:
    assert coordinator() == CoordinatorConfig(
        host="0.0.0.0",
        http_port=8080,
        grpc_port=9090,
        data_dir=Path("/home/ada/.local/share/tvarr"),
        auth_token="",
        public_host="",
        exhausted_policy="fallback",
        no_promotion=False,
        queue_timeout_s=30.0,
        heartbeat_interval_s=5.0,
        unhealthy_after_s=30.0,
        idle_linger_s=10.0,
        max_takeovers=5,
        retention_mb=64,
        retention_time_s=60.0,
        batch_time_s=0.5,
        max_relays=0,
        media_dir=None,
        tuner_count=4,
        no_tuner_discovery=False,
        stream_key="",
        admin_password="",
        no_http_auth=False,
        tls_cert=None,
        tls_key=None,
        log_level="info",
        log_format="text",
    )


def test_ffmpegd_defaults_need_no_setting() -> None:
    config = ffmpegd()
    assert config.name
    assert replace(config, name="w") == FfmpegdConfig(
        coordinator_url="",
        auth_token="",
        name="w",
        max_jobs=None,
        max_cpu_jobs=None,
        gpu_max_sessions=None,
        listen=None,
        metrics_listen=None,
        tls_ca=None,
        tls_cert=None,
        tls_key=None,
        ffmpeg="",
        work_dir=Path("/home/ada/.local/state/tvarr"),
        log_level="info",
        log_format="text",
    )


def test_flag_beats_environment_beats_default() -> None:
    assert coordinator({"http_port": "1"}, TVARR_HTTP_PORT="2").http_port == 1
    assert coordinator({"http_port": None}, TVARR_HTTP_PORT="2").http_port == 2
    assert coordinator(TVARR_HTTP_PORT="").http_port == 8080  # as compose files leave it
    assert coordinator(XDG_DATA_HOME="/data").data_dir == Path("/data/tvarr")
    assert coordinator(XDG_DATA_HOME="not/absolute").data_dir == Path("/home/ada/.local/share/tvarr")


def nowhere() -> NoReturn:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_home_and_a_host_without_a_folder_to_write_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert load(FfmpegdConfig, {}, {}).work_dir == tmp_path / f"tvarr-{os.getuid()}"

    def full(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", full)
    monkeypatch.setattr(Path, "mkdir", full)
    assert load(FfmpegdConfig, {}, {}).work_dir == Path(f"/tmp/tvarr-{os.getuid()}")


def test_a_user_without_a_home_gets_a_folder_that_nobody_else_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        folder = load(CoordinatorConfig, {}, {}).data_dir
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o755)  # as others could once read it


@pytest.mark.parametrize("how", ["a link", "a file", "written by others", "another user's"])
def test_nor_one_that_somebody_else_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Who can write in it would know the token and the passwords."""
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"tvarr-{os.getuid()}"
    match how:
        case "a link":
            folder.symlink_to(tmp_path)
        case "a file":
            folder.touch()
        case "written by others":
            folder.mkdir()
            folder.chmod(0o770)
        case _:
            other = os.getuid() + 1
            (tmp_path / f"tvarr-{other}").mkdir(0o700)
            monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/tvarr-\d+ is .*: give --data-dir or HOME"):
        load(CoordinatorConfig, {}, {})
    assert load(CoordinatorConfig, {"data_dir": str(tmp_path)}, {}).data_dir == tmp_path


def test_names_of_fields_flags_and_variables() -> None:
    named = {item.name: (item.flag, item.variable) for item in settings(CoordinatorConfig)}
    assert named["queue_timeout_s"] == ("--queue-timeout", "TVARR_QUEUE_TIMEOUT")
    assert named["retention_mb"] == ("--retention-mb", "TVARR_RETENTION_MB")
    assert named["no_http_auth"] == ("--no-http-auth", "TVARR_NO_HTTP_AUTH")


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_a_switch_from_the_environment(word: str) -> None:
    assert coordinator(TVARR_NO_HTTP_AUTH=word).no_http_auth is True
    assert load(ProbeConfig, {}, {"TVARR_NO_VERIFY": word}).no_verify is True


def test_a_switch_can_be_off() -> None:
    assert coordinator(TVARR_NO_HTTP_AUTH="false").no_http_auth is False
    assert coordinator({"no_http_auth": True}, TVARR_NO_HTTP_AUTH="false").no_http_auth is True


@pytest.mark.parametrize(
    ("text", "address", "token"),
    [
        ("host", "host:9090", ""),
        ("host:1234", "host:1234", ""),
        ("10.0.0.1:9090", "10.0.0.1:9090", ""),
        ("[::1]:9090", "[::1]:9090", ""),
        ("grpc://host:9090", "host:9090", ""),
        ("grpc://to.k-en_1@host:9090", "host:9090", "to.k-en_1"),
        ("grpc://a%40b%2Fc@host", "host:9090", "a@b/c"),
        ("grpc://a@b@host/", "host:9090", "a@b"),
    ],
)
def test_one_variable_joins_a_worker(text: str, address: str, token: str) -> None:
    config = ffmpegd(TVARR_COORDINATOR_URL=text)
    assert (config.coordinator_url, config.auth_token) == (address, token)


def test_a_token_of_its_own_beats_the_one_in_the_url() -> None:
    assert ffmpegd({"auth_token": "mine"}, TVARR_COORDINATOR_URL="grpc://url@host").auth_token == "mine"


@pytest.mark.parametrize(
    ("text", "value"),
    [("auto", None), ("3", 3), ("0", 0), ("GPU-1a-2b=3,GPU-3c=0", {"GPU-1a-2b": 3, "GPU-3c": 0})],
)
def test_gpu_max_sessions(text: str, value: object) -> None:
    assert ffmpegd(TVARR_GPU_MAX_SESSIONS=text).gpu_max_sessions == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("127.0.0.1:7000", ("127.0.0.1", 7000)), ("[::1]:0", ("::1", 0)), (":7000", ("0.0.0.0", 7000))],
)
def test_listen(text: str, value: object) -> None:
    assert ffmpegd(TVARR_LISTEN=text).listen == value


@pytest.mark.parametrize(("text", "host"), [("tv.example", "tv.example"), ("::1", "::1"), ("[::1]", "::1")])
def test_hosts(text: str, host: str) -> None:
    config = coordinator(TVARR_HOST=text, TVARR_PUBLIC_HOST=text)
    assert (config.host, config.public_host) == (host, host)


@pytest.mark.parametrize(
    ("config", "flag", "text"),
    [
        (CoordinatorConfig, "http_port", "http"),
        (CoordinatorConfig, "http_port", "65536"),
        (CoordinatorConfig, "http_port", "-1"),
        (CoordinatorConfig, "host", "http://x"),
        (CoordinatorConfig, "host", "[::1"),
        (CoordinatorConfig, "exhausted_policy", "wait"),
        (CoordinatorConfig, "queue_timeout_s", "nan"),
        (CoordinatorConfig, "queue_timeout_s", "inf"),
        (CoordinatorConfig, "queue_timeout_s", "-1"),
        (CoordinatorConfig, "heartbeat_interval_s", "0"),
        (CoordinatorConfig, "max_takeovers", "1.5"),
        (CoordinatorConfig, "retention_mb", "0"),
        (CoordinatorConfig, "media_dir", "/does/not/exist"),
        (CoordinatorConfig, "media_dir", "~nobody-of-that-name/x"),
        (CoordinatorConfig, "media_dir", ""),
        (CoordinatorConfig, "data_dir", ""),
        (CoordinatorConfig, "log_level", "INFORMATIVE"),
        (CoordinatorConfig, "log_format", "xml"),
        (FfmpegdConfig, "max_jobs", "0"),
        (FfmpegdConfig, "max_cpu_jobs", "many"),
        (FfmpegdConfig, "gpu_max_sessions", "GPU-1=x"),
        (FfmpegdConfig, "gpu_max_sessions", "=3"),
        (FfmpegdConfig, "listen", "7000x"),
        (FfmpegdConfig, "listen", "host:"),
        (FfmpegdConfig, "name", "a\nb"),
        (StatusConfig, "url", "127.0.0.1:8080"),
    ],
)
def test_a_bad_value_is_one_line_with_the_flag_and_what_it_takes(config: type, flag: str, text: str) -> None:
    setting = next(item for item in settings(config) if item.name == flag)
    with pytest.raises(ConfigError) as caught:
        load(config, {flag: text}, HOME)
    shown = text.replace("\n", "?")
    assert str(caught.value) == f"{setting.flag} takes {setting.takes.words}, not '{shown}'"
    if text:
        with pytest.raises(ConfigError) as caught:
            load(config, {}, HOME | {setting.variable: text})
        assert str(caught.value).endswith(f"not '{shown}' (from {setting.variable})")


@pytest.mark.parametrize("flag", ["media_dir", "tls_cert"])
def test_what_this_user_may_not_see_is_one_line(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/letsencrypt/live is open to root alone."""

    def denied(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", denied)
    setting = next(item for item in settings(CoordinatorConfig) if item.name == flag)
    words = (
        f"{setting.flag} takes {setting.takes.words}, and whether '/secret/x' is one can't be seen: Permission denied"
    )
    with pytest.raises(ConfigError) as caught:
        coordinator({flag: "/secret/x"})
    assert str(caught.value) == words


def test_a_name_longer_than_names_are() -> None:
    with pytest.raises(ConfigError, match=r"^--media-dir takes a folder that exists, not '/x+'$"):
        coordinator({"media_dir": "/" + "x" * 300})


@pytest.mark.parametrize(
    ("flag", "text"),
    [("coordinator_url", "grpc://s3cret@ho st"), ("auth_token", "s3cret and more"), ("auth_token", "")],
)
def test_a_bad_secret_is_not_shown(flag: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ffmpegd({flag: text})
    assert "takes" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"^--unhealthy-after takes more than --heartbeat-interval \(40 s\)$"):
        coordinator({"heartbeat_interval_s": "40"})
    with pytest.raises(ConfigError, match=r"^--grpc-port takes another port than --http-port \(8080\)$"):
        coordinator({"grpc_port": "8080"})
    assert coordinator({"grpc_port": "0", "http_port": "0"}).grpc_port == 0


class TestSecretsFromFiles:
    def test_read_without_the_line_end(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("from-a-file\n")
        assert coordinator(TVARR_AUTH_TOKEN_FILE=str(file)).auth_token == "from-a-file"
        assert coordinator({"auth_token": "flag"}, TVARR_AUTH_TOKEN_FILE="/missing").auth_token == "flag"

    def test_every_secret_has_one_and_nothing_else_has(self) -> None:
        secret = {(name, item.name) for name, config in COMMANDS.items() for item in settings(config) if item.secret}
        assert secret == {
            ("coordinator", "auth_token"),
            ("coordinator", "stream_key"),
            ("coordinator", "admin_password"),
            ("ffmpegd", "coordinator_url"),
            ("ffmpegd", "auth_token"),
            ("status", "admin_password"),
        }

    @pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * 5000])
    def test_unreadable(self, tmp_path: Path, content: bytes | None) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            coordinator(TVARR_AUTH_TOKEN_FILE=str(file))
        assert str(caught.value).startswith(
            f"--auth-token: the file of TVARR_AUTH_TOKEN_FILE can't be read: {file}: "
        ), str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_empty_file_is_no_token(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("\n")
        with pytest.raises(ConfigError, match=r"^--auth-token takes .* \(from TVARR_AUTH_TOKEN_FILE\)$"):
            coordinator(TVARR_AUTH_TOKEN_FILE=str(file))

    def test_value_and_file_together_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="both set"):
            coordinator(TVARR_AUTH_TOKEN="a", TVARR_AUTH_TOKEN_FILE="/b")


def test_secrets_of_a_configuration() -> None:
    assert set(secrets(coordinator(TVARR_AUTH_TOKEN="tok", TVARR_ADMIN_PASSWORD="pass word"))) == {"tok", "pass word"}
    assert secrets(ffmpegd(TVARR_COORDINATOR_URL="grpc://tok@host")) == ("tok",)


@given(st.sampled_from([(c, s) for c in COMMANDS.values() for s in settings(c)]), st.text(max_size=30))
def test_any_text_is_taken_or_refused_in_one_line(where: tuple[type, Setting], text: str) -> None:
    config, setting = where
    line = ""
    try:
        load(config, {setting.name: text}, HOME)
    except ConfigError as error:
        line = str(error)
    assert line.isprintable()
    assert not line or " takes " in line
