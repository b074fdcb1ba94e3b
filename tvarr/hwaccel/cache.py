"""Encoders that passed their trial, remembered between starts in one JSON file.

Only successes are remembered. A failure may be healed by a package, a group or a container's flag that no key shows, so
it is tried again at each start; most failures take a tenth of a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from tvarr.cluster.model import Encoder
from tvarr.ffmpeg.locate import FfmpegBinary
from tvarr.hwaccel.inventory import Inventory

log = logging.getLogger(__name__)

FILE_NAME = "encoders.json"
MAX_FILE_BYTES = 1024 * 1024
_FORMAT = 2  # grows when the trials change

Passed = dict[tuple[str, str], tuple[str, ...]]
"""(encoder, device) -> the options that its trial found it needs."""


def key_of(binary: FfmpegBinary, inventory: Inventory) -> str:
    """A hash of all that a success depends on: the binary, the drivers (the kernel's too) and the devices."""
    try:
        status = os.stat(binary.path)
        file = [status.st_size, status.st_mtime_ns]
    except OSError:
        file = []
    devices = [[gpu.id, gpu.name, gpu.driver, gpu.node, inventory.problems.get(gpu.id, "")] for gpu in inventory.gpus]
    facts = [
        *(_FORMAT, binary.path, file, binary.version),
        *(platform.release(), inventory.nvidia_driver, devices, list(inventory.v4l2), inventory.mpp),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def load(folder: Path | None, key: str) -> Passed:
    """What passed under `key`; nothing where the file is missing, broken or of another key."""
    if folder is None:
        return {}
    try:
        with (folder / FILE_NAME).open("rb") as file:
            content = json.loads(file.read(MAX_FILE_BYTES))
        if content["key"] != key:
            return {}
        return {(str(name), str(device)): tuple(map(str, options)) for name, device, options in content["passed"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        log.warning("ignoring %s: %s", folder / FILE_NAME, error)
        return {}


def save(folder: Path | None, key: str, encoders: Iterable[Encoder]) -> None:
    """Remembers the verified ones of `encoders`. A folder that can't be written is logged and left."""
    if folder is None:
        return
    passed = [[e.name, e.device, list(e.options)] for e in encoders if e.verified and e.usable]
    path = folder / FILE_NAME
    young = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        young.write_text(json.dumps({"key": key, "passed": passed}))
        young.replace(path)
    except OSError as error:
        log.warning("can't write %s: %s", path, error)
