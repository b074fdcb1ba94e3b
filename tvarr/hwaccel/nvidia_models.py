"""What is known of NVIDIA's cards and drivers beforehand: who has an encoder, and how many sessions may run.

Pure tables and their look-ups. The session limit is one for the whole system: all GPUs that are not on NVIDIA's
qualified list share it, over all codecs, processes and containers (NVENC Application Note of Video Codec SDK 13.0,
section 3; measured in NVIDIA/nvidia-container-toolkit#180). It follows the driver, not the card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tvarr.media.model import Codec


class Licence(StrEnum):
    """How many encoder sessions NVIDIA's driver grants a card."""

    NONE = "none"  # the chip has no encoder
    RESTRICTED = "restricted"  # counts against the host's limit
    UNRESTRICTED = "unrestricted"  # on the qualified list: as many as the chip can carry


@dataclass(frozen=True, slots=True)
class GpuModel:
    """What a product name says. `engines` is 0 where there is no encoder or where their number is not known."""

    licence: Licence
    engines: int
    known: bool = True  # False: no row fits, and restricted is the careful guess


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    model: GpuModel


def _row(pattern: str, licence: Licence, engines: int, *, known: bool = True) -> _Row:
    return _Row(re.compile(pattern), GpuModel(licence, engines, known))


# First match wins. Source of the classes: NVIDIA's Video Encode and Decode GPU Support Matrix, as collected in the
# project's GPU facts, with word ends added: "Quadro P5000" is no P500 and "RTX A4000" no A400. The engines of L4 and
# A2 come from memory.
_MODELS = (
    _row(r"\b(A100|A800|A30X?|H100|H800|H20|H200|GH200|B[123]00|GB[23]00)\b", Licence.NONE, 0),
    _row(
        r"GT 1030|MX(110|130|150|230|250|350|450)\b|\b(830M|840M|9[23]0MX?|940M|945M)\b"
        r"|Quadro (K620M|M500M|M520|P500|P520)\b|\bT500\b",
        Licence.NONE,
        0,
    ),
    # With or without an encoder by the PCI id: a trial encode decides.
    _row(r"\b845M\b|\b940MX\b|GT 7[234]0M?\b|MX5\d0\b", Licence.RESTRICTED, 0),
    _row(r"Quadro P(400|600|620|1000)\b|\bT(400|600|1000)\b|RTX A400\b", Licence.RESTRICTED, 1),
    _row(r"RTX PRO 6000", Licence.UNRESTRICTED, 4),
    _row(r"\bL40S?\b", Licence.UNRESTRICTED, 3),
    _row(r"\bL4\b", Licence.UNRESTRICTED, 2),
    _row(
        r"^(?!.*GeForce).*(RTX PRO|Quadro|RTX A?\d{4}( Ada)?|Tesla|\b(T4|A2|A10G?|A16|A40|P4|P40|V100)\b)",
        Licence.UNRESTRICTED,
        1,
    ),
    _row(r"RTX 5090|TITAN V\b", Licence.RESTRICTED, 3),
    _row(r"RTX (5080|5070 Ti|4090|4080|4070 Ti)|GTX 10[78]0", Licence.RESTRICTED, 2),
    _row(r"GeForce|TITAN", Licence.RESTRICTED, 1),
    _row(r"", Licence.RESTRICTED, 1, known=False),
)


def classify_gpu(name: str) -> GpuModel:
    """Looks a product name up, as NVML tells it ("NVIDIA GeForce RTX 4090")."""
    bare = name.removeprefix("NVIDIA ")
    return next(row.model for row in _MODELS if row.pattern.search(bare))


@dataclass(frozen=True, slots=True)
class DriverLimit:
    """Sessions for all restricted cards of a host together, and where the number comes from."""

    sessions: int
    detail: str  # "driver 550.54.14: 8"
    certain: bool = True


# (first driver version, sessions), newest first. 590, 550 (from 550.54.14 on Linux) and 530: measured by users and told
# in NVIDIA's release notes of the SDK; 455 from memory. 580 is the last branch for Maxwell, Pascal and Volta: 8 there.
_DRIVERS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((590,), 12),
    ((550, 54, 14), 8),
    ((530,), 5),
    ((455,), 3),
    ((0,), 2),
)
_LOWEST = min(sessions for _, sessions in _DRIVERS)


def driver_limit(driver: str) -> DriverLimit:
    """The limit that a driver version ("550.54.14") sets; for one that can't be read the lowest, and it says so."""
    if not re.fullmatch(r"\d+(\.\d+)*", driver):
        shown = f"driver version {driver!r} can't be read" if driver else "driver version not known"
        return DriverLimit(_LOWEST, f"{shown}: {_LOWEST}, the lowest of all", certain=False)
    version = tuple(int(part) for part in driver.split("."))
    sessions = next(limit for first, limit in _DRIVERS if version >= first)
    return DriverLimit(sessions, f"driver {driver}: {sessions}")


# nvmlDeviceGetArchitecture (nvml.h).
ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
}

# The first architecture whose NVENC writes a codec; of Maxwell only the second generation writes HEVC, so there a
# trial decides.
_FIRST_ARCHITECTURE = {Codec.H264: 2, Codec.HEVC: 3, Codec.AV1: 8}


def lacks_codec(architecture: str, codec: Codec) -> str:
    """Why NVENC of `architecture` (a name of `ARCHITECTURES`) can't write `codec`; empty where it may."""
    number = next((number for number, name in ARCHITECTURES.items() if name == architecture), None)
    first = _FIRST_ARCHITECTURE.get(codec)
    if number is None or first is None or number >= first:
        return ""
    return f"{architecture} GPUs don't encode {codec.upper()}: that takes {ARCHITECTURES[first]} or newer"
