"""The administrator's password, and the sessions of those who gave it.

The password is stored as a scrypt hash (RFC 7914) and compared in constant time. Sessions live in memory: a restart
asks everybody to log in again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from typing import Protocol

from tvarr.background import redact
from tvarr.errors import ConfigError, StartError

PASSWORD_KEY = "admin_password"  # noqa: S105 - a setting's name
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is mistaken for something else
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 14, 8, 1  # 16 MiB and about 50 ms a guess
MAX_SCRYPT_AT_ONCE = 2
MAX_PASSWORD_CHARS = 1024

SESSION_S = 7 * 24 * 3600.0
MAX_SESSIONS = 256  # overflow: the oldest is logged out

FREE_FAILURES = 5  # wrong passwords from one address before it has to wait
FIRST_WAIT_S = 1.0  # doubles with each further one,
MAX_WAIT_S = 60.0  # up to this
FORGOTTEN_AFTER_S = 3600.0  # since the last one, and its wait, an address begins anew
MAX_ADDRESSES = 4096  # with wrong passwords that are remembered; overflow: the one that was idle longest is forgotten


class Settings(Protocol):
    """Where the hash is kept."""

    async def setting(self, key: str) -> str | None: ...
    async def set_setting(self, key: str, value: str) -> None: ...


class TooManyFailures(Exception):
    """This address gave too many wrong passwords; `retry_after_s` says for how long none is looked at."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many wrong passwords, wait and try again")
        self.retry_after_s = math.ceil(retry_after_s)


def make_password() -> str:
    """20 random characters, 99 bits, in four groups that can be read aloud."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(5)) for _ in range(4))


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    return f"scrypt${SCRYPT_N}${SCRYPT_R}${SCRYPT_P}${_text(salt)}${_text(_scrypt(password, salt))}"


def verify_password(password: str, stored: str) -> bool:
    """Raises ValueError where `stored` was not made by `hash_password`."""
    salt, digest = _parts(stored)
    return hmac.compare_digest(_scrypt(password, salt), digest)


async def _is_stored(password: str, stored: str | None) -> bool:
    try:
        return stored is not None and await asyncio.to_thread(verify_password, password, stored)
    except ValueError:
        return False


def _parts(stored: str) -> tuple[bytes, bytes]:
    """Salt and digest."""
    name, n, r, p, salt, digest = stored.split("$")
    if (name, int(n), int(r), int(p)) != ("scrypt", SCRYPT_N, SCRYPT_R, SCRYPT_P):
        raise ValueError("not a hash of this program")
    return base64.b64decode(salt), base64.b64decode(digest)


def _scrypt(password: str, salt: bytes) -> bytes:
    content = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(content, salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=64 << 20, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Auth:
    """Knows the administrator by password or by session.

    `first_password` is the password that was made on the first start, to be shown once; else it is empty.
    """

    def __init__(self, stored: str, *, disabled: bool = False, first_password: str = "") -> None:
        self.disabled = disabled
        self.first_password = first_password
        self._stored = stored
        self._key = secrets.token_bytes(32)
        self._verified = b""  # HMAC of the password once it was verified: scrypt is not run for each request
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # digest -> expiry
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> count, no look before
        self._scrypt_turn = asyncio.Semaphore(MAX_SCRYPT_AT_ONCE)

    @classmethod
    async def open(cls, settings: Settings, *, password: str = "", disabled: bool = False) -> Auth:
        """`password` replaces the stored one; without either, one is made. Raises `StartError`."""
        if len(password) > MAX_PASSWORD_CHARS:
            raise ConfigError(f"--admin-password takes at most {MAX_PASSWORD_CHARS} characters")
        if disabled:
            return cls("", disabled=True)
        stored = await settings.setting(PASSWORD_KEY)
        first = "" if password or stored else make_password()
        if first or (password and not await _is_stored(password, stored)):
            stored = await asyncio.to_thread(hash_password, password or first)
            await settings.set_setting(PASSWORD_KEY, stored)
        try:
            _parts(stored or "")
        except ValueError as error:
            raise StartError(f"the stored admin password can't be used ({error}); give --admin-password") from None
        redact.add(*(secret for secret in (password, first) if secret))
        known = cls(stored or "", first_password=first)
        if password or first:
            known._verified = known._mac(password or first)
        return known

    async def password_is(self, given: str, address: str) -> bool:
        """Whether this is the administrator's password; a wrong one counts against the address.

        Raises `TooManyFailures`, also for the right one: else the wait would tell nothing about a guess.
        """
        self._check_wait(address)
        mac = self._mac(given[: MAX_PASSWORD_CHARS + 1])
        if hmac.compare_digest(mac, self._verified):
            return True
        async with self._scrypt_turn:
            self._check_wait(address)  # others may have failed while this one waited for its turn
            if len(given) <= MAX_PASSWORD_CHARS and await asyncio.to_thread(verify_password, given, self._stored):
                self._verified = mac
                self._failures.pop(address, None)
                return True
            self._count_failure(address)
            return False

    def _check_wait(self, address: str) -> None:
        wait_s = self._failures.get(address, (0, 0.0))[1] - time.monotonic()
        if wait_s > 0:
            raise TooManyFailures(wait_s)

    def _count_failure(self, address: str) -> None:
        count, until = self._failures.pop(address, (0, 0.0))
        count = count + 1 if time.monotonic() - until < FORGOTTEN_AFTER_S else 1
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(count - FREE_FAILURES, 30), MAX_WAIT_S) if count >= FREE_FAILURES else 0
        self._failures[address] = (count, time.monotonic() + wait_s)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def start_session(self) -> str:
        """A cookie's value for somebody who gave the password."""
        value = secrets.token_urlsafe(32)
        self._sessions[self._mac(value)] = time.monotonic() + SESSION_S
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return value

    def session_is(self, value: str) -> bool:
        digest = self._mac(value)
        expiry = self._sessions.get(digest)
        if expiry is None:
            return False
        if time.monotonic() >= expiry:
            del self._sessions[digest]
            return False
        return True

    def end_session(self, value: str) -> None:
        self._sessions.pop(self._mac(value), None)

    def _mac(self, value: str) -> bytes:
        """What values are compared and looked up by, so that the time it takes tells nothing about them."""
        return hmac.digest(self._key, value.encode("utf-8", "surrogatepass"), "sha256")
