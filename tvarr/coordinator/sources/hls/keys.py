"""AES-128 as HLS uses it (8216bis, 4.4.4.4 and 5.2): CBC over a whole segment, padded by PKCS#7."""

from __future__ import annotations

from collections import OrderedDict

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tvarr.coordinator.source import SourceFailure
from tvarr.coordinator.sources.hls.fetch import Fetcher
from tvarr.coordinator.sources.hls.playlist import Key

KEY_BYTES = BLOCK_BYTES = 16
MAX_KEYS = 16  # kept; the least recently used one goes first
_MAX_ANSWER_BYTES = 64 * 1024  # larger answers to the request for a key are not even read


class Keys:
    """Fetches keys, each once, and opens what is encrypted with them."""

    def __init__(self, fetcher: Fetcher, within_s: float) -> None:
        self._fetcher = fetcher
        self._within_s = within_s
        self._known: OrderedDict[str, bytes] = OrderedDict()  # by URL

    async def open(self, data: bytes, key: Key | None, sequence: int) -> bytes:
        """What `data` says, encrypted or not. `sequence`: of the segment. Raises `SourceFailure` in words."""
        if key is None:
            return data
        if not key.readable:
            method, key_format = (
                text if text.isprintable() else "?" for text in (key.method[:20], key.key_format[:60])
            )
            scheme = f"{method} ({key_format})" if key_format else method
            raise SourceFailure(f"the source is encrypted with {scheme}, which can't be read")
        if len(data) % BLOCK_BYTES:
            raise SourceFailure("a segment of the source is cut off")
        secret = await self._key(key.url)
        iv = key.iv if key.iv is not None else (sequence % (1 << 128)).to_bytes(BLOCK_BYTES, "big")
        decryptor = Cipher(algorithms.AES128(secret), modes.CBC(iv)).decryptor()
        return _without_padding(decryptor.update(data) + decryptor.finalize())

    async def _key(self, url: str) -> bytes:
        known = self._known.get(url)
        if known is None:
            fetched = await self._fetcher.get(url, "key", cap_bytes=_MAX_ANSWER_BYTES, within_s=self._within_s)
            known = fetched.data
            if len(known) != KEY_BYTES:
                raise SourceFailure(f"the source's key has {len(known)} bytes and not {KEY_BYTES}")
            self._known[url] = known
            if len(self._known) > MAX_KEYS:
                self._known.popitem(last=False)
        self._known.move_to_end(url)
        return known


def _without_padding(data: bytes) -> bytes:
    """Without the padding where there is one: some packagers leave it out, as whole TS packets may need none."""
    count = data[-1] if data else 0
    padded = 1 <= count <= BLOCK_BYTES and data.endswith(bytes([count]) * count)
    return data[:-count] if padded else data
