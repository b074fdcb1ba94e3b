"""What a source is and how it is named: examples, and that no secret gets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.source import SourceSpec, program_of, redact
from tvarr.errors import InvalidRequest


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("http://example.com/a.ts", "http://example.com/a.ts", id="nothing to hide"),
        pytest.param("http://me:pw@example.com/a.ts", "http://***@example.com/a.ts", id="user and password"),
        pytest.param("http://me:p@w@example.com/", "http://***@example.com/", id="an @ in the password"),
        pytest.param("http://h/a?token=abc&q=1", "http://h/a?token=***&q=1", id="token"),
        pytest.param("http://h/a?q=1&API_KEY=abc#x", "http://h/a?q=1&API_KEY=***#x", id="key, any case"),
        pytest.param("http://h/get?username=u&password=p", "http://h/get?username=***&password=***", id="panel"),
        pytest.param("http://h:80/live/u/p/1.ts", "http://h:80/live/***/***/1.ts", id="account in the path"),
        pytest.param("file:///media/a.ts", "file:///media/a.ts", id="file"),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    assert redact(url) == shown


_SECRET = st.text("abcXYZ019._~!$'()*,:@-", min_size=4).map(lambda text: "Q9" + text)


@given(secret=_SECRET, name=st.sampled_from(["token", "auth_key", "Password", "sig", "session"]), before=st.booleans())
def test_no_secret_gets_through(secret: str, name: str, before: bool) -> None:
    query = f"a=1&{name}={secret}" if before else f"{name}={secret}&a=1"
    shown = redact(f"https://user:{secret}@host:8443/path?{query}#program=2")
    assert secret not in shown
    assert shown.startswith("https://***@host:8443/path?")
    assert shown.endswith("#program=2")


@pytest.mark.parametrize(
    ("url", "program"),
    [
        ("http://h/a.ts", None),
        ("http://h/a.ts#program=28106", 28106),
        ("file:a.ts#x=1&program=7", 7),
        ("http://h/a.ts?program=3", None),
        ("http://h/a.ts#program=", None),
        ("http://h/a.ts#program=12x", None),
    ],
)
def test_program_of_the_fragment(url: str, program: int | None) -> None:
    assert program_of(url) == program


def test_what_a_channel_chooses_goes_before_what_its_url_says() -> None:
    url = "http://h/list.m3u8#program=3&max_height=720&max_kbps=3000"
    spec = SourceSpec.parse(url)
    assert (spec.program, spec.max_height, spec.max_kbps, spec.audio_languages) == (3, 720, 3000, ())
    spec = SourceSpec.parse(url, program=5, max_height=576, max_kbps=2000, audio_languages=["deu"])
    assert (spec.program, spec.max_height, spec.max_kbps, spec.audio_languages) == (5, 576, 2000, ("deu",))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gopher://h/a", "nothing here reads gopher: sources"),
        ("example.com/a.ts", "no scheme"),
        ("http:///a.ts", "names no host"),
        ("http://h:port/a.ts", "not a URL"),
        ("http://[::1/a.ts", "not a URL"),
        ("file:a.ts", "--media-dir"),
    ],
)
def test_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        SourceSpec.parse(url)


def test_an_unknown_pace_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="auto, realtime, fast"):
        SourceSpec.parse("http://h/", pace="slow")


@pytest.mark.parametrize(
    ("url", "pace", "loop", "effective"),
    [
        ("http://h/a", "auto", False, "live"),
        ("HTTPS://h/a", "auto", False, "live"),
        ("http://h/a", "auto", True, "realtime"),
        ("http://h/a", "realtime", False, "realtime"),
        ("http://h/a", "fast", True, "fast"),
        ("file:a", "auto", False, "realtime"),
        ("file:a", "fast", False, "fast"),
    ],
)
def test_pace(url: str, pace: str, loop: bool, effective: str) -> None:
    assert SourceSpec.parse(url, pace=pace, loop=loop, media_dir=Path("/media")).effective_pace == effective
