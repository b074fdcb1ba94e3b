"""What a daemon says about itself: who it is, and what its host does now."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from uuid import NAMESPACE_OID, uuid4, uuid5

from tvarr import __version__
from tvarr.cluster.model import Capabilities, Family
from tvarr.hwaccel.model import HostStats
from tvarr.media.model import Kind
from tvarr.wire import convert, messages
from tvarr.wire.protocol import PROTOCOL_VERSION

log = logging.getLogger(__name__)

MACHINE_ID = Path("/etc/machine-id")  # machine-id(5): of the installation; containers often lack it
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): of the running kernel, so all containers see the same
IDENTITY_FILE = "identity"
MAX_IDENTITY_CHARACTERS = 100


def machine_id(*, boot: Path = BOOT_ID, installed: Path = MACHINE_ID) -> str:
    """A hash that is equal for all daemons that share this host's hardware, in whatever containers they run.

    The kernel's boot id says just that, and does not travel inside of images; the coordinator compares only what is
    connected at one time, so that it may change with a restart of the host.
    """
    known = _line_of(boot) or _line_of(installed) or socket.gethostname()
    return hashlib.sha256(f"tvarr machine {known}".encode()).hexdigest()[:32]


def daemon_id(name: str, folder: Path, *, installed: Path = MACHINE_ID) -> str:
    """A UUID that is the same at every start on this host with this name.

    Where the host has no machine id, one is made and kept in `folder`; where that can't be written either, the host's
    name has to do.
    """
    return str(uuid5(NAMESPACE_OID, f"tvarr ffmpegd {_line_of(installed) or _kept(folder)} {name}"))


def _kept(folder: Path) -> str:
    file = folder / IDENTITY_FILE
    if known := _line_of(file):
        return known
    made = uuid4().hex
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(made + "\n")
    except OSError as error:
        log.warning("can't keep this daemon's identity in %s: %s", file, error.strerror)
        return socket.gethostname()
    return made


def _line_of(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()[:MAX_IDENTITY_CHARACTERS]
    except OSError:
        return ""


def without_software(capabilities: Capabilities) -> Capabilities:
    """The same daemon, not to be asked for video in software: what `--max-cpu-jobs 0` means.

    On the wire a limit of 0 is one that is not known.
    """
    encoders = tuple(
        replace(encoder, usable=False, reason="forbidden by --max-cpu-jobs 0")
        if encoder.family is Family.SOFTWARE and encoder.codec.kind is Kind.VIDEO
        else encoder
        for encoder in capabilities.encoders
    )
    return replace(capabilities, encoders=encoders)


def register(
    *, daemon_id: str, instance_id: str, name: str, capabilities: Capabilities, jobs: Sequence[messages.ActiveJob]
) -> messages.Register:
    return messages.Register(
        protocol_version=PROTOCOL_VERSION,
        daemon_id=daemon_id,
        instance_id=instance_id,
        name=name,
        version=__version__,
        machine_id=machine_id(),
        capabilities=convert.capabilities_to_wire(capabilities),
        jobs=list(jobs),
    )


def heartbeat(stats: HostStats, jobs: Sequence[messages.ActiveJob], sequence: int) -> messages.Heartbeat:
    """The figures of `tvarr.hwaccel.model` have the names of the messages' fields."""
    system = asdict(stats.system)
    system["load_average"] = list(stats.system.load_average)
    return messages.Heartbeat(
        system=messages.SystemStats(**system),
        gpus=[messages.GpuStats(**asdict(gpu)) for gpu in stats.gpus],
        pools=[messages.PoolUsage(**asdict(pool)) for pool in stats.pools],
        jobs=list(jobs),
        sequence=sequence,
    )
