"""Who is the administrator."""

from __future__ import annotations

import asyncio

import pytest

from tvarr.coordinator import auth
from tvarr.coordinator.auth import Auth, TooManyFailures, hash_password, make_password, verify_password
from tvarr.errors import ConfigError, StartError


class Memory:
    """Settings that are kept nowhere."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def setting(self, key: str) -> str | None:
        return self.values.get(key)

    async def set_setting(self, key: str, value: str) -> None:
        self.values[key] = value


def test_a_made_password_is_long_and_can_be_read() -> None:
    made = {make_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(password) == 23 and not set(password) & set("0O1lI ") for password in made)


def test_a_hash_says_nothing_and_knows_its_password() -> None:
    stored = hash_password("correct horse")
    assert "correct" not in stored
    assert stored != hash_password("correct horse")
    assert verify_password("correct horse", stored)
    assert not verify_password("correct hors", stored)


async def test_the_first_start_makes_a_password_and_the_second_keeps_it() -> None:
    settings = Memory()
    first = await Auth.open(settings)
    assert len(first.first_password) == 23
    assert first.first_password not in str(settings.values)
    second = await Auth.open(settings)
    assert second.first_password == ""
    assert await second.password_is(first.first_password, "a")
    assert not await second.password_is("other", "a")


async def test_a_given_password_replaces_the_stored_one() -> None:
    settings = Memory()
    old = (await Auth.open(settings)).first_password
    changed = await Auth.open(settings, password="swordfish")
    assert await changed.password_is("swordfish", "a")
    assert not await changed.password_is(old, "a")
    again = await Auth.open(settings)
    assert await again.password_is("swordfish", "a")
    kept = dict(settings.values)
    await Auth.open(settings, password="swordfish")
    assert settings.values == kept  # a start writes nothing that is there: the disk may be full


@pytest.mark.parametrize("stored", ["rubbish", "scrypt$16384$8$1$x$y", "scrypt$1$8$1$AAAA$AAAA", "a$b$c$d$e$f"])
async def test_a_stored_hash_that_makes_no_sense_stops_the_start(stored: str) -> None:
    settings = Memory()
    settings.values[auth.PASSWORD_KEY] = stored
    with pytest.raises(StartError, match="--admin-password"):
        await Auth.open(settings)


async def test_the_right_password_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Memory()
    await Auth.open(settings, password="swordfish")
    known = await Auth.open(settings)
    assert await known.password_is("swordfish", "a")
    monkeypatch.setattr(auth.hashlib, "scrypt", lambda *_, **__: pytest.fail("hashed again"))
    assert await known.password_is("swordfish", "b")


async def test_guessing_gets_slower_and_others_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known = await Auth.open(Memory(), password="swordfish")
    clock = [1000.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: clock[0])
    for _ in range(auth.FREE_FAILURES):
        assert not await known.password_is("guess", "bad")
    waits = []
    for _ in range(4):
        with pytest.raises(TooManyFailures) as caught:
            await known.password_is("swordfish", "bad")
        waits.append(caught.value.retry_after_s)
        clock[0] += caught.value.retry_after_s
        assert not await known.password_is("guess", "bad")
    assert waits == [1, 2, 4, 8]
    assert await known.password_is("swordfish", "good")
    clock[0] += auth.MAX_WAIT_S
    assert await known.password_is("swordfish", "bad")


async def test_wrong_passwords_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or somebody who mistypes now and then would wait for a minute each time."""
    known = await Auth.open(Memory(), password="swordfish")
    clock = [1000.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: clock[0])
    for _ in range(3 * auth.FREE_FAILURES):
        assert not await known.password_is("guess", "a")
        clock[0] += auth.FORGOTTEN_AFTER_S
    for _ in range(auth.FREE_FAILURES):
        assert not await known.password_is("guess", "a")
    with pytest.raises(TooManyFailures):
        await known.password_is("swordfish", "a")


async def test_who_logs_in_after_wrong_passwords_begins_anew() -> None:
    settings = Memory()
    await Auth.open(settings, password="swordfish")
    known = await Auth.open(settings)
    for given in (*["guess"] * (auth.FREE_FAILURES - 1), "swordfish", *["guess"] * auth.FREE_FAILURES):
        assert await known.password_is(given, "a") is (given == "swordfish")
    with pytest.raises(TooManyFailures):
        await known.password_is("swordfish", "a")


async def test_guesses_at_the_same_time_count_too() -> None:
    known = await Auth.open(Memory(), password="swordfish")
    results = await asyncio.gather(*(known.password_is("guess", "bad") for _ in range(40)), return_exceptions=True)
    looked_at = [result for result in results if result is False]
    assert len(looked_at) < auth.FREE_FAILURES + auth.MAX_SCRYPT_AT_ONCE
    assert all(isinstance(result, TooManyFailures) for result in results if result is not False)


async def test_a_very_long_password_is_wrong() -> None:
    settings = Memory()
    await Auth.open(settings, password="x" * 1024)
    known = await Auth.open(settings)
    assert await known.password_is("x" * 1024, "a")
    assert not await known.password_is("x" * 1025, "a")
    with pytest.raises(ConfigError, match="--admin-password takes at most 1024"):
        await Auth.open(Memory(), password="x" * 1025)


async def test_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    known = await Auth.open(Memory(), password="swordfish")
    one, two = known.start_session(), known.start_session()
    assert known.session_is(one)
    assert not known.session_is("")
    assert not known.session_is(one + "x")
    known.end_session(one)
    assert not known.session_is(one)
    start = auth.time.monotonic()
    monkeypatch.setattr(auth.time, "monotonic", lambda: start + auth.SESSION_S + 1)
    assert not known.session_is(two)


async def test_the_number_of_sessions_is_bounded() -> None:
    known = await Auth.open(Memory(), password="swordfish")
    sessions = [known.start_session() for _ in range(auth.MAX_SESSIONS + 1)]
    assert not known.session_is(sessions[0])
    assert known.session_is(sessions[1])
    assert known.session_is(sessions[-1])
