"""Bit by bit reading, as headers need it."""

from __future__ import annotations

from tvarr.errors import MediaError

MAX_HEADER_BYTES = 1024  # more is never needed to read a header; keeps the cost of hostile ones small


class BitReader:
    """Reads bits from the most significant one on; past the end it raises MediaError.

    Looks at the first MAX_HEADER_BYTES of `data` only.
    """

    __slots__ = ("_left", "_value")

    def __init__(self, data: bytes) -> None:
        head = data[:MAX_HEADER_BYTES]
        self._value = int.from_bytes(head, "big")
        self._left = 8 * len(head)

    @property
    def left(self) -> int:
        """How many bits have not been read."""
        return self._left

    def u(self, bits: int) -> int:
        """An unsigned number of `bits` bits."""
        self._left -= bits
        if self._left < 0:
            raise MediaError("a header that is cut off")
        return self._value >> self._left & (1 << bits) - 1

    def flag(self) -> bool:
        return bool(self.u(1))

    def skip(self, bits: int) -> None:
        self.u(bits)

    def ue(self) -> int:
        """An unsigned Exp-Golomb code of at most 32 bits (ITU-T H.264, 9.1)."""
        rest = self._value & (1 << self._left) - 1
        zeros = self._left - rest.bit_length()
        if zeros > 32:
            raise MediaError("an Exp-Golomb code of more than 32 bits")
        self.u(zeros)
        return self.u(zeros + 1) - 1

    def se(self) -> int:
        """A signed Exp-Golomb code (9.1.1)."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)
