"""How long a pipe is left alone. Pure."""

from __future__ import annotations


class Nap:
    """How long to leave a pipe alone, so that about two thirds of what it holds flow in that time.

    Whoever looks at it after each of the other side's reads or writes is woken far too often; who looks too late makes
    the other side wait. What flowed in the last nap makes the next one shorter or longer.
    """

    __slots__ = ("_longest_s", "s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self.s = first_s
        self._longest_s = max(first_s, longest_s)

    def flowed(self, part: float) -> None:
        """In the nap that is over, so much of what the pipe holds was read or written: 1.0 is all of it."""
        if part > 0.75:
            self.s /= 2
        elif part < 0.5:
            self.s = min(2 * self.s, self._longest_s)
