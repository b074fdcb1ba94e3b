"""`python -m tvarr`."""

from __future__ import annotations

from tvarr.cli import main

main()
